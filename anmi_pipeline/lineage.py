"""The Merkle graph that records form: walk it from a model to its corpus, and say what in the store is damaged.

Belongs here: the lineage tree, verification, collection of garbage. Does not: writing records (`records.py`).
"""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import polars as pl
from upath import UPath

from anmi_pipeline import tables
from anmi_pipeline.digests import build_key, digest_bytes, digest_table
from anmi_pipeline.errors import ArtifactError, InputError, nearest
from anmi_pipeline.records import Record, Records, Upstream, asset_of
from anmi_pipeline.sealing import is_local, is_partial, read_sealed
from anmi_pipeline.store import MANIFEST, Artifact, Store, identity
from anmi_pipeline.table_specs import TableSpec

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
    memo: dict[tuple[str, str, str], Node] = {}
    known: dict[tuple[str, str, str, str], Record | None] = {}

    def parent_of(name: str, entry: Upstream) -> Record | None:
        """Each record is read once: most of them are read by several others."""
        build = (asset_of(name), entry.partition, entry.build_key, entry.object)
        if build not in known:
            known[build] = records.parent(name, entry)
        return known[build]

    def grow(name: str, digest: str, record: Record | None) -> Node:
        key = (name, digest, record.build_key if record else "")
        if key not in memo:
            upstream = sorted(record.upstream.items()) if record else []
            parents = tuple(grow(parent, entry.digest, parent_of(parent, entry)) for parent, entry in upstream)
            memo[key] = Node(name, digest, record, parents)
        return memo[key]

    return grow(name or record.asset, digest or record.digest, record)


def find_record(records: Records, wanted: str) -> Record:
    """The newest record of a checkpoint (or any artifact) given as a digest prefix, a path of the store or `asset:partition`.

    Raises:
        InputError: nothing, or more than one object, fits.
    """
    text = wanted.rstrip("/")
    asset, colon, partition = text.partition(":")
    if colon and "/" not in asset and not partition.startswith("//"):
        return current_record(records, asset, partition)
    steps = text.split("/")
    room = next((number for number in reversed(range(len(steps))) if steps[number] in ("objects", "records", "refs")), None)
    if room is not None and len(steps) - room >= 3:
        return record_at(records, wanted, steps[room:])
    return only(wanted, [record for _, record in records.all() if record and text and record.digest.startswith(text)])


def current_record(records: Records, asset: str, partition: str) -> Record:
    """The record that a ref names.

    Raises:
        InputError: there is no such ref; the nearest is offered.
    """
    current = records.current(asset, partition)
    if current is None:
        hint = nearest(f"{asset}:{partition}", (f"{name}:{key}" for name, key in records.refs())).partition(" Known:")[0]
        raise InputError(
            f"{asset} of {partition} was never materialised.{hint} `anmi lineage` without an argument lists what was."
        )
    return current


def record_at(records: Records, wanted: str, steps: Sequence[str]) -> Record:
    """The record that a path of the store belongs to: (objects, asset, digest, ...), (records, asset, partition, file) or a ref.

    Raises:
        InputError: no record belongs to it.
    """
    room, asset, name = steps[:3]
    if room == "refs":
        return current_record(records, asset, name.replace("--", "|"))
    of_asset = [(path, record) for path, record in records.all() if record and record.asset == asset]
    if room == "objects":
        return only(wanted, [record for _, record in of_asset if record.digest == name])
    return only(wanted, [record for path, record in of_asset if [path.parent.name, path.name] == list(steps[2:4])])


def only(wanted: str, found: Sequence[Record]) -> Record:
    """The newest of some records of one object.

    Raises:
        InputError: there are none, or they are of several objects.
    """
    objects = sorted({f"{record.asset} {record.digest[:12]}" for record in found})
    if len(objects) != 1:
        some = ", ".join(objects[:5]) + (", ..." if len(objects) > 5 else "")
        problem = f"fits {len(objects)} objects ({some})" if objects else "fits no object"
        raise InputError(
            f'"{wanted}" {problem}. Give a digest, a path in the store, or asset:partition such as checkpoint:stdlib|anmi.'
        )
    return max(found, key=lambda record: record.created_at)


def verify(records: Records) -> Iterator[Damage]:
    """Recompute every seal, file hash, content digest and build key of the store; yield what does not hold.

    A file is named for its own fault: what only points to a damaged file is not.
    """
    yield from damaged_refs(records)
    for path, record in records.all():
        if record is None:
            yield Damage(str(path), "record is torn or changed, or of another version's form")
        else:
            yield from damaged_record(records, path, record)
    for asset, digest, path in records.store.objects():
        yield from damaged_object(records.store, asset, digest, path)


def damaged_refs(records: Records) -> Iterator[Damage]:
    """Refs that are torn, of another asset, or name a record that is gone."""
    for path in records.ref_files():
        target = cast("dict[str, str] | None", read_sealed(path))
        if target is None:
            yield Damage(str(path), "ref is torn or changed")
        elif target["asset"] != path.parent.name:
            yield Damage(str(path), f"ref is one of {target['asset']}")
        elif not exists(records.places(target["asset"], target["partition"], target["build_key"], target["digest"])):
            yield Damage(str(path), f"ref names a record that is absent (build {target['build_key'][:12]})")


def damaged_record(records: Records, path: UPath, record: Record) -> Iterator[Damage]:
    """A record whose build key does not follow from its content, in another's place, or whose object or parents are not there."""
    digests = {name: upstream.digest for name, upstream in record.upstream.items()}
    config = cast("Mapping[str, None]", record.config)
    key = build_key(record.asset, record.partition, record.code_version, config, record.seeds, digests)
    if key != record.build_key:
        yield Damage(str(path), f"build key {record.build_key[:12]} does not follow from its content ({key[:12]})")
    if path not in records.places(record.asset, record.partition, record.build_key, record.digest):
        yield Damage(str(path), f"record is one of {record.asset}, build {record.build_key[:12]}")
    if not (records.store.object_path(record.asset, record.digest) / MANIFEST).exists():
        yield Damage(str(path), f"its object {record.digest[:12]} is absent or incomplete")
    for name, upstream in record.upstream.items():
        if not exists(records.places(asset_of(name), upstream.partition, upstream.build_key, upstream.object)):
            yield Damage(str(path), f"its parent {name} {upstream.digest[:12]} has no record (build {upstream.build_key[:12]})")


def exists(places: Iterable[UPath]) -> bool:
    """Whether a file is at any of some places."""
    return any(path.exists() for path in places)


def damaged_object(store: Store, asset: str, digest: str, path: UPath) -> Iterator[Damage]:
    """Files that differ from the manifest, and tables whose rows no longer give their digest.

    An object without a manifest was never finished: nobody can read it, `anmi gc` removes it, and it is not damage.
    """
    manifest = path / MANIFEST
    if not manifest.exists():
        return
    if read_sealed(manifest) is None:
        yield Damage(str(manifest), "manifest is torn or changed")
        yield from unconfirmed(path)
        return
    artifact = store.get(asset, digest)
    if (artifact.manifest["asset"], artifact.manifest["digest"], identity(artifact.manifest)) != (asset, digest, digest):
        yield Damage(str(manifest), f"manifest is one of {artifact.manifest['asset']} {str(artifact.manifest['digest'])[:12]}")
    files = cast("dict[str, dict[str, str]]", artifact.manifest["files"])
    for name, entry in files.items():
        if not (path / name).is_file():
            yield Damage(str(path / name), "file is absent")
        elif digest_bytes((path / name).read_bytes()) != entry["sha256"]:
            yield Damage(str(path / name), "content differs from its manifest")
        else:
            yield from damaged_table(artifact, name)


def unconfirmed(path: UPath) -> Iterator[Damage]:
    """Files of an object whose hash does not stand anywhere in its damaged manifest: they may be damaged too."""
    known = (path / MANIFEST).read_bytes()
    for file in sorted(path.rglob("*"), key=str):
        if not file.is_file() or file.name == MANIFEST or is_partial(file):
            continue
        if digest_bytes(file.read_bytes()).encode() not in known:
            yield Damage(str(file), "its damaged manifest does not confirm its content")


def damaged_table(artifact: Artifact, name: str) -> Iterator[Damage]:
    """A parquet part whose rows do not give the digest in the manifest.

    A table that was stored under an older declaration cannot be digested by today's: its file hash alone stands for it.
    """
    stored = cast("dict[str, dict[str, dict[str, str]]]", artifact.manifest["tables"])
    for table, parts in stored.items():
        for part in parts.values():
            if part["file"] == name and table in SPECS:
                frame = pl.read_parquet(io.BytesIO((artifact.path / name).read_bytes()))
                if dict(frame.schema) == SPECS[table].schema and digest_table(frame, SPECS[table]) != part["digest"]:
                    yield Damage(str(artifact.path / name), "rows do not give the digest in the manifest")


def garbage(records: Records, *, history: bool = False) -> Iterator[UPath]:
    """Folders and files that nothing needs: unfinished objects, partial files, objects without a record.

    What is damaged is kept: it may be all that is left of something. While a record of an asset is damaged, every finished
    object of that asset may be the one it named and is kept as well.

    Args:
        records: the store's records.
        history: also objects and records that no ref reaches (old Elo tables and the models trained on them are history).

    Raises:
        ArtifactError: with `history`, a ref or an ancestor is damaged, so that nobody can tell what is still reached.
    """
    reached = reachable(records) if history else None
    for room in ("objects", "records", "refs"):
        top = records.root / room
        yield from (path for path in sorted(top.rglob(".*.partial"), key=str) if is_partial(path)) if top.exists() else ()
    filed = list(records.all())
    named = {(record.asset, record.digest) for _, record in filed if record}
    unsure = {path.parent.parent.name for path, record in filed if record is None}
    for asset, digest, path in records.store.objects():
        unfinished = not (path / MANIFEST).exists()
        nameless = (asset, digest) not in named and asset not in unsure
        if unfinished or nameless or (reached is not None and (asset, digest) not in reached):
            yield path
    if reached is not None:
        yield from (path for path, record in filed if record and (record.asset, record.digest) not in reached)


def reachable(records: Records) -> set[tuple[str, str]]:
    """(asset, digest) of everything that a ref names, and their ancestors.

    Raises:
        ArtifactError: a ref is damaged, or an ancestor has no readable record.
    """
    reached: set[tuple[str, str]] = set()
    for asset, partition in records.refs():
        record = records.current(asset, partition)
        if record is None:
            raise ArtifactError(
                f"the ref of {asset} for {partition} is damaged. Materialise {asset} again before removing history."
            )
        for node in lineage(records, record).walk():
            if node.record is None:
                raise ArtifactError(
                    f"{asset} of {partition} was made from {node.name} {node.digest[:12]}, whose record is absent or damaged. "
                    f"Materialise {asset_of(node.name)} again before removing history."
                )
            reached.add((node.record.asset, node.record.digest))
    return reached


def remove(path: UPath) -> None:
    """Delete a file, or a folder with all that is in it."""
    if not path.is_dir():
        path.unlink()
        return
    below = sorted(path.rglob("*"), key=lambda file: len(file.parts), reverse=True)
    files = [file for file in below if file.is_file()]
    # The manifest first: a folder that is half deleted must not look like an object.
    for file in sorted(files, key=lambda file: file != path / MANIFEST):
        file.unlink()
    if is_local(path):
        for folder in (*(folder for folder in below if folder not in files), path):
            folder.rmdir()
