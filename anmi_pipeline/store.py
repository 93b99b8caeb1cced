"""Immutable objects by content digest, in a local folder or any fsspec URL.

Belongs here: writing and reading objects, the order of writes. Does not: single files (`sealing.py`), who built an object from
what (`records.py`), nor what a table means (`tables.py`).

An object is `objects/<asset>/<digest>/`: parquet tables (whole or in parts by query split), files, `facts` (small results that
are content) and `manifest.json`, written last: an object without a valid manifest does not exist for readers. A second writer of
equal content is a no-op; it waits for the first one when the store is local.
"""

import io
from collections.abc import Generator, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import cast

import polars as pl
from filelock import FileLock
from upath import UPath

from anmi_pipeline.digests import Digest, Json, digest_bytes, digest_json, digest_safetensors, digest_table
from anmi_pipeline.errors import ArtifactError
from anmi_pipeline.sealing import folders, is_local, read_sealed, refusals, seal, unreadable, unwritable, write_bytes
from anmi_pipeline.table_specs import TableSpec

MANIFEST = "manifest.json"
WHOLE = "*"
"""Part name of a table that is not split."""
REMAKE = "Run `anmi verify` to see what else is; remove the object's folder and materialise it again."
"""What to do about a damaged object."""


@dataclass(frozen=True)
class Table:
    """A table to store: its declaration and its rows, whole or by part."""

    spec: TableSpec
    parts: Mapping[str, pl.DataFrame]

    @classmethod
    def whole(cls, spec: TableSpec, frame: pl.DataFrame) -> "Table":
        """A table stored in one file."""
        return cls(spec, {WHOLE: frame})


@dataclass(frozen=True)
class Content:
    """What an asset hands to the store.

    Attributes:
        tables: the tables, by declared name.
        folder: local folder whose files are stored as they are.
        incidental: file names in `folder` that are stored but not digested (plots, timings).
        facts: small results and settings that are part of the content.
        notes: incidental facts, kept in the record only.
    """

    tables: tuple[Table, ...] = ()
    folder: Path | None = None
    incidental: frozenset[str] = frozenset()
    facts: Mapping[str, Json] = field(default_factory=dict[str, Json])
    notes: Mapping[str, Json] = field(default_factory=dict[str, Json])


@dataclass(frozen=True)
class Artifact:
    """A stored object, readable by digest."""

    asset: str
    digest: Digest
    path: UPath
    manifest: Mapping[str, Json]

    @property
    def facts(self) -> dict[str, Json]:
        """Small results that are part of the content."""
        return cast("dict[str, Json]", self.manifest["facts"])

    @property
    def rows(self) -> dict[str, int]:
        """Rows of each table."""
        tables = cast("dict[str, dict[str, dict[str, int]]]", self.manifest["tables"])
        return {name: sum(part["rows"] for part in parts.values()) for name, parts in tables.items()}

    @cached_property
    def parts(self) -> dict[str, Digest]:
        """Part name -> digest over that part of every split table; what a reader of one part depends on."""
        tables = cast("dict[str, dict[str, dict[str, str]]]", self.manifest["tables"])
        names = sorted({part for parts in tables.values() for part in parts} - {WHOLE})
        return {
            name: digest_json({table: parts[name]["digest"] for table, parts in tables.items() if name in parts})
            for name in names
        }

    def part_digest(self, part: str | None) -> Digest:
        """Digest of one part, or of the whole object."""
        if part is None:
            return self.digest
        if part not in self.parts:
            raise ArtifactError(
                f"{self.asset} {self.digest[:12]} has no part {part!r}; it has {', '.join(self.parts) or 'none'}."
            )
        return self.parts[part]

    def table(self, spec: TableSpec, *parts: str) -> pl.DataFrame:
        """Read a table, or only the named parts of it, sorted by key.

        Raises:
            ArtifactError: the object holds no such table or part, or its file is damaged.
        """
        tables = cast("dict[str, dict[str, dict[str, str]]]", self.manifest["tables"])
        stored = tables.get(spec.name)
        if stored is None:
            raise ArtifactError(f"{self.asset} {self.digest[:12]} holds no table {spec.name}; it holds {', '.join(tables)}.")
        wanted = parts or tuple(stored)
        frames = [self.read_part(stored, part) for part in wanted]
        return pl.concat(frames).sort(spec.key) if len(frames) > 1 else frames[0]

    def read_part(self, stored: Mapping[str, Mapping[str, str]], part: str) -> pl.DataFrame:
        """Read one parquet file of a table; its hash first, since parquet itself may not notice a changed byte."""
        if part not in stored:
            raise ArtifactError(f"{self.asset} {self.digest[:12]} has no part {part!r}; it has {', '.join(stored)}.")
        name = stored[part]["file"]
        path = self.file(name)
        try:
            data = path.read_bytes()
        except refusals() as error:
            raise ArtifactError(f"{unreadable(path, error)} {REMAKE}") from error
        files = cast("dict[str, dict[str, str]]", self.manifest["files"])
        if digest_bytes(data) != files[name]["sha256"]:
            raise ArtifactError(f"{path} is damaged: its content differs from its manifest. {REMAKE}")
        return pl.read_parquet(io.BytesIO(data))

    def file(self, name: str) -> UPath:
        """Path of a file of the object.

        Raises:
            ArtifactError: the manifest names no such file.
        """
        files = cast("dict[str, Json]", self.manifest["files"])
        if name not in files:
            raise ArtifactError(f"{self.asset} {self.digest[:12]} has no file {name!r}; it has {', '.join(files) or 'none'}.")
        return self.path / name

    def local_folder(self, cache: Path) -> Path:
        """The object as a local folder: itself when the store is local, else a copy under `cache`."""
        if is_local(self.path):
            return Path(str(self.path))
        target = cache / self.asset / self.digest
        for name in cast("dict[str, Json]", self.manifest["files"]):
            copy = target / name
            if not copy.exists():
                write_bytes(UPath(copy), (self.path / name).read_bytes())
        return target


class Store:
    """Objects under one URL."""

    def __init__(self, url: str) -> None:
        """Open the store; nothing is created until something is written."""
        # A kept listing would hide what another process has written since.
        self.root = UPath(url, use_listings_cache=False) if "://" in url else UPath(url)

    def object_path(self, asset: str, digest: str) -> UPath:
        """Folder of an object."""
        return self.root / "objects" / asset / digest

    def get(self, asset: str, digest: str) -> Artifact:
        """Open an object by digest.

        Raises:
            ArtifactError: it is not there, was never finished, or its manifest is damaged.
        """
        path = self.object_path(asset, digest)
        manifest = read_sealed(path / MANIFEST)
        if manifest is None:
            raise ArtifactError(f"{asset} {digest[:12]} is not complete at {path}. Materialise {asset} again.")
        return Artifact(asset, Digest(digest), path, manifest)

    def has(self, asset: str, digest: str) -> bool:
        """Whether the object is complete: valid manifest and every file there with its size."""
        path = self.object_path(asset, digest)
        manifest = read_sealed(path / MANIFEST)
        if manifest is None:
            return False
        files = cast("dict[str, dict[str, int]]", manifest["files"])
        return all((path / name).exists() and (path / name).stat().st_size == entry["size"] for name, entry in files.items())

    def put(self, asset: str, content: Content) -> Artifact:
        """Store content under its digest: files first, manifest last.

        Raises:
            InputError: a table breaks its declaration.
            ArtifactError: the store cannot be written (full disk, read-only); what was there before stays valid.
        """
        tables = {
            table.spec.name: {
                part: {
                    "file": table_file(table, part),
                    "digest": digest_table(table.spec.validate(frame), table.spec),
                    "rows": frame.height,
                }
                for part, frame in table.parts.items()
            }
            for table in content.tables
        }
        payloads = dict(table_payloads(content))
        payloads |= dict(folder_payloads(content.folder, taken={MANIFEST, *payloads}))
        files = {name: file_entry(name, data, content) for name, data in payloads.items()}
        manifest: dict[str, Json] = {"asset": asset, "tables": tables, "files": files, "facts": dict(content.facts)}
        digest = identity(manifest)
        if not self.intact(asset, digest):
            with self.writing(asset):
                # Another process may have finished it while this one waited.
                if not self.intact(asset, digest):
                    path = self.object_path(asset, digest)
                    for name, data in payloads.items():
                        write_bytes(path / name, data)
                    write_bytes(path / MANIFEST, seal({**manifest, "digest": digest}))
        return self.get(asset, digest)

    def intact(self, asset: str, digest: str) -> bool:
        """Whether the object is complete and every byte is as its manifest says, so that a new writer mends a damaged one."""
        if not self.has(asset, digest):
            return False
        artifact = self.get(asset, digest)
        files = cast("dict[str, dict[str, str]]", artifact.manifest["files"])
        return all(digest_bytes((artifact.path / name).read_bytes()) == entry["sha256"] for name, entry in files.items())

    @contextmanager
    def writing(self, asset: str) -> Generator[None]:
        """Let one local process at a time write objects of an asset.

        Two builds of equal content may differ in incidental files: if both wrote at once, one's files could end beside the
        other's manifest. An object store has no locks: there two writers in the same moment can leave such a mix, and `verify`
        says so.

        Raises:
            ArtifactError: the store refuses the write.
        """
        if not is_local(self.root):
            yield
            return
        path = Path(str(self.root)) / "locks" / f"objects-{asset}.lock"
        lock = FileLock(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except OSError as error:
            raise ArtifactError(unwritable(UPath(path), error)) from error
        try:
            yield
        finally:
            lock.release()

    def objects(self) -> Iterator[tuple[str, str, UPath]]:
        """Every object folder: (asset, digest, path), complete or not."""
        for asset in folders(self.root / "objects"):
            for path in folders(asset):
                yield asset.name, path.name, path


def identity(manifest: Mapping[str, Json]) -> Digest:
    """Digest of an object: over the content digests of its tables and files, and its facts."""
    tables = cast("dict[str, dict[str, dict[str, str]]]", manifest["tables"])
    files = cast("dict[str, dict[str, str | None]]", manifest["files"])
    of_tables = {part["file"] for parts in tables.values() for part in parts.values()}
    return digest_json(
        {
            "tables": {name: {part: entry["digest"] for part, entry in parts.items()} for name, parts in tables.items()},
            "files": {name: entry["digest"] for name, entry in files.items() if entry["digest"] and name not in of_tables},
            "facts": manifest["facts"],
        }
    )


def table_file(table: Table, part: str) -> str:
    """File name of a table's part inside its object."""
    return f"{table.spec.name}.parquet" if part == WHOLE else f"{table.spec.name}/{part}.parquet"


def table_payloads(content: Content) -> Iterator[tuple[str, bytes]]:
    """(file name, bytes) of every table part, columns as declared and rows sorted by key: equal content gives equal bytes."""
    for table in content.tables:
        for part, frame in table.parts.items():
            sink = io.BytesIO()
            frame.select(list(table.spec.schema)).sort(table.spec.key).write_parquet(sink, compression="zstd", statistics=True)
            yield table_file(table, part), sink.getvalue()


def folder_payloads(folder: Path | None, taken: Set[str]) -> Iterator[tuple[str, bytes]]:
    """(relative name, bytes) of every file of a folder, in name order.

    Raises:
        ArtifactError: a file has the name of a table or of the manifest.
    """
    for path in sorted(folder.rglob("*")) if folder else ():
        if path.is_file():
            name = path.relative_to(cast("Path", folder)).as_posix()
            if name in taken:
                raise ArtifactError(f"the folder to store holds {name}, a name that the object itself uses. Rename the file.")
            yield name, path.read_bytes()


def file_entry(name: str, data: bytes, content: Content) -> dict[str, Json]:
    """Manifest entry: hash of the bytes, size, and the content digest (null when incidental)."""
    plain = digest_bytes(data)
    if name in content.incidental or Path(name).name in content.incidental:
        digest = None
    else:
        digest = digest_safetensors(io.BytesIO(data)) if name.endswith(".safetensors") else plain
    return {"sha256": plain, "size": len(data), "digest": digest}
