"""The Merkle graph that records form: walk it from a model to its corpus, and say what in the store is damaged.

Belongs here: the lineage tree, verification, collection of garbage. Does not: writing records (`records.py`).
"""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import polars as pl
from upath import UPath

from anmi_pipeline import tables
from anmi_pipeline.digests import build_key, digest_bytes, digest_table
from anmi_pipeline.errors import ArtifactError, InputError
from anmi_pipeline.records import Record, Records
from anmi_pipeline.store import MANIFEST, Artifact, Store, read_sealed
from anmi_pipeline.tables import TableSpec

SPECS: dict[str, TableSpec] = {spec.name: spec for spec in vars(tables).values() if isinstance(spec, TableSpec)}


@dataclass(frozen=True)
class Node:
    """One artifact in a lineage tree: the name it was read under, its record (None when gone), its parents."""

    name: str
    digest: str
    record: Record | None
    parents: tuple["Node", ...]

    def walk(self) -> Iterator["Node"]:
        """This node and every ancestor, each (name, digest) once, parents after children."""
        seen: set[tuple[str, str]] = set()
        queue: list[Node] = [self]
        while queue:
            node = queue.pop(0)
            if (node.name, node.digest) not in seen:
                seen.add((node.name, node.digest))
                yield node
                queue.extend(node.parents)


@dataclass(frozen=True)
class Damage:
    """A file that is not what its name, its seal or its manifest says."""

    path: str
    problem: str


def lineage(records: Records, record: Record, name: str | None = None, digest: str | None = None) -> Node:
    """The tree of everything a build was made from."""
    memo: dict[tuple[str, str], Node] = {}

    def grow(name: str, digest: str, record: Record | None) -> Node:
        key = (name, record.build_key if record else digest)
        if key not in memo:
            upstream = sorted(record.upstream.items()) if record else []
            parents = tuple(grow(parent, entry.digest, records.parent(parent, entry)) for parent, entry in upstream)
            memo[key] = Node(name, digest, record, parents)
        return memo[key]

    return grow(name or record.asset, digest or record.digest, record)


def find_record(records: Records, wanted: str) -> Record:
    """The record of a checkpoint (or any artifact) given as a digest prefix, a path of the store or `asset:partition`.

    Raises:
        InputError: nothing, or more than one object, fits.
    """
    text = wanted.rstrip("/")
    if ":" in text and not text.startswith("/"):
        asset, partition = text.split(":", maxsplit=1)
        current = records.current(asset, partition)
        if current is None:
            raise InputError(f"{asset} of {partition} was never materialised. `anmi lineage` without an argument lists what was.")
        return current
    prefix = text.rsplit("/", maxsplit=1)[-1]
    found = [record for _, record in records.all() if record and prefix and record.digest.startswith(prefix)]
    digests = sorted({record.digest for record in found})
    if len(digests) != 1:
        problem = f"fits {len(digests)} objects; give more digits" if digests else "fits no object"
        raise InputError(
            f'"{wanted}" {problem}. Give a digest, a path in the store, or asset:partition such as checkpoint:stdlib|anmi.'
        )
    return max(found, key=lambda record: record.created_at)


def verify(records: Records) -> Iterator[Damage]:
    """Recompute every seal, file hash, content digest and build key of the store; yield what does not hold."""
    yield from damaged_refs(records)
    for path, record in records.all():
        if record is None:
            yield Damage(str(path), "record is torn or changed")
        else:
            yield from damaged_record(records.store, path, record)
    for asset, digest, path in records.store.objects():
        yield from damaged_object(records.store, asset, digest, path)


def damaged_refs(records: Records) -> Iterator[Damage]:
    """Refs that are torn or name a record that is gone."""
    top = records.root / "refs"
    for path in sorted(top.rglob("*")) if top.exists() else ():
        if path.is_file() and not is_partial(path):
            target = read_sealed(path)
            if target is None:
                yield Damage(str(path), "ref is torn or changed")
                continue
            try:
                records.current(str(target["asset"]), path.name.replace("--", "|"))
            except ArtifactError:
                yield Damage(str(path), "ref names a record that is absent or damaged")


def damaged_record(store: Store, path: UPath, record: Record) -> Iterator[Damage]:
    """A record whose build key does not follow from its content, or whose object is not there."""
    digests = {name: upstream.digest for name, upstream in record.upstream.items()}
    config = cast("Mapping[str, None]", record.config)
    key = build_key(record.asset, record.partition, record.code_version, config, record.seeds, digests)
    if key != record.build_key:
        yield Damage(str(path), f"build key {record.build_key[:12]} does not follow from its content ({key[:12]})")
    if read_sealed(store.object_path(record.asset, record.digest) / MANIFEST) is None:
        yield Damage(str(path), f"its object {record.digest[:12]} is absent, incomplete or has a damaged manifest")


def damaged_object(store: Store, asset: str, digest: str, path: UPath) -> Iterator[Damage]:
    """Files that differ from the manifest, and tables whose rows no longer give their digest.

    An object without a manifest was never finished: nobody can read it, `anmi gc` removes it, and it is not damage.
    """
    if not (path / MANIFEST).exists():
        return
    if read_sealed(path / MANIFEST) is None:
        yield Damage(str(path / MANIFEST), "manifest is torn or changed")
        return
    artifact = store.get(asset, digest)
    files = cast("dict[str, dict[str, str]]", artifact.manifest["files"])
    for name, entry in files.items():
        if not (path / name).exists():
            yield Damage(str(path / name), "file is absent")
        elif digest_bytes((path / name).read_bytes()) != entry["sha256"]:
            yield Damage(str(path / name), "content differs from its manifest")
        else:
            yield from damaged_table(artifact, name)


def damaged_table(artifact: Artifact, name: str) -> Iterator[Damage]:
    """A parquet part whose rows do not give the digest in the manifest."""
    stored = cast("dict[str, dict[str, dict[str, str]]]", artifact.manifest["tables"])
    for table, parts in stored.items():
        for part in parts.values():
            if part["file"] == name and table in SPECS:
                frame = pl.read_parquet(io.BytesIO((artifact.path / name).read_bytes()))
                if digest_table(frame, SPECS[table]) != part["digest"]:
                    yield Damage(str(artifact.path / name), "rows do not give the digest in the manifest")


def is_partial(path: UPath) -> bool:
    """Whether a file is what a killed writer left behind."""
    return path.name.startswith(".") and path.name.endswith(".partial")


def garbage(records: Records, *, history: bool = False) -> Iterator[UPath]:
    """Folders and files that nothing needs: unfinished objects, partial files, objects without a record.

    Args:
        records: the store's records.
        history: also objects and records that no ref reaches (old Elo tables and the models trained on them are history).
    """
    top = records.root
    for room in ("objects", "records", "refs"):
        if (top / room).exists():
            yield from (path for path in sorted((top / room).rglob(".*.partial")) if is_partial(path))
    named = {(record.asset, record.digest) for _, record in records.all() if record}
    reached = reachable(records) if history else None
    for asset, digest, path in records.store.objects():
        unfinished = read_sealed(path / MANIFEST) is None
        if unfinished or (asset, digest) not in named or (reached is not None and (asset, digest) not in reached):
            yield path
    if reached is not None:
        yield from (path for path, record in records.all() if record and (record.asset, record.digest) not in reached)


def reachable(records: Records) -> set[tuple[str, str]]:
    """(asset, digest) of everything that a ref names, and their ancestors."""
    reached: set[tuple[str, str]] = set()
    for asset, partition in records.refs():
        record = records.current(asset, partition)
        if record is not None:
            for node in lineage(records, record).walk():
                if node.record is not None:
                    reached.add((node.record.asset, node.record.digest))
    return reached


def remove(path: UPath) -> None:
    """Delete a file, or a folder with all that is in it."""
    if not path.is_dir():
        path.unlink()
        return
    # The manifest first: a folder that is half deleted must not look like an object.
    manifest = path / MANIFEST
    if manifest.exists():
        manifest.unlink()
    for inner in sorted(path.rglob("*"), key=lambda file: len(file.parts), reverse=True):
        inner.rmdir() if inner.is_dir() else inner.unlink()
    if path.exists():
        path.rmdir()
