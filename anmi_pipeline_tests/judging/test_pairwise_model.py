"""The pairwise model: antisymmetric, blind to the batch and to control tokens in texts, the same after a reload."""

import json
from pathlib import Path

import numpy as np
import pytest

from anmi_pipeline.errors import ArtifactError, InputError
from anmi_pipeline.judging.pairwise_model import PairwiseModel, load_pairwise_model, new_pairwise_model
from anmi_pipeline.judging.pairwise_rows import Pair, PairTexts, place
from anmi_pipeline_tests.judging.tiny_models import made_texts, tiny_encoder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PairwiseModel:
    return new_pairwise_model(str(tiny_encoder(tmp_path_factory.mktemp("tiny"))), 32, 4, similarity=3.0)


@pytest.fixture(scope="module")
def texts(model: PairwiseModel) -> PairTexts:
    return model.read_texts(*made_texts(4, 20))


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    draw = np.random.default_rng(3)
    return [(f"q{draw.integers(4):02d}", *(f"d{n:02d}" for n in draw.choice(20, 2, replace=False))) for _ in range(40)]


def test_both_orders_of_a_pair_are_one_verdict(model: PairwiseModel, texts: PairTexts, pairs: list[Pair]) -> None:
    given = model.logits(texts, pairs)
    other = model.logits(texts, [(query, b, a) for query, a, b in pairs])
    assert np.abs(given).max() > 0.01
    np.testing.assert_allclose(given, -other, atol=1e-6)
    np.testing.assert_allclose(model.probabilities(given) + model.probabilities(other), 1.0, atol=2e-6)


def test_a_logit_does_not_depend_on_the_other_pairs(model: PairwiseModel, texts: PairTexts, pairs: list[Pair]) -> None:
    together = model.logits(texts, pairs)
    alone = np.concatenate([model.logits(texts, [pair]) for pair in pairs])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(together, model.logits(texts, pairs, batch_tokens=64), atol=1e-6)


def test_a_document_and_itself_are_even(model: PairwiseModel, texts: PairTexts) -> None:
    assert abs(model.logits(texts, [("q00", "d03", "d03")])[0]) < 1e-6


def test_control_tokens_in_a_document_do_not_reach_the_model(model: PairwiseModel) -> None:
    plain = model.read_texts({"q": "ba"}, {"d": "ba be bi"})
    written = model.read_texts({"q": "ba"}, {"d": "ba [SEP] be [CLS] bi [PAD]"})
    assert plain.documents["d"] == written.documents["d"]


def test_documents_are_cut_to_equal_shares_and_a_row_fits(model: PairwiseModel) -> None:
    texts = model.read_texts({"q": "ba " * 50}, {"a": "be " * 50, "b": "bi"})
    assert len(texts.queries["q"]) == 4
    assert len(texts.documents["a"]) == model.document_tokens == (32 - 4 - 4) // 2
    row = model.layout.row(*texts.of(("q", "a", "b")))
    assert len(row.features["input_ids"]) <= 32
    begin, end = row.spans[1]
    assert row.features["input_ids"][begin:end] == texts.documents["a"]
    assert set(row.features["token_type_ids"][: row.spans[2][0]]) == {0}


def test_an_empty_text_is_scored(model: PairwiseModel) -> None:
    texts = model.read_texts({"q": ""}, {"a": "", "b": "ba be"})
    assert np.isfinite(model.logits(texts, [("q", "a", "b"), ("q", "a", "a")])).all()


def test_saved_and_loaded_it_says_the_same(model: PairwiseModel, texts: PairTexts, pairs: list[Pair], tmp_path: Path) -> None:
    model.save(tmp_path)
    again = load_pairwise_model(tmp_path)
    assert again.logits(texts, pairs).tobytes() == model.logits(texts, pairs).tobytes()
    assert list(tmp_path.rglob("*.safetensors"))
    assert not list(tmp_path.rglob("*.bin"))


def test_what_is_no_pairwise_model_is_refused(model: PairwiseModel, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no pairwise model"):
        load_pairwise_model(tmp_path)
    (tmp_path / "settings.json").write_text(json.dumps({"kind": "map"}))
    with pytest.raises(ArtifactError, match='kind "map"'):
        load_pairwise_model(tmp_path)


def test_a_row_without_room_for_documents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no token is left for a document"):
        new_pairwise_model(str(tiny_encoder(tmp_path)), 16, 12)


def test_place() -> None:
    assert place([1, 2, 3, 2, 3], [2, 3], 2) == 3
    assert place([1, 2], [3], 0) == -1
