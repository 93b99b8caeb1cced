"""Small stores for the tests: artifacts built in the order that `defs/` builds them, without Dagster."""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from anmi_pipeline.digests import Json
from anmi_pipeline.records import Build, Record, Records, Upstream, now, upstream_of
from anmi_pipeline.store import Content, Store, Table
from anmi_pipeline.table_specs import BOOL, FLOAT, INT, TEXT, Column, TableSpec
from anmi_pipeline.tables import CORPUS, ELO

SPEC = TableSpec(
    "made",
    ("key",),
    (
        Column("key", TEXT, "key"),
        Column("count", INT, "a whole number", nullable=True),
        Column("share", FLOAT, "a number", nullable=True),
        Column("flag", BOOL, "yes or no", nullable=True),
        Column("text", TEXT, "a text", nullable=True),
        Column("names", pl.List(pl.String()), "a list", nullable=True),
        Column("seconds", FLOAT, "incidental", nullable=True, content=False),
    ),
)
"""A table with every type a table may have."""


class Bench:
    """A store and the builds made in it."""

    def __init__(self, url: str | Path) -> None:
        self.store = Store(str(url))
        self.records = Records(self.store)

    def build(
        self,
        asset: str,
        content: Content,
        reads: Mapping[str, tuple[Record, str | None]] | None = None,
        *,
        partition: str = "tiny",
        family: str | None = None,
        config: Mapping[str, Json] | None = None,
        rebuild: bool = False,
    ) -> Record:
        """Reuse a known build, else store, record; then point."""
        upstream = {name: self.upstream(name, *read) for name, read in (reads or {}).items()}
        wanted = Build(asset, family or partition, 1, config or {}, (0,), upstream)
        record = None if rebuild else self.records.find(asset, wanted.partition, wanted.key)
        if record is None:
            artifact = self.store.put(asset, content)
            record = record_of(wanted, artifact.digest, artifact.rows)
            self.records.write(record)
        self.records.point(partition, record)
        return record

    def upstream(self, name: str, record: Record, part: str | None) -> Upstream:
        """The entry for reading a record's object."""
        return upstream_of(record, self.store.get(record.asset, record.digest), part)


def record_of(build: Build, digest: str, rows: dict[str, int]) -> Record:
    """A record with nothing incidental of interest."""
    return Record(
        asset=build.asset,
        partition=build.partition,
        build_key=build.key,
        digest=digest,
        code_version=build.code_version,
        config=dict(build.config),
        seeds=build.seeds,
        upstream=dict(build.upstream),
        rows=rows,
        notes={},
        environment={},
        dagster_run=None,
        mlflow_run=None,
        seconds=0.0,
        created_at=now(),
    )


def corpus(documents: int = 3, word: str = "text") -> Content:
    """A small corpus."""
    rows = [{"doc_id": f"d{i:03d}", "title": f"title {i}", "text": f"{word} {i}"} for i in range(documents)]
    return Content(tables=(Table.whole(CORPUS, CORPUS.frame(rows)),))


def elo_rows(query: str, scores: Mapping[str, float]) -> list[dict[str, object]]:
    """Rows of an Elo table for one query."""
    return [
        {
            "query_id": query,
            "doc_id": doc,
            "theta": (score - 1500) / 295.7,
            "elo": score,
            "std_error": 50.0,
            "rank": rank,
            "n_comparisons": 8,
            "status": "converged",
        }
        for rank, (doc, score) in enumerate(sorted(scores.items(), key=lambda item: -item[1]), start=1)
    ]


def elo(scores: Mapping[str, float], splits: tuple[str, ...] = ("train", "test")) -> Content:
    """An Elo table in parts by split."""
    parts = {split: ELO.frame(elo_rows(f"{split}-q", scores)) for split in splits}
    return Content(tables=(Table(ELO, parts),), facts={"queries": len(splits)})


def tensors(weights: Mapping[str, list[float]], metadata: dict[str, str] | None = None) -> bytes:
    """A safetensors file."""
    import numpy as np
    from safetensors.numpy import save

    return save({name: np.asarray(values, dtype=np.float32) for name, values in weights.items()}, metadata=metadata)


def files_in(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, locks aside."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if not name.startswith("locks/")}


def mixed(folder: Path, note: str = "note") -> Content:
    """Tables whole and in parts, weights, a plain file, an incidental file, facts."""
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / "model" / "weights.safetensors").write_bytes(tensors({"w": [1.0, 2.0]}))
    (folder / "settings.json").write_text("{}")
    (folder / "plot.png").write_text(note)
    tables = (*corpus().tables, *elo({"a": 1600.0, "b": 1400.0}).tables)
    return Content(tables=tables, folder=folder, incidental=frozenset({"plot.png"}), facts={"n": 2}, notes={"seconds": 1.5})
