"""Which documents of a query to ask an absolute grade for.

Belongs here: the choice of anchors from an Elo table. Does not: grading them (`judging/`) and learning from the grades
(`calibration.py`).
"""

from typing import Literal

import numpy as np
import polars as pl

from anmi_pipeline.errors import InputError, nearest
from anmi_pipeline.rating.comparisons import DOCUMENT

Strategy = Literal["bar", "spread", "top", "random"]
STRATEGIES: tuple[Strategy, ...] = ("bar", "spread", "top", "random")
HALF_WIDTH = 0.2
"""How far around the expected bar anchors reach, as a share of the ranking."""


def choose_anchors(
    elo: pl.DataFrame,
    per_query: int = 3,
    *,
    strategy: Strategy = "bar",
    expected_share: float = 0.5,
    rng: np.random.Generator | None = None,
) -> pl.DataFrame:
    """Choose the documents that tell most about where relevance begins in their query.

    A grade informs about the bar in proportion to p (1 - p), so anchors belong where relevance is open: around the rank at which
    the expected share of relevant documents ends. They are spread there, because the bar is not known and neighbours in the
    ranking answer nearly the same. Ranks, not scores, place them: scores of separated queries have long tails.

    `bar`: evenly spaced in rank from .2 below to .2 above the expected bar. `spread`: the same from .1 to .9, whatever is
    expected. `top`: the highest ranks. `random`: drawn.

    On TREC DL 2019 `bar` has a smaller cross-validated calibration error than `spread` with each of three graders, by little
    (benchmarks/acceptance/3_10_calibration.py); in simulation `spread` is as good or better where bars differ much, because it
    fixes slopes too. `top` is worst wherever the bar lies lower.

    Args:
        elo: `tables.ELO`.
        per_query: anchors of each query; all documents where it has fewer.
        strategy: the rule.
        expected_share: expected share of relevant documents in a pool, 0..1; only `bar` uses it.
        rng: for `random` alone.

    Returns:
        query_id, doc_id, sorted.

    Raises:
        InputError: fewer than one anchor, a share outside 0..1, an unknown strategy, or `random` without a generator.
    """
    check_choice(per_query, strategy, expected_share, rng)
    size = pl.len().over("query_id")
    if strategy == "random" and rng is not None:
        drawn = elo.sort(DOCUMENT).with_columns(draw=pl.Series(rng.random(elo.height)))
        chosen = drawn.filter(pl.col("draw").rank("ordinal").over("query_id") <= per_query)
        return chosen.select(DOCUMENT).sort(DOCUMENT)
    low, high = depths(strategy, expected_share)
    # The k-th anchor stands at the nearest whole rank to its depth, and never at or above the one before it.
    ladder = pl.DataFrame({"step": np.arange(per_query)})
    wanted = elo.group_by("query_id").agg(n=pl.len().cast(pl.Int64)).join(ladder, how="cross")
    share = pl.col("step") / max(per_query - 1, 1) if per_query > 1 else pl.lit(0.5)
    exact = ((low + (high - low) * share) * (pl.col("n") - 1)).round().cast(pl.Int64) if strategy != "top" else pl.col("step")
    placed = wanted.filter(pl.col("step") < pl.col("n")).with_columns(exact=exact).sort("query_id", "step")
    # Distinct ranks: push each below the one before, then back above the end of the list.
    down = (pl.col("exact") - pl.col("step")).cum_max().over("query_id") + pl.col("step")
    last = pl.col("n") - pl.min_horizontal(pl.col("n"), pl.lit(per_query)) + pl.col("step")
    ranks = placed.with_columns(place=pl.min_horizontal(down, last)).select("query_id", place=pl.col("place") + 1)
    ordered = elo.with_columns(place=pl.col("rank").rank("ordinal").over("query_id").cast(pl.Int64), n=size)
    return ordered.join(ranks, on=["query_id", "place"], how="semi").select(DOCUMENT).sort(DOCUMENT)


def depths(strategy: Strategy, expected_share: float) -> tuple[float, float]:
    """Shares of the ranking, from the top, between which anchors stand."""
    if strategy == "bar":
        return max(expected_share - HALF_WIDTH, 0.0), min(expected_share + HALF_WIDTH, 1.0)
    return 0.1, 0.9


def check_choice(per_query: int, strategy: str, expected_share: float, rng: np.random.Generator | None) -> None:
    """Refuse a choice that cannot be made."""
    if strategy not in STRATEGIES:
        raise InputError(f'anchor strategy "{strategy}" does not exist.{nearest(strategy, STRATEGIES)}')
    if per_query < 1 or not 0 <= expected_share <= 1:
        raise InputError(
            f"{per_query} anchors a query with an expected share of {expected_share} were asked for; give at least 1 "
            "anchor and a share in 0..1."
        )
    if strategy == "random" and rng is None:
        raise InputError("random anchors need a generator: pass rng, made from a recorded seed.")
