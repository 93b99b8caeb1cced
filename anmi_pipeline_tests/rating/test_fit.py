import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import norm

from anmi_pipeline.errors import InputError
from anmi_pipeline.rating.designs import cycles
from anmi_pipeline.rating.fit import FitStatus, RatingFit, fit_batch

MODELS = ("thurstone", "bradley_terry")
problems = st.tuples(st.integers(2, 12), st.integers(1, 30), st.integers(0, 10**6), st.sampled_from(MODELS))


def fit_one(n: int, i: object, j: object, w: object, **settings: object) -> RatingFit:
    return fit_batch(np.array([n]), np.array([0, len(np.atleast_1d(w))]), i, j, w, **settings)  # pyright: ignore[reportArgumentType]


def draw(n: int, edges: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Random multigraph with hard, tied and soft preferences and weights over six decades."""
    rng = np.random.default_rng(seed)
    i = rng.integers(0, n, edges)
    j = (i + rng.integers(1, n, edges)) % n
    w = rng.choice([0.0, 1.0, 0.5, rng.random()], edges)
    return i, j, w, 10.0 ** rng.uniform(-3, 3, edges)


def reference(n: int, i, j, w, weight, model: str, precision: float, mean: np.ndarray) -> np.ndarray:
    """A second optimiser: scipy's trust-exact Newton on formulas written independently."""

    def parts(theta):
        d = theta[i] - theta[j]
        if model == "bradley_terry":
            value = weight @ (w * -np.logaddexp(0, -d) + (1 - w) * -np.logaddexp(0, d))
            slope, bend = w - 1 / (1 + np.exp(-d)), 1 / (2 + np.exp(d) + np.exp(-d))
        else:
            value = weight @ (w * norm.logcdf(d) + (1 - w) * norm.logcdf(-d))
            up, down = np.exp(norm.logpdf(d) - norm.logcdf(d)), np.exp(norm.logpdf(d) - norm.logcdf(-d))
            slope, bend = w * up - (1 - w) * down, w * (up**2 + d * up) + (1 - w) * (down**2 - d * down)
        return value, slope, bend

    def loss(theta):
        return -parts(theta)[0] + precision / 2 * ((theta - mean) ** 2).sum()

    def gradient(theta):
        result = precision * (theta - mean)
        np.subtract.at(result, i, weight * parts(theta)[1])
        np.add.at(result, j, weight * parts(theta)[1])
        return result

    def hessian(theta):
        result, c = precision * np.eye(n), weight * parts(theta)[2]
        np.add.at(result, (i, i), c)
        np.add.at(result, (j, j), c)
        np.subtract.at(result, (i, j), c)
        np.subtract.at(result, (j, i), c)
        return result

    found = minimize(loss, mean, jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-12, "maxiter": 2000}).x
    for _ in range(3):  # polish: trust regions stop where the loss no longer resolves the step
        found = found - np.linalg.solve(hessian(found), gradient(found))
    return found - found.mean()


@settings(max_examples=150, deadline=None)
@given(problem=problems)
def test_agrees_with_an_independent_optimiser(problem) -> None:
    n, edges, seed, model = problem
    i, j, w, weight = draw(n, edges, seed)
    mean = np.random.default_rng(seed).normal(size=n)
    fit = fit_one(n, i, j, w, weight=weight, model=model, prior_mean=mean, tol=1e-10)
    assert fit.status[0] & FitStatus.CONVERGED
    assert fit.theta == pytest.approx(reference(n, i, j, w, weight, model, 0.05, mean), abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(problem=problems, shift=st.floats(-20, 20))
def test_shift_invariance(problem, shift: float) -> None:
    n, edges, seed, model = problem
    i, j, w, weight = draw(n, edges, seed)
    plain = fit_one(n, i, j, w, weight=weight, model=model, tol=1e-10)
    moved = fit_one(n, i, j, w, weight=weight, model=model, tol=1e-10, prior_mean=np.full(n, shift))
    assert moved.theta == pytest.approx(plain.theta, abs=1e-7)
    assert plain.theta.sum() == pytest.approx(0.0, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(problem=problems)
def test_swapping_labels_changes_nothing_and_outcomes_negates(problem) -> None:
    n, edges, seed, model = problem
    i, j, w, weight = draw(n, edges, seed)
    plain = fit_one(n, i, j, w, weight=weight, model=model, tol=1e-10)
    swapped = fit_one(n, j, i, 1 - w, weight=weight, model=model, tol=1e-10)
    opposite = fit_one(n, i, j, 1 - w, weight=weight, model=model, tol=1e-10)
    assert swapped.theta == pytest.approx(plain.theta, abs=1e-7)
    assert swapped.std_error == pytest.approx(plain.std_error, rel=1e-5)
    assert opposite.theta == pytest.approx(-plain.theta, abs=1e-7)


@settings(max_examples=60, deadline=None)
@given(problem=problems)
def test_permutation_equivariance(problem) -> None:
    n, edges, seed, model = problem
    i, j, w, weight = draw(n, edges, seed)
    names = np.random.default_rng(seed).permutation(n)
    plain = fit_one(n, i, j, w, weight=weight, model=model, tol=1e-10)
    renamed = fit_one(n, names[i], names[j], w, weight=weight, model=model, tol=1e-10)
    assert renamed.theta[names] == pytest.approx(plain.theta, abs=1e-7)
    assert renamed.std_error is not None
    assert renamed.std_error[names] == pytest.approx(plain.std_error, rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(problem=problems, share=st.floats(0.01, 0.99))
def test_splitting_an_edge_changes_nothing(problem, share: float) -> None:
    n, edges, seed, model = problem
    i, j, w, weight = draw(n, edges, seed)
    parts = np.concatenate((weight[:1] * share, weight[:1] * (1 - share), weight[1:]))
    plain = fit_one(n, i, j, w, weight=weight, model=model, tol=1e-10)
    split = fit_one(
        n, np.append(i[0], i), np.append(j[0], j), np.append(w[0], w), weight=parts, model=model, tol=1e-10
    )  # fmt: skip
    assert split.theta == pytest.approx(plain.theta, abs=1e-7)
    assert split.log_likelihood == pytest.approx(plain.log_likelihood)


@pytest.mark.parametrize("model", MODELS)
def test_doubled_evidence_halves_the_variance_as_the_prior_vanishes(model: str, rng: np.random.Generator) -> None:
    edges = cycles(20, 6, rng)
    w = rng.uniform(0.2, 0.8, len(edges))
    given = {"model": model, "prior_precision": 1e-9, "std_error": "fisher"}
    once = fit_one(20, edges[:, 0], edges[:, 1], w, **given)
    twice = fit_one(20, edges[:, 0], edges[:, 1], w, **given, weight=np.full(len(edges), 2.0))
    assert once.std_error is not None
    assert twice.std_error is not None
    assert (once.std_error / twice.std_error) ** 2 == pytest.approx(np.full(20, 2.0), rel=1e-6)


def textbook_errors(kind: str, n: int, i, j, w, theta: np.ndarray, precision: float) -> np.ndarray:
    """Centred standard errors of a logistic fit, from dense matrices as the books write them."""
    x = np.zeros((len(i), n))
    x[np.arange(len(i)), i], x[np.arange(len(i)), j] = 1.0, -1.0
    p = 1 / (1 + np.exp(-x @ theta))
    inverse = np.linalg.inv(x.T @ np.diag(p * (1 - p)) @ x + precision * np.eye(n))
    hat = np.einsum("ea,ab,eb->e", x, inverse, x) * p * (1 - p)
    centre = np.eye(n) - 1 / n
    # The prior's own spread between components is no noise of the verdicts.
    parts = np.linalg.pinv(x.T @ x) @ (x.T @ x)
    between = np.diag((centre - parts) @ inverse @ (centre - parts))
    inside = parts @ inverse @ parts
    if kind == "hc3":
        meat = x.T @ np.diag(((w - p) / (1 - hat)) ** 2) @ x + precision**2 * np.diag(np.diag(inside))
        return np.sqrt(np.diag(inside @ meat @ inside) + between)
    free = len(i) - hat.sum()
    scale = ((w - p) ** 2 / (p * (1 - p))).sum() / free if kind == "dispersion" and free >= 1 else 1.0
    return np.sqrt(scale * np.diag(inside) + between)


@pytest.mark.parametrize("connected", [True, False])
@pytest.mark.parametrize("kind", ["fisher", "dispersion", "hc3"])
def test_std_errors_are_those_of_the_books(kind: str, connected: bool, rng: np.random.Generator) -> None:
    n = 8
    edges = cycles(n, 4, rng) if connected else np.array([[0, 1], [1, 2], [3, 4], [4, 5]])  # 6 and 7 alone
    i, j, w = edges[:, 0], edges[:, 1], rng.uniform(0.1, 0.9, len(edges))
    fit = fit_one(n, i, j, w, model="bradley_terry", prior_precision=0.3, std_error=kind, tol=1e-10)
    assert fit.std_error is not None
    assert fit.std_error == pytest.approx(textbook_errors(kind, n, i, j, w, fit.theta, 0.3), rel=1e-8)
    if not connected:
        assert fit.std_error[6] == pytest.approx(np.sqrt(1 / 0.3 * (1 - 1 / n)))
        assert fit.std_error[6] > fit.std_error[:6].max()


@pytest.mark.parametrize("kind", ["fisher", "dispersion", "hc3"])
def test_probed_errors_agree_with_the_dense_ones(kind: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    edges = cycles(300, 8, rng)
    edges = np.concatenate((edges, cycles(100, 6, rng) + 300))  # two components
    w = rng.uniform(0.05, 0.95, len(edges))
    exact = fit_one(400, edges[:, 0], edges[:, 1], w, std_error=kind).std_error
    monkeypatch.setattr("anmi_pipeline.rating.fit.DENSE_ITEMS", 50)
    probed = fit_one(400, edges[:, 0], edges[:, 1], w, std_error=kind).std_error
    assert exact is not None
    assert probed is not None
    ratio = probed / exact
    assert ratio.mean() == pytest.approx(1.0, abs=0.01)
    assert ratio.std() < 1.3 / np.sqrt(2 * 256)


def test_a_large_graph_beside_small_ones(rng: np.random.Generator) -> None:
    sizes, pointer, i, j, w = many(rng, [40, 20_000, 3, 30])
    fit = fit_batch(sizes, pointer, i, j, w, std_error="none")
    assert (fit.status & FitStatus.CONVERGED).all()
    own = slice(int(pointer[1]), int(pointer[2]))
    alone = fit_one(20_000, i[own], j[own], w[own], std_error="none")
    assert alone.theta.tobytes() == fit.theta[40:20_040].tobytes()


def test_a_warm_start_arrives_at_the_same_scores(rng: np.random.Generator) -> None:
    sizes, pointer, i, j, w = many(rng, [50, 20])
    cold = fit_batch(sizes, pointer, i, j, w, tol=1e-11)
    warm = fit_batch(sizes, pointer, i, j, w, tol=1e-11, start=cold.theta + rng.normal(0, 0.3, 70))
    again = fit_batch(sizes, pointer, i, j, w, tol=1e-10, start=cold.theta)
    assert warm.theta == pytest.approx(cold.theta, abs=1e-8)
    assert again.iterations.tolist() == [0, 0]


def test_recovers_a_known_truth(rng: np.random.Generator) -> None:
    n, truth, edges = 40, np.sort(rng.normal(0, 0.8, 40)), cycles(40, 12, rng)
    d = truth[edges[:, 0]] - truth[edges[:, 1]]
    w = rng.binomial(200, norm.cdf(d)) / 200
    fit = fit_one(n, edges[:, 0], edges[:, 1], w, weight=np.full(len(edges), 200.0), std_error="fisher")
    error = fit.theta - (truth - truth.mean())
    assert np.abs(error).max() < 0.15
    assert fit.std_error is not None
    assert 0.7 < (error / fit.std_error).std() < 1.3


@pytest.mark.parametrize("model", MODELS)
def test_degenerate_queries_are_finite_with_a_status(model: str) -> None:
    cases: list[tuple[int, list[tuple[int, int, float]], FitStatus]] = [
        (0, [], FitStatus.CONVERGED | FitStatus.TOO_FEW),
        (1, [], FitStatus.CONVERGED | FitStatus.TOO_FEW),
        (3, [], FitStatus.CONVERGED | FitStatus.TOO_FEW | FitStatus.DISCONNECTED),
        (2, [(0, 1, 1.0)], FitStatus.CONVERGED | FitStatus.SEPARABLE),
        (2, [(0, 1, 0.5)], FitStatus.CONVERGED),
        (3, [(0, 1, 0.5), (1, 2, 0.5), (0, 2, 0.5)], FitStatus.CONVERGED),
        (4, [(0, 1, 0.7), (2, 3, 0.7)], FitStatus.CONVERGED | FitStatus.DISCONNECTED),
        (3, [(0, 1, 1.0), (1, 2, 1.0), (0, 2, 1.0)], FitStatus.CONVERGED | FitStatus.SEPARABLE),
        (3, [(0, 1, 1.0), (1, 2, 1.0), (0, 2, 0.0)], FitStatus.CONVERGED),
    ]
    edges = np.array([edge for _, case, _ in cases for edge in case])
    pointer = np.cumsum([0, *(len(case) for _, case, _ in cases)])
    fit = fit_batch(
        np.array([n for n, _, _ in cases]), pointer, edges[:, 0].astype(int), edges[:, 1].astype(int), edges[:, 2], model=model
    )  # fmt: skip
    assert fit.std_error is not None
    assert np.isfinite(fit.theta).all()
    assert (fit.std_error > 0).all()
    assert [FitStatus(int(flag)) for flag in fit.status] == [status for _, _, status in cases]
    assert fit.components.tolist() == [0, 1, 3, 1, 1, 1, 2, 1, 1]
    chain = fit.theta[-6:-3]
    assert chain[0] > chain[1] > chain[2]
    assert fit.theta[0] == 0.0
    assert fit.theta[1:4].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("precision", [1e-9, 1e-3, 1.0])
def test_extreme_evidence_stays_finite_and_converges(model: str, precision: float) -> None:
    i, j = np.array([0, 1, 2, 0]), np.array([1, 2, 3, 3])
    fit = fit_one(4, i, j, np.ones(4), weight=np.array([1e6, 1e-6, 1e3, 1.0]), model=model, prior_precision=precision)
    assert np.isfinite(fit.theta).all()
    assert fit.theta[0] > max(fit.theta[1], fit.theta[3])
    assert fit.theta[2] > fit.theta[3]
    assert FitStatus(int(fit.status[0])) == FitStatus.CONVERGED | FitStatus.SEPARABLE


def test_an_edge_of_weight_zero_is_no_evidence() -> None:
    fit = fit_one(2, [0], [1], [1.0], weight=np.zeros(1))
    assert fit.theta.tolist() == [0.0, 0.0]
    assert fit.status[0] & FitStatus.DISCONNECTED
    assert fit.status[0] & FitStatus.TOO_FEW


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"w": [0.5, float("nan")]}, r"query 1 \(3 documents\), edge 0 \(i=1, j=2\) has a preference outside 0..1: nan"),
        ({"w": [0.5, 1.5]}, r"edge 0 \(i=1, j=2\) has a preference outside 0..1: 1.5"),
        ({"w": [0.5]}, "w has 1 entries for 2 edges"),
        ({"j": [1, 3]}, r"query 1 .* names a document outside its query"),
        ({"i": [-1, 1]}, r"query 0 .* names a document outside its query"),
        ({"j": [1, 1]}, r"query 1 .* compares a document with itself"),
        ({"weight": np.array([1.0, -2.0])}, r"query 1 .* negative or not finite: -2.0"),
        ({"weight": np.array([np.inf, 1.0])}, r"query 0 .* negative or not finite: inf"),
        ({"prior_precision": 0.0}, "prior_precision is 0.0"),
        ({"prior_mean": np.array([0.0, 0.0, np.nan, 0.0, 0.0])}, "prior_mean of query 1, document 0 is nan"),
        ({"prior_mean": np.zeros(4)}, "for 5 documents"),
        ({"model": "thurston"}, 'Did you mean "thurstone"'),
        ({"std_error": "fischer"}, 'Did you mean "fisher"'),
        ({"tol": 0.0}, "tol is 0.0"),
        ({"threads": 0}, "threads is 0"),
        ({"edge_ptr": np.array([0, 1])}, "edge_ptr has 2 entries for 2 queries"),
        ({"i": [0.0, 1.0]}, "i holds values of type float64"),
        ({"i": [2**40, 1]}, r"query 0 .* names a document outside its query"),
        ({"start": np.zeros(4)}, "start has shape"),
    ],
)
def test_bad_input_is_named(change: dict[str, object], text: str) -> None:
    given: dict[str, object] = {
        "n_items": np.array([2, 3]), "edge_ptr": np.array([0, 1, 2]), "i": [0, 1], "j": [1, 2], "w": [0.5, 0.5],
    }  # fmt: skip
    with pytest.raises(InputError, match=text):
        fit_batch(**{**given, **change})  # pyright: ignore[reportArgumentType]


def many(rng: np.random.Generator, sizes: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    graphs = [cycles(n, 8, rng) for n in sizes]
    edges = np.concatenate(graphs)
    pointer = np.cumsum([0, *(len(graph) for graph in graphs)])
    return np.array(sizes), pointer, edges[:, 0], edges[:, 1], rng.integers(0, 2, len(edges)).astype(float)


def test_same_bits_for_any_thread_count_and_any_batch(rng: np.random.Generator) -> None:
    sizes, pointer, i, j, w = many(rng, [50, 20, 50, 3, 700, 50] * 3)
    one = fit_batch(sizes, pointer, i, j, w, threads=1)
    three = fit_batch(sizes, pointer, i, j, w, threads=3)
    assert one.theta.tobytes() == three.theta.tobytes()
    assert one.std_error is not None
    assert three.std_error is not None
    assert one.std_error.tobytes() == three.std_error.tobytes()
    start, offset = pointer[5], sizes[:5].sum()
    alone = fit_one(50, i[start : pointer[6]], j[start : pointer[6]], w[start : pointer[6]])
    assert alone.theta.tobytes() == one.theta[offset : offset + 50].tobytes()


def test_progress_ends_at_the_number_of_queries(rng: np.random.Generator) -> None:
    seen: list[tuple[int, int, str]] = []
    fit_batch(*many(rng, [5, 9, 5]), progress=lambda done, total, unit: seen.append((done, total, unit)))
    assert seen[-1] == (3, 3, "queries")


def test_no_queries() -> None:
    fit = fit_batch(np.zeros(0, dtype=np.int64), np.zeros(1, dtype=np.int64), [], [], [])
    assert (len(fit.theta), len(fit.status)) == (0, 0)


@pytest.mark.slow
def test_a_collection_is_fitted_in_seconds(rng: np.random.Generator) -> None:
    problem = many(rng, [50] * 2600)
    started = time.process_time()
    fit = fit_batch(*problem, threads=1)
    assert time.process_time() - started < 15
    assert (fit.status & FitStatus.CONVERGED).all()
