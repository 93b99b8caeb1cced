import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import approx_fprime
from scipy.special import expit
from scipy.stats import norm

from anmi_pipeline.rating.offsets import Graded, Hyper, evidence, fit_offsets, levels, posterior, predict, thinned


def drawn(rng: np.random.Generator, queries: int, per_query: int, truth: Hyper) -> tuple[Graded, np.ndarray]:
    query = np.repeat(np.arange(queries), per_query)
    x, t, v = rng.normal(size=len(query)), rng.normal(size=queries), rng.normal(size=queries)
    known = rng.normal(size=queries)
    line = truth.intercept + truth.gain * known + truth.offset_sd * t
    p = expit(line[query] + truth.slope * np.exp(truth.slope_spread * v)[query] * x)
    return Graded(x, (rng.random(len(query)) < p).astype(float), query, known), truth.offset_sd * t


def test_gradient_is_the_slope_of_the_evidence(rng: np.random.Generator) -> None:
    graded, _ = drawn(rng, 12, 4, Hyper(0.5, 0.7, 1.0, 1.5, 0.3))
    point = np.array([0.3, 0.2, 0.1, -0.2, -1.0])
    numeric = approx_fprime(point, lambda at: evidence(at, graded)[0], 1e-6)
    assert evidence(point, graded)[1] == pytest.approx(numeric, rel=1e-4, abs=1e-4)


def test_evidence_equals_the_integral() -> None:
    """With slopes that hardly spread, the marginal likelihood is an integral over one normal offset."""
    x, y = np.array([0.5, -1.0, 2.0]), np.array([1.0, 0.0, 1.0])
    graded = Graded(x, y, np.zeros(3, dtype=np.int64), np.zeros(1))

    def likelihood(t: float) -> float:
        p = expit(0.4 + 1.3 * t + 0.8 * x)
        return float(np.prod(np.where(y > 0, p, 1 - p)) * norm.pdf(t))

    vector = np.array([0.4, 0.0, np.log(1.3), np.log(0.8), -12.0])
    hyperprior = -0.5 * float((((vector - [0, 0, 0, 0, -1.5]) / [3, 1, 1, 1, 0.5]) ** 2).sum())
    assert evidence(vector, graded)[0] - hyperprior == pytest.approx(np.log(quad(likelihood, -8, 8)[0]), abs=1e-4)


def test_known_hyperparameters_come_back() -> None:
    truth = Hyper(0.5, 0.8, 1.2, 1.5, 0.3)
    graded, offset = drawn(np.random.default_rng(1), 400, 12, truth)
    found = fit_offsets(graded)
    assert found.intercept == pytest.approx(truth.intercept, abs=0.2)
    assert found.gain == pytest.approx(truth.gain, abs=0.15)
    assert found.offset_sd == pytest.approx(truth.offset_sd, abs=0.15)
    assert found.slope == pytest.approx(truth.slope, abs=0.2)
    estimate = levels(found, posterior(found, graded))
    assert np.corrcoef(estimate, offset)[0, 1] > 0.8
    # Shrunk: the regression of the truth on the estimate has slope one.
    assert np.polyfit(estimate, offset, 1)[0] == pytest.approx(1.0, abs=0.12)


def test_predictions_of_left_out_queries_are_calibrated() -> None:
    truth = Hyper(0.0, 0.0, 1.5, 1.0, 0.3)
    graded, _ = drawn(np.random.default_rng(2), 600, 10, truth)
    nothing = Graded(graded.x[:0], graded.y[:0], graded.query[:0], graded.known)
    p = predict(truth, posterior(truth, nothing), graded.x, graded.query, graded.known)
    for low, high in ((0.0, 0.3), (0.3, 0.7), (0.7, 1.0)):
        inside = (p >= low) & (p < high)
        assert p[inside].mean() == pytest.approx(graded.y[inside].mean(), abs=0.04)


def test_predictions_rise_with_the_score(rng: np.random.Generator) -> None:
    graded, _ = drawn(rng, 5, 3, Hyper(0.0, 0.0, 2.0, 1.0, 0.8))
    hyper = fit_offsets(graded)
    x = np.tile(np.linspace(-6, 6, 50), 5)
    p = predict(hyper, posterior(hyper, graded), x, np.repeat(np.arange(5), 50), graded.known).reshape(5, 50)
    assert (np.diff(p, axis=1) >= 0).all()


@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_all_alike_stays_finite(outcome: float) -> None:
    graded = Graded(np.arange(6.0), np.full(6, outcome), np.repeat(np.arange(2), 3), np.zeros(2))
    hyper = fit_offsets(graded)
    p = predict(hyper, posterior(hyper, graded), graded.x, graded.query, graded.known)
    assert np.isfinite([hyper.intercept, hyper.slope, hyper.offset_sd]).all()
    assert ((p > 0.5) == bool(outcome)).all()
    assert ((p > 0) & (p < 1)).all()


def test_no_grade_at_all_gives_the_hyperprior() -> None:
    nothing = Graded(np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.int64), np.zeros(3))
    hyper = fit_offsets(nothing)
    assert hyper.intercept == 0.0
    assert posterior(hyper, nothing).sum(axis=1) == pytest.approx(np.ones(3))


def test_many_queries_are_thinned_evenly(rng: np.random.Generator) -> None:
    query = np.repeat(np.arange(5_000), 2)
    few = thinned(Graded(rng.normal(size=10_000), np.zeros(10_000), query, np.arange(5_000.0)))
    assert len(few.known) == 2_000
    assert (few.known[0], few.known[-1]) == (0, 4_999)
    assert np.bincount(few.query).tolist() == [2] * 2_000
