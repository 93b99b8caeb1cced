"""How far judges agree with themselves, with each other and with one ranking, each figure with an interval over queries.

Belongs here: flip rate, position bias, Krippendorff's alpha, Cohen's kappa, intransitive triads, reliability from the fit. Does
not: the intervals (`intervals.py`), the numbering of verdicts (`votes.py`), the report that gathers the figures (`report.py`).
"""

from math import sqrt
from typing import Literal

import numpy as np
import polars as pl

from anmi_pipeline.judging.intervals import Z95, Measure, Resampling, by_query, clustered_share, mean_over, share, spread
from anmi_pipeline.judging.votes import PAIR, Votes
from anmi_pipeline.rating.graphs import Floats, graph_batch
from anmi_pipeline.rating.judge_model import MAX_DOCUMENTS
from anmi_pipeline.rating.votes import MAX_JUDGES, fit_votes, judge_sample, restrict

Level = Literal["nominal", "interval"]

FITTED_VERDICTS = 50_000
"""The judges' parameters are fitted on whole queries, evenly spaced, with about this many verdicts."""
CHANCE = 0.25
"""P(a triad is a cycle) when every winner is a fair coin."""


def both_orders(votes: Votes) -> pl.DataFrame:
    """Pairs that one judge answered in both orders in one round: query, p (low shown first) and q (high shown first) of `first`.

    Returns:
        query, p = P(first) with low first, q = P(first) with high first.
    """
    keys = [*PAIR, "judge", "round"]
    audited = votes.rows.filter(pl.col("audit"))
    ahead = audited.filter(pl.col("low_first")).select(*keys, p=pl.col("p_low"))
    behind = audited.filter(~pl.col("low_first")).select(*keys, q=1 - pl.col("p_low"))
    return ahead.join(behind, on=keys, how="inner", maintain_order="left")


def order_measures(votes: Votes, resampling: Resampling) -> list[Measure]:
    """Flip rate and position bias on the pairs that a judge answered in both orders.

    Equations, with p = P(first) in one order and q = P(first) in the other: flip when both orders name the document shown first,
    or both the one shown second: (p - .5)(q - .5) > 0. Position bias = mean of (p + q) / 2 - .5: 0 without bias, .5 when the
    first always wins.
    """
    both = both_orders(votes)
    if not both.height:
        return []
    p, q = both["p"].to_numpy(), both["q"].to_numpy()
    bias = mean_over("position_bias", both["query"], (p + q) / 2 - 0.5, resampling)
    return [share("flip_rate", both["query"], (p - 0.5) * (q - 0.5) > 0), *([bias] if bias else [])]


def krippendorff(folded: pl.DataFrame, level: Level, name: str, resampling: Resampling) -> Measure | None:
    """Krippendorff's alpha of judges over pairs; each judge's verdicts of a pair are folded first.

    Equation: alpha = 1 - D_o / D_e = 1 - (n - 1) sum_u O_u / E over units (pairs) with m_u >= 2 values, n values in all.
    nominal (winner: smaller id, larger id, tie): O_u = (m_u^2 - sum_c n_uc^2) / (m_u - 1), E = n^2 - sum_c n_c^2.
    interval (p): O_u = 2 (m_u sum x^2 - (sum x)^2) / (m_u - 1), E = 2 (n sum x^2 - (sum x)^2).
    Source: Krippendorff, Content Analysis (2018), chapter 12.

    Args:
        folded: `Votes.folded("judge")`.
        level: which difference counts.
        name: of the measure.
        resampling: of the interval.

    Returns:
        The measure over n values; None with no pair that two judges answered, or when all values are equal.
    """
    x = pl.col("p_low")
    kinds = {f"c{kind}": (pl.col("winner") == kind).sum() for kind in (-1, 0, 1)}
    units = folded.group_by(*PAIR).agg(m=pl.len().cast(pl.Float64()), s=x.sum(), s2=(x * x).sum(), **kinds)
    units = units.filter(pl.col("m") > 1).sort(*PAIR)
    if not units.height:
        return None
    m, s, s2 = (units[column].to_numpy() for column in ("m", "s", "s2"))
    counts = [units[kind].to_numpy().astype(np.float64) for kind in kinds]
    if level == "nominal":
        apart = (m**2 - sum((c**2 for c in counts), np.zeros(len(m)))) / (m - 1)
        return resampling.measure(name, by_query(units["query"], (apart, m, *counts)), alpha_nominal, int(m.sum()))
    apart = 2 * (m * s2 - s**2) / (m - 1)
    return resampling.measure(name, by_query(units["query"], (apart, m, s, s2)), alpha_interval, int(m.sum()))


def alpha_nominal(sums: Floats) -> Floats:
    """Alpha from O, n and the counts of each value; NaN when only one value occurs."""
    n = sums[:, 1]
    return alpha(sums[:, 0], n, n**2 - (sums[:, 2:] ** 2).sum(axis=1))


def alpha_interval(sums: Floats) -> Floats:
    """Alpha from O, n, sum x and sum x^2; NaN when all x are equal."""
    n = sums[:, 1]
    return alpha(sums[:, 0], n, 2 * (n * sums[:, 3] - sums[:, 2] ** 2))


def alpha(observed: Floats, n: Floats, expected: Floats) -> Floats:
    """1 - (n - 1) O / E, NaN where E vanishes to rounding."""
    known = expected > 1e-9 * np.maximum(n, 1.0)
    return np.where(known, 1 - (n - 1) * observed / np.where(known, expected, 1.0), np.nan)


def cohen(folded: pl.DataFrame, one: int, other: int, resampling: Resampling) -> Measure | None:
    """Cohen's kappa of two judges over the pairs that both answered; winner: smaller id, larger id, tie.

    Equation: kappa = (p_o - p_e) / (1 - p_e), p_o the share of equal winners, p_e = sum_c p_1c p_2c. Source: Cohen, Educational
    and Psychological Measurement 20 (1960).

    Returns:
        None when they share no pair, or both always name the same winner.
    """
    mine, theirs = (folded.filter(pl.col("judge") == judge).select(*PAIR, "winner") for judge in (one, other))
    both = mine.join(theirs, on=PAIR, how="inner", suffix="_other", maintain_order="left")
    if not both.height:
        return None
    cell = (both["winner"].cast(pl.Int64()) + 1) * 3 + both["winner_other"].cast(pl.Int64()) + 1
    cells = cell.to_numpy()
    sums = by_query(both["query"], [(cells == number).astype(np.float64) for number in range(9)])
    return resampling.measure("kappa", sums, kappa, both.height)


def kappa(sums: Floats) -> Floats:
    """Kappa from the nine cells of a confusion table; NaN where chance alone would agree always."""
    table = sums.reshape(-1, 3, 3)
    n = np.maximum(table.sum(axis=(1, 2)), 1e-300)
    agreed = np.trace(table, axis1=1, axis2=2) / n
    expected = (table.sum(axis=2) * table.sum(axis=1)).sum(axis=1) / n**2
    open_cases = expected < 1 - 1e-12
    return np.where(open_cases, (agreed - expected) / np.where(open_cases, 1 - expected, 1.0), np.nan)


def triads(votes: Votes) -> tuple[Floats, Floats]:
    """Count observed triangles (three documents, all three pairs with a strict winner) and those that are cycles.

    Equation: with W the 0/1 matrix of strict wins, cycles = trace(W^3) / 3 and triangles = trace((W + W')^3) / 6.

    Returns:
        (Q,) cyclic and (Q,) triangles of the queries with a strict winner.
    """
    strict = votes.folded().filter(pl.col("winner") != 0)
    query, low, high = (strict[column].to_numpy() for column in PAIR)
    won = strict["winner"].to_numpy() > 0
    names, starts, counts = np.unique(query, return_index=True, return_counts=True)
    cyclic, triangles = np.zeros(len(names)), np.zeros(len(names))
    for place, (name, start, count) in enumerate(zip(names, starts, counts, strict=True)):
        own, n = slice(start, start + count), int(votes.sizes[name])
        wins = np.zeros((n, n))
        wins[np.where(won[own], low[own], high[own]), np.where(won[own], high[own], low[own])] = 1.0
        either = wins + wins.T
        # trace(A B) is the sum of the elementwise product of A and B'.
        cyclic[place] = round(float(((wins @ wins) * wins.T).sum()) / 3)
        triangles[place] = round(float(((either @ either) * either).sum()) / 6)
    return cyclic, triangles


def triad_measures(votes: Votes) -> list[Measure]:
    """Share of triangles that are cycles, and what fair coins would show on as many.

    Equation: a coin tournament's triad is a cycle with probability 1/4; two triads share at most one pair and are uncorrelated,
    so the share over T triads has variance 3 / (16 T). Source: Moran, Biometrika 34 (1947).
    """
    cyclic, triangles = triads(votes)
    total = float(triangles.sum())
    if not total:
        return []
    half = Z95 * sqrt(CHANCE * (1 - CHANCE) / total)
    chance = Measure("intransitivity_chance", CHANCE, round(total), max(0.0, CHANCE - half), min(1.0, CHANCE + half))
    return [clustered_share("intransitivity", cyclic, triangles), chance]


def reliability(votes: Votes) -> list[tuple[str, Measure]]:
    """What the joint fit of scores and judges says about each judge (`rating.votes.fit_votes`, thurstone).

    Measures, in probit units: `slope` (discrimination relative to the panel's geometric mean; absent for a single judge, whose
    slope is 1 by convention), `position_bias_probit` (towards the document shown first), `noise_probit` (scatter of soft verdicts
    inside the link; absent where there are too few).

    Returns:
        (judge, measure) rows; none beyond the limits of the joint fit (200 judges, its documents per query).
    """
    rows = votes.rows.sort("query", maintain_order=True)
    if not rows.height or len(votes.judges) > MAX_JUDGES or votes.sizes.max() > MAX_DOCUMENTS:
        return []
    counts = np.bincount(rows["query"].to_numpy(), minlength=len(votes.sizes))
    ahead = rows["low_first"].to_numpy()
    low, high, p_low = (rows[column].to_numpy() for column in ("low", "high", "p_low"))
    pointer = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    batch = graph_batch(votes.sizes, pointer, np.where(ahead, low, high), np.where(ahead, high, low))
    codes = rows["judge"].to_numpy().astype(np.int64)
    p = np.where(ahead, p_low, 1 - p_low)
    none = np.zeros(int(votes.sizes.sum()))
    chosen = judge_sample(batch, codes, FITTED_VERDICTS)
    part, p, codes, _ = restrict(batch, chosen, p, codes, none)
    fit = fit_votes(part.n_items, part.edge_ptr, part.i, part.j, p, codes, max_verdicts=None)
    found: list[tuple[str, Measure]] = []
    for number, judge in enumerate(votes.judges):
        if number >= len(fit.verdicts) or not fit.verdicts[number]:
            continue
        n = int(fit.verdicts[number])
        if len(votes.judges) > 1:
            found.append((judge, spread("slope", float(fit.slope[number]), float(fit.slope_error[number]), n)))
        found.append((judge, spread("position_bias_probit", float(fit.bias[number]), float(fit.bias_error[number]), n)))
        if fit.noise.verdicts[number]:
            found.append((judge, Measure("noise_probit", float(fit.noise.sd[number]), int(fit.noise.verdicts[number]))))
    return found
