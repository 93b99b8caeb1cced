import asyncio

import numpy as np
import polars as pl
import pytest
from scipy.stats import norm

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.call_keys import call_keys
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.ensemble import Ensemble, document_scores, name_overlap, stems
from anmi_pipeline.judging.evidence import judged_pool, pool_documents, within_query_z
from anmi_pipeline.judging.judge_configs import EnsembleJudge, EnsembleWeights
from anmi_pipeline.judging.judges import JudgeEvidence
from anmi_pipeline.judging.plan import plan_comparisons
from anmi_pipeline.judging.verdicts import VERDICTS, checked
from anmi_pipeline.tables import CORPUS, POOL, QUERIES


def answers(judge: Ensemble, calls: pl.DataFrame) -> pl.DataFrame:
    async def gather() -> pl.DataFrame:
        return pl.concat([part async for part in judge.answer(calls)])

    return asyncio.run(gather())


def with_keys(judge: Ensemble, plan: pl.DataFrame, evidence: JudgeEvidence) -> pl.DataFrame:
    return plan.with_columns(call_key=pl.Series(call_keys(plan, judge, evidence)))


def small() -> JudgeEvidence:
    queries = QUERIES.frame({"query_id": ["q"], "text": ["open a gzip file"], "split": ["train"], "source_ids": [["b"]]})
    corpus = CORPUS.frame({
        "doc_id": ["a", "b", "c"], "title": ["gzip.open", "builtins.open", "gzip.GzipFile"], "text": ["x", "y", "z"],
    })  # fmt: skip
    pool = POOL.frame({
        "query_id": ["q"] * 3, "doc_id": ["a", "b", "c"], "rrf_pool_rank": [1, 2, 3],
        "lexical_score": [3.0, 1.0, None], "dense_score": [0.5, 0.5, 0.5],
    })  # fmt: skip
    return JudgeEvidence(queries, corpus, pool)


CALLS = pl.DataFrame({
    "query_id": ["q", "q", "q"], "first_id": ["a", "b", "b"], "second_id": ["b", "a", "c"],
    "judge": ["ensemble"] * 3, "round": [1] * 3, "audit": [False] * 3,
})  # fmt: skip


def test_probability_is_phi_of_the_score_difference_by_hand():
    evidence, config = small(), JudgingConfig()
    judge = Ensemble(EnsembleJudge(weights=EnsembleWeights(lexical=0.5, dense=0.3, name=0.2), scale=2.0), evidence, config)
    # lexical: c is absent and counts as the minimum 1 -> 3, 1, 1; dense is flat -> 0; stems of the query: open, gzip, file.
    lexical = (np.array([3.0, 1.0, 1.0]) - 5 / 3) / np.std([3.0, 1.0, 1.0])
    name = np.array([2 / 3, 1 / 3, 2 / 3])
    name = (name - name.mean()) / name.std()
    score = 0.5 * lexical + 0.2 * name
    made = answers(judge, with_keys(judge, CALLS, evidence))
    assert dict(made.schema) == VERDICTS
    expected = norm.cdf([(score[0] - score[1]) / 2, (score[1] - score[0]) / 2, (score[1] - score[2]) / 2])
    np.testing.assert_allclose(made["p_first"], expected, atol=1e-12)
    assert set(made["provenance"]) == {"model"}
    checked(made, "ensemble")


def test_the_known_source_gets_its_bonus_and_is_called_so():
    evidence, config = small(), JudgingConfig()
    plain = document_scores(EnsembleJudge(), evidence, config)
    judge = Ensemble(EnsembleJudge(known_source_bonus=3.0), evidence, config)
    bonus = document_scores(EnsembleJudge(known_source_bonus=3.0), evidence, config)
    np.testing.assert_allclose(bonus["score"] - plain["score"], [0, 3, 0], atol=1e-12)
    calls = CALLS.vstack(CALLS[:1].with_columns(second_id=pl.lit("c")))
    made = answers(judge, with_keys(judge, calls, evidence))
    assert made["provenance"].to_list() == ["known_source", "known_source", "known_source", "model"]


def test_orders_are_antisymmetric_and_answers_repeat(evidence: JudgeEvidence, config: JudgingConfig):
    settings = EnsembleJudge()
    config = config.model_copy(update={"judges": (settings,), "audit_share": 1.0})
    plan, _ = plan_comparisons(pool_documents(evidence.pool, config), config, 0)
    judge = Ensemble(settings, evidence, config)
    made = plan.with_columns(answers(judge, with_keys(judge, plan, evidence))["p_first"])
    swapped = made.select("query_id", first_id="second_id", second_id="first_id", other="p_first")
    both = made.join(swapped, on=["query_id", "first_id", "second_id"])
    assert both.height == plan.height
    np.testing.assert_allclose(both["p_first"] + both["other"], 1.0, atol=1e-12)
    again = Ensemble(settings, evidence, config)
    assert call_keys(plan, judge, evidence) == call_keys(plan, again, evidence)


def test_call_keys_follow_the_evidence(evidence: JudgeEvidence, config: JudgingConfig, plan: pl.DataFrame):
    plan = plan.with_columns(judge=pl.lit("ensemble"))
    before = call_keys(plan, Ensemble(EnsembleJudge(), evidence, config), evidence)
    raised = evidence.pool.with_columns(
        dense_score=pl.when(pl.col("query_id") == "q000").then(pl.col("dense_score") ** 2).otherwise(pl.col("dense_score"))
    )
    moved = JudgeEvidence(evidence.queries, evidence.corpus, raised, evidence.qrels)
    after = call_keys(plan, Ensemble(EnsembleJudge(), moved, config), moved)
    changed = {query for query, a, b in zip(plan["query_id"], before, after, strict=True) if a != b}
    assert changed == {"q000"}
    other = call_keys(plan, Ensemble(EnsembleJudge(scale=2.0), evidence, config), evidence)
    assert not set(before) & set(other)


def test_names_are_split_into_words():
    assert stems("HTTPServer.serve_forever") == stems("http servers serve forever")
    assert stems("how do you") == frozenset(stems("how do you"))
    assert stems("how do you")
    assert stems("") == frozenset()


def test_overlap_without_words_is_zero():
    evidence = small()
    blank = JudgeEvidence(evidence.queries.with_columns(text=pl.lit("??")), evidence.corpus, evidence.pool)
    assert name_overlap(evidence.pool, blank).tolist() == [0, 0, 0]


def test_z_scores_of_flat_absent_and_single_values():
    queries = pl.Series(["a", "a", "b", "c", "c", "c"])
    z = within_query_z(queries, np.array([1.0, 3.0, 5.0, np.nan, np.nan, np.nan]))
    assert z.tolist() == [-1, 1, 0, 0, 0, 0]
    assert within_query_z(pl.Series([], dtype=pl.String), np.zeros(0)).tolist() == []
    assert within_query_z(pl.Series(["a"] * 3), np.array([0.1 + 0.2, 0.3, 0.3])).tolist() == [0, 0, 0]


def test_a_pair_outside_the_pool_is_an_error():
    evidence, config = small(), JudgingConfig(pool_size=2)
    judge = Ensemble(EnsembleJudge(), evidence, config)
    with pytest.raises(InputError, match="document c for query q, which is not in the judged pool"):
        call_keys(CALLS, judge, evidence)


def test_a_generator_that_was_not_built_is_an_error():
    with pytest.raises(InputError, match='no document of generator "sparse"'):
        judged_pool(small().pool, JudgingConfig(generator="sparse"))
