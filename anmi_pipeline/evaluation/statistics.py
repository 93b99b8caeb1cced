"""Intervals and tests over queries: paired bootstrap, paired randomisation, Holm's correction, rank groups.

Belongs here: numpy only, arrays in and numbers out. Does not: which queries or systems are compared (`leaderboard.py`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anmi_pipeline.errors import InputError

Floats = npt.NDArray[np.float64]
CHUNK_CELLS = 2_000_000
"""Cells (draws x queries) held at once: about 60 MB of work space whatever the number of draws."""
TOLERANCE = 1e-12
"""Permuted means that differ from the observed one by less are equal to it."""


@dataclass(frozen=True)
class Interval:
    """A mean with its percentile interval, in the unit of the values."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """A mean paired difference (a - b), its bootstrap interval and the two-sided p of the randomisation test."""

    difference: float
    low: float
    high: float
    p: float


def draw_chunks(n: int, draws: int) -> Iterator[int]:
    """Yield how many draws each chunk holds so that draws x n stays bounded."""
    per_chunk = max(1, CHUNK_CELLS // max(n, 1))
    for start in range(0, draws, per_chunk):
        yield min(per_chunk, draws - start)


def columns(values: npt.ArrayLike) -> Floats:
    """Return (n, m) float64.

    Raises:
        InputError: there is no query, or a value is not finite.
    """
    table = np.asarray(values, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or table.shape[0] == 0:
        raise InputError(f"statistics need at least one query; got an array of shape {table.shape}.")
    if not np.isfinite(table).all():
        raise InputError(f"{int((~np.isfinite(table)).sum())} metric value(s) are not finite; a missing query must count 0.")
    return table


def bootstrap_means(values: npt.ArrayLike, draws: int, rng: np.random.Generator) -> Floats:
    """Means of resampled queries; every column sees the same resamples, so differences of columns are paired.

    *Equation*: mean*_b = (1/n) sum_i c_bi x_i with counts c_b ~ Multinomial(n, 1/n) (Efron 1979, doi:10.1214/aos/1176344552).

    Args:
        values: (n_queries,) or (n_queries, n_columns).
        draws: number of resamples.
        rng: source of the resamples.

    Returns:
        (draws, n_columns) means.
    """
    table = columns(values)
    n = table.shape[0]
    means = np.empty((draws, table.shape[1]))
    start = 0
    for size in draw_chunks(n, draws):
        picks = rng.integers(0, n, size=(size, n)) + n * np.arange(size)[:, None]
        counts = np.bincount(picks.ravel(), minlength=size * n).reshape(size, n)
        means[start : start + size] = counts.astype(np.float64) @ table / n
        start += size
    return means


def percentile_interval(means: Floats, coverage: float) -> tuple[Floats, Floats]:
    """Return the lower and upper ends of the central `coverage` of each column of (draws, m) means."""
    tail = (1 - coverage) / 2
    ends = np.asarray(np.quantile(means, [tail, 1 - tail], axis=0), dtype=np.float64)
    return ends[0], ends[1]


def mean_intervals(values: npt.ArrayLike, *, draws: int, coverage: float, rng: np.random.Generator) -> list[Interval]:
    """Return one `Interval` per column of (n_queries, n_columns) values, all from the same resamples."""
    table = columns(values)
    low, high = percentile_interval(bootstrap_means(table, draws, rng), coverage)
    return [Interval(float(v), float(lo), float(hi)) for v, lo, hi in zip(table.mean(axis=0), low, high, strict=True)]


def mean_interval(values: npt.ArrayLike, *, draws: int = 5000, coverage: float = 0.95, rng: np.random.Generator) -> Interval:
    """Return the mean of (n_queries,) values and its percentile bootstrap interval.

    >>> mean_interval([1.0, 1.0, 1.0], rng=np.random.default_rng(0))
    Interval(value=1.0, low=1.0, high=1.0)
    """
    return mean_intervals(values, draws=draws, coverage=coverage, rng=rng)[0]


def randomisation_p(differences: npt.ArrayLike, draws: int, rng: np.random.Generator) -> Floats:
    """Two-sided p values of the paired randomisation test, one per column of (n_queries, n_columns) differences.

    *Equation*: p = (1 + #{b : |mean(s_b d)| >= |mean(d)|}) / (1 + draws), signs s uniform in {-1, 1} (Fisher 1935; for retrieval
    Smucker, Allan and Carterette 2007, doi:10.1145/1321440.1321528). The +1 counts the observed labelling, so p is never 0.

    Returns:
        (n_columns,) p values.
    """
    table = columns(differences)
    n = table.shape[0]
    observed = np.abs(table.sum(axis=0))
    exceeding = np.zeros(table.shape[1], dtype=np.int64)
    for size in draw_chunks(n, draws):
        signs = rng.integers(0, 2, size=(size, n), dtype=np.int8).astype(np.float64) * 2 - 1
        exceeding += (np.abs(signs @ table) >= observed - TOLERANCE * n).sum(axis=0)
    return np.asarray((1.0 + exceeding) / (1.0 + draws), dtype=np.float64)


def paired_differences(
    first: npt.ArrayLike, second: npt.ArrayLike, *, draws: int, coverage: float, rng: np.random.Generator
) -> list[PairedDifference]:
    """Compare columns query by query: one `PairedDifference` per column of (n_queries, n_columns) arrays.

    Raises:
        InputError: the two arrays do not have the same shape.
    """
    a, b = columns(first), columns(second)
    if a.shape != b.shape:
        raise InputError(f"paired comparison needs the same queries on both sides; got {a.shape[0]} and {b.shape[0]} values.")
    differences = a - b
    low, high = percentile_interval(bootstrap_means(differences, draws, rng), coverage)
    p_values = randomisation_p(differences, draws, rng)
    rows = zip(differences.mean(axis=0), low, high, p_values, strict=True)
    return [PairedDifference(float(d), float(lo), float(hi), float(p)) for d, lo, hi, p in rows]


def paired_difference(
    first: npt.ArrayLike, second: npt.ArrayLike, *, draws: int = 5000, coverage: float = 0.95, rng: np.random.Generator
) -> PairedDifference:
    """Compare two systems on the same queries, (n_queries,) values each, in the same order.

    >>> paired_difference([0.5, 0.25], [0.5, 0.25], rng=np.random.default_rng(0))
    PairedDifference(difference=0.0, low=0.0, high=0.0, p=1.0)
    """
    return paired_differences(first, second, draws=draws, coverage=coverage, rng=rng)[0]


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for their number, in the given order (Holm 1979, https://www.jstor.org/stable/4615733).

    *Equation*: sorted p_(1..m): adjusted_(i) = max_{j <= i} min(1, (m - j + 1) p_(j)).

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(1.0, np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]))
    adjusted = np.empty_like(stepped)
    adjusted[order] = stepped
    return [float(p) for p in adjusted]


def rank_groups(
    values: Mapping[str, npt.ArrayLike], *, draws: int = 5000, alpha: float = 0.05, rng: np.random.Generator
) -> dict[str, int]:
    """Rank systems by mean so that systems which cannot be told apart share a rank.

    The best system opens a group; a system joins it unless the Holm-corrected randomisation test (over all pairs of systems)
    tells it from the group's FIRST member; else it opens the next group. A rank is 1 + the number of systems in better groups.
    "Cannot be told apart" is not transitive, so members of neighbouring groups may also be inseparable from each other.

    Args:
        values: system -> (n_queries,) values, the same queries in the same order.
        draws: permutations of the test.
        alpha: level below which two systems differ.
        rng: source of the permutations.
    """
    if not values:
        return {}
    # columns in name order: the order of the mapping must not reach the draws
    names = sorted(values)
    table = np.column_stack([np.asarray(values[name], dtype=np.float64) for name in names])
    means = dict(zip(names, table.mean(axis=0), strict=True))
    left, right = np.triu_indices(len(names), k=1)
    adjusted = holm(randomisation_p(table[:, left] - table[:, right], draws, rng).tolist()) if len(names) > 1 else []
    differ = {(names[i], names[j]): p < alpha for i, j, p in zip(left, right, adjusted, strict=True)}
    ranks: dict[str, int] = {}
    head = ""
    for place, name in enumerate(sorted(names, key=lambda n: (-means[n], n)), start=1):
        opens = not head or differ[min(head, name), max(head, name)]
        ranks[name] = place if opens else ranks[head]
        head = name if opens else head
    return ranks
