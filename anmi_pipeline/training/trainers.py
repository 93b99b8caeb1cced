"""One entry to every trainer: the configuration decides which one runs.

Belongs here: the dispatch and what all trainers are given. Does not: storage and tracking (`defs/`), the trainers themselves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from anmi_pipeline.errors import InputError
from anmi_pipeline.mining.curriculum import compile_lists
from anmi_pipeline.progress import Progress, silent
from anmi_pipeline.reranking.cross_encoder import load_cross_encoder
from anmi_pipeline.retrieval.config import EncoderConfig
from anmi_pipeline.retrieval.encoding import load_encoder
from anmi_pipeline.training.config import CrossEncoderConfig, FeaturesConfig, SystemTraining, TrainingConfig
from anmi_pipeline.training.cross_encoder_trainer import train_cross_encoder
from anmi_pipeline.training.encoder_retriever import train_encoder
from anmi_pipeline.training.feature_reranker import train_features
from anmi_pipeline.training.loop import Watch
from anmi_pipeline.training.map_retriever import train_map
from anmi_pipeline.training.report import OnMetrics, TrainingReport, unheard


@dataclass(frozen=True)
class Embedded:
    """Vectors of the base encoder with their ids.

    Attributes:
        ids: (n,) row ids.
        vectors: (n, d) float32.
    """

    ids: Sequence[str]
    vectors: NDArray[np.float32]


@dataclass(frozen=True)
class TrainingInputs:
    """What a trainer may read; each takes what it needs.

    Attributes:
        training_set: TRAINING_SET frame.
        pool: POOL frame with the judged documents (features).
        documents: base vectors of the corpus (map).
        queries: base vectors of the training queries (map).
        document_texts: id -> title and text as the encoder reads them (text trainers).
        query_texts: id -> text (text trainers).
        encoder: the base encoder's settings (text trainers).
    """

    training_set: pl.DataFrame
    pool: pl.DataFrame | None = None
    documents: Embedded | None = None
    queries: Embedded | None = None
    document_texts: Mapping[str, str] = field(default_factory=dict[str, str])
    query_texts: Mapping[str, str] = field(default_factory=dict[str, str])
    encoder: EncoderConfig = field(default_factory=EncoderConfig)


def train_system(
    inputs: TrainingInputs,
    config: SystemTraining,
    seed: int,
    folder: Path,
    progress: Progress = silent,
    on_metrics: OnMetrics = unheard,
    state_folder: Path | None = None,
) -> TrainingReport:
    """Train one seed of a system and write its checkpoint files into `folder`.

    Args:
        inputs: frames, vectors, texts.
        config: kind of trainer and its settings.
        seed: training seed; the learned fusion has none and ignores it.
        folder: empty or absent folder.
        progress: told after every step.
        on_metrics: told the metrics of every step.
        state_folder: where text trainers keep a resumable state; the map and the features train in seconds and start again.

    Raises:
        InputError: the training set has no usable query, or an input that this trainer needs is absent.
        ArtifactError: `state_folder` holds the state of another training.
    """
    watch = Watch(progress, on_metrics)
    if isinstance(config, FeaturesConfig):
        return features_into(inputs, config, folder)
    if isinstance(config, CrossEncoderConfig):
        return cross_encoder_into(inputs, config, seed, folder, watch, state_folder)
    if config.trainable == "map":
        return map_into(inputs, config, seed, folder, watch)
    return encoder_into(inputs, config, seed, folder, watch, state_folder)


def features_into(inputs: TrainingInputs, config: FeaturesConfig, folder: Path) -> TrainingReport:
    """Train the learned fusion."""
    if inputs.pool is None:
        raise InputError("training of kind features needs the candidate pool, and none was given.")
    model, report = train_features(inputs.training_set, inputs.pool, config)
    model.save(folder)
    return report


def map_into(inputs: TrainingInputs, config: TrainingConfig, seed: int, folder: Path, watch: Watch) -> TrainingReport:
    """Train a map."""
    documents, queries = inputs.documents, inputs.queries
    if documents is None or queries is None:
        raise InputError("trainable: map needs the base encoder's vectors of documents and queries, and they were not given.")
    lists = compile_lists(inputs.training_set)
    checkpoint, report = train_map(lists, documents.ids, documents.vectors, queries.ids, queries.vectors, config, seed, watch)
    checkpoint.save(folder)
    return report


def encoder_into(
    inputs: TrainingInputs, config: TrainingConfig, seed: int, folder: Path, watch: Watch, state_folder: Path | None
) -> TrainingReport:
    """Train an encoder on text."""
    lists = compile_lists(inputs.training_set)
    encoder = load_encoder(inputs.encoder)
    return train_encoder(lists, texts_of(inputs), encoder, config, seed, folder, watch, state_folder)


def cross_encoder_into(
    inputs: TrainingInputs, config: CrossEncoderConfig, seed: int, folder: Path, watch: Watch, state_folder: Path | None
) -> TrainingReport:
    """Train a cross-encoder."""
    lists = compile_lists(inputs.training_set)
    name = config.base_model or inputs.encoder.model
    revision = config.base_revision if config.base_model else inputs.encoder.revision
    encoder = load_cross_encoder(name, config.max_tokens, revision, seed)
    return train_cross_encoder(lists, texts_of(inputs), encoder, config, seed, folder, watch, state_folder)


def texts_of(inputs: TrainingInputs) -> dict[str, Mapping[str, str]]:
    """The texts by kind, as the text trainers read them."""
    return {"query": inputs.query_texts, "document": inputs.document_texts}
