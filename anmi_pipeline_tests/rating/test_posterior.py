import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr
from scipy.stats import norm

from anmi_pipeline.rating.config import Model
from anmi_pipeline.rating.designs import complete, cycles
from anmi_pipeline.rating.graphs import Floats, GraphBatch, graph_batch
from anmi_pipeline.rating.mixture import Mixture, Tilted, mixture_posterior
from anmi_pipeline.rating.posterior import laplace, modes


def problem(sizes: tuple[int, ...], seed: int = 0, k: int = 4) -> tuple[GraphBatch, Floats]:
    rng = np.random.default_rng(seed)
    graphs = [cycles(n, k, rng) for n in sizes]
    edges = np.concatenate(graphs)
    pointer = np.cumsum([0, *(len(graph) for graph in graphs)])
    return graph_batch(np.array(sizes), pointer, edges[:, 0], edges[:, 1]), (rng.random(len(edges)) < 0.7).astype(float)


def differences(covariance: np.ndarray) -> np.ndarray:
    own = np.diagonal(covariance, axis1=-2, axis2=-1)
    return own[..., :, None] + own[..., None, :] - 2 * covariance


@pytest.mark.parametrize("precision", [1.0, 0.05, 1e-9])
@pytest.mark.parametrize("model", ["thurstone", "bradley_terry"])
def test_laplace_against_a_numerical_hessian(model: Model, precision: float) -> None:
    from anmi_pipeline.rating.likelihood import edge_log_likelihood

    batch, preference = problem((6,), k=5)
    preference = np.clip(preference, 0.2, 0.8)
    theta = modes(batch, preference, None, precision, model, 1e-10)
    (found,) = laplace(batch, preference, theta, precision, model)

    def objective(value: np.ndarray) -> float:
        return float(edge_log_likelihood(value[batch.i] - value[batch.j], preference, model).sum())

    step, unit = 1e-4, np.eye(6)
    hessian = np.array([
        [
            sum(a * b * objective(theta + step * (a * unit[i] + b * unit[j])) for a in (-1, 1) for b in (-1, 1)) / (4 * step**2)
            for j in range(6)
        ]
        for i in range(6)
    ])  # fmt: skip
    assert found.information[0] == pytest.approx(-hessian, abs=1e-5)
    direct = np.linalg.pinv(-hessian + precision * (unit - 1 / 6))
    assert differences(found.covariance[0]) == pytest.approx(differences(direct), rel=1e-3, abs=1e-6)


def test_more_verdicts_shrink_the_covariance_and_unjudged_documents_keep_the_prior() -> None:
    pairs = complete(3)
    for repeats, before in ((1, np.inf), (5, None)):
        batch = graph_batch(np.array([5]), np.array([0, 3]), pairs[:, 0], pairs[:, 1], np.full(3, float(repeats)))
        theta = modes(batch, np.full(3, 0.5), None, 0.5, "thurstone")
        (found,) = laplace(batch, np.full(3, 0.5), theta, 0.5, "thurstone")
        spread = differences(found.covariance[0])
        assert spread[3, 4] == pytest.approx(2 / 0.5)
        assert before is None or spread[0, 1] < before
    assert spread[0, 1] < 0.5


def sampled(batch: GraphBatch, preference: Floats, prior: Mixture, draws: int) -> tuple[Floats, Floats]:
    """Posterior mean and P(upper) of one small query by importance sampling from the prior: the oracle."""
    rng = np.random.default_rng(0)
    n = len(prior.low)
    upper = rng.random((draws, n)) < prior.share
    theta = np.where(
        upper,
        prior.high + rng.normal(size=(draws, n)) * prior.high_precision**-0.5,
        prior.low + rng.normal(size=(draws, n)) * prior.low_precision**-0.5,
    )
    p = ndtr(theta[:, batch.i] - theta[:, batch.j])
    weight = np.where(preference > 0.5, p, 1 - p).prod(axis=1)
    weight /= weight.sum()
    return weight @ theta, weight @ upper


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("exact", [True, False])
def test_the_mixture_posterior_against_sampling(seed: int, exact: bool) -> None:
    batch, preference = problem((5,), seed=seed)
    rng = np.random.default_rng(seed)
    low = rng.normal(0, 0.3, 5)
    prior = Mixture(rng.uniform(0.05, 0.4, 5), low, low + 1.3, 6.0, 6.0)
    (found,) = mixture_posterior(batch, preference, prior, "thurstone", exact=exact, passes=40)
    mean, share = sampled(batch, preference, prior, 400_000)
    tolerance = 0.03 if exact else 0.12
    assert found.sites.theta[0] == pytest.approx(mean, abs=tolerance)
    assert found.marginals.share[0] == pytest.approx(share, abs=tolerance)


def test_an_empty_upper_component_is_a_gaussian_prior() -> None:
    batch, preference = problem((9,))
    mean = np.linspace(-1, 1, 9)
    prior = Mixture(np.zeros(9), mean, mean, 2.0, 2.0)
    (found,) = mixture_posterior(batch, preference, prior, "thurstone", passes=60)
    wanted = modes(batch, preference, mean, 2.0, "thurstone", 1e-10)
    theta = found.sites.theta[0]
    assert theta - theta.mean() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("exact", [True, False])
def test_a_query_has_the_same_bits_in_any_company(exact: bool) -> None:
    batch, preference = problem((7, 7, 12, 7))
    prior = Mixture(np.full(33, 0.1), np.zeros(33), np.ones(33), 6.0, 6.0)
    stacks = list(mixture_posterior(batch, preference, prior, "thurstone", exact=exact))
    together = {int(q): stack.sites.theta[s] for stack in stacks for s, q in enumerate(stack.block.queries)}
    alone, own = problem((7,))
    small = Mixture(np.full(7, 0.1), np.zeros(7), np.ones(7), 6.0, 6.0)
    (found,) = mixture_posterior(alone, own_preferences(preference, len(own)), small, "thurstone", exact=exact)
    assert np.array_equal(found.sites.theta[0], together[0])


def own_preferences(preference: np.ndarray, count: int) -> np.ndarray:
    """The first query's: it is drawn first, so its graph is the one of the batch."""
    return preference[:count]


@settings(max_examples=100, deadline=None)
@given(
    share=st.floats(0.0, 1.0), low=st.floats(-3, 3), lift=st.floats(0, 3), precision=st.floats(0.1, 50),
    mean=st.floats(-5, 5), variance=st.floats(0.01, 10),
)  # fmt: skip
def test_tilted_moments_against_a_grid(
    share: float, low: float, lift: float, precision: float, mean: float, variance: float
) -> None:
    prior = Mixture(np.array([share]), np.array([low]), np.array([low + lift]), precision, 2 * precision)
    grid = np.linspace(-40, 40, 160_001)
    density = (1 - share) * norm.pdf(grid, low, precision**-0.5) + share * norm.pdf(grid, low + lift, (2 * precision) ** -0.5)
    density = density * norm.pdf(grid, mean, variance**0.5)
    density /= density.sum()
    wanted = density @ grid
    found_mean, found_variance = prior.tilted(np.array([mean]), np.array([variance])).moments()
    assert found_mean[0] == pytest.approx(wanted, abs=1e-5)
    assert found_variance[0] == pytest.approx(density @ (grid - wanted) ** 2, rel=1e-4, abs=1e-7)


def test_moments_of_a_mixture() -> None:
    prior = Mixture(np.array([0.25]), np.array([0.0]), np.array([2.0]), 4.0, 1.0)
    mean, precision = prior.moments()
    assert mean == pytest.approx([0.5])
    assert 1 / precision == pytest.approx([0.75 * 0.25 + 0.25 * 1.0 + 0.75 * 0.25 * 4.0])
    seen = Tilted(np.array([0.25]), np.array([0.0]), np.array([0.25]), np.array([2.0]), np.array([1.0]))
    assert seen.moments()[1] == pytest.approx(1 / precision)


def test_extreme_verdicts_stay_finite() -> None:
    pairs = complete(6)
    for model in ("thurstone", "bradley_terry"):
        for weight in (1.0, 1000.0):
            batch = graph_batch(np.array([6]), np.array([0, 15]), pairs[:, 0], pairs[:, 1], np.full(15, weight))
            prior = Mixture(np.full(6, 0.02), np.zeros(6), np.ones(6), 0.05, 0.05)
            for exact in (True, False):
                (found,) = mixture_posterior(batch, np.ones(15), prior, model, exact=exact)
                assert np.isfinite(found.sites.theta).all()
                assert np.isfinite(found.covariance).all()
                assert (np.diff(found.sites.theta[0]) < 0).all()
