import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anmi_pipeline.errors import InputError
from anmi_pipeline.rating.features import FEATURES, feature_matrix, score_features
from anmi_pipeline.tables import POOL

SCORES = st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), min_size=1, max_size=12)


def pool(queries: dict[str, list[dict[str, float | None]]]) -> pl.DataFrame:
    rows = [
        {"query_id": query, "doc_id": f"d{number:02}", **values}
        for query, own in queries.items()
        for number, values in enumerate(own)
    ]
    return POOL.frame(rows)


@settings(max_examples=100, deadline=None)
@given(first=SCORES, second=SCORES)
def test_features_are_centred_finite_and_standardised(first: list[float | None], second: list[float | None]) -> None:
    made = score_features(
        pool({"a": [{"lexical_score": value} for value in first], "b": [{"lexical_score": value} for value in second]})
    )
    assert made.columns == ["query_id", "doc_id", *FEATURES]
    assert all(made.schema[name] == pl.Float64() for name in FEATURES)
    for _, own in made.group_by("query_id"):
        z = own["lexical"].to_numpy()
        assert np.isfinite(z).all()
        assert abs(z.mean()) < 1e-9
        assert not z.any() or z.std() == pytest.approx(1.0)
    assert not made.select("dense", "sparse", "late_interaction", "fused", "fused_rank").to_numpy().any()


def test_each_query_is_standardised_alone() -> None:
    own = [{"rrf_pool_score": 0.3, "rrf_pool_rank": 1}, {"rrf_pool_score": 0.1, "rrf_pool_rank": 2}]
    scaled = [{"rrf_pool_score": 30.0, "rrf_pool_rank": 1}, {"rrf_pool_score": 10.0, "rrf_pool_rank": 2}]
    made = score_features(pool({"a": own, "b": scaled}))
    assert made["fused"].to_list() == pytest.approx([1.0, -1.0, 1.0, -1.0])
    assert made["fused_rank"].to_list() == pytest.approx([1.0, -1.0, 1.0, -1.0])


def test_a_document_that_a_retriever_missed_counts_as_its_worst() -> None:
    made = score_features(pool({"a": [{"dense_score": 0.9}, {"dense_score": 0.5}, {}]}))
    z = made["dense"].to_list()
    assert z[1] == z[2] < z[0]


def test_the_fused_rank_is_concave() -> None:
    made = score_features(pool({"a": [{"rrf_pool_rank": rank} for rank in range(1, 51)]}))["fused_rank"].to_numpy()
    steps = -np.diff(made)
    assert (steps > 0).all()
    assert (np.diff(steps) < 0).all()
    assert steps[0] / steps[1] == pytest.approx(math.log(3 / 2) / math.log(4 / 3))


def test_rounding_noise_of_equal_scores_is_no_preference() -> None:
    made = score_features(pool({"a": [{"dense_score": 0.1 + 0.2}, {"dense_score": 0.3}]}))
    assert made["dense"].to_list() == [0.0, 0.0]


def test_order_of_rows_does_not_matter() -> None:
    table = pool({"a": [{"lexical_score": float(value)} for value in (3, 1, 2)], "b": [{"lexical_score": 1.0}]})
    assert score_features(table.reverse()).equals(score_features(table))
    assert score_features(table.clear()).height == 0


def test_bad_pools_are_named() -> None:
    table = pool({"a": [{"lexical_score": 1.0}]})
    with pytest.raises(InputError, match="d00 stands twice"):
        score_features(pl.concat([table, table]))
    with pytest.raises(InputError, match="document d01 of query a has lexical score nan"):
        score_features(pool({"a": [{"lexical_score": 1.0}, {"lexical_score": math.nan}]}))


def test_feature_matrix_takes_the_named_columns() -> None:
    made = score_features(pool({"a": [{"lexical_score": 1.0}, {"lexical_score": 3.0}]}))
    assert feature_matrix(made, ("dense", "lexical")).tolist() == [[0.0, -1.0], [0.0, 1.0]]
    assert feature_matrix(made, ()).shape == (2, 0)
    with pytest.raises(InputError, match="lack clicks"):
        feature_matrix(made, ("clicks",))
