"""The fields a person's file must have, and how its columns become them.

Belongs here: field declarations, and the two ways to a typed frame: from JSON rows (errors name the line) and from a frame
(errors name the row). Does not: which file is read (the readers) and rules over several rows (`collection.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, cast

import polars as pl

from anmi_pipeline.collections.files import json_rows
from anmi_pipeline.errors import InputError, nearest
from anmi_pipeline.table_specs import BOOL, INT, TEXT

Kind = Literal["id", "text", "grade", "flag", "ids"]
DTYPES: dict[Kind, pl.DataType] = {"id": TEXT, "text": TEXT, "grade": INT, "flag": BOOL, "ids": pl.List(pl.String())}
WORDS: dict[Kind, str] = {
    "id": "a text or a whole number",
    "text": "a text",
    "grade": "a whole number",
    "flag": "true, false or null",
    "ids": "a list of texts",
}


@dataclass(frozen=True)
class FileField:
    """A field of our table as it stands in a file."""

    name: str
    kind: Kind
    required: bool = True


DOCUMENT_FIELDS = (
    FileField("doc_id", "id"),
    FileField("text", "text"),
    FileField("title", "text", required=False),
    FileField("group_id", "id", required=False),
)
QUERY_FIELDS = (
    FileField("query_id", "id"),
    FileField("text", "text"),
    FileField("split", "id", required=False),
    FileField("group_id", "id", required=False),
    FileField("has_evidence", "flag", required=False),
    FileField("source_ids", "ids", required=False),
)
GUARDED = ("title", "split")
"""Optional fields whose silent absence would change results: a nearly equal column name is taken for a slip."""
GRADE_FIELDS = (
    FileField("query_id", "id"),
    FileField("doc_id", "id"),
    FileField("grade", "grade"),
    FileField("split", "id", required=False),
)


def read_json_table(path: Path, fields: Sequence[FileField], columns: Mapping[str, str]) -> pl.DataFrame:
    """Read a JSON lines file.

    Args:
        path: file, plain or gzip.
        fields: what to read.
        columns: field name -> key in the file; a field that is not named has the key of its own name.

    Raises:
        InputError: names file, line, the key and the nearest one that is there.
    """
    keys = {field.name: columns.get(field.name, field.name) for field in fields}
    values: dict[str, list[object]] = {field.name: [] for field in fields}
    first = True
    for number, row in json_rows(path):
        place = f"{path} line {number}"
        if first:
            refuse_misspelt(fields, keys, columns, list(row), place)
            first = False
        for field in fields:
            values[field.name].append(json_value(row, field, keys[field.name], place))
    return pl.DataFrame(values, schema={field.name: DTYPES[field.kind] for field in fields})


def json_value(row: Mapping[str, object], field: FileField, key: str, place: str) -> object:
    """Return one value as its field wants it: ids become texts, a null text becomes empty, an absent optional field null."""
    if key not in row:
        if field.required:
            raise InputError(f'{place}: has no "{key}" ({field.name}).{nearest(key, row)}')
        return "" if field.name == "title" else None
    value = row[key]
    if value is None and (field.kind == "text" or not field.required):
        return "" if field.kind == "text" else None
    if not fits(value, field.kind):
        raise InputError(f'{place}: "{key}" is {shortened(value)}, expected {WORDS[field.kind]}.')
    return str(value) if field.kind == "id" else value


def fits(value: object, kind: Kind) -> bool:
    """Tell whether a JSON value is of the kind."""
    if kind == "ids":
        return isinstance(value, list) and all(isinstance(item, str) for item in cast(list[object], value))
    if kind == "flag":
        return isinstance(value, bool)
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return {"id": whole or isinstance(value, str), "text": isinstance(value, str), "grade": whole}[kind]


def refuse_misspelt(
    fields: Sequence[FileField], keys: Mapping[str, str], columns: Mapping[str, str], present: Sequence[str], place: str
) -> None:
    """Refuse a declared column that is not there, and an optional one that stands there nearly spelt right.

    Raises:
        InputError: names the column and the nearest that is there, or an unknown field in `columns`.
    """
    names = [field.name for field in fields]
    for name in columns:
        if name not in names:
            raise InputError(f'{place}: columns name the unknown field "{name}".{nearest(name, names)}')
    for field in fields:
        key = keys[field.name]
        if key in present:
            continue
        spare = [name for name in present if name not in keys.values()] if field.name in GUARDED else []
        close = get_close_matches(key, spare, n=1, cutoff=0.8)
        if field.required or field.name in columns or close:
            raise InputError(
                f'{place}: has no column "{key}" ({field.name}); it has {", ".join(present)}.{nearest(key, close or present)}'
            )


def shape_frame(frame: pl.DataFrame, fields: Sequence[FileField], columns: Mapping[str, str], place: str) -> pl.DataFrame:
    """Make a typed frame of the fields from a frame with the file's columns.

    Args:
        frame: rows as the file has them.
        fields: what to take.
        columns: field name -> column; a field that is not named has the column of its own name.
        place: file or dataset, for errors.

    Raises:
        InputError: a column is absent, or a value does not fit: names row, value and what is expected.
    """
    keys = {field.name: columns.get(field.name, field.name) for field in fields}
    refuse_misspelt(fields, keys, columns, frame.columns, place)
    shaped: list[pl.Series] = []
    for field in fields:
        if keys[field.name] in frame.columns:
            shaped.append(shape_column(frame[keys[field.name]], field, place).alias(field.name))
        else:
            empty = "" if field.name == "title" else None
            shaped.append(pl.Series(field.name, [empty] * frame.height, dtype=DTYPES[field.kind]))
    return pl.DataFrame(shaped)


def shape_column(column: pl.Series, field: FileField, place: str) -> pl.Series:
    """Cast one column to its field's type; ids may be whole numbers, grades and flags may be written as text."""
    if isinstance(column.dtype, pl.Categorical | pl.Enum):
        column = column.cast(pl.String)
    column_ok: dict[Kind, bool] = {
        "id": column.dtype == pl.String or column.dtype.is_integer(),
        "text": column.dtype == pl.String,
        "grade": column.dtype == pl.String or column.dtype.is_integer(),
        "flag": isinstance(column.dtype, pl.Boolean | pl.String),
        "ids": column.dtype == pl.List(pl.String),
    }
    if column.dtype != pl.Null and not column_ok[field.kind]:
        raise InputError(f'{place}: column "{column.name}" ({field.name}) holds {column.dtype}, expected {WORDS[field.kind]}.')
    if field.kind in ("grade", "flag") and column.dtype == pl.String:
        cast_column = parsed(column, field.kind)
    else:
        cast_column = column.cast(DTYPES[field.kind], strict=False)
    bad = cast_column.is_null() if field.required and field.kind != "text" else cast_column.is_null() & column.is_not_null()
    if bad.any():
        row = int(bad.arg_true()[0])
        raise InputError(
            f'{place} row {row + 1}: column "{column.name}" ({field.name}) is {shortened(column[row])}, '
            f"expected {WORDS[field.kind]}."
        )
    return cast_column.fill_null("") if field.kind == "text" else cast_column


def parsed(column: pl.Series, kind: Kind) -> pl.Series:
    """Read whole numbers or flags that stand as text (CSV); null where they do not."""
    text = column.str.strip_chars()
    if kind == "grade":
        return text.cast(pl.Int64, strict=False)
    words = {"true": True, "1": True, "false": False, "0": False}
    return text.str.to_lowercase().replace_strict(words, default=None, return_dtype=pl.Boolean)


def shortened(value: object) -> str:
    """Show a value in an error, at most 60 characters of it.

    >>> shortened(None)
    'null'
    """
    shown = "null" if value is None else repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
