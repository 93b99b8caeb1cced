"""When things run by themselves: refreshes of judgments, and building again on changed content.

Belongs here: schedules and the automation sensor; all are off until somebody switches them on. Does not: what a refresh asks
(`judging/carrying.py`), and what runs because something happened (`sensors.py`).
"""

import re

import dagster as dg

from anmi_pipeline.catalog.datasets import load_dataset
from anmi_pipeline.defs.epochs import epoch_tags
from anmi_pipeline.defs.partitions import DATASETS, SETTINGS
from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.refreshing import RefreshConfig

REFRESHED = dg.AssetSelection.assets(
    *("corpus", "queries", "qrels"),
    *("lexical_run", "dense_run", "sparse_run", "late_interaction_run", "candidate_pool"),
    *("comparison_plan", "pairwise_judgments", "pairwise_judge", "judge_report", "comparison_graph", "elo_table"),
)

refresh_job = dg.define_asset_job(
    "refresh_judgments", selection=REFRESHED, partitions_def=DATASETS, description="A dataset's assets up to its Elo table."
)


def own_refreshes() -> dict[str, RefreshConfig]:
    """Dataset -> its refresh, for the datasets whose YAML has a cron.

    A file with an error has none: its own commands say what is wrong, and the other datasets must load.
    """
    found: dict[str, RefreshConfig] = {}
    for name in DATASETS.get_partition_keys():
        try:
            judging = load_dataset(name, SETTINGS.conf).judging
        except InputError:
            continue
        if judging.judges and not judging.recorded and judging.refresh.cron is not None:
            found[name] = judging.refresh
    return found


def refresh_schedule(dataset: str, refresh: RefreshConfig) -> dg.ScheduleDefinition:
    """The schedule of a dataset: each tick opens an epoch named after its time, and runs the dataset up to its Elo table."""
    caps = [f"${refresh.max_usd:g}"] if refresh.max_usd is not None else []
    caps += [f"{refresh.max_calls:,} calls"] if refresh.max_calls is not None else []

    @dg.schedule(
        job=refresh_job,
        cron_schedule=refresh.cron or "",
        execution_timezone="UTC",
        name=f"refresh_{re.sub(r'[^A-Za-z0-9_]', '_', dataset)}",
        description=f"Refresh of {dataset}: new queries, new documents and expired verdicts, for at most "
        f"{' or '.join(caps) or 'what the dataset may spend'}.",
    )
    def tick(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        if dataset not in context.instance.get_materialized_partitions(dg.AssetKey("pairwise_judgments")):
            return dg.SkipReason(f"{dataset} was never judged: its first epoch is a run that a person starts.")
        return requested(context, dataset, daily=refresh.daily)

    return tick


def requested(context: dg.ScheduleEvaluationContext, dataset: str, *, daily: bool) -> dg.RunRequest:
    """A refresh of a dataset at a tick."""
    epoch = context.scheduled_execution_time.strftime("%Y-%m-%d" if daily else "%Y-%m-%dT%H:%M")
    return dg.RunRequest(run_key=f"{epoch} {dataset}", partition_key=dataset, tags=epoch_tags(epoch))


OWN = own_refreshes()
"""The datasets with a cron of their own, read when the definitions load."""
dataset_refreshes = [refresh_schedule(dataset, refresh) for dataset, refresh in OWN.items()]


@dg.schedule(job=refresh_job, cron_schedule="0 3 * * 1", execution_timezone="UTC", name="refresh_judgments_weekly")
def refresh_judgments_weekly(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest]:
    """Every Monday at 03:00 UTC: a refresh of every judged dataset that has no cron of its own."""
    known = set(context.instance.get_materialized_partitions(dg.AssetKey("pairwise_judgments"))) - set(OWN)
    return [requested(context, dataset, daily=True) for dataset in sorted(known)]


build_on_changed_content = dg.AutomationConditionSensorDefinition(
    "build_on_changed_content",
    target=dg.AssetSelection.all(),
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Builds assets again when an upstream's content changed; equal content fires nothing, nothing asks a judge, and "
    "training sets follow a new Elo table only when `elo_moved` says so.",
)
