"""Random two-layer encoders as Hugging Face folders, and documents about made-up words."""

from pathlib import Path

import numpy as np

WORDS = [f"{first}{second}" for first in "bcdfghklmn" for second in ("a", "e", "i", "o", "u")]


def tiny_encoder(folder: Path, *, head: bool = False, seed: int = 0) -> Path:
    """Write a randomly initialised BERT; with `head`, one with a scoring layer."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizerFast

    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "first", "second", *WORDS]
    BertTokenizerFast(vocab={word: index for index, word in enumerate(vocabulary)}).save_pretrained(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=96,
        num_labels=1,
    )
    (BertForSequenceClassification if head else BertModel)(config).save_pretrained(folder)
    return folder


def made_texts(queries: int, documents: int, seed: int = 1) -> tuple[dict[str, str], dict[str, str]]:
    """Random texts of queries and documents by id."""
    draw = np.random.default_rng(seed)

    def text(length: int) -> str:
        return " ".join(draw.choice(WORDS, size=length))

    return (
        {f"q{number:02d}": text(3) for number in range(queries)},
        {f"d{number:02d}": text(int(draw.integers(3, 9))) for number in range(documents)},
    )
