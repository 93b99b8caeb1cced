"""The ensemble judge: BM25, bi-encoder and name overlap as one soft probability; needs no API key.

Belongs here: how those scores become verdicts. Does not: the retrievers that made them.
"""

import re
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import cache

import numpy as np
import polars as pl

from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.evidence import judged_pool, pair_rows, scores_or_nan, within_query_z
from anmi_pipeline.judging.judge_configs import EnsembleJudge
from anmi_pipeline.judging.judges import CallSettings, JudgeEvidence
from anmi_pipeline.judging.local_judge import LocalJudge
from anmi_pipeline.judging.verdicts import verdicts

VERSION = 1
"""Part of every call key: raise it when equal evidence would give another answer."""

STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be but by can do does for from get how i if in into is it its my no not of on or should so such than "
        "that the their then there these they this to was were what when where which who why will with you your",
    )
)
HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
"""Where a name in mixed case goes on to its next word: read|Text, HTTP|Server."""
WORD = re.compile(r"[^\W_]+")


class Ensemble(LocalJudge):
    """Answers with P(first) = Phi((s_first - s_second) / scale), s a weighted sum of z-scores within the judged pool."""

    chunk = 20_000

    def __init__(self, settings: EnsembleJudge, evidence: JudgeEvidence, config: JudgingConfig) -> None:
        """Score every document of the judged pools once."""
        self._settings = settings
        self._documents = document_scores(settings, evidence, config)
        self._scores = self._documents["score"].to_numpy()
        self._known = self._documents["known"].to_numpy()

    @property
    def name(self) -> str:
        """Judge id."""
        return self._settings.name

    def settings(self, judge_id: str) -> CallSettings:
        """The weights and the scale; the scores of a pair are its context."""
        sampling = self._settings.model_dump(mode="json", exclude={"name", "kind", "weight"})
        return CallSettings(judge=judge_id, endpoint="local", model=f"ensemble-{VERSION}", sampling=sampling)

    def context(self, calls: pl.DataFrame) -> Sequence[bytes]:
        """Both scores and whether the known source is in the pair: two float64 and a byte."""
        first, second = pair_rows(calls, self._documents)
        known = self._known[first] | self._known[second]
        return [
            a.tobytes() + b.tobytes() + (b"\1" if source else b"\0")
            for a, b, source in zip(self._scores[first], self._scores[second], known.tolist(), strict=True)
        ]

    async def answer(self, calls: pl.DataFrame) -> AsyncGenerator[pl.DataFrame]:
        """Answer all calls at once."""
        from scipy.special import ndtr

        first, second = pair_rows(calls, self._documents)
        p_first = ndtr((self._scores[first] - self._scores[second]) / self._settings.scale)
        known = pl.Series(self._known[first] | self._known[second])
        provenance = pl.select(pl.when(known).then(pl.lit("known_source")).otherwise(pl.lit("model"))).to_series()
        yield verdicts(calls, p_first, provenance)


def document_scores(settings: EnsembleJudge, evidence: JudgeEvidence, config: JudgingConfig) -> pl.DataFrame:
    """Score the documents of the judged pools.

    Equation: s = w_l z(BM25) + w_d z(bi-encoder) + w_n z(name overlap) + bonus [document is a source of the query].

    Returns:
        query_id, doc_id, score (z units), known (the bonus was added).
    """
    pool = judged_pool(evidence.pool, config)
    weights, queries = settings.weights, pool["query_id"]
    score = weights.lexical * within_query_z(queries, scores_or_nan(pool, "lexical_score"))
    score = score + weights.dense * within_query_z(queries, scores_or_nan(pool, "dense_score"))
    score = score + weights.name * within_query_z(queries, name_overlap(pool, evidence))
    known = np.zeros(pool.height, dtype=bool)
    if settings.known_source_bonus:
        sources = evidence.queries.select("query_id", doc_id="source_ids").explode("doc_id").drop_nulls().unique()
        known = (
            pool.select("query_id", "doc_id")
            .join(sources.with_columns(known=pl.lit(True)), on=["query_id", "doc_id"], how="left", maintain_order="left")["known"]
            .fill_null(False)
            .to_numpy()
        )
    return pool.select("query_id", "doc_id").with_columns(
        score=pl.Series(score + settings.known_source_bonus * known, dtype=pl.Float64()),
        known=pl.Series(known, dtype=pl.Boolean()),
    )


def name_overlap(pool: pl.DataFrame, evidence: JudgeEvidence) -> np.ndarray:
    """Share of the query's word stems that stand in the document's title.

    Returns:
        (n,) shares in [0, 1]; 0 for a query without words or a document without title.
    """
    queries = _stem_sets(pool["query_id"], evidence.queries, "query_id", "text")
    titles = _stem_sets(pool["doc_id"], evidence.corpus, "doc_id", "title")
    shares = (
        len(queries[query] & titles[document]) / len(queries[query]) if queries[query] else 0.0
        for query, document in pool.select("query_id", "doc_id").iter_rows()
    )
    return np.fromiter(shares, dtype=np.float64, count=pool.height)


def stems(text: str) -> frozenset[str]:
    """Return the word stems of a text, without function words unless there is nothing else.

    >>> sorted(stems("How do I read lines of pathlib.Path.readText?"))
    ['line', 'path', 'pathlib', 'read', 'text']
    """
    words = WORD.findall(HUMP.sub(" ", text).lower())
    content = [word for word in words if word not in STOP_WORDS]
    return frozenset(_stemmer()(content or words))


@cache
def _stemmer() -> Callable[[list[str]], list[str]]:
    import Stemmer

    return Stemmer.Stemmer("english").stemWords


def _stem_sets(ids: pl.Series, table: pl.DataFrame, key: str, column: str) -> dict[str, frozenset[str]]:
    found = table.filter(pl.col(key).is_in(ids.unique().implode())).select(key, column)
    return {identifier: stems(text) for identifier, text in found.iter_rows()}
