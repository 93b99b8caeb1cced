"""When to stop asking: how settled the top of each query is, and what the next calls would be worth.

Belongs here: the stop rule and the marginal value of calls, from scores and their covariance. Does not: which pairs are asked
next (`rating/adaptive.py`), prices and caps. All figures are expectations under the posterior: they are as good as its model.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.beliefs import QueryBelief, query_beliefs
from anmi_pipeline.judging.config import StopRule
from anmi_pipeline.judging.plan import query_generator
from anmi_pipeline.rating.adaptive import CAP, next_pairs
from anmi_pipeline.rating.config import Model
from anmi_pipeline.rating.graphs import Floats, Ints
from anmi_pipeline.rating.likelihood import inverse_mills
from anmi_pipeline.rating.prior import ScorePrior
from anmi_pipeline.rating.rounds import FLAT_PRECISION

STREAM = -1
"""Number of the generator of posterior draws of a query; those of rounds count from 0."""
NODES = 9
"""Nodes of the average over an uncertain difference."""

OUTLOOKS = {
    "query_id": pl.String(),
    "settled": pl.Float64(),  # P(the present ranking loses at most `tolerance` nDCG@k)
    "top_unchanged": pl.Float64(),  # P(the true top k are the present top k, in any order)
    "expected_ndcg": pl.Float64(),  # E nDCG@k of the present ranking
    "calls": pl.Int64(),  # calls of the next batch
    "gain": pl.Float64(),  # expected rise of nDCG@k by that batch
    "gain_per_call": pl.Float64(),
    "gain_per_usd": pl.Float64(),  # null without a price
    "stop": pl.Boolean(),
}
"""Columns of `outlooks`."""


@dataclass(frozen=True)
class Outlook:
    """What is expected of one query; fields as OUTLOOKS has them."""

    settled: float
    top_unchanged: float
    expected_ndcg: float
    calls: int
    gain: float


def outlooks(  # noqa: PLR0913  (the settings of the rule and of the fit)
    comparisons: pl.DataFrame,
    documents: pl.DataFrame,
    rule: StopRule,
    seed: int,
    *,
    usd_per_call: float | None = None,
    weight: float = 1.0,
    limits: Mapping[str, int] | None = None,
    prior: ScorePrior | None = None,
    model: Model = "thurstone",
    prior_precision: float = FLAT_PRECISION,
) -> pl.DataFrame:
    """Judge every query: is its top settled, and what would the next batch of calls be worth?

    Args:
        comparisons: query_id, doc_i, doc_j, preference, weight (`comparisons.weighted_comparisons`); a pair of weight 0 was asked
            without an answer.
        documents: query_id, doc_id of every document that could be compared, with features where there is a prior.
        rule: depth, tolerance, confidence.
        seed: seed of the dataset; a query's draws depend on it and the query's id alone.
        usd_per_call: price of a call; None where none is known.
        weight: evidence in one of the next verdicts, as in `comparisons`.
        limits: query id -> most calls of its next batch (what is left of its budget); absent queries get `rule.batch`.
        prior: the frozen prior; None for a flat one.
        model: link of the fit.
        prior_precision: precision of the flat prior.

    Returns:
        OUTLOOKS columns, by query.

    Raises:
        InputError: a price or weight that is not positive.
    """
    if (usd_per_call is not None and not usd_per_call > 0) or not weight > 0:
        raise InputError(f"usd_per_call is {usd_per_call} and weight {weight}; both must be above 0 (None: no price known).")
    rows: list[dict[str, object]] = []
    for belief in query_beliefs(comparisons, documents, prior=prior, model=model, prior_precision=prior_precision):
        calls = min(rule.batch, (limits or {}).get(belief.query_id, rule.batch))
        seen = outlook(belief, rule, query_generator(seed, belief.query_id, STREAM), calls, weight)
        per_call = seen.gain / seen.calls if seen.calls else 0.0
        per_usd = None if usd_per_call is None else per_call / usd_per_call
        worthless = per_usd is not None and per_usd < rule.min_gain_per_usd
        rows.append({
            "query_id": belief.query_id, "settled": seen.settled, "top_unchanged": seen.top_unchanged,
            "expected_ndcg": seen.expected_ndcg, "calls": seen.calls, "gain": seen.gain, "gain_per_call": per_call,
            "gain_per_usd": per_usd, "stop": seen.settled >= rule.confidence or worthless or not seen.calls,
        })  # fmt: skip
    return pl.DataFrame(rows, schema=OUTLOOKS).sort("query_id")


def outlook(belief: QueryBelief, rule: StopRule, rng: np.random.Generator, calls: int, weight: float = 1.0) -> Outlook:
    """Look ahead from one query's posterior.

    Equation: theta ~ N(mu, C). A batch of verdicts shrinks C to C' = C - A A', which is known before its outcomes (`shrinkage`);
    the new mean is m ~ N(mu, A A'), and theta ~ N(m, C'). gain = E[nDCG@k of ranking by m] - E[nDCG@k of ranking by mu], both
    against the same draws of theta. Source: the expected value of sample information, Raiffa and Schlaifer (1961).

    Args:
        belief: the posterior.
        rule: depth, tolerance, draws.
        rng: source of the draws.
        calls: most calls of the next batch; the pairs are those of the adaptive design.
        weight: evidence in one verdict.
    """
    n = len(belief.theta)
    if n < 2:
        return Outlook(1.0, 1.0, 1.0, 0, 0.0)
    pairs = next_pairs(belief.theta, belief.covariance, belief.asked, calls, cap=max(CAP, calls // 4))
    learnt, rest = shrinkage(belief, pairs, weight)
    mean = belief.theta + rng.standard_normal((rule.draws, learnt.shape[1])) @ learnt.T
    # A hair on the diagonal: rounding may leave the covariance a negative eigenvalue of that size.
    root = np.linalg.cholesky(rest + 1e-9 * float(np.trace(rest)) / n * np.eye(n))
    truth = mean + rng.standard_normal((rule.draws, n)) @ root.T
    gain = gains(truth)
    now = np.argsort(-belief.theta, kind="stable")[: rule.k]
    before = ndcg(gain, np.broadcast_to(now, (rule.draws, len(now))))
    after = ndcg(gain, np.argsort(-mean, axis=1, kind="stable")[:, : rule.k])
    top = np.argpartition(-truth, len(now) - 1, axis=1)[:, : len(now)]
    same = (np.sort(top, axis=1) == np.sort(now)).all(axis=1)
    return Outlook(
        settled=float((before >= 1 - rule.tolerance).mean()),
        top_unchanged=float(same.mean()),
        expected_ndcg=float(before.mean()),
        calls=len(pairs),
        gain=float((after - before).mean()) if len(pairs) else 0.0,
    )


def shrinkage(belief: QueryBelief, pairs: Ints, weight: float) -> tuple[Floats, Floats]:
    """Say how much verdicts on some pairs will teach, before they are in.

    Equation, verdict by verdict with e = e_i - e_j: a = C e sqrt(c / (1 + c e'Ce)), C <- C - a a', c = weight *
    E[phi^2 / (Phi (1 - Phi))] of the difference, its present uncertainty averaged over by Gauss-Hermite.

    Args:
        belief: the posterior.
        pairs: (m, 2) places of documents.
        weight: evidence in one verdict.

    Returns:
        (n, m) columns a, and the covariance that is left (n, n).
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    weights = weights / weights.sum()
    rest = belief.covariance.copy()
    learnt = np.zeros((len(rest), len(pairs)))
    for place, (i, j) in enumerate(pairs.tolist()):
        along = rest[:, i] - rest[:, j]
        variance = max(float(along[i] - along[j]), 0.0)
        d = belief.theta[i] - belief.theta[j] + nodes * variance**0.5
        curvature = weight * float(weights @ (inverse_mills(d) * inverse_mills(-d)))
        learnt[:, place] = along * (curvature / (1 + curvature * variance)) ** 0.5
        rest -= np.outer(learnt[:, place], learnt[:, place])
    return learnt, rest


def gains(theta: Floats) -> Floats:
    """(S, n) gains of (S, n) scores.

    Equation: 2^(4 u^2) - 1, u = theta scaled to 0..1 within the query: a document at the top counts 15, one half-way 1. Scores
    have no grades; this is the gain that the project's simulations of designs use.
    """
    low, high = theta.min(axis=1, keepdims=True), theta.max(axis=1, keepdims=True)
    return np.asarray(np.exp2(4 * ((theta - low) / np.maximum(high - low, 1e-12)) ** 2) - 1, dtype=np.float64)


def ndcg(gain: Floats, ranked: Ints) -> Floats:
    """(S,) nDCG@k of (S, k) ranked places against (S, n) gains; 1 where nothing has a gain."""
    k = ranked.shape[1]
    discount = 1 / np.log2(np.arange(k) + 2)
    best = -np.sort(np.partition(-gain, k - 1, axis=1)[:, :k], axis=1)
    ideal = best @ discount
    reached = np.take_along_axis(gain, ranked, axis=1) @ discount
    return np.where(ideal > 0, reached / np.where(ideal > 0, ideal, 1.0), 1.0)
