import polars as pl
import pytest

from anmi_pipeline.judging.collect import collect
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.evidence import pool_documents
from anmi_pipeline.judging.judge_configs import EnsembleJudge, SimulatedJudge
from anmi_pipeline.judging.ledger import Ledger
from anmi_pipeline.judging.panel import build_judges
from anmi_pipeline.judging.plan import plan_comparisons
from anmi_pipeline.judging.report import judge_report
from anmi_pipeline.judging.tiers import RoutingConfig, Tier
from anmi_pipeline.rating.coverage import coverage
from anmi_pipeline.tables import JUDGMENTS, REPORT
from anmi_pipeline_tests.judging.made import made_evidence


def judged(rows: list[tuple], **columns: object) -> pl.DataFrame:
    """Rows of (query, first, second, judge, audit, p_first)."""
    made = pl.DataFrame(rows, schema=["query_id", "first_id", "second_id", "judge", "audit", "p_first"], orient="row")
    rest = {"epoch": "1", "round": 1, "status": "ok", "call_key": "k", "provenance": "model", "cost_usd": 0.5, **columns}
    made = made.with_columns(
        **{name: pl.lit(value) for name, value in rest.items()}, input_tokens=pl.lit(7), output_tokens=pl.lit(1)
    )
    failed = pl.col("p_first").is_null()
    return JUDGMENTS.frame(made.with_columns(status=pl.when(failed).then(pl.lit("timeout")).otherwise(pl.col("status"))))


def values(report: pl.DataFrame, judge: str = "all") -> dict[str, float]:
    return dict(report.filter(pl.col("judge") == judge).select("measure", "value").iter_rows())


def test_measures_by_hand():
    table = judged([
        ("q", "a", "b", "x", True, 1.0), ("q", "b", "a", "x", True, 1.0),  # flips: the first always wins
        ("q", "a", "c", "x", True, 0.9), ("q", "c", "a", "x", True, 0.3),  # holds
        ("q", "b", "c", "x", False, 0.5), ("r", "a", "b", "x", False, None),
        ("q", "a", "b", "y", True, 1.0), ("q", "b", "a", "y", True, 0.0),
        ("q", "a", "c", "y", True, 0.0), ("q", "c", "a", "y", True, 1.0),
    ])  # fmt: skip
    report = REPORT.validate(judge_report(table))
    x, y, both = values(report, "x"), values(report, "y"), values(report)
    assert (x["calls"], x["failures"], x["failure_rate"], x["cost_usd"], x["input_tokens"]) == (6, 1, 1 / 6, 3.0, 42)
    assert (x["flip_rate"], y["flip_rate"], both["flip_rate"]) == (0.5, 0, 0.25)
    assert x["position_bias"] == pytest.approx(((1.0 - 0.5) + (0.6 - 0.5)) / 2)
    assert y["position_bias"] == 0
    assert x["tie_share"] == 0.2
    assert x["mean_p_first"] == pytest.approx((1 + 1 + 0.9 + 0.3 + 0.5) / 5)
    assert x["share_model"] == 1
    # x calls a-b a tie (1 and 0 folded) and a-c for a; y says a and c: they agree on neither.
    assert both["agreement"] == 0
    assert values(report, "x & y") == {"agreement": 0, "kappa": pytest.approx(-1 / 3)}
    assert x["failure_rate_timeout"] == 1 / 6
    assert x["parse_rate"] == 1  # a timeout is a failure, not an answer that could not be read
    assert (x["usd_per_verdict"], both["calls"]) == (0.6, 10)
    assert both["queries_under_coverage_floor"] == 1
    assert coverage(table).rows() == [("q", 9, 9, 1.0), ("r", 1, 0, 0.0)]


def test_a_list_is_one_call_of_many_verdicts():
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    lists = [
        judged([("q", *pair, "x", False, p) for pair in pairs], list=number, call_key=f"k{number}", cost_usd=0.0)
        for number, p in ((1, 0.9), (2, None))
    ]
    x = values(judge_report(pl.concat(lists)), "x")
    assert (x["calls"], x["failures"], x["failure_rate"]) == (2, 1, 0.5)


def test_agreement_of_many_judges_is_told_together():
    rows = [("q", "a", "b", f"j{i}", False, float(i % 2)) for i in range(8)]
    report = judge_report(judged(rows))
    assert values(report)["agreement"] == pytest.approx((6 + 6) / 28)
    assert not report["judge"].str.contains("&").any()
    apart = judge_report(judged([*rows[:2], ("q", "a", "c", "j2", False, 1.0)]))
    assert set(apart.filter(pl.col("judge").str.contains("&"))["judge"]) == {"j0 & j1"}


def test_nothing_judged_and_nothing_answered():
    empty = judge_report(JUDGMENTS.frame())
    assert values(empty) == {
        "calls": 0, "failures": 0, "cost_usd": 0, "input_tokens": 0, "output_tokens": 0, "queries_under_coverage_floor": 0,
    }  # fmt: skip
    failed = judge_report(judged([("q", "a", "b", "x", True, None)]))
    assert values(failed)["failure_rate"] == 1
    assert "flip_rate" not in values(failed)
    for report in (empty, failed):
        REPORT.validate(report)
        assert report["value"].is_nan().sum() == 0


def test_a_simulated_judge_flips_as_often_as_its_error_rate_says(sqlite_url: str):
    evidence = made_evidence(40, 30)
    config = JudgingConfig(
        design="cycles", judges=(SimulatedJudge(error_rate=0.1), EnsembleJudge()), pool_size=30, audit_share=0.5
    )
    plan, _ = plan_comparisons(pool_documents(evidence.pool, config), config, 0)
    with Ledger(sqlite_url) as ledger:
        table, _ = collect(plan, build_judges(config, evidence, 0), evidence, ledger, config)
    report = REPORT.validate(judge_report(table))
    simulated, ensemble = values(report, "simulated"), values(report, "ensemble")
    grades = evidence.qrels.rename({"grade": "g"})
    own = plan.filter(pl.col("audit") & (pl.col("judge") == "simulated"))
    sides = own.join(grades, left_on=["query_id", "first_id"], right_on=["query_id", "doc_id"], how="left").join(
        grades, left_on=["query_id", "second_id"], right_on=["query_id", "doc_id"], how="left", suffix="_second"
    )
    equal = (sides["g"].fill_null(0) == sides["g_second"].fill_null(0)).mean()
    expected = equal * 0.5 + (1 - equal) * 2 * 0.1 * 0.9
    assert simulated["flip_rate"] == pytest.approx(expected, abs=0.04)
    bias = report.filter((pl.col("judge") == "simulated") & (pl.col("measure") == "position_bias")).row(0, named=True)
    assert bias["low"] <= 0 <= bias["high"] or abs(bias["value"]) < 0.03
    assert ensemble["flip_rate"] == 0
    assert ensemble["position_bias"] == pytest.approx(0, abs=1e-12)
    assert ensemble["intransitivity"] == 0
    assert {"share_simulated"} <= set(simulated)
    assert judge_report(table).equals(report)


def test_tiers_have_their_calls_and_what_they_saved():
    rows = [
        {"query_id": "q", "first_id": a, "second_id": b, "judge": judge, "epoch": "1", "round": 1, "audit": False, "p_first": 0.9,
         "status": "ok", "call_key": f"{a}{b}{judge}", "provenance": "model", "input_tokens": 1, "output_tokens": 1,
         "cost_usd": usd, "latency_ms": 1.0}
        for a, b, judge, usd in (
            ("a", "b", "small", 1.0), ("a", "c", "small", 1.0), ("b", "c", "small", 1.0), ("c", "d", "small", 1.0),
            ("a", "b", "large", 10.0),
        )
    ]  # fmt: skip
    routing = RoutingConfig(tiers=(Tier(name="small", judges=("small",)), Tier(name="large", judges=("large",), share=0.25)))
    report = judge_report(JUDGMENTS.frame(rows), routing=routing)
    found = {(row["judge"], row["measure"]): row["value"] for row in report.iter_rows(named=True)}
    assert found["tier small", "calls"] == 4 and found["tier large", "cost_usd"] == 10.0
    assert found["tier large", "share_of_pairs"] == 0.25
    assert found["all", "cost_all_last_tier"] == 40.0 and found["all", "saved_share"] == pytest.approx(1 - 14 / 40)
