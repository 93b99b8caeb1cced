"""The plan of a refresh: equal where nothing is new, and nothing but what is new elsewhere."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anmi_pipeline.judging.carrying import (
    Previous,
    carried_rows,
    closed_pairs,
    grown_budgets,
    joining_rows,
    refresh_plan,
    replacements,
    settled_documents,
    unordered,
    without_pairs,
)
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.evidence import pool_documents
from anmi_pipeline.judging.judge_configs import SimulatedJudge
from anmi_pipeline.judging.plan import pair_budget, plan_comparisons
from anmi_pipeline.tables import JUDGMENTS, PLAN
from anmi_pipeline_tests.judging.made import made_evidence

EVIDENCE = made_evidence(6, 14)
DOCUMENT = ["query_id", "doc_id"]
KEY = list(PLAN.key)


def config_of(**changes: object) -> JudgingConfig:
    judges = tuple(SimulatedJudge(name=name) for name in ("a", "b"))
    return JudgingConfig(**{"design": "cycles", "judges": judges, "pool_size": 14, "degree": 6, "audit_share": 0.2, **changes})


def pool(config: JudgingConfig) -> pl.DataFrame:
    return pool_documents(EVIDENCE.pool, config)


def judged(plan: pl.DataFrame, seed: int = 0, status: str = "ok") -> pl.DataFrame:
    """Verdicts of a plan, drawn."""
    rng = np.random.default_rng(seed)
    numbers = [str(number) for number in range(plan.height)]
    return JUDGMENTS.frame(
        plan.with_columns(
            epoch=pl.lit("1"), p_first=pl.Series(rng.random(plan.height)), status=pl.lit(status),
            call_key=pl.Series(numbers, dtype=pl.String()), provenance=pl.lit("simulated"), input_tokens=pl.lit(0),
            output_tokens=pl.lit(0), cost_usd=pl.lit(0.0),
        )
    )  # fmt: skip


def previous_of(documents: pl.DataFrame, config: JudgingConfig) -> tuple[Previous, pl.DataFrame]:
    plan, _ = plan_comparisons(documents, config, 0)
    return Previous(judged(plan), config.degree, tuple(judge.name for judge in config.judges)), plan


def refreshed(previous: Previous, documents: pl.DataFrame, config: JudgingConfig) -> pl.DataFrame:
    return refresh_plan(previous, documents, config, 0, lambda new: plan_comparisons(new, config, 0)[0])


def beyond(plan: pl.DataFrame, before: pl.DataFrame) -> pl.DataFrame:
    return plan.join(before, on=KEY, how="anti")


@pytest.mark.parametrize("design", ["cycles", "random", "complete", "lists"])
def test_where_nothing_is_new_the_plan_is_the_previous_one(design: str) -> None:
    config = config_of(design=design, list_size=5)
    previous, plan = previous_of(pool(config), config)
    assert refreshed(previous, pool(config), config).equals(plan)


def test_a_new_query_is_planned_from_nothing_and_the_others_stay() -> None:
    config = config_of()
    old = pool(config).filter(pl.col("query_id") != "q003")
    previous, plan = previous_of(old, config)
    now = refreshed(previous, pool(config), config)
    assert now.filter(pl.col("query_id") != "q003").equals(plan)
    assert now.equals(plan_comparisons(pool(config), config, 0)[0])


def test_a_new_document_gets_pairs_with_the_querys_documents_and_no_other_pair_changes() -> None:
    config = config_of(audit_share=0)
    old = pool(config).filter(pl.col("doc_id") != "d007")
    previous, plan = previous_of(old, config)
    more = beyond(refreshed(previous, pool(config), config), plan)
    assert set(more["query_id"]) == set(plan["query_id"])
    assert ((more["first_id"] == "d007") | (more["second_id"] == "d007")).all()
    assert more.group_by("query_id").len()["len"].to_list() == [3] * 6
    assert set(more["round"]) == {1}


def test_the_pairs_of_a_new_document_are_spread_over_the_current_order() -> None:
    config = config_of(audit_share=0)
    old = pool(config).filter((pl.col("doc_id") != "d007") & (pl.col("query_id") == "q000"))
    plan, _ = plan_comparisons(old, config, 0)
    # Ids in order of relevance: the smaller always wins.
    verdicts = judged(plan).with_columns(p_first=(pl.col("first_id") < pl.col("second_id")).cast(pl.Float64))
    more = joining_rows(plan, verdicts, pool(config).filter(pl.col("query_id") == "q000"), config, 0)
    order = sorted(set(old["doc_id"]))
    ends = [one if one != "d007" else other for one, other in more.select("first_id", "second_id").iter_rows()]
    thirds = sorted(3 * order.index(name) // len(order) for name in ends)
    assert thirds == [0, 1, 2]


def test_what_is_drawn_about_a_new_document_rests_on_its_query_and_itself_alone() -> None:
    config = config_of()
    late = pool(config).filter(pl.col("doc_id") < "d012")
    previous, plan = previous_of(late, config)
    one = beyond(refreshed(previous, pool(config).filter(pl.col("doc_id") < "d013"), config), plan)
    both = beyond(refreshed(previous, pool(config), config), plan)
    own = both.filter((pl.col("first_id") == "d012") | (pl.col("second_id") == "d012"))
    assert own.equals(one)


def test_rows_of_documents_that_are_gone_are_gone() -> None:
    config = config_of()
    previous, plan = previous_of(pool(config), config)
    fewer = pool(config).filter(pl.col("doc_id") != "d003")
    now = refreshed(previous, fewer, config)
    assert now.join(plan, on=KEY, how="anti").is_empty()
    assert now.equals(plan.filter((pl.col("first_id") != "d003") & (pl.col("second_id") != "d003")))


def test_a_document_that_lost_its_partners_is_connected_again() -> None:
    config = config_of(audit_share=0)
    documents = pool(config).filter(pl.col("query_id") == "q000")
    names = sorted(documents["doc_id"])
    # A path: without its middle it is two parts.
    path = PLAN.frame({
        "query_id": ["q000"] * 13, "first_id": names[:-1], "second_id": names[1:], "judge": ["a"] * 13, "round": [1] * 13,
        "audit": [False] * 13,
    })  # fmt: skip
    previous = Previous(judged(path), 6, ("a", "b"))
    now = refreshed(previous, documents.filter(pl.col("doc_id") != names[9]), config)
    parts = settled_documents(now, documents.filter(pl.col("doc_id") != names[9]))
    assert parts["settled"].all()
    more = beyond(now, path)
    assert set(more["first_id"]) | set(more["second_id"]) >= set(names[10:])


def test_a_failed_call_is_carried_so_that_the_refresh_asks_it_again() -> None:
    config = config_of()
    plan, _ = plan_comparisons(pool(config), config, 0)
    previous = Previous(judged(plan, status="http_500"), 6, ("a", "b"))
    assert refreshed(previous, pool(config), config).equals(plan)


def test_a_changed_judge_takes_over_the_rows_of_the_one_it_replaces_and_no_other_row_changes() -> None:
    config = config_of()
    previous, plan = previous_of(pool(config), config)
    changed = config_of(judges=(SimulatedJudge(name="a"), SimulatedJudge(name="c")))
    now = refreshed(previous, pool(config), changed)
    assert now.equals(PLAN.frame(plan.with_columns(pl.col("judge").replace({"b": "c"}))))
    alone = carried_rows(previous, pool(config), ["a"])
    assert set(alone["judge"]) == {"a"}
    assert unordered(alone).equals(unordered(plan))


def test_replacements_go_by_the_name_before_the_slash() -> None:
    assert replacements(["old/x", "kept/y"], ["old", "kept"], ["kept", "new"]) == {"old/x": "new"}
    assert replacements(["x", "y"], ["x", "y"], ["z"]) == {"x": "z", "y": "z"}


def test_imported_verdicts_are_nobodys_to_ask() -> None:
    config = config_of()
    plan, _ = plan_comparisons(pool(config), config, 0)
    brought = plan.head(5).with_columns(judge=pl.lit("people/ann"))
    record = {"judging": {"degree": 6, "judges": [{"name": "a"}, {"name": "b"}]}}
    previous = Previous.of(judged(PLAN.frame(pl.concat([plan, brought]))), record)
    assert (previous.degree, previous.judges) == (6, ("a", "b"))
    assert refreshed(previous, pool(config), config).equals(plan)


def test_lists_of_new_documents_are_whole_and_numbered_after_the_others() -> None:
    from anmi_pipeline.judging.listwise import lists_of

    config = config_of(design="lists", list_size=5, audit_share=0.3)
    old = pool(config).filter(pl.col("doc_id") < "d011")
    previous, plan = previous_of(old, config)
    more = beyond(refreshed(previous, pool(config), config), plan)
    shown = lists_of(more)
    assert shown["documents"].list.len().max() <= 5
    assert shown["documents"].list.eval(pl.element() >= "d011").list.any().all()
    last = plan.group_by("query_id").agg(pl.col("list").max().alias("last"))
    assert (shown.join(last, on="query_id")["list"] > shown.join(last, on="query_id")["last"]).all()
    assert set(more.filter(pl.col("second_id") >= "d011")["second_id"]) == {"d011", "d012", "d013"}


def test_budgets_grow_by_new_documents_and_never_because_documents_left() -> None:
    config = config_of(audit_share=0)
    budgets = {f"q{number:03d}": pair_budget(14, 6) for number in range(6)}
    previous, plan = previous_of(pool(config), config)
    pairs = dict(unordered(plan).group_by("query_id").len().iter_rows())
    assert grown_budgets(budgets, previous, pool(config), config) == pairs
    fewer = pool(config).filter(pl.col("doc_id") != "d003")
    left = dict(unordered(carried_rows(previous, fewer, ["a", "b"])).group_by("query_id").len().iter_rows())
    assert grown_budgets(dict.fromkeys(budgets, pair_budget(13, 6)), previous, fewer, config) == left
    before = Previous(previous.judgments.filter((pl.col("first_id") != "d003") & (pl.col("second_id") != "d003")), 6, ("a", "b"))
    grown = grown_budgets(budgets, before, pool(config), config)
    assert grown == {name: left[name] + 3 for name in left}
    assert grown_budgets({**budgets, "new": 7}, previous, pool(config), config)["new"] == 7


def test_a_raised_degree_is_spent_in_a_refresh_too() -> None:
    config = config_of(audit_share=0)
    previous, plan = previous_of(pool(config), config)
    raised = config_of(degree=8, audit_share=0)
    pairs = dict(unordered(plan).group_by("query_id").len().iter_rows())
    grown = grown_budgets(dict.fromkeys(pairs, pair_budget(14, 8)), previous, pool(config), raised)
    assert grown == {name: count + 14 for name, count in pairs.items()}


def test_only_pairs_with_a_new_document_are_open() -> None:
    config = config_of()
    previous, _ = previous_of(pool(config), config)
    assert closed_pairs(previous, pool(config), config).is_empty()
    late = replace(
        previous, judgments=previous.judgments.filter((pl.col("first_id") != "d003") & (pl.col("second_id") != "d003"))
    )
    closed = closed_pairs(late, pool(config), config)
    assert closed.group_by("query_id").len()["len"].to_list() == [13 * 12 // 2] * 6
    assert "d003" not in {*closed["doc_i"], *closed["doc_j"]}
    assert without_pairs(previous.judgments, late).height == previous.judgments.height - late.judgments.height


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sets(st.integers(0, 13), max_size=9), st.sets(st.integers(0, 13), max_size=9), st.sampled_from(["cycles", "complete"]))
def test_whatever_comes_and_goes_every_query_is_connected_and_nothing_old_is_new(
    absent: set[int], leaving: set[int], design: str
) -> None:
    config = config_of(design=design, audit_share=0.1)
    documents = pool(config)
    before = documents.filter(~pl.col("doc_id").is_in([f"d{number:03d}" for number in absent]))
    after = documents.filter(~pl.col("doc_id").is_in([f"d{number:03d}" for number in leaving]))
    previous, plan = previous_of(before, config)
    now = refreshed(previous, after, config)
    assert settled_documents(now, after)["settled"].all()
    settled = settled_documents(carried_rows(previous, after, ["a", "b"]), after).filter("settled").select(DOCUMENT)
    both = beyond(now, plan)
    for end in ("first_id", "second_id"):
        both = both.join(settled.rename({"doc_id": end}), on=["query_id", end], how="semi")
    assert both.is_empty(), "a pair of two settled documents was planned"
    assert refreshed(Previous(judged(now), 6, ("a", "b")), after, config).equals(now)
