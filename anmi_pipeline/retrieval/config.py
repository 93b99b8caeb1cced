"""Settings of first-stage retrieval.

Belongs here: the configuration models of every retriever, of the pool and of the nearest-neighbour index. Does not: anything
that imports a numeric library, since these models are read while definitions load.
"""

from typing import Literal

from pydantic import Field, model_validator

from anmi_pipeline.settings import Config

Precision = Literal["auto", "float32", "bfloat16"]
Generator = Literal["dense", "sparse", "recall", "rrf", "weighted"]
Scope = Literal["corpus", "group"]
StopwordLanguage = Literal[
    "none", "chinese", "danish", "dutch", "english", "english_plus", "french", "german", "italian", "korean", "norwegian",
    "portuguese", "russian", "spanish", "swedish", "turkish",
]  # fmt: skip


class RecordedRunConfig(Config):
    """A run that somebody else made, given as a TREC run file."""

    recorded: str = Field(description="TREC run file (plain or .gz); relative paths start from the data folder")
    depth: int = Field(default=200, ge=1, description="documents kept per query")


class LexicalConfig(Config):
    """BM25."""

    k1: float = Field(default=1.5, ge=0, description="term frequency saturation of BM25")
    b: float = Field(default=0.75, ge=0, le=1, description="document length normalisation of BM25")
    stemmer: str = Field(default="english", description='Snowball stemmer, or "none"')
    stopwords: StopwordLanguage = Field(default="english", description='stop word list that is removed, or "none"')
    depth: int = Field(default=200, ge=1, description="documents kept per query")
    recorded: str | None = Field(default=None, description="TREC run file to use instead of computing BM25")


class EncoderConfig(Config):
    """A bi-encoder: one vector per text."""

    model: str = Field(
        default="all-MiniLM-L6-v2", description="all-MiniLM-L6-v2 (from the demo extra), a local folder, or a Hugging Face id"
    )
    revision: str | None = Field(default=None, description="commit (40 hex digits) of a Hugging Face id; required for one")
    max_tokens: int = Field(default=256, ge=4, description="tokens a text is cut to, special tokens included")
    precision: Precision = Field(
        default="auto", description="auto: bfloat16 where the hardware computes it natively, else float32"
    )
    batch_tokens: int = Field(default=8192, ge=64, description="padded tokens per batch; bounds memory, no answer depends on it")
    query_prompt: str = Field(
        default="", description="text put before a query; empty: the model's own query prompt, if it has one"
    )
    document_prompt: str = Field(default="", description="text put before a document; empty: the model's own, if it has one")
    normalize: bool = Field(default=True, description="scale vectors to length 1, so that inner product = cosine")


class DenseConfig(Config):
    """Exact search over the vectors of a bi-encoder."""

    encoder: EncoderConfig = Field(default=EncoderConfig(), description="encoder of documents and queries")
    depth: int = Field(default=200, ge=1, description="documents kept per query")
    recorded: str | None = Field(default=None, description="TREC run file to use instead of searching")


class PoolConfig(Config):
    """How runs become candidate pools."""

    depth: int = Field(default=200, ge=1, le=1000, description="documents each generator ranks per query")
    rrf_k: int = Field(default=60, ge=0, description="constant of reciprocal rank fusion")
    weights: dict[Literal["lexical", "dense", "sparse", "late_interaction"], float] = Field(
        default={"lexical": 0.5, "dense": 0.5, "sparse": 0.5, "late_interaction": 0.5},
        description="weight of each run in the min-max weighted sum; a run that is absent adds nothing",
    )

    @model_validator(mode="after")
    def _some_weight(self) -> "PoolConfig":
        if any(weight < 0 for weight in self.weights.values()) or not any(self.weights.values()):
            raise ValueError(f"weights {self.weights} must be 0 or above, with at least one above 0")
        return self


class RetrievalConfig(Config):
    """Every first-stage retriever of a dataset, and the pool made of them."""

    lexical: LexicalConfig = Field(default=LexicalConfig(), description="BM25")
    dense: DenseConfig = Field(default=DenseConfig(), description="bi-encoder")
    sparse: RecordedRunConfig | None = Field(default=None, description="learned sparse retriever; null: none")
    late_interaction: RecordedRunConfig | None = Field(default=None, description="late-interaction retriever; null: none")
    pool: PoolConfig = Field(default=PoolConfig(), description="candidate pool")


class IndexConfig(Config):
    """A nearest-neighbour index over document vectors, by inner product."""

    kind: Literal["flat", "hnsw", "ivf_flat", "ivf_pq"] = Field(
        default="flat", description="flat is exact; the others trade recall"
    )
    m: int = Field(default=32, ge=2, description="hnsw: neighbours per node")
    ef_construction: int = Field(default=200, ge=1, description="hnsw: candidates kept while building")
    ef_search: int = Field(
        default=128, ge=1, description="hnsw: candidates kept while searching (never fewer than are asked for)"
    )
    nlist: int | None = Field(default=None, ge=1, description="ivf: cells; null: about the square root of the document count")
    nprobe: int = Field(default=16, ge=1, description="ivf: cells searched")
    segments: int = Field(default=48, ge=1, description="ivf_pq: parts a vector is cut into; must divide its dimension")
    bits: int = Field(default=8, ge=4, le=8, description="ivf_pq: bits per part; training needs at least 2^bits documents")
