"""Settings of the judges that run a model here: distillation of verdicts, the distilled judge, the cross-encoder judge.

Belongs here: configuration models. Does not: models and judges. Importing this module loads nothing heavy.
"""

from pydantic import Field

from anmi_pipeline.retrieval.config import Precision
from anmi_pipeline.retrieval.weights import EMBEDDED_MODEL
from anmi_pipeline.settings import Config

DISTILLED = "distilled"
"""Judge id of the verdicts that a dataset's own pairwise model gives."""


class DistilConfig(Config):
    """The pairwise model that learns from a dataset's verdicts and then judges the whole graph."""

    model: str = Field(default=EMBEDDED_MODEL, description="encoder to start from: a folder, or a Hugging Face id")
    revision: str | None = Field(default=None, description="commit of `model` when that is a Hugging Face id")
    max_tokens: int = Field(
        default=256, ge=16, description="tokens of query and both documents together; documents share equally"
    )
    query_tokens: int = Field(default=32, ge=1, description="tokens of them that a query may take")
    epochs: int = Field(default=2, ge=1, description="times that every training pair is seen")
    max_pairs: int = Field(default=20_000, ge=1, description="most training pairs, evenly over the queries")
    max_held_out: int = Field(default=2_000, ge=1, description="most pairs that measure and calibrate, evenly over their queries")
    batch_pairs: int = Field(default=16, ge=1, description="pairs of a step; both orders of each are read")
    layers: int | None = Field(default=None, ge=1, description="transformer layers trained from the top; null: all weights")
    learning_rate: float = Field(default=5e-5, gt=0, description="AdamW learning rate of the encoder")
    head_learning_rate: float = Field(
        default=1e-3, gt=0, description="AdamW learning rate of the new scoring layer and of `similarity`"
    )
    similarity: float = Field(
        default=20.0,
        ge=0,
        description="factor, at the start, of the cosines between query and document inside a row: what a sentence encoder's "
        "vectors know already; it is trained like a weight",
    )
    weight_decay: float = Field(default=0.01, ge=0, description="AdamW weight decay")
    warmup: float = Field(
        default=0.1, ge=0, lt=1, description="share of the steps over which the rates rise; then they fall to 0"
    )
    holdout: float = Field(
        default=0.2, gt=0, lt=1, description="share of the queries whose verdicts are not trained on: agreement and temperature"
    )
    precision: Precision = Field(default="auto", description="arithmetic: auto takes bfloat16 where the hardware multiplies it")
    batch_tokens: int = Field(default=8192, ge=64, description="padded tokens per batch when it judges; changes no verdict")
    degree: int = Field(default=8, ge=1, description="comparisons per document of the graph that it then judges: random cycles")
    weight: float = Field(
        default=0.25, gt=0, description="evidence in one of its verdicts, in verdicts of a judge; none in those it was trained on"
    )
    second_pass: int = Field(
        default=0, ge=0, description="most verdicts bought where it and the fit disagree near the top; then it is trained again"
    )
    seed: int | None = Field(default=None, ge=0, description="seed of the split, the order and the layer; null: the dataset's")


class DistilledSettings(Config):
    """A judge that answers from the pairwise model of another dataset."""

    dataset: str = Field(min_length=1, description="dataset whose `pairwise_judge` answers")
    batch_tokens: int = Field(default=8192, ge=64, description="padded tokens per batch; changes no answer")


class CrossEncoderSettings(Config):
    """A judge that reads pairs out of a reranker's scores: P = Phi((s_i - s_j) / scale)."""

    model: str = Field(description="trained reranker with one output: a folder, or a Hugging Face id")
    revision: str | None = Field(default=None, description="commit of `model` when that is a Hugging Face id")
    max_tokens: int = Field(default=256, ge=4, description="tokens of query and document together")
    scale: float | None = Field(
        default=None,
        gt=0,
        description="score difference that counts as one probit unit; null: estimated (docs/distilling.md)",
    )
    batch_tokens: int = Field(default=8192, ge=64, description="padded tokens per batch")
