"""How an asset is declared: group, partitions, version, owners, pool and tags in one line.

Belongs here: the two decorators, for assets of a dataset and of a system (dataset x recipe). Does not: the assets.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dagster as dg

from anmi_pipeline.defs.op_tags import OWNERS
from anmi_pipeline.defs.partitions import DATASETS, SAME_DATASET, SYSTEMS
from anmi_pipeline.defs.workspace import RECIPE_ASSETS

Decorator = Callable[[Callable[..., Any]], dg.AssetsDefinition]


def dataset_asset(
    group: str,
    kinds: set[str],
    *,
    reads: Sequence[str] = (),
    code_version: int = 1,
    pool: str | None = None,
    op_tags: Mapping[str, Any] | None = None,
) -> Decorator:
    """Declare an asset partitioned by dataset."""
    return dg.asset(
        group_name=group,
        kinds=kinds,
        deps=[dependency(name, of_system=False) for name in reads],
        code_version=str(code_version),
        partitions_def=DATASETS,
        owners=OWNERS,
        pool=pool,
        op_tags=op_tags,
    )


def system_asset(
    group: str,
    kinds: set[str],
    *,
    reads: Sequence[str] = (),
    code_version: int = 1,
    pool: str | None = None,
    op_tags: Mapping[str, Any] | None = None,
) -> Decorator:
    """Declare an asset partitioned by dataset x recipe."""
    return dg.asset(
        group_name=group,
        kinds=kinds,
        deps=[dependency(name, of_system=True) for name in reads],
        code_version=str(code_version),
        partitions_def=SYSTEMS,
        owners=OWNERS,
        pool=pool,
        op_tags=op_tags,
    )


def dependency(name: str, *, of_system: bool) -> dg.AssetDep:
    """A dependency with the partition mapping that its two sides need."""
    crosses = of_system != (name in RECIPE_ASSETS)
    return dg.AssetDep(name, partition_mapping=SAME_DATASET if crosses else None)
