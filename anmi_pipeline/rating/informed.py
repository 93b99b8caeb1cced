"""Rating under the informative prior: posterior means and errors of the scores, and what the prior alone knows of the verdicts.

Belongs here: the fit of flat arrays under a given `ScorePrior`. Does not: estimating the prior (`prior.py`), the fit under mean
zero (`fit.py`), frames of results (`elo.py`).
"""

from dataclasses import replace
from math import log

import numpy as np
import polars as pl

from anmi_pipeline.progress import Progress, silent
from anmi_pipeline.rating.config import LOGISTIC_ELO, PROBIT_ELO, Model, RatingConfig
from anmi_pipeline.rating.fit import RatingFit, fit_batch
from anmi_pipeline.rating.graphs import Floats, GraphBatch
from anmi_pipeline.rating.likelihood import edge_log_likelihood
from anmi_pipeline.rating.prior import ScorePrior
from anmi_pipeline.rating.rounds import Belief


def informed_fit(
    batch: GraphBatch,
    preference: Floats,
    features: pl.DataFrame,
    prior: ScorePrior,
    config: RatingConfig,
    progress: Progress = silent,
) -> RatingFit:
    """Fit every query under an informative prior.

    Equation: theta = posterior mean, std_error = posterior standard deviation of theta minus its query's mean, sqrt(C_ii - 2
    mean_j C_ij + mean_jk C_jk). A sandwich (HC3) would be wrong here: it measures the scatter of an estimate around its own
    shrunken mean, not around the truth. Status, components, iterations and gradient are those of the Gaussian fit with the
    prior's mean and precision, from which the mixture's posterior differs by its second component alone.

    Args:
        batch: the graphs.
        preference: (E,) preference for i.
        features: of every document, sorted like the batch.
        prior: the prior.
        config: model and tolerance.
        progress: told how many queries are done.
    """
    mean = prior.mean(features)
    fit = fit_batch(
        batch.n_items, batch.edge_ptr, batch.i, batch.j, preference, weight=batch.weight, model=config.model,
        prior_precision=prior.precision, prior_mean=mean, std_error="none", tol=config.tolerance,
    )  # fmt: skip
    theta, error = np.zeros(len(mean)), np.zeros(len(mean))
    done = 0
    for queries, scores, covariance in Belief(batch, preference, features, prior, config.model, prior.precision).stacks():
        documents = batch.offsets[queries][:, None] + np.arange(scores.shape[1])
        theta[documents] = scores - scores.mean(axis=1, keepdims=True)
        own = np.diagonal(covariance, axis1=1, axis2=2)
        centred = own - 2.0 * covariance.mean(axis=2) + covariance.mean(axis=(1, 2))[:, None]
        error[documents] = np.sqrt(np.maximum(centred, 0.0))
        done += len(queries)
        progress(done, len(batch.n_items), "queries")
    gap = theta[batch.head] - theta[batch.tail]
    each = batch.weight * edge_log_likelihood(gap, preference, config.model)
    fitted = np.bincount(batch.edge_query, weights=each, minlength=len(batch.n_items))
    return replace(fit, theta=theta, std_error=error, log_likelihood=fitted)


def prior_gain(batch: GraphBatch, preference: Floats, features: pl.DataFrame, prior: ScorePrior, model: Model) -> float:
    """What the retrievers' scores alone tell about the verdicts through the prior: nats per verdict over a coin.

    Equation: log 2 + mean over verdicts of log P(verdict), P(i preferred) = Phi((m_i - m_j) / sqrt(1 + v_i + v_j)) with the
    prior's means and variances; a logistic theta counts 1 / 1.702. 0 where nothing was answered.
    """
    total = float(batch.weight.sum())
    if not total:
        return 0.0
    unit = 1.0 if model == "thurstone" else PROBIT_ELO / LOGISTIC_ELO
    mixture = prior.mixture(features)
    flat = (prior.mean(features), np.full(features.height, prior.precision))
    mean, precision = flat if mixture is None else mixture.moments()
    variance = 1.0 / precision / unit**2
    spread = np.sqrt(1.0 + variance[batch.head] + variance[batch.tail])
    gap = (mean[batch.head] - mean[batch.tail]) / unit / spread
    return log(2.0) + float((batch.weight * edge_log_likelihood(gap, preference, "thurstone")).sum()) / total
