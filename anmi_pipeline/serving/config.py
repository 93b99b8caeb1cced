"""What a search package says about itself.

Belongs here: the settings model of `package.json`. Imports nothing heavy.
"""

from typing import Literal

from pydantic import Field, model_validator

from anmi_pipeline.evaluation.config import InferenceSettings
from anmi_pipeline.retrieval.config import EncoderConfig, Generator, PoolConfig, Scope
from anmi_pipeline.settings import Config

SystemKind = Literal["lexical", "encoder", "fusion", "retriever", "features", "cross_encoder"]
DEFAULT_HITS = 10
HIT_COLUMNS = ("query", "rank", "doc_id", "title", "score", "snippet")
"""Columns of an answer as a table."""
USES_LEXICAL = ("lexical", "fusion", "features", "cross_encoder")
USES_VECTORS = ("encoder", "fusion", "retriever", "features", "cross_encoder")
USES_CHECKPOINT = ("retriever", "features", "cross_encoder")


class PackageSettings(Config):
    """How the packaged system answers a query: its fixed settings, then the tuned ones on top."""

    system: str = Field(description="system name on the leaderboard")
    kind: SystemKind = Field(description="what ranks: lexical, encoder, fusion (of both), retriever, features or cross_encoder")
    scope: Scope = Field(default="corpus", description="group: a query sees the documents of its own group only")
    depth: int = Field(default=200, ge=1, description="documents per query of the system")
    dense_depth: int = Field(default=200, ge=1, description="fusion and rerankers: documents per query of the encoder's run")
    encoder: EncoderConfig | None = Field(default=None, description="base encoder of queries; null when only words are compared")
    fixed: InferenceSettings = Field(
        default=InferenceSettings(), description="kind fusion: how the lexical and the encoder's run are joined"
    )
    tuned: InferenceSettings = Field(default=InferenceSettings(), description="what tuning put on top: fusion, pool, threshold")
    pool: PoolConfig = Field(default=PoolConfig(), description="rerankers: how their candidates are made")
    generator: Generator = Field(default="rrf", description="rerankers: generator of their candidates")
    pool_size: int = Field(default=50, ge=1, description="rerankers: candidates that are scored")
    batch_tokens: int = Field(default=8192, ge=64, description="cross-encoders: padded tokens per batch")
    origin: dict[str, str] = Field(default_factory=dict, description="where it comes from: dataset, digests, run ids; for people")

    @model_validator(mode="after")
    def _encoder_where_needed(self) -> "PackageSettings":
        if self.kind in USES_VECTORS and self.encoder is None:
            raise ValueError(f"a system of kind {self.kind} embeds queries, so `encoder` must be set")
        if self.kind == "fusion" and self.fixed.fusion == "none":
            raise ValueError("a system of kind fusion needs fixed.fusion rrf or min_max")
        return self

    @property
    def vector_depth(self) -> int:
        """Documents per query that vectors are searched for."""
        return self.depth if self.kind in ("encoder", "retriever") else self.dense_depth

    @property
    def needs_lexical(self) -> bool:
        """Whether a lexical index must be in the package."""
        return self.kind in USES_LEXICAL or self.tuned.fusion != "none"
