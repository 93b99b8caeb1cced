"""Figures with intervals over queries.

Belongs here: the bootstrap over queries, shares over clusters, normal intervals of estimates. Does not: what is measured
(`agreement.py`, `report.py`). Verdicts of one query share its documents, so every interval resamples or inflates by whole
queries; with fewer than two there is nothing to resample and no bootstrap interval.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import polars as pl

from anmi_pipeline.rating.graphs import Floats, Ints

Statistic = Callable[[Floats], Floats]
"""From (R, m) sums over queries to (R,) values; NaN where a value is not defined."""

Z95 = 1.959963984540054
RESAMPLES = 1000
BLOCK = 1 << 22
"""Weights that one product of the bootstrap holds as floats."""


@dataclass(frozen=True)
class Measure:
    """One row of the report: value with its 95 % interval over n observations."""

    name: str
    value: float
    n: int
    low: float | None = None
    high: float | None = None


class Resampling:
    """The bootstrap over queries. Equal inputs give equal intervals: the generator is seeded anew for every number of queries."""

    def __init__(self, seed: int = 0, count: int = RESAMPLES) -> None:
        """Remember the seed and the number of resamples."""
        self._seed = seed
        self._count = count
        self._weights: dict[int, np.ndarray] = {}

    def weights(self, queries: int) -> np.ndarray:
        """(count, queries) how often each query was drawn."""
        if queries not in self._weights:
            rng = np.random.default_rng([self._seed, queries])
            drawn = [np.bincount(rng.integers(queries, size=queries), minlength=queries) for _ in range(self._count)]
            self._weights[queries] = np.minimum(np.array(drawn), 255).astype(np.uint8)
        return self._weights[queries]

    def interval(self, sums: Floats, statistic: Statistic) -> tuple[float, float] | None:
        """95 % percentile interval of a statistic of sums over queries.

        Args:
            sums: (Q, m) one row per query with observations.
            statistic: from (R, m) sums to (R,) values.

        Returns:
            None with fewer than two queries, or where no resample defines the statistic.
        """
        queries = len(sums)
        if queries < 2:
            return None
        weights, step = self.weights(queries), max(1, BLOCK // queries)
        parts = [weights[at : at + step].astype(np.float64) @ sums for at in range(0, self._count, step)]
        values = statistic(np.concatenate(parts))
        values = values[np.isfinite(values)]
        if not len(values):
            return None
        low, high = np.quantile(values, [0.025, 0.975])
        return float(low), float(high)

    def measure(self, name: str, sums: Floats, statistic: Statistic, n: int) -> Measure | None:
        """A statistic of all queries with its interval; None where it is not defined."""
        value = float(statistic(sums.sum(axis=0, keepdims=True))[0]) if len(sums) else np.nan
        if not np.isfinite(value):
            return None
        ends = self.interval(sums, statistic)
        # The clamp keeps rounding error from putting a value outside its own interval.
        return Measure(name, value, n) if ends is None else Measure(name, value, n, min(ends[0], value), max(ends[1], value))


def by_query(query: Ints | pl.Series, columns: Sequence[np.ndarray]) -> Floats:
    """(Q, m) sums of m columns per query, queries with rows only, by number."""
    number = np.asarray(query, dtype=np.int64)
    present = np.bincount(number) > 0
    sums = [np.bincount(number, weights=column)[present] for column in columns]
    return np.column_stack(sums).astype(np.float64)


def ratio(sums: Floats) -> Floats:
    """First column over the second."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(sums[:, 0] / sums[:, 1], dtype=np.float64)


def mean_over(name: str, query: Ints | pl.Series, values: np.ndarray, resampling: Resampling) -> Measure | None:
    """A mean over verdicts with its bootstrap interval over queries; None of nothing."""
    return resampling.measure(name, by_query(query, (values, np.ones(len(values)))), ratio, len(values))


def share(name: str, query: Ints | pl.Series, hits: np.ndarray) -> Measure:
    """A share of at least one verdict with its interval, verdicts of one query being alike."""
    sums = by_query(query, (hits.astype(np.float64), np.ones(len(hits))))
    return clustered_share(name, sums[:, 0], sums[:, 1])


def clustered_share(name: str, hits: Floats, counts: Floats) -> Measure:
    """A share over clusters, with Wilson's 95 % interval on the effective number of observations.

    Equation: effective n = n / max(1, D), D = [Q / (Q - 1) sum (h_q - p n_q)^2 / n^2] / [p (1 - p) / n]. Source: Korn and
    Graubard, Survey Methodology 24 (1998). Unlike a bootstrap it does not collapse at a share of 0 or 1.

    Args:
        name: of the measure.
        hits: (Q,) hits per query.
        counts: (Q,) observations per query, not all 0.
    """
    n, queries = float(counts.sum()), int((counts > 0).sum())
    p = float(hits.sum()) / n
    effect = 1.0
    if queries > 1 and 0 < p < 1:
        spread = queries / (queries - 1) * float(((hits - p * counts) ** 2).sum()) / n**2
        effect = max(1.0, spread * n / (p * (1 - p)))
    low, high = wilson(p, n / effect)
    return Measure(name, p, round(n), low, high)


def wilson(share_: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share over n independent observations.

    Equation: (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n). Source: Wilson, JASA 22 (1927).
    """
    spread = Z95**2 / n
    centre = (share_ + spread / 2) / (1 + spread)
    half = Z95 * sqrt(share_ * (1 - share_) / n + spread / (4 * n)) / (1 + spread)
    # The clamp keeps rounding error from putting 0 of n outside its own interval.
    return max(0.0, min(share_, centre - half)), min(1.0, max(share_, centre + half))


def spread(name: str, value: float, error: float, n: int) -> Measure:
    """An estimate with its normal 95 % interval."""
    return Measure(name, value, n, value - Z95 * error, value + Z95 * error)
