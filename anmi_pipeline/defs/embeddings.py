"""Vectors of a base encoder, computed once per (encoder, texts) and shared by retrievers and recipes.

Belongs here: the recorded artifact `base_embeddings`, which is no asset of its own: which encoders a dataset needs is known only
from its recipes. A build that uses the vectors depends on the texts and on the encoder's digest, which determine them. Does not:
encoding (`retrieval/encoding.py`).
"""

from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from anmi_pipeline import tables
from anmi_pipeline.defs.building import Bench, Input, Read, Work, upstreams
from anmi_pipeline.digests import Json
from anmi_pipeline.records import Build
from anmi_pipeline.retrieval.config import EncoderConfig
from anmi_pipeline.retrieval.encoding import Encoder, load_encoder
from anmi_pipeline.retrieval.lexical import document_texts
from anmi_pipeline.retrieval.weights import encoder_digest
from anmi_pipeline.store import Content

ASSET = "base_embeddings"
CODE_VERSION = 1
VECTORS = "vectors.npy"

Floats = npt.NDArray[np.float32]


def encoder_of(bench: Bench) -> EncoderConfig:
    """The base encoder of the step's recipe, or the dataset's own."""
    own = bench.dataset.retrieval.dense.encoder
    return own if bench.key.recipe is None else bench.recipe.encoder or own


def encoder_settings(config: EncoderConfig) -> dict[str, Json]:
    """What a build key must hold of an encoder: its weights and the settings that change a vector."""
    return {"encoder": encoder_digest(config)}


def base_vectors(bench: Bench, config: EncoderConfig, asset: Literal["corpus", "queries"], part: str | None = None) -> Floats:
    """Vectors of the corpus, or of one part of the queries, in the order of the table's key; encoded now when not known.

    Returns:
        (n, d) float32.
    """
    source = bench.open(Read(asset, None if part is None else (part,)))
    settings = encoder_settings(config) | {"kind": "document" if asset == "corpus" else "query"}
    build = Build(ASSET, bench.dataset.family, CODE_VERSION, settings, (), upstreams([source]))
    # --rebuild does not reach the vectors: they take longest to make, and every asset of the run would make them again.
    record = bench.workspace.records.find(ASSET, build.partition, build.key)
    if record is None:
        record = bench.make(build, {asset: source}, lambda work: encode(work, config, source))
    artifact = bench.workspace.store.get(ASSET, record.digest)
    return np.load(artifact.local_folder(bench.workspace.cache) / VECTORS)


def encode(work: Work, config: EncoderConfig, source: Input) -> Content:
    """Encode the texts of an input."""
    if source.read.asset == "corpus":
        vectors = loaded(config).encode(document_texts(source.table(tables.CORPUS)), "document", work.progress)
    else:
        vectors = loaded(config).encode(source.table(tables.QUERIES)["text"].to_list(), "query", work.progress)
    np.save(work.folder / VECTORS, vectors)
    return Content(folder=work.folder, facts={"texts": len(vectors), "dimension": int(vectors.shape[1])})


def loaded(config: EncoderConfig) -> Encoder:
    """An encoder, kept for the next step of the process: loading costs seconds."""
    return load_from_json(config.model_dump_json())


@lru_cache(maxsize=1)
def load_from_json(settings: str) -> Encoder:
    """Load by the settings as text, which can be a cache key."""
    return load_encoder(EncoderConfig.model_validate_json(settings))


def query_table(bench: Bench, splits: tuple[str, ...]) -> pl.DataFrame:
    """Queries of some splits, split after split: the order of `query_vectors`."""
    return pl.concat([bench.open(Read("queries", (split,))).table(tables.QUERIES) for split in splits])


def query_vectors(bench: Bench, config: EncoderConfig, splits: tuple[str, ...]) -> Floats:
    """Vectors of the queries of some splits, (n, d), in the order of `query_table`."""
    parts = [base_vectors(bench, config, "queries", split) for split in splits]
    return np.concatenate(parts)
