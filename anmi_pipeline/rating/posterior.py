"""Laplace posteriors of many queries: the scores with their joint uncertainty.

Belongs here: the covariance that choosing pairs and fitting the prior need. Does not: the fit of the scores (`fit.py`) and the
standard errors of the Elo table, which hold under a wrong model too (`fit.py`, HC3).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from anmi_pipeline.rating.config import Model
from anmi_pipeline.rating.fit import fit_batch
from anmi_pipeline.rating.graphs import Block, Floats, GraphBatch, laplacians
from anmi_pipeline.rating.likelihood import edge_derivatives


@dataclass(frozen=True)
class Laplace:
    """Gaussian approximations of the posteriors of B queries with n documents each.

    Attributes:
        block: the queries, their documents and their edges.
        theta: (B, n) posterior mode, sum 0 per query.
        information: (B, n, n) minus the Hessian of the log-likelihood: a weighted graph Laplacian.
        covariance: (B, n, n) of theta, up to a constant of the query: only variances of differences mean something.
    """

    block: Block
    theta: Floats
    information: Floats
    covariance: Floats


@dataclass(frozen=True)
class Evidence:
    """What the fit of a prior looks at.

    Attributes:
        batch: the graphs of the queries with verdicts.
        preference: (E,) preference for i.
        design: (sum n, p) features, centred within each query.
        model: link.
    """

    batch: GraphBatch
    preference: Floats
    design: Floats
    model: Model


def modes(
    batch: GraphBatch, preference: Floats, prior_mean: Floats | None, precision: float, model: Model, tol: float = 1e-6
) -> Floats:
    """(sum n,) posterior modes of all queries, sum 0 each."""
    return fit_batch(
        batch.n_items, batch.edge_ptr, batch.i, batch.j, preference, weight=batch.weight, model=model,
        prior_precision=precision, prior_mean=prior_mean, std_error="none", tol=tol,
    ).theta  # fmt: skip


def laplace(batch: GraphBatch, preference: Floats, theta: Floats, precision: float, model: Model) -> Iterator[Laplace]:
    """Approximate the posterior of every query by a Gaussian at its mode, stack by stack of equally large queries.

    Equation: covariance = (I(theta) + precision * 1 + 11'/n)^-1 with I the observed information. The last term only fixes the
    query's constant, which no verdict can tell: variances of differences stay as they are, and a weak prior stays invertible.
    Source: Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), section 3.4.

    Args:
        batch: the graphs; blocks of about 8 MB per n x n array bound the memory.
        preference: (E,) preference for i of each edge.
        theta: (sum n,) posterior modes.
        precision: precision of the Gaussian prior.
        model: link.
    """
    for block in batch.blocks():
        count, n = len(block.queries), block.n
        if not n:
            continue
        here = theta[block.documents]
        i, j = batch.i[block.edges], batch.j[block.edges]
        gap = here[block.slot, i] - here[block.slot, j]
        _, curvature = edge_derivatives(gap, preference[block.edges], model)
        information = laplacians(n, count, block.slot, i, j, batch.weight[block.edges] * curvature)
        covariance: Floats = np.linalg.inv(information + precision * np.eye(n) + 1.0 / n).astype(np.float64, copy=False)
        yield Laplace(block, here, information, covariance)
