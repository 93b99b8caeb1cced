"""How an asset is declared: group, partitions, version, owners, pool and tags in one line.

Belongs here: the two decorators, for assets of a dataset and of a system (dataset x recipe). Does not: the assets.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

import dagster as dg

from anmi_pipeline.defs.op_tags import OWNERS
from anmi_pipeline.defs.partitions import DATASETS, SAME_DATASET, SYSTEMS
from anmi_pipeline.defs.workspace import RECIPE_ASSETS
from anmi_pipeline.errors import AnmiError, InputError, JudgeError
from anmi_pipeline.judging.batches import BatchPending

INPUT = "input"
"""Kind of a failure that the user's input caused; the command line exits with 2."""
PENDING = "batch_pending"
"""Kind of a failure of a step that waits for batches; it holds no run, and is launched again when they have ended."""

ON_CHANGED_CONTENT = (
    dg.AutomationCondition.any_deps_match(dg.AutomationCondition.data_version_changed()).since_last_handled()
    & ~dg.AutomationCondition.missing()
    & ~dg.AutomationCondition.in_progress()
    & ~dg.AutomationCondition.any_deps_in_progress()
).with_label("on changed content")
"""Fires when an upstream's content changed, not on every materialisation: equal content retrains nothing."""

COSTS_MONEY = frozenset({"pairwise_judgments", "pairwise_judge"})
"""Assets that no automation may start: only a person, or a schedule that a person switched on."""
BY_DRIFT = frozenset({"training_set"})
"""Assets that follow their Elo table only when it has moved enough: the sensor `elo_moved` launches them."""

Body = Callable[..., Any]
Decorator = Callable[[Body], dg.AssetsDefinition]


def dataset_asset(group: str, kinds: set[str], *, reads: Sequence[str] = (), **options: Any) -> Decorator:  # noqa: ANN401
    """Declare an asset partitioned by dataset; options are those of `declared`."""
    deps = [dependency(name, of_system=False) for name in reads]
    return lambda body: declared(body, group, kinds, deps, DATASETS, **options)


def system_asset(group: str, kinds: set[str], *, reads: Sequence[str] = (), **options: Any) -> Decorator:  # noqa: ANN401
    """Declare an asset partitioned by dataset x recipe; options are those of `declared`."""
    deps = [dependency(name, of_system=True) for name in reads]
    return lambda body: declared(body, group, kinds, deps, SYSTEMS, **options)


def declared(
    body: Body,
    group: str,
    kinds: set[str],
    deps: Sequence[dg.AssetDep],
    partitions: dg.PartitionsDefinition[Any],
    *,
    code_version: int = 1,
    pool: str | None = None,
    op_tags: Mapping[str, Any] | None = None,
) -> dg.AssetsDefinition:
    """Make the asset.

    Args:
        body: the asset's function; its docstring is the description.
        group: asset group.
        kinds: kinds shown on the asset.
        deps: what it depends on.
        partitions: its partitions.
        code_version: raised when the code's answer changes; part of the build key.
        pool: concurrency pool.
        op_tags: tags of the step.
    """
    decorate = dg.asset(
        group_name=group,
        kinds=kinds,
        deps=deps,
        code_version=str(code_version),
        partitions_def=partitions,
        owners=OWNERS,
        pool=pool,
        op_tags=op_tags,
        automation_condition=ON_CHANGED_CONTENT if deps and body.__name__ not in COSTS_MONEY | BY_DRIFT else None,
    )
    return decorate(failing_clearly(body))


def failing_clearly(body: Body) -> Body:
    """Let our own errors reach the UI as one sentence; only a judge's passing fault may be retried."""

    @wraps(body)
    def run(*arguments: object, **named: object) -> object:
        try:
            return body(*arguments, **named)
        except BatchPending as error:
            raise dg.Failure(f"batch pending: {error}", metadata={"kind": PENDING}, allow_retries=False) from error
        except JudgeError as error:
            raise dg.Failure(str(error), allow_retries=error.retryable) from error
        except AnmiError as error:
            kind = INPUT if isinstance(error, InputError) else "artifact"
            raise dg.Failure(str(error), metadata={"kind": kind}, allow_retries=False) from error

    return run


def dependency(name: str, *, of_system: bool) -> dg.AssetDep:
    """A dependency with the partition mapping that its two sides need."""
    crosses = of_system != (name in RECIPE_ASSETS)
    return dg.AssetDep(name, partition_mapping=SAME_DATASET if crosses else None)
