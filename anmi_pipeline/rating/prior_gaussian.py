"""Empirical Bayes for a Gaussian prior: slopes and variance that all queries share.

Belongs here: the fit of `theta ~ N(X beta, s^2)` on arrays. Does not: the prior that a pipeline uses (`prior.py`) and the mixture
(`prior_mixture.py`).
"""

import numpy as np

from anmi_pipeline.rating.graphs import Floats
from anmi_pipeline.rating.mixture import Mixture, Sites, mixture_posterior
from anmi_pipeline.rating.posterior import Evidence

PRECISIONS = (0.05, 400.0)
"""Smallest and largest precision the fit may give, 1/theta^2: standard deviations from .05 to 4.5."""

SLOPE_PRECISION = 1.0
"""Precision of the slopes around their start: one unit of theta per unit of z either way, which some hundred verdicts outvote."""

PSEUDO_DOCUMENTS = 2.0
"""Documents that the starting variance counts as."""

ROUNDS = 60
INNER_PASSES = 3
TOLERANCE = 1e-3
"""Largest change of a slope, and of the logarithm of the precision, in a round that ends the fit."""


def fit_gaussian(evidence: Evidence, start: Floats, origin: float) -> tuple[Floats, float]:
    """Slopes and precision of theta ~ N(X beta, 1 / precision) that maximise the marginal likelihood of all verdicts.

    Equation: with m and C the posterior's mean and covariance by expectation propagation and I the information of its verdicts,
    beta moves by Newton steps (precision X' C I X)^-1 precision X' (m - X beta), and s^2 = |m - X beta|^2 / sum over queries of
    (n - precision tr C), the fixed point of the marginal likelihood. A regression of fitted theta on X would give slopes shrunk
    by the very prior the fit had; the posterior's shrinkage is undone here by C I.
    Weak priors keep every case finite: beta ~ N(start, 1) and two documents' worth of the starting variance.
    Source: MacKay, Neural Computation 4 (1992), for the fixed point; Nickisch and Rasmussen, JMLR 9 (2008), for why not Laplace,
    which gave standard deviations 35 % too small at two 0/1 verdicts a document.

    Args:
        evidence: graphs, preferences and centred features.
        start: (p,) slopes that the fit is drawn to.
        origin: precision that the fit is drawn to.
    """
    slopes, precision = start, origin
    sites = Sites.of(gaussian(evidence, slopes, precision), evidence.batch, evidence.preference, evidence.model)
    for _ in range(ROUNDS):
        step, fresh = update(evidence, sites, slopes, precision, start, origin)
        done = max(float(np.abs(step).max(initial=0.0)), abs(float(np.log(fresh / precision)))) < TOLERANCE
        slopes, precision = slopes + step, fresh
        if done:
            break
    return slopes, precision


def gaussian(evidence: Evidence, slopes: Floats, precision: float) -> Mixture:
    """The prior as a mixture whose upper component is empty."""
    mean = evidence.design @ slopes
    return Mixture(np.zeros(len(mean)), mean, mean, precision, precision)


def update(
    evidence: Evidence, sites: Sites, slopes: Floats, precision: float, start: Floats, origin: float
) -> tuple[Floats, float]:
    """One round: the step of the slopes and the new precision; `sites` are brought up to date."""
    design, batch = evidence.design, evidence.batch
    curvature = SLOPE_PRECISION * np.eye(len(slopes))
    free = 0.0
    prior = gaussian(evidence, slopes, precision)
    # A Gaussian prior is its own site: set, not approached pass by pass.
    sites.mean[:], sites.precision[:] = prior.low, precision
    for stack in mixture_posterior(
        batch, evidence.preference, prior, evidence.model, start=sites, passes=INNER_PASSES, exact=True
    ):
        sites.put(stack.block, stack.sites)
        rows = design[stack.block.documents]
        # I = C^-1 - precision, so precision X' C I X = precision (X' X - precision X' C X).
        curvature += precision * np.einsum("bnp,bnr->pr", rows, rows - precision * (stack.covariance @ rows))
        free += rows.shape[0] * rows.shape[1] - precision * float(np.trace(stack.covariance, axis1=1, axis2=2).sum())
    away = sites.theta - prior.low
    away = away - np.repeat(np.add.reduceat(away, batch.offsets[:-1]) / batch.n_items, batch.n_items)
    gradient = precision * design.T @ away - SLOPE_PRECISION * (slopes - start)
    variance = (float(away @ away) + PSEUDO_DOCUMENTS / origin) / (max(free, 0.0) + PSEUDO_DOCUMENTS)
    step = np.linalg.solve(curvature, gradient).astype(np.float64, copy=False)
    return step, float(np.clip(1.0 / variance, *PRECISIONS))
