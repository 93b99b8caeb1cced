"""Judges behind an API under load, killed, and racing for a cap (small versions of 4_2, 4_3 and 4_4)."""

import pytest

from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.evidence import pool_documents
from anmi_pipeline.judging.plan import plan_comparisons
from anmi_pipeline_tests.judging.made import made_evidence

slow = pytest.mark.slow


@slow
def test_every_pair_has_a_verdict_or_a_failure_and_is_billed_once(load, figures, tmp_path):
    script, evidence = load("4_2_load"), made_evidence(12, 20)
    config = JudgingConfig(judges=(script.judge_settings("http://127.0.0.1:1/v1"),), design="cycles", pool_size=20, degree=8)
    plan, _ = plan_comparisons(pool_documents(evidence.pool, config), config, 0)
    done = script.loaded(plan, evidence, tmp_path / "load", 0)
    script.report_record(figures, done, plan.height, 0)
    assert figures.checked and not figures.failed
    assert set(done.server["faults"]) == {"429", "500", "timeout", "garbage"}


@slow
def test_the_bare_loop_is_asked_the_same(load, tmp_path):
    script, evidence = load("4_2_load"), made_evidence(2, 8)
    config = JudgingConfig(judges=(script.judge_settings("http://127.0.0.1:1/v1"),), design="cycles", pool_size=8, degree=4)
    plan, _ = plan_comparisons(pool_documents(evidence.pool, config), config, 0)
    ours = script.loaded(plan, evidence, tmp_path / "ours", 0)
    theirs = script.peer(script.bodies_of(plan, evidence), 0, paced=True)
    assert theirs.answered + theirs.lost.total() == plan.height == ours.answered
    assert set(theirs.server["paid"]) <= set(ours.server["paid"])


@slow
@pytest.mark.parametrize(("how", "whole"), [("batch", 0), ("sync", 1)])
def test_a_killed_process_loses_nothing_and_pays_nothing_twice(load, figures, tmp_path, how, whole):
    script, count = load("4_3_kill"), 2 if how == "batch" else 1
    counts = {"sync": 0, "batch": 0} | {how: count}
    found = script.kill_many(figures, tmp_path, whole=whole, seed=0, **counts)
    script.report(figures, found, counts | {"anmi run": whole}, 0)
    assert figures.checked and not figures.failed


@slow
@pytest.mark.parametrize(("cap", "most", "kill"), [("max_usd", 0.01, False), ("max_calls", 120, False), ("max_usd", 0.01, True)])
def test_two_processes_never_exceed_the_cap(load, figures, tmp_path, cap, most, kill):
    script = load("4_4_cap")
    race = script.Race(cap, most, postgres=False, kill=kill)
    script.report(figures, race, script.raced(race, f"sqlite:///{tmp_path / 'ledger.db'}", 0), 0)
    assert figures.checked and not figures.failed


DIGEST = "d" * 64
ROW = {"call_key": "k", "p_first": 0.5, "request_id": f"req_{DIGEST[:24]}", "raw_answer": "A"}
BATCH = {"id": "batch_0", "metadata": {"anmi": "token"}, "keys": ["k"]}
REPORT = {"attempts": {DIGEST: 1}, "paid": {DIGEST: 1}, "paid_twice": 0, "received": 1, "batches": []}


@pytest.mark.parametrize(
    ("how", "after", "end", "wrong"),
    [
        ("sync", ROW, REPORT, set()),
        ("sync", None, REPORT, {"lost"}),
        ("sync", ROW | {"p_first": 0.4}, REPORT, {"lost"}),
        ("sync", ROW, REPORT | {"paid": {DIGEST: 2}, "paid_twice": 1}, {"filed_paid_again", "beyond"}),
        ("batch", ROW, REPORT | {"paid": {DIGEST: 2}, "paid_twice": 1}, {"filed_paid_again", "paid_twice_in_batches"}),
        ("batch", ROW, REPORT | {"batches": [BATCH]}, set()),
        ("batch", ROW, REPORT | {"batches": [BATCH, BATCH | {"id": "batch_1"}]}, {"batches_twice"}),
    ],
)
def test_the_instrument_sees_what_is_lost_and_what_is_paid_twice(load, how, after, end, wrong):
    script, lives = load("4_3_kill"), load("lives")
    batches = [{"batch_id": "batch_0", "state": "collected"}]
    before = script.Ledger({"k": ROW}, batches, [{"call_key": "k"}])
    later = script.Ledger({"k": after} if after else {}, batches, [{"call_key": "k"}])
    found = script.Found()
    script.examine("life", before, REPORT, later, end, lives.Life(how, "openai"), found)
    lists = ("lost", "filed_paid_again", "beyond", "batches_twice", "paid_twice_in_batches")
    assert {name for name in lists if getattr(found, name)} == wrong
