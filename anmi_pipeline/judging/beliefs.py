"""What is believed about every query after its verdicts so far: scores with their joint uncertainty, and each pair's probability.

Belongs here: posteriors by query, and the frames that routing, stopping and the audit queue read. Does not: folding verdicts
(`rating/comparisons.py`), their decisions, and the Elo table (`rating/elo.py`). A query's belief depends on its own verdicts,
the weights and the prior alone, never on other queries.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from anmi_pipeline.rating.adaptive import LOGISTIC_WIDTH
from anmi_pipeline.rating.comparisons import DOCUMENT, PAIR, flatten
from anmi_pipeline.rating.config import Model
from anmi_pipeline.rating.graphs import Floats, Ints
from anmi_pipeline.rating.prior import ScorePrior
from anmi_pipeline.rating.rounds import FLAT_PRECISION, Belief

PAIR_BELIEFS = {
    "query_id": pl.String(),
    "doc_i": pl.String(),
    "doc_j": pl.String(),
    "probability": pl.Float64(),  # P(the next verdict prefers doc_i), uncertainty of the scores averaged over
    "priority": pl.Float64(),  # doubt about it in bits times the rank discounts of both documents
}
"""Columns of `pair_beliefs`."""


@dataclass(frozen=True)
class QueryBelief:
    """The posterior of one query with n documents.

    Attributes:
        query_id: the query.
        documents: (n,) ids, sorted.
        theta: (n,) posterior mode, sum 0, probit units.
        covariance: (n, n) of theta, probit units, up to a constant: only variances of differences mean something.
        asked: (m, 2) pairs compared, as places in `documents`.
        preference: (m,) folded preference for the first.
        weight: (m,) their evidence, in verdicts.
    """

    query_id: str
    documents: list[str]
    theta: Floats
    covariance: Floats
    asked: Ints
    preference: Floats
    weight: Floats

    def probabilities(self, pairs: Ints) -> Floats:
        """(m,) P(the next verdict prefers the first document).

        Equation: E Phi(d) = Phi(g / sqrt(1 + v)) over d ~ N(g, v), g and v the difference's mean and variance.
        """
        from scipy.special import ndtr

        i, j = pairs[:, 0], pairs[:, 1]
        own = np.diag(self.covariance)
        variance = np.maximum(own[i] + own[j] - 2 * self.covariance[i, j], 0.0)
        return ndtr((self.theta[i] - self.theta[j]) / np.sqrt(1 + variance))

    def discounts(self) -> Floats:
        """(n,) 1 / log2(rank + 1) by posterior mode, rank from 1."""
        rank = np.empty(len(self.theta), dtype=np.int64)
        rank[np.argsort(-self.theta, kind="stable")] = np.arange(len(self.theta))
        return 1.0 / np.log2(rank + 2.0)


def query_beliefs(
    comparisons: pl.DataFrame,
    documents: pl.DataFrame,
    *,
    prior: ScorePrior | None = None,
    model: Model = "thurstone",
    prior_precision: float = FLAT_PRECISION,
) -> Iterator[QueryBelief]:
    """Yield the posterior of every query, stack by stack of equally large ones.

    Args:
        comparisons: query_id, doc_i, doc_j, preference, weight (`comparisons.weighted_comparisons`, `fold_judgments`).
        documents: query_id, doc_id of every document that could be compared, with features where there is a prior.
        prior: the frozen prior; None for a flat one.
        model: link of the fit; theta and covariance are given in probit units whatever it is.
        prior_precision: precision of the flat prior.

    Raises:
        InputError: a comparison of a document that is not among the documents.
    """
    known = documents.unique(DOCUMENT, keep="first").sort(DOCUMENT)
    pairs = comparisons.sort(PAIR)
    batch, names = flatten(pairs, known.select(DOCUMENT))
    preference = pairs["preference"].cast(pl.Float64()).to_numpy()
    ids = known["doc_id"].to_list()
    width = LOGISTIC_WIDTH if model == "bradley_terry" else 1.0
    for queries, theta, covariance in Belief(batch, preference, known, prior, model, prior_precision).stacks():
        for slot, query in enumerate(queries.tolist()):
            edges = slice(int(batch.edge_ptr[query]), int(batch.edge_ptr[query + 1]))
            yield QueryBelief(
                query_id=names[query],
                documents=ids[int(batch.offsets[query]) : int(batch.offsets[query + 1])],
                theta=theta[slot] / width,
                covariance=covariance[slot] / width**2,
                asked=np.column_stack((batch.i[edges], batch.j[edges])).astype(np.int64),
                preference=preference[edges],
                weight=batch.weight[edges],
            )


def pair_beliefs(
    comparisons: pl.DataFrame,
    documents: pl.DataFrame,
    *,
    prior: ScorePrior | None = None,
    model: Model = "thurstone",
    prior_precision: float = FLAT_PRECISION,
) -> pl.DataFrame:
    """Say of every compared pair how probable its next verdict is, and how much it matters.

    Equation: priority = H(p) / (log2(r_i + 1) log2(r_j + 1)), H the entropy in bits and r the ranks by posterior mode.

    Args:
        comparisons: as `query_beliefs`; the pairs that the result is about. A pair without a vote takes part with weight 0.
        documents: as `query_beliefs`.
        prior: as `query_beliefs`.
        model: as `query_beliefs`.
        prior_precision: as `query_beliefs`.

    Returns:
        PAIR_BELIEFS columns, sorted.
    """
    parts = [pl.DataFrame(schema=PAIR_BELIEFS)]
    for belief in query_beliefs(comparisons, documents, prior=prior, model=model, prior_precision=prior_precision):
        ids, discount = np.array(belief.documents, dtype=object), belief.discounts()
        i, j = belief.asked[:, 0], belief.asked[:, 1]
        p = belief.probabilities(belief.asked)
        parts.append(
            pl.DataFrame(
                {
                    "query_id": [belief.query_id] * len(p),
                    "doc_i": ids[i].tolist(),
                    "doc_j": ids[j].tolist(),
                    "probability": p,
                    "priority": entropy(p) * discount[i] * discount[j],
                },
                schema=PAIR_BELIEFS,
            )
        )
    return pl.concat(parts).sort(PAIR)


def entropy(p: Floats) -> Floats:
    """Entropy of a verdict in bits."""
    from scipy.special import entr

    return np.asarray((entr(p) + entr(1 - p)) / np.log(2.0), dtype=np.float64)
