"""Who built which object from what: records, reuse, refs and the walk from a model to its corpus.

Belongs here: the record of a build (`records/<asset>/<partition>/<build_key>.json`), the pointer to the newest build of each
partition (`refs/<asset>/<partition>`), reuse by build key. Does not: the objects' bytes (`store.py`), nor Dagster.

Write order: object, record, ref. A crash in between leaves an object nobody names or a record nobody points to; the next run
finds the build key complete and only moves the ref.
"""

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from pydantic import Field, ValidationError
from upath import UPath

from anmi_pipeline.digests import Digest, Json, build_key
from anmi_pipeline.errors import ArtifactError
from anmi_pipeline.sealing import folders, is_partial, read_sealed, seal, write_bytes
from anmi_pipeline.settings import Config
from anmi_pipeline.store import Artifact, Store

PACKAGES = (
    "anmi-pipeline",
    "numpy",
    "polars",
    "pyarrow",
    "scipy",
    "torch",
    "transformers",
    "sentence-transformers",
    "bm25s",
    "faiss-cpu",
)
"""Packages whose version can change an answer; written to every record."""


class Upstream(Config):
    """One input of a build."""

    digest: str = Field(description="digest of what was read: the object, or the part named after #")
    object: str = Field(description="digest of the whole object")
    build_key: str = Field(description="build that made it")
    partition: str = Field(description="partition the record of that build is filed under")


class Record(Config):
    """How an object came to be."""

    asset: str = Field(description="asset")
    partition: str = Field(description="partition family the build belongs to")
    build_key: str = Field(description="identity of the build")
    digest: str = Field(description="digest of the object it gave")
    code_version: int = Field(description="explicit version of the asset's code")
    config: dict[str, object] = Field(description="every setting it read")
    seeds: tuple[int, ...] = Field(description="seeds of its random draws")
    upstream: dict[str, Upstream] = Field(description="what it read, by name, with #part where only a part was read")
    rows: dict[str, int] = Field(description="rows of each table")
    notes: dict[str, object] = Field(description="incidental facts: timings, costs, rates, counts")
    environment: dict[str, str] = Field(description="device, threads, Python, platform, packages")
    dagster_run: str | None = Field(description="Dagster run id")
    mlflow_run: str | None = Field(description="MLflow run id")
    seconds: float = Field(description="wall time of the build")
    created_at: str = Field(description="UTC time, ISO 8601")


@dataclass(frozen=True)
class Build:
    """A build that is wanted: everything that decides its content."""

    asset: str
    partition: str
    code_version: int
    config: Mapping[str, Json]
    seeds: tuple[int, ...]
    upstream: Mapping[str, Upstream]

    @property
    def key(self) -> Digest:
        """The build key."""
        digests = {name: upstream.digest for name, upstream in self.upstream.items()}
        return build_key(self.asset, self.partition, self.code_version, dict(self.config), self.seeds, digests)


class Records:
    """Records and refs of one store."""

    def __init__(self, store: Store) -> None:
        """Use the store's root."""
        self.store = store
        self.root = store.root

    def path(self, asset: str, partition: str, name: str) -> UPath:
        """File of a record."""
        return self.root / "records" / asset / file_name(partition) / f"{name}.json"

    def find(self, asset: str, partition: str, key: str) -> Record | None:
        """The complete record of a build key, or None: a record counts only while its object is complete.

        A build that is not deterministic has several: the newest counts, which is the one that the refs name. Otherwise the run
        after a rebuild would go back to the first digest.
        """
        found = [record for record in self.of_build(asset, partition, key) if self.store.has(asset, record.digest)]
        return max(found, key=lambda record: record.created_at, default=None)

    def of_build(self, asset: str, partition: str, key: str) -> list[Record]:
        """Every readable record of a build key: the first, and those filed beside it."""
        path = self.path(asset, partition, key)
        first = read_record(path)
        beside = sorted(path.parent.glob(f"{key}.*.json"), key=lambda path: path.name) if path.parent.exists() else []
        return [record for record in (first, *(read_record(other) for other in beside)) if record is not None]

    def write(self, record: Record) -> bool:
        """File a record; a different digest under a known build key goes beside the first one.

        Returns:
            True when the build key had given another digest before: the build is not deterministic.
        """
        first = read_record(self.path(record.asset, record.partition, record.build_key))
        differs = first is not None and first.digest != record.digest
        name = f"{record.build_key}.{record.digest[:12]}" if differs else record.build_key
        write_bytes(self.path(record.asset, record.partition, name), seal(record.model_dump(mode="json")))
        return differs

    def point(self, partition: str, record: Record) -> None:
        """Make a record the current one of (asset, partition)."""
        path = self.root / "refs" / record.asset / file_name(partition)
        target: Json = {
            "asset": record.asset,
            "partition": record.partition,
            "build_key": record.build_key,
            "digest": record.digest,
        }
        if read_sealed(path) != target:
            write_bytes(path, seal(target))

    def current(self, asset: str, partition: str) -> Record | None:
        """The record that the ref of (asset, partition) names; None when it was never materialised."""
        target = read_sealed(self.root / "refs" / asset / file_name(partition))
        if target is None:
            return None
        record = self.named(asset, str(target["partition"]), str(target["build_key"]), str(target["digest"]))
        if record is not None:
            return record
        raise ArtifactError(
            f"the record of {asset} for {partition} (build {str(target['build_key'])[:12]}) is absent or damaged. "
            f"Materialise {asset} again, and run `anmi verify` to see what else is."
        )

    def require(self, asset: str, partition: str) -> tuple[Record, Artifact]:
        """The current record and object of (asset, partition).

        Raises:
            ArtifactError: it was never materialised.
        """
        record = self.current(asset, partition)
        if record is None:
            raise ArtifactError(f"{asset} of {partition} is not there yet. Materialise {asset} for {partition} first.")
        return record, self.store.get(asset, record.digest)

    def parent(self, name: str, upstream: Upstream) -> Record | None:
        """The record of an upstream, None when it has been collected or damaged."""
        return self.named(asset_of(name), upstream.partition, upstream.build_key, upstream.object)

    def named(self, asset: str, partition: str, key: str, digest: str) -> Record | None:
        """The record of a build key that gave this object, None when it is absent or damaged."""
        for path in self.places(asset, partition, key, digest):
            record = read_record(path)
            if record is not None and record.digest == digest:
                return record
        return None

    def places(self, asset: str, partition: str, key: str, digest: str) -> tuple[UPath, UPath]:
        """The two files that the record of a build may be in: the first of its key, or beside it."""
        return self.path(asset, partition, key), self.path(asset, partition, f"{key}.{digest[:12]}")

    def refs(self) -> Iterator[tuple[str, str]]:
        """Every (asset, partition) that has a ref."""
        for path in self.ref_files():
            yield path.parent.name, path.name.replace("--", "|")

    def ref_files(self) -> Iterator[UPath]:
        """Every ref's file."""
        for asset in folders(self.root / "refs"):
            for path in sorted(asset.iterdir(), key=lambda path: path.name):
                if path.is_file() and not is_partial(path):
                    yield path

    def all(self) -> Iterator[tuple[UPath, Record | None]]:
        """Every record file with its record, None where it is damaged."""
        for asset in folders(self.root / "records"):
            for partition in folders(asset):
                for path in sorted(partition.glob("*.json"), key=lambda path: path.name):
                    yield path, read_record(path)


def read_record(path: UPath) -> Record | None:
    """Read a record; None when it is absent, torn, changed or of another version's form."""
    value = read_sealed(path)
    try:
        return None if value is None else Record.model_validate(value)
    except ValidationError:
        return None


def file_name(partition: str) -> str:
    """Partition key as a file name: the | of two-dimensional keys does not suit every file system.

    >>> file_name("stdlib|anmi")
    'stdlib--anmi'
    """
    return partition.replace("|", "--")


def asset_of(name: str) -> str:
    """Asset of an upstream's name.

    >>> asset_of("queries#train"), asset_of("scores@scifact|anmi"), asset_of("queries#test@scifact")
    ('queries', 'scores', 'queries')
    """
    return name.split("@", maxsplit=1)[0].split("#", maxsplit=1)[0]


def upstream_of(record: Record, artifact: Artifact, part: str | None = None) -> Upstream:
    """The input entry for reading an artifact, or one part of it."""
    return Upstream(
        digest=artifact.part_digest(part), object=artifact.digest, build_key=record.build_key, partition=record.partition
    )


def environment(device: str, threads: int) -> dict[str, str]:
    """What the record says of the machine and the packages."""
    found = {"python": platform.python_version(), "platform": platform.machine(), "device": device, "threads": str(threads)}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def now() -> str:
    """UTC time for records, fine enough to order two builds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def parts_read(asset: str, parts: Sequence[str] | None) -> list[tuple[str, str | None]]:
    """Upstream names for reading some parts of an asset, or the whole of it.

    >>> parts_read("queries", ["train"])
    [('queries#train', 'train')]
    """
    return [(f"{asset}#{part}", part) for part in parts] if parts is not None else [(asset, None)]
