import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.judge_configs import SimulatedJudge
from anmi_pipeline.judging.listwise import CALL, lists_of
from anmi_pipeline.judging.plan import belongs, calls_by_judge, certify_plan, plan_comparisons
from anmi_pipeline.tables import CERTIFICATES, PLAN

PAIR = ["query_id", "low", "high"]


def documents(sizes: dict[str, int]) -> pl.DataFrame:
    rows = [(query, f"d{i}", i + 1) for query, size in sizes.items() for i in range(size)]
    return pl.DataFrame(rows, schema=["query_id", "doc_id", "rank"], orient="row")


def panel(count: int, **settings: object) -> JudgingConfig:
    return JudgingConfig(judges=tuple(SimulatedJudge(name=f"judge{i}") for i in range(count)), **{"design": "cycles", **settings})


def unordered(plan: pl.DataFrame) -> pl.DataFrame:
    return plan.with_columns(low=pl.min_horizontal("first_id", "second_id"), high=pl.max_horizontal("first_id", "second_id"))


def test_every_document_is_compared_degree_times_by_one_judge_in_one_order():
    plan, certified = plan_comparisons(documents({"a": 50, "b": 30}), panel(1, audit_share=0), 0)
    PLAN.validate(plan)
    CERTIFICATES.validate(certified)
    assert plan.group_by("query_id").len().sort("query_id")["len"].to_list() == [200, 120]
    assert not unordered(plan).select(PAIR).is_duplicated().any()
    degrees = (
        pl.concat([plan.select("query_id", doc="first_id"), plan.select("query_id", doc="second_id")])
        .group_by("query_id", "doc")
        .len()
    )
    assert set(degrees["len"]) == {8}
    assert certified["min_degree"].to_list() == [8, 8]
    assert certified["components"].to_list() == [1, 1]


def test_orders_are_balanced_and_judges_rotate():
    plan, _ = plan_comparisons(documents({f"q{i}": 50 for i in range(20)}), panel(4, audit_share=0), 0)
    shares = unordered(plan).select((pl.col("first_id") == pl.col("low")).mean()).item()
    assert abs(shares - 0.5) < 0.05
    per_judge = plan.group_by("query_id", "judge").len()["len"]
    assert (per_judge.min(), per_judge.max()) == (50, 50)


def test_audited_pairs_are_asked_in_both_orders_by_all_judges():
    plan, _ = plan_comparisons(documents({f"q{i}": 40 for i in range(20)}), panel(3, audit_share=0.1), 0)
    audited = (
        unordered(plan.filter("audit")).group_by(PAIR).agg(pl.len(), pl.struct("judge", "first_id").n_unique().alias("ways"))
    )
    assert set(audited["len"]) == {6}
    assert set(audited["ways"]) == {6}
    plain = unordered(plan.filter(pl.col("audit").not_()))
    assert not plain.select(PAIR).is_duplicated().any()
    assert abs(audited.height / (audited.height + plain.height) - 0.1) < 0.03


def test_several_votes_come_from_different_judges():
    plan, _ = plan_comparisons(documents({"a": 50}), panel(5, audit_share=0, votes_per_pair=3), 0)
    votes = unordered(plan).group_by(PAIR).agg(pl.col("judge").n_unique(), pl.len())
    assert votes.height == 200
    assert set(votes["judge"]) == {3}
    assert set(votes["len"]) == {3}


def test_a_query_is_planned_alike_whatever_else_is_planned():
    alone, _ = plan_comparisons(documents({"b": 20}), panel(2), 0)
    together, _ = plan_comparisons(documents({"a": 30, "b": 20, "c": 5}), panel(2), 0)
    assert together.filter(pl.col("query_id") == "b").equals(alone)
    shuffled, _ = plan_comparisons(documents({"b": 20}).sample(fraction=1, shuffle=True, seed=1), panel(2), 0)
    assert shuffled.equals(alone)


def test_another_seed_is_another_plan():
    pool = documents({"a": 20})
    first, _ = plan_comparisons(pool, panel(1), 0)
    assert not plan_comparisons(pool, panel(1), 1)[0].equals(first)
    assert plan_comparisons(pool, panel(1, seed=0), 1)[0].equals(first)


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 14), max_size=4), judges=st.integers(1, 3), share=st.sampled_from([0.0, 0.3, 1.0]))
def test_plans_are_valid_for_any_pool(sizes: list[int], judges: int, share: float):
    pool = documents({f"q{i}": size for i, size in enumerate(sizes)})
    plan, certified = plan_comparisons(pool, panel(judges, audit_share=share, degree=4), 0)
    PLAN.validate(plan)
    CERTIFICATES.validate(certified)
    assert certified["n_documents"].to_list() == sizes
    assert (plan["first_id"] != plan["second_id"]).all()
    assert unordered(plan).select(PAIR).n_unique() == certified["n_pairs"].sum()


def test_lists_are_asked_whole_by_one_judge_in_one_order():
    config = panel(3, design="lists", list_size=10, degree=18, audit_share=0)
    plan, certified = plan_comparisons(documents({"a": 40, "b": 7, "c": 1}), config, 0)
    PLAN.validate(plan)
    assert certified["components"].to_list() == [1, 1, 1]
    assert unordered(plan).select(PAIR).n_unique() == certified["n_pairs"].sum()
    sizes = plan.group_by("query_id", "list").agg(pl.len(), pl.col("judge").n_unique()).sort("query_id", "list")
    assert sizes["len"].to_list() == [45] * 8 + [21] * 2
    assert set(sizes["judge"]) == {1}
    assert sizes["list"].to_list() == [*range(1, 9), 1, 2]
    calls = calls_by_judge(plan)
    assert sum(calls.values()) == 10
    assert max(calls.values()) - min(calls.values()) <= 2
    assert plan.filter(pl.col("query_id") == "a").equals(plan_comparisons(documents({"a": 40}), config, 0)[0])


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 14), max_size=4), judges=st.integers(1, 3), share=st.sampled_from([0.0, 0.3, 1.0]))
def test_plans_of_lists_are_valid_and_ask_nothing_twice(sizes: list[int], judges: int, share: float):
    config = panel(judges, design="lists", audit_share=share, degree=9, list_size=4)
    plan, certified = plan_comparisons(documents({f"q{i}": size for i, size in enumerate(sizes)}), config, 0)
    PLAN.validate(plan)
    assert certified["n_documents"].to_list() == sizes
    assert (certified["components"] <= 1).all()
    assert unordered(plan).select(PAIR).n_unique() == certified["n_pairs"].sum()
    shown = lists_of(plan)
    assert shown.select("query_id", "judge", "documents").n_unique() == shown.height
    assert shown["documents"].list.len().is_between(2, 4).all()


def test_audited_lists_are_asked_of_all_judges_in_two_orders():
    config = panel(3, design="lists", list_size=5, degree=8, audit_share=0.2, votes_per_pair=2)
    plan, _ = plan_comparisons(documents({f"q{i}": 25 for i in range(20)}), config, 0)
    PLAN.validate(plan)
    shown = lists_of(plan).with_columns(together=pl.col("documents").list.sort().list.join(","))
    audited = shown.join(plan.filter("audit"), on=CALL, how="semi")
    ways = audited.group_by("query_id", "together").agg(pl.len(), pl.col("judge").n_unique(), pl.col("documents"))
    assert set(ways["len"]) == {6}
    assert set(ways["judge"]) == {3}
    orders = audited.group_by("query_id", "together", "judge").agg("documents")["documents"].to_list()
    assert all(one == other[::-1] for one, other in orders)
    plain = shown.join(audited, on=CALL, how="anti").group_by("query_id", "together").agg(pl.col("judge").n_unique(), pl.len())
    assert set(plain["judge"]) == set(plain["len"]) == {2}
    assert abs(ways.height / (ways.height + plain.height) - 0.2) < 0.1


def test_a_finished_plan_is_certified_as_it_was_drawn():
    plan, certified = plan_comparisons(documents({"a": 12, "b": 9}), panel(2, votes_per_pair=2), 0)
    again = certify_plan(plan)
    exact = ["query_id", "n_documents", "n_pairs", "components", "min_degree", "max_degree", "diameter", "resistance_bound"]
    assert again.select(exact).equals(certified.select(exact))
    assert certify_plan(PLAN.frame()).equals(CERTIFICATES.frame())


def test_nothing_to_judge_and_empty_pools_give_empty_plans():
    for plan, certified in (
        plan_comparisons(documents({"a": 5}), JudgingConfig(), 0),
        plan_comparisons(documents({}).cast({"query_id": pl.String, "doc_id": pl.String, "rank": pl.Int64}), panel(1), 0),
    ):
        assert plan.equals(PLAN.frame())
        assert certified.equals(CERTIFICATES.frame())


def test_a_document_twice_in_a_pool_is_an_error():
    pool = documents({"a": 5})
    with pytest.raises(InputError, match="document d0 stands twice"):
        plan_comparisons(pool.vstack(pool[:1]), panel(1), 0)


def test_calls_are_counted_by_judge():
    plan = PLAN.frame({
        "query_id": ["q"] * 3, "first_id": ["a", "b", "a"], "second_id": ["b", "a", "b"],
        "judge": ["ensemble", "ensemble", "simulated"], "round": [1] * 3, "audit": [True] * 3,
    })  # fmt: skip
    assert calls_by_judge(plan) == {"ensemble": 2, "simulated": 1}


def test_judge_ids_of_a_file_belong_to_its_judge():
    assert belongs("recorded/org/model", "recorded")
    assert not belongs("recorded2", "recorded")
