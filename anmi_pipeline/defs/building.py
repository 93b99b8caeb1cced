"""Building an artifact once: read inputs by digest, reuse a known build, compute, store, record, point.

Belongs here: the one path every asset body takes. Does not: any computation of content.
"""

import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import dagster as dg
import polars as pl

from anmi_pipeline.catalog.datasets import DatasetConfig
from anmi_pipeline.catalog.recipes import RecipeConfig
from anmi_pipeline.defs.presentation import present
from anmi_pipeline.defs.reporting import Step, StepProgress, announce
from anmi_pipeline.defs.workspace import ASKED, Key, Workspace
from anmi_pipeline.digests import Json
from anmi_pipeline.errors import ArtifactError
from anmi_pipeline.lineage import lineage
from anmi_pipeline.records import Build, Record, Upstream, environment, now, parts_read, upstream_of
from anmi_pipeline.store import Artifact, Content, Table
from anmi_pipeline.table_specs import TableSpec
from anmi_pipeline.tables import SPLITS
from anmi_pipeline.tracking import TrackedRun

Result = dg.MaterializeResult[Any]
EMPTY = "empty_because"
"""Fact of an artifact that does not apply: skipping it would skip everything downstream, so it is there and says why."""
TAG_DIGITS = 32
"""Dagster allows 63 characters in a tag; the whole digest stands in the metadata."""


@dataclass(frozen=True)
class Read:
    """One input of a build: an asset, only some parts of it, that of another partition, or an earlier build of it."""

    asset: str
    parts: tuple[str, ...] | None = None
    partition: str | None = None
    record: Record | None = None

    def __post_init__(self) -> None:
        """Parts are read and named in the order of SPLITS, whatever order a YAML lists them in."""
        if self.parts is not None:
            object.__setattr__(self, "parts", tuple(split for split in SPLITS if split in self.parts))

    @property
    def suffix(self) -> str:
        """What tells it from the step's own current input of that asset."""
        if self.record is not None:
            return f"@{self.record.build_key[:12]}"
        return "" if self.partition is None else f"@{self.partition}"


@dataclass(frozen=True)
class Input:
    """An opened input."""

    read: Read
    record: Record
    artifact: Artifact

    def table(self, spec: TableSpec) -> pl.DataFrame:
        """Its table, only the parts that the build depends on."""
        return self.artifact.table(spec, *(self.read.parts or ()))


@dataclass
class Work:
    """What a computation is handed beside its inputs."""

    inputs: Mapping[str, Input]
    folder: Path
    bench: "Bench"
    build_key: str
    tracked: TrackedRun | None = None
    experiment: str = ""

    @property
    def log(self) -> logging.Logger:
        """The step's log."""
        return self.bench.log

    @property
    def progress(self) -> StepProgress:
        """Progress of the step."""
        return StepProgress(self.bench.asset, self.bench.log)

    def table(self, asset: str, spec: TableSpec) -> pl.DataFrame:
        """A table of an input."""
        return self.inputs[asset].table(spec)

    def local(self, asset: str) -> Path:
        """An input's files as a local folder."""
        return self.inputs[asset].artifact.local_folder(self.bench.workspace.cache)

    @contextmanager
    def track(self, experiment: str, params: Mapping[str, object], tags: Mapping[str, str]) -> Generator[TrackedRun]:
        """Open the MLflow run of this build: named after the partition, tagged with the Dagster run and every digest it reads."""
        bench = self.bench
        base = {
            "dagster.run_id": bench.context.run_id,
            "dagster.asset_key": bench.asset,
            "dagster.partition": bench.partition,
            "dagster.url": f"{bench.workspace.settings.dagster_url}/runs/{bench.context.run_id}",
        }
        with bench.workspace.tracker.run(experiment, f"{bench.asset} {bench.partition}", params, {**base, **tags}) as tracked:
            for name, entry in self.inputs.items():
                tracked.log_input(name, entry.artifact.digest, sum(entry.artifact.rows.values()), str(entry.artifact.path))
            self.tracked = tracked
            self.experiment = experiment
            yield tracked


@dataclass
class Bench:
    """One step at work: where it stands and how it builds its artifact."""

    context: dg.AssetExecutionContext
    workspace: Workspace
    key: Key = field(init=False)

    def __post_init__(self) -> None:
        """Take the partition apart."""
        self.key = Key.of(self.context)

    @property
    def asset(self) -> str:
        """Asset name."""
        return self.context.asset_key.path[-1]

    @property
    def partition(self) -> str:
        """Partition key as text."""
        return self.key.partition(self.asset)

    @property
    def log(self) -> logging.Logger:
        """The step's log."""
        return self.context.log

    @property
    def dataset(self) -> DatasetConfig:
        """The dataset under study."""
        return self.workspace.dataset(self.key.dataset)

    @property
    def recipe(self) -> RecipeConfig:
        """The recipe under study."""
        return self.workspace.recipe(cast("str", self.key.recipe), self.dataset)

    def open(self, read: Read) -> Input:
        """Open an input by the digest its ref names, or by that of the build it asks for."""
        if read.record is not None:
            return Input(read, read.record, self.workspace.store.get(read.asset, read.record.digest))
        partition = read.partition or self.key.partition(read.asset)
        record, artifact = self.workspace.records.require(read.asset, partition)
        return Input(read, record, artifact)

    def family(self) -> str:
        """Partition family: variants of a dataset share the builds in which they do not differ."""
        family = self.dataset.family
        return f"{family}|{self.key.recipe}" if self.key.recipe is not None else family

    def build(
        self,
        compute: Callable[[Work], Content],
        *,
        config: Mapping[str, Json],
        reads: Sequence[Read] = (),
        seeds: Sequence[int] = (),
        pool: str | None = None,
    ) -> Result:
        """Give the artifact of this step: the known one when its build key has a complete record, else a new one.

        Args:
            compute: makes the content from the inputs.
            config: every setting the computation reads.
            reads: the inputs.
            seeds: seeds of its draws.
            pool: pool whose lock is held while computing.
        """
        announce(Step(self.asset, self.partition, "start"))
        if not self.wanted():
            reason = f"dataset {self.key.dataset} does not list recipe {self.key.recipe}; `anmi run --recipe` builds it"
            compute, config, reads, seeds = (lambda _: Content(facts={EMPTY: reason})), {"listed": False}, (), ()
        inputs = {name_of(read): self.open(read) for read in reads}
        version = int(self.context.assets_def.code_versions_by_key[self.context.asset_key] or "0")
        build = Build(self.asset, self.family(), version, config, tuple(seeds), upstreams(inputs.values()))
        previous = self.previous()
        record, reused = self.reuse_or_make(build, inputs, compute, pool)
        self.workspace.records.point(self.partition, record)
        announce(Step(self.asset, self.partition, "reused" if reused else "built", record.digest, previous, record.seconds))
        artifact = self.workspace.store.get(self.asset, record.digest)
        metadata = present(artifact, record, self.workspace, reused=reused)
        tags = {"anmi/reused": str(reused).lower()} | elo_tag(record, self.workspace)
        return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(record.digest), tags=tags)

    def wanted(self) -> bool:
        """Whether a system is to be built: listed by its dataset, asked for by name now, or asked for before.

        The UI's "Materialize all" runs every recipe there is; those that nobody asked for are empty and say so.
        """
        if self.key.recipe is None or self.key.recipe in self.dataset.recipes or ASKED in self.context.run.tags:
            return True
        record = self.workspace.records.current(self.asset, self.partition)
        return record is not None and record.config != {"listed": False}

    def previous(self) -> str | None:
        """Digest that the ref named before this build; None when there was none, or its record is damaged and now made anew."""
        try:
            record = self.workspace.records.current(self.asset, self.partition)
        except ArtifactError:
            return None
        return record.digest if record is not None else None

    def reuse_or_make(
        self, build: Build, inputs: Mapping[str, Input], compute: Callable[[Work], Content], pool: str | None
    ) -> tuple[Record, bool]:
        """The record of a build, and whether it was known."""
        lock: AbstractContextManager[object] = self.workspace.lock(pool) if pool else nullcontext()
        known = None if self.workspace.rebuild else self.workspace.records.find(build.asset, build.partition, build.key)
        if known is not None:
            return known, True
        with lock:
            # Another process may have built it while this one waited for the lock.
            known = None if self.workspace.rebuild else self.workspace.records.find(build.asset, build.partition, build.key)
            return (known, True) if known is not None else (self.make(build, inputs, compute), False)

    def make(self, build: Build, inputs: Mapping[str, Input], compute: Callable[[Work], Content]) -> Record:
        """Compute, store and record."""
        started = time.monotonic()
        scratch = self.workspace.settings.scratch
        scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{self.asset}-", dir=scratch) as folder:
            work = Work(inputs, Path(folder), self, build.key)
            content = compute(work)
            artifact = self.workspace.store.put(build.asset, content)
        notes = dict(content.notes)
        if work.tracked is not None:
            notes["mlflow_url"] = work.tracked.url
        record = self.record(build, artifact, notes, work, time.monotonic() - started)
        if self.workspace.records.write(record):
            self.log.warning(
                f"{build.asset} is not deterministic: build {build.key[:12]} gave {artifact.digest[:12]} this time and another "
                "digest before. Both are kept; compare their records."
            )
        return record

    def record(self, build: Build, artifact: Artifact, notes: dict[str, Json], work: Work, seconds: float) -> Record:
        """The record of a finished build."""
        device, threads = hardware()
        return Record(
            asset=build.asset,
            partition=build.partition,
            build_key=build.key,
            digest=artifact.digest,
            code_version=build.code_version,
            config=dict(build.config),
            seeds=build.seeds,
            upstream=dict(build.upstream),
            rows=artifact.rows,
            notes=dict(notes),
            environment=environment(device, threads),
            dagster_run=self.context.run_id,
            mlflow_run=work.tracked.run_id if work.tracked is not None else None,
            seconds=round(seconds, 3),
            created_at=now(),
        )


def name_of(read: Read) -> str:
    """Name of an input: its asset, with the partition or the build where it is not the step's own current one."""
    return read.asset + read.suffix


def upstreams(inputs: Iterable[Input]) -> dict[str, Upstream]:
    """Input entries of a build, one per part where only parts are read."""
    entries: dict[str, Upstream] = {}
    for entry in inputs:
        for name, part in parts_read(entry.read.asset, entry.read.parts):
            entries[name + entry.read.suffix] = upstream_of(entry.record, entry.artifact, part)
    return entries


def elo_tag(record: Record, workspace: Workspace) -> dict[str, str]:
    """Tag that filters materialisations by the Elo table behind them."""
    elo = next((node for node in lineage(workspace.records, record).walk() if node.name == "elo_table"), None)
    return {"anmi/elo_version": elo.digest[:TAG_DIGITS]} if elo is not None else {}


def hardware() -> tuple[str, int]:
    """Device and thread count of this process, without importing torch where nobody has."""
    torch = sys.modules.get("torch")
    if torch is None:
        return "cpu", os.cpu_count() or 1
    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return device, int(torch.get_num_threads())


def split_parts(spec: TableSpec, frame: pl.DataFrame, queries: pl.DataFrame) -> Table:
    """A per-query table in parts by the split of its queries; every split has its part, also an empty one."""
    with_split = frame.join(queries.select("query_id", "split"), on="query_id", how="left")
    return Table(spec, {split: spec.frame(with_split.filter(pl.col("split") == split).select(frame.columns)) for split in SPLITS})
