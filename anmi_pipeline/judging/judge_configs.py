"""The settings of each kind of judge, as `judges/*.yaml` files and datasets hold them.

Belongs here: one configuration model per kind. Does not: the judges themselves, which pairs they are asked
(`config.py`). Importing this module loads nothing heavy.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from anmi_pipeline.judging.anthropic_wire import AnthropicModel
from anmi_pipeline.judging.batch_decisions import BatchConfig
from anmi_pipeline.judging.dispatch_config import DispatchConfig
from anmi_pipeline.judging.distil_config import CrossEncoderSettings, DistilledSettings
from anmi_pipeline.judging.openai_wire import OpenAIModel
from anmi_pipeline.judging.prompts import PromptLimits
from anmi_pipeline.settings import Config

JUDGE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Judge names: no slash, because a recorded judge's ids are `name/judge of the file`."""

Name = Annotated[str, Field(pattern=JUDGE_NAME, description="name of the judge: its id in plans, verdicts, ledger and reports")]


class EnsembleWeights(Config):
    """Weights of the three z-scores that the ensemble judge adds up."""

    lexical: float = Field(default=0.4, ge=0, description="weight of the BM25 score, z within the judged pool")
    dense: float = Field(default=0.4, ge=0, description="weight of the bi-encoder score, z within the judged pool")
    name: float = Field(
        default=0.2, ge=0, description="weight of the share of query word stems in the title, z within the judged pool"
    )

    @model_validator(mode="after")
    def some_weight(self) -> Self:
        """Refuse a judge that looks at nothing."""
        if self.lexical + self.dense + self.name <= 0:
            raise ValueError("all ensemble weights are 0: the judge would call every pair a tie. Set at least one above 0.")
        return self


class Weighted(Config):
    """What all judges have."""

    weight: Annotated[float, Field(gt=0)] = Field(
        default=1.0,
        description="evidence in one of its verdicts, in verdicts of a judge of weight 1: a list of judges is an ensemble",
    )


class EnsembleJudge(Weighted):
    """A judge without an API: retrieval scores and name overlap as a soft probability."""

    kind: Literal["ensemble"] = Field(default="ensemble", description="which judge this is")
    name: Name = "ensemble"
    weights: EnsembleWeights = Field(default=EnsembleWeights(), description="weights of the z-scores")
    scale: float = Field(
        default=1.0, gt=0, description="score difference that counts as one probit unit: p = Phi(difference / scale)"
    )
    known_source_bonus: float = Field(
        default=0.0,
        ge=0,
        description="added (in z units) to the document a query was taken from; such verdicts are known provenance",
    )


class SimulatedJudge(Weighted):
    """A judge that knows the human grades and errs at a stated rate. Marked simulated wherever it shows."""

    kind: Literal["simulated"] = Field(default="simulated", description="which judge this is")
    name: Name = "simulated"
    error_rate: float = Field(default=0.15, ge=0, le=0.5, description="probability that the lower grade wins")
    tie_slope: float = Field(
        default=0.1, ge=0, le=0.5, description="of equal grades the first wins with .5 + tie_slope * tanh(z_first - z_second)"
    )


class RecordedJudge(Weighted):
    """Verdicts of a file; it brings its own pool and plan: exactly the documents and pairs of the file."""

    kind: Literal["recorded"] = Field(default="recorded", description="which judge this is")
    name: Name = "recorded"
    path: str = Field(description="CSV file (.csv or .csv.gz), relative to ANMI_DATA or absolute")
    format: Literal["battles", "ordered"] = Field(
        default="battles",
        description="columns of the file. battles: query_id,left,right,winner[,judge,round,ties_visible]; "
        "ordered: query_id,first,second,verdict[,judge,round]",
    )


class ApiSettings(Weighted):
    """What judges behind an API have besides their endpoint."""

    name: Name = Field(description="name of the judge: its id in plans, verdicts, ledger and reports")
    prompt: Literal["pairwise", "listwise"] = Field(
        default="pairwise", description="pairwise: two documents a call; listwise: the documents of a list (design lists)"
    )
    limits: PromptLimits = Field(default=PromptLimits(), description="how long queries and documents may be in a prompt")
    dispatch: DispatchConfig = Field(default_factory=DispatchConfig, description="workers, pace and retries; not in call keys")
    batch: BatchConfig | None = Field(
        default=None, description="use the provider's Batch API, at half the price and within a day; null: plain calls"
    )


class OpenAIJudge(ApiSettings, OpenAIModel):
    """A model behind chat completions: OpenAI, or any server that speaks them."""

    kind: Literal["openai"] = Field(default="openai", description="which judge this is")

    @model_validator(mode="after")
    def listed(self) -> Self:
        """A ranking is no single token."""
        if self.prompt == "listwise" and self.form == "token":
            raise ValueError("form token answers with one letter, which is no ranking. Set form: json or tool.")
        return self


class AnthropicJudge(ApiSettings, AnthropicModel):
    """A model behind Anthropic's messages."""

    kind: Literal["anthropic"] = Field(default="anthropic", description="which judge this is")

    @model_validator(mode="after")
    def listed(self) -> Self:
        """A ranking is no single token."""
        if self.prompt == "listwise" and self.form == "token":
            raise ValueError("form token answers with one letter, which is no ranking. Set form: json or tool.")
        return self


class CrossEncoderJudge(Weighted, CrossEncoderSettings):
    """A reranker's scores as probabilities."""

    kind: Literal["cross_encoder"] = Field(default="cross_encoder", description="which judge this is")
    name: Name = "cross-encoder"


class DistilledJudge(Weighted, DistilledSettings):
    """The pairwise model of another dataset."""

    kind: Literal["distilled"] = Field(default="distilled", description="which judge this is")
    name: Name = "distilled"


ApiJudgeConfig = OpenAIJudge | AnthropicJudge
JudgeConfig = Annotated[
    EnsembleJudge | SimulatedJudge | RecordedJudge | OpenAIJudge | AnthropicJudge | CrossEncoderJudge | DistilledJudge,
    Field(discriminator="kind"),
]
OPERATIONAL = frozenset({"dispatch", "batch", "timeout_s", "api_key_env", "token_factor", "tool_tokens", "batch_tokens"})
"""Fields of judges that say how they are asked and not what: no part of call keys or build keys."""
