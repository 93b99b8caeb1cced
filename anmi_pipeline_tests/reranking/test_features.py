"""Learned fusion: features, fit and scores."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from anmi_pipeline.errors import ArtifactError, InputError
from anmi_pipeline.mining.config import MiningConfig
from anmi_pipeline.mining.selection import training_set
from anmi_pipeline.reranking.features import FEATURES, FeatureModel, pool_features
from anmi_pipeline.tables import ELO, POOL
from anmi_pipeline.training.config import FeaturesConfig
from anmi_pipeline.training.feature_reranker import train_features


def random_pool(rng: np.random.Generator, n_queries: int = 30, n: int = 20) -> pl.DataFrame:
    rows = []
    for q in range(n_queries):
        lexical, dense = rng.normal(size=n), rng.normal(size=n)
        for d in range(n):
            found = rng.random() < 0.8
            rows.append({
                "query_id": f"q{q:02}", "doc_id": f"d{d:02}",
                "lexical_rank": int((lexical > lexical[d]).sum()) + 1 if found else None,
                "lexical_score": float(lexical[d]) if found else None,
                "dense_rank": int((dense > dense[d]).sum()) + 1, "dense_score": float(dense[d]),
                "rrf_pool_score": float(lexical[d] + dense[d]),
            })  # fmt: skip
    return POOL.frame(rows)


def test_features_are_centred_within_the_query(rng):
    pool = random_pool(rng)
    features = pool_features(pool)
    assert features.shape == (600, len(FEATURES))
    for query in pool["query_id"].unique():
        rows = (pool["query_id"] == query).to_numpy()
        assert np.allclose(features[rows].mean(axis=0), 0, atol=1e-12)


def test_a_document_that_a_run_lacks_takes_the_lowest_score():
    pool = POOL.frame([
        {"query_id": "q", "doc_id": d, "lexical_score": s, "lexical_rank": r, "dense_score": 0.5, "dense_rank": 1,
         "rrf_pool_score": 0.1}
        for d, s, r in [("a", 3.0, 1), ("b", 1.0, 2), ("c", None, None)]
    ])  # fmt: skip
    features = dict(zip(FEATURES, pool_features(pool).T, strict=True))
    assert features["lexical_z"][1] == features["lexical_z"][2] < features["lexical_z"][0]
    assert features["dense_z"].tolist() == [0, 0, 0]
    assert features["in_both"].tolist() == pytest.approx([1 / 3, 1 / 3, -2 / 3])


def elo_from(pool: pl.DataFrame, weights: np.ndarray, rng: np.random.Generator) -> pl.DataFrame:
    values = 1500 + pool_features(pool) @ weights + rng.normal(scale=5.0, size=pool.height)
    return ELO.frame(pool.select("query_id", "doc_id").with_columns(
        theta=pl.lit(0.0), elo=pl.Series(values), std_error=pl.lit(50.0), rank=pl.lit(1), n_comparisons=pl.lit(8),
        status=pl.lit("converged"),
    ))  # fmt: skip


def test_known_weights_are_recovered_and_survive_saving(rng, tmp_path: Path):
    pool = random_pool(rng)
    truth = np.array([80.0, 120.0, 0.0, 0.0, 30.0, 40.0])
    rows = training_set(elo_from(pool, truth, rng), pool, MiningConfig(miner="all"))
    model, report = train_features(rows, pool, FeaturesConfig(ridge=1e-6))
    assert np.allclose(pool_features(pool) @ model.weights, pool_features(pool) @ truth, atol=3.0)
    assert report.facts["explained_variance"] > 0.99
    model.save(tmp_path)
    assert FeatureModel.load(tmp_path).score(pool).equals(model.score(pool))


def test_constant_features_do_no_harm(rng):
    pool = random_pool(rng).with_columns(lexical_score=pl.lit(None, pl.Float64), lexical_rank=pl.lit(None, pl.Int64))
    rows = training_set(elo_from(pool, np.ones(6), rng), pool, MiningConfig(miner="all"))
    model, _ = train_features(rows, pool, FeaturesConfig(ridge=0.0))
    assert np.isfinite(model.weights).all()


def test_ranks_follow_scores_with_ties_by_document(rng):
    pool = random_pool(rng, 3)
    scored = FeatureModel(np.array([0.0, 1.0, 0.0, 0.0, 0.0, 0.0])).score(pool)
    best = pool.sort("query_id", "dense_score", descending=[False, True])["doc_id"]
    assert scored["doc_id"].to_list() == best.to_list()
    tied = FeatureModel(np.zeros(6)).score(pool)
    assert tied.filter(pl.col("query_id") == "q00")["doc_id"].to_list() == [f"d{i:02}" for i in range(20)]


def test_judged_documents_outside_the_pool_are_refused(rng):
    pool = random_pool(rng, 3)
    rows = training_set(elo_from(pool, np.ones(6), rng), pool, MiningConfig(miner="all"))
    with pytest.raises(InputError, match=r"1 judged document\(s\) are in no pool, first d00 of query q00"):
        train_features(rows, pool.slice(1), FeaturesConfig())


def test_a_model_of_other_features_is_refused(rng, tmp_path: Path):
    FeatureModel(np.zeros(6)).save(tmp_path)
    file = tmp_path / "settings.json"
    file.write_text(file.read_text().replace("in_both", "in_three"))
    with pytest.raises(ArtifactError, match="Materialize checkpoint again"):
        FeatureModel.load(tmp_path)
