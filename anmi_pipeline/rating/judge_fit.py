"""Estimating the judges: slopes, biases and tie parameters with thousands of unknown scores integrated out.

Belongs here: the approximate marginal likelihood of the judges' parameters, its maximum, their standard errors. Does not: one
verdict's likelihood (`judge_model.py`), the reported scores (`votes.py`).

Maximising over scores and judges jointly is biased: with eight verdicts a document the scores fit noise, and the bias does not
vanish with more queries (Neyman and Scott, Econometrica 16, 1948). Here the scores of a query are integrated out by expectation
propagation (Minka, UAI 2001): a normal posterior N(m, C) with one normal site per verdict. theta ~ N(prior mean, 1 / precision)
has a precision of its own, estimated with the judges. (A variational Gaussian in its place left a slope of 2 at 1.79 in
simulation; the sites leave it at 2 within its error.) Soft verdicts scatter less than coin flips: their log-likelihood is divided
by a dispersion per judge (Wedderburn, Biometrika 61, 1974), else the estimated variance of theta would be too small. By Fisher's
identity the gradient of the marginal likelihood is the expected gradient of the complete one; its information is the complete
information minus the missing one (Louis, JRSS B 44, 1982), corrected by the secants of the last steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from anmi_pipeline.errors import ConvergenceError
from anmi_pipeline.rating.graphs import Bools, Floats, Ints, laplacians, summed
from anmi_pipeline.rating.judge_model import (
    Expected,
    JudgeParameters,
    Sites,
    VoteModel,
    VoteStack,
    expected_derivatives,
    has_ties,
    squared_residuals,
    tilted,
)

SLOPE_SD = 1.0
"""Prior of each log slope: N(0, 1); a slope of e^-1 to e is ordinary."""
BIAS_SD = 1.0
"""Prior of each bias: N(0, 1) in units of the link; a judge that always says first ends near +2."""
TIE_CENTRE, TIE_SD = float(np.log(0.2)), 2.0
"""Prior of each log tie parameter."""
PRECISION_SD = 2.0
"""Prior of log(1 / Var(theta)): N(0, 2^2)."""

MAX_ROUNDS, MAX_INNER = 60, 12
LARGEST_STEP, CLOSE = 0.7, 0.01
SECANTS, TELLING = 6, 0.02
DAMPING, SMALLEST_SITE = 0.9, 1e-9
NARROWEST = 0.1
"""Smallest spread of a tilted posterior against the normal one that a pass believes. Consistent soft verdicts are far sharper
than the posterior that the nodes were laid over; all weight then lies on one node, whose spread of 0 says nothing. The posterior
narrows pass by pass until the nodes resolve it."""
SMALLEST_DISPERSION, DISPERSION_PRIOR = 0.01, 2.0
"""Dispersion is shrunk towards 1 by the variance of 8 fair coin flips, so that a few verdicts cannot be fitted perfectly."""
MANY_QUERIES = 20

Errors = Literal["sandwich", "information"]


@dataclass
class Posterior:
    """Normal posterior of the scores of a stack: mean (B, n), covariance (B, n, n) and the verdicts' sites."""

    mean: Floats
    covariance: Floats
    sites: Sites

    def difference(self, slot: Ints, i: Ints, j: Ints) -> tuple[Floats, Floats]:
        """Mean and variance of theta_i - theta_j."""
        own = np.diagonal(self.covariance, axis1=1, axis2=2)
        variance = own[slot, i] + own[slot, j] - 2 * self.covariance[slot, i, j]
        return self.mean[slot, i] - self.mean[slot, j], np.maximum(variance, 1e-12)


@dataclass(frozen=True)
class JudgeFit:
    """Estimated judges.

    Attributes:
        judges: the parameters.
        slope_error: (G,) standard error of the slope (delta method).
        bias_error: (G,) standard error of the bias.
        log_tie_error: (G,) standard error of the log tie parameter.
        errors: `sandwich` over queries where queries are many, else the inverse `information`.
        converged: whether the last step was below the tolerance.
        rounds: steps taken.
        posteriors: the normal posterior of each stack under these parameters.
    """

    judges: JudgeParameters
    slope_error: Floats
    bias_error: Floats
    log_tie_error: Floats
    errors: Errors
    converged: bool
    rounds: int
    posteriors: list[Posterior]


@dataclass(frozen=True)
class Sums:
    """Derivatives of the marginal log-likelihood in (log slopes, biases, log ties, log precision), P = 3 G + 1 numbers.

    Attributes:
        scores: (Q, P) gradient of each query.
        complete: (P, P) complete-data information.
        missing: (P, P) information lost because the scores are unknown.
        residual: (G,) sum of expected squared residuals.
        spread: (G,) sum of the variances that coin flips would have.
    """

    scores: Floats
    complete: Floats
    missing: Floats
    residual: Floats
    spread: Floats


def fit_judges(
    stacks: Sequence[VoteStack], n_judges: int, model: VoteModel, tolerance: float, start: JudgeParameters | None = None
) -> JudgeFit:
    """Estimate the judges' parameters by maximum marginal likelihood with weak priors.

    Identification: the mean of the log slopes, weighted by verdicts, is 0 (geometric mean 1); one judge has slope 1. Judges who
    share no query are linked only by the shared variance of theta. Priors: `SLOPE_SD`, `BIAS_SD`, `TIE_SD`, `PRECISION_SD`.

    Args:
        stacks: the verdicts.
        n_judges: G.
        model: the link.
        tolerance: largest last step, in standard errors of the parameter.
        start: where to start; slope 1, bias 0 when absent.
    """
    votes = np.zeros(n_judges)
    for stack in stacks:
        votes += np.bincount(stack.judge, minlength=n_judges)
    judges = start or JudgeParameters(
        np.zeros(n_judges), np.zeros(n_judges), np.full(n_judges, TIE_CENTRE), 0.0, np.ones(n_judges)
    )
    basis, soft = free_directions(votes, has_ties(model)), soft_judges(stacks, n_judges, has_ties(model))
    posteriors = [first_posterior(stack, judges) for stack in stacks]
    sums, inverse, converged, done = empty_sums(n_judges), np.zeros((0, 0)), False, 0
    path = Path([])
    for done in range(1, MAX_ROUNDS + 1):
        sums = collect(stacks, posteriors, judges, model)
        gradient, inverse = local_model(sums, judges, basis)
        inverse = path.learn(inverse, gradient)
        step = inverse @ gradient
        size = float(np.max(np.abs(step) / np.sqrt(np.maximum(np.diagonal(inverse), 1e-24)), initial=0.0))
        ratio = (sums.residual + DISPERSION_PRIOR) / (sums.spread + DISPERSION_PRIOR)
        dispersion = np.where(soft, np.clip(ratio, SMALLEST_DISPERSION, 1.0), 1.0)
        drift = float(np.max(np.abs(dispersion / judges.dispersion - 1), initial=0.0))
        if size < tolerance and drift < tolerance and done > 1:
            converged = True
            break
        step *= min(1.0, LARGEST_STEP / max(float(np.max(np.abs(step), initial=0.0)), 1e-300))
        path.take(step, gradient, telling=size > TELLING)
        judges = moved(replace(judges, dispersion=dispersion), basis @ step)
    return judge_fit(judges, sums, basis, inverse, converged, done, posteriors)


@dataclass
class Path:
    """The last steps and what they did to the gradient: secants that correct what Louis' terms leave out."""

    pairs: list[tuple[Floats, Floats]]
    last: tuple[Floats, Floats] | None = None

    def take(self, step: Floats, gradient: Floats, *, telling: bool) -> None:
        """Remember a step and the gradient it started from, unless it is too small to tell anything."""
        self.last = (step, gradient) if telling else None

    def learn(self, inverse: Floats, gradient: Floats) -> Floats:
        """Update the inverse information by the secants (Broyden, Fletcher, Goldfarb, Shanno 1970), the oldest first."""
        if self.last is not None:
            step, before = self.last
            if step @ (before - gradient) > 1e-3 * step @ before > 0:
                self.pairs = [*self.pairs[-(SECANTS - 1) :], (step, before - gradient)]
        for step, change in self.pairs:
            share = 1 / float(step @ change)
            left = np.eye(len(step)) - share * np.outer(step, change)
            inverse = left @ inverse @ left.T + share * np.outer(step, step)
        return inverse


def soft_judges(stacks: Sequence[VoteStack], n_judges: int, ties: bool) -> Bools:
    """(G,) judges with verdicts that are no outcome of the model: their scatter is measured, not assumed."""
    soft = np.zeros(n_judges, dtype=np.bool_)
    for stack in stacks:
        between = (stack.p > 0) & (stack.p < 1)
        soft[stack.judge[between & (stack.p != 0.5) if ties else between]] = True
    return soft


def free_directions(votes: Floats, ties: bool) -> Floats:
    """(P, free) orthonormal directions in which the parameters may move: log slopes keep their weighted mean."""
    count = len(votes)
    share = votes / max(float(np.linalg.norm(votes)), 1e-300)
    if not votes.any():
        share = np.full(count, count**-0.5)
    spanning = np.linalg.svd(share[None, :])[2][1:].T
    result = np.zeros((3 * count + 1, 3 * count + 1))
    result[:count, : count - 1] = spanning
    result[count : 2 * count, count : 2 * count] = np.eye(count)
    result[2 * count : 3 * count, 2 * count : 3 * count] = np.eye(count) * ties
    result[-1, -1] = 1.0
    return result[:, np.abs(result).sum(axis=0) > 0]


def empty_sums(n_judges: int) -> Sums:
    """No verdicts: no information."""
    size = 3 * n_judges + 1
    return Sums(np.zeros((0, size)), np.zeros((size, size)), np.zeros((size, size)), np.zeros(n_judges), np.zeros(n_judges))


def moved(judges: JudgeParameters, change: Floats) -> JudgeParameters:
    """Add a change of all parameters."""
    count = len(judges.bias)
    return JudgeParameters(
        judges.log_slope + change[:count],
        judges.bias + change[count : 2 * count],
        judges.log_tie + change[2 * count : -1],
        judges.log_precision + float(change[-1]),
        judges.dispersion,
    )


def first_posterior(stack: VoteStack, judges: JudgeParameters) -> Posterior:
    """The prior, as the start of a stack's posterior."""
    count, n = stack.prior_mean.shape
    covariance = np.tile(np.eye(n) / np.exp(judges.log_precision), (count, 1, 1))
    return Posterior(stack.prior_mean.copy(), covariance, Sites(np.zeros(len(stack.p)), np.zeros(len(stack.p))))


def update_posterior(stack: VoteStack, posterior: Posterior, judges: JudgeParameters, model: VoteModel) -> Expected:
    """Move a stack's posterior to these judges, in place, and return the derivatives there.

    Equation: parallel expectation propagation: each site is moved until the tilted and the normal posterior of its difference
    have the same mean and variance. Log-concave likelihoods keep every site's precision positive.
    """
    precision = float(np.exp(judges.log_precision))
    count, n = stack.prior_mean.shape
    diagonal = np.arange(n)
    for _ in range(MAX_INNER if n else 0):
        mean, variance = posterior.difference(stack.slot, stack.i, stack.j)
        d, weights = tilted(stack, judges, model, mean, variance, posterior.sites)
        posterior.sites = matched(posterior.sites, mean, variance, d, weights)
        matrix = laplacians(n, count, stack.slot, stack.i, stack.j, posterior.sites.precision)
        matrix[:, diagonal, diagonal] += precision
        posterior.covariance = np.asarray(np.linalg.inv(matrix), dtype=np.float64)
        pulled = stack.incidence(posterior.sites.pull) + precision * stack.prior_mean
        before = posterior.mean
        posterior.mean = np.einsum("bij,bj->bi", posterior.covariance, pulled)
        if np.abs(posterior.mean - before).max(initial=0.0) < CLOSE:  # the next round of judges continues from here
            break
    mean, variance = posterior.difference(stack.slot, stack.i, stack.j)
    return expected_derivatives(stack, judges, model, *tilted(stack, judges, model, mean, variance, posterior.sites))


def matched(sites: Sites, mean: Floats, variance: Floats, d: Floats, weights: Floats) -> Sites:
    """Sites that give the tilted distribution its own mean and variance, reached to a damped part."""
    centre = np.einsum("ke,ke->e", weights, d)
    spread = np.maximum(np.einsum("ke,ke->e", weights, (d - centre) ** 2), NARROWEST * variance)
    precision = sites.precision + DAMPING * (1 / spread - 1 / variance)
    pull = sites.pull + DAMPING * (centre / spread - mean / variance)
    return Sites(np.maximum(precision, SMALLEST_SITE), pull)


def collect(stacks: Sequence[VoteStack], posteriors: list[Posterior], judges: JudgeParameters, model: VoteModel) -> Sums:
    """Update every posterior and add up scores and information over the stacks."""
    total = empty_sums(len(judges.bias))
    scores, complete, missing, residual, spread = [total.scores], total.complete, total.missing, total.residual, total.spread
    for stack, posterior in zip(stacks, posteriors, strict=True):
        piece = stack_sums(stack, posterior, update_posterior(stack, posterior, judges, model), judges, model)
        scores.append(piece.scores)
        complete, missing = complete + piece.complete, missing + piece.missing
        residual, spread = residual + piece.residual, spread + piece.spread
    return Sums(np.concatenate(scores), complete, missing, residual, spread)


def stack_sums(stack: VoteStack, posterior: Posterior, here: Expected, judges: JudgeParameters, model: VoteModel) -> Sums:
    """Scores, complete and missing information of one stack.

    Equation: missing = sum over queries of J C J' with J the mixed derivatives of parameters and scores (the variance of the
    complete-data score under the posterior to first order), plus `quadratic_part` for the log slopes and the precision, plus what
    a verdict's own tilted distribution has beyond both.
    """
    (count, n), judges_count = stack.prior_mean.shape, len(judges.bias)
    size, precision = 3 * judges_count + 1, float(np.exp(judges.log_precision))
    distance = posterior.mean - stack.prior_mean
    own = np.diagonal(posterior.covariance, axis1=1, axis2=2)
    pull = 0.5 * precision * (distance**2 + own).sum(axis=1)
    scores, mixed = np.zeros((count, size)), np.zeros((count, size, n))
    scores[:, -1], mixed[:, -1] = 0.5 * n - pull, -precision * distance
    complete, missing = np.zeros((size, size)), np.zeros((size, size))
    complete[-1, -1] = pull.sum()
    for judge in np.unique(stack.judge):
        chosen = stack.judge == judge
        places = [int(judge), judges_count + int(judge), 2 * judges_count + int(judge)]
        for place, first, cross in zip(places, (here.a, here.b, here.t), (here.da, here.db, here.dt), strict=True):
            scores[:, place] = np.bincount(stack.slot[chosen], weights=first[chosen], minlength=count)
            mixed[:, place] = stack.incidence(np.where(chosen, cross, 0.0))
        second = ((here.aa, here.ab, here.at), (here.ab, here.bb, here.bt), (here.at, here.bt, here.tt))
        complete[np.ix_(places, places)] -= [[float(values[chosen].sum()) for values in row] for row in second]
        missing[np.ix_(places, places)] += here.beyond[:, :, chosen].sum(axis=2)
    missing = missing + np.einsum("bpi,bij,bqj->pq", mixed, posterior.covariance, mixed, optimize=True)
    places = [*np.unique(stack.judge).tolist(), size - 1]
    missing[np.ix_(places, places)] += quadratic_part(stack, posterior, here.bend, precision)
    residual, spread = squared_residuals(stack, judges, model, here.nodes, here.weights)
    return Sums(scores, complete, missing, summed(stack.judge, residual, judges_count), summed(stack.judge, spread, judges_count))


def quadratic_part(stack: VoteStack, posterior: Posterior, bend: Floats, precision: float) -> Floats:
    """Covariance of the quadratic parts of the scores, for the log slopes of the judges at hand and, last, the log precision.

    Equation: Cov(theta' M theta / 2, theta' N theta / 2) = tr(M C N C) / 2 around the mean; M = sum of k_v u_v u_v' over the
    judge's verdicts, u_v = e_i - e_j; M = -precision * I for the precision.
    """
    count, n = stack.prior_mean.shape
    products = [
        laplacians(n, count, stack.slot, stack.i, stack.j, np.where(stack.judge == judge, bend, 0.0)) @ posterior.covariance
        for judge in np.unique(stack.judge)
    ]
    products.append(-precision * posterior.covariance)
    return np.array([[0.5 * float(np.einsum("bij,bji->", left, right)) for right in products] for left in products])


def prior_terms(judges: JudgeParameters) -> tuple[Floats, Floats]:
    """Gradient and precision (P,) of the weak priors."""
    count = len(judges.bias)
    precision = np.concatenate(
        [np.full(count, SLOPE_SD**-2), np.full(count, BIAS_SD**-2), np.full(count, TIE_SD**-2), [PRECISION_SD**-2]]
    )
    distance = np.concatenate([judges.log_slope, judges.bias, judges.log_tie - TIE_CENTRE, [judges.log_precision]])
    return -precision * distance, precision


def local_model(sums: Sums, judges: JudgeParameters, basis: Floats) -> tuple[Floats, Floats]:
    """Gradient in the free directions, and the inverse information there.

    The observed information is used where it is positive definite; far from the optimum it may not be, and the complete
    information gives the (slower, always uphill) step of EM.
    """
    pull, precision = prior_terms(judges)
    gradient = basis.T @ (sums.scores.sum(axis=0) + pull)
    prior = np.diag(precision)
    for matrix in (
        sums.complete - sums.missing + prior,
        sums.complete + prior,
        np.diag(np.abs(np.diagonal(sums.complete))) + prior,
    ):
        reduced = basis.T @ matrix @ basis
        values, vectors = np.linalg.eigh(reduced)
        if values.min() > 1e-3 * precision.min():
            inverse = (vectors / values) @ vectors.T
            return gradient, inverse
    raise ConvergenceError(
        "the information of the judges' parameters is not a finite matrix: the verdicts lie beyond floating point."
    )


def judge_fit(
    judges: JudgeParameters,
    sums: Sums,
    basis: Floats,
    inverse: Floats,
    converged: bool,
    rounds: int,
    posteriors: list[Posterior],
) -> JudgeFit:
    """Add standard errors to the estimates.

    Equation: A^-1 (sum over queries of s s' + prior) A^-1 with s a query's gradient (White 1982, clustered by query), which holds
    for soft verdicts too; A^-1 alone where queries are fewer than 20 or than three per parameter.
    """
    queries, (size, free) = len(sums.scores), basis.shape
    kind: Errors = "sandwich" if queries >= max(MANY_QUERIES, 3 * free) else "information"
    covariance = inverse
    if kind == "sandwich":
        scores = sums.scores @ basis
        scores = scores - scores.mean(axis=0)
        meat = scores.T @ scores * (queries / (queries - free)) + basis.T @ np.diag(prior_terms(judges)[1]) @ basis
        covariance = inverse @ meat @ inverse
    error = np.sqrt(np.maximum(np.einsum("pi,ij,pj->p", basis, covariance, basis), 0.0))
    count = (size - 1) // 3
    return JudgeFit(
        judges, judges.slope * error[:count], error[count : 2 * count], error[2 * count : -1], kind, converged, rounds, posteriors
    )
