"""How many calls are still to come."""

from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from anmi_pipeline.judging.cascade import STEP_ROUNDS
from anmi_pipeline.judging.config import JudgingConfig, SimulatedJudge, StopRule
from anmi_pipeline.judging.judges import JudgeEvidence
from anmi_pipeline.judging.ledger import Ledger
from anmi_pipeline.judging.outlay import alike, later_spans, look_ahead
from anmi_pipeline.judging.panel import build_judges
from anmi_pipeline.judging.spans import Span
from anmi_pipeline.judging.tiers import RoutingConfig, Tier
from anmi_pipeline.tables import PLAN

NAMES = ("small", "large")


def config_of(**changes: Any) -> JudgingConfig:
    judges = tuple(SimulatedJudge(name=name) for name in NAMES)
    return JudgingConfig(**{"judges": judges, "degree": 4, "pool_size": 12, "audit_share": 0.1, **changes})


def planned(judge: str, pairs: int = 12) -> pl.DataFrame:
    rows = {"query_id": ["q"] * pairs, "first_id": [f"a{n}" for n in range(pairs)], "second_id": [f"b{n}" for n in range(pairs)]}
    return PLAN.frame({**rows, "judge": [judge] * pairs, "round": [1] * pairs, "audit": [False] * pairs})


def study_of(pairs: int) -> Any:
    return SimpleNamespace(budgets={"q": pairs})


def test_nothing_is_to_come_of_a_plan_that_was_drawn_at_once() -> None:
    assert later_spans(planned("small"), config_of(), None)["small"] == Span(0, 0, 0)
    assert later_spans(PLAN.frame(), config_of(), study_of(100)) == {}


def test_later_rounds_take_the_rest_of_the_budget_and_the_audit() -> None:
    plan = pl.concat([planned("small", 6), planned("large", 6).with_columns(query_id=pl.lit("r"))])
    found = later_spans(plan, config_of(), study_of(112))
    assert set(found) == set(NAMES)
    total = sum(span.expected for span in found.values())
    assert total == pytest.approx(100 + 100 * 0.1 * 3)  # an audited pair: two judges, both orders, instead of one call
    assert found["small"].expected == found["large"].expected
    assert found["small"].low < found["small"].expected < found["small"].high


def test_without_an_audit_the_number_is_exact() -> None:
    span = later_spans(planned("small"), config_of(audit_share=0), study_of(40))["small"]
    assert span == Span(28, 28, 28)


def test_a_stop_rule_may_leave_everything() -> None:
    span = later_spans(planned("small"), config_of(audit_share=0, stop=StopRule()), study_of(40))["small"]
    assert (span.low, span.expected) == (0, 28)


def test_upper_tiers_get_at_most_their_share() -> None:
    tiers = (Tier(name="one", judges=("small",)), Tier(name="two", judges=("large",), share=0.25))
    config = config_of(audit_share=0, routing=RoutingConfig(tiers=tiers))
    found = later_spans(planned("small"), config, study_of(40))
    assert found["small"] == Span(28, 28, 28)
    assert found["large"] == Span(0, 10, 10)
    up = planned("large", 4).with_columns(round=pl.lit(1 + STEP_ROUNDS, dtype=pl.Int64()))
    assert later_spans(pl.concat([planned("small"), up]), config, study_of(40))["large"] == Span(0, 6, 6)


def test_a_first_tier_that_is_asked_in_both_orders_takes_two_calls_a_pair() -> None:
    tiers = (Tier(name="one", judges=("small",), both_orders=True), Tier(name="two", judges=("large",), share=0.25))
    config = config_of(audit_share=0, routing=RoutingConfig(tiers=tiers))
    assert later_spans(planned("small"), config, study_of(40))["small"] == Span(56, 56, 56)


def test_what_is_on_record_is_not_to_be_asked(plan: pl.DataFrame, evidence: JudgeEvidence, sqlite_url: str) -> None:
    from anmi_pipeline.judging.collect import collect

    config = JudgingConfig(design="cycles", judges=(SimulatedJudge(),), pool_size=12, degree=4, audit_share=0.2)
    judges = build_judges(config, evidence, 0)
    with Ledger(sqlite_url) as ledger:
        collect(plan.head(10), judges, evidence, ledger, config)
        ahead = look_ahead(plan, judges, evidence, ledger, config, None)
        assert ahead.known.height == 10 and ahead.missing.height == plan.height - 10
        assert ahead.queries == plan["query_id"].n_unique()
        assert alike(ahead, judges[0], evidence).height == plan.height - 10
