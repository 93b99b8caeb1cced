"""Refreshes through all rounds of an adaptive plan and a cascade: judges are asked about what is new or expired, no more."""

from dataclasses import replace

import polars as pl
import pytest
import sqlalchemy as sa

from anmi_pipeline.judging.carrying import Previous, refresh_plan, unordered
from anmi_pipeline.judging.cascade import Desk
from anmi_pipeline.judging.collect import Term
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.evidence import pool_documents
from anmi_pipeline.judging.judge_configs import SimulatedJudge
from anmi_pipeline.judging.judges import JudgeEvidence
from anmi_pipeline.judging.ledger import TABLE
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.judging.panel import build_judges
from anmi_pipeline.judging.plan import pair_budget
from anmi_pipeline.judging.round_plans import plan_first
from anmi_pipeline.judging.rounds import Rounds, collect_rounds
from anmi_pipeline.judging.study import Study, open_study
from anmi_pipeline.judging.tiers import RoutingConfig, Tier
from anmi_pipeline.rating.config import RatingConfig
from anmi_pipeline.tables import JUDGMENTS
from anmi_pipeline_tests.judging.made import made_evidence

OPENED = "2026-10-05T00:00:00.000000Z"
WHOLE = made_evidence(5, 14)
KEY = list(JUDGMENTS.key)
NEW = ("d004", "d011")
CASCADE = RoutingConfig(tiers=(Tier(name="small", judges=("a",)), Tier(name="large", judges=("b",), share=0.4)))


def configured(**changes: object) -> JudgingConfig:
    # Without a slope a simulated verdict rests on the pair alone, as that of a model does, and not on the pool's scores.
    judges = tuple(SimulatedJudge(name=name, tie_slope=0) for name in ("a", "b"))
    return JudgingConfig(**{"judges": judges, "pool_size": 14, "degree": 6, "audit_share": 0.1, **changes})


def before(evidence: JudgeEvidence) -> JudgeEvidence:
    """The collection without two documents and one query."""
    kept = ~pl.col("doc_id").is_in(NEW) & (pl.col("query_id") != "q003")
    return replace(evidence, pool=evidence.pool.filter(kept))


def study_of(evidence: JudgeEvidence, config: JudgingConfig, previous: Previous | None = None) -> Study:
    # The prior of the first epoch is frozen for good; scores that never change keep this test about the plan.
    return open_study("made", config, RatingConfig(), 0, evidence.pool, {}, previous)


def desk_of(books: Books, evidence: JudgeEvidence, config: JudgingConfig, epoch: str, previous: Previous | None = None) -> Desk:
    judges = build_judges(config, evidence, 0)
    return Desk(judges, evidence, books, config, RatingConfig(), 0, Term(epoch, OPENED), previous=previous)


def first(books: Books, evidence: JudgeEvidence, config: JudgingConfig) -> Rounds:
    study = study_of(evidence, config)
    return collect_rounds(plan_first(study)[0], desk_of(books, evidence, config, "1"), study)


def refresh(books: Books, evidence: JudgeEvidence, config: JudgingConfig, done: Rounds, epoch: str = "2") -> Rounds:
    previous = Previous(done.judgments, config.degree, ("a", "b"))
    study = study_of(evidence, config, previous)

    def plan_new(documents: pl.DataFrame) -> pl.DataFrame:
        features = study.features.join(documents.select("query_id").unique(), on="query_id", how="semi")
        return plan_first(replace(study, features=features, previous=None))[0]

    plan = refresh_plan(previous, pool_documents(evidence.pool, config), config, 0, plan_new)
    return collect_rounds(plan, desk_of(books, evidence, config, epoch, previous), study)


@pytest.mark.parametrize("routing", [None, CASCADE])
@pytest.mark.parametrize("cap", [12, 2])
def test_where_nothing_is_new_nobody_is_asked_and_the_table_is_the_same(
    sqlite_url: str, routing: RoutingConfig | None, cap: int
) -> None:
    """Also where a cap on a document's pairs, or a tier's share, left something unspent."""
    config = configured(routing=routing, cap=cap)
    with Books(sqlite_url) as books:
        done = first(books, WHOLE, config)
        again = refresh(books, WHOLE, config, done)
    assert again.report.asked == 0
    assert again.judgments.equals(done.judgments)


@pytest.mark.parametrize("routing", [None, CASCADE])
def test_new_documents_and_queries_are_asked_about_and_nothing_else(sqlite_url: str, routing: RoutingConfig | None) -> None:
    config = configured(routing=routing)
    with Books(sqlite_url) as books:
        done = first(books, before(WHOLE), config)
        now = refresh(books, WHOLE, config, done)
    bought = now.judgments.filter(pl.col("epoch") == "2")
    assert now.judgments.join(done.judgments, on=KEY, how="semi").height == done.judgments.height
    known = bought.filter(pl.col("query_id") != "q003")
    assert (known["first_id"].is_in(NEW) | known["second_id"].is_in(NEW)).all()
    pairs = dict(unordered(now.judgments).group_by("query_id").len().iter_rows())
    assert pairs == dict.fromkeys(pairs, pair_budget(14, 6))
    fresh = dict(unordered(known).group_by("query_id").len().iter_rows())
    assert fresh == dict.fromkeys(fresh, pair_budget(14, 6) - pair_budget(12, 6))
    assert max(known["round"]) > 1, "later rounds chose some of them"


def test_expired_and_failed_verdicts_are_asked_again_once(sqlite_url: str) -> None:
    config = configured()
    with Books(sqlite_url) as books:
        done = first(books, WHOLE, config)
        keys = done.judgments.unique("call_key", maintain_order=True)["call_key"]
        expired, failed = set(keys[:7]), set(keys[20:23])
        with books.transaction() as connection:
            past = sa.update(TABLE).where(TABLE.c.call_key.in_(expired)).values(expires_at="2026-10-04T00:00:00.000000Z")
            later = sa.update(TABLE).where(TABLE.c.call_key.in_(set(keys[30:40])))
            connection.execute(past)
            connection.execute(later.values(expires_at="2026-10-06T00:00:00.000000Z"))
            connection.execute(sa.update(TABLE).where(TABLE.c.call_key.in_(failed)).values(status="http_500", p_first=None))
        now = refresh(books, WHOLE, config, done)
        again = refresh(books, WHOLE, config, done)
    assert set(now.judgments.filter(pl.col("epoch") == "2")["call_key"]) == expired | failed
    assert (now.report.asked, again.report.asked) == (10, 0)
    assert again.judgments.equals(now.judgments)


def test_a_chain_of_refreshes_carries_what_all_of_them_bought(sqlite_url: str) -> None:
    config = configured()
    with Books(sqlite_url) as books:
        done = first(books, before(WHOLE), config)
        second = refresh(books, WHOLE, config, done)
        third = refresh(books, WHOLE, config, second, "3")
        fewer = replace(WHOLE, pool=WHOLE.pool.filter(pl.col("doc_id") != "d004"))
        fourth = refresh(books, fewer, config, third, "4")
    assert third.judgments.equals(second.judgments)
    assert fourth.report.asked == 0
    gone = (pl.col("first_id") == "d004") | (pl.col("second_id") == "d004")
    assert fourth.judgments.equals(third.judgments.filter(~gone))
