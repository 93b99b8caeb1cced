"""Partition keys: the names of the dataset and recipe files, read once when the definitions load.

A new YAML file appears after "Reload definitions". Read https://docs.dagster.io on static and multi partitions.
"""

import os

import dagster as dg

from anmi_pipeline.catalog.files import names
from anmi_pipeline.settings import Settings

SETTINGS = Settings.from_environment(os.environ)
DATASETS = dg.StaticPartitionsDefinition(names("datasets", SETTINGS.conf))
RECIPES = dg.StaticPartitionsDefinition(names("recipes", SETTINGS.conf))
SYSTEMS = dg.MultiPartitionsDefinition({"dataset": DATASETS, "recipe": RECIPES})
SAME_DATASET = dg.MultiToSingleDimensionPartitionMapping("dataset")
"""Between a dataset's assets and its systems': only partitions of the same dataset depend on each other."""
