"""When a dataset is refreshed, how a refresh is named, and the account of what it bought."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from anmi_pipeline.judging.refreshing import RefreshConfig, next_name, purchases
from anmi_pipeline.tables import JUDGMENTS


@pytest.mark.parametrize("cron", ["0 3 * * 1", "*/15 * * * *", "30 2 1,15 * *", "0 0-6/2 * 1-11 0", "5 4 * * 7"])
def test_crons_are_read(cron: str) -> None:
    from dagster._utils.schedules import is_valid_cron_string

    assert RefreshConfig(cron=cron).cron == cron
    assert is_valid_cron_string(cron)


@pytest.mark.parametrize(
    "cron",
    ["", "weekly", "@daily", "0 3 * *", "0 3 * * 1 2026", "60 3 * * 1", "0 24 * * *", "0 3 0 * *", "0 3 * 13 *", "0 3 * * 8",
     "0 3 * * MON", "5-1 * * * *", "*/0 * * * *", "*/99 * * * *", "a b c d e", "0,,1 3 * * *"],
)  # fmt: skip
def test_others_are_refused_and_the_field_is_named(cron: str) -> None:
    with pytest.raises(ValidationError, match="cron"):
        RefreshConfig(cron=cron)


@given(st.text(alphabet="0123456789*/-, ", max_size=20))
def test_what_is_taken_dagster_takes_too(cron: str) -> None:
    from dagster._utils.schedules import is_valid_cron_string

    try:
        taken = RefreshConfig(cron=cron).cron
    except ValidationError:
        return
    assert taken is not None
    assert is_valid_cron_string(taken)


def test_a_date_names_a_refresh_that_runs_once_a_day() -> None:
    assert RefreshConfig(cron="0 3 * * 1").daily
    assert not RefreshConfig(cron="0 */6 * * *").daily
    assert not RefreshConfig().daily


def test_a_second_refresh_of_a_day_has_a_number() -> None:
    assert next_name("2026-10-05", []) == "2026-10-05"
    assert next_name("2026-10-05", ["2026-10-05", "2026-10-05-2"]) == "2026-10-05-3"


def rows(*given_: tuple[str, str, str, str, str, float]) -> pl.DataFrame:
    """JUDGMENTS of (query, first, judge, epoch, status, cost)."""
    return JUDGMENTS.frame(
        [
            {
                "query_id": query, "first_id": first, "second_id": "z", "judge": judge, "epoch": epoch, "round": 1,
                "audit": False, "p_first": 0.5 if status == "ok" else None, "status": status,
                "call_key": f"{query}{first}{judge}", "provenance": "model", "input_tokens": 1,
                "output_tokens": 1, "cost_usd": cost,
            }
            for query, first, judge, epoch, status, cost in given_
        ]
    )  # fmt: skip


def test_what_a_refresh_bought_and_why() -> None:
    before = rows(("q1", "a", "j", "1", "ok", 1.0), ("q1", "b", "j", "1", "ok", 1.0), ("q1", "c", "j", "1", "http_500", 0.0))
    now = rows(
        ("q1", "a", "j", "1", "ok", 1.0), ("q1", "b", "j", "2", "ok", 2.0), ("q1", "c", "j", "2", "ok", 3.0),
        ("q1", "d", "j", "2", "declined", 4.0), ("q2", "a", "k", "2", "ok", 5.0), ("q2", "b", "k", "1", "ok", 1.0),
    )  # fmt: skip
    assert purchases(before, now, "2").rows() == [
        ("j", "asked again", 1, 0, 2.0),
        ("j", "failed before", 1, 0, 3.0),
        ("j", "new document", 1, 1, 4.0),
        ("k", "new query", 1, 0, 5.0),
    ]
    assert purchases(before, before, "2").is_empty()


def test_rows_that_one_call_answers_count_once() -> None:
    now = rows(("q1", "a", "j", "2", "ok", 1.0), ("q1", "b", "j", "2", "ok", 1.0)).with_columns(call_key=pl.lit("same"))
    assert purchases(now.clear(), now, "2")["calls"].to_list() == [1]
