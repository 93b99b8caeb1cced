"""Small frames that the retrieval tests share."""

from collections.abc import Mapping, Sequence

import polars as pl
from hypothesis import strategies as st

from anmi_pipeline.tables import CORPUS, QUERIES, RUN

DOCUMENTS = {
    "d1": ("Aspirin", "reduces the risk of heart attacks"),
    "d2": ("Bread", "wheat flour, water and yeast"),
    "d3": ("", "yeast infections respond to drugs"),
    "d4": ("Aspirin", "reduces the risk of heart attacks"),
    "d5": ("Engines", "burn fuel"),
}


def corpus_frame(documents: Mapping[str, tuple[str, str]] = DOCUMENTS, groups: Mapping[str, str] | None = None) -> pl.DataFrame:
    rows = [
        {"doc_id": doc_id, "title": title, "text": text, "group_id": (groups or {}).get(doc_id)}
        for doc_id, (title, text) in documents.items()
    ]
    return CORPUS.frame(pl.DataFrame(rows, infer_schema_length=None))


def query_frame(texts: Mapping[str, str], groups: Mapping[str, str] | None = None) -> pl.DataFrame:
    rows = [
        {"query_id": query_id, "text": text, "split": "test", "group_id": (groups or {}).get(query_id)}
        for query_id, text in texts.items()
    ]
    return QUERIES.frame(pl.DataFrame(rows, infer_schema_length=None))


def run_frame(lists: Mapping[str, Sequence[tuple[str, float]]]) -> pl.DataFrame:
    rows = [
        {"query_id": query_id, "doc_id": doc_id, "rank": rank, "score": float(score)}
        for query_id, documents in lists.items()
        for rank, (doc_id, score) in enumerate(documents, start=1)
    ]
    return RUN.frame(pl.DataFrame(rows, schema=RUN.schema))


def listing(run: pl.DataFrame, query_id: str) -> list[str]:
    return run.filter(pl.col("query_id") == query_id).sort("rank")["doc_id"].to_list()


@st.composite
def runs(draw: st.DrawFn, queries: Sequence[str] = ("q1", "q2"), documents: int = 8) -> pl.DataFrame:
    """A RUN frame over few documents, with ties, and queries that may be absent."""
    lists = {}
    for query_id in queries:
        ids = draw(st.lists(st.sampled_from([f"d{n}" for n in range(documents)]), unique=True, max_size=documents))
        scores = draw(st.lists(st.integers(-3, 3), min_size=len(ids), max_size=len(ids)))
        lists[query_id] = sorted(zip(ids, scores, strict=True), key=lambda pair: (-pair[1], pair[0]))
    return run_frame(lists)
