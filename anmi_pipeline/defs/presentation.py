"""What a person sees of an artifact in the Dagster UI: results, lineage, links, plots, counts, schema.

Belongs here: domain results -> MetadataValues, in the order in which a person reads them. Does not: results themselves;
everything shown is read back from store and record, so a reused artifact shows the same as a fresh one.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import cast

import dagster as dg
import polars as pl

from anmi_pipeline import tables
from anmi_pipeline.defs.markdown import histogram_image, markdown_table, png_image
from anmi_pipeline.defs.workspace import Workspace
from anmi_pipeline.digests import Json
from anmi_pipeline.evaluation.config import PRIMARY_METRIC
from anmi_pipeline.evaluation.leaderboard import Leaderboard
from anmi_pipeline.evaluation.presentation import render_table
from anmi_pipeline.lineage import SPECS, Node, lineage
from anmi_pipeline.records import Record
from anmi_pipeline.store import WHOLE, Artifact
from anmi_pipeline.table_specs import TableSpec

Shown = dict[str, dg.MetadataValue]

PLOTS = "plots/"
SAMPLE_ROWS, LONGEST_CELL = 5, 60
LONGEST_TEXT = 2000
SHORT = 8
"""Digits of a digest in a table; the whole one stands alone."""
MAIN_TABLE = {"leaderboard": "metrics", "tuned_system": "scores"}
"""Which table row count and column schema are about, where an artifact has several and none bears its name."""
ANCESTORS = ("elo_table", "training_set")
CHAIN = {
    "checkpoint": "checkpoint",
    "training_set": "training set",
    "elo_table": "Elo table",
    "pairwise_judgments": "verdicts",
    "candidate_pool": "candidates",
    "corpus": "corpus",
}
"""Artifacts on the way from a model down to its corpus, with their headings."""
BOARDS = ("dev_final+test", "test", "held_out", "dev_final", "dev_select")
"""Boards in the order in which they are read; others follow by name."""
DIGEST_COLUMNS = ("digest", "call_key", "index_digest", "checkpoint", "elo_table")
APART = ("mlflow_url", "registered_model")
"""Notes that are shown as links."""


def present(artifact: Artifact, record: Record, workspace: Workspace, *, reused: bool) -> Shown:
    """Metadata of a materialisation: what it says first, where it comes from next, how it is stored last."""
    shown = headline(artifact)
    shown |= ancestry_metadata(record, workspace)
    shown |= link_metadata(record, workspace)
    shown |= {name: value_of(value) for name, value in artifact.facts.items()}
    shown |= notes_metadata(record)
    shown |= plots_metadata(artifact)
    shown |= tables_metadata(artifact)
    shown |= {
        "upstream": dg.MetadataValue.md(upstream_table(record)),
        "digest": dg.MetadataValue.text(artifact.digest),
        "build_key": dg.MetadataValue.text(record.build_key),
        "reused": dg.MetadataValue.bool(reused),
        "built_at": dg.MetadataValue.timestamp(datetime.fromisoformat(record.created_at)),
        "build_seconds": dg.MetadataValue.float(record.seconds),
        "path": dg.MetadataValue.path(str(artifact.path)),
    }
    return shown


def headline(artifact: Artifact) -> Shown:
    """What the artifact is looked at for."""
    if not sum(artifact.rows.values()):
        return {}
    match artifact.asset:
        case "elo_table":
            elo = artifact.table(tables.ELO)
            return {"elo_distribution": dg.MetadataValue.md(histogram_image("Elo of all documents", elo["elo"]))}
        case "leaderboard":
            return boards_metadata(artifact)
        case "lineage_report":
            return {"models": dg.MetadataValue.md(chain_table(artifact.table(tables.LINEAGE)))}
        case "judge_report":
            return {"report": dg.MetadataValue.md(report_table(artifact.table(tables.REPORT)))}
        case _:
            return {}


def boards_metadata(artifact: Artifact) -> Shown:
    """The winner, and the board of every query set at fixed inference settings, best first."""
    metrics = artifact.table(tables.METRICS)
    nothing = pl.DataFrame()
    board = Leaderboard(metrics, nothing, nothing, (), "")
    shown = {name: value_of(artifact.facts[name]) for name in ("winner", "variant", "why")}
    sets: list[str] = metrics["split"].unique().sort().to_list()
    for split in sorted(sets, key=lambda name: BOARDS.index(name) if name in BOARDS else len(BOARDS)):
        rows = render_table(board, split, (PRIMARY_METRIC,))
        shown[f"board_{split}"] = dg.MetadataValue.md(markdown_table(rows) or "no labelled query")
    return shown


def chain_table(traced: pl.DataFrame) -> str:
    """One line per model: the digests from its checkpoint down to the corpus."""
    rows: list[dict[str, object]] = []
    for (system,), own in traced.group_by("system", maintain_order=True):
        named = own.select(pl.col("artifact").str.split("#").list.first(), "digest").rows()
        digests = {str(artifact): str(digest) for artifact, digest in named}
        row: dict[str, object] = {heading: digests.get(name, "")[:SHORT] for name, heading in CHAIN.items()}
        rows.append({"model": system, **row})
    return markdown_table(rows)


def report_table(report: pl.DataFrame) -> str:
    """One line per measure, one column per judge."""
    return markdown_table(report.pivot("judge", index="measure", values="value"))


def ancestry_metadata(record: Record, workspace: Workspace) -> Shown:
    """Which Elo table and which training set stand behind an artifact, with links to the runs that made them.

    A board has several of them: then a table names all, since one of them would pass for the only one.
    """
    found: dict[str, dict[str, Node]] = {name: {} for name in ANCESTORS}
    for node in lineage(workspace.records, record).walk():
        if node.record is not None and node.name in found and node.record.asset != record.asset:
            found[node.name][node.digest] = node
    shown: Shown = {}
    for name, nodes in found.items():
        if len(nodes) == 1:
            shown |= ancestor_metadata(next(iter(nodes.values())), workspace)
        elif nodes:
            shown[f"{name}_versions"] = dg.MetadataValue.md(ancestors_table(nodes))
    return shown


def ancestor_metadata(node: Node, workspace: Workspace) -> Shown:
    """Digest and run links of one ancestor."""
    record = cast("Record", node.record)
    shown: Shown = {f"{node.name}_version": dg.MetadataValue.text(node.digest)}
    if record.dagster_run is not None:
        shown[f"{node.name}_run"] = dg.MetadataValue.dagster_run(record.dagster_run)
    if record.mlflow_run is not None:
        shown[f"{node.name}_mlflow"] = dg.MetadataValue.url(mlflow_link(record, workspace))
    return shown


def ancestors_table(nodes: Mapping[str, Node]) -> str:
    """Digest, partition and time of several ancestors of one kind."""
    records = {digest: cast("Record", node.record) for digest, node in nodes.items()}
    rows = [
        {"digest": digest[: 2 * SHORT], "partition": record.partition, "built at": record.created_at}
        for digest, record in sorted(records.items(), key=lambda entry: entry[1].partition)
    ]
    return markdown_table(rows)


def link_metadata(record: Record, workspace: Workspace) -> Shown:
    """Links into MLflow: the run that logged the build, the registered model."""
    shown: Shown = {}
    if record.mlflow_run is not None:
        shown["mlflow_run"] = dg.MetadataValue.url(mlflow_link(record, workspace))
    if "registered_model" in record.notes:
        name = record.notes["registered_model"]
        shown["registered_model"] = dg.MetadataValue.url(f"{workspace.settings.mlflow_ui_url}/#/models/{name}")
    return shown


def mlflow_link(record: Record, workspace: Workspace) -> str:
    """The page of a build's MLflow run on the server of today: an old record may name another port."""
    route = str(record.notes["mlflow_url"]).partition("/#/")[2]
    return f"{workspace.settings.mlflow_ui_url}/#/{route}"


def notes_metadata(record: Record) -> Shown:
    """Incidental facts; those of the training seeds side by side."""
    seeds = {name: cast("dict[str, object]", value) for name, value in record.notes.items() if name.startswith("seed_")}
    shown = {
        name: value_of(cast("Json", value)) for name, value in record.notes.items() if name not in seeds and name not in APART
    }
    if seeds:
        measures = list(dict.fromkeys(measure for values in seeds.values() for measure in values))
        rows = [
            {"measure": measure} | {name.replace("_", " "): values.get(measure) for name, values in seeds.items()}
            for measure in measures
        ]
        shown["training"] = dg.MetadataValue.md(markdown_table(rows))
    return shown


def plots_metadata(artifact: Artifact) -> Shown:
    """The object's plots."""
    shown: Shown = {}
    for name in cast("Mapping[str, Json]", artifact.manifest["files"]):
        if name.startswith(PLOTS) and name.endswith(".png"):
            title = name.removeprefix(PLOTS).removesuffix(".png")
            shown[f"plot_{title}"] = dg.MetadataValue.md(png_image(title.replace("_", " "), artifact.file(name).read_bytes()))
    return shown


def tables_metadata(artifact: Artifact) -> Shown:
    """Row count, column schema and a few rows of the main table; row counts of the others."""
    shown: Shown = {}
    first = artifact.asset if artifact.asset in artifact.rows else next(iter(artifact.rows), "")
    main = MAIN_TABLE.get(artifact.asset, first)
    for name, rows in artifact.rows.items():
        if name == main:
            shown["dagster/row_count"] = dg.MetadataValue.int(rows)
            shown["dagster/column_schema"] = dg.MetadataValue.table_schema(schema_of(SPECS[name]))
            shown["sample"] = dg.MetadataValue.md(markdown_table(sample(artifact, SPECS[name])) or "no rows")
        else:
            shown[f"rows_{name}"] = dg.MetadataValue.int(rows)
    return shown


def schema_of(spec: TableSpec) -> dg.TableSchema:
    """A table's declaration as the UI shows it."""
    columns = [
        dg.TableColumn(
            column.name,
            str(column.dtype),
            column.meaning + ("" if column.content else " (incidental)"),
            constraints=dg.TableColumnConstraints(nullable=column.nullable),
        )
        for column in spec.columns
    ]
    return dg.TableSchema(columns=columns)


def sample(artifact: Artifact, spec: TableSpec) -> pl.DataFrame:
    """The first rows, long texts cut: documents are untrusted and large."""
    stored = cast("dict[str, dict[str, dict[str, int]]]", artifact.manifest["tables"])[spec.name]
    filled = [part for part, entry in stored.items() if entry["rows"] and part != WHOLE]
    # One part is enough for a look, and cheaper than all.
    frame = artifact.table(spec, *filled[:1])
    texts = [name for name, dtype in frame.schema.items() if dtype == pl.String]
    cut = [pl.col(name).str.slice(0, 2 * SHORT if name in DIGEST_COLUMNS else LONGEST_CELL) for name in texts]
    return frame.head(SAMPLE_ROWS).with_columns(cut)


def upstream_table(record: Record) -> str:
    """What the artifact was built from."""
    rows = [
        {"input": name, "digest": entry.digest[: 2 * SHORT], "partition": entry.partition}
        for name, entry in record.upstream.items()
    ]
    return markdown_table(rows) or "no upstream artifact"


def value_of(value: Json) -> dg.MetadataValue:
    """A JSON value as metadata; rows of settings or figures as a table."""
    match value:
        case bool():
            shown = dg.MetadataValue.bool(value)
        case int():
            shown = dg.MetadataValue.int(value)
        case float():
            shown = dg.MetadataValue.float(float(f"{value:.6g}"))
        case str():
            shown = dg.MetadataValue.text(value[:LONGEST_TEXT])
        case None:
            shown = dg.MetadataValue.null()
        case [dict(), *_]:
            shown = dg.MetadataValue.md(markdown_table(cast("list[dict[str, object]]", value)))
        case _:
            shown = dg.MetadataValue.json(cast("dict[str, object]", value))
    return shown
