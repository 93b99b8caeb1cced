"""A dataset whose artifacts are there without a run: made-up pools and verdicts, put into a store by hand."""

from pathlib import Path

import polars as pl

from anmi_pipeline import tables
from anmi_pipeline.digests import Json
from anmi_pipeline.judging.judges import JudgeEvidence
from anmi_pipeline.records import Record, Records
from anmi_pipeline.settings import Settings
from anmi_pipeline.store import Content, Store, Table

DATASET = """\
description: made-up pools and verdicts
source: {reader: beir, path: made}
judging: {pool_size: 20, epoch: "7", judges: [{kind: ensemble, name: one}, {kind: ensemble, name: two}]}
"""


def installation(root: Path, evidence: JudgeEvidence, facts: dict[str, Json] | None = None, lines: str = DATASET) -> Settings:
    """An installation with the dataset `made`, judged by two judges that disagree on one pair in five."""
    (root / "conf" / "datasets").mkdir(parents=True)
    (root / "data").mkdir()
    (root / "conf" / "datasets" / "made.yaml").write_text(lines, encoding="utf-8")
    environment = {name: str(root / name.removeprefix("ANMI_").lower()) for name in ("ANMI_HOME", "ANMI_CONF", "ANMI_DATA")}
    settings = Settings.from_environment(environment)
    records = Records(Store(settings.store_url))
    file(records, "corpus", Content((Table.whole(tables.CORPUS, evidence.corpus),)))
    for name, spec, frame in (("queries", tables.QUERIES, evidence.queries), ("candidate_pool", tables.POOL, evidence.pool)):
        file(records, name, Content((Table(spec, {"train": frame, "test": frame.clear()}),)))
    judged = Table.whole(tables.JUDGMENTS, made_judgments(evidence))
    file(records, "pairwise_judgments", Content((judged,), facts=facts or {}))
    return settings


def made_judgments(evidence: JudgeEvidence) -> pl.DataFrame:
    """Each judge prefers the smaller id; on every fifth pair the second judge says the opposite."""
    documents = evidence.pool.select("query_id", "doc_id").sort("query_id", "doc_id")
    pairs = documents.join(documents, on="query_id", suffix="_2").filter(pl.col("doc_id") < pl.col("doc_id_2"))
    numbered = pairs.sort(pairs.columns).with_row_index("n").filter(pl.col("n") % 4 == 0)
    parts = [
        numbered.select(
            "query_id", first_id="doc_id", second_id="doc_id_2", judge=pl.lit(judge), epoch=pl.lit("1"), round=pl.lit(1),
            audit=pl.lit(False), p_first=pl.when((pl.col("n") % 5 == 0) & (judge == "two")).then(0.1).otherwise(0.9),
            status=pl.lit("ok"), call_key=pl.lit("k"), provenance=pl.lit("model"), input_tokens=pl.lit(0),
            output_tokens=pl.lit(0), cost_usd=pl.lit(0.0),
        )
        for judge in ("one", "two")
    ]  # fmt: skip
    return tables.JUDGMENTS.frame(pl.concat(parts))


def file(records: Records, asset: str, content: Content) -> None:
    """Store content and make it the current artifact of the dataset."""
    artifact = records.store.put(asset, content)
    record = Record(
        asset=asset, partition="made", build_key=artifact.digest, digest=artifact.digest, code_version=1, config={}, seeds=(),
        upstream={}, rows=artifact.rows, notes={}, environment={}, dagster_run=None, mlflow_run=None, seconds=0.0,
        created_at="2026-01-01T00:00:00Z",
    )  # fmt: skip
    records.write(record)
    records.point("made", record)
