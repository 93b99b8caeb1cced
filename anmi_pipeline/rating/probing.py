"""Standard errors of graphs too large for a dense matrix, by random probes.

Belongs here: the estimator for one large graph. Does not: graphs of up to `DENSE_ITEMS` documents, whose errors are exact
(`kernels/errors.py`).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from anmi_pipeline.errors import AnmiError
from anmi_pipeline.rating.graphs import Floats, Ints

DENSE_ITEMS = 2_000
"""Most documents of a graph whose errors come from the dense inverse: 32 MB a matrix, about a second each at this size."""

PROBES = 256
"""Random right sides. A variance estimated from s probes has the relative error sqrt(2 / s), a standard error half of it: 4.4
%."""

SEED = 0
"""Seed of the probes: fixed, so that equal graphs get equal errors."""


@dataclass(frozen=True)
class LargeGraph:
    """One fitted graph with n documents and E edges.

    Attributes:
        i: (E,) first document.
        j: (E,) second document.
        slope: (E,) slope of the weighted log-likelihood of each edge at the fit.
        curvature: (E,) minus its second derivative.
        labels: (n,) component of each document.
        precision: precision of the prior.
    """

    i: Ints
    j: Ints
    slope: Floats
    curvature: Floats
    labels: Ints
    precision: float

    def centred(self, x: Floats) -> Floats:
        """Shift each component to sum 0: constants carry no information and would spoil the condition number."""
        sizes = np.bincount(self.labels)
        return x - (np.bincount(self.labels, weights=x) / sizes)[self.labels]

    def spread(self, edge_scale: Floats, prior_scale: Floats, rng: np.random.Generator) -> Floats:
        """Draw A (X' diag(edge_scale) s + diag(prior_scale) t), A the inverse of minus the Hessian, s and t random signs."""
        n = len(self.labels)
        signs = edge_scale * rng.choice(np.array([-1.0, 1.0]), len(self.i))
        right = np.bincount(self.i, signs, n) - np.bincount(self.j, signs, n)
        return self.solve(self.centred(right + prior_scale * rng.choice(np.array([-1.0, 1.0]), n)))

    def solve(self, right: Floats) -> Floats:
        """Apply the inverse of minus the Hessian by preconditioned conjugate gradients, to a residual of 1e-6."""
        from scipy.sparse import diags_array
        from scipy.sparse.linalg import cg

        matrix, diagonal = self.hessian
        scale = diags_array(1.0 / diagonal)
        found, failed = cg(matrix, right, rtol=1e-6, maxiter=20 * len(right), M=scale)
        if failed:
            raise AnmiError(
                f"the standard errors of a graph of {len(right)} documents did not converge. Raise prior_precision "
                f"({self.precision}), or ask for std_error none."
            )
        return self.centred(np.asarray(found))

    @cached_property
    def hessian(self):  # noqa: ANN201  (scipy's sparse array has no public type)
        """Minus the Hessian as a sparse matrix, and its diagonal."""
        from scipy.sparse import coo_array

        n, own = len(self.labels), np.arange(len(self.labels))
        diagonal = self.precision + np.bincount(self.i, self.curvature, n) + np.bincount(self.j, self.curvature, n)
        rows, columns = np.concatenate((own, self.i, self.j)), np.concatenate((own, self.j, self.i))
        values = np.concatenate((diagonal, -self.curvature, -self.curvature))
        return coo_array((values, (rows, columns)), shape=(n, n)).tocsr(), diagonal


def probed_errors(graph: LargeGraph, pearson: Floats, kind: str) -> Floats:
    """Estimate the standard errors of the centred scores of one large graph.

    Equation: E[v v'] = A B A for v = A (X' diag(b) s + diag(c) t) with random signs s, t, where B = X' diag(b^2) X + diag(c^2):
    b = sqrt(curvature), c = sqrt(lambda) give the Fisher errors and the leverages, b = slope / (1 - leverage), c = lambda * the
    Fisher error the HC3 sandwich (`kernels/errors.py`). Source: Hutchinson, Comm. Stat. Sim. 18 (1989).

    Args:
        graph: the graph at its fit.
        pearson: (E,) squared Pearson residuals, for `dispersion`.
        kind: fisher, dispersion or hc3.

    Returns:
        (n,) standard errors, each with a relative error of about 1 / sqrt(2 PROBES).
    """
    rng = np.random.default_rng(SEED)
    sizes = np.bincount(graph.labels)[graph.labels]
    between = (1.0 / sizes - 1.0 / len(sizes)) / graph.precision
    flat = np.full(len(sizes), graph.precision**0.5)
    variance, gaps = second_moments(graph, np.sqrt(graph.curvature), flat, rng)
    leverage = np.minimum(graph.curvature * gaps, 1.0 - 1e-6)
    if kind == "dispersion":
        free = np.count_nonzero(graph.curvature) - leverage.sum()
        variance = variance * (pearson.sum() / free if free >= 1.0 else 1.0)
    if kind == "hc3":
        variance, _ = second_moments(graph, graph.slope / (1.0 - leverage), graph.precision * np.sqrt(variance), rng)
    return np.sqrt(variance + between)


def second_moments(graph: LargeGraph, edge_scale: Floats, prior_scale: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Mean squares of the probes per document, and of their differences per edge."""
    own, gaps = np.zeros(len(graph.labels)), np.zeros(len(graph.i))
    for _ in range(PROBES):
        v = graph.spread(edge_scale, prior_scale, rng)
        own += v * v
        gaps += (v[graph.i] - v[graph.j]) ** 2
    return own / PROBES, gaps / PROBES
