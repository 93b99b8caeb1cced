"""What money buys: the expected rise of nDCG by the next calls, per dollar, and the calls that fit under a cap.

Belongs here: means over queries of what `stopping.py` expects of each. Does not: these expectations, prices.
"""

from dataclasses import dataclass

import polars as pl

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.asked_pairs import so_far
from anmi_pipeline.judging.config import StopRule
from anmi_pipeline.judging.stopping import outlooks
from anmi_pipeline.judging.study import Study
from anmi_pipeline.rating.prior import ScorePrior

QUERIES_MOST = 200
"""Queries that are looked at; of more a seeded sample stands for all."""


@dataclass(frozen=True)
class Worth:
    """What the next batch of calls of every query is expected to bring.

    Attributes:
        queries: judged queries.
        settled: share of queries that need no more calls by the stop rule.
        ndcg: expected nDCG@k of the present rankings, mean over queries.
        calls: calls of the batch of all queries.
        gain: expected rise of the mean nDCG@k by it.
        usd: what it costs; None without a price.
    """

    queries: int
    settled: float
    ndcg: float
    calls: float
    gain: float
    usd: float | None

    @property
    def gain_per_usd(self) -> float | None:
        """Rise of the mean nDCG@k by a dollar; None without a price or a call."""
        return self.gain / self.usd if self.usd else None


def worth_of_next(
    judgments: pl.DataFrame, asked: pl.DataFrame, study: Study, prior: ScorePrior | None, usd_per_call: float | None
) -> Worth | None:
    """Look ahead from the verdicts on record; None where no query has one.

    Args:
        judgments: JUDGMENTS frame.
        asked: PLAN frame of everything that was asked.
        study: documents and settings.
        prior: the prior that chooses pairs.
        usd_per_call: price of a call, mean over the judges; None where nobody knows one.
    """
    judged = judgments["query_id"].unique().sort()
    if not len(judged):
        return None
    seed = study.judging.draw_seed(study.seed)
    chosen = judged if len(judged) <= QUERIES_MOST else judged.sample(QUERIES_MOST, seed=seed)
    some = pl.col("query_id").is_in(chosen.implode())
    rule = study.judging.stop or StopRule()
    seen = outlooks(
        so_far(judgments.filter(some), asked.filter(some), study.judging), study.features.filter(some), rule, seed,
        prior=prior, model=study.rating.model,
    )  # fmt: skip
    scale = len(judged) / seen.height
    calls = scale * float(seen["calls"].sum())
    settled = int((seen["settled"] >= rule.confidence).sum()) / seen.height
    ndcg, gain = (float(seen[name].sum()) / seen.height for name in ("expected_ndcg", "gain"))
    return Worth(len(judged), settled, ndcg, calls, gain, None if usd_per_call is None else calls * usd_per_call)


def calls_within(max_usd: float, usd_per_call: float, queries: int) -> float:
    """Calls per query that fit under a cap.

    Raises:
        InputError: no price of a call, or no query.
    """
    if usd_per_call <= 0 or queries < 1:
        raise InputError(f"calls under a cap need a price per call above 0 and a query; they are {usd_per_call} and {queries}.")
    return max(max_usd, 0.0) / usd_per_call / queries
