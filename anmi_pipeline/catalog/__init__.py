"""The datasets and recipes of an installation: YAML files, read, merged and checked.

Belongs here: `DatasetConfig`, `RecipeConfig` and how their files are found and resolved. Does not: what the settings do (the
stage packages), nor Dagster partitions (`defs/partitions.py`).
"""
