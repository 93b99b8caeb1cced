from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import ndtr
from scipy.stats import norm

from anmi_pipeline.errors import InputError
from anmi_pipeline.rating.fit import fit_batch
from anmi_pipeline.rating.judge_model import VOTE_MODELS, VoteModel
from anmi_pipeline.rating.votes import VotesFit, fit_votes


@dataclass
class World:
    """Verdicts with a known truth."""

    n_items: np.ndarray
    edge_ptr: np.ndarray
    i: np.ndarray
    j: np.ndarray
    p: np.ndarray
    judge: np.ndarray
    theta: np.ndarray

    def fit(self, **settings: object) -> VotesFit:
        return fit_votes(self.n_items, self.edge_ptr, self.i, self.j, self.p, self.judge, **settings)  # pyright: ignore[reportArgumentType]


def world(  # noqa: PLR0917  (one simulation)
    seed: int,
    queries: int = 60,
    n: int = 40,
    cycles: int = 4,
    sd: float = 0.8,
    slopes: tuple[float, ...] = (1.0,),
    biases: tuple[float, ...] = (0.0,),
    tau: float = 0.0,
    noise: tuple[float, ...] | None = None,
) -> World:
    """One verdict a pair on random cycles: each document is compared 2 * cycles times."""
    rng = np.random.default_rng(seed)
    order = [rng.permutation(n) for _ in range(queries * cycles)]
    i, j = np.concatenate(order), np.concatenate([np.roll(o, 1) for o in order])
    query, judge = np.repeat(np.arange(queries), cycles * n), rng.integers(0, len(slopes), queries * cycles * n)
    theta = rng.normal(0, sd, (queries, n))
    theta -= theta.mean(axis=1, keepdims=True)
    eta = np.array(slopes)[judge] * (theta[query, i] - theta[query, j]) + np.array(biases)[judge]
    error = rng.normal(size=len(eta))
    if noise is not None:
        p = ndtr(eta + np.array(noise)[judge] * error)
    else:
        p = np.where(eta + error > tau, 1.0, np.where(eta + error < -tau, 0.0, 0.5))
    return World(np.full(queries, n), np.arange(queries + 1) * cycles * n, i, j, p, judge, theta)


def relative(slopes: tuple[float, ...], judge: np.ndarray) -> np.ndarray:
    """Slopes with geometric mean 1, weighted by verdicts."""
    share = np.bincount(judge, minlength=len(slopes)) / len(judge)
    return np.array(slopes) / np.exp(share @ np.log(slopes))


def test_slopes_and_biases_are_recovered_at_eight_comparisons_a_document():
    slopes, biases, z, ratio = (0.6, 1.0, 1.6), (0.3, 0.0, -0.2), [], []
    for seed in range(5):
        made = world(seed, slopes=slopes, biases=biases)
        fit = made.fit()
        truth = relative(slopes, made.judge)
        ratio.append(fit.slope / truth)
        z.append(np.concatenate(((fit.slope - truth) / fit.slope_error, (fit.bias - biases) / fit.bias_error)))
    assert np.abs(np.mean(ratio, axis=0) - 1).max() < 0.07
    assert 0.6 < np.sqrt(np.mean(np.square(z))) < 1.4


def test_position_bias_and_spread_of_scores_are_not_overstated():
    """A joint maximum over scores and judges would overstate both at eight comparisons a document."""
    fit = world(1, queries=100, biases=(0.5,)).fit()
    assert fit.bias[0] == pytest.approx(0.5, abs=4 * fit.bias_error[0])
    assert fit.bias_error[0] < 0.04
    assert fit.theta_sd == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize(("model", "tau"), [("thurstone_ties", 0.3)])
def test_thresholds_are_recovered(model: VoteModel, tau: float):
    fit = world(2, queries=100, slopes=(0.7, 1.4), biases=(0.2, 0.0), tau=tau).fit(model=model)
    assert np.abs((fit.tie - tau) / fit.tie_error).max() < 3.5
    assert fit.tie_error.max() < 0.03


def test_davidson_nu_is_recovered():
    rng = np.random.default_rng(3)
    made = world(3, queries=100, sd=1.2)
    query = np.repeat(np.arange(100), np.diff(made.edge_ptr))
    half = 0.5 * (made.theta[query, made.i] - made.theta[query, made.j] + 0.3)
    masses = np.stack((np.exp(half), np.full(len(half), 0.6), np.exp(-half)))
    draw = rng.random(len(half)) * masses.sum(axis=0)
    made.p = np.where(draw < masses[0], 1.0, np.where(draw < masses[0] + masses[1], 0.5, 0.0))
    fit = made.fit(model="davidson")
    assert fit.tie[0] == pytest.approx(0.6, abs=4 * fit.tie_error[0])
    assert fit.bias[0] == pytest.approx(0.3, abs=4 * fit.bias_error[0])


@pytest.mark.parametrize("sd", [0.8, 1.5])
def test_noise_inside_the_link_and_its_attenuation(sd: float):
    fit = world(4, sd=sd, biases=(0.2,), noise=(0.5,)).fit()
    assert fit.noise.sd[0] == pytest.approx(0.5, rel=0.03)
    assert fit.noise.attenuation[0] == pytest.approx(1 / np.sqrt(1.25), rel=0.01)
    assert fit.bias[0] == pytest.approx(0.2 / np.sqrt(1.25), abs=4 * fit.bias_error[0])


def test_noise_of_each_judge_is_its_own():
    made = world(5, slopes=(0.7, 1.4), biases=(0.2, -0.1), noise=(0.3, 0.7))
    fit = made.fit()
    np.testing.assert_allclose(fit.noise.sd, [0.3, 0.7], rtol=0.06)
    attenuated = tuple(np.array([0.7, 1.4]) / np.sqrt(1 + np.array([0.3, 0.7]) ** 2))
    np.testing.assert_allclose(fit.slope, relative(attenuated, made.judge), rtol=0.03)


def test_saturated_and_hard_verdicts_tell_no_noise():
    made = world(6, queries=20, tau=0.2)
    assert made.fit().noise.attenuation.tolist() == [1.0]
    assert made.fit().noise.verdicts.tolist() == [0]
    soft = world(6, queries=20, noise=(0.5,))
    soft.p[::10] = 1.0
    left_out = int((soft.p == 1.0).sum())
    assert soft.fit().noise.verdicts[0] == len(soft.p) - left_out


def exact_marginal(parameters: np.ndarray, judge: np.ndarray, p: np.ndarray, query: np.ndarray) -> float:
    """Minus the marginal log-likelihood with priors, by quadrature: two documents a query leave one integral."""
    log_slope, bias, log_precision = parameters[0] * np.array([1.0, -1.0]), parameters[1:3], parameters[3]
    sd = np.sqrt(2) * np.exp(-0.5 * log_precision)
    value = 0.5 * (log_slope @ log_slope + bias @ bias + log_precision**2 / 4)
    for q in np.unique(query):
        a, b, sign = np.exp(log_slope)[judge[query == q]], bias[judge[query == q]], 2 * p[query == q] - 1
        grid = np.linspace(-8, 8, 401)
        inside = norm.pdf(grid) * np.exp(norm.logcdf(sign * (a * sd * grid[:, None] + b)).sum(axis=1))
        value -= np.log(inside.sum() * (grid[1] - grid[0]))
    return value


def test_judges_maximise_the_exact_marginal_likelihood_on_a_problem_small_enough_to_integrate():
    rng = np.random.default_rng(7)
    queries, votes = 80, 6
    query, judge = np.repeat(np.arange(queries), votes), np.tile([0, 1], queries * votes // 2)
    d = rng.normal(0, 1.2, queries)[query]
    p = (np.array([1.6, 0.6])[judge] * d + np.array([0.4, -0.2])[judge] + rng.normal(size=len(d)) > 0).astype(np.float64)
    best = minimize(exact_marginal, np.zeros(4), args=(judge, p, query), method="BFGS", options={"gtol": 1e-4})
    zero, one = np.zeros(len(p), dtype=np.int64), np.ones(len(p), dtype=np.int64)
    fit = fit_votes(np.full(queries, 2), np.arange(queries + 1) * votes, zero, one, p, judge, judge_tol=1e-3)
    assert fit.judges_converged
    # Six skewed votes on one difference are the approximation's worst case: a third of a standard error (.13, .19, .33).
    np.testing.assert_allclose(np.log(fit.slope), [best.x[0], -best.x[0]], atol=0.05)
    np.testing.assert_allclose(fit.bias, best.x[1:3], atol=0.01)
    assert -2 * np.log(fit.theta_sd) == pytest.approx(best.x[3], abs=0.1)
    np.testing.assert_allclose(fit.slope_error / fit.slope, np.sqrt(best.hess_inv[0, 0]), rtol=0.3)


def test_scores_agree_with_another_optimiser_given_the_judges():
    made = world(8, queries=1, n=7, cycles=2, slopes=(0.7, 1.4), biases=(0.3, -0.2))
    fit = made.fit(tol=1e-11)

    def loss(theta: np.ndarray) -> float:
        eta = fit.slope[made.judge] * (theta[made.i] - theta[made.j]) + fit.bias[made.judge]
        sign = 2 * made.p - 1
        return -norm.logcdf(sign * eta).sum() + 0.025 * theta @ theta

    best = minimize(loss, np.zeros(7), method="BFGS", options={"gtol": 1e-9})
    np.testing.assert_allclose(fit.theta, best.x - best.x.mean(), atol=1e-6)
    assert fit.grad_norm[0] < 1e-11


@pytest.mark.parametrize("model", ["thurstone", "bradley_terry"])
def test_one_judge_asked_in_both_orders_gives_what_fit_batch_gives(model: VoteModel):
    made = world(9, queries=5, n=9, cycles=2, noise=(0.5,))
    both = World(
        made.n_items,
        made.edge_ptr * 2,
        np.stack((made.i, made.j), axis=1).ravel(),
        np.stack((made.j, made.i), axis=1).ravel(),
        np.stack((made.p, 1 - made.p), axis=1).ravel(),
        np.repeat(made.judge, 2),
        made.theta,
    )
    fit = both.fit(model=model, tol=1e-10, judge_tol=1e-6)
    assert abs(fit.bias[0]) < 1e-9
    peer = fit_batch(both.n_items, both.edge_ptr, both.i, both.j, both.p, model=model, tol=1e-10, std_error="fisher")  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(fit.theta, peer.theta, atol=1e-7)
    assert peer.std_error is not None
    np.testing.assert_allclose(fit.std_error, peer.std_error, rtol=1e-6)
    np.testing.assert_allclose(fit.log_likelihood, peer.log_likelihood, rtol=1e-9)


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(VOTE_MODELS))
def test_swapping_sides_turns_the_bias_and_nothing_else(seed: int, model: VoteModel):
    made = world(seed, queries=4, n=8, cycles=2, slopes=(0.7, 1.4), biases=(0.3, 0.0), tau=0.2)
    turned = World(made.n_items, made.edge_ptr, made.j, made.i, 1 - made.p, made.judge, made.theta)
    fit, mirror = made.fit(model=model), turned.fit(model=model)
    np.testing.assert_allclose(mirror.theta, fit.theta, atol=1e-6)
    np.testing.assert_allclose(mirror.bias, -fit.bias, atol=1e-6)
    np.testing.assert_allclose(mirror.slope, fit.slope, rtol=1e-6)
    np.testing.assert_allclose(mirror.tie, fit.tie, rtol=1e-6)


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(VOTE_MODELS))
def test_names_of_documents_and_judges_do_not_matter(seed: int, model: VoteModel):
    made = world(seed, queries=4, n=8, cycles=2, slopes=(0.7, 1.4), biases=(0.3, 0.0), tau=0.2)
    new = np.random.default_rng(seed).permutation(8)
    renamed = World(made.n_items, made.edge_ptr, new[made.i], new[made.j], made.p, 1 - made.judge, made.theta)
    fit, other = made.fit(model=model), renamed.fit(model=model)
    np.testing.assert_allclose(other.theta.reshape(4, 8)[:, new], fit.theta.reshape(4, 8), atol=1e-6)
    np.testing.assert_allclose(other.slope[::-1], fit.slope, rtol=1e-6)
    np.testing.assert_allclose(other.bias[::-1], fit.bias, atol=1e-6)


def test_slopes_have_geometric_mean_one_weighted_by_verdicts():
    made = world(10, queries=20, slopes=(0.6, 1.0, 1.6), biases=(0.0, 0.0, 0.0))
    made.judge[: len(made.judge) // 2] = 0
    fit = made.fit()
    assert fit.verdicts @ np.log(fit.slope) == pytest.approx(0, abs=1e-9)
    assert made.fit(max_verdicts=500).judged_on >= 500
    single = world(10, queries=5).fit()
    assert (single.slope[0], single.slope_error[0]) == (1.0, 0.0)


def awkward() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Verdicts and judges nobody would ask for, on the pairs of world(11, queries=6, n=12, cycles=3)."""
    made = world(11, queries=6, n=12, cycles=3)
    count, query = len(made.p), np.repeat(np.arange(6), 36)
    zero = np.zeros(count, dtype=np.int64)
    perfect = (made.theta[query, made.i] > made.theta[query, made.j]).astype(np.float64)
    return {
        "always first": (np.ones(count), zero),
        "one judge always first": (np.where(query % 2 == 0, 1.0, made.p), (query % 2 == 0).astype(np.int64)),
        "all ties": (np.full(count, 0.5), zero),
        "never wrong": (perfect, zero),
        "always wrong": (np.where(query < 3, made.p, 1 - made.p), (query >= 3).astype(np.int64)),
        "one verdict": (made.p, np.r_[1, zero[1:]]),
        "codes without verdicts": (made.p, zero + 3),
        "soft and saturated": (np.clip(perfect, 1e-300, 1 - 1e-16), zero),
        "noise-free": (ndtr(made.theta[query, made.i] - made.theta[query, made.j]), zero),
    }


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("model", VOTE_MODELS)
@pytest.mark.parametrize("name", awkward())
def test_awkward_judges_stay_finite(name: str, model: VoteModel):
    made = world(11, queries=6, n=12, cycles=3)
    p, judge = awkward()[name]
    fit = fit_votes(made.n_items, made.edge_ptr, made.i, made.j, p, judge, model=model)
    numbers = (
        fit.theta,
        fit.std_error,
        fit.slope,
        fit.slope_error,
        fit.bias,
        fit.bias_error,
        fit.tie,
        fit.tie_error,
        fit.noise.sd,
    )
    assert all(np.isfinite(values).all() for values in numbers)
    assert fit.converged.all()
    assert (fit.slope > 0).all() and (fit.noise.attenuation > 0).all()
    if name == "one verdict":
        assert fit.slope_error[1] > 0.5
    if name == "always first":
        assert 1.5 < fit.bias[0] < 7
    if name == "codes without verdicts":
        assert (fit.slope[0], fit.bias[0], fit.verdicts[0]) == (1.0, 0.0, 0)


def test_empty_queries_and_lonely_documents():
    fit = fit_votes(np.array([0, 1, 2, 3]), np.array([0, 0, 0, 0, 1]), [0], [1], [1.0], [0])
    assert fit.theta[:3].tolist() == [0, 0, 0] and fit.theta[3] == -fit.theta[4] > 0
    assert fit.std_error[0] == pytest.approx(0.05**-0.5)
    assert fit_votes(np.array([], dtype=np.int64), np.array([0]), [], [], [], []).theta.shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"p_first": [1.2]}, "outside 0..1"),
        ({"p_first": [float("nan")]}, "outside 0..1"),
        ({"judge": [-1]}, "negative judge"),
        ({"judge": [10**9]}, "too large"),
        ({"judge": [0, 0]}, "give one each"),
        ({"j": [0]}, "document 0|self|itself"),
        ({"j": [7]}, "range|outside"),
        ({"model": "davidsn"}, "davidson"),
        ({"prior_precision": 0.0}, "prior_precision is 0.0"),
        ({"tol": float("nan")}, "tol is nan"),
        ({"prior_mean": np.zeros(3)}, "prior_mean has shape"),
    ],
)
def test_wrong_input_is_named(change: dict[str, object], message: str):
    arguments: dict[str, object] = {"i": [0], "j": [1], "p_first": [1.0], "judge": [0], **change}
    with pytest.raises(InputError, match=message):
        fit_votes(np.array([2]), np.array([0, 1]), **arguments)  # pyright: ignore[reportArgumentType]


def test_a_query_too_large_for_dense_matrices_is_named():
    with pytest.raises(InputError, match="query 1 has 2001 documents"):
        fit_votes(np.array([2, 2001]), np.array([0, 1, 1]), [0], [1], [1.0], [0])
