import numpy as np
import polars as pl
import pytest
from scipy.stats import norm

from anmi_pipeline.judging.beliefs import PAIR_BELIEFS, entropy, pair_beliefs, query_beliefs
from anmi_pipeline.rating.comparisons import weighted_comparisons
from anmi_pipeline_tests.judging.test_agreement import judged, panel

PAIR = ["query_id", "doc_i", "doc_j"]


def test_a_pair_between_equals_at_the_top_matters_most():
    rows = [("q", f"d{i}", f"d{j}", "x", False, 1.0) for i in range(8) for j in range(i + 1, min(i + 4, 8))]
    documents = pl.DataFrame({"query_id": ["q"] * 8, "doc_id": [f"d{i}" for i in range(8)]})
    believed = pair_beliefs(weighted_comparisons(judged(rows), {}), documents)
    assert dict(believed.schema) == PAIR_BELIEFS
    assert believed.height == len(rows)
    assert believed["probability"].min() > 0.5
    assert believed.sort("priority", descending=True).select("doc_i", "doc_j").row(0) == ("d0", "d1")


def test_probabilities_average_over_the_posterior():
    rows = [("q", "a", "b", "x", False, 1.0), ("q", "b", "c", "x", False, 1.0)]
    documents = pl.DataFrame({"query_id": ["q"] * 3, "doc_id": list("abc")})
    (belief,) = query_beliefs(weighted_comparisons(judged(rows), {}), documents)
    rng = np.random.default_rng(0)
    draws = rng.multivariate_normal(belief.theta, belief.covariance, size=200_000)
    sampled = norm.cdf(draws[:, 0] - draws[:, 2]).mean()
    assert belief.probabilities(np.array([[0, 2]]))[0] == pytest.approx(sampled, abs=0.005)
    assert belief.discounts().tolist() == pytest.approx((1 / np.log2([2, 3, 4])).tolist())


def test_both_links_give_about_the_same_beliefs():
    judgments = panel(3, 40, 1, 1)
    documents = pl.concat([judgments.select("query_id", doc_id=end) for end in ("first_id", "second_id")]).unique()
    folded = weighted_comparisons(judgments, {})
    probit = pair_beliefs(folded, documents)
    logistic = pair_beliefs(folded, documents, model="bradley_terry", prior_precision=0.3 / 1.702**2)
    assert np.abs(probit["probability"].to_numpy() - logistic["probability"].to_numpy()).max() < 0.03


def test_entropy_in_bits():
    assert entropy(np.array([0.0, 0.5, 1.0])).tolist() == [0.0, 1.0, 0.0]
