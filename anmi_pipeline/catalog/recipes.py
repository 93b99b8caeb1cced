"""A recipe: one configuration of a system, from base model to seeds.

Belongs here: `RecipeConfig` and how a dataset's own settings are merged into it. Does not: what the settings do.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from anmi_pipeline.catalog.files import Node, locate, merge, parse, resolve
from anmi_pipeline.mining.config import MiningConfig
from anmi_pipeline.retrieval.config import EncoderConfig, Generator, IndexConfig
from anmi_pipeline.settings import Config
from anmi_pipeline.training.config import SystemTraining


class InferenceConfig(Config):
    """Fixed inference settings: what the raw rows of the board are measured with."""

    generator: Generator = Field(default="rrf", description="candidate generator whose pool a reranker scores")
    pool_size: int = Field(default=50, ge=1, description="documents of the pool that a reranker scores")
    rrf_k: int = Field(default=60, ge=1, description="k of reciprocal rank fusion")
    lexical_weight: float = Field(default=0.5, ge=0, le=1, description="weight of the lexical run in min-max fusion")


class RecipeConfig(Config):
    """One recipe."""

    name: str = Field(description="recipe = system name on the board")
    description: str = Field(description="one line for people")
    kind: Literal["untrained", "retriever", "reranker"] = Field(description="what it makes")
    method: Literal["lexical", "encoder", "rrf", "min_max"] | None = Field(default=None, description="of an untrained system")
    encoder: EncoderConfig | None = Field(default=None, description="base encoder; null = the dataset's own dense retriever")
    mining: MiningConfig = Field(default_factory=MiningConfig, description="how training lists are chosen")
    training: SystemTraining | None = Field(default=None, description="how it is trained; null for untrained systems")
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1, description="training seeds; the board averages them")
    index: IndexConfig = Field(default_factory=IndexConfig, description="ANN index of a retriever")
    inference: InferenceConfig = Field(default_factory=InferenceConfig, description="fixed inference settings")

    @model_validator(mode="after")
    def fits_its_kind(self) -> "RecipeConfig":
        """An untrained recipe needs a method, a trained one its training."""
        if self.kind == "untrained" and self.method is None:
            raise ValueError("an untrained recipe needs `method`: lexical, encoder, rrf or min_max")
        if self.kind != "untrained" and self.training is None:
            raise ValueError(f"a {self.kind} recipe needs `training`")
        return self

    @property
    def trained(self) -> bool:
        """Whether it has a checkpoint."""
        return self.kind != "untrained"


def load_recipe(name: str, conf: Path | None, settings: Node | None = None) -> RecipeConfig:
    """Read a recipe, with a dataset's recipe settings on top.

    Args:
        name: recipe name.
        conf: the user's configuration folder.
        settings: a dataset's `recipe_settings`, merged over every recipe it runs.

    Raises:
        InputError: unknown recipe, or a wrong field.
    """
    path = locate("recipes", name, conf)
    node, _ = resolve("recipes", path, conf)
    where = f"{path}, with the dataset's recipe_settings on top" if settings else str(path)
    return parse(RecipeConfig, merge({**node, "name": name}, settings or {}), where)
