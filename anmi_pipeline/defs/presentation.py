"""What a person sees of an artifact in the Dagster UI: counts, schema, digests, links, plots.

Belongs here: domain results -> MetadataValues. Does not: results themselves; everything shown is read back from store and record,
so a reused artifact shows the same as a fresh one.
"""

import base64
from collections.abc import Mapping
from typing import cast

import dagster as dg
import polars as pl

from anmi_pipeline.defs.workspace import Workspace
from anmi_pipeline.digests import Json
from anmi_pipeline.lineage import SPECS, Node, lineage
from anmi_pipeline.records import Record
from anmi_pipeline.store import Artifact

PLOTS = "plots/"
SAMPLE_ROWS = 5
LONGEST_NOTE = 2000


def present(artifact: Artifact, record: Record, workspace: Workspace, *, reused: bool) -> dict[str, dg.MetadataValue]:
    """Metadata of a materialisation."""
    shown: dict[str, dg.MetadataValue] = {
        "digest": dg.MetadataValue.text(artifact.digest),
        "build_key": dg.MetadataValue.text(record.build_key),
        "reused": dg.MetadataValue.bool(reused),
        "path": dg.MetadataValue.path(str(artifact.path)),
        "build_seconds": dg.MetadataValue.float(record.seconds),
        "built_at": dg.MetadataValue.text(record.created_at),
        "upstream": dg.MetadataValue.md(upstream_table(record)),
    }
    shown |= tables_metadata(artifact)
    shown |= {name: value_of(value) for name, value in artifact.facts.items()}
    shown |= {name: value_of(cast("Json", value)) for name, value in record.notes.items() if name != "mlflow_url"}
    if record.mlflow_run is not None:
        shown["mlflow_run"] = dg.MetadataValue.url(str(record.notes["mlflow_url"]))
    shown |= plots_metadata(artifact)
    return shown | ancestry_metadata(record, workspace)


def tables_metadata(artifact: Artifact) -> dict[str, dg.MetadataValue]:
    """Row count, column schema and a few rows of the main table; row counts of the others."""
    shown: dict[str, dg.MetadataValue] = {}
    for position, (name, rows) in enumerate(artifact.rows.items()):
        spec = SPECS[name]
        if position == 0:
            columns = [
                dg.TableColumn(
                    column.name,
                    str(column.dtype),
                    column.meaning + ("" if column.content else " (incidental)"),
                    constraints=dg.TableColumnConstraints(nullable=column.nullable),
                )
                for column in spec.columns
            ]
            shown["dagster/row_count"] = dg.MetadataValue.int(rows)
            shown["dagster/column_schema"] = dg.MetadataValue.table_schema(dg.TableSchema(columns=columns))
            shown["sample"] = dg.MetadataValue.md(markdown_table(sample(artifact.table(spec))))
        else:
            shown[f"rows_{name}"] = dg.MetadataValue.int(rows)
    return shown


def sample(frame: pl.DataFrame) -> pl.DataFrame:
    """A few rows, long texts cut: documents are untrusted and large."""
    texts = [pl.col(name).str.slice(0, 60) for name, dtype in frame.schema.items() if dtype == pl.String]
    return frame.head(SAMPLE_ROWS).with_columns(texts)


def plots_metadata(artifact: Artifact) -> dict[str, dg.MetadataValue]:
    """The object's plots, drawn in place."""
    shown: dict[str, dg.MetadataValue] = {}
    for name in cast("Mapping[str, Json]", artifact.manifest["files"]):
        if name.startswith(PLOTS) and name.endswith(".png"):
            title = name.removeprefix(PLOTS).removesuffix(".png")
            image = base64.b64encode(artifact.file(name).read_bytes()).decode()
            shown[f"plot_{title}"] = dg.MetadataValue.md(f"![{title}](data:image/png;base64,{image})")
    return shown


def ancestry_metadata(record: Record, workspace: Workspace) -> dict[str, dg.MetadataValue]:
    """Which Elo table and which training set stand behind an artifact, with links to the runs that made them."""
    shown: dict[str, dg.MetadataValue] = {}
    for node in lineage(workspace.records, record).walk():
        if node.record is not None and node.name in ("elo_table", "training_set") and node.record.asset != record.asset:
            shown |= ancestor_metadata(node)
    return shown


def ancestor_metadata(node: Node) -> dict[str, dg.MetadataValue]:
    """Digest and run links of one ancestor."""
    record = cast("Record", node.record)
    shown: dict[str, dg.MetadataValue] = {f"{node.name}_version": dg.MetadataValue.text(node.digest)}
    if record.dagster_run is not None:
        shown[f"{node.name}_run"] = dg.MetadataValue.dagster_run(record.dagster_run)
    if record.mlflow_run is not None:
        shown[f"{node.name}_mlflow"] = dg.MetadataValue.url(str(record.notes["mlflow_url"]))
    return shown


def upstream_table(record: Record) -> str:
    """What the artifact was built from."""
    rows = [{"input": name, "digest": entry.digest[:16], "partition": entry.partition} for name, entry in record.upstream.items()]
    return markdown_table(pl.DataFrame(rows)) if rows else "no upstream artifact"


def value_of(value: Json) -> dg.MetadataValue:
    """A JSON value as metadata."""
    match value:
        case bool():
            return dg.MetadataValue.bool(value)
        case int():
            return dg.MetadataValue.int(value)
        case float():
            return dg.MetadataValue.float(value)
        case str():
            return dg.MetadataValue.text(value[:LONGEST_NOTE])
        case None:
            return dg.MetadataValue.null()
        case _:
            return dg.MetadataValue.json(cast("dict[str, object]", value))


def markdown_table(frame: pl.DataFrame) -> str:
    """A small frame as a Markdown table, with the characters that would break or inject escaped."""
    head = "| " + " | ".join(frame.columns) + " |"
    rule = "|" + " --- |" * frame.width
    rows = ["| " + " | ".join(escape_markdown(value) for value in row) + " |" for row in frame.iter_rows()]
    return "\n".join([head, rule, *rows])


def escape_markdown(value: object) -> str:
    r"""A cell's text: floats to 4 digits, and no character that Markdown or HTML would act on.

    >>> escape_markdown("<b>|x")
    '&lt;b&gt;\\|x'
    """
    text = f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)
    for character in ("\\", "|", "`", "*", "_", "[", "]", "!"):
        text = text.replace(character, "\\" + character)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", " ")
