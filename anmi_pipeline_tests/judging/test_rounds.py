import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anmi_pipeline.errors import InputError, JudgeError
from anmi_pipeline.judging.asked_pairs import so_far
from anmi_pipeline.judging.cascade import Desk
from anmi_pipeline.judging.collect import collect
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.frozen_prior import Frozen
from anmi_pipeline.judging.judge_configs import SimulatedJudge
from anmi_pipeline.judging.judges import Judge, JudgeEvidence
from anmi_pipeline.judging.ledger import Ledger, LedgerError
from anmi_pipeline.judging.panel import build_judges
from anmi_pipeline.judging.plan import pair_budget, plan_pairs
from anmi_pipeline.judging.replanning import replan_report
from anmi_pipeline.judging.round_plans import plan_first, plan_next
from anmi_pipeline.judging.rounds import Rounds, collect_rounds, later_calls
from anmi_pipeline.judging.study import Study, open_study, plan_key
from anmi_pipeline.rating.config import RatingConfig
from anmi_pipeline.rating.prior import ScorePrior
from anmi_pipeline.rating.rounds import PAIRS
from anmi_pipeline.tables import CERTIFICATES, JUDGMENTS, PLAN
from anmi_pipeline_tests.judging.made import Watched, made_evidence

PAIR = ["query_id", "low", "high"]


def adaptive(**changes: object) -> JudgingConfig:
    given_ = {"judges": (SimulatedJudge(),), "pool_size": 12, "degree": 6, "audit_share": 0.0, **changes}
    return JudgingConfig(**given_)


def study_of(evidence: JudgeEvidence, config: JudgingConfig, **rating: object) -> Study:
    return open_study("made", config, RatingConfig(**rating), 0, evidence.pool, {})


def run(evidence: JudgeEvidence, config: JudgingConfig, url: str, judges: list[Judge] | None = None, **rating: object) -> Rounds:
    study = study_of(evidence, config, **rating)
    plan, _ = plan_first(study)
    with Ledger(url) as ledger:
        desk = Desk(judges or build_judges(config, evidence, 0), evidence, ledger, config, study.rating, 0)
        return collect_rounds(plan, desk, study)


def unordered(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(low=pl.min_horizontal("first_id", "second_id"), high=pl.max_horizontal("first_id", "second_id"))


def without(evidence: JudgeEvidence, query: str) -> JudgeEvidence:
    return replace(
        evidence,
        queries=evidence.queries.filter(pl.col("query_id") != query),
        pool=evidence.pool.filter(pl.col("query_id") != query),
    )


@pytest.mark.parametrize("prior", ["scores", "zero"])
def test_the_budget_is_spent_exactly_in_equal_batches_and_no_pair_twice(evidence, sqlite_url, prior):
    done = run(evidence, adaptive(), sqlite_url, prior=prior)
    JUDGMENTS.validate(done.judgments)
    sizes = done.judgments.group_by("query_id", "round").len().sort("query_id", "round")
    assert sizes["len"].to_list() == [12, 8, 8, 8] * 6  # one cycle, then a third each of 12 * 6 / 2 - 12
    assert not unordered(done.judgments).select(PAIR).is_duplicated().any()
    assert (done.report.planned, done.report.asked, done.report.reused) == (36 * 6, 36 * 6, 0)
    assert (done.frozen is None) is (prior == "zero")


def test_the_first_round_is_a_certified_cycle(evidence):
    plan, certified = plan_first(study_of(evidence, adaptive()))
    PLAN.validate(plan)
    CERTIFICATES.validate(certified)
    assert set(plan["round"]) == {1}
    assert certified.select("n_documents", "n_pairs", "components", "min_degree", "max_degree").unique().rows() == [
        (12, 12, 1, 2, 2)
    ]


def test_a_second_run_asks_nothing_and_gives_the_same_table(evidence, sqlite_url):
    first = run(evidence, adaptive(audit_share=0.3), sqlite_url)
    watched = Watched(build_judges(adaptive(), evidence, 0)[0])
    again = run(evidence, adaptive(audit_share=0.3), sqlite_url, [watched])
    assert again.judgments.equals(first.judgments)
    assert again.frozen == first.frozen
    assert (watched.asked, again.report.reused) == ([], first.judgments.height)


@pytest.mark.parametrize("answered", [30, 72, 90, 150, 200])
def test_stopped_in_any_round_the_next_run_repeats_no_call(evidence, sqlite_url, tmp_path, answered):
    config = adaptive()
    whole = run(evidence, config, f"sqlite:///{tmp_path / 'whole.db'}")

    def stop(_calls: pl.DataFrame) -> None:
        if len(judge.asked) > answered:
            raise JudgeError("the key was revoked")

    judge = Watched(build_judges(config, evidence, 0)[0], told=stop, chunk=6)
    with pytest.raises(JudgeError, match="revoked"):
        run(evidence, config, sqlite_url, [judge])
    with Ledger(sqlite_url) as ledger:
        durable = ledger.count()
    after = Watched(build_judges(config, evidence, 0)[0])
    done = run(evidence, config, sqlite_url, [after])
    assert not set(after.asked) & set(judge.asked[:durable])
    assert durable + len(after.asked) == whole.judgments.height
    assert done.judgments.equals(whole.judgments)
    assert done.frozen == whole.frozen


def test_kill_9_in_any_round_loses_nothing_finished_and_repeats_nothing(evidence, sqlite_url, tmp_path):
    config, chunk = adaptive(), 3
    whole = run(evidence, config, f"sqlite:///{tmp_path / 'whole.db'}")
    finished = 0
    for until in (40, 100, 170):  # in the first, second and third or fourth round
        command = [sys.executable, "-m", "anmi_pipeline_tests.judging.killed", sqlite_url, config.model_dump_json(), str(chunk)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        told = next(count for line in process.stdout if (count := int(line)) >= until)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with Ledger(sqlite_url) as ledger:
            durable = ledger.count()
        assert finished < told <= durable < whole.judgments.height
        finished = durable
    judge = Watched(build_judges(config, evidence, 0)[0])
    done = run(evidence, config, sqlite_url, [judge])
    assert len(judge.asked) == whole.judgments.height - finished
    assert done.judgments.equals(whole.judgments)
    assert done.frozen == whole.frozen


def test_a_new_query_changes_no_other_querys_pairs(sqlite_url):
    more = made_evidence(6, 20)
    before = run(without(more, "q003"), adaptive(), sqlite_url)
    watched = Watched(build_judges(adaptive(), more, 0)[0])
    after = run(more, adaptive(), sqlite_url, [watched])
    assert after.frozen == before.frozen
    assert after.judgments.filter(pl.col("query_id") != "q003").equals(before.judgments)
    assert len(watched.asked) == pair_budget(12, 6)


def test_estimated_anew_the_prior_would_differ_so_freezing_is_what_protects_the_others(sqlite_url, tmp_path):
    more = made_evidence(6, 20)
    frozen = run(without(more, "q003"), adaptive(), sqlite_url).frozen
    fresh = run(more, adaptive(), f"sqlite:///{tmp_path / 'fresh.db'}").frozen
    assert frozen is not None
    assert fresh is not None
    assert (frozen.queries, fresh.queries) == (5, 6)
    assert frozen.prior != fresh.prior


def test_raising_replan_estimates_the_prior_anew(sqlite_url):
    more = made_evidence(6, 20)
    run(without(more, "q003"), adaptive(), sqlite_url)
    kept, anew = run(more, adaptive(), sqlite_url).frozen, run(more, adaptive(replan=1), sqlite_url).frozen
    assert kept is not None
    assert anew is not None
    assert (kept.queries, anew.queries) == (5, 6)
    assert run(more, adaptive(), sqlite_url).frozen == kept, "the older plan stands as it was"


def test_more_budget_keeps_the_frozen_prior_and_the_first_round(evidence, sqlite_url):
    small = run(evidence, adaptive(), sqlite_url)
    large = run(evidence, adaptive(degree=8), sqlite_url)
    assert large.frozen == small.frozen
    assert large.judgments.filter(pl.col("round") == 1).equals(small.judgments.filter(pl.col("round") == 1))
    assert large.judgments.height == 6 * pair_budget(12, 8)


def test_what_names_a_plan_and_what_does_not():
    base = plan_key("f", adaptive(), RatingConfig(), 0, {})
    same = [adaptive(degree=10), adaptive(cap=5), adaptive(rounds=2), adaptive(epoch="2"), adaptive(splits=("train", "test"))]
    assert {plan_key("f", config, RatingConfig(), 0, {}) for config in same} == {base}
    assert plan_key("f", adaptive(), RatingConfig(std_error="fisher"), 0, {}) == base
    others = [
        plan_key("f", adaptive(replan=1), RatingConfig(), 0, {}),
        plan_key("f", adaptive(pool_size=13), RatingConfig(), 0, {}),
        plan_key("f", adaptive(judges=(SimulatedJudge(error_rate=0.1),)), RatingConfig(), 0, {}),
        plan_key("g", adaptive(), RatingConfig(), 0, {}),
        plan_key("f", adaptive(), RatingConfig(model="bradley_terry"), 0, {}),
        plan_key("f", adaptive(), RatingConfig(), 1, {}),
        plan_key("f", adaptive(), RatingConfig(), 0, {"dense": 1}),
    ]
    assert len({base, *others}) == 1 + len(others)


def test_pairs_without_an_answer_are_not_asked_again(evidence, sqlite_url):
    class Silent(Watched):
        async def answer(self, calls: pl.DataFrame):
            async for part in super().answer(calls):
                lost = pl.col("call_key").str.slice(0, 1).is_in(["0", "1", "2", "3"])
                yield part.with_columns(
                    pl.when(lost).then(pl.lit("timeout")).otherwise("status").alias("status"),
                    pl.when(lost).then(None).otherwise("p_first").alias("p_first"),
                )

    done = run(evidence, adaptive(), sqlite_url, [Silent(build_judges(adaptive(), evidence, 0)[0])])
    assert done.report.failed > 20
    assert done.judgments.height == 6 * pair_budget(12, 6)
    assert not unordered(done.judgments).select(PAIR).is_duplicated().any()


def test_audited_pairs_are_asked_in_both_orders_in_every_round(evidence, sqlite_url):
    config = adaptive(audit_share=1.0, judges=(SimulatedJudge(), SimulatedJudge(name="other")))
    done = run(evidence, config, sqlite_url)
    assert done.judgments["audit"].all()
    assert set(unordered(done.judgments).group_by(*PAIR, "round").len()["len"]) == {4}
    assert done.judgments.height == 4 * 6 * pair_budget(12, 6)


@pytest.mark.parametrize(("rounds", "degree", "shape"), [(1, 6, [12]), (2, 6, [12, 24]), (4, 2, [12]), (3, 50, [12, 27, 27])])
def test_rounds_and_budget_at_their_ends(evidence, sqlite_url, rounds, degree, shape):
    done = run(evidence, adaptive(rounds=rounds, degree=degree), sqlite_url)
    sizes = done.judgments.filter(pl.col("query_id") == "q000").group_by("round").len().sort("round")
    assert sizes["len"].to_list() == shape


def test_what_the_cap_holds_back_is_spent_later(evidence):
    config = adaptive(cap=1, rounds=3)
    study = study_of(evidence, config, prior="zero")
    plan, _ = plan_first(study)
    second = plan_next(JUDGMENTS.frame(), plan, study, None, 2)
    ends = pl.concat([second.select("query_id", doc=end) for end in ("first_id", "second_id")])
    assert ends.group_by("query_id", "doc").len()["len"].max() == 1
    third = plan_next(JUDGMENTS.frame(), pl.concat([plan, second]), replace(study, judging=adaptive(rounds=3)), None, 3)
    assert plan.height + second.height + third.height == 6 * pair_budget(12, 6)


def test_queries_of_one_and_two_documents(sqlite_url):
    evidence = made_evidence(3, 20)
    few = evidence.pool.filter(
        (pl.col("query_id") == "q000")
        | ((pl.col("query_id") == "q001") & (pl.col("rrf_pool_rank") <= 2))
        | ((pl.col("query_id") == "q002") & (pl.col("rrf_pool_rank") == 1))
    )
    study = study_of(replace(evidence, pool=few), adaptive())
    _, certified = plan_first(study)
    assert certified["n_documents"].to_list() == [12, 2, 1]
    done = run(replace(evidence, pool=few), adaptive(), sqlite_url)
    assert dict(done.judgments.group_by("query_id").len().iter_rows()) == {"q000": 36, "q001": 1}


def test_no_query_at_all(evidence, sqlite_url):
    done = run(replace(evidence, pool=evidence.pool.clear()), adaptive(), sqlite_url)
    assert done.judgments.equals(JUDGMENTS.frame())


def test_expected_calls_hold_the_real_number(evidence, sqlite_url):
    config = adaptive(audit_share=0.2, degree=8, judges=(SimulatedJudge(), SimulatedJudge(name="other")))
    study = study_of(evidence, config)
    plan, _ = plan_first(study)
    low, expected, high = later_calls(plan, study)
    pairs = 6 * (pair_budget(12, 8) - 12)
    assert expected == pytest.approx(pairs + 3 * 0.2 * pairs)
    assert low < expected < high
    done = run(evidence, config, sqlite_url)
    assert low <= done.judgments.height - plan.height <= high
    assert later_calls(plan, study_of(evidence, adaptive())) == (6 * 24,) * 3


def test_progress_counts_the_calls_of_all_rounds(evidence, sqlite_url):
    study = study_of(evidence, adaptive())
    plan, _ = plan_first(study)
    seen: list[tuple[int, int, str]] = []
    with Ledger(sqlite_url) as ledger:
        desk = Desk(build_judges(adaptive(), evidence, 0), evidence, ledger, adaptive(), study.rating, 0)
        collect_rounds(plan, desk, study, lambda *told: seen.append(told))
    assert seen[-1] == (216, 216, "verdicts")
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
    assert {total for _, total, _ in seen} == {216}


def test_a_replan_says_what_it_would_cost_and_changes_nothing(sqlite_url):
    more = made_evidence(6, 20)
    before = run(without(more, "q003"), adaptive(), sqlite_url)
    after = run(more, adaptive(), sqlite_url)
    study = study_of(more, adaptive())
    plan, _ = plan_first(study)
    with Ledger(sqlite_url) as ledger:
        rows = ledger.count()
        told = replan_report(plan, build_judges(adaptive(), more, 0), more, ledger, study)
        assert ledger.count() == rows
        assert ledger.frozen_prior(study_of(more, adaptive(replan=1)).plan_key) is None
    assert (told.frozen, told.estimated.queries) == (before.frozen, 6)
    assert told.calls == sum(told.calls_by_round.values()) > 0
    anew = Watched(build_judges(adaptive(), more, 0)[0])
    real = run(more, adaptive(replan=1), sqlite_url, [anew])
    assert told.estimated == real.frozen
    asked_second = real.judgments.filter((pl.col("round") == 2) & pl.col("call_key").is_in(anew.asked))
    assert told.calls_by_round[2] == asked_second.height, "it rests on verdicts that are known, so its count is exact"
    assert told.calls == pytest.approx(real.report.asked, rel=0.35)
    assert after.judgments.height == real.judgments.height


def test_a_replan_before_the_first_run_is_refused(evidence, sqlite_url):
    study = study_of(evidence, adaptive())
    plan, _ = plan_first(study)
    with Ledger(sqlite_url) as ledger, pytest.raises(InputError, match="no frozen prior"):
        replan_report(plan, build_judges(adaptive(), evidence, 0), evidence, ledger, study)


def test_the_first_writer_of_a_prior_wins(ledger_url):
    with Ledger(ledger_url) as one, Ledger(ledger_url) as other:
        assert one.frozen_prior("k") is None
        assert one.freeze_prior("k", '{"a":1}') == '{"a":1}'
        assert other.freeze_prior("k", '{"a":2}') == '{"a":1}'
        assert other.frozen_prior("k") == '{"a":1}'


def test_a_frozen_prior_survives_its_text():
    frozen = Frozen(ScorePrior(("fused",), (1 / 3,), 0.1), 4, 100)
    assert Frozen.from_text(json.dumps(frozen.as_json())) == frozen
    with pytest.raises(LedgerError, match=r"cannot be read: \{\}. Raise judging.replan"):
        Frozen.from_text("{}")


def test_draws_of_a_round_depend_on_query_and_round_alone(evidence):
    config = adaptive(audit_share=0.3, judges=(SimulatedJudge(), SimulatedJudge(name="other")))
    plan, _ = plan_first(study_of(evidence, config))
    pairs = unordered(plan).select("query_id", doc_i="low", doc_j="high").unique()
    planned = plan_pairs(pairs.sort("doc_j"), config, 0, 2)
    assert planned.equals(plan_pairs(pairs.sort("query_id", "doc_i", descending=True), config, 0, 2))
    alone = plan_pairs(pairs.filter(pl.col("query_id") == "q004"), config, 0, 2)
    assert alone.equals(planned.filter(pl.col("query_id") == "q004"))
    assert not plan_pairs(pairs, config, 0, 3).drop("round").equals(planned.drop("round"))
    assert not plan_pairs(pairs, config, 1, 2).equals(planned)
    assert plan_pairs(pl.DataFrame(schema=PAIRS), config, 0, 2).equals(PLAN.frame())


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 15), st.integers(2, 20), st.integers(1, 5))
def test_budget_for_any_size(n, degree, rounds):
    evidence = made_evidence(2, n)
    config = adaptive(degree=degree, rounds=rounds, pool_size=max(n, 2), cap=50)
    study = study_of(evidence, config, prior="zero")
    plan, _ = plan_first(study)
    asked = plan
    for number in range(2, rounds + 1):
        asked = pl.concat([asked, plan_next(JUDGMENTS.frame(), asked, study, None, number)])
    expected = pair_budget(n, degree) if rounds > 1 else min(n, pair_budget(n, degree))
    assert asked.group_by("query_id").len()["len"].to_list() == [expected] * 2
    assert not unordered(asked).select(PAIR).is_duplicated().any()


def test_so_far_folds_answers_and_marks_silence(evidence, config, plan, sqlite_url):
    with Ledger(sqlite_url) as ledger:
        judgments, _ = collect(plan, build_judges(config, evidence, 0), evidence, ledger, config)
    part = judgments.filter(pl.col("query_id") < "q003")
    folded = so_far(part, plan, config)
    assert folded.height == unordered(plan).select(PAIR).n_unique()
    assert folded.filter(pl.col("weight") == 0)["query_id"].unique().sort().to_list() == ["q003", "q004", "q005"]
    assert np.allclose(folded.filter(pl.col("weight") == 0)["preference"], 0.5)
