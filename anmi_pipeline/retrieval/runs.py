"""Ranked lists: how rows are ranked, restricted to groups, and read from recorded run files.

Belongs here: what every retriever shares. Does not: scoring (one module per retriever) and TREC parsing (`collections.trec`).

Ties are always broken by document id, ascending, so that equal inputs give equal runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from anmi_pipeline.collections.trec import read_trec_run
from anmi_pipeline.errors import InputError
from anmi_pipeline.retrieval.config import RecordedRunConfig, Scope
from anmi_pipeline.tables import RUN

Positions = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class ConfiguredRun:
    """The run of a retriever that a dataset may or may not have.

    Attributes:
        run: RUN frame; empty when the retriever is not configured.
        reason: why it is empty; "" when it is not.
    """

    run: pl.DataFrame
    reason: str


@dataclass(frozen=True)
class Groups:
    """Which documents a query may find when each query is confined to its own group.

    Attributes:
        documents: document id -> group.
        queries: query id -> group.
    """

    documents: Mapping[str, str | None]
    queries: Mapping[str, str]

    def members(self, doc_ids: Sequence[str]) -> dict[str, Positions]:
        """Group -> ascending positions of its documents in `doc_ids`; a document without a group is in none."""
        found: dict[str, list[int]] = {}
        for position, doc_id in enumerate(doc_ids):
            group = self.documents.get(doc_id)
            if group is not None:
                found.setdefault(group, []).append(position)
        return {group: np.array(positions, dtype=np.int64) for group, positions in found.items()}


def read_groups(corpus: pl.DataFrame, queries: pl.DataFrame, scope: Scope) -> Groups | None:
    """Groups of a collection whose queries are confined to them; None when every document is a candidate.

    Raises:
        InputError: scope "group" and a query without a group, or with a group that no document has.
    """
    if scope == "corpus":
        return None
    documents = dict(zip(corpus["doc_id"].to_list(), corpus["group_id"].to_list(), strict=True))
    known = {group for group in documents.values() if group is not None}
    of_query: dict[str, str] = {}
    for query_id, group in queries.select("query_id", "group_id").iter_rows():
        if group is None or group not in known:
            raise InputError(
                f'query {query_id} has group_id "{group}", which is the group of no document, but the dataset says scope: group. '
                "Give the query the group_id of its documents, or set scope: corpus."
            )
        of_query[query_id] = group
    return Groups(documents, of_query)


def best_positions(scores: Floats, depth: int) -> Positions:
    """Positions of the `depth` largest scores, best first, ties by position, which callers keep in document id order."""
    if len(scores) > depth:
        threshold = np.partition(scores, len(scores) - depth)[len(scores) - depth]
        # Everything tied with the last place stays in until the sort has broken the tie.
        kept = np.flatnonzero(scores >= threshold)
    else:
        kept = np.arange(len(scores))
    return kept[np.argsort(-scores[kept], kind="stable")][:depth]


def rank_rows(scored: pl.DataFrame, depth: int) -> pl.DataFrame:
    """Rank rows (query_id, doc_id, score) within each query and keep the best `depth`.

    Returns:
        RUN frame.
    """
    ranked = scored.sort("query_id", "score", "doc_id", descending=[False, True, False]).with_columns(
        rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int64).over("query_id")
    )
    return RUN.frame(ranked.filter(pl.col("rank") <= depth))


def collect_run(lists: Mapping[str, tuple[Sequence[str], Floats]]) -> pl.DataFrame:
    """Build a RUN frame from query id -> (document ids best first, their scores)."""
    if not lists:
        return RUN.frame()
    lengths = [len(doc_ids) for doc_ids, _ in lists.values()]
    return RUN.frame(
        pl.DataFrame(
            {
                "query_id": np.repeat(np.array(list(lists), dtype=object), lengths).tolist(),
                "doc_id": [doc_id for doc_ids, _ in lists.values() for doc_id in doc_ids],
                "rank": np.concatenate([np.arange(1, length + 1) for length in lengths]),
                "score": np.concatenate([np.asarray(scores, dtype=np.float64) for _, scores in lists.values()]),
            },
            schema=RUN.schema,
        )
    )


def recorded_run(
    path: str, queries: pl.DataFrame, corpus: pl.DataFrame, *, depth: int | None = None, data_root: Path | None = None
) -> pl.DataFrame:
    """Read a recorded TREC run and check that it belongs to this collection.

    Args:
        path: run file; a relative one starts from `data_root` when that is given.
        queries: QUERIES frame.
        corpus: CORPUS frame.
        depth: documents kept per query; None keeps all.
        data_root: folder that relative paths start from.

    Returns:
        RUN frame, ties in the file's own order.

    Raises:
        InputError: no such file, a line that cannot be read, or a query or document that the collection lacks.
    """
    file = Path(path).expanduser()
    file = file if file.is_absolute() or data_root is None else data_root / file
    if not file.is_file():
        raise InputError(f"recorded run {file} does not exist. Give the path of a TREC run file, relative to the data folder.")
    run = read_trec_run(file)
    check_known(run["query_id"], queries["query_id"], f"run {file}", "query")
    check_known(run["doc_id"], corpus["doc_id"], f"run {file}", "document")
    return run if depth is None else run.filter(pl.col("rank") <= depth)


def check_known(ids: pl.Series, known: pl.Series, where: str, what: str) -> None:
    """Refuse ids that the collection does not have.

    Raises:
        InputError: names the first five of them.
    """
    unknown = ids.unique().filter(~ids.unique().is_in(known.implode())).sort()
    if unknown.len():
        shown = ", ".join(unknown.head(5).to_list())
        raise InputError(
            f"{where} has {unknown.len()} {what} id(s) that the collection lacks: {shown}. "
            "Give the run of this collection, or drop those lines."
        )


def optional_run(
    retriever: str,
    config: RecordedRunConfig | None,
    queries: pl.DataFrame,
    corpus: pl.DataFrame,
    data_root: Path | None = None,
) -> ConfiguredRun:
    """Run of a retriever that a dataset may leave out: recorded, or empty with the reason.

    Raises:
        InputError: see `recorded_run`.
    """
    if config is None:
        return ConfiguredRun(RUN.frame(), f"no {retriever} retriever is configured for this dataset")
    return ConfiguredRun(recorded_run(config.recorded, queries, corpus, depth=config.depth, data_root=data_root), "")
