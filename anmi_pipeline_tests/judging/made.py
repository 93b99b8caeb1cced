"""A made-up judged dataset, equal in every process that makes it, and judges that count what they are asked."""

from collections.abc import AsyncIterator, Callable, Sequence

import numpy as np
import polars as pl

from anmi_pipeline.judging.judges import CallSettings, Judge, JudgeEvidence
from anmi_pipeline.tables import CORPUS, POOL, QRELS, QUERIES


def made_evidence(n_queries: int, n_documents: int) -> JudgeEvidence:
    """Queries with all documents in their pools, scores and grades drawn from a fixed generator."""
    rng = np.random.default_rng(5)
    documents = [f"d{i:03d}" for i in range(n_documents)]
    queries = [f"q{i:03d}" for i in range(n_queries)]
    size = n_queries * n_documents
    ranks = np.tile(np.arange(1, n_documents + 1), n_queries)
    pool = {
        "query_id": np.repeat(queries, n_documents),
        "doc_id": np.concatenate([rng.permutation(documents) for _ in queries]),
        "lexical_score": [
            None if missing else float(x) for x, missing in zip(rng.random(size), rng.random(size) < 0.3, strict=True)
        ],
        "dense_score": rng.random(size),
        "rrf_pool_rank": ranks,
        "rrf_pool_score": 1 / (60 + ranks),
    }
    table = POOL.frame(pool)
    qrels = table.select("query_id", "doc_id").with_columns(grade=pl.Series(rng.integers(0, 3, size))).filter(pl.col("grade") > 0)
    return JudgeEvidence(
        QUERIES.frame({
            "query_id": queries,
            "text": [f"how do I read file {i}" for i in range(n_queries)],
            "split": ["train"] * n_queries,
            "source_ids": [[documents[i % n_documents]] for i in range(n_queries)],
        }),
        CORPUS.frame({
            "doc_id": documents,
            "title": [f"io.read_file_{i}" if i % 2 else f"os.path{i}" for i in range(n_documents)],
            "text": [f"text number {i}" for i in range(n_documents)],
        }),
        table,
        QRELS.frame(qrels),
    )  # fmt: skip


class Watched:
    """Passes calls to another judge; small chunks; tells what it was asked before it answers."""

    def __init__(self, judge: Judge, told: Callable[[pl.DataFrame], object] | None = None, chunk: int = 50) -> None:
        self.judge = judge
        self.chunk = chunk
        self.asked: list[str] = []
        self.told = told

    @property
    def name(self) -> str:
        return self.judge.name

    @property
    def folds(self) -> bool:
        return self.judge.folds

    @property
    def learns(self) -> bool:
        return self.judge.learns

    def learn(self, judgments: pl.DataFrame) -> None:
        self.judge.learn(judgments)

    @property
    def late(self) -> bool:
        return self.judge.late

    def settings(self, judge_id: str) -> CallSettings:
        return self.judge.settings(judge_id)

    def keys(self, plan: pl.DataFrame, evidence: JudgeEvidence) -> list[str]:
        return self.judge.keys(plan, evidence)

    def read(self, rows: pl.DataFrame) -> pl.DataFrame:
        return self.judge.read(rows)

    async def open(self) -> None:
        await self.judge.open()

    def stop(self) -> None:
        self.judge.stop()

    async def close(self) -> None:
        await self.judge.close()

    def context(self, calls: pl.DataFrame) -> Sequence[bytes] | None:
        return self.judge.context(calls)

    async def answer(self, calls: pl.DataFrame) -> AsyncIterator[pl.DataFrame]:
        self.asked.extend(calls["call_key"].to_list())
        if self.told:
            self.told(calls)
        async for part in self.judge.answer(calls):
            yield part
