"""What a verdict says when judges differ: discrimination, position bias and tie parameter inside the link.

Belongs here: the parameters of the judges, stacks of verdicts, the derivatives of a verdict's log-likelihood, averaged over what
is not known about the scores. Does not: estimating the parameters (`judge_fit.py`), scores and inputs (`votes.py`).
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeGuard

import numpy as np

from anmi_pipeline.rating.config import Model
from anmi_pipeline.rating.graphs import Block, Floats, GraphBatch, Ints, summed
from anmi_pipeline.rating.likelihood import edge_derivatives, edge_log_likelihood, log_cdf
from anmi_pipeline.rating.ties import TIES_MODELS, Outcomes, TiesModel, outcome_masses, probabilities, ties_derivatives
from anmi_pipeline.rating.ties import ties_log_likelihood as log_likelihood_with_ties

VoteModel = Literal["thurstone", "bradley_terry", "thurstone_ties", "davidson"]
VOTE_MODELS: tuple[VoteModel, ...] = ("thurstone", "bradley_terry", "thurstone_ties", "davidson")

HERMITE_NODES = 7
MAX_DOCUMENTS = 2_000
"""Most documents of one query: the judges' likelihood needs the full covariance of its scores (32 MB at this size)."""


@dataclass(frozen=True)
class JudgeParameters:
    """How G judges answer: P(first preferred) = F(slope * (theta_i - theta_j) + bias), i the document shown first.

    Attributes:
        log_slope: (G,) logarithm of the discrimination; its mean, weighted by verdicts, is 0.
        bias: (G,) position bias towards the document shown first, in units of the link.
        log_tie: (G,) logarithm of tau or nu; without effect in models without ties.
        log_precision: logarithm of 1 / Var(theta), estimated beside the judges.
        dispersion: (G,) variance of a verdict over that of one coin flip: 1 for hard verdicts, below it for soft ones.
    """

    log_slope: Floats
    bias: Floats
    log_tie: Floats
    log_precision: float
    dispersion: Floats

    @property
    def slope(self) -> Floats:
        """(G,) discrimination."""
        return np.exp(self.log_slope)


@dataclass(frozen=True)
class VoteStack:
    """The verdicts of B queries with n documents each.

    Attributes:
        block: where the queries stand in the batch.
        i: (e,) document shown first.
        j: (e,) document shown second.
        p: (e,) P(first preferred) as the judge gave it.
        masses: (e,) masses of win, tie and loss.
        judge: (e,) code of the judge.
        prior_mean: (B, n) prior mean of theta.
        labels: (B, n) connected components.
    """

    block: Block
    i: Ints
    j: Ints
    p: Floats
    masses: Outcomes
    judge: Ints
    prior_mean: Floats
    labels: Ints

    @property
    def slot(self) -> Ints:
        """(e,) query of each verdict within the stack."""
        return self.block.slot

    def differences(self, theta: Floats) -> Floats:
        """(e,) theta_i - theta_j."""
        return theta[self.slot, self.i] - theta[self.slot, self.j]

    def incidence(self, values: Floats) -> Floats:
        """(B, n) sum of the values over verdicts, + at the first document, - at the second."""
        count, n = self.prior_mean.shape
        base = self.slot * n
        return (summed(base + self.i, values, count * n) - summed(base + self.j, values, count * n)).reshape(count, n)


def vote_stacks(batch: GraphBatch, p: Floats, judge: Ints, prior_mean: Floats) -> list[VoteStack]:
    """Cut a batch of verdicts into stacks of queries with equally many documents."""
    masses, labels = outcome_masses(p), batch.labels
    stacks: list[VoteStack] = []
    for block in batch.blocks():
        edges = block.edges
        own = Outcomes(masses.win[edges], masses.tie[edges], masses.loss[edges])
        stacks.append(
            VoteStack(
                block, batch.i[edges], batch.j[edges], p[edges], own, judge[edges],
                prior_mean[block.documents], labels[block.documents],
            )
        )  # fmt: skip
    return stacks


def has_ties(model: VoteModel) -> TypeGuard[TiesModel]:
    """Whether the model has a tie outcome."""
    return model in TIES_MODELS


def plain(model: VoteModel) -> Model:
    """The model without ties of the same link."""
    return "thurstone" if model in ("thurstone", "thurstone_ties") else "bradley_terry"


def vote_log_likelihood(eta: Floats, stack: VoteStack, log_tie: Floats, model: VoteModel) -> Floats:
    """Log-likelihood of each verdict at the judge's own difference eta = slope * d + bias."""
    if has_ties(model):
        return log_likelihood_with_ties(eta, log_tie[stack.judge], stack.masses, model)
    return edge_log_likelihood(eta, stack.p, plain(model))


@dataclass(frozen=True)
class Sites:
    """What each verdict contributes to the normal posterior: exp(pull * d - precision * d^2 / 2), each (e,)."""

    precision: Floats
    pull: Floats


@dataclass(frozen=True)
class Expected:
    """Derivatives of the verdicts' log-likelihood, averaged over what is not known about d; each (e,).

    Suffixes name the variables: `d` the difference, `a` the log slope, `b` the bias, `t` the log tie parameter. `mean` and
    `variance` are those of d under the distribution of the average, whose (K, e) `nodes` and `weights` follow.
    `bend` is the curvature of the score in a, k of k d^2 / 2; `beyond` (3, 3, e) the covariance of the scores in (a, b, t) beyond
    what is linear in d and, for a, quadratic.
    """

    d: Floats
    a: Floats
    b: Floats
    t: Floats
    dd: Floats
    da: Floats
    db: Floats
    dt: Floats
    aa: Floats
    ab: Floats
    at: Floats
    bb: Floats
    bt: Floats
    tt: Floats
    mean: Floats
    variance: Floats
    nodes: Floats
    weights: Floats
    bend: Floats
    beyond: Floats


def tilted(
    stack: VoteStack, judges: JudgeParameters, model: VoteModel, mean: Floats, variance: Floats, sites: Sites
) -> tuple[Floats, Floats]:
    """Nodes (7, e) and weights (7, e) of each difference's tilted posterior.

    Equation: posterior N(mean, variance) without the verdict's own normal site, times its true likelihood ^ (1 / dispersion)
    (Minka 2001), by Gauss-Hermite at the posterior: weights times likelihood / site, a smooth ratio, so that 7 nodes do.
    """
    nodes, weights = hermite()
    d = mean + nodes[:, None] * np.sqrt(variance)
    eta = judges.slope[stack.judge] * d + judges.bias[stack.judge]
    ratio = vote_log_likelihood(eta, stack, judges.log_tie, model) / judges.dispersion[stack.judge]
    ratio -= sites.pull * d - 0.5 * sites.precision * d**2
    heavy = weights[:, None] * np.exp(ratio - ratio.max(axis=0))
    return d, heavy / heavy.sum(axis=0)


def expected_derivatives(stack: VoteStack, judges: JudgeParameters, model: VoteModel, d: Floats, weights: Floats) -> Expected:
    """Average every derivative of the log-likelihood / dispersion over weighted differences.

    Equation: chain rule on eta = exp(a) d + b.

    Args:
        stack: the verdicts.
        judges: the judges' parameters.
        model: the link.
        d: (K, e) differences.
        weights: (K, e) their weights, which sum to 1.
    """
    scaled = judges.slope[stack.judge] * d
    g, h, gt, ht, htt = link_derivatives(stack, judges, model, scaled + judges.bias[stack.judge])
    slope, share = judges.slope[stack.judge], 1 / judges.dispersion[stack.judge]

    def average(values: Floats) -> Floats:
        return np.einsum("ke,ke->e", weights, values)

    g, h, ht, gt = g * share, h * share, ht * share, gt * share
    mean_g, mean_h, mean_ht, a, ab = average(g), average(h), average(ht), average(g * scaled), average(h * scaled)
    mean = average(d)
    variance = average((d - mean) ** 2)
    da, db, dt = slope * (ab + mean_g), slope * mean_h, slope * mean_ht
    centred = (g * scaled - a, g - mean_g, gt - average(gt))
    linear = (da, db, dt)
    beyond = np.array(
        [
            [average(x * y) - u * v * variance for y, v in zip(centred, linear, strict=True)]
            for x, u in zip(centred, linear, strict=True)
        ]
    )
    bend = average(centred[0] * ((d - mean) ** 2 - variance)) / np.maximum(variance, 1e-100) ** 2
    beyond[0, 0] -= 0.5 * bend**2 * variance**2
    return Expected(
        d=slope * mean_g, a=a, b=mean_g, t=average(gt),
        dd=slope**2 * mean_h, da=da, db=db, dt=dt,
        aa=average(h * scaled**2) + a, ab=ab, at=average(ht * scaled), bb=mean_h, bt=mean_ht, tt=average(htt) * share,
        mean=mean, variance=variance, nodes=d, weights=weights, bend=bend, beyond=beyond,
    )  # fmt: skip


def link_derivatives(
    stack: VoteStack, judges: JudgeParameters, model: VoteModel, eta: Floats
) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """First and second derivatives in eta, then first, mixed and second in the log tie parameter (zeros without ties)."""
    if has_ties(model):
        raw = ties_derivatives(eta, judges.log_tie[stack.judge], stack.masses, model)
        return raw.d, raw.dd, raw.tie, raw.d_tie, raw.tie_tie
    slope, bend = edge_derivatives(eta, stack.p, plain(model))
    none = np.zeros_like(eta)
    return slope, -bend, none, none, none


def squared_residuals(
    stack: VoteStack, judges: JudgeParameters, model: VoteModel, d: Floats, weights: Floats
) -> tuple[Floats, Floats]:
    """(e,) expected squared residual of each verdict, and the variance that an answer of win, tie (.5) or loss would have."""
    eta = judges.slope[stack.judge] * d + judges.bias[stack.judge]
    if has_ties(model):
        p = probabilities(eta, judges.log_tie[stack.judge], model)
        first, variance = p.win + 0.5 * p.tie, p.win * p.loss + 0.25 * p.tie * (p.win + p.loss)
    else:
        first = np.exp(log_cdf(eta, plain(model)))
        variance = first * np.exp(log_cdf(-eta, plain(model)))
    return np.einsum("ke,ke->e", weights, (stack.p - first) ** 2), np.einsum("ke,ke->e", weights, variance)


def predicted_outcomes(
    mean: Floats, variance: Floats, judge: Ints, judges: JudgeParameters, model: VoteModel
) -> tuple[Floats, Outcomes | None]:
    """Predict verdicts that were not seen: P(first preferred), ties counting half, and the three outcomes of a ties model.

    Equation: average of F(slope d + bias) over d ~ N(mean, variance) by Gauss-Hermite: a prediction that
    knows how little it knows.
    """
    nodes, weights = hermite()
    d = mean + nodes[:, None] * np.sqrt(variance)
    eta = judges.slope[judge] * d + judges.bias[judge]
    if not has_ties(model):
        return np.asarray(weights @ np.exp(log_cdf(eta, plain(model))), dtype=np.float64), None
    p = probabilities(eta, judges.log_tie[judge], model)
    outcomes = Outcomes(weights @ p.win, weights @ p.tie, weights @ p.loss)
    return outcomes.win + 0.5 * outcomes.tie, outcomes


@cache
def hermite() -> tuple[Floats, Floats]:
    """Nodes and weights of Gauss-Hermite for the standard normal distribution."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(HERMITE_NODES)
    return np.asarray(nodes, dtype=np.float64), np.asarray(weights / weights.sum(), dtype=np.float64)
