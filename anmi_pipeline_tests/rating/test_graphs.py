import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anmi_pipeline.rating.graphs import effective_resistance, graph_batch


@settings(max_examples=60, deadline=None)
@given(n=st.integers(2, 15), edges=st.integers(1, 30), seed=st.integers(0, 10**6))
def test_resistance_agrees_with_the_pseudo_inverse(n: int, edges: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    i = rng.integers(0, n, edges)
    j = (i + rng.integers(1, n, edges)) % n
    weight = rng.uniform(0.5, 5, edges)
    laplacian = np.zeros((n, n))
    for a, b, c in zip(i, j, weight, strict=True):
        laplacian[[a, b, a, b], [a, b, b, a]] += [c, c, -c, -c]
    inverse = np.linalg.pinv(laplacian)
    expected = [inverse[a, a] + inverse[b, b] - 2 * inverse[a, b] for a, b in zip(i, j, strict=True)]
    batch = graph_batch(np.array([3, n]), np.array([0, 0, edges]), i, j, weight)
    assert effective_resistance(batch) == pytest.approx(expected)


def test_components_are_numbered_within_the_query() -> None:
    batch = graph_batch(np.array([3, 0, 4, 1]), np.array([0, 1, 1, 3, 3]), [0, 3, 1], [2, 0, 2])
    assert batch.components.tolist() == [2, 0, 2, 1]
    assert batch.labels.tolist() == [0, 1, 0, 0, 1, 1, 0, 0]
    assert batch.degrees().tolist() == [1, 0, 1, 1, 1, 1, 1, 0]


def test_a_weightless_edge_connects_nothing() -> None:
    batch = graph_batch(np.array([2]), np.array([0, 1]), [0], [1], np.zeros(1))
    assert batch.components.tolist() == [2]
    assert np.isinf(effective_resistance(batch)).all()
