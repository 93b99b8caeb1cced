"""What calls take: tokens as counted before they are sent, and as billed afterwards.

Belongs here: counting planned requests, and putting bills of answered ones beside their counts. Does not: what follows for calls
to come (`estimating.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import polars as pl

from anmi_pipeline.judging.requests import Request
from anmi_pipeline.judging.spans import Floats

Source = Literal["probe", "ledger", "default"]

COUNTED_MOST = 10_000
"""Calls whose requests are written and counted; of more a seeded sample stands for all, with a standard error below .5 %."""


class Writer(Protocol):
    """What writes the requests of a judge, as `ApiJudge` does; needs no key."""

    def requests(self, calls: pl.DataFrame) -> Sequence[Request]:
        """One request for each call key of a frame of CALLS columns."""
        ...


@dataclass(frozen=True)
class Counted:
    """Counted tokens of planned calls.

    Attributes:
        input: (n,) counted input tokens of the calls that were written.
        limit: mean of the most output tokens that may be billed for one of them.
        planned: calls that they stand for.
    """

    input: Floats
    limit: float
    planned: int


@dataclass(frozen=True)
class Usage:
    """Billed calls of a judge.

    Attributes:
        counted: (n,) input tokens as counted before they were sent.
        input: (n,) input tokens billed.
        output: (n,) output tokens billed.
        usd: (n,) what they cost in tier sync; NaN where they were in a batch.
        source: where they come from.
    """

    counted: Floats
    input: Floats
    output: Floats
    usd: Floats
    source: Source

    def __len__(self) -> int:
        """Number of calls."""
        return len(self.counted)


def count_calls(writer: Writer, calls: pl.DataFrame, seed: int, most: int = COUNTED_MOST) -> Counted:
    """Write planned requests and count their tokens.

    Args:
        writer: writes the judge's requests.
        calls: CALLS frame of the judge; rows of one call key are one call.
        seed: seed of the sample.
        most: calls that are written; of more a sample is.
    """
    keys = calls["call_key"].unique().sort()
    chosen = keys if len(keys) <= most else keys.sample(most, seed=seed)
    requests = writer.requests(calls.filter(pl.col("call_key").is_in(chosen.implode())))
    tokens = np.array([request.input_tokens for request in requests], dtype=np.float64)
    limits = [request.max_output_tokens for request in requests]
    return Counted(tokens, float(np.mean(limits)) if limits else 0.0, len(keys))


def billed_usage(writer: Writer, calls: pl.DataFrame, stored: pl.DataFrame, source: Source, most: int = COUNTED_MOST) -> Usage:
    """Put counted beside billed tokens of calls that were answered.

    Calls that were not billed (input_tokens 0: a refusal, a failure) say nothing about usage and are left out.

    Args:
        writer: writes the judge's requests.
        calls: CALLS frame.
        stored: call_key, input_tokens, output_tokens, cost_usd, latency_ms of verdicts; calls of batches have no latency.
        source: where they come from.
        most: calls that are looked at, the first by key: keys are hashes, so that is a random choice.
    """
    billed = stored.filter(pl.col("input_tokens") > 0).unique("call_key").sort("call_key").head(most)
    known = calls.join(billed.select("call_key"), on="call_key", how="semi")
    counted = pl.DataFrame(
        [(request.key, float(request.input_tokens)) for request in writer.requests(known)],
        schema={"call_key": pl.String(), "counted": pl.Float64()},
        orient="row",
    )
    plain = pl.when(pl.col("latency_ms").is_null()).then(float("nan")).otherwise("cost_usd")
    rows = counted.join(billed, on="call_key", how="inner").sort("call_key").with_columns(usd=plain)
    counts, read, written, usd = (
        rows[name].cast(pl.Float64()).to_numpy() for name in ("counted", "input_tokens", "output_tokens", "usd")
    )
    return Usage(counts, read, written, usd, source)
