"""The greedy choice of a batch of pairs of one query.

Belongs here: the information of a verdict and the loop. Does not: checks, discounts and the order of the result (`adaptive.py`).
"""

from math import erfc, exp, log, pi, sqrt

import numpy as np

from anmi_pipeline.rating.graphs import Bools, Floats, Ints
from anmi_pipeline.rating.kernels.compiling import compiled

ENTROPY_VARIANCE = pi * log(2.0) / 2.0
"""c^2 of the Gaussian exp(-x^2 / 2 c^2) that stands for the entropy of Phi(x) in bits: off by at most .02."""

CERTAIN = 8.0
"""Difference beyond which a verdict tells nothing."""


@compiled
def information(gap: float, variance: float) -> float:
    """Mutual information in bits between a probit verdict and the difference d ~ N(gap, variance) it is about.

    Equation: H(E Phi(d)) - E H(Phi(d)), the entropy H(Phi(x)) replaced by exp(-x^2 / 2 c^2) in both terms:
    exp(-gap^2 / 2 c^2 (1 + v)) - c / sqrt(c^2 + v) exp(-gap^2 / 2 (c^2 + v)). Never negative, 0 at v = 0, growing with v.
    Source: Houlsby, Huszar, Ghahramani and Lengyel, arXiv 1112.5745 (2011), equation 3.
    """
    square = gap * gap
    total = exp(-square / (2.0 * ENTROPY_VARIANCE * (1.0 + variance)))
    width = ENTROPY_VARIANCE + variance
    return total - sqrt(ENTROPY_VARIANCE / width) * exp(-square / (2.0 * width))


@compiled
def fisher(gap: float) -> float:
    """Expected curvature of a probit verdict: phi^2 / (Phi (1 - Phi)); 0 where the verdict is certain."""
    if abs(gap) > CERTAIN:
        return 0.0
    return 2.0 / pi * exp(-gap * gap) / (erfc(-gap / sqrt(2.0)) * erfc(gap / sqrt(2.0)))


@compiled
def score(theta: Floats, covariance: Floats, weight: Floats, i: int, j: int) -> float:
    """Discounted information of one pair."""
    variance = covariance[i, i] + covariance[j, j] - 2.0 * covariance[i, j]
    return weight[i, j] * information(theta[i] - theta[j], max(variance, 0.0))


@compiled
def row_best(scores: Floats, i: int) -> int:
    """Column of the best score of a row right of the diagonal, the first among equals; i itself where nothing is left."""
    best = i
    for j in range(i + 1, scores.shape[1]):
        if scores[i, j] > scores[i, best]:
            best = j
    return best


@compiled
def start(theta: Floats, covariance: Floats, free: Bools, weight: Floats) -> tuple[Floats, Ints]:
    """Score all free pairs i < j, the others -1, and find the best of each row."""
    n = len(theta)
    scores = np.full((n, n), -1.0)
    best = np.arange(n)
    for i in range(n):
        for j in range(i + 1, n):
            if free[i, j]:
                scores[i, j] = score(theta, covariance, weight, i, j)
        best[i] = row_best(scores, i)
    return scores, best


@compiled
def learn(covariance: Floats, i: int, j: int, curvature: float) -> None:
    """Update a covariance in place by one verdict on i and j: C - C e e' C c / (1 + c e' C e), e = e_i - e_j."""
    along = covariance[:, i] - covariance[:, j]
    scale = curvature / (1.0 + curvature * max(along[i] - along[j], 0.0))
    for row in range(len(along)):
        factor = scale * along[row]
        for column in range(len(along)):
            covariance[row, column] -= factor * along[column]


@compiled
def close(scores: Floats, best: Ints, item: int) -> None:
    """Offer no more pairs of a document."""
    for other in range(len(best)):
        scores[min(other, item), max(other, item)] = -1.0
    for row in range(item + 1):
        if row == item or best[row] == item:
            best[row] = row_best(scores, row)


@compiled
def greedy(theta: Floats, covariance: Floats, free: Bools, weight: Floats, count: int, cap: int) -> Ints:
    """Choose pairs one by one, the best score first; `covariance` is overwritten.

    Variances only shrink as verdicts are added and information grows with variance, so an old score bounds the new one from
    above: only a pair that leads is scored again (Minoux 1978). Ties go to the smaller indices.

    Args:
        theta: (n,) posterior mode in probit units.
        covariance: (n, n) posterior covariance.
        free: (n, n) pairs that may be asked.
        weight: (n, n) discount of each pair.
        count: pairs wanted.
        cap: most pairs of one document.

    Returns:
        (E, 2) pairs i < j in the order chosen.
    """
    n = len(theta)
    scores, best = start(theta, covariance, free, weight)
    fresh = np.zeros((n, n), dtype=np.int64)
    degree = np.zeros(n, dtype=np.int64)
    picked = np.zeros((count, 2), dtype=np.int64)
    made = 0
    while made < count:
        i = 0
        for row in range(1, n):
            if scores[row, best[row]] > scores[i, best[i]]:
                i = row
        j = best[i]
        if i == j or scores[i, j] < 0.0:
            break
        if fresh[i, j] < made:
            scores[i, j] = score(theta, covariance, weight, i, j)
            fresh[i, j] = made
            best[i] = row_best(scores, i)
            continue
        picked[made, 0], picked[made, 1] = i, j
        made += 1
        scores[i, j] = -1.0
        best[i] = row_best(scores, i)
        learn(covariance, i, j, fisher(theta[i] - theta[j]))
        for item in (i, j):
            degree[item] += 1
            if degree[item] == cap:
                close(scores, best, item)
    return picked[:made]
