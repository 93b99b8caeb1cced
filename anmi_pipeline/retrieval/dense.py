"""Exact nearest-neighbour search over document vectors.

Belongs here: the dense run. Does not: making vectors (`encoding`) and approximate indexes (`ann`).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from anmi_pipeline.errors import InputError
from anmi_pipeline.progress import Progress, silent
from anmi_pipeline.retrieval.runs import Floats, Groups, Positions, best_positions, collect_run

Vectors = npt.NDArray[np.float32]

QUERIES_AT_ONCE = 64
SLACK = 32
"""Documents fetched beyond the depth, so that rounding in faiss cannot decide who is last."""


def search(
    doc_vectors: Vectors,
    doc_ids: Sequence[str],
    query_vectors: Vectors,
    query_ids: Sequence[str],
    depth: int,
    groups: Groups | None = None,
    progress: Progress = silent,
) -> pl.DataFrame:
    """Rank documents by inner product with each query, exactly.

    faiss finds the candidates; their scores are computed again in float64, one pair at a time, because faiss rounds differently
    with the number of queries it is given. So a query's run does not depend on the other queries, and equal vectors tie exactly.

    Args:
        doc_vectors: (n_docs, d) float32.
        doc_ids: (n_docs,) ids.
        query_vectors: (n_queries, d) float32.
        query_ids: (n_queries,) ids.
        depth: documents per query.
        groups: confine each query to its own group.
        progress: told after every batch of queries.

    Returns:
        RUN frame; ties by document id.

    Raises:
        InputError: ids and vectors do not match in number, or the two kinds of vectors in dimension.
    """
    check_vectors(doc_vectors, doc_ids, "document")
    check_vectors(query_vectors, query_ids, "query")
    if not len(doc_ids) or not len(query_ids):
        return collect_run({})
    if doc_vectors.shape[1] != query_vectors.shape[1]:
        raise InputError(
            f"document vectors have {doc_vectors.shape[1]} dimensions and query vectors {query_vectors.shape[1]}. "
            "Encode both with one encoder."
        )
    order = sorted(range(len(doc_ids)), key=doc_ids.__getitem__)
    vectors, ids = np.ascontiguousarray(doc_vectors[order], dtype=np.float32), [doc_ids[position] for position in order]
    if groups is None:
        found = _search_all(vectors, query_vectors, depth, progress)
    else:
        members = groups.members(ids)
        found = [
            best_of(vectors, query_vectors[row], members[groups.queries[query_id]], depth)
            for row, query_id in enumerate(query_ids)
        ]
    return collect_run(
        {
            query_id: ([ids[position] for position in positions], scores)
            for query_id, (positions, scores) in zip(query_ids, found, strict=True)
        }
    )


def _search_all(vectors: Vectors, query_vectors: Vectors, depth: int, progress: Progress) -> list[tuple[Positions, Floats]]:
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    fetched = min(depth + SLACK, len(vectors))
    found: list[tuple[Positions, Floats]] = []
    for start in range(0, len(query_vectors), QUERIES_AT_ONCE):
        batch = np.ascontiguousarray(query_vectors[start : start + QUERIES_AT_ONCE], dtype=np.float32)
        _, candidates = index.search(batch, fetched)
        for query, row in zip(batch, candidates, strict=True):
            found.append(_settle(vectors, query, np.sort(row).astype(np.int64), depth))
        progress(len(found), len(query_vectors), "queries")
    return found


def _settle(vectors: Vectors, query: Vectors, candidates: Positions, depth: int) -> tuple[Positions, Floats]:
    """Rescore faiss's candidates; look at every document when ties may reach beyond them."""
    positions, scores = best_of(vectors, query, candidates, len(candidates))
    unsettled = len(candidates) > depth and scores[-1] >= scores[depth - 1] - 1e-6
    if unsettled and len(candidates) < len(vectors):
        return best_of(vectors, query, np.arange(len(vectors)), depth)
    return positions[:depth], scores[:depth]


def best_of(vectors: Vectors, query: Vectors, candidates: Positions, depth: int) -> tuple[Positions, Floats]:
    """The `depth` best of some documents for one query: positions best first, and float64 inner products.

    Args:
        vectors: (n_docs, d), documents in id order.
        query: (d,).
        candidates: ascending positions.
        depth: how many to keep.
    """
    # einsum without optimisation adds up each pair on its own, unlike a matrix product, whose blocks depend on its shape.
    scores = np.einsum("nd,d->n", vectors[candidates].astype(np.float64), query.astype(np.float64), optimize=False)
    best = best_positions(scores, depth)
    return candidates[best], scores[best]


def check_vectors(vectors: Vectors, ids: Sequence[str], what: str) -> None:
    """Refuse vectors that are not one row per id.

    Raises:
        InputError: says the shape and the number of ids.
    """
    if vectors.ndim != 2 or len(vectors) != len(ids):
        raise InputError(f"{what} vectors have shape {vectors.shape} for {len(ids)} {what} ids; there must be one row per id.")
