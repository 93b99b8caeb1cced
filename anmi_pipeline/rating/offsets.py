"""How high the bar of relevance lies in each query: offsets and slopes that queries share by shrinkage.

Belongs here: the hierarchical logistic model on arrays, its hyperparameters, the posterior of each query and its predictions.
Does not: frames, thresholds of grades and the last, isotonic step (`calibration.py`).

The model: P(relevant | x, query q) = sigma(a + g c_q + s t_q + b exp(r v_q) x), with t_q and v_q standard normal. x is the score
in units of its spread over all queries, c_q what is known about the query beforehand (0 when nothing is), a the mean bar, s how
far bars spread, b the median slope and r how far slopes spread. Slopes are positive, so a higher score is never less relevant.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from anmi_pipeline.rating.graphs import Bools, Floats, Ints

OFFSET_NODES = np.linspace(-4.0, 4.0, 41)
"""Grid of t: the trapezoid rule, right to 2 % even where a query's posterior is as narrow as half a step (hundreds of grades)."""

SLOPE_NODES = 3
"""Gauss-Hermite nodes of v: slopes are known too roughly for more to matter."""

MOST_QUERIES, MOST_ROWS = 2_000, 40_000
"""Queries and about how many rows hyperparameters are fitted to: evenly spaced queries when there are more. Five numbers need no
more."""

ROWS = 4_096
"""Rows worked on at once: rows x nodes numbers stay near the caches."""

CENTRE = np.array([0.0, 0.0, 0.0, 0.0, -1.5])
SPREAD = np.array([3.0, 1.0, 1.0, 1.0, 0.5])
LIMITS = [(-20.0, 20.0), (-10.0, 10.0), (-5.0, 3.0), (-5.0, 3.0), (-5.0, 0.5)]
"""Weak Gaussian hyperprior of (a, g, log s, log b, log r): it decides only where the grades do not, as when all are relevant. No
search leaves the limits."""


@dataclass(frozen=True)
class Hyper:
    """What the queries share.

    Attributes:
        intercept: a, log-odds at score 0 in the mean query.
        gain: g, how much of the prior knowledge c_q the bar follows.
        offset_sd: s, standard deviation of the bars, log-odds.
        slope: b, log-odds per unit of x in the median query.
        slope_spread: r, standard deviation of the logarithm of slopes.
    """

    intercept: float
    gain: float
    offset_sd: float
    slope: float
    slope_spread: float


@dataclass(frozen=True)
class Graded:
    """Graded documents, sorted by query.

    Attributes:
        x: (N,) scores.
        y: (N,) 1 where the grade says relevant, else 0.
        query: (N,) query of each row, 0..Q - 1, never falling; a query may have no row.
        known: (Q,) what is known about each query beforehand, c_q.
    """

    x: Floats
    y: Floats
    query: Ints
    known: Floats


@dataclass(frozen=True)
class Nodes:
    """The nodes of (t, v): standard normal values with their probabilities."""

    t: Floats
    v: Floats
    log_weight: Floats


@cache
def nodes() -> Nodes:
    """The product grid of both random effects, 123 nodes."""
    roots, masses = np.polynomial.hermite_e.hermegauss(SLOPE_NODES)
    density = np.exp(-(OFFSET_NODES**2) / 2)
    weight = np.outer(density / density.sum(), masses / masses.sum()).ravel()
    return Nodes(np.repeat(OFFSET_NODES, SLOPE_NODES), np.tile(roots, len(OFFSET_NODES)), np.log(weight))


def fit_offsets(graded: Graded) -> Hyper:
    """Estimate what the queries share, by empirical Bayes.

    Equation: maximise sum over queries of log sum over nodes of weight * prod over rows of P(y | node), plus the weak hyperprior.
    A type II maximum a posteriori estimate; sums over nodes stand for the integrals over t and v.

    Args:
        graded: graded documents; none leaves the hyperprior's centre.
    """
    from scipy.optimize import minimize

    chosen = thinned(graded)
    # A gain that nothing is known for would only wander: it keeps its centre.
    free = np.array([True, bool(np.ptp(chosen.known) > 0) if len(chosen.known) else False, True, True, True])
    first = CENTRE.copy()

    def negative(point: Floats) -> tuple[float, Floats]:
        vector = first.copy()
        vector[free] = point
        value, slope = evidence(vector, chosen)
        return -value, -slope[free]

    bounds = [limit for limit, keep in zip(LIMITS, free, strict=True) if keep]
    options = {"maxiter": 200, "ftol": 1e-10, "gtol": 1e-5}
    found = minimize(negative, first[free], jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    best = first.copy()
    best[free] = found.x
    return unpacked(best)


def unpacked(vector: Floats) -> Hyper:
    """The hyperparameters of a point of the search."""
    intercept, gain, log_sd, log_slope, log_spread = vector.tolist()
    return Hyper(intercept, gain, float(np.exp(log_sd)), float(np.exp(log_slope)), float(np.exp(log_spread)))


def thinned(graded: Graded) -> Graded:
    """At most `MOST_QUERIES` of the queries that have rows, evenly spaced, renumbered from 0."""
    present = np.unique(graded.query)
    most = max(min(MOST_QUERIES, len(present) * MOST_ROWS // max(len(graded.x), 1)), 1)
    if len(present) > most:
        present = present[np.linspace(0, len(present) - 1, most).astype(np.int64)]
    rows = np.isin(graded.query, present)
    return Graded(graded.x[rows], graded.y[rows], np.searchsorted(present, graded.query[rows]), graded.known[present])


def evidence(vector: Floats, graded: Graded) -> tuple[float, Floats]:
    """Log marginal likelihood plus log hyperprior at (a, g, log s, log b, log r), and its gradient."""
    grid, hyper = nodes(), unpacked(vector)
    slopes = hyper.slope * np.exp(hyper.slope_spread * grid.v)
    joint, surprise, steep = node_sums(hyper, graded)
    joint += grid.log_weight
    top = joint.max(axis=1, keepdims=True) if len(joint) else np.zeros((0, 1))
    mass = np.exp(joint - top)
    total = mass.sum(axis=1, keepdims=True)
    posterior = mass / total
    level, tilt = posterior * surprise, posterior * steep * slopes
    gradient = np.array(
        [
            level.sum(), (level.sum(axis=1) * graded.known).sum(), (level * grid.t).sum() * hyper.offset_sd,
            tilt.sum(), (tilt * grid.v).sum() * hyper.slope_spread,
        ]
    )  # fmt: skip
    away = (vector - CENTRE) / SPREAD
    value = float((np.log(total) + top).sum()) - float(away @ away) / 2
    return value, gradient - away / SPREAD


def node_sums(hyper: Hyper, graded: Graded) -> tuple[Floats, Floats, Floats]:
    """Per query and node (Q, K): log-likelihood, sum of y - p and sum of (y - p) x over the query's rows."""
    shape = (len(graded.known), len(nodes().t))
    sums = (np.zeros(shape), np.zeros(shape), np.zeros(shape))
    for start in range(0, len(graded.x), ROWS):
        part = slice(start, start + ROWS)
        query, y = graded.query[part], graded.y[part][:, None]
        odds = log_odds(hyper, graded.x[part], graded.known[query])
        surprise = y - sigmoid(odds)
        first = np.flatnonzero(np.r_[True, query[1:] != query[:-1]])
        values = (y * odds - np.logaddexp(0.0, odds), surprise, surprise * graded.x[part][:, None])
        for total, value in zip(sums, values, strict=True):
            total[query[first]] += np.add.reduceat(value, first, axis=0)
    return sums


def log_odds(hyper: Hyper, x: Floats, known: Floats) -> Floats:
    """(N, K) log-odds of relevance of each row at each node."""
    grid = nodes()
    level = hyper.intercept + hyper.gain * known
    return level[:, None] + hyper.offset_sd * grid.t + x[:, None] * (hyper.slope * np.exp(hyper.slope_spread * grid.v))


def sigmoid(odds: Floats) -> Floats:
    """1 / (1 + exp(-odds)), without overflow."""
    from scipy.special import expit

    return expit(odds)


def posterior(hyper: Hyper, graded: Graded) -> Floats:
    """(Q, K) probability of each node given the query's own grades; the prior's for a query without any."""
    joint = node_sums(hyper, graded)[0] + nodes().log_weight
    mass = np.exp(joint - joint.max(axis=1, keepdims=True)) if len(joint) else joint
    return mass / mass.sum(axis=1, keepdims=True)


def levels(hyper: Hyper, weights: Floats) -> Floats:
    """(Q,) posterior mean of s t_q: how far each query's bar is from what was expected, log-odds."""
    return hyper.offset_sd * (weights @ nodes().t)


def predict(hyper: Hyper, weights: Floats, x: Floats, query: Ints, known: Floats) -> Floats:
    """Probability of relevance, averaged over what is not known about the query.

    Equation: p = sum over nodes of weight * sigma(log-odds at the node). A mixture of increasing functions of x, so increasing.

    Args:
        hyper: what the queries share.
        weights: (Q, K) posterior.
        x: (N,) scores.
        query: (N,) query of each.
        known: (Q,) c_q.

    Returns:
        (N,) probabilities.
    """
    result = np.empty(len(x))
    for start in range(0, len(x), ROWS):
        part = slice(start, start + ROWS)
        own = query[part]
        result[part] = (weights[own] * sigmoid(log_odds(hyper, x[part], known[own]))).sum(axis=1)
    return result


def subset(graded: Graded, keep: Bools) -> Graded:
    """The rows that a mask keeps; queries stay numbered as they are."""
    return Graded(graded.x[keep], graded.y[keep], graded.query[keep], graded.known)
