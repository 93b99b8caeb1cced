"""Encoders trained on text: every regime, exact chunking, bit-exact resume, checkpoints."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from anmi_pipeline.errors import ArtifactError, InputError
from anmi_pipeline.mining.curriculum import TrainingLists
from anmi_pipeline.retrieval.config import EncoderConfig
from anmi_pipeline.retrieval.encoding import Encoder, load_encoder
from anmi_pipeline.training.checkpoints import load_retriever
from anmi_pipeline.training.config import HybridLoss, TrainingConfig
from anmi_pipeline.training.encoder_retriever import train_encoder
from anmi_pipeline.training.loop import Watch
from anmi_pipeline.training.report import Metrics
from anmi_pipeline.training.transformer_layers import layer_stack

CONFIG = TrainingConfig(
    trainable="all", loss=HybridLoss(), steps=6, batch_queries=4, list_size=4, learning_rate=1e-3, save_every=2, max_tokens=16
)


@pytest.fixture
def load(tiny_bert: Path) -> Callable[[], Encoder]:
    return lambda: load_encoder(EncoderConfig(model=str(tiny_bert), max_tokens=16, precision="float32"), "cpu")


def weights(encoder: Encoder) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in encoder.model.named_parameters()}


def saved(folder: Path) -> bytes:
    return (folder / "encoder" / "model.safetensors").read_bytes() + (folder / "head.safetensors").read_bytes()


class KilledError(Exception):
    pass


def kill_at(step: int) -> Watch:
    def on_metrics(metrics: Metrics) -> None:
        if metrics["step"] == step:
            raise KilledError

    return Watch(on_metrics=on_metrics)


@pytest.mark.parametrize("trainable", ["top_layers", "all", "lora"])
def test_each_regime_moves_only_its_weights(load, small_lists: TrainingLists, texts, tmp_path: Path, trainable: str):
    encoder = load()
    before = weights(encoder)
    config = CONFIG.model_copy(update={"trainable": trainable, "layers": 1})
    train_encoder(small_lists, texts, encoder, config, 0, tmp_path)
    after = weights(encoder)
    assert set(after) == set(before)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    if trainable == "lora":
        assert moved == {name for name in before if ("query.weight" in name or "value.weight" in name)}
    if trainable == "top_layers":
        assert moved
        assert all(".layer.1." in name or "pooler" in name for name in moved)
    if trainable == "all":
        assert any("embeddings" in name for name in moved)


@pytest.mark.parametrize("trainable", ["top_layers", "all", "lora"])
@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_killed_run_resumes_to_the_same_bytes(load, small_lists, texts, tmp_path: Path, trainable: str, step: int):
    config = CONFIG.model_copy(update={"trainable": trainable, "layers": 1})
    whole = train_encoder(small_lists, texts, load(), config, 0, tmp_path / "whole")
    state = tmp_path / "state"
    with pytest.raises(KilledError):
        train_encoder(small_lists, texts, load(), config, 0, tmp_path / "killed", kill_at(step), state)
    resumed = train_encoder(small_lists, texts, load(), config, 0, tmp_path / "killed", None, state)
    assert resumed.resumed_at == (step - 1) // 2 * 2
    assert saved(tmp_path / "whole") == saved(tmp_path / "killed")
    assert resumed.metrics == whole.metrics
    assert not state.exists()


def test_state_of_another_training_is_refused(load, small_lists, texts, tmp_path: Path):
    with pytest.raises(KilledError):
        train_encoder(small_lists, texts, load(), CONFIG, 0, tmp_path / "a", kill_at(4), tmp_path / "state")
    with pytest.raises(ArtifactError, match="is the state of another training"):
        train_encoder(small_lists, texts, load(), CONFIG, 1, tmp_path / "b", None, tmp_path / "state")


def test_gradient_is_exact_whatever_the_chunk(load, small_lists, texts, tmp_path: Path):
    # Dropout belongs to a chunk, so it is off here.
    found = []
    for size in (3, 500):
        encoder = load()
        for module in encoder.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        config = CONFIG.model_copy(update={"chunk_texts": size, "steps": 1})
        report = train_encoder(small_lists, texts, encoder, config, 0, tmp_path / str(size))
        found.append((report.metrics[0]["loss"], report.metrics[0]["grad_norm"]))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_training_lowers_the_loss(load, small_lists, texts, tmp_path: Path):
    config = CONFIG.model_copy(update={"steps": 40, "batch_queries": 12, "learning_rate": 3e-3})
    report = train_encoder(small_lists, texts, load(), config, 0, tmp_path)
    losses = [m["mse"] for m in report.metrics]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_checkpoint_embeds_what_the_trained_model_embeds(load, small_lists, texts, tmp_path: Path):
    encoder = load()
    train_encoder(small_lists, texts, encoder, CONFIG, 0, tmp_path)
    some = list(texts["document"].values())[:5]
    retriever = load_retriever(tmp_path, load())
    assert retriever.embed(some, "document").tobytes() == encoder.encode(some, "document").tobytes()


def test_a_missing_text_is_named(load, small_lists, texts, tmp_path: Path):
    fewer = {"query": {k: v for k, v in texts["query"].items() if k != "q3"}, "document": texts["document"]}
    with pytest.raises(InputError, match=r"1 query text\(s\) of the training set are absent, first q3"):
        train_encoder(small_lists, fewer, load(), CONFIG, 0, tmp_path)


def test_more_layers_than_there_are_is_refused(load, small_lists, texts, tmp_path: Path):
    with pytest.raises(InputError, match="layers is 3, but SentenceTransformer has 2 transformer layers"):
        train_encoder(small_lists, texts, load(), CONFIG.model_copy(update={"trainable": "top_layers", "layers": 3}), 0, tmp_path)


def test_adapter_names_that_fit_nothing_are_refused(load, small_lists, texts, tmp_path: Path):
    config = CONFIG.model_copy(update={"trainable": "lora", "lora_modules": ("q_proj",)})
    with pytest.raises(InputError, match="is called q_proj; it has"):
        train_encoder(small_lists, texts, load(), config, 0, tmp_path)


def test_the_stack_of_layers_is_found(load):
    name, depth = layer_stack(load().model)
    assert name.endswith("encoder.layer")
    assert depth == 2
    with pytest.raises(InputError, match="no stack of transformer layers"):
        layer_stack(torch.nn.Linear(2, 2))
