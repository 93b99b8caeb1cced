"""Small inputs that the training tests share."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from anmi_pipeline.mining.config import MiningConfig
from anmi_pipeline.mining.curriculum import TrainingLists, compile_lists
from anmi_pipeline.mining.selection import training_set
from anmi_pipeline.tables import ELO, POOL

WORDS = [f"{first}{second}" for first in "bcdfghklmn" for second in ("a", "e", "i", "o", "u")]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Two threads beside another busy process are far slower than one."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A randomly initialised two-layer BERT as a Hugging Face folder."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-bert")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    BertTokenizerFast(vocab={word: index for index, word in enumerate(vocabulary)}).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def texts() -> dict[str, dict[str, str]]:
    """Random texts of 12 queries and 40 documents."""
    draw = np.random.default_rng(1)

    def text(length: int) -> str:
        return " ".join(draw.choice(WORDS, size=length))

    return {
        "query": {f"q{i}": text(4) for i in range(12)},
        "document": {f"d{i:02}": text(int(draw.integers(3, 12))) for i in range(40)},
    }


@pytest.fixture(scope="session")
def small_set(texts: dict[str, dict[str, str]]) -> pl.DataFrame:
    """A training set in which each query judged 12 documents."""
    draw = np.random.default_rng(2)
    documents = sorted(texts["document"])
    rows = [
        {"query_id": q, "doc_id": str(d), "theta": 0.0, "elo": float(draw.normal(1500, 300)), "std_error": 100.0, "rank": 1,
         "n_comparisons": 8, "status": "converged"}
        for q in texts["query"]
        for d in draw.choice(documents, size=12, replace=False)
    ]  # fmt: skip
    return training_set(ELO.frame(rows), POOL.frame(), MiningConfig())


@pytest.fixture(scope="session")
def small_lists(small_set: pl.DataFrame) -> TrainingLists:
    """The same, compiled."""
    return compile_lists(small_set)


@pytest.fixture(scope="session")
def learnable() -> Callable[..., tuple[pl.DataFrame, list[str], np.ndarray, list[str], np.ndarray]]:
    """Vectors of which only the first 8 of 32 dimensions say what is relevant, with an Elo table that knows it."""

    def build(n_queries: int = 80, n_documents: int = 200, noise: float = 0.0):
        draw = np.random.default_rng(5)
        meaning_d, meaning_q = draw.normal(size=(n_documents, 8)), draw.normal(size=(n_queries, 8))
        documents = np.hstack([meaning_d, draw.normal(size=(n_documents, 24))]).astype(np.float32)
        queries = np.hstack([meaning_q, draw.normal(size=(n_queries, 24))]).astype(np.float32)
        truth = (meaning_q / np.linalg.norm(meaning_q, axis=1, keepdims=True)) @ (
            meaning_d / np.linalg.norm(meaning_d, axis=1, keepdims=True)
        ).T
        rows = [
            {"query_id": f"q{q:03}", "doc_id": f"d{d:03}", "theta": 0.0, "std_error": 100.0, "rank": 1, "n_comparisons": 8,
             "elo": 1500 + 700 * float(truth[q, d]) + noise * float(draw.normal()), "status": "converged"}
            for q in range(n_queries)
            for d in draw.choice(n_documents, size=40, replace=False)
        ]  # fmt: skip
        unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (documents, queries)]
        return ELO.frame(rows), [f"d{d:03}" for d in range(n_documents)], unit[0], [f"q{q:03}" for q in range(n_queries)], unit[1]

    return build
