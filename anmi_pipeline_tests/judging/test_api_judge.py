"""Judges behind an API, from the plan to the verdicts, through the official SDKs and a loopback server."""

import asyncio
import contextlib

import polars as pl
import pytest

from anmi_pipeline.errors import InputError, JudgeError
from anmi_pipeline.judging import api_calls
from anmi_pipeline.judging.api_judge import Bounded
from anmi_pipeline.judging.batches import BatchPending
from anmi_pipeline.judging.budget import CapReached
from anmi_pipeline.judging.cascade import Desk
from anmi_pipeline.judging.collect import Term, collect
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.evidence import pool_documents
from anmi_pipeline.judging.grades import ask_grades
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.judging.money import Money
from anmi_pipeline.judging.outlay import look_ahead
from anmi_pipeline.judging.panel import build_grader, build_judges
from anmi_pipeline.judging.plan import plan_comparisons
from anmi_pipeline.judging.requests import Request, Retryable
from anmi_pipeline.judging.round_plans import plan_first
from anmi_pipeline.judging.rounds import collect_rounds
from anmi_pipeline.judging.study import open_study
from anmi_pipeline.rating.config import RatingConfig
from anmi_pipeline_tests.judging.made import made_evidence
from anmi_pipeline_tests.judging.wire_clients import PLANTED, PROVIDERS, VARIABLE
from anmi_pipeline_tests.judging.wire_server import WireSettings, serving

MODELS = {"openai": "gpt-4o-mini", "anthropic": "claude-haiku-4-5"}


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    for provider in PROVIDERS:
        monkeypatch.setenv(VARIABLE[provider], PLANTED[provider])


def api(provider, server, name=None, **changes):
    """A judge as a YAML file describes it."""
    url = server.openai_url if provider == "openai" else server.url
    base = {"kind": provider, "name": name or provider, "model": MODELS[provider], "base_url": url}
    return base | {"dispatch": {"linger_seconds": 0.005, "backoff_seconds": 0.01}} | changes


def configured(*judges, **changes):
    given = {"judges": judges, "pool_size": 8, "design": "cycles", "degree": 4, "audit_share": 0.1, **changes}
    return JudgingConfig.model_validate(given)


def obtain(config, url, evidence=None, term=None, scope="made"):
    """Plan and collect; the verdicts and the report."""
    evidence = evidence or made_evidence(3, 8)
    plan, _ = plan_comparisons(pool_documents(evidence.pool, config), config, 0)
    with Books(url) as books:
        judges = build_judges(config, evidence, 0, money=Money(books, scope, config.max_usd, config.max_calls))
        return collect(plan, judges, evidence, books, config, term=term)


@pytest.fixture
def wire():
    with serving(WireSettings()) as server:
        yield server


@pytest.mark.parametrize("provider", PROVIDERS)
def test_asks_once_and_prices(wire, provider, ledger_url):
    config = configured(api(provider, wire))
    made, report = obtain(config, ledger_url)
    assert report.failed == 0 and report.asked == made.height == wire.stats.answered
    assert made["p_first"].n_unique() > made.height // 2
    assert report.cost_usd == pytest.approx(made["cost_usd"].sum()) and report.cost_usd > 0
    assert made["input_tokens"].sum() == wire.stats.input_tokens
    again, second = obtain(config, ledger_url)
    assert again.equals(made) and second.asked == 0 and wire.stats.paid_twice == 0


def test_without_a_key_what_is_known_is_read_and_nothing_is_asked(wire, sqlite_url, monkeypatch):
    config = configured(api("openai", wire))
    made, _ = obtain(config, sqlite_url)
    monkeypatch.delenv("OPENAI_API_KEY")
    assert obtain(config, sqlite_url)[0].equals(made)
    two = configured(api("openai", wire), api("openai", wire, name="other"))
    before = wire.stats.received
    with pytest.raises(JudgeError, match="OPENAI_API_KEY is not set"):
        obtain(two, sqlite_url)
    assert wire.stats.received == before


def test_one_missing_key_costs_the_other_judge_nothing(wire, sqlite_url, monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    with pytest.raises(JudgeError, match="ANTHROPIC_API_KEY"):
        obtain(configured(api("openai", wire), api("anthropic", wire)), sqlite_url)
    assert wire.stats.received == 0


def test_another_query_is_asked_alone(wire, sqlite_url):
    config = configured(api("openai", wire), api("anthropic", wire), votes_per_pair=1)
    few, _ = obtain(config, sqlite_url, made_evidence(3, 8))
    more, report = obtain(config, sqlite_url, made_evidence(4, 8))
    new = more.filter(~pl.col("query_id").is_in(few["query_id"].unique().implode()))
    assert report.asked == new.height > 0
    assert more.filter(pl.col("query_id").is_in(few["query_id"].unique().implode())).equals(few)


def test_another_judge_is_asked_alone(wire, sqlite_url):
    config = configured(api("openai", wire), api("anthropic", wire))
    obtain(config, sqlite_url)
    changed = configured(api("openai", wire), api("anthropic", wire, model="claude-sonnet-4-5"))
    made, report = obtain(changed, sqlite_url)
    asked = {judge.judge: judge.asked for judge in report.judges}
    assert asked == {"openai": 0, "anthropic": made.filter(pl.col("judge") == "anthropic").height}


def test_another_instruction_or_prompt_limit_is_another_call(wire, sqlite_url):
    made, _ = obtain(configured(api("openai", wire)), sqlite_url)
    other, report = obtain(configured(api("openai", wire), instruction="Prefer recent sources."), sqlite_url)
    assert report.asked == made.height and not set(made["call_key"]) & set(other["call_key"])


def test_how_it_is_sent_is_no_part_of_the_call(wire, sqlite_url):
    obtain(configured(api("openai", wire)), sqlite_url)
    changed = api("openai", wire, dispatch={"workers": 3}, timeout_s=5, token_factor=2)
    assert obtain(configured(changed), sqlite_url)[1].asked == 0


def test_a_changed_parser_asks_nobody(wire, sqlite_url, monkeypatch):
    wire.change(WireSettings(faults={"garbage": 0.3}))
    made, _ = obtain(configured(api("openai", wire, form="json")), sqlite_url)
    unread = made.filter(pl.col("status") == "unparsed")
    assert 0 < unread.height < made.height
    before = wire.stats.received
    monkeypatch.setattr(api_calls.parsing, "p_first", lambda answer: 0.25)
    again, report = obtain(configured(api("openai", wire, form="json")), sqlite_url)
    assert report.asked == 0 and wire.stats.received == before
    assert (again["p_first"] == 0.25).all() and (again["status"] == "ok").all()


def test_failures_are_rows_and_no_votes(wire, sqlite_url):
    wire.change(WireSettings(faults={"500": 0.6}))
    config = configured(api("openai", wire, dispatch={"attempts": 2, "breaker_failures": 1000, "backoff_seconds": 0.01}))
    made, report = obtain(config, sqlite_url)
    failed = made.filter(pl.col("status") != "ok")
    assert report.failed == failed.height > 0
    assert failed["status"].unique().to_list() == ["http_500"] and failed["p_first"].null_count() == failed.height


def test_the_cap_fails_the_step_and_a_higher_one_goes_on(wire, sqlite_url):
    capped = configured(api("openai", wire), max_calls=5)
    with pytest.raises(CapReached, match="5 calls"):
        obtain(capped, sqlite_url)
    assert wire.stats.answered == 5
    made, report = obtain(configured(api("openai", wire), max_calls=500), sqlite_url)
    assert report.reused == 5 and report.asked == made.height - 5


def test_at_the_cap_a_run_may_finish_with_what_it_has(wire, sqlite_url):
    capped = configured(api("openai", wire), max_calls=5, at_cap="finish")
    made, report = obtain(capped, sqlite_url)
    assert made.filter(pl.col("status") == "ok").height == 5 and report.failed == made.height - 5
    assert set(made.filter(pl.col("status") != "ok")["status"]) == {"cap"}
    whole, report = obtain(configured(api("openai", wire)), sqlite_url)
    assert report.reused == 5 and (whole["status"] == "ok").all()


def test_raised_after_a_run_that_finished_at_the_cap_the_verdicts_are_those_of_no_cap(wire, tmp_path):
    """Neither the frozen prior nor the pairs that half of a round chose are kept."""
    evidence, rating = made_evidence(4, 12), RatingConfig(prior="scores")
    made = []
    for name, caps in (("free", [None]), ("capped", [20, None])):
        for cap in caps:
            config = configured(api("openai", wire), design="adaptive", degree=4, rounds=3, max_calls=cap, at_cap="finish")
            study = open_study("made", config, rating, 0, evidence.pool, {}, dataset="made")
            with Books(f"sqlite:///{tmp_path / name}.db") as books:
                judges = build_judges(config, evidence, 0, money=Money(books, "made", max_calls=cap))
                made.append(collect_rounds(plan_first(study)[0], Desk(judges, evidence, books, config, rating, 0), study))
    free, capped, raised = (done.judgments.drop("latency_ms") for done in made)
    assert (capped["status"] == "cap").any() and raised.equals(free)
    assert wire.stats.answered == 2 * free.height, "each of both ledgers was paid for once"


def test_a_model_without_a_price_cannot_be_capped_in_money(wire, sqlite_url, caplog):
    with pytest.raises(InputError, match=r'no price is known for model "mystery"'):
        obtain(configured(api("openai", wire, model="mystery"), max_usd=1.0), sqlite_url)
    assert wire.stats.received == 0
    _, report = obtain(configured(api("openai", wire, model="mystery")), sqlite_url)
    assert report.failed == 0 and report.cost_usd == 0 and "mystery" in caplog.text


@pytest.mark.parametrize("provider", PROVIDERS)
def test_batches_end_the_step_until_they_are_ready(wire, provider, ledger_url):
    wire.change(WireSettings(batch_s=3600.0))
    config = configured(api(provider, wire, batch={"calls": 10, "settle_seconds": 0}))
    for _ in range(2):
        with pytest.raises(BatchPending):
            obtain(config, ledger_url)
    wire.finish()
    made, report = obtain(config, ledger_url)
    assert report.failed == 0 and wire.stats.paid_twice == 0 and report.asked == made.height
    sync, second = obtain(configured(api(provider, wire)), ledger_url)
    assert second.asked == 0 and sync.equals(made)


def test_a_judge_that_waits_lets_the_others_finish(wire, sqlite_url):
    wire.change(WireSettings(batch_s=3600.0))
    config = configured(api("openai", wire, batch={"settle_seconds": 0}), api("anthropic", wire))
    with pytest.raises(BatchPending):
        obtain(config, sqlite_url)
    wire.finish()
    _, report = obtain(config, sqlite_url)
    assert {judge.judge: judge.reused > 0 for judge in report.judges} == {"openai": False, "anthropic": True}


def test_what_several_judges_wait_for_is_added_up(wire, sqlite_url):
    wire.change(WireSettings(batch_s=3600.0))
    waits = {"settle_seconds": 0}
    config = configured(api("openai", wire, batch=waits), api("anthropic", wire, batch=waits))
    plan, _ = plan_comparisons(pool_documents(made_evidence(3, 8).pool, config), config, 0)
    with pytest.raises(BatchPending, match=rf"{plan.height} calls in 2 batch\(es\) of made"):
        obtain(config, sqlite_url)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_lists_are_one_call_and_many_votes(wire, provider, sqlite_url):
    judge = api(provider, wire, prompt="listwise", form="tool" if provider == "anthropic" else "json")
    config = configured(judge, design="lists", list_size=4, degree=3)
    made, report = obtain(config, sqlite_url)
    calls = made.select("query_id", "round", "list").n_unique()
    assert wire.stats.answered == calls < made.height
    assert (made["status"] == "ok").all() and (made["weight"] < 1).all()
    assert made["cost_usd"].sum() == pytest.approx(report.cost_usd) and made.filter(pl.col("cost_usd") > 0).height == calls
    assert obtain(config, sqlite_url)[1].asked == 0


def test_an_answer_that_is_no_ranking_is_a_failure_on_record_and_the_next_epoch_asks_it_again(wire, sqlite_url):
    config = configured(api("openai", wire, prompt="listwise", form="json"), design="lists", list_size=4, degree=3)
    wire.change(WireSettings(faults={"garbage": 0.4}))
    made, _ = obtain(config, sqlite_url)
    lost = made.filter(pl.col("status") == "unparsed")["call_key"].n_unique()
    with Books(sqlite_url) as books:
        stored = books.look_up(made["call_key"], "1")
    assert 0 < lost == stored.filter(pl.col("status") == "unparsed").height < stored.height
    wire.change(WireSettings())
    again, report = obtain(config, sqlite_url, term=Term("2"))
    assert report.asked == lost and (again["status"] == "ok").all()


def test_rounds_through_an_api_are_the_same_when_asked_again(wire, sqlite_url):
    config = configured(api("openai", wire), design="adaptive", degree=4, rounds=3)
    evidence = made_evidence(4, 12)
    rating = RatingConfig(prior="scores")
    study = open_study("made", config, rating, 0, evidence.pool, {})
    plan, _ = plan_first(study)
    made = []
    with Books(sqlite_url) as books:
        for _ in range(2):
            judges = build_judges(config, evidence, 0, money=Money(books, "made"))
            made.append(collect_rounds(plan, Desk(judges, evidence, books, config, rating, 0), study))
    assert made[0].judgments.equals(made[1].judgments) and made[1].report.asked == 0
    assert made[0].judgments["round"].max() == 3


def test_expired_verdicts_are_asked_again_in_another_epoch_only(wire, sqlite_url):
    config = configured(api("openai", wire), expire_days=1)
    made, _ = obtain(config, sqlite_url)
    later = "2999-01-01T00:00:00.000000Z"
    assert obtain(config, sqlite_url, term=Term("1", later))[1].asked == 0
    assert obtain(config, sqlite_url, term=Term("2"))[1].asked == 0
    assert obtain(config, sqlite_url, term=Term("2", later))[1].asked == made.height


def test_what_a_cap_leaves_unasked_keeps_its_expired_verdict(wire, sqlite_url):
    config = configured(api("openai", wire), expire_days=1)
    made, _ = obtain(config, sqlite_url)
    capped = config.model_copy(update={"at_cap": "finish", "max_calls": 5})
    kept, report = obtain(capped, sqlite_url, term=Term("2", "2999-01-01T00:00:00.000000Z"), scope="refresh")
    assert report.asked == 5 and report.failed == 0
    assert kept["epoch"].value_counts().sort("epoch").rows() == [("1", made.height - 5), ("2", 5)]
    assert kept.select("call_key", "p_first").equals(made.select("call_key", "p_first"))


def test_a_slow_answer_is_given_up():
    class Slow:
        submit = batches_since = retrieve = results = None

        async def send(self, request):
            await asyncio.Event().wait()

    request = Request("k", {}, 1, 1)
    with contextlib.suppress(TimeoutError), pytest.raises(Retryable) as caught:
        asyncio.run(Bounded(Slow(), 0.01).send(request))
    assert caught.value.kind == "timeout"


def test_a_cascade_asks_the_dear_judge_about_the_doubtful_pairs(wire, sqlite_url):
    tiers = [{"name": "small", "judges": ["small"]}, {"name": "large", "judges": ["large"], "share": 0.3, "weight": 2.0}]
    config = configured(
        api("openai", wire, name="small", model="gpt-4o-mini"),
        api("openai", wire, name="large", model="gpt-4o"),
        routing={"tiers": tiers, "passes": 1},
        design="adaptive",
        rounds=2,
        audit_share=0.0,
    )
    evidence, rating = made_evidence(4, 12), RatingConfig(prior="scores")
    study = open_study("made", config, rating, 0, evidence.pool, {})
    with Books(sqlite_url) as books:
        judges = build_judges(config, evidence, 0, money=Money(books, "made"))
        plan, _ = plan_first(study)
        before = look_ahead(plan, judges, evidence, books, config, study)
        done = collect_rounds(plan, Desk(judges, evidence, books, config, rating, 0), study).judgments
        after = look_ahead(plan, judges, evidence, books, config, study)
    counts = dict(done.group_by("judge").len().iter_rows())
    assert 0 < counts["large"] <= 0.3 * counts["small"]
    assert before.missing.equals(plan) and before.later["large"].high >= counts["large"]
    assert before.missing.height + before.later["small"].expected == counts["small"]
    # What moved up is on record too: nothing is left to pay.
    assert after.missing.is_empty() and not after.later and after.known.height == done.height


@pytest.mark.parametrize("provider", PROVIDERS)
def test_anchors_are_graded_through_the_ledger(wire, provider, sqlite_url):
    anchors = {"source": {"kind": "judge", "name": provider}}
    config = configured(api(provider, wire), anchors=anchors)
    evidence = made_evidence(3, 8)
    chosen = pool_documents(evidence.pool, config).select("query_id", "doc_id").head(7)
    with Books(sqlite_url) as books:
        for asked in (7, 0):
            grader = build_grader(config, evidence, money=Money(books, "made"), conf=None)
            desk = Desk([], evidence, books, config, RatingConfig(), 0)
            graded, report = ask_grades(chosen, grader, desk)
            assert report.asked == asked and graded.height == 7 and graded["grade"].is_between(0, 3).all()
    assert graded["grade"].n_unique() > 1 and (graded["provenance"] == "model").all()
