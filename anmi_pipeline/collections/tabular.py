"""Read collections that lie in tables: parquet, JSON lines, CSV or TSV with declared columns.

Belongs here: those formats. Does not: what a column must hold (`fields.py`) and splits (`splits.py`).
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from anmi_pipeline.collections.collection import Parts
from anmi_pipeline.collections.fields import (
    DOCUMENT_FIELDS,
    GRADE_FIELDS,
    QUERY_FIELDS,
    FileField,
    read_json_table,
    shape_frame,
)
from anmi_pipeline.collections.files import Inputs, resolve, text_lines
from anmi_pipeline.collections.grades import GRADE_SCHEMA
from anmi_pipeline.collections.sources import TableFile, TabularSource
from anmi_pipeline.errors import InputError

SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".csv", ".tsv")
LARGEST_CELL = 2**27
"""Bytes of one CSV cell; the csv module's own limit of 128 KiB is below what max_document_bytes may be set to."""


def read_tabular(source: TabularSource, data_root: Path | None) -> Parts:
    """Read the tables.

    Raises:
        InputError: a file or a declared column is absent, or a value does not fit: names file and line or row.
    """
    grades = [
        read_table(table, GRADE_FIELDS, data_root).with_columns(
            pl.col("split") if split == "all" else pl.lit(split, dtype=pl.String).alias("split")
        )
        for split, table in source.qrels.items()
    ]
    places = {
        "corpus": str(table_files(source.corpus, data_root)[0]),
        "queries": str(table_files(source.queries, data_root)[0]),
        "qrels": ", ".join(str(table_files(table, data_root)[0]) for table in source.qrels.values()) or "no qrels",
    }
    return Parts(
        corpus=read_table(source.corpus, DOCUMENT_FIELDS, data_root),
        queries=read_table(source.queries, QUERY_FIELDS, data_root),
        qrels=pl.concat([frame.select(list(GRADE_SCHEMA)) for frame in grades]) if grades else pl.DataFrame(schema=GRADE_SCHEMA),
        places=places,
    )


def tabular_inputs(source: TabularSource, data_root: Path | None) -> Inputs:
    """Say which bytes and settings each table depends on."""
    corpus = table_roles("corpus", source.corpus, data_root)
    queries = table_roles("queries", source.queries, data_root)
    grades: dict[str, Path] = {}
    for split, table in source.qrels.items():
        grades |= table_roles(f"qrels {split}", table, data_root)
    grade_columns = {split: table.columns for split, table in source.qrels.items()}
    return Inputs(
        files={"corpus": corpus, "queries": {**queries, **grades}, "qrels": grades},
        settings={
            "corpus": {"columns": source.corpus.columns},
            "queries": {"columns": source.queries.columns, "grades": grade_columns},
            "qrels": {"columns": grade_columns},
        },
    )


def table_roles(role: str, table: TableFile, data_root: Path | None) -> dict[str, Path]:
    """Return role -> file; the suffix counts, because it decides how the bytes are read."""
    return {f"{role} {number:05d}{suffix(path)}": path for number, path in enumerate(table_files(table, data_root))}


def table_files(table: TableFile, data_root: Path | None) -> list[Path]:
    """Return the files of a table, in name order when the path is a pattern.

    Raises:
        InputError: no such file.
    """
    if "*" not in table.path:
        return [resolve(table.path, data_root)]
    pattern = Path(table.path)
    folder = resolve(str(pattern.parent), data_root)
    found = sorted(path for path in folder.glob(pattern.name) if path.is_file())
    if not found:
        raise InputError(f'{folder} has no file like "{pattern.name}".')
    return found


def suffix(path: Path) -> str:
    """Return the suffix that says the format, in small letters, without ".gz"."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def read_table(table: TableFile, fields: Sequence[FileField], data_root: Path | None) -> pl.DataFrame:
    """Read one table from all its files."""
    return pl.concat([read_file(path, fields, table.columns) for path in table_files(table, data_root)])


def read_file(path: Path, fields: Sequence[FileField], columns: dict[str, str]) -> pl.DataFrame:
    """Read one file by its suffix.

    Raises:
        InputError: another suffix, or the file cannot be read.
    """
    match suffix(path):
        case ".jsonl" | ".ndjson":
            return read_json_table(path, fields, columns)
        case ".csv":
            return shape_frame(read_delimited(path, ","), fields, columns, str(path))
        case ".tsv":
            return shape_frame(read_delimited(path, "\t"), fields, columns, str(path))
        case ".parquet":
            return shape_frame(read_parquet(path), fields, columns, str(path))
        case other:
            raise InputError(f'{path}: a table ends in {", ".join(SUFFIXES)} (the text forms may be .gz), not in "{other}".')


def read_parquet(path: Path) -> pl.DataFrame:
    """Read a parquet file.

    Raises:
        InputError: it is not one, or it cannot be read.
    """
    try:
        return pl.read_parquet(path, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{path} cannot be read as parquet: {error}") from error


def read_delimited(path: Path, delimiter: str) -> pl.DataFrame:
    """Read a CSV (quoted cells, as RFC 4180) or a TSV (no quoting) with a header line; every cell is a text.

    Raises:
        InputError: no header, a column named twice, or a row with another number of cells: names the line.
    """
    csv.field_size_limit(max(csv.field_size_limit(), LARGEST_CELL))
    quoting = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    lines = (f"{line}\n" for _, line in text_lines(path))
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
    try:
        header = next(reader, [])
        if len(set(header)) < len(header) or not header:
            raise InputError(
                f"{path} line 1: expected a header with distinct column names, it is {', '.join(header) or 'empty'}."
            )
        rows: list[list[str]] = []
        for row in reader:
            if row and len(row) != len(header):
                raise InputError(f"{path} line {reader.line_num}: has {len(row)} cell(s), the header has {len(header)} columns.")
            if row:
                rows.append(row)
    except csv.Error as error:
        raise InputError(f"{path} line {reader.line_num}: not valid CSV ({error}). Check its quotes.") from error
    return pl.DataFrame(rows, schema=dict.fromkeys(header, pl.String), orient="row")
