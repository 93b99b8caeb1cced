"""Texts -> vectors with a bi-encoder.

Belongs here: loading an encoder and running it in token-budget batches. Does not: finding weights (`weights`), search (`dense`,
`ann`), training.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from anmi_pipeline.errors import ArtifactError, InputError
from anmi_pipeline.progress import Progress, silent
from anmi_pipeline.retrieval.config import EncoderConfig
from anmi_pipeline.retrieval.weights import Device, pick_device, resolve_model, resolve_precision

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Kind = Literal["query", "document"]
Vectors = npt.NDArray[np.float32]

LENGTH_STEP = 8
"""Padded lengths are multiples of this, decided by the text alone: see `Encoder.encode`."""
TOKENIZED_AT_ONCE = 512
PROMPT_NAMES: dict[Kind, tuple[str, ...]] = {"query": ("query",), "document": ("document", "passage", "corpus")}


@dataclass(frozen=True)
class Tokens:
    """One tokenised text: rows of equal length, without padding.

    Attributes:
        rows: feature name -> (n_tokens,) values; holds at least input_ids.
    """

    rows: dict[str, npt.NDArray[np.int32]]

    @property
    def padded_length(self) -> int:
        """Token count, rounded up to a multiple of LENGTH_STEP."""
        return -(-len(self.rows["input_ids"]) // LENGTH_STEP) * LENGTH_STEP


@dataclass(frozen=True)
class Encoder:
    """A loaded bi-encoder.

    Attributes:
        model: the sentence-transformers model, in evaluation mode.
        config: settings it was loaded with.
        device: where it computes.
        precision: what it computes in.
    """

    model: "SentenceTransformer"
    config: EncoderConfig
    device: Device
    precision: Literal["float32", "bfloat16"]

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        found = self.model.get_embedding_dimension()
        if found is None:
            raise InputError(f'model "{self.config.model}" does not say its vector length, so it is no bi-encoder.')
        return found

    def prompt(self, kind: Kind) -> str:
        """Text put before each text of this kind: the configured one, else the model's own, else nothing."""
        configured = self.config.query_prompt if kind == "query" else self.config.document_prompt
        own = (self.model.prompts.get(name) for name in PROMPT_NAMES[kind])
        return configured or next((prompt for prompt in own if prompt), "")

    def encode(self, texts: Sequence[str], kind: Kind, progress: Progress = silent) -> Vectors:
        """Embed texts.

        A vector depends on its own text alone, neither on the other texts nor on their order: equal texts are encoded once, and a
        batch holds texts of one padded length, which is decided by the text. Adding or editing a query therefore moves no other
        query's run. On one machine with one thread count, equal inputs give equal bytes.

        On a CPU the other rows of a batch leave no trace (measured with MiniLM in float32 and bfloat16). A GPU may take another
        kernel for another number of rows, so there every batch is filled to its full size.

        Args:
            texts: (n,) texts; cut to `max_tokens` tokens.
            kind: which prompt goes before them.
            progress: told after every batch.

        Returns:
            (n, dimension) float32, rows of length 1 when the configuration says normalize.

        Raises:
            ArtifactError: the model gave a number that is not finite.
        """
        unique = sorted(set(texts))
        tokens, shared = self._tokenize(unique, self.prompt(kind))
        vectors = np.zeros((len(unique), self.dimension), dtype=np.float32)
        done = 0
        for members in token_batches([token.padded_length for token in tokens], self.config.batch_tokens):
            vectors[members] = self._forward([tokens[member] for member in members], shared)
            done += len(members)
            progress(done, len(unique), "texts")
        if not np.isfinite(vectors).all():
            raise ArtifactError(
                f'model "{self.config.model}" gave vectors that are not finite in {self.precision}. Set precision: float32.'
            )
        place = {text: row for row, text in enumerate(unique)}
        return vectors[[place[text] for text in texts]]

    def _tokenize(self, texts: Sequence[str], prompt: str) -> tuple[list[Tokens], dict[str, Any]]:
        """Tokens of each text, and the features that all texts share (such as the prompt's length)."""
        found: list[Tokens] = []
        shared: dict[str, Any] = {}
        for start in range(0, len(texts), TOKENIZED_AT_ONCE):
            features = self.model.preprocess(list(texts[start : start + TOKENIZED_AT_ONCE]), prompt=prompt or None)
            mask = features["attention_mask"].numpy().astype(bool)
            tables = {name: value.numpy() for name, value in features.items() if getattr(value, "shape", None) == mask.shape}
            shared = {name: value for name, value in features.items() if name not in tables}
            found += [
                Tokens({name: table[row][mask[row]].astype(np.int32) for name, table in tables.items()})
                for row in range(len(mask))
            ]
        return found, shared

    def _forward(self, batch: Sequence[Tokens], shared: dict[str, Any]) -> Vectors:
        import torch

        tokenizer = self.model.tokenizer
        filled = [*batch, *[batch[0]] * (self._rows_to_fill(batch[0].padded_length) - len(batch))]
        rows = {name: [token.rows[name].tolist() for token in filled] for name in batch[0].rows}
        # The tokenizer pads, because decoders pad on the left.
        padded = tokenizer.pad(rows, padding="max_length", max_length=batch[0].padded_length, return_tensors="pt")
        features = {**shared, **{name: value.to(self.device) for name, value in padded.items()}}
        with torch.inference_mode(), torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bfloat16"):
            vectors = self.model(features)["sentence_embedding"].float()
        if self.config.normalize:
            vectors = torch.nn.functional.normalize(vectors, p=2, dim=1)
        return vectors[: len(batch)].cpu().numpy()

    def _rows_to_fill(self, length: int) -> int:
        return 0 if self.device == "cpu" else rows_per_batch(length, self.config.batch_tokens)


def rows_per_batch(length: int, batch_tokens: int) -> int:
    """Texts of one padded length that fit into a batch; one at least."""
    return max(1, batch_tokens // max(1, length))


def token_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[npt.NDArray[np.int64]]:
    """Cut texts into batches of one padded length and at most `batch_tokens` padded tokens (one text at least), longest first.

    Args:
        lengths: (n,) padded lengths.
        batch_tokens: padded tokens per batch.

    Yields:
        Positions in `lengths`; each position once.
    """
    array = np.asarray(lengths, dtype=np.int64)
    for length in np.unique(array)[::-1]:
        members = np.flatnonzero(array == length)
        size = rows_per_batch(int(length), batch_tokens)
        for start in range(0, len(members), size):
            yield members[start : start + size]


def load_encoder(config: EncoderConfig, device: Device | None = None) -> Encoder:
    """Load a bi-encoder: safetensors only, and no code from its repository.

    Args:
        config: which model and how it is run.
        device: None picks the fastest there is.

    Raises:
        InputError: no such model, or max_tokens beyond what it can read.
    """
    from sentence_transformers import SentenceTransformer

    place = resolve_model(config.model, config.revision)
    chosen = device or pick_device()
    try:
        with quiet_loading():
            model = SentenceTransformer(
                place,
                device=chosen,
                revision=config.revision if place == config.model else None,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
    except (OSError, ValueError) as error:
        raise InputError(
            f'model "{config.model}" cannot be loaded from {place}: {error} Check the name and the network, '
            "or give a local folder that holds it."
        ) from error
    limit = getattr(getattr(model[0], "config", None), "max_position_embeddings", None)
    if isinstance(limit, int) and config.max_tokens > limit:
        raise InputError(
            f'max_tokens is {config.max_tokens}, but model "{config.model}" reads at most {limit}. Lower max_tokens.'
        )
    model.max_seq_length = config.max_tokens
    return Encoder(model.eval(), config, chosen, resolve_precision(config.precision, chosen))


@contextmanager
def quiet_loading() -> Generator[None]:
    """Keep the weight-loading bar of transformers off the terminal."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
