"""Standard errors of many queries from the dense inverse of each Hessian.

Belongs here: posterior (Fisher), dispersion-scaled and HC3 errors of centred scores. Does not: graphs too large for a dense
matrix (`probing.py`) and the fit itself (`newton.py`).
"""

import numpy as np

from anmi_pipeline.rating.graphs import Floats, Ints
from anmi_pipeline.rating.kernels.compiling import Labels, Unsigned, compiled, reordered

FISHER, DISPERSION, HC3 = 1, 2, 3


@compiled
def update(n: int, k: int, a: Floats, v: Floats, pivot: float) -> None:
    """Eliminate pivot k from the upper triangle of the symmetric matrix a; v is its row, 0 at k."""
    for u in range(n):
        share = v[u] / pivot
        # Slices from their start: an index that could be negative keeps the loop out of the vector registers.
        row, rest = a[u, u:n], v[u:n]
        for t in range(len(row)):
            row[t] -= share * rest[t]


@compiled
def invert(n: int, a: Floats, v: Floats) -> None:
    """Invert the symmetric positive definite a in place (upper triangle in, both triangles out).

    The symmetric form of Gauss-Jordan elimination (the sweep operator, Goodnight, Am. Stat. 33 (1979)): no square roots, one
    vector operation per row and pivot, half the work of a general inverse.
    """
    for k in range(n):
        pivot = a[k, k]
        for u in range(k):
            v[u] = a[u, k]
        v[k] = 0.0
        for u in range(k + 1, n):
            v[u] = a[k, u]
        update(n, k, a, v, pivot)
        for u in range(k):
            a[u, k] = v[u] / pivot
        for u in range(k + 1, n):
            a[k, u] = v[u] / pivot
        a[k, k] = -1.0 / pivot
    for u in range(n):
        for t in range(u, n):
            a[u, t] = -a[u, t]
    for u in range(n):
        for t in range(u):
            a[u, t] = a[t, u]


@compiled
def hessian(
    n: int, i: Unsigned, j: Unsigned, curvature: Floats, precision: float, label: Labels, parts: int, sizes: Floats, a: Floats
) -> None:
    """Fill a with minus the Hessian plus the gauge 11'/n_c of each component (upper triangle).

    The gauge keeps the matrix regular when the prior is weak; it changes nothing between documents of one component.
    """
    sizes[:parts] = 0.0
    for u in range(n):
        sizes[label[u]] += 1.0
    for u in range(n):
        if parts == 1:
            for t in range(u, n):
                a[u, t] = 1.0 / n
        else:
            for t in range(u, n):
                a[u, t] = 1.0 / sizes[label[u]] if label[t] == label[u] else 0.0
        a[u, u] += precision
    for e in range(len(i)):
        low, high = min(i[e], j[e]), max(i[e], j[e])
        a[low, low] += curvature[e]
        a[high, high] += curvature[e]
        a[low, high] -= curvature[e]


@compiled
def leverage(a: Floats, first: int, second: int, curvature: float) -> float:
    """Share of an edge's own verdict in its fit: curvature times the variance of the difference, in [0, 1)."""
    return min(curvature * (a[first, first] + a[second, second] - 2.0 * a[first, second]), 1.0 - 1e-12)


@compiled
def add_sandwich(n: int, i: Unsigned, j: Unsigned, slope: Floats, curvature: Floats, a: Floats, variance: Floats) -> None:
    """Add diag(A X' diag(r^2) X A) to the variances, r = slope / (1 - leverage): the HC3 form of the score's variance."""
    for e in range(len(i)):
        first, second = a[i[e]], a[j[e]]
        own = slope[e] / (1.0 - leverage(a, i[e], j[e], curvature[e]))
        own *= own
        for u in range(n):
            gap = first[u] - second[u]
            variance[u] += own * gap * gap


@compiled
def remove_constants(n: int, label: Labels, sizes: Floats, precision: float, a: Floats) -> None:
    """Take the constants of each component, to which the gauge gave the eigenvalue 1 / (1 + precision), out of the inverse."""
    for u in range(n):
        constant, row = 1.0 / ((1.0 + precision) * sizes[label[u]]), a[u]
        for t in range(n):
            row[t] -= constant if label[t] == label[u] else 0.0


@reordered
def prior_variance(n: int, row: Floats, diagonal: Floats, precision: float) -> float:
    """Variance of one score through the priors of all: each counts by its leverage, precision times its posterior variance.

    Where verdicts speak the leverage is near 0 and the prior adds nothing; where none does it is 1 and the prior's variance
    stays.
    """
    total = 0.0
    for t in range(n):
        total += row[t] * row[t] * diagonal[t]
    return precision * precision * total


@compiled
def noiseless(slope: Floats) -> bool:
    """Whether the fit explains every verdict, as when all are ties: then residuals cannot tell how noisy verdicts are."""
    total = 0.0
    for e in range(len(slope)):
        total += slope[e] * slope[e]
    return total <= 1e-12 * len(slope)


@compiled
def dispersion(i: Unsigned, j: Unsigned, curvature: Floats, pearson: Floats, a: Floats) -> float:
    """Sum of squared Pearson residuals per degree of freedom; 1 where the fit leaves less than one."""
    used, total = 0.0, 0.0
    live = 0
    for e in range(len(i)):
        if curvature[e] > 0.0:
            live += 1
            used += leverage(a, i[e], j[e], curvature[e])
            total += pearson[e]
    free = live - used
    return total / free if free >= 1.0 else 1.0


@compiled
def standard_errors(
    first: int,
    last: int,
    n_items: Ints,
    offsets: Ints,
    edge_ptr: Ints,
    i: Unsigned,
    j: Unsigned,
    labels: Labels,
    components: Ints,
    precision: float,
    kind: int,
    slopes: Floats,
    curvatures: Floats,
    pearson: Floats,
    errors: Floats,
) -> None:
    """Write the standard errors of the scores, centred to sum 0, of queries first..last - 1.

    Equation: with A = (I + lambda)^-1, P = 1 - 11'/n: Fisher diag(P A P); dispersion the same times the dispersion; HC3
    diag(P A [X' diag(r^2 / (1 - h)^2) X + lambda^2 diag(A)] A P), h the leverages (MacKinnon and White, J. Econometrics 29
    (1985)); the second term is ours: see `prior_variance`. Constants of a component carry no information: there the variance is
    the prior's, 1 / lambda, whatever the kind. A query without any residual gets the Fisher errors.
    """
    widest = 1
    for query in range(first, last):
        widest = max(widest, n_items[query])
    v, sizes, variance = np.empty(widest), np.empty(widest), np.empty(widest)
    store = np.empty(widest * widest)
    document, at = 0, 0
    for query in range(first, last):
        n, base, count = n_items[query], offsets[query], edge_ptr[query + 1] - edge_ptr[query]
        head, tail = i[edge_ptr[query] : edge_ptr[query + 1]], j[edge_ptr[query] : edge_ptr[query + 1]]
        slope, curvature = slopes[at : at + count], curvatures[at : at + count]
        label, parts = labels[document : document + n], components[query]
        document, at = document + n, at + count
        if n < 2:
            errors[base : base + n] = precision**-0.5
            continue
        a = store[: n * n].reshape((n, n))
        hessian(n, head, tail, curvature, precision, label, parts, sizes, a)
        invert(n, a, v)
        remove_constants(n, label, sizes, precision, a)
        scale = 1.0
        for u in range(n):
            v[u] = variance[u] = max(a[u, u], 0.0)
        if noiseless(slope):
            scale = 1.0
        elif kind == HC3:
            for u in range(n):
                variance[u] = prior_variance(n, a[u], v, precision)
            add_sandwich(n, head, tail, slope, curvature, a, variance)
        elif kind == DISPERSION:
            scale = dispersion(head, tail, curvature, pearson[at - count : at], a)
        for u in range(n):
            between = (1.0 / sizes[label[u]] - 1.0 / n) / precision
            errors[base + u] = np.sqrt(scale * variance[u] + between)
