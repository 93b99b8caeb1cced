"""What the verdicts say about the judges: failures, flips, position bias, agreement, intransitivity, cost.

Belongs here: statistics of pairwise judgments, and the coverage of queries. Does not: ratings. A measure that was not observed
(flips without an audit slice) has no row: there is no NaN and no made-up zero.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from math import sqrt

import numpy as np
import polars as pl

from anmi_pipeline.judging.judges import OK, PROVENANCES
from anmi_pipeline.tables import REPORT

Z95 = 1.959963984540054
RESAMPLES = 1000
PAIRED_JUDGES = 6
"""With more judges than this, agreement is reported over all of them only."""
PAIR = ["query_id", "low_id", "high_id"]
ALL = "all"


@dataclass(frozen=True)
class Measure:
    """One row of the report: value with its 95 % interval over n observations."""

    name: str
    value: float
    n: int
    low: float | None = None
    high: float | None = None


def judge_report(judgments: pl.DataFrame, coverage_floor: float = 0.95) -> pl.DataFrame:
    """Describe the judges of a dataset.

    Args:
        judgments: JUDGMENTS frame.
        coverage_floor: share of a query's planned verdicts below which it counts as under the floor.

    Returns:
        REPORT frame: rows per judge and for "all" together; agreement also per pair of judges ("a & b").
    """
    judges: list[str] = sorted(judgments["judge"].unique().to_list())
    together = list(describe(judgments))
    rows = [row(ALL, measure) for measure in together]
    for judge in judges:
        own = together if len(judges) == 1 else describe(judgments.filter(pl.col("judge") == judge))
        rows.extend(row(judge, measure) for measure in own)
    under = int((coverage(judgments)["coverage"] < coverage_floor).sum())
    rows.append(row(ALL, Measure("queries_under_coverage_floor", under, judgments["query_id"].n_unique())))
    rows.extend(row(judge, measure) for judge, measure in agreement(judgments, judges))
    return REPORT.frame(rows)


def row(judge: str, measure: Measure) -> dict[str, object]:
    """One row of REPORT."""
    return {
        "judge": judge,
        "measure": measure.name,
        "value": float(measure.value),
        "low": measure.low,
        "high": measure.high,
        "n": measure.n,
    }


def coverage(judgments: pl.DataFrame) -> pl.DataFrame:
    """Count how much of each query's plan was answered.

    Returns:
        query_id, planned, answered, coverage (answered / planned), by query.
    """
    counts = judgments.group_by("query_id").agg(
        planned=pl.len().cast(pl.Int64()), answered=pl.col("status").eq(OK).sum().cast(pl.Int64())
    )
    return counts.with_columns(coverage=pl.col("answered") / pl.col("planned")).sort("query_id")


def describe(judgments: pl.DataFrame) -> Iterator[Measure]:
    """Yield every measure of one group of verdicts that was observed."""
    calls = judgments.height
    answered = judgments.filter(pl.col("status") == OK)
    yield Measure("calls", calls, calls)
    yield Measure("failures", calls - answered.height, calls)
    yield Measure("cost_usd", float(judgments["cost_usd"].sum()), calls)
    yield Measure("input_tokens", int(judgments["input_tokens"].sum()), calls)
    yield Measure("output_tokens", int(judgments["output_tokens"].sum()), calls)
    if calls:
        yield proportion("failure_rate", calls - answered.height, calls)
    if not answered.height:
        return
    yield proportion("tie_share", int((answered["p_first"] == 0.5).sum()), answered.height)
    for provenance in PROVENANCES:
        count = int((answered["provenance"] == provenance).sum())
        if count:
            yield proportion(f"share_{provenance}", count, answered.height)
    yield mean_by_query("mean_p_first", answered["query_id"], answered["p_first"].to_numpy())
    yield from audit_measures(answered)
    cyclic, triangles = triads(answered)
    if triangles:
        yield proportion("intransitivity", cyclic, triangles)


def audit_measures(answered: pl.DataFrame) -> Iterator[Measure]:
    """Yield flip rate and position bias on the pairs that one judge answered in both orders.

    Equations, with p = P(first) in one order and q = P(first) in the other: flip when both orders name the first document, or
    both the second: (p - .5)(q - .5) > 0. Position bias = mean of (p + q) / 2 - .5: 0 without
    bias, .5 when the first always wins.
    """
    audited = answered.filter(pl.col("audit"))
    swapped = audited.select("query_id", "judge", "round", first_id="second_id", second_id="first_id", p_swapped="p_first")
    both = audited.filter(pl.col("first_id") < pl.col("second_id")).join(
        swapped, on=["query_id", "judge", "round", "first_id", "second_id"], how="inner", maintain_order="left"
    )
    if not both.height:
        return
    p, q = both["p_first"].to_numpy(), both["p_swapped"].to_numpy()
    yield proportion("flip_rate", int(((p - 0.5) * (q - 0.5) > 0).sum()), both.height)
    yield mean_by_query("position_bias", both["query_id"], (p + q) / 2 - 0.5)


def agreement(judgments: pl.DataFrame, judges: list[str]) -> Iterator[tuple[str, Measure]]:
    """Yield how often two judges name the same winner of a pair that both answered; a tie agrees with a tie only."""
    votes = folded(judgments.filter(pl.col("status") == OK), ["judge"]).with_columns(winner=pl.col("p_low").sub(0.5).sign())
    both = votes.join(votes, on=PAIR, how="inner", suffix="_other").filter(pl.col("judge") < pl.col("judge_other"))
    if not both.height:
        return
    both = both.with_columns(same=pl.col("winner") == pl.col("winner_other"))
    yield ALL, proportion("agreement", int(both["same"].sum()), both.height)
    if len(judges) > PAIRED_JUDGES:
        return
    for one, other in combinations(judges, 2):
        shared = both.filter((pl.col("judge") == one) & (pl.col("judge_other") == other))
        if shared.height:
            yield f"{one} & {other}", proportion("agreement", int(shared["same"].sum()), shared.height)


def folded(answered: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    """Fold verdicts into one preference per unordered pair: PAIR, `by`, p_low = mean P(the document with the smaller id wins)."""
    low_first = pl.col("first_id") < pl.col("second_id")
    p_low = pl.when(low_first).then(pl.col("p_first")).otherwise(1 - pl.col("p_first"))
    ends = answered.with_columns(
        low_id=pl.min_horizontal("first_id", "second_id"), high_id=pl.max_horizontal("first_id", "second_id"), p_low=p_low
    )
    return ends.group_by(*PAIR, *by).agg(pl.col("p_low").mean()).sort(*PAIR, *by)


def triads(answered: pl.DataFrame) -> tuple[int, int]:
    """Count observed triangles (three documents, all three pairs with a strict winner) and those that are cycles.

    Equation: with W the 0/1 matrix of strict wins, cycles = trace(W^3) / 3 and triangles = trace((W + W')^3) / 6.

    Returns:
        (cyclic, triangles) over all queries.
    """
    cyclic = triangles = 0
    strict = folded(answered, []).filter(pl.col("p_low") != 0.5)
    for part in strict.partition_by("query_id", maintain_order=True):
        ids, numbers = np.unique(np.r_[part["low_id"].to_numpy(), part["high_id"].to_numpy()], return_inverse=True)
        low, high = numbers[: part.height], numbers[part.height :]
        won = part["p_low"].to_numpy() > 0.5
        wins = np.zeros((len(ids), len(ids)))
        wins[np.where(won, low, high), np.where(won, high, low)] = 1.0
        either = wins + wins.T
        # trace(A B) is the sum of the elementwise product of A and B'.
        cyclic += round(float(((wins @ wins) * wins.T).sum()) / 3)
        triangles += round(float(((either @ either) * either).sum()) / 6)
    return cyclic, triangles


def proportion(name: str, count: int, n: int) -> Measure:
    """A share with Wilson's 95 % interval; observations are taken as independent.

    Equation: (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n). Source: Wilson, JASA 22 (1927).
    """
    share, spread = count / n, Z95**2 / n
    centre = (share + spread / 2) / (1 + spread)
    half = Z95 * sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    # The clamp keeps rounding error from putting 0 of n outside its own interval.
    return Measure(name, share, n, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


def mean_by_query(name: str, query_ids: pl.Series, values: np.ndarray) -> Measure:
    """A mean over verdicts with a 95 % bootstrap interval over queries (verdicts of one query share its documents).

    With fewer than two queries there is nothing to resample and no interval.
    """
    frame = pl.DataFrame({"query_id": query_ids, "value": values})
    sums = frame.group_by("query_id").agg(pl.col("value").sum(), pl.len().alias("n")).sort("query_id")
    total, counts = sums["value"].to_numpy(), sums["n"].to_numpy()
    value = float(total.sum() / counts.sum())
    if sums.height < 2:
        return Measure(name, value, len(values))
    # A fixed generator: the report of equal judgments is equal to the last byte.
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(sums.height, np.full(sums.height, 1 / sums.height), size=RESAMPLES)
    low, high = np.quantile((drawn @ total) / (drawn @ counts), [0.025, 0.975])
    return Measure(name, value, len(values), float(min(low, value)), float(max(high, value)))
