"""When things run by themselves: the refresh of judgments, and retraining on changed content.

Belongs here: schedules and the automation sensor; both are off until somebody switches them on. Does not: what a refresh asks,
which is the ledger's business: verdicts that are known are not asked again.
"""

import dagster as dg

from anmi_pipeline.defs.partitions import DATASETS

REFRESHED = dg.AssetSelection.assets(
    *("corpus", "queries", "qrels"),
    *("lexical_run", "dense_run", "sparse_run", "late_interaction_run", "candidate_pool"),
    *("comparison_plan", "pairwise_judgments", "judge_report", "comparison_graph", "elo_table"),
)

refresh_job = dg.define_asset_job(
    "refresh_judgments", selection=REFRESHED, partitions_def=DATASETS, description="A dataset's assets up to its Elo table."
)


@dg.schedule(job=refresh_job, cron_schedule="0 3 * * 1", execution_timezone="UTC", name="refresh_judgments_weekly")
def refresh_judgments_weekly(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest]:
    """Every Monday at 03:00 UTC: read every materialised dataset again and ask only for verdicts that are new."""
    known = context.instance.get_materialized_partitions(dg.AssetKey("pairwise_judgments"))
    tick = context.scheduled_execution_time.strftime("%Y-%m-%d")
    return [dg.RunRequest(run_key=f"{tick} {dataset}", partition_key=dataset) for dataset in sorted(known)]


build_on_changed_content = dg.AutomationConditionSensorDefinition(
    "build_on_changed_content",
    target=dg.AssetSelection.all(),
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Builds assets again when an upstream's content changed; equal content fires nothing, and nothing asks a judge.",
)
