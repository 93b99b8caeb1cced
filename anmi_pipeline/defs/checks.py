"""Asset checks: blocking ones for unusable data, warnings for drift.

Belongs here: schema, coverage, connectivity and lineage checks. Does not: what makes data right (`tables.py`, the stages). A
check is its own step: an inline one could not see the tags of its own materialisation.
"""

import hashlib
from collections.abc import Iterable

import dagster as dg
import polars as pl
from dagster._core.definitions.data_version import DATA_VERSION_TAG, get_input_data_version_tag

from anmi_pipeline import tables
from anmi_pipeline.defs.declaring import failing_clearly
from anmi_pipeline.defs.partitions import DATASETS, SYSTEMS
from anmi_pipeline.defs.workspace import RECIPE_ASSETS, Key, Workspace
from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.asking import CAPPED
from anmi_pipeline.lineage import SPECS, lineage
from anmi_pipeline.rating.coverage import Flagged
from anmi_pipeline.rating.coverage import coverage as covered
from anmi_pipeline.records import Record
from anmi_pipeline.store import Artifact

TABLE_ASSETS = (
    *("corpus", "queries", "qrels"),
    *("lexical_run", "dense_run", "sparse_run", "late_interaction_run", "candidate_pool"),
    *("comparison_plan", "pairwise_judgments", "judge_report", "comparison_graph", "elo_table"),
    *("training_set", "scores", "tuned_system", "leaderboard", "lineage_report"),
)
MOST_FLAGGED = 0.5
"""Share of queries under the coverage floor above which nothing is scored."""
FLIP_WARNING = 0.35
"""Share of audited pairs whose verdict turns with the order, above which a judge says little."""


def current(context: dg.AssetCheckExecutionContext, workspace: Workspace, asset: str) -> tuple[Record, Artifact, Key]:
    """What the check looks at: the artifact that the step's partition names now."""
    key = Key.of_partition(context.partition_key)
    record, artifact = workspace.records.require(asset, key.partition(asset))
    return record, artifact, key


def schema_check(asset: str) -> dg.AssetChecksDefinition:
    """A blocking check: every stored table keeps its declaration (columns, types, nulls, unique key)."""

    @dg.asset_check(
        asset=asset,
        name="schema",
        blocking=True,
        partitions_def=SYSTEMS if asset in RECIPE_ASSETS else DATASETS,
        description="Every stored table keeps its declared columns, types and key.",
    )
    @failing_clearly
    def check(context: dg.AssetCheckExecutionContext, workspace: dg.ResourceParam[Workspace]) -> dg.AssetCheckResult:
        _, artifact, _ = current(context, workspace, asset)
        try:
            for name in artifact.rows:
                SPECS[name].validate(artifact.table(SPECS[name]))
        except InputError as error:
            return dg.AssetCheckResult(passed=False, severity=dg.AssetCheckSeverity.ERROR, description=str(error))
        return dg.AssetCheckResult(passed=True, metadata={name: rows for name, rows in artifact.rows.items()})

    return check


schema_checks = [schema_check(asset) for asset in TABLE_ASSETS]


@dg.asset_check(asset="pairwise_judgments", name="coverage", blocking=True, partitions_def=DATASETS)
@failing_clearly
def coverage(context: dg.AssetCheckExecutionContext, workspace: dg.ResourceParam[Workspace]) -> dg.AssetCheckResult:
    """Queries reach the dataset's floor; those below it are not scored, and where they are the most nothing is."""
    _, artifact, key = current(context, workspace, "pairwise_judgments")
    verdicts = artifact.table(tables.JUDGMENTS)
    flagged = Flagged.of(verdicts, workspace.dataset(key.dataset).judging.coverage_floor)
    queries = verdicts["query_id"].n_unique()
    answered = float((verdicts["status"] == "ok").sum()) / max(verdicts.height, 1)
    # Some queries may be hard to answer; when it is most of them it is the judge, and a person must look.
    severity = dg.AssetCheckSeverity.ERROR if len(flagged) > MOST_FLAGGED * queries else dg.AssetCheckSeverity.WARN
    said = f" {flagged.said(queries)}" if len(flagged) else ""
    if severity == dg.AssetCheckSeverity.ERROR:
        said = f" {flagged.said(queries, what_failed(verdicts))} {after_failures(verdicts, key.dataset)}"
    text = f"{answered:.1%} of {verdicts.height:,} verdicts were answered.{said}"
    metadata = {"answered": answered, "queries_under_coverage_floor": len(flagged)}
    return dg.AssetCheckResult(passed=not len(flagged), severity=severity, description=text, metadata=metadata)


def what_failed(verdicts: pl.DataFrame) -> str:
    """Failures by judge and kind: where they stop the run, there is no judge report to look into."""
    counts = verdicts.filter(pl.col("status") != "ok").group_by("judge", "status").len().sort("judge", "status")
    return f"Failed: {', '.join(f'{judge} {status} {count:,}' for judge, status, count in counts.iter_rows())}."


def after_failures(verdicts: pl.DataFrame, dataset: str) -> str:
    """What a person can do about verdicts that are not there."""
    capped = (verdicts["status"] == CAPPED).any()
    more = "Raise the cap and run again" if capped else f"`anmi refresh --dataset {dataset}` asks failed calls again"
    return f"Nothing is scored. {more}; judging.coverage_floor says how much of a query must be there."


@dg.asset_check(asset="comparison_graph", name="connectivity", blocking=True, partitions_def=DATASETS)
@failing_clearly
def connectivity(context: dg.AssetCheckExecutionContext, workspace: dg.ResourceParam[Workspace]) -> dg.AssetCheckResult:
    """Designed graphs are connected; those of recorded verdicts may not be, nor where calls failed, and then it only warns."""
    _, artifact, key = current(context, workspace, "comparison_graph")
    graph = artifact.table(tables.COMPARISONS)
    split = graph.group_by("query_id").agg(pl.col("component").n_unique().alias("n")).filter(pl.col("n") > 1)
    recorded = bool(workspace.dataset(key.dataset).judging.recorded)
    judged = workspace.records.require("pairwise_judgments", key.partition("pairwise_judgments"))[1].table(tables.JUDGMENTS)
    designed = split.join(covered(judged).filter(pl.col("coverage") == 1), on="query_id", how="semi")
    severity = dg.AssetCheckSeverity.WARN if recorded or designed.is_empty() else dg.AssetCheckSeverity.ERROR
    first = ", ".join(split["query_id"].sort().head(5))
    text = f"{split.height} quer(ies) have a graph of several components, first {first}: scores compare only within one."
    description = text if split.height else "every query's graph is connected"
    return dg.AssetCheckResult(passed=split.is_empty(), severity=severity, description=description)


@dg.asset_check(asset="judge_report", name="order_consistency", partitions_def=DATASETS)
@failing_clearly
def order_consistency(context: dg.AssetCheckExecutionContext, workspace: dg.ResourceParam[Workspace]) -> dg.AssetCheckResult:
    """Warns when a judge's verdicts turn with the order in which documents are shown."""
    _, artifact, _ = current(context, workspace, "judge_report")
    flips = artifact.table(tables.REPORT).filter(pl.col("measure") == "flip_rate")
    worst = flips.filter(pl.col("value") > FLIP_WARNING)
    text = (
        "; ".join(f"{row['judge']} {row['value']:.1%} of {row['n']}" for row in flips.iter_rows(named=True)) or "nothing audited"
    )
    return dg.AssetCheckResult(passed=worst.is_empty(), severity=dg.AssetCheckSeverity.WARN, description=f"flip rate: {text}")


@dg.asset_check(asset="elo_table", name="fits_converged", partitions_def=DATASETS)
@failing_clearly
def fits_converged(context: dg.AssetCheckExecutionContext, workspace: dg.ResourceParam[Workspace]) -> dg.AssetCheckResult:
    """Warns when a query's fit did not converge or its graph is disconnected."""
    _, artifact, _ = current(context, workspace, "elo_table")
    statuses = artifact.table(tables.ELO).unique("query_id")["status"]
    odd = statuses.filter(~(statuses.str.contains("converged") | (statuses == "simulated")))
    text = f"{odd.len()} of {statuses.len()} queries did not converge"
    return dg.AssetCheckResult(passed=odd.is_empty(), severity=dg.AssetCheckSeverity.WARN, description=text)


@dg.asset_check(asset="leaderboard", name="above_placebo", partitions_def=DATASETS)
@failing_clearly
def above_placebo(context: dg.AssetCheckExecutionContext, workspace: dg.ResourceParam[Workspace]) -> dg.AssetCheckResult:
    """Warns when a system trained on Elo is not above its control, whose Elo is shuffled inside each query."""
    _, artifact, _ = current(context, workspace, "leaderboard")
    contrasts = artifact.table(tables.CONTRASTS).filter(
        (pl.col("baseline") == "placebo") & (pl.col("metric") == "nDCG@10") & (pl.col("system") == "anmi")
    )
    below = contrasts.filter(pl.col("low") <= 0)
    text = "; ".join(
        f"{r['split']} {r['difference']:+.3f} [{r['low']:+.3f}, {r['high']:+.3f}]" for r in contrasts.iter_rows(named=True)
    )
    description = f"anmi against the placebo: {text or 'not on the board'}"
    return dg.AssetCheckResult(passed=below.is_empty(), severity=dg.AssetCheckSeverity.WARN, description=description)


@dg.asset_check(asset="checkpoint", name="lineage_consistent", blocking=True, partitions_def=SYSTEMS)
@failing_clearly
def lineage_consistent(context: dg.AssetCheckExecutionContext, workspace: dg.ResourceParam[Workspace]) -> dg.AssetCheckResult:
    """The record, the refs and what Dagster recorded name the same training set, which names the current Elo table."""
    record, artifact, key = current(context, workspace, "checkpoint")
    problems = [*inconsistent_refs(workspace, record, key), *inconsistent_events(context, workspace, artifact, key)]
    elo = [node for node in lineage(workspace.records, record).walk() if node.name == "elo_table"]
    sound = f"trained on Elo table {elo[0].digest[:12]}" if elo else "untrained"
    description = " ".join(problems) or sound
    return dg.AssetCheckResult(passed=not problems, severity=dg.AssetCheckSeverity.ERROR, description=description)


def inconsistent_refs(workspace: Workspace, record: Record, key: Key) -> Iterable[str]:
    """Upstreams of the record, and the Elo table behind them, that are not what the refs name now."""
    for node in lineage(workspace.records, record).walk():
        if node.name not in ("training_set", "elo_table") or node.record is None:
            continue
        now = workspace.records.require(node.name, key.partition(node.name))[1]
        if now.digest != node.digest:
            yield (
                f"checkpoint of {key.dataset}|{key.recipe} was built from {node.name} {node.digest[:12]}, but the current one is "
                f"{now.digest[:12]}. Materialise training_set and checkpoint again."
            )


def inconsistent_events(
    context: dg.AssetCheckExecutionContext, workspace: Workspace, artifact: Artifact, key: Key
) -> Iterable[str]:
    """Dagster's own record of this materialisation, where it differs from the store."""
    filters = dg.AssetRecordsFilter(asset_key=dg.AssetKey("checkpoint"), asset_partitions=[str(context.partition_key)])
    events = context.instance.fetch_materializations(filters, limit=1).records
    materialization = events[0].asset_materialization if events else None
    if materialization is None or materialization.tags is None:
        return
    version = materialization.tags.get(DATA_VERSION_TAG)
    if version != artifact.digest:
        yield f"Dagster recorded checkpoint {str(version)[:12]}, the ref names {artifact.digest[:12]}."
    tag = get_input_data_version_tag(dg.AssetKey("training_set"))
    seen = materialization.tags.get(tag)
    digest = workspace.records.require("training_set", key.partition("training_set"))[1].digest
    if seen is not None and seen not in (digest, combined(digest)):
        yield f"Dagster recorded input training_set {seen[:12]}, the ref names {digest[:12]}."


def combined(digest: str) -> str:
    """The version Dagster records for a mapped partition: a hash over the digests of all mapped partitions, here one."""
    return hashlib.sha256(digest.encode()).hexdigest()
