from math import log2, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anmi_pipeline.errors import InputError
from anmi_pipeline.rating.adaptive import CAP, first_cycle, next_pairs, rank_discounts, round_sizes
from anmi_pipeline.rating.certificates import certificate
from anmi_pipeline.rating.designs import complete, cycles, design
from anmi_pipeline.rating.kernels.pairs import fisher, information

NOTHING = np.zeros((0, 2), dtype=np.int64)


def posterior(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(n, n))
    return rng.normal(size=n), np.linalg.inv(root @ root.T + np.eye(n))


def exhaustive(theta: np.ndarray, covariance: np.ndarray, asked: np.ndarray, count: int, cap: int) -> list[tuple[int, int]]:
    """The greedy choice with every pair scored anew in every step, in pure numpy."""
    n = len(theta)
    covariance = covariance.copy()
    weight = rank_discounts(theta, "both")
    free = {(i, j) for i in range(n) for j in range(i + 1, n)} - {(min(pair), max(pair)) for pair in asked.tolist()}
    degree, chosen = np.zeros(n, dtype=int), []
    while len(chosen) < count:
        offered = sorted(pair for pair in free if degree[pair[0]] < cap and degree[pair[1]] < cap)
        if not offered:
            break
        scores = [
            weight[i, j] * information(theta[i] - theta[j], covariance[i, i] + covariance[j, j] - 2 * covariance[i, j])
            for i, j in offered
        ]
        i, j = offered[int(np.argmax(scores))]
        free.remove((i, j))
        chosen.append((i, j))
        degree[[i, j]] += 1
        along = covariance[:, i] - covariance[:, j]
        curvature = fisher(theta[i] - theta[j])
        covariance -= np.outer(along, along) * curvature / (1 + curvature * (along[i] - along[j]))
    return sorted(chosen)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(2, 12), count=st.integers(0, 30), cap=st.integers(1, 12), seed=st.integers(0, 10_000))
def test_the_lazy_choice_equals_the_exhaustive_one(n: int, count: int, cap: int, seed: int) -> None:
    theta, covariance = posterior(n, seed)
    asked = cycles(n, 2, np.random.default_rng(seed))
    made = next_pairs(theta, covariance, asked, count, cap=cap)
    assert [tuple(pair) for pair in made.tolist()] == exhaustive(theta, covariance, asked, count, cap)


@settings(max_examples=100, deadline=None)
@given(n=st.integers(2, 40), count=st.integers(0, 200), cap=st.integers(1, 12), seed=st.integers(0, 10_000))
def test_pairs_are_new_distinct_and_capped(n: int, count: int, cap: int, seed: int) -> None:
    theta, covariance = posterior(n, seed)
    asked = design("random", n, 3, np.random.default_rng(seed))
    made = next_pairs(theta, covariance, asked[:, ::-1], count, cap=cap)
    assert made.dtype == np.int64
    assert made.shape[1] == 2
    assert len(made) <= count
    assert (made[:, 0] < made[:, 1]).all()
    both = np.concatenate((asked, made))
    assert len(np.unique(both, axis=0)) == len(both)
    assert np.bincount(made.ravel(), minlength=n).max(initial=0) <= cap
    assert np.array_equal(made, next_pairs(theta, covariance, asked, count, cap=cap))


def test_all_pairs_are_asked_in_the_end_and_then_no_more() -> None:
    theta, covariance = posterior(8, 1)
    asked = NOTHING
    while len(new := next_pairs(theta, covariance, asked, 5)):
        asked = np.concatenate((asked, new))
    assert sorted(map(tuple, asked.tolist())) == [tuple(pair) for pair in complete(8).tolist()]


def test_ties_go_to_the_smaller_indices() -> None:
    made = next_pairs(np.zeros(6), np.eye(6), NOTHING, 1)
    assert made.tolist() == [[0, 1]]


def test_it_asks_about_the_top_and_where_the_outcome_is_open() -> None:
    theta = np.array([0.0, 3.0, 2.9, -3.0, -2.9, 0.1])
    assert next_pairs(theta, np.eye(6), NOTHING, 1).tolist() == [[1, 2]]
    certain = np.diag([1.0, 1e-6, 1e-6, 1.0, 1.0, 1.0])
    assert next_pairs(theta, certain, NOTHING, 1).tolist() == [[0, 5]]


def test_a_batch_does_not_ask_the_same_thing_twice() -> None:
    """0 and 1 are tied together, so are 2 and 3: after 0-2, the pair 1-3 says almost nothing."""
    covariance = np.kron(np.eye(3), np.array([[1.0, 0.999], [0.999, 1.0]])).astype(np.float64)
    made = next_pairs(np.zeros(6), covariance, NOTHING, 3, discount="none").tolist()
    blocks = [{i // 2, j // 2} for i, j in made]
    assert len({frozenset(pair) for pair in blocks}) == 3


def test_the_discounts_are_those_of_ndcg() -> None:
    theta = np.array([0.0, 2.0, 1.0])
    own = {1: 1.0, 2: 1 / log2(3), 0: 0.5}
    both, better = rank_discounts(theta, "both"), rank_discounts(theta, "better")
    for i in range(3):
        for j in range(3):
            assert both[i, j] == pytest.approx(own[i] * own[j])
            assert better[i, j] == pytest.approx(max(own[i], own[j]))
    assert (rank_discounts(theta, "none") == 1).all()


@pytest.mark.parametrize("gap", [0.0, 0.3, 1.0, 2.5])
@pytest.mark.parametrize("variance", [0.01, 0.3, 1.0, 4.0])
def test_information_against_quadrature(gap: float, variance: float) -> None:
    from scipy.special import entr, ndtr

    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    entropy = lambda p: (entr(p) + entr(1 - p)) / np.log(2)  # noqa: E731
    exact = entropy(ndtr(gap / sqrt(1 + variance))) - weights @ entropy(ndtr(gap + sqrt(variance) * nodes))
    assert information(gap, variance) == pytest.approx(exact, abs=0.02)
    assert fisher(gap) == pytest.approx(np.exp(-(gap**2)) / (2 * np.pi) / (ndtr(gap) * ndtr(-gap)))


@settings(max_examples=300, deadline=None)
@given(gap=st.floats(-12, 12), low=st.floats(0, 20), more=st.floats(0, 20))
def test_information_is_never_negative_and_grows_with_variance(gap: float, low: float, more: float) -> None:
    """The lazy choice rests on it: an old score bounds the new one from above."""
    assert information(gap, 0.0) == pytest.approx(0.0, abs=1e-15)
    assert -1e-15 <= information(gap, low) <= information(gap, low + more) + 1e-15
    assert information(gap, low) == information(-gap, low)
    assert 0.0 <= fisher(gap) <= 2 / np.pi + 1e-15


def test_bradley_terry_reads_theta_on_its_own_scale() -> None:
    theta, covariance = posterior(10, 3)
    made = next_pairs(theta, covariance, NOTHING, 12)
    assert np.array_equal(made, next_pairs(1.702 * theta, 1.702**2 * covariance, NOTHING, 12, model="bradley_terry"))


@settings(max_examples=100, deadline=None)
@given(n=st.integers(0, 200), degree=st.integers(2, 60), batches=st.integers(0, 6))
def test_round_sizes_spend_the_budget(n: int, degree: int, batches: int) -> None:
    sizes = round_sizes(n, degree, batches)
    total = min(n * degree // 2, n * (n - 1) // 2)
    assert len(sizes) == 1 + batches
    assert sizes[0] == len(cycles(n, 2, np.random.default_rng(0)))
    assert sum(sizes) == (total if batches else sizes[0])
    assert list(sizes[1:]) == sorted(sizes[1:], reverse=True)
    assert max(sizes[1:], default=0) - min(sizes[1:], default=0) <= 1


def test_the_documented_budgets() -> None:
    assert round_sizes(50, 8) == (50, 50, 50, 50)
    assert round_sizes(50, 4) == (50, 17, 17, 16)
    assert CAP == 12


@settings(max_examples=100, deadline=None)
@given(n=st.integers(0, 60), seed=st.integers(0, 1000))
def test_the_first_cycle_is_a_cycle(n: int, seed: int) -> None:
    made = first_cycle(np.zeros(n), 1.0, np.random.default_rng(seed))
    assert np.array_equal(made, first_cycle(np.zeros(n), 1.0, np.random.default_rng(seed)))
    if n >= 3:
        assert (np.bincount(made.ravel(), minlength=n) == 2).all()
        found = certificate(n, made)
        assert (found.components, found.n_pairs) == (1, n)
    assert len(made) == round_sizes(n, 2)[0]


def test_the_first_cycle_compares_neighbours_of_the_prior() -> None:
    mean = np.linspace(5, -5, 40)
    made = first_cycle(mean, 1e12, np.random.default_rng(0))
    assert np.abs(made[:, 0] - made[:, 1]).max() == 2
    noisy = first_cycle(mean, 1e-6, np.random.default_rng(0))
    assert np.abs(noisy[:, 0] - noisy[:, 1]).mean() > 8


def test_requests_without_an_answer_are_refused() -> None:
    theta, covariance = posterior(4, 0)
    for arguments, message in (
        ((theta, covariance, NOTHING, -1), "-1 pairs"),
        ((theta, covariance[:3], NOTHING, 1), "covariance shape"),
        ((theta, covariance, np.array([[0, 4]]), 1), "name documents 0 to 4"),
    ):
        with pytest.raises(InputError, match=message):
            next_pairs(*arguments)
    with pytest.raises(InputError, match="cap >= 1"):
        next_pairs(theta, covariance, NOTHING, 1, cap=0)
    with pytest.raises(InputError, match='"bth" does not exist'):
        next_pairs(theta, covariance, NOTHING, 1, discount="bth")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="degree = 1"):
        round_sizes(10, 1)
