"""Cross-encoders: one score per (query, document) pair read together.

Belongs here: loading a sequence-classification model with one output and scoring pairs in token-budget batches. Does not:
training (`training/cross_encoder_trainer.py`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from anmi_pipeline.errors import ArtifactError, InputError
from anmi_pipeline.progress import Progress, silent
from anmi_pipeline.retrieval.encoding import quiet_loading
from anmi_pipeline.retrieval.weights import pick_device, resolve_model

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class CrossEncoder:
    """A loaded cross-encoder.

    Attributes:
        model: sequence classification with one output.
        tokenizer: its tokenizer.
        max_tokens: tokens a pair is cut to, the longer text first.
        device: where it computes.
    """

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    max_tokens: int
    device: str

    def tokenize(self, pairs: Sequence[tuple[str, str]]) -> list[dict[str, list[int]]]:
        """Token rows of (query, document) pairs, without padding."""
        encoded = self.tokenizer([q for q, _ in pairs], [d for _, d in pairs], truncation=True, max_length=self.max_tokens)
        return [{name: encoded[name][row] for name in encoded} for row in range(len(pairs))]

    def forward(self, rows: Sequence[Mapping[str, list[int]]]) -> "Tensor":
        """Logits of tokenised pairs, with a graph when gradients are on.

        Returns:
            (n,) float32.
        """
        padded: Any = self.tokenizer.pad([dict(row) for row in rows], return_tensors="pt")
        return self.model(**{name: value.to(self.device) for name, value in padded.items()}).logits[:, 0].float()

    def score(
        self, pairs: Sequence[tuple[str, str]], batch_tokens: int = 8192, progress: Progress = silent
    ) -> NDArray[np.float32]:
        """Score pairs, longest first, as many at a time as fit into a budget of padded tokens.

        Args:
            pairs: (query, document) texts.
            batch_tokens: padded tokens per batch, one pair at least.
            progress: told after every batch.

        Returns:
            (n,) logits in the order of `pairs`.

        Raises:
            ArtifactError: a score is not finite.
        """
        import torch

        rows = self.tokenize(pairs) if pairs else []
        scores = np.zeros(len(rows), dtype=np.float32)
        done = 0
        self.model.eval()
        with torch.inference_mode():
            for members in budget_batches([len(row["input_ids"]) for row in rows], batch_tokens):
                scores[members] = self.forward([rows[member] for member in members]).cpu().numpy()
                done += len(members)
                progress(done, len(rows), "pairs")
        if not np.isfinite(scores).all():
            raise ArtifactError(
                f"{type(self.model).__name__} gave scores that are not finite. Train it again with a lower learning rate."
            )
        return scores

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), configuration and tokenizer into a folder."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def budget_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[NDArray[np.int64]]:
    """Cut pairs, sorted by length, into batches whose padded size stays within the budget (one pair at least), longest first."""
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    start = 0
    while start < len(order):
        # The first of a batch is its longest, so it decides the padded length.
        size = max(1, batch_tokens // max(1, lengths[order[start]]))
        yield order[start : start + size]
        start += size


def load_cross_encoder(name: str, max_tokens: int, revision: str | None = None, seed: int = 0) -> CrossEncoder:
    """Load a cross-encoder, or put a new scoring layer on an encoder.

    Args:
        name: embedded model, local folder or Hugging Face id.
        max_tokens: tokens a pair is cut to.
        revision: commit of a Hugging Face id.
        seed: seed of a scoring layer that the weights do not hold.

    Raises:
        InputError: it cannot be loaded.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    place = resolve_model(name, revision)
    local = Path(place).is_dir()
    options: dict[str, Any] = {"revision": None if local else revision, "trust_remote_code": False}
    options = {key: value for key, value in options.items() if value is not None}
    torch.manual_seed(seed)
    try:
        with quiet_loading():
            tokenizer = AutoTokenizer.from_pretrained(place, **options)
            model = AutoModelForSequenceClassification.from_pretrained(place, num_labels=1, use_safetensors=True, **options)
    except (OSError, ValueError) as error:
        raise InputError(
            f'cross-encoder "{name}" cannot be loaded from {place}: {error} Check the name, or give a local folder.'
        ) from error
    limit = getattr(model.config, "max_position_embeddings", None)
    if isinstance(limit, int) and max_tokens > limit:
        raise InputError(f'max_tokens is {max_tokens}, but model "{name}" reads at most {limit}. Lower max_tokens.')
    device = pick_device()
    return CrossEncoder(model.to(device).eval(), tokenizer, max_tokens, device)


def score_pools(
    encoder: CrossEncoder,
    pool: pl.DataFrame,
    query_texts: Mapping[str, str],
    document_texts: Mapping[str, str],
    batch_tokens: int = 8192,
    progress: Progress = silent,
) -> pl.DataFrame:
    """Score every (query, document) of some pools.

    Returns:
        query_id, doc_id, rank (1 = best, ties by document id) and score (logit).
    """
    keys = pool.select("query_id", "doc_id").sort("query_id", "doc_id")
    pairs = [(query_texts[query], document_texts[document]) for query, document in keys.iter_rows()]
    score = pl.Series("score", encoder.score(pairs, batch_tokens, progress).astype(np.float64), dtype=pl.Float64)
    ordered = keys.with_columns(score).sort("query_id", "score", "doc_id", descending=[False, True, False])
    return ordered.select("query_id", "doc_id", pl.int_range(1, pl.len() + 1).over("query_id").alias("rank"), "score")
