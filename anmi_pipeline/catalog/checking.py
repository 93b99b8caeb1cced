"""Checking a dataset before anything runs: its file, its recipes, its collection, its verdict files.

Belongs here: the order of checks and the summary. Does not: the checks themselves.
"""

from pathlib import Path

import polars as pl

from anmi_pipeline.catalog.datasets import DatasetConfig, load_dataset, read_dataset
from anmi_pipeline.catalog.recipes import load_recipe
from anmi_pipeline.collections.collection import Collection
from anmi_pipeline.collections.reading import read_collection
from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.recorded import recorded_plan
from anmi_pipeline.settings import Settings
from anmi_pipeline.tables import SPLITS


def check_dataset(file: str, settings: Settings) -> list[dict[str, object]]:
    """Validate a dataset's file, every recipe it lists, its collection and its recorded verdicts.

    Args:
        file: path of a YAML file, or a dataset's name.
        settings: the installation.

    Returns:
        What is in it: one row per fact.

    Raises:
        InputError: the first thing that is wrong.
    """
    config = open_config(file, settings)
    for recipe in config.recipes:
        load_recipe(recipe, settings.conf, config.settings_for(recipe))
    collection = read_collection(config.source, data_root=settings.data, seed=config.seed)
    if collection.corpus.is_empty() or collection.queries.is_empty():
        empty = "documents" if collection.corpus.is_empty() else "queries"
        raise InputError(f"{file}: the collection has no {empty}. Point `source` to files that have some.")
    rows: list[dict[str, object]] = [{"what": "documents", "value": f"{collection.corpus.height:,}"}]
    rows += [split_row(collection, split) for split in SPLITS]
    if config.judging.recorded:
        plan = recorded_plan(config.judging, settings.data, collection.queries, collection.corpus)
        rows.append({"what": "recorded verdicts", "value": f"{plan.height:,}"})
    return rows + [{"what": name, "value": text} for name, text in collection.notes.items()]


def open_config(file: str, settings: Settings) -> DatasetConfig:
    """A dataset by path, or by name when there is no such file."""
    path = Path(file)
    if path.suffix in (".yaml", ".yml") or path.exists():
        if not path.is_file():
            raise InputError(f"{file} does not exist. Give a dataset's YAML file, or a name of `anmi dataset list`.")
        return read_dataset(path.resolve(), settings.conf)
    return load_dataset(file, settings.conf)


def split_row(collection: Collection, split: str) -> dict[str, object]:
    """Queries and grades of one split."""
    own = collection.queries.filter(pl.col("split") == split).select("query_id")
    graded = collection.qrels.join(own, on="query_id", how="semi")
    labelled = graded.filter(pl.col("grade") > 0)["query_id"].n_unique()
    return {
        "what": f"queries in {split}",
        "value": f"{own.height:,}, {labelled:,} with a relevant document, {graded.height:,} grades",
    }
