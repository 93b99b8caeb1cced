import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import shortest_path

from anmi_pipeline.errors import InputError
from anmi_pipeline.rating.certificates import certificate, certificates
from anmi_pipeline.rating.designs import cycles, design
from anmi_pipeline.tables import CERTIFICATES


@settings(max_examples=60, deadline=None)
@given(n=st.integers(2, 25), k=st.integers(1, 8), seed=st.integers(0, 1000))
def test_agrees_with_a_naive_second_implementation(n: int, k: int, seed: int) -> None:
    edges = design("random", n, k, np.random.default_rng(seed))
    made = certificate(n, edges)
    linked = np.zeros((n, n))
    linked[edges[:, 0], edges[:, 1]] = linked[edges[:, 1], edges[:, 0]] = 1
    far = shortest_path(linked, unweighted=True)
    assert (made.min_degree, made.max_degree) == (linked.sum(0).min(), linked.sum(0).max())
    assert made.n_pairs == len(edges)
    assert made.components == len({tuple(row) for row in np.isfinite(far)})
    if made.components > 1:
        assert (made.diameter, made.mean_resistance, made.max_resistance) == (-1, -1.0, -1.0)
        assert made.algebraic_connectivity == 0.0
        return
    laplacian = np.diag(linked.sum(0)) - linked
    inverse = np.linalg.pinv(laplacian)
    resistance = [inverse[a, a] + inverse[b, b] - 2 * inverse[a, b] for a in range(n) for b in range(a)]
    assert made.diameter == far.max()
    assert made.algebraic_connectivity == pytest.approx(np.linalg.eigvalsh(laplacian)[1])
    assert made.mean_resistance == pytest.approx(np.mean(resistance))
    assert made.max_resistance == pytest.approx(np.max(resistance))
    assert made.mean_resistance >= made.resistance_bound - 1e-9


def test_smallest_graphs() -> None:
    none = np.zeros((0, 2), dtype=np.int64)
    assert (certificate(0, none).components, certificate(1, none).components, certificate(2, none).components) == (0, 1, 2)
    assert certificate(1, none).mean_resistance == 0.0
    assert certificate(3, none).resistance_bound == -1.0
    pair = certificate(2, np.array([[0, 1]]))
    assert (pair.diameter, pair.max_resistance, pair.resistance_bound) == (1, pytest.approx(1.0), 1.0)


def test_a_repeated_pair_counts_once() -> None:
    assert certificate(3, np.array([[0, 1], [1, 0], [1, 2]])).n_pairs == 2


def test_table_of_graphs_of_mixed_sizes(rng: np.random.Generator) -> None:
    sizes = [5, 0, 30, 1, 5]
    graphs = [cycles(n, 4, rng) for n in sizes]
    table = CERTIFICATES.validate(certificates(list("abcde"), sizes, graphs))
    for query_id, n, edges in zip("abcde", sizes, graphs, strict=True):
        assert table.filter(query_id=query_id).row(0, named=True) == pytest.approx(certificate(n, edges).row(query_id))
    assert CERTIFICATES.validate(certificates([], [], [])).height == 0


def test_bad_edges_are_named() -> None:
    with pytest.raises(InputError, match=r"query 0 \(3 documents\), edge 1 \(i=2, j=3\)"):
        certificate(3, np.array([[0, 1], [2, 3]]))


@pytest.mark.slow
def test_a_collection_is_certified_in_seconds(rng: np.random.Generator) -> None:
    graphs = [cycles(50, 8, rng) for _ in range(2600)]
    started = time.process_time()
    certificates([str(q) for q in range(2600)], [50] * 2600, graphs)
    assert time.process_time() - started < 10
