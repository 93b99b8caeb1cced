"""Verdicts as comparisons of pairs, those that were asked without an answer among them.

Belongs here: the unordered pair of a call, comparisons so far, pairs that are not to be asked. Does not: the weight of a verdict
(`rating/comparisons.py`), which pairs are asked next (`round_plans.py`).
"""

import polars as pl

from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.rating.comparisons import weighted_comparisons

ENDS = {"doc_i": pl.min_horizontal("first_id", "second_id"), "doc_j": pl.max_horizontal("first_id", "second_id")}
"""The unordered pair of a planned or answered call."""


def answered_or_not(judgments: pl.DataFrame, config: JudgingConfig) -> pl.DataFrame:
    """Fold verdicts into comparisons; a pair that was asked without an answer is one of weight 0.

    Returns:
        query_id, doc_i, doc_j, preference, weight, sorted.
    """
    columns = ["query_id", "doc_i", "doc_j", "preference", "weight"]
    answered = weighted_comparisons(judgments, config.weights).select(columns)
    silent_pairs = judgments.select("query_id", **ENDS).unique().join(answered, on=columns[:3], how="anti")
    unanswered = silent_pairs.with_columns(preference=pl.lit(0.5), weight=pl.lit(0.0))
    return pl.concat([answered, unanswered]).sort(columns[:3])


def with_closed(comparisons: pl.DataFrame, closed: pl.DataFrame) -> pl.DataFrame:
    """Comparisons with those pairs added, without evidence, that are not to be asked."""
    more = closed.join(comparisons, on=["query_id", "doc_i", "doc_j"], how="anti")
    without = more.with_columns(preference=pl.lit(0.5), weight=pl.lit(0.0)).select(comparisons.columns)
    return pl.concat([comparisons, without]).sort("query_id", "doc_i", "doc_j")


def so_far(judgments: pl.DataFrame, asked: pl.DataFrame, config: JudgingConfig) -> pl.DataFrame:
    """Fold verdicts into comparisons; a pair that was asked without an answer is one of weight 0, and is not asked again.

    Returns:
        query_id, doc_i, doc_j, preference, weight, sorted.
    """
    known = answered_or_not(judgments, config)
    lost = asked.select("query_id", **ENDS).unique().join(known, on=["query_id", "doc_i", "doc_j"], how="anti")
    unanswered = lost.with_columns(preference=pl.lit(0.5), weight=pl.lit(0.0))
    return pl.concat([known, unanswered]).sort("query_id", "doc_i", "doc_j")
