"""Cross-encoder training: learns, resumes to the bit, is saved whole."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from anmi_pipeline.mining.curriculum import TrainingLists
from anmi_pipeline.reranking.cross_encoder import load_cross_encoder, score_pools
from anmi_pipeline.training.config import BceLoss, CrossEncoderConfig, ListwiseKlLoss, LossConfig, MseLoss
from anmi_pipeline.training.cross_encoder_trainer import train_cross_encoder
from anmi_pipeline.training.loop import Watch

CONFIG = CrossEncoderConfig(steps=6, batch_queries=4, list_size=4, save_every=2, max_tokens=32, learning_rate=1e-3)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("loss", [MseLoss(), BceLoss(), ListwiseKlLoss()], ids=lambda loss: loss.kind)
def test_training_lowers_the_loss(tiny_bert: Path, small_lists: TrainingLists, texts, tmp_path: Path, loss: LossConfig):
    encoder = load_cross_encoder(str(tiny_bert), 32)
    config = CONFIG.model_copy(update={"loss": loss, "steps": 60, "batch_queries": 12, "learning_rate": 3e-3})
    report = train_cross_encoder(small_lists, texts, encoder, config, 0, tmp_path)
    losses = [m["loss"] for m in report.metrics]
    assert np.mean(losses[-10:]) < np.mean(losses[:10])


@pytest.mark.parametrize("trainable", ["all", "top_layers", "lora"])
def test_a_killed_run_resumes_to_the_same_bytes(tiny_bert, small_lists, texts, tmp_path: Path, trainable: str):
    config = CONFIG.model_copy(update={"trainable": trainable, "layers": 1})

    def stop(metrics) -> None:
        if metrics["step"] == 5:
            raise KilledError

    def train(folder: str, watch: Watch | None, state: Path | None):
        return train_cross_encoder(
            small_lists, texts, load_cross_encoder(str(tiny_bert), 32), config, 0, tmp_path / folder, watch, state
        )

    train("whole", None, None)
    with pytest.raises(KilledError):
        train("killed", Watch(on_metrics=stop), tmp_path / "state")
    assert train("killed", None, tmp_path / "state").resumed_at == 4
    for file in ("encoder/model.safetensors", "head.safetensors"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "killed" / file).read_bytes()


def test_the_new_scoring_layer_learns_even_when_the_rest_is_frozen(tiny_bert, small_lists, texts, tmp_path: Path):
    encoder = load_cross_encoder(str(tiny_bert), 32)
    before = encoder.model.classifier.weight.detach().clone()
    train_cross_encoder(small_lists, texts, encoder, CONFIG.model_copy(update={"trainable": "lora"}), 0, tmp_path)
    assert not torch.equal(before, encoder.model.classifier.weight)


def test_saved_model_scores_the_same(tiny_bert, small_lists, texts, tmp_path: Path):
    encoder = load_cross_encoder(str(tiny_bert), 32)
    train_cross_encoder(small_lists, texts, encoder, CONFIG, 0, tmp_path)
    pool = pl.DataFrame({"query_id": ["q0", "q0", "q1"], "doc_id": ["d01", "d00", "d02"]})
    first = score_pools(encoder, pool, texts["query"], texts["document"])
    again = score_pools(load_cross_encoder(str(tmp_path / "encoder"), 32), pool, texts["query"], texts["document"])
    # Not to the bit: loaded weights lie elsewhere in memory, and the matrix product depends on their alignment.
    assert first["score"].to_list() == pytest.approx(again["score"].to_list(), abs=1e-6)
    assert first.filter(pl.col("query_id") == "q0")["rank"].to_list() == [1, 2]
