import numpy as np
import polars as pl
import pytest
from scipy.special import ndtr

from anmi_pipeline.errors import InputError
from anmi_pipeline.rating.cross_query import cross_query_offsets
from anmi_pipeline.tables import ELO

Verdict = tuple[str, str, str, str, float]
SCHEMA = ["first_query", "first_doc", "second_query", "second_doc", "p_first"]


def elo_table(theta: np.ndarray) -> pl.DataFrame:
    return ELO.frame(
        [
            {
                "query_id": f"q{q:02}", "doc_id": f"d{d:02}", "theta": float(value), "elo": 1500.0, "std_error": 0.0,
                "rank": d + 1, "n_comparisons": 4, "status": "converged",
            }
            for q, values in enumerate(theta)
            for d, value in enumerate(values)
        ]
    )  # fmt: skip


def verdicts(*rows: Verdict) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def world(rng: np.random.Generator, count: int, soft: bool) -> tuple[pl.DataFrame, pl.DataFrame, np.ndarray]:
    theta = rng.normal(size=(25, 10))
    theta -= theta.mean(axis=1, keepdims=True)
    offset = rng.normal(0, 1, 25)
    offset -= offset.mean()
    rows: list[Verdict] = []
    for _ in range(count):
        (a, b), (c, d) = rng.choice(25, 2, replace=False), rng.integers(0, 10, 2)
        p = float(ndtr(theta[a, c] + offset[a] - theta[b, d] - offset[b]))
        rows.append((f"q{a:02}", f"d{c:02}", f"q{b:02}", f"d{d:02}", p if soft else float(rng.random() < p)))
    return elo_table(theta), verdicts(*rows), offset


def test_soft_verdicts_give_the_offsets_back(rng: np.random.Generator) -> None:
    elo, rows, offset = world(rng, 200, soft=True)
    found = cross_query_offsets(elo, rows, precision=1e-9)
    assert found["offset"].to_numpy() == pytest.approx(offset, abs=1e-6)
    assert found["compared"].sum() == 400


def test_hard_verdicts_give_them_roughly(rng: np.random.Generator) -> None:
    elo, rows, offset = world(rng, 1_500, soft=False)
    found = cross_query_offsets(elo, rows)["offset"].to_numpy()
    assert np.corrcoef(found, offset)[0, 1] > 0.97
    assert np.abs(found - offset).mean() < 0.2


def test_swapping_sides_changes_nothing(rng: np.random.Generator) -> None:
    elo, rows, _ = world(rng, 100, soft=False)
    swapped = rows.select(
        first_query="second_query", first_doc="second_doc", second_query="first_query", second_doc="first_doc",
        p_first=1 - pl.col("p_first"),
    )  # fmt: skip
    both = [cross_query_offsets(elo, frame, model="bradley_terry")["offset"].to_numpy() for frame in (rows, swapped)]
    assert both[0] == pytest.approx(both[1], abs=1e-8)


def test_a_weight_is_as_many_verdicts(rng: np.random.Generator) -> None:
    elo, rows, _ = world(rng, 60, soft=True)
    thrice = cross_query_offsets(elo, pl.concat([rows] * 3))["offset"].to_numpy()
    assert cross_query_offsets(elo, rows.with_columns(weight=pl.lit(3.0)))["offset"].to_numpy() == pytest.approx(thrice, abs=1e-7)


def test_queries_out_of_reach_stay_and_one_sided_ones_are_finite() -> None:
    elo = elo_table(np.zeros((4, 2)))
    found = cross_query_offsets(elo, verdicts(("q00", "d00", "q01", "d01", 1.0), ("q00", "d01", "q01", "d00", 1.0)))
    assert found["offset"][0] == pytest.approx(-found["offset"][1])
    assert 0.5 < found["offset"][0] < 10
    assert found["offset"].to_list()[2:] == [0.0, 0.0]
    assert cross_query_offsets(elo, verdicts().cast({"p_first": pl.Float64}))["offset"].to_list() == [0.0] * 4


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("q00", "d00", "q00", "d01", 1.0), "two different queries"),
        (("q00", "d00", "q01", "d01", 1.5), "p_first 1.5"),
        (("q00", "nope", "q01", "d01", 1.0), "nope of query q00"),
        (("q00", "d00", "q77", "d01", 1.0), "d01 of query q77"),
    ],
)
def test_bad_verdicts_are_named(row: Verdict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        cross_query_offsets(elo_table(np.zeros((2, 2))), verdicts(row))
