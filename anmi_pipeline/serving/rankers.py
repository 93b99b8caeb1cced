"""What ranks inside a package: each kind of system as a function from queries to a run.

Belongs here: the same calls in the same order as the evaluated system, on the packaged parts. Does not: tuned settings and hits
(`pipeline.py`).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from anmi_pipeline.errors import ArtifactError
from anmi_pipeline.evaluation.tuning import fused, with_tail
from anmi_pipeline.reranking.cross_encoder import load_cross_encoder, score_pools
from anmi_pipeline.reranking.features import FeatureModel
from anmi_pipeline.retrieval.ann import AnnIndex, load_index, search_index
from anmi_pipeline.retrieval.config import EncoderConfig
from anmi_pipeline.retrieval.dense import search
from anmi_pipeline.retrieval.encoding import load_encoder
from anmi_pipeline.retrieval.lexical import LexicalIndex, document_texts
from anmi_pipeline.retrieval.pool import build_pool, pool_documents
from anmi_pipeline.retrieval.runs import Groups
from anmi_pipeline.serving.config import PackageSettings
from anmi_pipeline.training.checkpoints import load_retriever, read_settings

Vectors = npt.NDArray[np.float32]
Embed = Callable[[list[str]], Vectors]
Rank = Callable[["Asked"], "Ranked"]


@dataclass(frozen=True)
class Asked:
    """Queries to answer.

    Attributes:
        query_ids: (n,) ids.
        texts: (n,) texts.
        groups: which documents each query may find; None: all.
    """

    query_ids: list[str]
    texts: list[str]
    groups: Groups | None = None


@dataclass(frozen=True)
class Ranked:
    """What a system at its fixed settings says.

    Attributes:
        run: RUN frame.
        pool: RUN frame of the list whose first documents a reranker scored; None for systems without a pool.
    """

    run: pl.DataFrame
    pool: pl.DataFrame | None = None


@dataclass(frozen=True)
class LexicalRanker:
    """BM25."""

    index: LexicalIndex

    def __call__(self, asked: Asked) -> Ranked:
        """Rank the documents of each query."""
        return Ranked(self.index.search(asked.query_ids, asked.texts, groups=asked.groups))


@dataclass(frozen=True)
class VectorRanker:
    """Nearest documents to the query's vector, exactly or by an approximate index.

    Attributes:
        embed: query texts -> (n, d) vectors.
        doc_ids: (n_docs,) ids, ascending.
        vectors: (n_docs, d); None with an index.
        index: approximate index; None for exact search.
        depth: documents per query.
    """

    embed: Embed
    doc_ids: list[str]
    vectors: Vectors | None
    index: AnnIndex | None
    depth: int

    def __call__(self, asked: Asked) -> Ranked:
        """Rank the documents of each query.

        Raises:
            ArtifactError: a query confined to a group meets an index, which cannot be searched by group.
        """
        queries = self.embed(asked.texts)
        if self.vectors is not None:
            return Ranked(search(self.vectors, self.doc_ids, queries, asked.query_ids, self.depth, asked.groups))
        if self.index is None or asked.groups is not None:
            raise ArtifactError(
                "this package holds a nearest-neighbour index, which cannot be searched within a group. "
                "Package the vectors in place of the index."
            )
        return Ranked(search_index(self.index, queries, asked.query_ids, self.depth))


@dataclass(frozen=True)
class FusionRanker:
    """The lexical and the encoder's run, joined as the fixed settings say."""

    lexical: Rank
    dense: Rank
    settings: PackageSettings

    def __call__(self, asked: Asked) -> Ranked:
        """Rank the documents of each query."""
        return Ranked(fused(self.dense(asked).run, self.lexical(asked).run, self.settings.fixed, self.settings.depth))


@dataclass(frozen=True)
class PoolRanker:
    """A reranker over the candidates of the first stage; the rest of the generator's list follows in its order.

    Attributes:
        lexical: first stage by words.
        dense: first stage by vectors.
        score: (POOL frame cut to the candidates, query texts by id) -> query_id, doc_id, rank, score.
        settings: generator and size of the pool.
    """

    lexical: Rank
    dense: Rank
    score: Callable[[pl.DataFrame, dict[str, str]], pl.DataFrame]
    settings: PackageSettings

    def __call__(self, asked: Asked) -> Ranked:
        """Rank the candidates of each query."""
        first_stage = {"lexical": self.lexical(asked).run, "dense": self.dense(asked).run}
        pool = build_pool(first_stage, self.settings.pool)
        candidates = pool.filter(pl.col(f"{self.settings.generator}_pool_rank") <= self.settings.pool_size)
        scored = self.score(candidates, dict(zip(asked.query_ids, asked.texts, strict=True)))
        listing = pool_documents(pool, self.settings.generator, self.settings.depth)
        return Ranked(with_tail(scored, listing), listing)


def vector_ranker(folder: Path, settings: PackageSettings, embed: Embed) -> VectorRanker:
    """Read vectors or index of a package.

    Raises:
        ArtifactError: neither is there, or vectors and ids do not fit.
    """
    if (folder / "index").is_dir():
        index = load_index(folder / "index")
        return VectorRanker(embed, index.doc_ids, None, index, settings.vector_depth)
    try:
        vectors = np.load(folder / "vectors.npy", allow_pickle=False)
        doc_ids = json.loads((folder / "doc_ids.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"search package {folder} has no readable vectors: {error}. Materialize search_model again."
        ) from error
    if len(vectors) != len(doc_ids):
        raise ArtifactError(
            f"search package {folder} has {len(vectors)} vectors for {len(doc_ids)} documents. Materialize search_model again."
        )
    return VectorRanker(embed, doc_ids, vectors, None, settings.vector_depth)


def packaged_encoder(folder: Path, config: EncoderConfig) -> EncoderConfig:
    """Point the encoder's settings at the packaged files, when they are there."""
    inside = folder / "encoder"
    return config.model_copy(update={"model": str(inside), "revision": None}) if inside.is_dir() else config


def query_embedder(folder: Path, settings: PackageSettings) -> Embed:
    """Make the function from query texts to vectors: the base encoder's, or a retriever's own."""
    if settings.encoder is None:
        raise ArtifactError(f"search package {folder} of kind {settings.kind} names no encoder. Materialize search_model again.")
    own = folder / "checkpoint" / "encoder"
    if settings.kind == "retriever" and own.is_dir():
        encoder = load_encoder(settings.encoder.model_copy(update={"model": str(own), "revision": None}))
        return lambda texts: encoder.encode(texts, "query")
    base = load_encoder(packaged_encoder(folder, settings.encoder))
    if settings.kind != "retriever":
        return lambda texts: base.encode(texts, "query")
    retriever = load_retriever(folder / "checkpoint", base)
    return lambda texts: retriever.embed(texts, "query")


def reranker(
    folder: Path, settings: PackageSettings, corpus: pl.DataFrame
) -> Callable[[pl.DataFrame, dict[str, str]], pl.DataFrame]:
    """Make the scoring function of a features or cross-encoder package."""
    checkpoint = folder / "checkpoint"
    if settings.kind == "features":
        model = FeatureModel.load(checkpoint)
        return lambda pool, _texts: model.score(pool)
    encoder = load_cross_encoder(str(checkpoint / "encoder"), int(read_settings(checkpoint)["max_tokens"]))
    documents = dict(zip(corpus["doc_id"].to_list(), document_texts(corpus), strict=True))
    return lambda pool, texts: score_pools(encoder, pool, texts, documents, settings.batch_tokens)


def load_ranker(folder: Path, settings: PackageSettings, corpus: pl.DataFrame, lexical: LexicalRanker | None) -> Rank:
    """Build the function that ranks as the evaluated system did at its fixed settings.

    Raises:
        ArtifactError: a part is absent or does not fit.
    """
    if settings.kind == "lexical" and lexical is not None:
        return lexical
    dense = vector_ranker(folder, settings, query_embedder(folder, settings))
    if settings.kind in ("encoder", "retriever"):
        return dense
    if lexical is None:
        raise ArtifactError(
            f"search package {folder} of kind {settings.kind} has no lexical index. Materialize search_model again."
        )
    if settings.kind == "fusion":
        return FusionRanker(lexical, dense, settings)
    return PoolRanker(lexical, dense, reranker(folder, settings, corpus), settings)
