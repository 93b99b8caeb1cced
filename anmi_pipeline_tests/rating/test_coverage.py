"""Queries with too few verdicts are named and left out."""

from typing import cast

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anmi_pipeline.rating.coverage import Flagged, coverage


def judged(answers: dict[str, list[bool]]) -> pl.DataFrame:
    rows = [(query, "ok" if answered else "http_500") for query, all_of in answers.items() for answered in all_of]
    return pl.DataFrame(rows, schema={"query_id": pl.String(), "status": pl.String()}, orient="row")


def test_coverage_counts_answers_of_what_was_planned() -> None:
    table = judged({"b": [True, False, False, False], "a": [True, True]})
    assert coverage(table).rows() == [("a", 2, 2, 1.0), ("b", 4, 1, 0.25)]


@pytest.mark.parametrize(
    ("floor", "flagged"), [(0.0, []), (0.25, ["none"]), (0.5, ["none", "quarter"]), (1.0, ["none", "quarter"])]
)
def test_a_query_exactly_at_the_floor_is_scored(floor: float, flagged: list[str]) -> None:
    found = Flagged.of(judged({"all": [True] * 4, "quarter": [True, False, False, False], "none": [False] * 4}), floor)
    assert found.queries["query_id"].to_list() == flagged
    assert len(found) == len(flagged)


def test_flagged_queries_are_named_and_left_out() -> None:
    found = Flagged.of(judged({"q1": [True, True], "q2": [True, False], "q3": [False, False]}), 0.9)
    assert found.facts() == {"queries_under_coverage_floor": 2, "not_scored": {"q2": 0.5, "q3": 0.0}}
    assert found.said(3) == (
        "2 of 3 queries have less than 90% of their verdicts, first q2, q3: they are not scored. "
        "The judge report says what failed."
    )
    assert found.said(3, "Failed: x 2.").endswith("they are not scored. Failed: x 2.")
    rows = pl.DataFrame({"query_id": ["q9", "q3", "q1", "q2", "q1"], "n": range(5)})
    assert found.left_out_of(rows).rows() == [("q9", 0), ("q1", 2), ("q1", 4)]


def test_without_a_flagged_query_nothing_is_said_and_nothing_left_out() -> None:
    found = Flagged.of(judged({"q1": [True]}), 0.95)
    rows = pl.DataFrame({"query_id": ["q1", "q2"]})
    assert found.facts() == {}
    assert found.left_out_of(rows) is rows
    assert len(Flagged.of(judged({}), 0.95)) == 0


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), st.lists(st.booleans(), min_size=1, max_size=9)), st.floats(0, 1))
def test_every_query_is_either_scored_or_named(answers: dict[str, list[bool]], floor: float) -> None:
    table = judged(answers)
    found = Flagged.of(table, floor)
    kept = set(found.left_out_of(table)["query_id"])
    named = set(cast("dict[str, float]", found.facts().get("not_scored", {})))
    assert kept | named == set(answers)
    assert not kept & named
    assert named == {query for query, own in answers.items() if sum(own) / len(own) < floor}
