"""Verdicts fold into comparisons with the evidence that is in them, and in their judges."""

from math import inf, nan

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anmi_pipeline.errors import InputError
from anmi_pipeline.rating.comparisons import PAIR, fold_judgments, weighted_comparisons
from anmi_pipeline.tables import COMPARISONS, JUDGMENTS


def verdict(first: str, second: str, p: float | None, **rest: object) -> dict[str, object]:
    """A row of JUDGMENTS."""
    return {
        "query_id": "q", "first_id": first, "second_id": second, "judge": "x", "epoch": "1", "round": 1, "audit": False,
        "p_first": p, "status": "ok", "call_key": "k", "provenance": "model", "input_tokens": 0, "output_tokens": 0,
        "cost_usd": 0.0,
    } | rest  # fmt: skip


def test_weights_by_hand():
    rows = [
        verdict("a", "b", 1.0, weight=0.5),
        verdict("b", "a", 0.8, judge="y/file", weight=1.0),
        verdict("a", "b", 0.5, judge="z", weight=2.0),
        verdict("a", "b", 0.1, judge="z/own", weight=1.0),
        verdict("a", "c", 0.9, judge="w", weight=1.0),
        verdict("b", "c", 0.9, weight=0.0),
        verdict("b", "c", None, weight=1.0, status="timeout"),
    ]
    folded = weighted_comparisons(JUDGMENTS.frame(rows), {"x": 3.0, "y": 0.5, "z/own": 4.0, "w": 0.0})
    (row,) = folded.to_dicts()
    assert (row["doc_i"], row["doc_j"], row["weight"], row["n_verdicts"]) == ("a", "b", 8.0, 4)
    assert row["preference"] == pytest.approx((1.5 * 1.0 + 0.5 * 0.2 + 2 * 0.5 + 4 * 0.1) / 8)
    (graph,) = fold_judgments(JUDGMENTS.frame(rows), {"x": 3.0, "y": 0.5, "z/own": 4.0, "w": 0.0}).to_dicts()
    assert {name: graph[name] for name in row} == row
    assert graph["effective_resistance"] == pytest.approx(1 / 8)


def test_one_pair_twice_in_a_round_is_two_verdicts_of_two_lists():
    rows = [verdict("a", "b", 1.0, list=1, weight=0.5), verdict("a", "b", 0.0, list=2, weight=0.25)]
    (row,) = weighted_comparisons(JUDGMENTS.validate(JUDGMENTS.frame(rows))).to_dicts()
    assert (row["preference"], row["weight"], row["n_verdicts"]) == (pytest.approx(2 / 3), 0.75, 2)


@given(
    st.lists(
        st.tuples(st.sampled_from(["ab", "ba", "ac", "ca"]), st.floats(0, 1), st.sampled_from("xyz"), st.floats(0.01, 10)),
        min_size=1,
        max_size=12,
    ),
    st.randoms(),
)
def test_the_order_of_verdicts_leaves_no_bit(votes, random):
    rows = [verdict(*pair, p, judge=judge, weight=w, round=n) for n, (pair, p, judge, w) in enumerate(votes)]
    folded = fold_judgments(JUDGMENTS.frame(rows), {"x": 2.0, "y": 0.1})
    random.shuffle(rows)
    assert fold_judgments(JUDGMENTS.frame(rows), {"x": 2.0, "y": 0.1}).equals(folded)
    assert folded["preference"].is_between(0, 1).all()
    heavier = weighted_comparisons(JUDGMENTS.frame(rows), {"x": 4.0, "y": 0.2, "z": 2.0})
    assert heavier["preference"].to_numpy() == pytest.approx(folded["preference"].to_numpy())
    assert heavier["weight"].to_numpy() == pytest.approx(2 * folded["weight"].to_numpy())


def test_equal_preferences_stay_what_they_are():
    rows = [verdict("a", "b", 1.0, round=n, weight=w) for n, w in enumerate([0.1, 0.7, 1 / 3, 0.2])]
    assert fold_judgments(JUDGMENTS.frame(rows))["preference"].to_list() == [1.0]


@pytest.mark.parametrize("weight", [-0.5, nan, inf])
def test_a_weight_must_be_finite_and_not_negative(weight: float):
    with pytest.raises(InputError, match=r"judge x on query q, first a, second b has p_first 1\.0 and weight"):
        fold_judgments(JUDGMENTS.frame([verdict("a", "b", 1.0, weight=weight)]))
    with pytest.raises(InputError, match='judge "x" has weight'):
        fold_judgments(JUDGMENTS.frame([verdict("a", "b", 1.0)]), {"x": weight})


def test_no_evidence_is_no_comparison():
    assert fold_judgments(JUDGMENTS.frame(), {"x": 2.0}).equals(COMPARISONS.frame())
    nothing = fold_judgments(JUDGMENTS.frame([verdict("a", "b", 1.0)]), {"x": 0.0})
    assert nothing.equals(COMPARISONS.frame())
    assert weighted_comparisons(JUDGMENTS.frame()).select(PAIR).schema == dict.fromkeys(PAIR, pl.String())
