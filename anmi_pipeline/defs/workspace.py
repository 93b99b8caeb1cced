"""What every step works with: settings, store, records, tracker, the dataset and the recipe.

Belongs here: the plain objects behind the `workspace` resource. Does not: building an artifact (`building.py`).
"""

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import dagster as dg
from filelock import FileLock

from anmi_pipeline.catalog.datasets import DatasetConfig, load_dataset
from anmi_pipeline.catalog.recipes import RecipeConfig, load_recipe
from anmi_pipeline.collections.collection import Collection
from anmi_pipeline.records import Records
from anmi_pipeline.settings import Settings
from anmi_pipeline.store import Store
from anmi_pipeline.tracking import Tracker

RECIPE_ASSETS = frozenset(
    {
        "training_set",
        "checkpoint",
        "student_checkpoint",
        "corpus_embeddings",
        "ann_index",
        "scores",
        "tuned_system",
    }
)
"""Assets partitioned by dataset x recipe; the others by dataset."""


ASKED = "anmi/asked"
"""Tag of runs that name their recipe: a recipe that its dataset does not list is built only by them."""


@dataclass
class Workspace:
    """One installation, opened once per Dagster run."""

    settings: Settings
    rebuild: bool = False
    collections: dict[str, Collection] = field(default_factory=dict[str, Collection])

    @cached_property
    def store(self) -> Store:
        """The object store."""
        return Store(self.settings.store_url)

    @cached_property
    def records(self) -> Records:
        """Records and refs."""
        return Records(self.store)

    @cached_property
    def tracker(self) -> Tracker:
        """MLflow."""
        return Tracker(self.settings)

    def dataset(self, name: str) -> DatasetConfig:
        """A dataset by name."""
        return load_dataset(name, self.settings.conf)

    def recipe(self, name: str, dataset: DatasetConfig) -> RecipeConfig:
        """A recipe as a dataset runs it."""
        return load_recipe(name, self.settings.conf, dataset.settings_for(name))

    def lock(self, pool: str) -> FileLock:
        """The lock of a pool: in-process runs ignore Dagster's pools, so two `anmi run` would share a GPU."""
        folder = self.settings.home / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{pool}.lock")

    @property
    def cache(self) -> Path:
        """Folder for local copies of remote objects."""
        return self.settings.home / "cache"


class WorkspaceResource(dg.ConfigurableResource[Workspace]):
    """Opens the installation that ANMI_HOME, ANMI_CONF and ANMI_DATA name when the run starts."""

    rebuild: bool = False
    """Compute again even where the build is known; another digest is then reported as nondeterminism."""

    def create_resource(self, context: dg.InitResourceContext) -> Workspace:
        """Read the environment now: definitions stay loadable without it."""
        return Workspace(Settings.from_environment(os.environ), rebuild=self.rebuild)


@dataclass(frozen=True)
class Key:
    """The partition of a step, taken apart."""

    dataset: str
    recipe: str | None

    @classmethod
    def of(cls, context: dg.AssetExecutionContext) -> "Key":
        """The step's partition."""
        return cls.of_partition(context.partition_key)

    @classmethod
    def of_partition(cls, key: str) -> "Key":
        """A partition key taken apart."""
        if isinstance(key, dg.MultiPartitionKey):
            by_dimension = key.keys_by_dimension
            return cls(by_dimension["dataset"], by_dimension["recipe"])
        return cls(key, None)

    def partition(self, asset: str) -> str:
        """Partition key of an asset that this step reads."""
        return f"{self.dataset}|{self.recipe}" if asset in RECIPE_ASSETS else self.dataset
