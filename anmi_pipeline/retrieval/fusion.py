"""Fusing several runs into one.

Belongs here: reciprocal rank fusion and min-max weighted sums. Does not: choosing between them, which is tuning, and pools
(`pool`).
"""

from collections.abc import Sequence

import polars as pl

from anmi_pipeline.errors import InputError
from anmi_pipeline.retrieval.runs import rank_rows


def rrf(runs: Sequence[pl.DataFrame], k: int = 60, depth: int = 200) -> pl.DataFrame:
    """Reciprocal rank fusion.

    Equation: score(d) = sum over the runs that list d of 1 / (k + rank(d)); Cormack, Clarke & Buettcher, SIGIR 2009, with their
    k = 60.

    Args:
        runs: RUN frames; an empty one adds nothing. Their order does not matter.
        k: constant that flattens the top of the lists.
        depth: documents kept per query.

    Returns:
        RUN frame; ties by document id.
    """
    return add_up([run.select("query_id", "doc_id", value=1 / (k + pl.col("rank"))) for run in runs], depth)


def min_max(runs: Sequence[pl.DataFrame], weights: Sequence[float], depth: int = 200) -> pl.DataFrame:
    """Weighted sum of scores that are first stretched to 0..1 within each query.

    Equation: score(d) = sum_r w_r (s_r(d) - min_r) / (max_r - min_r), minimum and maximum over the documents that run r lists for
    the query; a document that r does not list gets 0 (Fox & Shaw, TREC-2 1994, CombSUM; normalisation after Lee, SIGIR 1997).
    When a run gives all its documents of a query one score, they get 1: being found beats not being found.

    Args:
        runs: RUN frames; an empty one adds nothing.
        weights: (n_runs,) weight of each run.
        depth: documents kept per query.

    Returns:
        RUN frame; ties by document id.

    Raises:
        InputError: runs and weights differ in number.
    """
    if len(runs) != len(weights):
        raise InputError(f"min-max fusion got {len(runs)} run(s) and {len(weights)} weight(s); give one weight per run.")
    low, high = pl.col("score").min().over("query_id"), pl.col("score").max().over("query_id")
    stretched = pl.when(high > low).then((pl.col("score") - low) / (high - low)).otherwise(1.0)
    return add_up(
        [run.select("query_id", "doc_id", value=weight * stretched) for run, weight in zip(runs, weights, strict=True)], depth
    )


def add_up(parts: Sequence[pl.DataFrame], depth: int) -> pl.DataFrame:
    """Rank documents by the sum of their values in several frames (query_id, doc_id, value).

    The values of a document are added smallest first, so that the order of the frames cannot change a sum and turn a tie.
    """
    if not parts:
        raise InputError("fusion got no run. Give it at least one.")
    listed = pl.concat(list(parts)).sort("query_id", "doc_id", "value").group_by("query_id", "doc_id").agg("value")
    # Added one by one, not by .sum(), whose grouping of the terms depends on the other rows and the thread count.
    score: pl.Expr = pl.lit(0.0)
    for place in range(len(parts)):
        score = score + pl.col("value").list.get(place, null_on_oob=True).fill_null(0.0)
    return rank_rows(listed.select("query_id", "doc_id", score=score), depth)
