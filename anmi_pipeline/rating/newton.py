"""Damped Newton for stacks of equally large penalised rating problems.

Belongs here: the solver and the posterior covariance. Does not: input checks and statuses (`fit.py`).
"""

from dataclasses import dataclass

import numpy as np

from anmi_pipeline.rating.config import Model
from anmi_pipeline.rating.graphs import Bools, Floats, Ints, gauge, laplacians, summed
from anmi_pipeline.rating.likelihood import edge_derivatives, edge_log_likelihood

MAX_STEPS = 100
SMALLEST_DAMPING = 2.0**-40


@dataclass(frozen=True)
class Stack:
    """B problems with n documents each.

    Attributes:
        slot: (e,) problem of each edge.
        i: (e,) first document.
        j: (e,) second document.
        w: (e,) preference for i.
        weight: (e,) evidence, in verdicts.
        prior_mean: (B, n) mean of the Gaussian prior.
        labels: (B, n) connected components.
        precision: precision of the prior.
        model: link.
    """

    slot: Ints
    i: Ints
    j: Ints
    w: Floats
    weight: Floats
    prior_mean: Floats
    labels: Ints
    precision: float
    model: Model

    def keep(self, chosen: Bools) -> "Stack":
        """Take some of the problems, in order."""
        edges = chosen[self.slot]
        renumbered = np.cumsum(chosen) - 1
        return Stack(
            renumbered[self.slot[edges]].astype(np.int64), self.i[edges], self.j[edges], self.w[edges], self.weight[edges],
            self.prior_mean[chosen], self.labels[chosen], self.precision, self.model,
        )  # fmt: skip

    def differences(self, theta: Floats) -> Floats:
        """(e,) theta_i - theta_j."""
        return theta[self.slot, self.i] - theta[self.slot, self.j]

    def log_likelihood(self, theta: Floats) -> Floats:
        """(B,) log-likelihood of the preferences, without the prior."""
        value = self.weight * edge_log_likelihood(self.differences(theta), self.w, self.model)
        return summed(self.slot, value, len(theta))

    def objective(self, theta: Floats) -> Floats:
        """(B,) log posterior up to a constant."""
        return self.log_likelihood(theta) - 0.5 * self.precision * ((theta - self.prior_mean) ** 2).sum(axis=1)

    def derivatives(self, theta: Floats) -> tuple[Floats, Floats]:
        """Gradient of the objective (B, n) and curvature per edge (e,)."""
        count, n = theta.shape
        slope, curvature = edge_derivatives(self.differences(theta), self.w, self.model)
        pull = self.weight * slope
        gained = summed(self.slot * n + self.i, pull, count * n)
        lost = summed(self.slot * n + self.j, pull, count * n)
        gradient = (gained - lost).reshape(count, n) - self.precision * (theta - self.prior_mean)
        return gradient, self.weight * curvature

    def hessian(self, curvature: Floats) -> Floats:
        """(B, n, n) minus the Hessian plus the gauge of each component.

        The gradient sums to 0 over a component (the prior's pull does, from the prior mean on), so the gauge changes no step; it
        bounds the condition number when the prior is weak.
        """
        count, n = self.prior_mean.shape
        matrix = laplacians(n, count, self.slot, self.i, self.j, curvature) + gauge(self.labels)
        diagonal = np.arange(n)
        matrix[:, diagonal, diagonal] += self.precision
        return matrix


@dataclass(frozen=True)
class Solution:
    """Where the solver stopped: theta (B, n), largest gradient component (B,), Newton steps (B,)."""

    theta: Floats
    gradient_norm: Floats
    iterations: Ints


def solve(stack: Stack, tolerance: float) -> Solution:
    """Maximise every problem of a stack by Newton steps with backtracking, from the prior mean.

    The objective is strictly concave, so damped Newton converges from anywhere. A problem leaves the stack when its gradient is
    below the tolerance, when no step improves it any more, or after MAX_STEPS.
    """
    theta = stack.prior_mean.copy()
    count, n = theta.shape
    norm, steps = np.zeros(count), np.zeros(count, dtype=np.int64)
    if not n:
        return Solution(theta, norm, steps)
    active = np.arange(count)
    for _ in range(MAX_STEPS + 1):
        here = theta[active]
        gradient, curvature = stack.derivatives(here)
        norm[active] = np.abs(gradient).max(axis=1)
        going = (norm[active] >= tolerance) & (steps[active] < MAX_STEPS)
        if not going.any():
            break
        if not going.all():
            edges = going[stack.slot]
            stack, active, here = stack.keep(going), active[going], here[going]
            gradient, curvature = gradient[going], curvature[edges]
        step: Floats = np.linalg.solve(stack.hessian(curvature), gradient[:, :, None])[:, :, 0].astype(np.float64)
        moved, improved = backtrack(stack, here, step, (gradient * step).sum(axis=1))
        theta[active] = moved
        # A problem that rounding stops is counted out: its steps are used up.
        steps[active] = np.where(improved, steps[active] + 1, MAX_STEPS)
    return Solution(theta, norm, steps)


def backtrack(stack: Stack, theta: Floats, step: Floats, slope: Floats) -> tuple[Floats, Bools]:
    """Halve each problem's step until it improves the objective (Armijo, c = 1e-4); False where none does."""
    start = stack.objective(theta)
    # Near the optimum the gain drowns in the rounding of the sum; a step within it counts as an improvement.
    slack = 1e-13 * (1 + np.abs(start))
    length = np.ones(len(theta))
    while True:
        moved = theta + length[:, None] * step
        short = stack.objective(moved) < start + 1e-4 * length * np.maximum(slope, 0.0) - slack
        if not short.any():
            return moved, length > 0
        length[short] *= 0.5
        if length.min() < SMALLEST_DAMPING:
            stuck = length < SMALLEST_DAMPING
            length[stuck] = 0.0
            if not (short & ~stuck).any():
                return theta + length[:, None] * step, ~stuck


def centred_errors(stack: Stack, theta: Floats) -> Floats:
    """(B, n) posterior standard errors of theta centred to sum 0.

    Equation: sqrt diag(P C P), C = (I(theta) + lambda)^-1 the Laplace covariance at the mode (I = observed Fisher information,
    that is minus the Hessian of the log-likelihood) and P = I - 11'/n. Constants of a component carry no information, so C has
    the eigenvalue 1/lambda there: a document that was never compared gets the prior's error. One document alone has nothing to be
    centred against and gets the prior's standard deviation.
    """
    count, n = theta.shape
    if n < 2:
        return np.full((count, n), stack.precision**-0.5)
    _, curvature = stack.derivatives(theta)
    own = np.diagonal(np.linalg.inv(stack.hessian(curvature)), axis1=1, axis2=2)
    sizes = (stack.labels[:, :, None] == stack.labels[:, None, :]).sum(axis=2)
    # The gauge turned 1/lambda into 1/(1 + lambda) on component constants: put it back, then remove the query's own constant.
    prior, gauged = 1 / stack.precision, 1 / (1 + stack.precision)
    whole = sizes == n
    variance = own + np.where(whole, -gauged / n, (prior - gauged) / sizes - prior / n)
    return np.sqrt(np.maximum(variance, 0.0))
