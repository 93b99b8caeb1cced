import asyncio

import numpy as np
import polars as pl
import pytest

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.call_keys import call_keys
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.judge_configs import SimulatedJudge
from anmi_pipeline.judging.judges import JudgeEvidence
from anmi_pipeline.judging.simulated import Simulated, pair_bytes
from anmi_pipeline_tests.judging.made import made_evidence

CONFIG = JudgingConfig(judges=(SimulatedJudge(),), pool_size=50)


def all_ordered(evidence: JudgeEvidence) -> pl.DataFrame:
    pool = evidence.pool.select("query_id", "doc_id")
    pairs = pool.rename({"doc_id": "first_id"}).join(pool.rename({"doc_id": "second_id"}), on="query_id")
    pairs = pairs.filter(pl.col("first_id") != pl.col("second_id")).sort("query_id", "first_id", "second_id")
    return pairs.with_columns(judge=pl.lit("simulated"), round=pl.lit(1, dtype=pl.Int64), call_key=pl.lit("k"))


def answers(judge: Simulated, calls: pl.DataFrame) -> pl.DataFrame:
    async def gather() -> pl.DataFrame:
        return pl.concat([part async for part in judge.answer(calls)])

    return asyncio.run(gather())


def test_the_law_by_hand():
    evidence = made_evidence(1, 4)
    pool = evidence.pool.sort("rrf_pool_rank")
    names = pool["doc_id"].to_list()
    qrels = pl.DataFrame({"query_id": ["q000"] * 2, "doc_id": names[:2], "grade": [1, 2]})
    judge = Simulated(SimulatedJudge(), JudgeEvidence(evidence.queries, evidence.corpus, pool, qrels), CONFIG, 0)
    calls = pl.DataFrame({
        "query_id": ["q000"] * 4,
        "first_id": [names[1], names[0], names[2], names[3]],
        "second_id": [names[0], names[1], names[3], names[2]],
    })  # fmt: skip
    score = pool["rrf_pool_score"].to_numpy()
    z = (score - score.mean()) / score.std()
    tied = 0.1 * np.tanh(z[2] - z[3])
    np.testing.assert_allclose(judge.probability(calls), [0.85, 0.15, 0.5 + tied, 0.5 - tied], atol=1e-12)


def test_outcomes_are_zero_or_one_at_the_stated_rates():
    evidence = made_evidence(40, 30)
    calls = all_ordered(evidence)
    judge = Simulated(SimulatedJudge(), evidence, CONFIG, 0)
    made = answers(judge, calls)
    assert set(made["p_first"]) == {0.0, 1.0}
    assert set(made["provenance"]) == {"simulated"}
    p, won = judge.probability(calls), made["p_first"].to_numpy()
    for rate in (0.85, 0.15):
        chosen = p == rate
        assert abs(won[chosen].mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / chosen.sum())
    tied = (p != 0.85) & (p != 0.15)
    assert abs((won[tied] - p[tied]).mean()) < 4 * 0.5 / np.sqrt(tied.sum())
    uniform = judge.uniform(calls)
    assert uniform.min() >= 0 and uniform.max() < 1
    assert np.abs(np.histogram(uniform, 10, (0, 1))[0] / len(uniform) - 0.1).max() < 0.01


def test_a_draw_depends_on_its_pair_seed_and_judge_alone():
    evidence = made_evidence(6, 20)
    calls = all_ordered(evidence)
    judge = Simulated(SimulatedJudge(), evidence, CONFIG, 0)
    whole = judge.uniform(calls)
    np.testing.assert_array_equal(judge.uniform(calls[::-1])[::-1], whole)
    np.testing.assert_array_equal(judge.uniform(calls[100:200]), whole[100:200])
    assert not np.array_equal(Simulated(SimulatedJudge(), evidence, CONFIG, 1).uniform(calls), whole)
    assert not np.array_equal(Simulated(SimulatedJudge(name="other"), evidence, CONFIG, 0).uniform(calls), whole)
    assert pair_bytes("q", "1", "23") != pair_bytes("q", "12", "3")


def test_call_keys_follow_grades_rates_and_seed():
    evidence = made_evidence(3, 10)
    calls = all_ordered(evidence)
    before = call_keys(calls, Simulated(SimulatedJudge(), evidence, CONFIG, 0), evidence)
    assert len(set(before)) == len(before)
    bumped = evidence.qrels.with_columns(
        grade=pl.when(pl.col("query_id") == "q001").then(3 - pl.col("grade")).otherwise(pl.col("grade"))
    )
    regraded = JudgeEvidence(evidence.queries, evidence.corpus, evidence.pool, bumped)
    after = call_keys(calls, Simulated(SimulatedJudge(), regraded, CONFIG, 0), regraded)
    assert {query for query, a, b in zip(calls["query_id"], before, after, strict=True) if a != b} == {"q001"}
    for judge, seed in ((SimulatedJudge(error_rate=0.25), 0), (SimulatedJudge(), 1)):
        assert not set(before) & set(call_keys(calls, Simulated(judge, evidence, CONFIG, seed), evidence))


def test_ungraded_documents_count_as_grade_zero():
    evidence = made_evidence(1, 6)
    calls = all_ordered(evidence)
    zeros = evidence.pool.select("query_id", "doc_id").join(evidence.qrels, on=["query_id", "doc_id"], how="left")
    full = JudgeEvidence(evidence.queries, evidence.corpus, evidence.pool, zeros.with_columns(pl.col("grade").fill_null(0)))
    np.testing.assert_array_equal(
        Simulated(SimulatedJudge(), evidence, CONFIG, 0).probability(calls),
        Simulated(SimulatedJudge(), full, CONFIG, 0).probability(calls),
    )


@pytest.mark.parametrize("rows", [None, 0])
def test_without_grades_there_is_no_simulated_judge(rows: int | None):
    evidence = made_evidence(1, 5)
    qrels = None if rows is None else evidence.qrels[:0]
    with pytest.raises(InputError, match="the dataset has no qrels"):
        Simulated(SimulatedJudge(), JudgeEvidence(evidence.queries, evidence.corpus, evidence.pool, qrels), CONFIG, 0)
