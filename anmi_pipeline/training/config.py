"""Settings of every trainer: what is trainable, the loss, steps and rates.

Belongs here: configuration models. Does not: equations (`losses.py`) and loops. Importing this module loads nothing heavy.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from anmi_pipeline.mining.config import ANMI_CURRICULUM, NO_CURRICULUM, CurriculumStage
from anmi_pipeline.settings import Config

SCALE = Field(default=20.0, gt=0, description="factor on cosines before the softmax of InfoNCE (1 / tau)")
IN_BATCH = Field(default=True, description="other queries' positives are negatives too (bi-encoders)")


class InfoNceLoss(Config):
    """Weighted InfoNCE; plain InfoNCE where the miner gives every negative weight 1."""

    kind: Literal["infonce"] = "infonce"
    scale: float = SCALE
    in_batch: bool = IN_BATCH
    mask_own_pool: bool = Field(default=False, description="leave out in-batch documents that were judged for the query itself")


class HybridLoss(Config):
    """ANMI 2.0: alpha * weighted InfoNCE + (1 - alpha) * MSE(head(score), label); alpha comes from the curriculum."""

    kind: Literal["hybrid"] = "hybrid"
    scale: float = SCALE
    in_batch: bool = IN_BATCH
    mask_own_pool: bool = Field(default=False, description="leave out in-batch documents that were judged for the query itself")


class ListwiseKlLoss(Config):
    """KL from the Elo distribution of a list, with a learnt student scale, + InfoNCE: the default."""

    kind: Literal["listwise_kl"] = "listwise_kl"
    temperature: float = Field(
        default=2.3, gt=0, description="factor on labels before the teacher's softmax; 2.3 on Elo / 400 is Bradley-Terry odds"
    )
    student_scale: float = Field(default=5.0, gt=0, description="factor on scores before the student's softmax, at the start")
    learn_scale: bool = Field(default=True, description="train the student scale; a fixed one of 20 on cosines hurts")
    infonce_weight: float = Field(default=1.0, ge=0, description="weight of the InfoNCE term; 0 leaves plain distillation")
    positives: Literal["soft", "drawn"] = Field(
        default="soft",
        description="InfoNCE's positives: every document by its probability under the teacher, or the one drawn for the list",
    )
    scale: float = Field(default=10.0, gt=0, description="factor on cosines before the softmax of InfoNCE (1 / tau)")
    in_batch: bool = IN_BATCH
    mask_own_pool: bool = Field(default=True, description="leave out in-batch documents that were judged for the query itself")


class MseLoss(Config):
    """zELO: MSE(head(score), label)."""

    kind: Literal["mse"] = "mse"


class MarginMseLoss(Config):
    """MSE between score margins (times the head's slope) and label margins to the positive."""

    kind: Literal["margin_mse"] = "margin_mse"


class BceLoss(Config):
    """Binary cross-entropy of sigmoid(head(score)) against sigmoid(label)."""

    kind: Literal["bce"] = "bce"


LossConfig = Annotated[HybridLoss | ListwiseKlLoss | InfoNceLoss | MseLoss | MarginMseLoss | BceLoss, Field(discriminator="kind")]


def default_curriculum(validated: dict[str, Any]) -> tuple[CurriculumStage, ...]:
    """ANMI's schedule for the hybrid loss; one stage with every negative for the others."""
    return ANMI_CURRICULUM if isinstance(validated["loss"], HybridLoss) else NO_CURRICULUM


class ListTraining(Config):
    """What every trainer on lists shares."""

    loss: LossConfig = Field(default=ListwiseKlLoss(), description="training loss")
    curriculum: tuple[CurriculumStage, ...] = Field(
        default_factory=default_curriculum, min_length=1, description="epochs -> minimum Elo gap and alpha"
    )
    steps: int = Field(default=300, ge=1, description="optimiser steps; epochs follow from them")
    batch_queries: int = Field(default=64, ge=1, description="most queries of a step")
    list_size: int = Field(default=8, ge=2, description="documents of a list: one positive and list_size - 1 negatives")
    learning_rate: float = Field(default=3e-4, gt=0, description="AdamW learning rate of the model")
    head_learning_rate: float = Field(default=2e-2, gt=0, description="AdamW learning rate of head and student scale")
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW weight decay of the model")
    warmup: float = Field(default=0.0, ge=0, lt=1, description="share of the steps over which the rate rises linearly")
    decay: Literal["constant", "linear"] = Field(default="constant", description="course of the rate after the warm-up")
    max_grad_norm: float = Field(default=1.0, gt=0, description="gradients are clipped to this norm")


class TextTraining(ListTraining):
    """What every trainer that runs an encoder on text shares."""

    max_tokens: int = Field(default=128, ge=4, description="tokens of a text; longer ones are cut")
    layers: int = Field(default=2, ge=1, description="transformer layers trained from the top (trainable: top_layers)")
    lora_rank: int = Field(default=8, ge=1, description="rank of the adapters (trainable: lora)")
    lora_alpha: int = Field(default=16, ge=1, description="scale of the adapters, divided by the rank (trainable: lora)")
    lora_modules: tuple[str, ...] = Field(
        default=("query", "value"), min_length=1, description="linear layers that get an adapter"
    )
    chunk_texts: int = Field(default=128, ge=1, description="texts per forward pass; the gradient is exact whatever its size")
    save_every: int = Field(default=50, ge=1, description="steps between resumable states")


class TrainingConfig(TextTraining):
    """A bi-encoder retriever."""

    kind: Literal["retriever"] = "retriever"
    trainable: Literal["map", "top_layers", "all", "lora"] = Field(
        default="map", description="map: one shared d x d matrix on cached embeddings; the others train the encoder on text"
    )


class CrossEncoderConfig(TextTraining):
    """A cross-encoder reranker."""

    kind: Literal["cross_encoder"] = "cross_encoder"
    base_model: str | None = Field(default=None, description="model to start from; None: the recipe's base encoder")
    base_revision: str | None = Field(default=None, description="commit of base_model when that is a Hugging Face id")
    trainable: Literal["top_layers", "all", "lora"] = Field(default="all", description="which weights are trained")
    loss: LossConfig = Field(default=MseLoss(), description="training loss; in-batch terms do not apply")
    batch_queries: int = Field(default=8, ge=1, description="most queries of a step")
    learning_rate: float = Field(default=5e-5, gt=0, description="AdamW learning rate of the model")
    warmup: float = Field(default=0.1, ge=0, lt=1, description="share of the steps over which the rate rises linearly")


class FeaturesConfig(Config):
    """Learned fusion: ridge regression of centred Elo on retrieval features."""

    kind: Literal["features"] = "features"
    ridge: float = Field(default=1.0, ge=0, description="ridge penalty, in units of one standardised document")


SystemTraining = Annotated[TrainingConfig | CrossEncoderConfig | FeaturesConfig, Field(discriminator="kind")]
