"""Drift of Elo tables: nothing for equal ones, little for swaps of equals, what a place is worth for a new best."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from anmi_pipeline.rating.drift import AGREEMENT, Drift, agreement, drift, kendall, top_loss
from anmi_pipeline.tables import ELO, JUDGMENTS

SCORES = st.lists(st.floats(-3, 3, allow_nan=False), min_size=2, max_size=20)


def elo(scores: dict[str, float], query: str = "q", error: float = 50.0) -> pl.DataFrame:
    """ELO rows of one query."""
    table = pl.DataFrame(
        {"doc_id": list(scores), "elo": list(scores.values())}, schema={"doc_id": pl.String(), "elo": pl.Float64()}
    )
    ranked = table.sort(["elo", "doc_id"], descending=[True, False]).with_columns(rank=pl.int_range(1, pl.len() + 1))
    return ELO.frame(
        ranked.with_columns(
            query_id=pl.lit(query), theta=(pl.col("elo") - 1500) / 300, std_error=pl.lit(error), n_comparisons=pl.lit(4),
            status=pl.lit("converged"),
        )
    )  # fmt: skip


def frame(values: list[float]) -> pl.DataFrame:
    return elo({f"d{number:02d}": 1500 + 100 * value for number, value in enumerate(values)})


@given(SCORES)
def test_an_equal_table_has_not_moved(values: list[float]) -> None:
    found = drift(frame(values), frame(values))
    assert found.moved == 0
    assert found.moved_share == 0
    (row,) = found.queries.to_dicts()
    assert (row["tau"], row["overlap"], row["max_change"], row["new_documents"]) == (1.0, 1.0, 0.0, 0)


@given(SCORES, st.integers(0, 2**32))
def test_the_loss_is_a_share_and_a_shift_of_all_scores_changes_nothing(values: list[float], seed: int) -> None:
    shuffled = np.random.default_rng(seed).permutation(values).tolist()
    old, new = frame(values), frame(shuffled)
    (row,) = drift(old, new).queries.to_dicts()
    assert 0 <= row["loss"] <= 1
    (shifted,) = drift(old, new.with_columns(pl.col("elo") + 40)).queries.to_dicts()
    assert shifted["loss"] == pytest.approx(row["loss"], abs=1e-9)
    assert shifted["max_change"] == pytest.approx(row["max_change"], abs=1e-9)


@given(st.lists(st.integers(0, 4), min_size=2, max_size=12), st.integers(0, 2**32))
def test_kendall_is_scipys(values: list[int], seed: int) -> None:
    other = np.random.default_rng(seed).integers(0, 4, len(values))
    wanted = kendalltau(values, other).statistic
    if not math.isnan(wanted):
        assert kendall(np.array(values, dtype=float), other.astype(float)) == pytest.approx(wanted)


def test_a_constant_ranking_agrees_with_a_constant_one_alone() -> None:
    flat, rising = np.zeros(4), np.arange(4.0)
    assert (kendall(flat, flat), kendall(flat, rising)) == (1.0, 0.0)


def test_a_swap_of_near_equals_costs_little_and_a_new_best_document_its_place() -> None:
    names = [f"d{number:02d}" for number in range(12)]
    scores = {name: 1900.0 - 60 * place for place, name in enumerate(names)}
    swapped = scores | {"d00": scores["d01"] - 1}
    assert 0 < drift(elo(scores), elo(swapped)).moved < 0.001
    found = drift(elo(scores), elo(scores | {"new": 2000.0}))
    gains = sorted((value - np.mean([*scores.values(), 2000.0]) for value in [*scores.values(), 2000.0]), reverse=True)
    top = np.maximum(gains, 0)
    discounts = 1 / np.log2(np.arange(2, 12))
    assert found.moved == pytest.approx(1 - (top[1:11] @ discounts) / (top[:10] @ discounts))
    assert found.queries["new_documents"].to_list() == [1]
    assert found.moved > 0.1


def test_changes_are_counted_in_errors_of_the_difference() -> None:
    old, new = elo({"a": 1600.0, "b": 1400.0}, error=30.0), elo({"a": 1700.0, "b": 1300.0}, error=40.0)
    (row,) = drift(old, new).queries.to_dicts()
    assert row["max_change"] == pytest.approx(100 / 50)
    assert row["mean_change"] == pytest.approx(2.0)


def test_new_queries_are_counted_apart() -> None:
    old = elo({"a": 1600.0, "b": 1400.0}, "q1")
    new = pl.concat([old, elo({"a": 1600.0, "b": 1400.0}, "q2"), elo({"a": 1.0}, "q3")])
    found = drift(old, new)
    assert (found.moved, found.new_queries, found.gone_queries, found.new_share) == (0.0, 2, 0, 2 / 3)
    gone = drift(new, old)
    assert (gone.new_queries, gone.gone_queries, gone.new_share) == (0, 2, 0.0)
    assert drift(old.clear(), old).facts()["moved"] == 0.0
    assert drift(old.clear(), old).new_share == 1.0


def test_documents_that_left_are_no_loss_of_the_old_ranking() -> None:
    old = elo({"a": 1700.0, "b": 1500.0, "c": 1300.0})
    found = drift(old, elo({"b": 1600.0, "c": 1400.0}))
    assert found.moved == 0
    assert found.queries["gone_documents"].to_list() == [1]


def test_a_query_of_one_document_has_no_order_to_lose() -> None:
    found = drift(elo({"a": 1500.0}), elo({"a": 1500.0}))
    assert found.facts() | {"tau": None, "mean_change": None} == found.facts()
    assert top_loss(elo({"a": 1500.0}), elo({"a": 1500.0})) == 0.0


def test_every_figure_has_a_line_for_people() -> None:
    rows = drift(frame([1, 2, 3]), frame([3, 2, 1])).rows()
    assert all(row["value"] != "" for row in rows)
    assert len(rows) == len(Drift(drift(frame([1, 2]), frame([1, 2])).queries, 0, 0).facts())


def verdicts(epoch: str, votes: list[float], judge: str = "j", status: str = "ok") -> pl.DataFrame:
    n = len(votes)
    return JUDGMENTS.frame({
        "query_id": ["q"] * n, "first_id": [f"a{k}" for k in range(n)], "second_id": ["z"] * n, "judge": [judge] * n,
        "epoch": [epoch] * n, "round": [1] * n, "audit": [False] * n, "p_first": votes, "status": [status] * n,
        "call_key": [f"{judge}{k}" for k in range(n)], "provenance": ["model"] * n, "input_tokens": [1] * n,
        "output_tokens": [1] * n, "cost_usd": [0.0] * n,
    })  # fmt: skip


def test_judges_that_were_asked_again_agree_with_themselves_or_not() -> None:
    found = agreement(verdicts("1", [0.9, 0.8, 0.3, 0.6]), verdicts("2", [0.7, 0.2, 0.1, 0.9]), "2")
    (row,) = found.to_dicts()
    assert (row["judge"], row["asked_again"], row["agree"]) == ("j", 4, 0.75)
    assert row["mean_change"] == pytest.approx((0.2 + 0.6 + 0.2 + 0.3) / 4)
    assert row["low"] == pytest.approx(0.3006, abs=1e-3)
    assert row["high"] == pytest.approx(0.9544, abs=1e-3)


def test_carried_failed_and_other_calls_are_not_asked_again() -> None:
    old = verdicts("1", [0.9, 0.8])
    assert agreement(old, old, "2").is_empty()
    assert agreement(verdicts("1", [0.9], status="http_500"), verdicts("2", [0.9]), "2").is_empty()
    changed = verdicts("2", [0.9, 0.8]).with_columns(call_key=pl.lit("other text"))
    assert dict(agreement(old, changed, "2").schema) == AGREEMENT
    assert agreement(old, changed, "2").is_empty()
