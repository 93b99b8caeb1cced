import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace

import polars as pl
import pytest

from anmi_pipeline.errors import InputError, JudgeError
from anmi_pipeline.judging.call_keys import call_keys, text_digest
from anmi_pipeline.judging.collect import collect, collect_async
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.evidence import pool_documents
from anmi_pipeline.judging.judge_configs import EnsembleJudge, SimulatedJudge
from anmi_pipeline.judging.judges import CALLS, CallSettings, Judge, JudgeEvidence
from anmi_pipeline.judging.ledger import Ledger
from anmi_pipeline.judging.local_judge import LocalJudge
from anmi_pipeline.judging.panel import build_judges
from anmi_pipeline.judging.plan import plan_comparisons
from anmi_pipeline.judging.verdicts import VERDICTS, checked
from anmi_pipeline.tables import JUDGMENTS, PLAN
from anmi_pipeline_tests.judging.made import Watched, made_evidence


class Scripted(LocalJudge):
    """An API-like judge: no context; answers what the script says of (first text, second text)."""

    chunk = 10

    def __init__(self, script=None, **settings: object) -> None:
        self.name = "scripted"
        self.script = script or (lambda calls: [ok(key) for key in calls["call_key"]])
        self.given = {"endpoint": "https://api", "model": "m-1", "prompt": "which?", "prompt_version": "1", **settings}
        self.asked: list[str] = []

    def settings(self, judge_id: str) -> CallSettings:
        return CallSettings(judge=judge_id, **self.given)

    def context(self, _calls: pl.DataFrame) -> None:
        return None

    async def answer(self, calls: pl.DataFrame) -> AsyncIterator[pl.DataFrame]:
        assert dict(calls.schema) == CALLS
        self.asked.extend(calls["call_key"].to_list())
        for row in self.script(calls):
            await asyncio.sleep(0)
            yield pl.DataFrame([row], schema=VERDICTS)


def ok(key: str, p_first: float | None = 0.5, **values: object) -> dict[str, object]:
    row = {"status": "ok", "p_first": p_first, "raw_answer": "0", "input_tokens": 10, "output_tokens": 2, "cost_usd": 0.01}
    return {"call_key": key, **row, "latency_ms": 5.0, "request_id": None, "provenance": "model", "expires_at": None, **values}


def for_scripted(plan: pl.DataFrame) -> pl.DataFrame:
    return plan.with_columns(judge=pl.lit("scripted"))


def run(plan: pl.DataFrame, judges: list[Judge], evidence: JudgeEvidence, url: str, config: JudgingConfig, **more: object):
    with Ledger(url) as ledger:
        return collect(plan, judges, evidence, ledger, config, **more)


def test_exactly_the_plan_is_answered_and_a_second_run_asks_nothing(plan, evidence, config, ledger_url):
    seen: list[tuple[int, int, str]] = []
    judge = Watched(build_judges(config, evidence, 0)[0])
    made, report = run(plan, [judge], evidence, ledger_url, config, progress=lambda *told: seen.append(told))
    JUDGMENTS.validate(made)
    assert made.select(list(PLAN.schema)).equals(plan)
    assert (report.planned, report.asked, report.reused, report.failed, report.cost_usd) == (plan.height, plan.height, 0, 0, 0)
    assert seen[-1] == (plan.height, plan.height, "verdicts")
    again = Watched(build_judges(config, evidence, 0)[0])
    repeated, report = run(plan, [again], evidence, ledger_url, config)
    assert repeated.equals(made)
    assert (report.asked, report.reused, again.asked) == (0, plan.height, [])


def test_rows_of_other_datasets_in_the_ledger_never_show(plan, evidence, config, sqlite_url):
    run(plan, build_judges(config, evidence, 0), evidence, sqlite_url, config)
    part = plan.filter(pl.col("query_id") == "q001")
    made, report = run(part, build_judges(config, evidence, 0), evidence, sqlite_url, config)
    assert made.height == part.height == report.reused


def test_a_new_query_and_a_new_judge_are_asked_alone(config, sqlite_url):
    few, more = made_evidence(6, 20), made_evidence(6, 20)
    few = replace(few, queries=few.queries[:5], pool=few.pool.filter(pl.col("query_id") != "q005"))
    plan, _ = plan_comparisons(pool_documents(few.pool, config), config, 0)
    run(plan, build_judges(config, few, 0), few, sqlite_url, config)
    plan, _ = plan_comparisons(pool_documents(more.pool, config), config, 0)
    _, report = run(plan, build_judges(config, more, 0), more, sqlite_url, config)
    assert report.asked == plan.filter(pl.col("query_id") == "q005").height
    both = config.model_copy(update={"judges": (SimulatedJudge(), EnsembleJudge()), "audit_share": 1.0})
    plan, _ = plan_comparisons(pool_documents(more.pool, both), both, 0)
    run(plan, build_judges(both, more, 0), more, sqlite_url, both)
    changed = both.model_copy(update={"judges": (SimulatedJudge(), EnsembleJudge(scale=2.0))})
    _, report = run(plan, build_judges(changed, more, 0), more, sqlite_url, changed)
    assert [(count.judge, count.asked > 0) for count in report.judges] == [("simulated", False), ("ensemble", True)]


def test_kill_9_loses_nothing_finished_and_repeats_nothing(plan, evidence, config, sqlite_url, tmp_path):
    chunk = 2  # about a hundred commits, so that each kill falls between two of them
    whole, _ = run(plan, build_judges(config, evidence, 0), evidence, f"sqlite:///{tmp_path / 'whole.db'}", config)
    finished = 0
    for lines in (1, 3, 2, 4):  # four processes, each killed when it has told so many lines
        command = [sys.executable, "-m", "anmi_pipeline_tests.judging.killed", sqlite_url, config.model_dump_json(), str(chunk)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        told = [int(process.stdout.readline()) for _ in range(lines)]
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with Ledger(sqlite_url) as ledger:
            durable = ledger.count()
        assert durable >= told[-1]  # what was counted was committed
        assert told[0] == finished  # nothing finished is asked again
        finished = durable
    assert 0 < finished < plan.height
    judge = Watched(build_judges(config, evidence, 0)[0])
    made, report = run(plan, [judge], evidence, sqlite_url, config)
    assert (report.reused, report.asked) == (finished, plan.height - finished)
    assert made.equals(whole)


def test_an_error_in_the_middle_keeps_what_was_answered(plan, evidence, config, sqlite_url):
    def stop(calls: pl.DataFrame) -> None:
        if len(judge.asked) > 100:
            raise JudgeError("the key was revoked")

    judge = Watched(build_judges(config, evidence, 0)[0], told=stop)
    with pytest.raises(JudgeError, match="revoked"):
        run(plan, [judge], evidence, sqlite_url, config)
    _, report = run(plan, build_judges(config, evidence, 0), evidence, sqlite_url, config)
    assert report.reused == 100


def test_failures_are_rows_without_a_vote(plan, evidence, config, sqlite_url):
    def script(calls: pl.DataFrame):
        for number, key in enumerate(calls["call_key"]):
            yield ok(key) if number % 5 else ok(key, None, status="parse_error", raw_answer="???")

    made, report = run(for_scripted(plan), [Scripted(script)], evidence, sqlite_url, config)
    JUDGMENTS.validate(made)
    failed = made.filter(pl.col("status") != "ok")
    assert failed.height == report.failed > 0
    assert failed["p_first"].null_count() == failed.height
    assert report.cost_usd == pytest.approx(0.01 * plan.height)
    judge = Scripted()
    _, report = run(for_scripted(plan), [judge], evidence, sqlite_url, config)
    assert (judge.asked, report.failed) == ([], failed.height)  # in its epoch a failure stands
    later, report = run(for_scripted(plan), [judge], evidence, sqlite_url, config.model_copy(update={"epoch": "2"}))
    assert (report.asked, report.failed) == (failed.height, 0)
    assert dict(later["epoch"].value_counts().iter_rows()) == {"1": plan.height - failed.height, "2": failed.height}


def test_every_part_of_a_call_is_in_its_key(plan, evidence):
    plan = for_scripted(plan)
    base = set(call_keys(plan, Scripted(), evidence))
    assert len(base) == plan.height
    changes = [
        {"endpoint": "x"},
        {"model": "m-2"},
        {"prompt": "Which?"},
        {"prompt_version": "2"},
        {"sampling": {"temperature": 0}},
    ]
    for change in changes:
        assert not base & set(call_keys(plan, Scripted(**change), evidence))
    edited = replace(evidence, corpus=evidence.corpus.with_columns(
        title=pl.when(pl.col("doc_id") == "d003").then(pl.lit("new")).otherwise(pl.col("title"))
    ))  # fmt: skip
    moved = [a != b for a, b in zip(call_keys(plan, Scripted(), evidence), call_keys(plan, Scripted(), edited), strict=True)]
    assert moved == ((plan["first_id"] == "d003") | (plan["second_id"] == "d003")).to_list()
    asked = replace(evidence, queries=evidence.queries.with_columns(
        text=pl.when(pl.col("query_id") == "q002").then(pl.lit("new")).otherwise(pl.col("text"))
    ))  # fmt: skip
    moved = [a != b for a, b in zip(call_keys(plan, Scripted(), evidence), call_keys(plan, Scripted(), asked), strict=True)]
    assert moved == (plan["query_id"] == "q002").to_list()
    swapped = plan.rename({"first_id": "second_id", "second_id": "first_id"})
    assert base != set(call_keys(swapped, Scripted(), evidence))


def test_text_digests_keep_texts_apart():
    assert text_digest("ab", "c") != text_digest("a", "bc")
    assert text_digest("\ud800") != text_digest("?")


def test_equal_texts_are_asked_once(plan, evidence, config, sqlite_url):
    corpus = evidence.corpus.with_columns(
        title=pl.lit(""), text=pl.when(pl.col("doc_id") < "d010").then(pl.lit("same")).otherwise(pl.col("text"))
    )
    judge = Scripted()
    made, report = run(for_scripted(plan), [judge], replace(evidence, corpus=corpus), sqlite_url, config)
    assert made.height == plan.height
    assert report.asked == len(set(judge.asked)) == len(judge.asked) < plan.height


def test_the_row_on_record_wins_when_another_process_was_first(plan, evidence, config, sqlite_url):
    plan = for_scripted(plan)[:5]
    other = Ledger(sqlite_url)

    def script(calls: pl.DataFrame):
        for number, key in enumerate(calls["call_key"]):
            if number < 2:
                other.append(pl.DataFrame([ok(key, 1.0)], schema=VERDICTS), pl.Series(["scripted"]), "1")
            yield ok(key, 0.0)

    made, _ = run(plan, [Scripted(script)], evidence, sqlite_url, config)
    other.close()
    assert sorted(made["p_first"]) == [0, 0, 0, 1, 1]
    repeated, report = run(plan, [Scripted()], evidence, sqlite_url, config)
    assert repeated.equals(made)
    assert report.asked == 0


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (lambda calls: [ok(key) for key in calls["call_key"][:-1]], "left 1 of"),
        (lambda calls: [ok("f" * 64)], "not asked"),
        (lambda calls: [ok(calls["call_key"][0])] * 2, "twice"),
        (lambda calls: [ok(calls["call_key"][0], 1.5)], "neither a probability nor a failure"),
        (lambda calls: [ok(calls["call_key"][0], float("nan"))], "neither"),
        (lambda calls: [ok(calls["call_key"][0], None)], "neither"),
        (lambda calls: [ok(calls["call_key"][0], 0.5, status="timeout")], "status timeout, p_first 0.5"),
    ],
)
def test_a_judge_that_breaks_the_protocol_is_stopped(plan, evidence, config, sqlite_url, script, message):
    with pytest.raises(JudgeError, match=message):
        run(for_scripted(plan), [Scripted(script)], evidence, sqlite_url, config)
    with Ledger(sqlite_url) as ledger:
        assert ledger.look_up(pl.Series(["f" * 64]), "1").height == 0


def test_other_columns_are_refused():
    with pytest.raises(JudgeError, match="expected"):
        checked(pl.DataFrame({"call_key": ["k"]}), "x")


def test_a_plan_that_does_not_fit_is_named(plan, evidence, config, sqlite_url):
    with pytest.raises(InputError, match=r'asks judge "scripted", which the dataset does not configure. Known: simulated'):
        run(for_scripted(plan), build_judges(config, evidence, 0), evidence, sqlite_url, config)
    fewer = replace(evidence, corpus=evidence.corpus[1:])
    with pytest.raises(InputError, match=r"names 1 doc_id\(s\) that the dataset does not have, first d000"):
        run(plan, build_judges(config, evidence, 0), fewer, sqlite_url, config)


def test_an_empty_plan_is_an_empty_table(evidence, config, sqlite_url):
    for judges in ([], build_judges(config, evidence, 0), [Scripted()]):
        made, report = run(PLAN.frame(), judges, evidence, sqlite_url, config)
        assert made.equals(JUDGMENTS.frame())
        assert report.planned == 0


def test_collecting_inside_an_event_loop(plan, evidence, config, sqlite_url):
    async def notebook():
        with Ledger(sqlite_url) as ledger:
            return await collect_async(plan, build_judges(config, evidence, 0), evidence, ledger, config)

    made, _ = asyncio.run(notebook())
    assert made.height == plan.height
