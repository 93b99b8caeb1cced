import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anmi_pipeline.errors import InputError
from anmi_pipeline.rating.certificates import certificate
from anmi_pipeline.rating.designs import complete, cycles, design, joined, lists, pairs_within


def degrees(n: int, edges: np.ndarray) -> np.ndarray:
    return np.bincount(edges.ravel(), minlength=n)


def well_formed(n: int, edges: np.ndarray) -> bool:
    return (
        edges.dtype == np.int64
        and edges.shape[1] == 2
        and bool((edges[:, 0] < edges[:, 1]).all())
        and len(np.unique(edges, axis=0)) == len(edges)
        and (not len(edges) or (edges.min() >= 0 and edges.max() < n))
    )


@settings(max_examples=200, deadline=None)
@given(n=st.integers(0, 60), k=st.integers(1, 62), seed=st.integers(0, 2**32 - 1))
def test_cycles_are_regular_connected_and_without_repeats(n: int, k: int, seed: int) -> None:
    edges = cycles(n, k, np.random.default_rng(seed))
    assert well_formed(n, edges)
    found = degrees(n, edges)
    expected = max(min(k, n - 1), 0)
    if n % 2 and expected % 2:  # no regular graph exists: one document has one comparison less
        assert sorted(found) == [expected - 1] + [expected] * (n - 1)
    else:
        assert (found == expected).all()
    if n and (k >= 2 or n <= 2):
        assert certificate(n, edges).components == 1
    assert np.array_equal(edges, cycles(n, k, np.random.default_rng(seed)))


@pytest.mark.parametrize("n", range(3, 24))
def test_every_k_of_every_small_n(n: int, rng: np.random.Generator) -> None:
    for k in range(2, n):
        found = degrees(n, cycles(n, k, rng))
        assert found.sum() == 2 * (n * k // 2)
        assert found.max() == k


def test_documented_sizes(rng: np.random.Generator) -> None:
    assert cycles(0, 4, rng).shape == (0, 2)
    assert cycles(1, 4, rng).shape == (0, 2)
    assert cycles(2, 4, rng).tolist() == [[0, 1]]
    assert len(cycles(50, 24, rng)) == 600
    assert np.array_equal(cycles(10, 9, rng), complete(10))


def test_cycles_visit_pairs_evenly() -> None:
    """No pair is preferred: over many draws each is compared with probability k / (n - 1)."""
    rng, n, draws = np.random.default_rng(5), 12, 3000
    count = np.zeros((n, n))
    for _ in range(draws):
        edges = cycles(n, 4, rng)
        count[edges[:, 0], edges[:, 1]] += 1
    share = count[np.triu_indices(n, 1)] / draws
    spread = np.sqrt(4 / 11 * (1 - 4 / 11) / draws)
    assert np.abs(share - 4 / 11).max() < 4.5 * spread


def test_diameter_and_resistance_match_the_published_figures(rng: np.random.Generator) -> None:
    made = [certificate(100, cycles(100, 8, rng)) for _ in range(20)]
    assert {c.diameter for c in made} == {4}
    assert np.mean([c.mean_resistance for c in made]) == pytest.approx(0.287, abs=0.003)
    assert made[0].resistance_bound == pytest.approx(0.2475)


@settings(max_examples=100, deadline=None)
@given(n=st.integers(0, 40), k=st.integers(1, 45), seed=st.integers(0, 1000))
def test_random_pairs_are_distinct_and_as_many_as_asked(n: int, k: int, seed: int) -> None:
    edges = design("random", n, k, np.random.default_rng(seed))
    assert well_formed(n, edges)
    assert len(edges) == min(n * k // 2, n * (n - 1) // 2)


def test_complete_has_all_pairs(rng: np.random.Generator) -> None:
    assert len(design("complete", 7, 1, rng)) == 21


@settings(max_examples=150, deadline=None)
@given(n=st.integers(0, 60), k=st.integers(1, 30), m=st.integers(3, 20), seed=st.integers(0, 2**32 - 1))
def test_lists_are_partitions_that_connect_all_documents(n: int, k: int, m: int, seed: int) -> None:
    drawn = lists(n, k, m, np.random.default_rng(seed))
    sizes = [len(documents) for documents in drawn]
    assert all(2 <= size <= m for size in sizes)
    assert not sizes or max(sizes) - min(sizes) <= 1
    if n < 2:
        assert not drawn
        return
    count = -(-n // m)
    partitions = -(-k // (m - 1))
    assert len(drawn) == (count * max(2, partitions) if count > 1 else partitions)
    for start in range(0, len(drawn), count):
        assert sorted(np.concatenate(drawn[start : start + count])) == list(range(n))
    edges = design("lists", n, k, np.random.default_rng(seed), m)
    assert well_formed(n, edges)
    assert np.array_equal(edges, pairs_within(drawn))
    assert certificate(n, edges).components == 1


def test_lists_keep_documents_apart_that_have_met(rng: np.random.Generator) -> None:
    """Partitions that do not look back would repeat a ninth of the pairs of each other."""
    drawn = [lists(100, 27, 10, rng) for _ in range(20)]
    met = sum(len(documents) * (len(documents) - 1) // 2 for own in drawn for documents in own)
    assert sum(len(pairs_within(own)) for own in drawn) / met > 0.98
    assert [len(own) for own in drawn] == [30] * 20


@settings(max_examples=100, deadline=None)
@given(size=st.integers(2, 5), count=st.integers(2, 8), seed=st.integers(0, 1000))
def test_equal_partitions_are_joined(size: int, count: int, seed: int) -> None:
    first = np.repeat(np.arange(count), size)
    second = joined(first, first, np.random.default_rng(seed))
    assert np.bincount(second).tolist() == [size] * count
    own = [np.flatnonzero(labels == number) for labels in (first, second) for number in range(count)]
    assert certificate(size * count, pairs_within(own)).components == 1


def test_a_list_of_two_is_a_pair(rng: np.random.Generator) -> None:
    with pytest.raises(InputError, match="lists of 2 documents"):
        lists(10, 4, 2, rng)


@pytest.mark.parametrize(
    ("kind", "n", "k", "text"),
    [
        ("cycle", 5, 2, 'Did you mean "cycles"'),
        ("cycles", 5, 0, "k = 0"),
        ("cycles", -1, 2, "n = -1"),
        ("random", 5, -2, "k = -2"),
    ],
)
def test_bad_arguments_are_named(kind: str, n: int, k: int, text: str, rng: np.random.Generator) -> None:
    with pytest.raises(InputError, match=text):
        design(kind, n, k, rng)  # pyright: ignore[reportArgumentType]
