"""When to give no answer: the abstention threshold and its promise.

Belongs here: choosing a threshold on queries without evidence and applying it. Does not: calibrated probabilities.
"""

import numpy as np
import polars as pl

from anmi_pipeline.evaluation.config import EvaluationConfig
from anmi_pipeline.evaluation.metrics import no_evidence_queries


def top_scores(run: pl.DataFrame) -> pl.DataFrame:
    """Return the best score of each query: (query_id, top_score)."""
    return run.group_by("query_id").agg(pl.col("score").max().alias("top_score"))


def abstain(run: pl.DataFrame, tops: pl.DataFrame, threshold: float | None) -> pl.DataFrame:
    """Drop every row of the queries whose top score is below the threshold."""
    if threshold is None:
        return run
    return run.join(tops.filter(pl.col("top_score") >= threshold), on="query_id", how="semi")


def certified_threshold(tops: np.ndarray, limit: float, confidence: float) -> float | None:
    """Find the lowest threshold whose false-evidence rate is certified to be at most `limit`.

    *Equation*: fixed-sequence testing (Learn then Test, Angelopoulos et al. 2021, arXiv:2110.01052): thresholds from high to low,
    each tested by P(Binomial(n, limit) <= answered) <= 1 - confidence; the last one before the first failure. Taking the lowest
    threshold that merely passes on the sample breaks the promise in about half of all samples.

    Args:
        tops: (n,) best score of each query without evidence, one value per query; -inf where nothing was returned.
        limit: tolerated share of them that get an answer.
        confidence: probability that the promise holds.

    Returns:
        The threshold, in score units; None when not even abstaining on all n queries proves the rate (n is too small).
    """
    from scipy.stats import binom

    n = len(tops)
    answered = np.arange(n + 1)
    passing = binom.cdf(answered, n, limit) <= 1 - confidence
    if n == 0 or not passing[0]:
        return None
    allowed = int(passing.sum()) - 1
    ordered = np.sort(tops)[::-1]
    # The (allowed + 1)-th best score must stay unanswered: the threshold is the next float above it. When that query got nothing
    # anyway, the system keeps the promise by itself and every finite score may pass.
    if np.isfinite(ordered[allowed]):
        return float(np.nextafter(ordered[allowed], np.inf))
    return float(min((top for top in tops if np.isfinite(top)), default=0.0))


def tuned_threshold(
    raw: pl.DataFrame, qrels: pl.DataFrame, select: pl.DataFrame, config: EvaluationConfig
) -> tuple[float | None, str]:
    """Choose the threshold on the dev_select queries without evidence: (threshold or None, why).

    The top score of a query is its highest over seeds, so the promise holds for every seed.
    """
    if config.max_false_evidence is None:
        return None, "no abstention threshold: max_false_evidence is not set"
    unanswerable = no_evidence_queries(qrels, select)
    if unanswerable.is_empty():
        return None, "no abstention threshold: dev_select has no query without evidence"
    tops = unanswerable.select("query_id").join(top_scores(raw), on="query_id", how="left").sort("query_id")
    values = tops["top_score"].fill_null(-np.inf).to_numpy()
    promise = f"false evidence <= {config.max_false_evidence:g} at confidence {config.confidence:g}"
    threshold = certified_threshold(values, config.max_false_evidence, config.confidence)
    if threshold is None:
        return (
            None,
            f"no abstention threshold: {len(values)} dev_select queries without evidence are too few to certify {promise}",
        )
    return threshold, f"threshold {threshold:.4g} certifies {promise} on {len(values)} dev_select queries without evidence"
