"""Trained retrievers as the rest of the pipeline uses them.

Belongs here: reading a retriever's folder and embedding with it. Does not: rerankers (`reranking/`) and training.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from anmi_pipeline.errors import ArtifactError
from anmi_pipeline.progress import Progress, silent
from anmi_pipeline.retrieval.encoding import Encoder, Kind, load_encoder
from anmi_pipeline.training.map_retriever import MapCheckpoint


class Retriever(Protocol):
    """Anything that turns texts into vectors whose inner product ranks."""

    def embed(
        self, texts: Sequence[str], kind: Kind, base_vectors: NDArray[np.float32] | None = None, progress: Progress = silent
    ) -> NDArray[np.float32]:
        """Embed texts.

        Args:
            texts: (n,) texts.
            kind: query or document.
            base_vectors: (n, d) vectors of the same texts by the base encoder, when they are there already.
            progress: told while encoding.

        Returns:
            (n, d) float32.
        """
        ...


@dataclass(frozen=True)
class MapRetriever:
    """A map on the base encoder's vectors."""

    checkpoint: MapCheckpoint
    base: Encoder

    def embed(
        self, texts: Sequence[str], kind: Kind, base_vectors: NDArray[np.float32] | None = None, progress: Progress = silent
    ) -> NDArray[np.float32]:
        """Map the base vectors, encoding the texts first when there are none."""
        vectors = self.base.encode(texts, kind, progress) if base_vectors is None else base_vectors
        return self.checkpoint.apply(vectors)


@dataclass(frozen=True)
class EncoderRetriever:
    """An encoder trained on text."""

    encoder: Encoder

    def embed(
        self, texts: Sequence[str], kind: Kind, base_vectors: NDArray[np.float32] | None = None, progress: Progress = silent
    ) -> NDArray[np.float32]:
        """Encode the texts; the base encoder's vectors say nothing about this one's and are not used."""
        return self.encoder.encode(texts, kind, progress)


def read_settings(folder: Path) -> dict[str, Any]:
    """The `settings.json` of a checkpoint folder.

    Raises:
        ArtifactError: it is absent or not JSON.
    """
    file = folder / "settings.json"
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ArtifactError(
            f"{file} cannot be read ({error}), so this folder is no checkpoint. Materialize checkpoint again."
        ) from error


def load_retriever(folder: Path, base_encoder: Encoder) -> Retriever:
    """Load a trained retriever.

    Args:
        folder: what a trainer wrote.
        base_encoder: the encoder it was trained from; its prompts, tokens, precision and device are kept.

    Raises:
        ArtifactError: the folder holds no retriever.
    """
    kind = read_settings(folder).get("kind")
    if kind == "map":
        return MapRetriever(MapCheckpoint.load(folder), base_encoder)
    if kind == "encoder":
        config = base_encoder.config.model_copy(update={"model": str(folder / "encoder"), "revision": None})
        return EncoderRetriever(load_encoder(config, base_encoder.device))
    raise ArtifactError(f'{folder} holds a checkpoint of kind "{kind}", not a retriever (map or encoder).')
