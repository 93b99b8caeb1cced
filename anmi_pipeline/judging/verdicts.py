"""Verdicts as judges give them back: their columns and what they must keep.

Belongs here: the columns of a batch of verdicts, the statuses that every judge uses, the shape of a local judge's answers. Does
not: the judges (`judges.py`), filing verdicts (`ledger.py`).
"""

import numpy as np
import polars as pl

from anmi_pipeline.errors import JudgeError

OK = "ok"
NO_ANSWER = "no_answer"
"""Status of a verdict whose source has nothing usable to say about the pair."""
UNPARSED = "unparsed"
"""Status of a verdict whose answer came, and was paid, with nothing a vote could be read from."""
PROVENANCES = ("model", "known_source", "simulated", "recorded", "human")

VERDICTS = {
    "call_key": pl.String(),
    "status": pl.String(),  # "ok", or the kind of failure
    "p_first": pl.Float64(),  # null when the call failed
    "raw_answer": pl.String(),
    "input_tokens": pl.Int64(),
    "output_tokens": pl.Int64(),
    "cost_usd": pl.Float64(),
    "latency_ms": pl.Float64(),
    "request_id": pl.String(),
    "provenance": pl.String(),
    "expires_at": pl.String(),  # UTC, ISO 8601 like ledger.now(); null: never
}
"""Columns of the verdicts a judge gives back."""


def verdicts(
    calls: pl.DataFrame, p_first: np.ndarray | pl.Series, provenance: str | pl.Series, raw_answer: pl.Series | None = None
) -> pl.DataFrame:
    """Shape the answers of a local judge: no tokens, no cost.

    Args:
        calls: the calls answered.
        p_first: (n,) probabilities that the first document is the more relevant one; null where there is no answer.
        provenance: one of PROVENANCES for all, or one per call.
        raw_answer: what the source literally said, when it said something.
    """
    columns = {"call_key": calls["call_key"], "p_first": pl.Series(p_first, dtype=pl.Float64())}
    return (
        pl.DataFrame(columns)
        .with_columns(
            pl.when(pl.col("p_first").is_null()).then(pl.lit(NO_ANSWER)).otherwise(pl.lit(OK)).alias("status"),
            (raw_answer if raw_answer is not None else pl.lit(None, dtype=pl.String())).alias("raw_answer"),
            pl.lit(0, dtype=pl.Int64()).alias("input_tokens"),
            pl.lit(0, dtype=pl.Int64()).alias("output_tokens"),
            pl.lit(0.0).alias("cost_usd"),
            pl.lit(None, dtype=pl.Float64()).alias("latency_ms"),
            pl.lit(None, dtype=pl.String()).alias("request_id"),
            (pl.lit(provenance) if isinstance(provenance, str) else provenance).alias("provenance"),
            pl.lit(None, dtype=pl.String()).alias("expires_at"),
        )
        .select(list(VERDICTS))
    )


def checked(answers: pl.DataFrame, judge: str, *, folds: bool = False) -> pl.DataFrame:
    """Return a judge's answers when they keep the protocol; those of a judge that `folds` have no single probability.

    Raises:
        JudgeError: other columns, a probability outside 0..1, or a failure that carries a vote.
    """
    if dict(answers.schema) != VERDICTS:
        raise JudgeError(f"judge {judge} gave columns {dict(answers.schema)}, expected {VERDICTS}.")
    ok = pl.col("status").eq(OK)
    vote = pl.col("p_first").is_between(0, 1)  # false for NaN, null for null
    needed = vote.fill_null(folds)
    wrong = answers.filter(pl.when(ok).then(~needed).otherwise(pl.col("p_first").is_not_null()))
    if wrong.height:
        row = wrong.row(0, named=True)
        raise JudgeError(
            f"judge {judge} gave {wrong.height} verdict(s) that are neither a probability nor a failure; "
            f"first: status {row['status']}, p_first {row['p_first']}, call {row['call_key']}."
        )
    return answers
