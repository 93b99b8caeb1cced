"""Penalised maximum likelihood of many queries: inexact Newton steps by Jacobi-preconditioned conjugate gradients.

Belongs here: the solver. Does not: the links (`links.py`), standard errors (`errors.py`), input checks and statuses (`fit.py`).
"""

import numpy as np

from anmi_pipeline.rating.graphs import Floats, Ints
from anmi_pipeline.rating.kernels.compiling import Labels, Unsigned, compiled, reordered
from anmi_pipeline.rating.kernels.links import (
    PROBIT_BEND,
    dot,
    log_likelihood,
    logit_terms,
    pearson_residuals,
    probit_terms,
    start_value,
    total_of,
)  # fmt: skip

MAX_STEPS = 100
SHORTEST = 2.0**-40

FORCING, START_GOAL = 0.03, 0.2
"""Residual of a step's system, and that of the start, as a share of the right side; fastest of a sweep at n = 100, k = 6."""

GRADIENT, STEP, FRESH, DIAGONAL, MEAN, RESIDUAL, INVERSE, DIRECTION, IMAGE = 0, 1, 2, 3, 4, 5, 6, 7, 8
ROWS = 9
"""Rows of the scratch matrix."""


@compiled
def weighted_terms(
    theta: Floats,
    i: Unsigned,
    j: Unsigned,
    w: Floats,
    weight: Floats,
    weighted: bool,
    probit: bool,
    d: Floats,
    slope: Floats,
    curvature: Floats,
) -> None:
    """Write d, slope and curvature of the edges of one query, times their weight."""
    count = len(i)
    for e in range(count):
        d[e] = theta[i[e]] - theta[j[e]]
    if probit:
        probit_terms(count, d, w, slope, curvature)
    else:
        logit_terms(count, d, w, slope, curvature)
    if weighted:
        for e in range(count):
            slope[e] *= weight[e]
            curvature[e] *= weight[e]


@compiled
def gradient(n: int, i: Unsigned, j: Unsigned, slope: Floats, theta: Floats, mean: Floats, precision: float, g: Floats) -> float:
    """Write the gradient of the log posterior; returns its largest component."""
    for u in range(n):
        g[u] = -precision * (theta[u] - mean[u])
    for e in range(len(i)):
        g[i[e]] += slope[e]
        g[j[e]] -= slope[e]
    largest = 0.0
    for u in range(n):
        largest = max(largest, abs(g[u]))
    return largest


@compiled
def set_matrix(
    n: int, row: Unsigned, edge: Unsigned, curvature: Floats, precision: float, value: Floats, diagonal: Floats
) -> None:
    """Put minus the Hessian together: one entry per neighbour, and the diagonal."""
    for u in range(n):
        total = precision
        for k in range(row[u], row[u + 1]):
            value[k] = curvature[edge[k]]
            total += value[k]
        diagonal[u] = total


@compiled
def conjugate_gradients(
    n: int,
    row: Unsigned,
    column: Unsigned,
    value: Floats,
    diagonal: Floats,
    right: Floats,
    goal: float,
    limit: int,
    scratch: Floats,
) -> None:
    """Solve (D - A) x = right until |residual|_2 <= goal or `limit` steps; D the diagonal, A the entries `value`.

    Preconditioned by D; x starts at 0 and is scratch[STEP].
    """
    x, r, z, p, q = scratch[STEP], scratch[RESIDUAL], scratch[INVERSE], scratch[DIRECTION], scratch[IMAGE]
    for u in range(n):
        x[u] = 0.0
        r[u] = right[u]
        z[u] = 1.0 / diagonal[u]
        p[u] = r[u] * z[u]
    rz = dot(n, r, p)
    for _ in range(limit):
        for u in range(n):
            total = diagonal[u] * p[u]
            for k in range(row[u], row[u + 1]):
                total -= value[k] * p[column[k]]
            q[u] = total
        bend = dot(n, p, q)
        if not bend > 0.0:
            break
        length = rz / bend
        for u in range(n):
            x[u] += length * p[u]
            r[u] -= length * q[u]
        if dot(n, r, r) <= goal * goal:
            break
        fresh = weighted_square(n, r, z)
        turn = fresh / rz
        rz = fresh
        for u in range(n):
            p[u] = z[u] * r[u] + turn * p[u]


@reordered
def weighted_square(count: int, a: Floats, b: Floats) -> float:
    """Sum of a^2 b."""
    total = 0.0
    for u in range(count):
        total += a[u] * a[u] * b[u]
    return total


@compiled
def remove_means(n: int, label: Labels, parts: int, x: Floats, scratch: Floats) -> None:
    """Shift each component of x to sum 0: the gauge that rounding would let drift where the prior is weak."""
    if parts == 1:
        mean = total_of(n, x) / n
        for u in range(n):
            x[u] -= mean
        return
    sums, sizes = scratch[RESIDUAL], scratch[IMAGE]
    sums[:parts] = 0.0
    sizes[:parts] = 0.0
    for u in range(n):
        sums[label[u]] += x[u]
        sizes[label[u]] += 1.0
    for u in range(n):
        x[u] -= sums[label[u]] / sizes[label[u]]


@compiled
def start_slopes(
    theta: Floats,
    i: Unsigned,
    j: Unsigned,
    w: Floats,
    weight: Floats,
    weighted: bool,
    probit: bool,
    d: Floats,
    slope: Floats,
    curvature: Floats,
) -> None:
    """Write the terms of the least-squares start: the quadratic around Phi^-1(w) with the curvature at d = 0."""
    bend, scale = (PROBIT_BEND, 1.0) if probit else (0.25, 1.702)
    count = len(i)
    for e in range(count):
        d[e] = scale * start_value(w[e])
    for e in range(count):
        curvature[e] = bend
        slope[e] = bend * (d[e] - (theta[i[e]] - theta[j[e]]))
    if weighted:
        for e in range(count):
            slope[e] *= weight[e]
            curvature[e] *= weight[e]


@compiled
def first_step(
    theta: Floats,
    i: Unsigned,
    j: Unsigned,
    w: Floats,
    weight: Floats,
    weighted: bool,
    probit: bool,
    mean: Floats,
    precision: float,
    row: Unsigned,
    column: Unsigned,
    edge: Unsigned,
    d: Floats,
    slope: Floats,
    curvature: Floats,
    value: Floats,
    scratch: Floats,
) -> None:
    """Write the step from the prior mean to the least-squares start into scratch[STEP]."""
    n = len(theta)
    g, diagonal = scratch[GRADIENT], scratch[DIAGONAL]
    start_slopes(theta, i, j, w, weight, weighted, probit, d, slope, curvature)
    gradient(n, i, j, slope, theta, mean, precision, g)
    set_matrix(n, row, edge, curvature, precision, value, diagonal)
    goal = START_GOAL * np.sqrt(dot(n, g, g))
    conjugate_gradients(n, row, column, value, diagonal, g, goal, 3 * n + 30, scratch)


@compiled
def newton(
    theta: Floats,
    i: Unsigned,
    j: Unsigned,
    w: Floats,
    weight: Floats,
    weighted: bool,
    probit: bool,
    mean: Floats,
    precision: float,
    tolerance: float,
    row: Unsigned,
    column: Unsigned,
    edge: Unsigned,
    label: Labels,
    parts: int,
    d: Floats,
    slope: Floats,
    curvature: Floats,
    value: Floats,
    scratch: Floats,
) -> tuple[int, float]:
    """Improve theta in place; returns the Newton steps taken and the largest gradient component at the result.

    A step solves (I + precision) p = g by conjugate gradients to a residual of FORCING times the gradient (inexact Newton: Dembo,
    Eisenstat and Steihaug, SIAM J. Numer. Anal. 19 (1982)). Along p the slope of the concave objective must not turn past half
    its size, else the step is halved. Ends when the largest gradient component, computed in full at theta, is below the
    tolerance, when rounding stops it, or after MAX_STEPS.
    """
    n, steps = len(theta), 0
    g, step, fresh, diagonal = scratch[GRADIENT], scratch[STEP], scratch[FRESH], scratch[DIAGONAL]
    weighted_terms(theta, i, j, w, weight, weighted, probit, d, slope, curvature)
    norm = gradient(n, i, j, slope, theta, mean, precision, g)
    while norm >= tolerance and steps < MAX_STEPS:
        set_matrix(n, row, edge, curvature, precision, value, diagonal)
        goal = max(FORCING * np.sqrt(dot(n, g, g)), 0.3 * tolerance)
        conjugate_gradients(n, row, column, value, diagonal, g, goal, 3 * n + 30, scratch)
        remove_means(n, label, parts, step, scratch)
        rise, length = dot(n, g, step), 1.0
        while True:
            for u in range(n):
                fresh[u] = theta[u] + length * step[u]
            weighted_terms(fresh, i, j, w, weight, weighted, probit, d, slope, curvature)
            norm = gradient(n, i, j, slope, fresh, mean, precision, g)
            if dot(n, g, step) >= -0.5 * rise or length < SHORTEST:
                break
            length *= 0.5
        steps += 1
        moved = False
        for u in range(n):
            moved = moved or fresh[u] != theta[u]
            theta[u] = fresh[u]
        if not moved:
            break
    return steps, norm


@compiled
def solve(
    first: int,
    last: int,
    n_items: Ints,
    offsets: Ints,
    edge_ptr: Ints,
    i: Unsigned,
    j: Unsigned,
    w: Floats,
    weight: Floats,
    weighted: bool,
    rows: Unsigned,
    columns: Unsigned,
    edges: Unsigned,
    labels: Labels,
    components: Ints,
    mean: Floats,
    centred: bool,
    begin: Floats,
    warm: bool,
    precision: float,
    probit: bool,
    tolerance: float,
    theta: Floats,
    slopes: Floats,
    curvatures: Floats,
    pearson: Floats,
    iterations: Ints,
    norms: Floats,
    likelihoods: Floats,
) -> None:
    """Fit queries first..last - 1 from a least-squares start, or from `begin`.

    Writes theta (sum 0 per query), the slope and curvature of every edge at it, Pearson residuals when there is room for them,
    Newton steps, gradient norms and log-likelihoods.
    """
    widest, longest = 1, 1
    for query in range(first, last):
        widest = max(widest, n_items[query])
        longest = max(longest, edge_ptr[query + 1] - edge_ptr[query])
    scratch, d, value = np.empty((ROWS, widest)), np.empty(longest), np.empty(2 * longest)
    document, at = 0, 0
    for query in range(first, last):
        n, start, stop, base = n_items[query], edge_ptr[query], edge_ptr[query + 1], offsets[query]
        count, places = stop - start, document + query - first
        head, tail, own = i[start:stop], j[start:stop], w[start:stop]
        evidence = weight[start:stop] if weighted else own
        row, column, edge = rows[places : places + n + 1], columns[2 * at : 2 * (at + count)], edges[2 * at : 2 * (at + count)]
        label, parts, score, m = labels[document : document + n], components[query], theta[base : base + n], scratch[MEAN, :n]
        slope, curvature = slopes[at : at + count], curvatures[at : at + count]
        step = scratch[STEP]
        for u in range(n):
            m[u] = mean[base + u] if centred else 0.0
            score[u] = m[u]
            step[u] = begin[base + u] - m[u] if warm else 0.0
        if not warm:
            first_step(
                score, head, tail, own, evidence, weighted, probit, m, precision, row, column, edge, d, slope, curvature, value,
                scratch,
            )  # fmt: skip
        remove_means(n, label, parts, step, scratch)
        for u in range(n):
            score[u] += step[u]
        iterations[query], norms[query] = newton(
            score, head, tail, own, evidence, weighted, probit, m, precision, tolerance, row, column, edge, label, parts, d,
            slope, curvature, value, scratch,
        )  # fmt: skip
        remove_means(n, label, 1, score, scratch)
        likelihoods[query] = log_likelihood(count, d, own, evidence, weighted, probit, value)
        if len(pearson):
            pearson_residuals(count, d, own, evidence, weighted, probit, pearson[at : at + count])
        document, at = document + n, at + count
