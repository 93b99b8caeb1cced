"""Nearest-neighbour indexes over document vectors.

Belongs here: building, storing, searching and measuring a faiss index. Does not: exact runs for pools (`dense`).
"""

import json
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, isqrt
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl

from anmi_pipeline.errors import ArtifactError, InputError
from anmi_pipeline.retrieval.config import IndexConfig
from anmi_pipeline.retrieval.dense import best_of, check_vectors
from anmi_pipeline.retrieval.runs import Floats, collect_run

if TYPE_CHECKING:
    import faiss

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class AnnIndex:
    """A built index.

    Attributes:
        faiss_index: the index; position i is document `doc_ids[i]`.
        doc_ids: document ids, ascending.
        config: settings it was built with.
    """

    faiss_index: "faiss.Index"
    doc_ids: list[str]
    config: IndexConfig


@dataclass(frozen=True)
class Latency:
    """Time of one-query searches on one thread, in milliseconds."""

    p50_ms: float
    p95_ms: float
    queries_per_second: float


@contextmanager
def one_thread() -> Generator[None]:
    """Let faiss use one thread: a graph built by several depends on which of them is first."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def build_index(vectors: Vectors, doc_ids: Sequence[str], config: IndexConfig, seed: int = 0) -> AnnIndex:
    """Build an index by inner product; equal inputs give equal bytes.

    HNSW: Malkov & Yashunin 2020. Inverted file with product quantisation: Jegou, Douze & Schmid 2011.

    Args:
        vectors: (n_docs, d) float32.
        doc_ids: (n_docs,) ids.
        config: kind and its settings.
        seed: seed of the clustering (ivf); flat and hnsw draw nothing from it.

    Raises:
        InputError: no documents, ids and rows differ in number, or too few documents to train the kind.
    """
    check_vectors(vectors, doc_ids, "document")
    if not len(doc_ids):
        raise InputError("there is no document vector to index. Encode the corpus first.")
    order = sorted(range(len(doc_ids)), key=doc_ids.__getitem__)
    rows = np.ascontiguousarray(vectors[order], dtype=np.float32)
    with one_thread():
        index = _empty_index(len(rows), rows.shape[1], config, seed)
        if not index.is_trained:
            index.train(rows)
        index.add(rows)
    return AnnIndex(index, [doc_ids[position] for position in order], config)


def _empty_index(n_docs: int, dimension: int, config: IndexConfig, seed: int) -> "faiss.Index":
    import faiss

    if config.kind == "flat":
        return faiss.IndexFlatIP(dimension)
    if config.kind == "hnsw":
        graph = faiss.IndexHNSWFlat(dimension, config.m, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = config.ef_construction
        return graph
    cells = cell_count(n_docs, config)
    quantizer = faiss.IndexFlatIP(dimension)
    if config.kind == "ivf_flat":
        index = faiss.IndexIVFFlat(quantizer, dimension, cells, faiss.METRIC_INNER_PRODUCT)
    else:
        _check_quantiser(n_docs, dimension, config)
        index = faiss.IndexIVFPQ(quantizer, dimension, cells, config.segments, config.bits, faiss.METRIC_INNER_PRODUCT)
        index.pq.cp.seed = seed
        index.pq.cp.min_points_per_centroid = 1
    index.cp.seed = seed
    index.cp.min_points_per_centroid = 1
    return index


def cell_count(n_docs: int, config: IndexConfig) -> int:
    """Cells of an inverted file: as configured, else about sqrt(n), never more than one cell per document.

    Raises:
        InputError: more cells are configured than there are documents.
    """
    if config.nlist is None:
        return max(1, isqrt(n_docs))
    if config.nlist > n_docs:
        raise InputError(
            f"nlist is {config.nlist}, but there are {n_docs} documents. Set nlist to {n_docs} or less, or leave it null."
        )
    return config.nlist


def _check_quantiser(n_docs: int, dimension: int, config: IndexConfig) -> None:
    if dimension % config.segments:
        divisors = [part for part in range(1, dimension + 1) if dimension % part == 0]
        close = min(divisors, key=lambda part: abs(part - config.segments))
        raise InputError(f"segments is {config.segments}, which does not divide {dimension} dimensions. Set it to {close}.")
    if n_docs < 2**config.bits:
        raise InputError(
            f"ivf_pq with {config.bits} bits needs at least {2**config.bits} documents to train, and there are {n_docs}. "
            "Use kind: flat for so few."
        )


def search_index(index: AnnIndex, query_vectors: Vectors, query_ids: Sequence[str], depth: int) -> pl.DataFrame:
    """Search an index.

    Args:
        index: built index.
        query_vectors: (n_queries, d) float32.
        query_ids: (n_queries,) ids.
        depth: documents per query.

    Returns:
        RUN frame; scores are the index's own (approximate for ivf_pq), ties by document id.
    """
    check_vectors(query_vectors, query_ids, "query")
    scores, positions = nearest_positions(index, query_vectors, depth)
    lists: dict[str, tuple[Sequence[str], Floats]] = {}
    for query_id, row, found in zip(query_ids, scores, positions, strict=True):
        there = found >= 0
        kept, values = found[there], row[there]
        best = np.lexsort((kept, -values))
        lists[query_id] = ([index.doc_ids[position] for position in kept[best]], values[best])
    return collect_run(lists)


def nearest_positions(index: AnnIndex, query_vectors: Vectors, depth: int) -> tuple[Vectors, npt.NDArray[np.int64]]:
    """Scores and positions of the nearest documents, (n_queries, depth) each; position -1 where there are fewer."""
    queries = np.ascontiguousarray(query_vectors, dtype=np.float32)
    scores, positions = index.faiss_index.search(queries, min(depth, len(index.doc_ids)), params=_search_parameters(index, depth))
    return scores, positions


def _search_parameters(index: AnnIndex, depth: int) -> "faiss.SearchParameters | None":
    import faiss

    # These classes are in faiss, but not in its type stubs.
    made: faiss.SearchParameters | None = None
    if index.config.kind == "hnsw":
        made = faiss.SearchParametersHNSW(efSearch=max(index.config.ef_search, depth))  # pyright: ignore[reportAttributeAccessIssue]
    elif index.config.kind == "ivf_flat":
        made = faiss.SearchParametersIVF(nprobe=index.config.nprobe)  # pyright: ignore[reportCallIssue]
    elif index.config.kind == "ivf_pq":
        made = faiss.IVFPQSearchParameters(nprobe=index.config.nprobe)  # pyright: ignore[reportAttributeAccessIssue]
    return made


def save_index(index: AnnIndex, folder: Path) -> None:
    """Write an index into a folder; equal indexes give equal bytes."""
    import faiss

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.faiss").write_bytes(faiss.serialize_index(index.faiss_index).tobytes())
    content = {"config": index.config.model_dump(mode="json"), "doc_ids": index.doc_ids}
    (folder / "index.json").write_text(json.dumps(content, ensure_ascii=False, sort_keys=True), encoding="utf-8")


def load_index(folder: Path) -> AnnIndex:
    """Read an index that `save_index` wrote.

    Raises:
        ArtifactError: a file is absent, unreadable, or of another index.
    """
    import faiss

    try:
        content = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        index = faiss.deserialize_index(np.frombuffer((folder / "index.faiss").read_bytes(), dtype=np.uint8))
        config = IndexConfig.model_validate(content["config"])
        doc_ids = list(content["doc_ids"])
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ArtifactError(f"index in {folder} cannot be read: {error}. Build it again.") from error
    if index.ntotal != len(doc_ids):
        raise ArtifactError(f"index in {folder} holds {index.ntotal} vectors for {len(doc_ids)} document ids. Build it again.")
    return AnnIndex(index, doc_ids, config)


def recall_against_exact(index: AnnIndex, vectors: Vectors, doc_ids: Sequence[str], query_vectors: Vectors, k: int = 10) -> float:
    """Share of the exact top k that the index finds, mean over queries.

    A found document counts when its exact score reaches the k-th best exact score (less 1e-6), so ties cost nothing.

    Args:
        index: built index.
        vectors: (n_docs, d) the vectors it was built from.
        doc_ids: (n_docs,) their ids.
        query_vectors: (n_queries, d).
        k: depth.
    """
    row_of = {doc_id: row for row, doc_id in enumerate(doc_ids)}
    everything = np.arange(len(vectors))
    cut = min(k, len(vectors))
    _, found = nearest_positions(index, query_vectors, cut)
    shares: list[float] = []
    for query, positions in zip(query_vectors, found, strict=True):
        _, best = best_of(vectors, query, everything, cut)
        rows = np.array([row_of[index.doc_ids[position]] for position in positions if position >= 0], dtype=np.int64)
        exact = vectors[rows].astype(np.float64) @ query.astype(np.float64)
        shares.append(float(np.sum(exact >= best[-1] - 1e-6)) / cut)
    return float(np.mean(shares))


def measure_latency(index: AnnIndex, query_vectors: Vectors, k: int = 10, searches: int = 200) -> Latency:
    """Time one-query searches on one thread.

    Args:
        index: built index.
        query_vectors: (n_queries, d), taken in turn.
        k: documents asked for.
        searches: how many searches are timed, after a tenth as many to warm up.
    """
    times: list[float] = []
    warm_up = ceil(searches / 10)
    with one_thread():
        for number in range(warm_up + searches):
            row = number % len(query_vectors)
            started = time.perf_counter()
            nearest_positions(index, query_vectors[row : row + 1], k)
            times.append((time.perf_counter() - started) * 1000)
    timed = np.array(times[warm_up:])
    return Latency(float(np.quantile(timed, 0.5)), float(np.quantile(timed, 0.95)), float(1000 / timed.mean()))
