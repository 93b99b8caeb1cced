"""The probe: some of the planned calls, asked early, from whose bills the rest is estimated.

Belongs here: which calls, and how many. Does not: asking them (`collect.py`: their verdicts are filed like all others, so a probe
costs nothing that the run would not) and the estimate (`estimating.py`).
"""

from math import ceil

import numpy as np
import polars as pl

from anmi_pipeline.judging.usage import Writer

PROBE = 20
"""Pairs of a probe."""
MOST = 320
"""Pairs at which a probe ends, however wide the interval still is."""
TOLERANCE = 0.10
"""Relative error of the price of a call, at the wider end of its 95 % interval, at which a probe ends."""
GROWTH = 4
"""A probe grows at most so many times at once: the first guess of a long tail is a bad one."""
WRITTEN_MOST = 1_000


def probe_keys(writer: Writer, calls: pl.DataFrame, pairs: int, seed: int) -> pl.Series:
    """Choose calls that stand for all of them.

    A systematic sample by counted length from a random start: one call out of each of `pairs` equally large groups of ever longer
    ones. Every call has the same chance, and the sample holds short and long ones as the plan does.

    Args:
        writer: writes the judge's requests.
        calls: CALLS frame of planned calls without a verdict.
        pairs: calls to choose.
        seed: seed of the choice.

    Returns:
        Call keys, fewer than `pairs` when there are no more.
    """
    keys = calls["call_key"].unique().sort()
    if len(keys) <= pairs:
        return keys
    if len(keys) > max(WRITTEN_MOST, pairs):
        keys = keys.sample(max(WRITTEN_MOST, pairs), seed=seed)
    requests = writer.requests(calls.filter(pl.col("call_key").is_in(keys.implode())))
    ordered = sorted((request.input_tokens, request.key) for request in requests)
    start = np.random.default_rng(seed).random()
    places = ((np.arange(pairs) + start) * len(ordered) / pairs).astype(np.int64)
    return pl.Series("call_key", [ordered[place][1] for place in places.tolist()], dtype=pl.String())


def next_size(size: int, error: float) -> int:
    """How many calls the probe should hold, given what it says now; `size` when it is enough.

    Equation: n (error / TOLERANCE)^2, because errors fall with the root of n.

    >>> next_size(20, 0.08), next_size(20, 0.15), next_size(20, 0.9), next_size(300, 0.2)
    (20, 45, 80, 320)
    """
    if error <= TOLERANCE or size >= MOST:
        return size
    return min(ceil(size * (error / TOLERANCE) ** 2), GROWTH * size, MOST)
