import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anmi_pipeline.rating.likelihood import edge_log_likelihood
from anmi_pipeline.rating.ties import (
    TIES_MODELS,
    Outcomes,
    TiesModel,
    log_probabilities,
    outcome_masses,
    probabilities,
    ties_derivatives,
    ties_log_likelihood,
)

OUTCOMES = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.2, 0.5, 0.3))
CASES = [
    (0.0, -2.0),
    (1e-9, -8.0),
    (0.7, -0.5),
    (-2.5, 0.8),
    (6.0, -6.0),
    (-14.0, 0.3),
    (30.0, -1.0),
    (-33.0, 1.5),
    (3.0, 2.5),
    (25.0, -12.0),
]


def exact(d: object, log_tie: object, masses: tuple[float, float, float], model: TiesModel) -> mpmath.mpf:
    """The definition, in 60 digits."""
    x, parameter = mpmath.mpf(d), mpmath.exp(mpmath.mpf(log_tie))
    if model == "davidson":
        total = mpmath.exp(x / 2) + mpmath.exp(-x / 2) + parameter
        p = (mpmath.exp(x / 2) / total, parameter / total, mpmath.exp(-x / 2) / total)
    else:
        far = abs(x)
        phi = lambda z: mpmath.erfc(-z / mpmath.sqrt(2)) / 2  # noqa: E731
        p = (phi(x - parameter), phi(parameter - far) - phi(-parameter - far), phi(-x - parameter))
    return sum(m * mpmath.log(q) for m, q in zip(masses, p, strict=True) if m)


@pytest.mark.parametrize("model", TIES_MODELS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("masses", OUTCOMES)
def test_value_and_derivatives_agree_with_mpmath(model: TiesModel, case: tuple[float, float], masses: tuple[float, float, float]):
    d, log_tie = np.array([case[0]]), np.array([case[1]])
    held = Outcomes(*(np.array([m]) for m in masses))
    got = ties_derivatives(d, log_tie, held, model)
    with mpmath.workdps(60):

        def f(x: object, t: object) -> mpmath.mpf:
            return exact(x, t, masses, model)

        assert ties_log_likelihood(d, log_tie, held, model)[0] == pytest.approx(float(f(*case)), rel=1e-12, abs=1e-14)
        for value, order in ((got.d, (1, 0)), (got.tie, (0, 1)), (got.dd, (2, 0)), (got.d_tie, (1, 1)), (got.tie_tie, (0, 2))):
            assert value[0] == pytest.approx(float(mpmath.diff(f, case, order)), rel=1e-9, abs=3e-11), order


@settings(max_examples=150, deadline=None)
@given(st.floats(-40, 40), st.floats(-15, 3), st.sampled_from(TIES_MODELS))
def test_probabilities_sum_to_one_and_swap_with_the_order(d: float, log_tie: float, model: TiesModel):
    p, swapped = (probabilities(np.array([x]), np.array([log_tie]), model) for x in (d, -d))
    assert p.win[0] + p.tie[0] + p.loss[0] == pytest.approx(1, abs=1e-12)
    assert (p.win[0], p.tie[0], p.loss[0]) == pytest.approx((swapped.loss[0], swapped.tie[0], swapped.win[0]), rel=1e-12)
    logs = log_probabilities(np.array([d]), np.array([log_tie]), model)
    assert np.isfinite([logs.win[0], logs.tie[0], logs.loss[0]]).all()


@settings(max_examples=100, deadline=None)
@given(st.floats(-300, 300), st.floats(-30, 8), st.floats(0, 1), st.sampled_from(TIES_MODELS))
def test_log_likelihood_is_concave_and_finite_however_far(d: float, log_tie: float, p: float, model: TiesModel):
    held = outcome_masses(np.array([p]))
    got = ties_derivatives(np.array([d]), np.array([log_tie]), held, model)
    assert got.dd[0] <= 0
    assert np.isfinite([got.d[0], got.tie[0], got.dd[0], got.d_tie[0], got.tie_tie[0]]).all()
    assert np.isfinite(ties_log_likelihood(np.array([d]), np.array([log_tie]), held, model)).all()


def test_models_without_ties_are_the_limit():
    d, p = np.linspace(-6, 6, 25), np.full(25, 0.3)
    for model, limit in (("thurstone_ties", "thurstone"), ("davidson", "bradley_terry")):
        got = ties_log_likelihood(d, np.full(25, -40.0), outcome_masses(p), model)
        np.testing.assert_allclose(got, edge_log_likelihood(d, p, limit), rtol=1e-12)


def test_ties_parameters_mean_what_their_authors_say():
    even = probabilities(np.zeros(1), np.log([0.5]), "davidson")
    assert even.tie[0] == pytest.approx(0.5 / 2.5)  # nu / (2 + nu)
    band = probabilities(np.zeros(1), np.log([0.5]), "thurstone_ties")
    assert band.tie[0] == pytest.approx(math.erf(0.5 / math.sqrt(2)))  # Phi(tau) - Phi(-tau)


def test_only_exactly_one_half_is_a_tie():
    masses = outcome_masses([0.5, np.nextafter(0.5, 1), 0.0, 0.25])
    assert masses.tie.tolist() == [1, 0, 0, 0]
    np.testing.assert_array_equal(masses.win + masses.tie + masses.loss, np.ones(4))
