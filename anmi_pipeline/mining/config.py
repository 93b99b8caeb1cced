"""Settings of the training-set miner and of the curriculum.

Belongs here: configuration models and the published tables of Elo gaps as data. Does not: the selection (`selection.py`) and
the index lists (`curriculum.py`). Importing this module loads nothing heavy.
"""

from itertools import pairwise
from typing import Literal, Self

from pydantic import Field, model_validator

from anmi_pipeline.settings import Config


class GapBand(Config):
    """One row of the table of Elo gaps: documents from `low` Elo points below the best one up to the next band's `low`."""

    low: float = Field(ge=0, description="smallest Elo gap of the band, points below the best positive")
    weight: float = Field(ge=0, le=1, description="weight of such a negative in the contrastive loss; 0 rejects it")
    tier: int = Field(ge=0, le=4, description="0 not a negative, 1 easy .. 4 hard")


GAP_BANDS = (
    GapBand(low=0, weight=0, tier=0),
    GapBand(low=100, weight=0.5, tier=4),
    GapBand(low=200, weight=1.0, tier=3),
    GapBand(low=400, weight=0.7, tier=2),
    GapBand(low=600, weight=0.3, tier=1),
)
"""ANMI 2.0's table: below 100 rejected as a likely false negative, then soft, full, easy and very easy negatives."""


class MiningConfig(Config):
    """How a training set is made from an Elo table."""

    miner: Literal["elo_gap", "lexical", "all"] = Field(
        default="elo_gap",
        description="elo_gap: negatives and weights by Elo gap; lexical: the lexical run's documents, weight 1; "
        "all: every judged document, weight 1",
    )
    max_positives: int = Field(default=3, ge=1, description="most positives of a query")
    positive_window: float = Field(
        default=150.0, ge=0, description="Elo points below the best within which a document may be a positive"
    )
    bands: tuple[GapBand, ...] = Field(default=GAP_BANDS, min_length=1, description="Elo gap -> weight and tier (miner elo_gap)")
    lexical_depth: int = Field(
        default=50, ge=1, description="lexical rank down to which a document is a negative (miner lexical)"
    )
    labels: Literal["elo", "shuffled"] = Field(
        default="elo", description="shuffled: the placebo, Elo and its standard error permuted inside each query before selection"
    )
    transform: Literal["elo_400", "z", "unit"] = Field(
        default="z", description="label a loss sees: (elo - 1500) / 400, z score within the query, or min-max within the query"
    )
    seed: int = Field(default=0, ge=0, description="seed of the placebo's permutation")

    @model_validator(mode="after")
    def bands_ascend(self) -> Self:
        """Refuse a table of gaps with a hole at 0 or with bands out of order."""
        lows = [band.low for band in self.bands]
        if lows[0] != 0 or any(low >= high for low, high in pairwise(lows)):
            raise ValueError(f"bands must start at 0 and ascend, got {lows}")
        return self


class CurriculumStage(Config):
    """What the curriculum demands from an epoch on."""

    first_epoch: int = Field(ge=1, description="first epoch of the stage, from 1")
    min_gap: float = Field(ge=0, description="smallest Elo gap of a negative that may be drawn")
    alpha: float = Field(ge=0, le=1, description="weight of the contrastive loss in the hybrid loss")


ANMI_CURRICULUM = (
    CurriculumStage(first_epoch=1, min_gap=300, alpha=0.5),
    CurriculumStage(first_epoch=3, min_gap=200, alpha=0.6),
    CurriculumStage(first_epoch=5, min_gap=150, alpha=0.7),
    CurriculumStage(first_epoch=7, min_gap=100, alpha=0.8),
)
"""ANMI 2.0's schedule: easy negatives first, then harder ones with more weight on the contrast."""

NO_CURRICULUM = (CurriculumStage(first_epoch=1, min_gap=0, alpha=1.0),)
"""Every epoch draws from every negative."""
