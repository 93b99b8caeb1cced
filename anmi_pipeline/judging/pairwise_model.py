"""The pairwise model: P(A is more relevant than B) from a cross-encoder that reads the query and both documents together.

Belongs here: the score of one order, both orders of a pair, probabilities, the model's folder. Does not: how three texts become a
row of tokens (`pairwise_rows.py`), training (`pairwise_training.py`), the judge that answers from it (`distilled.py`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from anmi_pipeline.errors import ArtifactError, InputError
from anmi_pipeline.judging.pairwise_rows import Layout, Pair, PairTexts, Row, read_layout, tokenise
from anmi_pipeline.progress import Progress, silent
from anmi_pipeline.rating.graphs import Floats
from anmi_pipeline.reranking.cross_encoder import CrossEncoder, load_cross_encoder
from anmi_pipeline.retrieval.encoding import LENGTH_STEP, token_batches

if TYPE_CHECKING:
    from torch import Tensor

KIND = "pairwise"
SETTINGS = "settings.json"
WEIGHTS = "encoder"
DECIMALS = 6
"""Decimals of a probability: the last bits of a sum depend on the machine, and a verdict should not."""
BATCH_TOKENS = 8192


@dataclass(frozen=True)
class PairwiseModel:
    """A loaded pairwise model.

    Equation: f(q, A, B) = s(q, A, B) + c * (cos(q, A) - cos(q, B)), s the scoring layer's output, cos between the mean vectors of
    the texts' tokens in the last layer, all three read together. logit(A, B) = (f(q, A, B) - f(q, B, A)) / 2 and
    P = 1 / (1 + exp(-logit / T)), so P(A, B) + P(B, A) = 1 whatever the weights: the order of the texts cannot matter.
    The cosines let a sentence encoder start from what its vectors know; a new scoring layer knows nothing.

    Attributes:
        encoder: the cross-encoder; its `max_tokens` is the longest row.
        layout: tokens around the texts.
        query_tokens: a query is cut to so many tokens.
        similarity: c, a scalar tensor; trained with the weights.
        temperature: T.
        precision: what it computes in.
    """

    encoder: CrossEncoder
    layout: Layout
    query_tokens: int
    similarity: "Tensor"
    temperature: float = 1.0
    precision: Literal["float32", "bfloat16"] = "float32"

    @property
    def document_tokens(self) -> int:
        """Tokens that a document is cut to: both get the same share, or the shown order would decide what is read."""
        return (self.encoder.max_tokens - self.layout.tokens - self.query_tokens) // 2

    def read_texts(self, queries: Mapping[str, str], documents: Mapping[str, str]) -> PairTexts:
        """Tokenise texts by id, each cut to its share of a row."""
        tokenizer = self.encoder.tokenizer
        return PairTexts(tokenise(tokenizer, queries, self.query_tokens), tokenise(tokenizer, documents, self.document_tokens))

    def forward(self, texts: PairTexts, pairs: Sequence[Pair], length: int | None = None) -> "Tensor":
        """(n,) antisymmetric logits, with a graph when gradients are on; rows are padded to `length`, or to the longest."""
        import torch

        given = [texts.of(pair) for pair in pairs]
        rows = [self.layout.row(*own) for own in given] + [self.layout.row(q, b, a) for q, a, b in given]
        with torch.autocast(self.encoder.device, torch.bfloat16, enabled=self.precision == "bfloat16"):
            score = self.score(rows, length)
        return (score[: len(given)] - score[len(given) :]) / 2

    def score(self, rows: Sequence[Row], length: int | None) -> "Tensor":
        """(n,) f of rows."""
        import torch
        from torch.nn.functional import normalize

        tokenizer, device = self.encoder.tokenizer, self.encoder.device
        padding: Any = {"padding": "max_length", "max_length": length} if length else {"padding": True}
        padded: Any = tokenizer.pad([dict(row.features) for row in rows], return_tensors="pt", **padding)
        values = {name: value.to(device) for name, value in padded.items()}
        found: Any = self.encoder.model(**values, output_hidden_states=True)
        width = int(padded["input_ids"].shape[1])
        inside = torch.zeros(len(rows), 3, width)
        for number, row in enumerate(rows):
            skipped = width - len(row.features["input_ids"]) if tokenizer.padding_side == "left" else 0
            for part, (begin, end) in enumerate(row.spans):
                inside[number, part, skipped + begin : skipped + end] = 1.0
        # Sums and not means: a cosine does not see the length, and an empty text gives 0 and not NaN.
        vectors = normalize(torch.bmm(inside.to(device), found.hidden_states[-1].float()), dim=-1)
        cosine = (vectors[:, 0] * (vectors[:, 1] - vectors[:, 2])).sum(dim=-1)
        return found.logits[:, 0].float() + self.similarity * cosine

    def logits(
        self, texts: PairTexts, pairs: Sequence[Pair], batch_tokens: int = BATCH_TOKENS, progress: Progress = silent
    ) -> Floats:
        """Score pairs, both orders in one batch; a logit depends on its own texts alone.

        Args:
            texts: what `read_texts` gave.
            pairs: query, first and second document.
            batch_tokens: padded tokens per batch.
            progress: told the pairs done.

        Returns:
            (n,) antisymmetric logits before the temperature.

        Raises:
            ArtifactError: a score is not finite.
        """
        import torch

        # Lengths are rounded up by the pair alone, so that the other pairs of a batch cannot change its padding.
        sizes = [self.layout.tokens + texts.length(pair) for pair in pairs]
        lengths = [min(-(-size // LENGTH_STEP) * LENGTH_STEP, self.encoder.max_tokens) for size in sizes]
        found, done = np.zeros(len(pairs)), 0
        self.encoder.model.eval()
        with torch.inference_mode():
            for members in token_batches(lengths, max(batch_tokens // 2, 1)):
                batch = [pairs[member] for member in members]
                found[members] = self.forward(texts, batch, lengths[members[0]]).cpu().numpy()
                done += len(members)
                progress(done, len(pairs), "pairs")
        if not np.isfinite(found).all():
            raise ArtifactError("the pairwise model gave scores that are not finite. Train it again with a lower learning rate.")
        return found

    def probabilities(self, logits: Floats) -> Floats:
        """(n,) P(the first document is more relevant)."""
        from scipy.special import expit

        return np.round(np.asarray(expit(logits / self.temperature), dtype=np.float64), DECIMALS)

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), tokenizer and settings into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        self.encoder.save(folder / WEIGHTS)
        settings = {
            "kind": KIND,
            "max_tokens": self.encoder.max_tokens,
            "query_tokens": self.query_tokens,
            "similarity": float(self.similarity.detach()),
            "temperature": self.temperature,
            "precision": self.precision,
        }
        (folder / SETTINGS).write_text(json.dumps(settings, sort_keys=True) + "\n", encoding="utf-8")


def new_pairwise_model(
    name: str,
    max_tokens: int,
    query_tokens: int,
    *,
    revision: str | None = None,
    seed: int = 0,
    similarity: float = 20.0,
    precision: Literal["float32", "bfloat16"] = "float32",
) -> PairwiseModel:
    """Put a new scoring layer on an encoder.

    Args:
        name: embedded model, local folder or Hugging Face id.
        max_tokens: tokens of a whole row.
        query_tokens: tokens of them that a query may take.
        revision: commit of a Hugging Face id.
        seed: seed of the scoring layer.
        similarity: factor of the cosines at the start.
        precision: what it computes in.

    Raises:
        InputError: it cannot be loaded, or a row has no room for two documents.
    """
    import torch

    encoder = load_cross_encoder(name, max_tokens, revision, seed)
    factor = torch.tensor(float(similarity), device=encoder.device)
    model = PairwiseModel(encoder, read_layout(encoder.tokenizer), query_tokens, factor, precision=precision)
    if model.document_tokens < 1:
        raise InputError(
            f"max_tokens is {max_tokens} and query_tokens {query_tokens}: no token is left for a document. Raise max_tokens."
        )
    return model


def load_pairwise_model(folder: Path) -> PairwiseModel:
    """Load what `PairwiseModel.save` wrote.

    Raises:
        ArtifactError: the folder holds no pairwise model.
    """
    import torch

    file = folder / SETTINGS
    try:
        settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if settings["kind"] != KIND:
            raise ValueError(f'it is of kind "{settings["kind"]}"')
        encoder = load_cross_encoder(str(folder / WEIGHTS), int(settings["max_tokens"]))
        return PairwiseModel(
            encoder=encoder,
            layout=read_layout(encoder.tokenizer),
            query_tokens=int(settings["query_tokens"]),
            similarity=torch.tensor(float(settings["similarity"]), device=encoder.device),
            temperature=float(settings["temperature"]),
            precision=settings["precision"],
        )
    except (OSError, ValueError, KeyError, InputError) as error:
        raise ArtifactError(
            f"{folder} holds no pairwise model that can be read: {error} Materialize pairwise_judge again."
        ) from error
