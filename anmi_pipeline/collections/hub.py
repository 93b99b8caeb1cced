"""Read collections through the package datasets: the Hugging Face Hub, folders it saved, and files it reads.

Belongs here: what is particular to that package, and how an optional extra is imported. Does not: columns (`fields.py`). Code
inside a Hub repository is never run: the package no longer can, and files are read as data.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Protocol, cast

import polars as pl

from anmi_pipeline.collections.collection import Parts
from anmi_pipeline.collections.fields import DOCUMENT_FIELDS, GRADE_FIELDS, QUERY_FIELDS, FileField, shape_frame
from anmi_pipeline.collections.files import Inputs, folder_files, resolve
from anmi_pipeline.collections.grades import GRADE_SCHEMA
from anmi_pipeline.collections.sources import HubTable, HuggingFaceSource
from anmi_pipeline.errors import InputError

COMMIT = re.compile(r"[0-9a-f]{40}")
BUILDERS = ("json", "csv", "parquet")
CACHES = {"cache-": "written by map and filter", ".": "hidden", "tmp": "being written"}


class HubDataset(Protocol):
    """What is used of a dataset of the package datasets."""

    column_names: list[str]

    def __len__(self) -> int: ...

    def with_format(self, kind: str) -> Mapping[slice, object]:
        """Return a view whose slices are of this kind."""
        ...


def extra_module(module: str, extra: str) -> ModuleType:
    """Import a package of an optional extra.

    Raises:
        InputError: it is not installed: names the extra to install.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(
            f'this source needs the package {module} ({error}). Install the extra: pip install "anmi-pipeline[{extra}]".'
        ) from error


def read_hugging_face(source: HuggingFaceSource, data_root: Path | None) -> Parts:
    """Read the tables with the package datasets; it downloads what it does not have yet.

    Raises:
        InputError: the package is not installed, a dataset cannot be read, a column is absent or a value does not fit.
    """
    grades = [
        hub_table(table, GRADE_FIELDS, source, data_root).with_columns(
            pl.col("split") if split == "all" else pl.lit(split, dtype=pl.String).alias("split")
        )
        for split, table in source.qrels.items()
    ]
    return Parts(
        corpus=hub_table(source.corpus, DOCUMENT_FIELDS, source, data_root),
        queries=hub_table(source.queries, QUERY_FIELDS, source, data_root),
        qrels=pl.concat([frame.select(list(GRADE_SCHEMA)) for frame in grades]) if grades else pl.DataFrame(schema=GRADE_SCHEMA),
        places={
            "corpus": label(source.corpus),
            "queries": label(source.queries),
            "qrels": ", ".join(label(table) for table in source.qrels.values()) or "no qrels",
        },
    )


def label(table: HubTable) -> str:
    """Name a table in errors."""
    files = f" ({', '.join(table.data_files)})" if table.data_files else ""
    return "/".join(part for part in (table.path, table.name, table.split) if part) + files


def hub_table(table: HubTable, fields: Sequence[FileField], source: HuggingFaceSource, data_root: Path | None) -> pl.DataFrame:
    """Read one table as a frame of the fields."""
    dataset = one_split(load_table(table, source, data_root), table)
    frame = (
        cast(pl.DataFrame, pl.from_arrow(dataset.with_format("arrow")[:]))
        if len(dataset)
        else pl.DataFrame(schema=dict.fromkeys(dataset.column_names, pl.Null))
    )
    return shape_frame(frame, fields, table.columns, label(table))


def load_table(table: HubTable, source: HuggingFaceSource, data_root: Path | None) -> HubDataset | dict[str, HubDataset]:
    """Open a saved folder, or let the package load files or a Hub dataset.

    Raises:
        InputError: the package cannot read it; its own words are in the message.
    """
    package = extra_module("datasets", "hf")
    folder = saved_folder(table, data_root)
    try:
        if folder is not None:
            return package.load_from_disk(str(folder))
        files = [str(resolve(path, data_root)) for path in table.data_files] or None
        return package.load_dataset(
            table.path, table.name, data_files=files, split=table.split, revision=table.revision, cache_dir=source.cache_dir
        )
    except (OSError, ValueError, package.exceptions.DatasetsError) as error:
        raise InputError(
            f"the package datasets cannot read {label(table)}: {error}. Check path, name, split and revision, and the network."
        ) from error


def saved_folder(table: HubTable, data_root: Path | None) -> Path | None:
    """Return the folder written by save_to_disk, None when the path is a Hub name or a file format.

    Raises:
        InputError: the path looks like one on disk, and nothing is there.
    """
    if table.path in BUILDERS:
        if not table.data_files:
            raise InputError(f'path "{table.path}" needs data_files.')
        return None
    if table.path.startswith(("/", ".", "~")) or (data_root is not None and (data_root / table.path).is_dir()):
        return resolve(table.path, data_root)
    return None


def one_split(loaded: HubDataset | dict[str, HubDataset], table: HubTable) -> HubDataset:
    """Pick the split.

    Raises:
        InputError: there are several and none is named, or the named one is not there.
    """
    if not isinstance(loaded, dict):
        return loaded
    if table.split is None and len(loaded) == 1:
        return next(iter(loaded.values()))
    if table.split not in loaded:
        said = "has several splits; name one" if table.split is None else f'has no split "{table.split}"'
        raise InputError(f"{label(table)} {said}: {', '.join(loaded)}.")
    return loaded[table.split]


def hugging_face_inputs(source: HuggingFaceSource, data_root: Path | None) -> Inputs:
    """Identify each table: files on disk by their bytes, a Hub dataset by its commit, without one by its content."""
    inputs = Inputs()
    tables: list[tuple[str, str, HubTable, Sequence[FileField]]] = [
        ("corpus", "corpus", source.corpus, DOCUMENT_FIELDS),
        ("queries", "queries", source.queries, QUERY_FIELDS),
        *(("qrels", f"qrels {split}", table, GRADE_FIELDS) for split, table in source.qrels.items()),
    ]
    for table, role, hub, fields in tables:
        inputs.files.setdefault(table, {}).update(disk_files(hub, role, data_root))
        said: dict[str, object] = hub.model_dump(mode="json", include={"name", "split", "columns"})
        if not disk_files(hub, role, data_root):
            said["path"] = hub.path
            pinned = hub.revision is not None and COMMIT.fullmatch(hub.revision)
            said["content"] = (
                hub.revision if pinned else content_digest(lambda h=hub, f=fields: hub_table(h, f, source, data_root))
            )
        inputs.settings.setdefault(table, {})[role] = said
    inputs.files["queries"] |= inputs.files.get("qrels", {})
    inputs.settings["queries"] |= inputs.settings.get("qrels", {})
    return inputs


def disk_files(table: HubTable, role: str, data_root: Path | None) -> dict[str, Path]:
    """Return role -> every file of a table that is on disk."""
    folder = saved_folder(table, data_root)
    if folder is not None:
        return folder_files(folder, role, CACHES)
    return {f"{role} {table.path} {number:05d}": resolve(path, data_root) for number, path in enumerate(table.data_files)}


def content_digest(load: Callable[[], pl.DataFrame]) -> str:
    """Return the sha256 over the rows of a table that nothing else pins."""
    return hashlib.sha256(b"".join(json_lines(load()))).hexdigest()


def json_lines(frame: pl.DataFrame) -> Iterator[bytes]:
    """Yield each row as one line of JSON."""
    for row in frame.iter_rows():
        yield (json.dumps(row) + "\n").encode()
