"""Cross-encoder scoring: batches, order, limits."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anmi_pipeline.errors import ArtifactError, InputError
from anmi_pipeline.reranking.cross_encoder import budget_batches, load_cross_encoder
from anmi_pipeline_tests.training.conftest import one_thread, texts, tiny_bert

__all__ = ["one_thread", "texts", "tiny_bert"]


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 2000))
def test_batches_hold_every_pair_once_within_the_budget(lengths: list[int], budget: int):
    batches = list(budget_batches(lengths, budget))
    assert sorted(i for batch in batches for i in batch.tolist()) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget for batch in batches)
    longest = [max(lengths[i] for i in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)


def test_scores_do_not_depend_on_the_batches(tiny_bert: Path, texts):
    encoder = load_cross_encoder(str(tiny_bert), 32)
    pairs = [(q, d) for q in list(texts["query"].values())[:3] for d in texts["document"].values()]
    told: list[int] = []
    small = encoder.score(pairs, 40, lambda done, total, unit: told.append(done))
    large = encoder.score(pairs, 100_000)
    assert np.allclose(small, large, atol=1e-5)
    assert told[-1] == len(pairs)
    assert encoder.score([]).shape == (0,)


def test_a_new_scoring_layer_comes_from_the_seed(tiny_bert: Path):
    first, second, other = (load_cross_encoder(str(tiny_bert), 32, seed=seed).score([("ba be", "bi bo")]) for seed in (1, 1, 2))
    assert first == second != other


def test_what_does_not_fit_is_refused(tiny_bert: Path, tmp_path: Path):
    with pytest.raises(InputError, match="max_tokens is 900, but model"):
        load_cross_encoder(str(tiny_bert), 900)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_cross_encoder(str(tmp_path), 32)


def test_scores_that_are_not_finite_are_refused(tiny_bert: Path):
    import torch

    encoder = load_cross_encoder(str(tiny_bert), 32)
    with torch.no_grad():
        encoder.model.classifier.weight.fill_(float("nan"))
    with pytest.raises(ArtifactError, match="not finite"):
        encoder.score([("ba", "be")])
