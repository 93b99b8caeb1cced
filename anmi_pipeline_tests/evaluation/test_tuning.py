"""Tuning on simulated runs: what helps is found, what hurts is refused, the threshold keeps its promise."""

import json

import numpy as np
import polars as pl
import pytest

from anmi_pipeline.evaluation.config import EvaluationConfig, InferenceSettings, TuningConfig
from anmi_pipeline.evaluation.metrics import mean_metric
from anmi_pipeline.evaluation.thresholds import certified_threshold
from anmi_pipeline.evaluation.tuning import Cached, tuned_system, with_tail
from anmi_pipeline.retrieval.fusion import min_max, rrf
from anmi_pipeline.tables import QRELS, QUERIES, RUN, SCORES, TRIALS

CONFIG = EvaluationConfig(bootstrap_samples=300)
GRID = TuningConfig(lexical_weights=(0.3, 0.5), pool_sizes=(5, 10))
DOCUMENTS = [f"d{i:02d}" for i in range(40)]


def collection(rng, splits=("dev_select", "dev_final"), n=80, no_evidence=0):
    rows = [
        {"query_id": f"{split}{i:03d}", "text": "?", "split": split, "has_evidence": i >= no_evidence}
        for split in splits
        for i in range(n)
    ]
    queries = QUERIES.frame(rows)
    answerable = queries.filter("has_evidence")["query_id"].to_list()
    grades = [{"query_id": q, "doc_id": d, "grade": 1} for q in answerable for d in rng.choice(DOCUMENTS, 2, replace=False)]
    return queries, QRELS.frame(grades)


def noisy_run(queries, qrels, quality, rng):
    pairs = queries.select("query_id").join(pl.DataFrame({"doc_id": DOCUMENTS}), how="cross")
    graded = pairs.join(qrels, on=["query_id", "doc_id"], how="left").with_columns(pl.col("grade").fill_null(0))
    scored = graded.with_columns(score=quality * pl.col("grade") + pl.Series(rng.normal(size=graded.height)))
    return RUN.frame(
        scored.sort("query_id", "score", descending=[False, True]).with_columns(
            rank=pl.int_range(1, pl.len() + 1).over("query_id")
        )
    )


def seeded(run, seed=0):
    return SCORES.frame(run.with_columns(seed=pl.lit(seed)))


def test_fusion_of_two_independent_runs_is_found_and_confirmed(rng):
    queries, qrels = collection(rng)
    system, lexical = noisy_run(queries, qrels, 1.2, rng), noisy_run(queries, qrels, 1.2, rng)
    tuned = tuned_system(seeded(system), qrels, queries, CONFIG, GRID, lexical=lexical)
    TRIALS.validate(tuned.trials)
    SCORES.validate(tuned.scores)
    assert tuned.settings.fusion == "min_max"
    assert tuned.trials.height == 1 + 1 + 2
    assert tuned.trials["chosen"].sum() == 1
    assert tuned.confirmation is not None
    assert tuned.confirmation.low > 0
    final = queries.filter(pl.col("split") == "dev_final")
    assert mean_metric(tuned.scores, qrels, final, "nDCG@10") > mean_metric(system, qrels, final, "nDCG@10")
    assert "confirmed" in tuned.reason


def test_a_useless_lexical_run_leaves_the_fixed_settings(rng):
    queries, qrels = collection(rng)
    system, lexical = noisy_run(queries, qrels, 4.0, rng), noisy_run(queries, qrels, 0.0, rng)
    tuned = tuned_system(seeded(system), qrels, queries, CONFIG, GRID, lexical=lexical)
    assert tuned.settings == InferenceSettings()
    assert tuned.scores.equals(seeded(system))
    assert "the fixed settings are the best" in tuned.reason


def test_the_simplest_settings_win_ties(rng):
    queries, qrels = collection(rng)
    system = noisy_run(queries, qrels, 2.0, rng)
    tuned = tuned_system(seeded(system), qrels, queries, CONFIG, GRID, lexical=system)
    assert tuned.settings.fusion == "none"


def test_a_choice_that_fails_on_dev_final_is_taken_back(rng):
    queries, qrels = collection(rng)
    system = noisy_run(queries, qrels, 1.0, rng)
    select = queries.filter(pl.col("split") == "dev_select")
    final = queries.filter(pl.col("split") == "dev_final")
    lexical = RUN.frame(pl.concat([noisy_run(select, qrels, 5.0, rng), noisy_run(final, qrels, -3.0, rng)]))
    tuned = tuned_system(seeded(system), qrels, queries, CONFIG, GRID, lexical=lexical)
    assert tuned.settings.fusion == "none"
    assert tuned.trials.filter("chosen")["trial"].item() == 0
    assert "not confirmed" in tuned.reason


def test_a_smaller_pool_is_chosen_when_the_reranker_is_poor(rng):
    queries, qrels = collection(rng)
    first_stage, reranker = noisy_run(queries, qrels, 3.0, rng), noisy_run(queries, qrels, 0.8, rng)
    tuned = tuned_system(seeded(reranker), qrels, queries, CONFIG, GRID, pool=first_stage)
    assert tuned.settings.pool_size == 5
    assert tuned.scores.height == reranker.height  # nothing is lost: the rest follows in the pool's order
    query = reranker["query_id"][0]
    order = first_stage.filter(pl.col("query_id") == query)["doc_id"].to_list()
    ranked = tuned.scores.filter(pl.col("query_id") == query).sort("rank")
    assert set(ranked["doc_id"][:5]) == set(order[:5])
    assert ranked["doc_id"][5:].to_list() == order[5:]
    assert (ranked["score"].diff().drop_nulls() <= 0).all()


def test_the_tail_follows_the_list_and_adds_no_query():
    scored = RUN.frame({"query_id": ["q"] * 2, "doc_id": ["b", "a"], "rank": [1, 2], "score": [0.7, 0.2]})
    listing = RUN.frame(
        {
            "query_id": ["q"] * 4 + ["other"],
            "doc_id": ["a", "x", "b", "y", "z"],
            "rank": [1, 2, 3, 4, 1],
            "score": [4.0, 3.0, 2.0, 1.0, 1.0],
        }
    )
    joined = with_tail(scored, listing)
    RUN.validate(joined)
    assert joined["doc_id"].to_list() == ["b", "a", "x", "y"]
    assert joined["score"].to_list() == [0.7, 0.2, -0.8, -1.8]


def test_every_seed_gets_the_same_settings(rng):
    queries, qrels = collection(rng)
    runs = [seeded(noisy_run(queries, qrels, 1.2, rng), seed) for seed in (1, 2)]
    lexical = noisy_run(queries, qrels, 1.2, rng)
    tuned = tuned_system(pl.concat(runs), qrels, queries, CONFIG, GRID, lexical=lexical)
    weight = tuned.settings.lexical_weight
    for seed, run in zip((1, 2), runs, strict=True):
        expected = min_max([run.drop("seed"), lexical], [1 - weight, weight])
        assert tuned.scores.filter(pl.col("seed") == seed).select(expected.columns).equals(expected)


def test_settings_act_like_the_fusions_they_name(rng):
    queries, qrels = collection(rng, n=5)
    run, lexical = noisy_run(queries, qrels, 1.0, rng), noisy_run(queries, qrels, 1.0, rng)
    applied = Cached(seeded(run), lexical, None, 200).apply(InferenceSettings(fusion="rrf", rrf_k=10))
    assert applied.select(run.columns).equals(rrf([run, lexical], k=10))


def test_fusion_adds_no_query_that_the_system_does_not_answer(rng):
    queries, qrels = collection(rng, n=5)
    run, lexical = noisy_run(queries, qrels, 1.0, rng), noisy_run(queries, qrels, 1.0, rng)
    part = run.filter(pl.col("query_id") != "dev_select000")
    applied = Cached(seeded(part), lexical, None, 200).apply(InferenceSettings(fusion="rrf"))
    assert "dev_select000" not in applied["query_id"].to_list()


def test_without_dev_queries_the_settings_stay_with_the_reason(rng):
    queries, qrels = collection(rng, splits=("test",))
    system = noisy_run(queries, qrels, 1.0, rng)
    tuned = tuned_system(system, qrels, queries, CONFIG, GRID, lexical=system)
    assert tuned.trials.is_empty()
    assert tuned.settings == InferenceSettings()
    assert "no query with a relevant document to tune on" in tuned.reason
    assert tuned.scores.equals(seeded(system))


def test_without_dev_final_labels_the_choice_says_that_nothing_confirmed_it(rng):
    queries, qrels = collection(rng, splits=("dev_select",))
    system, lexical = noisy_run(queries, qrels, 1.2, rng), noisy_run(queries, qrels, 1.2, rng)
    tuned = tuned_system(seeded(system), qrels, queries, CONFIG, GRID, lexical=lexical)
    assert tuned.settings.fusion == "min_max"
    assert tuned.confirmation is None
    assert "not confirmed, because dev_final has no query" in tuned.reason


def test_no_scores_give_no_tuned_scores(rng):
    queries, qrels = collection(rng, n=5)
    tuned = tuned_system(SCORES.frame(), qrels, queries, CONFIG, GRID)
    assert tuned.scores.is_empty()
    assert tuned.settings == InferenceSettings()


def test_tuning_never_reads_the_test_split(rng):
    queries, qrels = collection(rng, splits=("dev_select", "dev_final", "test"))
    system, lexical = noisy_run(queries, qrels, 1.2, rng), noisy_run(queries, qrels, 1.2, rng)
    hidden = qrels.filter(~pl.col("query_id").str.starts_with("test"))
    full, blind = (tuned_system(seeded(system), labels, queries, CONFIG, GRID, lexical=lexical) for labels in (qrels, hidden))
    assert full.trials.equals(blind.trials)
    assert full.settings == blind.settings
    assert full.scores.equals(blind.scores)


def test_a_threshold_silences_queries_without_evidence(rng):
    queries, qrels = collection(rng, n=120, no_evidence=60)
    system = noisy_run(queries, qrels, 6.0, rng)
    config = EvaluationConfig(bootstrap_samples=300, max_false_evidence=0.2, confidence=0.9)
    tuned = tuned_system(seeded(system), qrels, queries, config, GRID)
    assert tuned.settings.threshold is not None
    answered = tuned.scores["query_id"].unique()
    silent = queries.filter(~pl.col("has_evidence") & (pl.col("split") == "dev_final"))
    rate = silent["query_id"].is_in(answered.implode()).mean()
    assert rate <= 0.2
    assert "certifies false evidence <= 0.2 at confidence 0.9 on 60" in tuned.reason
    assert json.loads(tuned.trials.filter("chosen")["settings"].item())["threshold"] is None


@pytest.mark.parametrize(
    ("limit", "no_evidence", "reason"), [(None, 60, "is not set"), (0.2, 0, "no query without"), (0.05, 10, "too few")]
)
def test_no_threshold_says_why(rng, limit, no_evidence, reason):
    queries, qrels = collection(rng, n=80, no_evidence=no_evidence)
    config = EvaluationConfig(bootstrap_samples=100, max_false_evidence=limit)
    tuned = tuned_system(seeded(noisy_run(queries, qrels, 2.0, rng)), qrels, queries, config, GRID)
    assert tuned.settings.threshold is None
    assert reason in tuned.reason


def test_the_promise_holds_as_often_as_stated(rng):
    broken, found = 0, 0
    for _ in range(600):
        threshold = certified_threshold(rng.uniform(size=80), 0.1, 0.9)
        assert threshold is not None
        found += 1
        broken += 1 - threshold > 0.1  # true rate of uniform top scores above the threshold
    # at most 10 % may break it; 600 trials have a standard error of 1.2 points
    assert broken / found <= 0.13
    assert broken / found >= 0.01


def test_threshold_of_silent_and_tied_queries():
    assert certified_threshold(np.full(50, -np.inf), 0.1, 0.9) == 0.0
    tied = certified_threshold(np.full(50, 0.5), 0.1, 0.9)
    assert tied is not None
    assert tied > 0.5
    assert certified_threshold(np.zeros(3), 0.1, 0.9) is None
