"""The one entry: each kind reaches its trainer, and a missing input is named."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from anmi_pipeline.errors import ArtifactError, InputError
from anmi_pipeline.reranking.features import score_features
from anmi_pipeline.retrieval.config import EncoderConfig
from anmi_pipeline.retrieval.encoding import load_encoder
from anmi_pipeline.tables import POOL, TRAINING_SET
from anmi_pipeline.training.checkpoints import load_retriever, read_settings
from anmi_pipeline.training.config import CrossEncoderConfig, FeaturesConfig, HybridLoss, TrainingConfig
from anmi_pipeline.training.map_retriever import MapCheckpoint
from anmi_pipeline.training.trainers import Embedded, TrainingInputs, train_system


@pytest.fixture
def inputs(small_set: pl.DataFrame, texts, tiny_bert: Path) -> TrainingInputs:
    base = EncoderConfig(model=str(tiny_bert), max_tokens=16, precision="float32")
    encoder = load_encoder(base, "cpu")

    def embedded(kind: str) -> Embedded:
        return Embedded(list(texts[kind]), encoder.encode(list(texts[kind].values()), kind))

    pool = POOL.frame(small_set.select("query_id", "doc_id").with_columns(
        lexical_rank=pl.int_range(1, pl.len() + 1).over("query_id"),
        lexical_score=10.0 - pl.int_range(pl.len()).over("query_id"),
        dense_rank=pl.int_range(1, pl.len() + 1).over("query_id"),
        dense_score=(pl.col("doc_id").hash(0) % 100) / 100.0,
        rrf_pool_score=1.0 / pl.int_range(1, pl.len() + 1).over("query_id"),
    ))  # fmt: skip
    return TrainingInputs(small_set, pool, embedded("document"), embedded("query"), texts["document"], texts["query"], base)


TEXT = {"steps": 2, "batch_queries": 4, "list_size": 4, "max_tokens": 16}


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (TrainingConfig(loss=HybridLoss(), steps=3), "map"),
        (TrainingConfig(loss=HybridLoss(), trainable="top_layers", layers=1, **TEXT), "encoder"),
        (CrossEncoderConfig(**TEXT), "cross_encoder"),
        (FeaturesConfig(), "features"),
    ],
    ids=["map", "encoder", "cross_encoder", "features"],
)
def test_each_kind_writes_a_checkpoint_that_names_its_kind(inputs, tmp_path: Path, config, kind: str):
    report = train_system(inputs, config, 0, tmp_path / "a")
    assert json.loads((tmp_path / "a" / "settings.json").read_text())["kind"] == kind
    assert report.seconds > 0
    train_system(inputs, config, 0, tmp_path / "b")
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    assert not [f for f in files if f.suffix in {".bin", ".pt", ".pkl"}]


def test_a_map_is_loaded_and_needs_no_second_encoding(inputs, texts, tmp_path: Path):
    train_system(inputs, TrainingConfig(loss=HybridLoss(), steps=3), 0, tmp_path)
    base = load_encoder(inputs.encoder, "cpu")
    some = list(texts["query"].values())
    retriever = load_retriever(tmp_path, base)
    vectors = base.encode(some, "query")
    assert np.array_equal(retriever.embed(some, "query"), retriever.embed(some, "query", vectors))
    assert np.array_equal(retriever.embed(some, "query", vectors), MapCheckpoint.load(tmp_path).apply(vectors))


def test_features_score_from_their_folder(inputs, tmp_path: Path):
    report = train_system(inputs, FeaturesConfig(), 0, tmp_path)
    assert 0 <= report.facts["explained_variance"] < 1
    scored = score_features(tmp_path, inputs.pool)
    assert scored.height == inputs.pool.height


@pytest.mark.parametrize(
    ("config", "message"),
    [(FeaturesConfig(), "needs the candidate pool"), (TrainingConfig(), "needs the base encoder's vectors")],
)
def test_a_missing_input_is_named(small_set, tmp_path: Path, config, message: str):
    with pytest.raises(InputError, match=message):
        train_system(TrainingInputs(small_set), config, 0, tmp_path)


@pytest.mark.parametrize("config", [FeaturesConfig(), TrainingConfig(), CrossEncoderConfig()], ids=lambda c: c.kind)
def test_an_empty_training_set_is_refused_with_the_reason(inputs, tmp_path: Path, config):
    empty = TrainingInputs(TRAINING_SET.frame(), inputs.pool, inputs.documents, inputs.queries)
    with pytest.raises(InputError, match="no training query was judged"):
        train_system(empty, config, 0, tmp_path)


def test_a_folder_that_is_no_checkpoint_is_refused(inputs, tmp_path: Path):
    with pytest.raises(ArtifactError, match="is no checkpoint"):
        read_settings(tmp_path)
    train_system(inputs, FeaturesConfig(), 0, tmp_path)
    with pytest.raises(ArtifactError, match='kind "features", not a retriever'):
        load_retriever(tmp_path, load_encoder(inputs.encoder, "cpu"))
