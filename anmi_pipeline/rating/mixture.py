"""Posteriors under a prior that expects few relevant documents: two Gaussians per document, most of them in the lower one.

Belongs here: the mixture and the approximation of its posterior. Does not: estimating the mixture (`prior_mixture.py`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from anmi_pipeline.rating.config import Model
from anmi_pipeline.rating.graphs import Block, Floats, GraphBatch, Ints, laplacians, summed
from anmi_pipeline.rating.likelihood import edge_derivatives, edge_log_likelihood, log_cdf

PASSES = 12
"""Passes over the documents; a fixed number, so that a query's result depends on no other query."""

DAMPING = 0.6
"""Share of the new site in each pass (Minka and Lafferty 2002: undamped passes may oscillate)."""

SITE_PRECISIONS = (1e-2, 1e4)
"""Smallest and largest precision of a site: a posterior with two humps is wider than its cavity, which no Gaussian factor is."""

SMALLEST_REST = 1e-6
"""Smallest precision of what is left of a posterior without one of its factors."""

NODES = 12
"""Nodes of the quadrature over one difference."""

RESOLVED = 0.2
"""Share of a difference's variance that must be left for the quadrature to see it; so many verdicts on one pair that less is left
make Laplace's quadratic exact enough."""

LARGEST_STEP = 4.0
"""Largest change of theta in one pass; far starts otherwise overshoot."""


@dataclass(frozen=True)
class Mixture:
    """theta_i ~ (1 - share_i) N(low_i, 1 / low_precision) + share_i N(high_i, 1 / high_precision), independent.

    Attributes:
        share: (sum n,) prior probability of the upper component, that the document is relevant.
        low: (sum n,) means of the lower component.
        high: (sum n,) means of the upper component.
        low_precision: precision of the lower component.
        high_precision: precision of the upper component.
    """

    share: Floats
    low: Floats
    high: Floats
    low_precision: float
    high_precision: float

    def moments(self) -> tuple[Floats, Floats]:
        """(sum n,) means and precisions of theta."""
        mean = self.low + self.share * (self.high - self.low)
        below, above = 1.0 / self.low_precision, 1.0 / self.high_precision
        spread = self.share * (1.0 - self.share) * (self.high - self.low) ** 2
        return mean, 1.0 / ((1.0 - self.share) * below + self.share * above + spread)

    def at(self, documents: Ints) -> "Mixture":
        """The mixture of some documents, in their shape."""
        return Mixture(self.share[documents], self.low[documents], self.high[documents], self.low_precision, self.high_precision)

    def tilted(self, mean: Floats, variance: Floats) -> "Tilted":
        """Multiply the mixture by N(mean, variance), the rest of each document's posterior."""
        share = np.clip(self.share, 1e-200, 1.0 - 1e-16)
        log_odds = np.log(share) - np.log1p(-share)
        parts: list[tuple[Floats, Floats]] = []
        for sign, centre, precision in ((-1.0, self.low, self.low_precision), (1.0, self.high, self.high_precision)):
            wide = variance + 1.0 / precision
            log_odds = log_odds - sign * 0.5 * (np.log(wide) + (mean - centre) ** 2 / wide)
            own = 1.0 / (1.0 / variance + precision)
            parts.append((own * (mean / variance + precision * centre), own))
        chance = 1.0 / (1.0 + np.exp(-np.clip(log_odds, -500.0, 500.0)))
        (low, low_variance), (high, high_variance) = parts
        return Tilted(chance, low, low_variance, high, high_variance)


@dataclass(frozen=True)
class Tilted:
    """Marginal posteriors of documents: P(upper component), and mean and variance of theta within each component."""

    share: Floats
    low: Floats
    low_variance: Floats
    high: Floats
    high_variance: Floats

    def moments(self) -> tuple[Floats, Floats]:
        """Mean and variance of theta."""
        mean = self.low + self.share * (self.high - self.low)
        inside = (1.0 - self.share) * self.low_variance + self.share * self.high_variance
        return mean, inside + self.share * (1.0 - self.share) * (self.high - self.low) ** 2


@dataclass(frozen=True)
class Sites:
    """The Gaussians that stand for each document's prior and for each edge's verdicts.

    Attributes:
        theta: (sum n,) posterior means so far.
        mean: (sum n,) means of the factors of the priors.
        precision: (sum n,) their precisions.
        pull: (E,) precision times mean of the factors of the edges, in d = theta_i - theta_j.
        curvature: (E,) their precisions.
    """

    theta: Floats
    mean: Floats
    precision: Floats
    pull: Floats
    curvature: Floats

    @classmethod
    def of(cls, prior: Mixture, batch: GraphBatch, preference: Floats, model: Model) -> "Sites":
        """The sites before any pass: the prior's own moments, and the verdicts' quadratic there."""
        mean, precision = prior.moments()
        gap = mean[batch.head] - mean[batch.tail]
        return cls(mean.copy(), mean, precision, *quadratic(gap, preference, batch.weight, model))

    def of_block(self, block: Block) -> "Sites":
        """The sites of one stack: (B, n) for documents, (e,) for edges."""
        documents, edges = block.documents, block.edges
        return Sites(
            self.theta[documents], self.mean[documents], self.precision[documents], self.pull[edges], self.curvature[edges]
        )

    def put(self, block: Block, own: "Sites") -> None:
        """Write the sites of one stack into these."""
        for name in ("theta", "mean", "precision"):
            getattr(self, name)[block.documents] = getattr(own, name)
        for name in ("pull", "curvature"):
            getattr(self, name)[block.edges] = getattr(own, name)


def quadratic(gap: Floats, preference: Floats, weight: Floats, model: Model) -> tuple[Floats, Floats]:
    """Pull and curvature of each edge's log-likelihood, expanded at the present difference (Laplace)."""
    slope, curvature = edge_derivatives(gap, preference, model)
    return weight * (slope + curvature * gap), weight * curvature


@dataclass(frozen=True)
class MixturePosterior:
    """Approximate posteriors of B queries with n documents each.

    Attributes:
        block: the queries, their documents and their edges.
        sites: theta (B, n), the posterior mean, and the final sites.
        covariance: (B, n, n) of theta.
        marginals: of every document, (B, n) each.
    """

    block: Block
    sites: Sites
    covariance: Floats
    marginals: Tilted


def mixture_posterior(
    batch: GraphBatch,
    preference: Floats,
    prior: Mixture,
    model: Model,
    *,
    start: Sites | None = None,
    passes: int = PASSES,
    exact: bool = False,
) -> Iterator[MixturePosterior]:
    """Approximate every query's posterior under a mixture prior, stack by stack of equally large queries.

    Expectation propagation: in each pass each document's prior becomes the Gaussian that gives its marginal the mean and variance
    it has under the true mixture, all other factors as they stand. Verdicts become their quadratic at the present theta (Laplace)
    or, where `exact`, the Gaussian that gives their edge's difference its true mean and variance in the same way: under Laplace
    0/1 verdicts seem to ask for a smaller spread than they do, which choosing pairs forgives and estimating spreads does not.
    Source: Minka, UAI (2001); for spike-and-slab priors Hernandez-Lobato et al., Machine Learning 99 (2015); for verdicts
    Nickisch and Rasmussen, JMLR 9 (2008).

    Args:
        batch: the graphs.
        preference: (E,) preference for i.
        prior: the mixture of each document.
        model: link.
        start: where to start; the prior's moments by default.
        passes: passes over documents and edges.
        exact: whether edges are matched in their moments.
    """
    sites = start if start is not None else Sites.of(prior, batch, preference, model)
    for block in batch.blocks():
        if block.n:
            problem = Problem(block, batch, preference[block.edges], model, exact)
            yield propagate(problem, prior.at(block.documents), sites.of_block(block), passes)


@dataclass(frozen=True)
class Problem:
    """The verdicts of one stack."""

    block: Block
    batch: GraphBatch
    preference: Floats
    model: Model
    exact: bool

    @cached_property
    def ends(self) -> tuple[Ints, Ints]:
        """(e,) local indices of both documents."""
        return self.batch.i[self.block.edges], self.batch.j[self.block.edges]

    @cached_property
    def weight(self) -> Floats:
        """(e,) evidence."""
        return self.batch.weight[self.block.edges]

    def gaussian(self, sites: Sites) -> tuple[Floats, Floats]:
        """Mean (B, n) and covariance (B, n, n) under the sites."""
        slot, n, count = self.block.slot, self.block.n, len(self.block.queries)
        i, j = self.ends
        pull = summed(slot * n + i, sites.pull, count * n) - summed(slot * n + j, sites.pull, count * n)
        matrix = laplacians(n, count, slot, i, j, sites.curvature)
        diagonal = np.arange(n)
        matrix[:, diagonal, diagonal] += sites.precision
        covariance = np.linalg.inv(matrix).astype(np.float64, copy=False)
        right = pull.reshape(count, n) + sites.precision * sites.mean
        return (covariance @ right[:, :, None])[:, :, 0], covariance

    def edges(self, sites: Sites, theta: Floats, covariance: Floats) -> tuple[Floats, Floats]:
        """Pull and curvature of every edge, given the present posterior."""
        slot, (i, j) = self.block.slot, self.ends
        gap = theta[slot, i] - theta[slot, j]
        if not self.exact:
            return quadratic(gap, self.preference, self.weight, self.model)
        variance = covariance[slot, i, i] + covariance[slot, j, j] - 2.0 * covariance[slot, i, j]
        rest = np.maximum(1.0 / variance - sites.curvature, SMALLEST_REST)
        centre = (gap / variance - sites.pull) / rest
        mean, spread = self.tilted(centre, 1.0 / rest)
        rough_pull, rough = quadratic(gap, self.preference, self.weight, self.model)
        resolved = spread * rest > RESOLVED
        precision = 1.0 / np.where(resolved, spread, 1.0)
        curvature = np.where(resolved, np.maximum(precision - rest, 0.0), rough)
        pull = np.where(resolved, precision * mean - rest * centre, rough_pull)
        return blend(pull, sites.pull), blend(curvature, sites.curvature)

    def tilted(self, centre: Floats, variance: Floats) -> tuple[Floats, Floats]:
        """Mean and variance of each difference under N(centre, variance) times its verdicts, by Gauss-Hermite quadrature."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
        points = centre[:, None] + np.sqrt(variance)[:, None] * nodes
        mass = weights * likelihood(points, self.preference[:, None], self.weight[:, None], self.model)
        mass /= mass.sum(axis=1, keepdims=True)
        mean = (mass * points).sum(axis=1)
        return mean, (mass * (points - mean[:, None]) ** 2).sum(axis=1)


def likelihood(points: Floats, preference: Floats, weight: Floats, model: Model) -> Floats:
    """(e, nodes) likelihood of each edge's verdicts at some differences, up to a factor of the edge."""
    value = np.zeros_like(points)
    # One 0/1 verdict is by far the commonest edge: log F of one side is all it needs.
    single = ((weight == 1.0) & ((preference == 0.0) | (preference == 1.0)))[:, 0]
    value[single] = log_cdf((2.0 * preference[single] - 1.0) * points[single], model)
    rest = ~single
    value[rest] = weight[rest] * edge_log_likelihood(points[rest], preference[rest], model)
    return np.exp(value - value.max(axis=1, keepdims=True))


def blend(new: Floats, old: Floats) -> Floats:
    """The damped step from an old value to a new one."""
    return DAMPING * new + (1.0 - DAMPING) * old


def propagate(problem: Problem, prior: Mixture, sites: Sites, passes: int) -> MixturePosterior:
    """Run the passes of one stack."""
    diagonal = np.arange(problem.block.n)
    number = 0
    while True:
        wanted, covariance = problem.gaussian(sites)
        theta = sites.theta + np.clip(wanted - sites.theta, -LARGEST_STEP, LARGEST_STEP)
        own = covariance[:, diagonal, diagonal]
        rest = np.maximum(1.0 / own - sites.precision, SMALLEST_REST)
        centre = (theta / own - sites.precision * sites.mean) / rest
        marginals = prior.tilted(centre, 1.0 / rest)
        number += 1
        if number >= passes:
            sites = Sites(theta, sites.mean, sites.precision, sites.pull, sites.curvature)
            return MixturePosterior(problem.block, sites, covariance, marginals)
        mean, variance = marginals.moments()
        precision = blend(np.clip(1.0 / variance - rest, *SITE_PRECISIONS), sites.precision)
        moved = blend(mean / variance - rest * centre, sites.precision * sites.mean)
        sites = Sites(theta, moved / precision, precision, *problem.edges(sites, theta, covariance))
