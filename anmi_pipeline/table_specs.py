"""What a declared table is: columns with types, units and meanings, and the key that makes a row unique.

Belongs here: `Column` and `TableSpec`, which shape and validate frames. Does not: the tables themselves (`tables.py`), how a
table is computed or stored. The parquet schema, the Dagster column schema, the digest (only `content` columns count) and the
validation all derive from a declaration.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from anmi_pipeline.errors import InputError

Rows = Mapping[str, object] | Sequence[Mapping[str, object]] | pl.DataFrame | None
TEXT, INT, FLOAT, BOOL = pl.String(), pl.Int64(), pl.Float64(), pl.Boolean()


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: column name, the same in code, files and UI.
        dtype: polars type.
        meaning: one line, with the unit where there is one.
        nullable: whether a null may stand in it.
        content: False for incidental columns (times, latencies, costs), which are stored but never digested.
        default: what every row holds where the column is not given; None: the column must be given.
    """

    name: str
    dtype: pl.DataType
    meaning: str
    nullable: bool = False
    content: bool = True
    default: int | float | None = None


@dataclass(frozen=True)
class TableSpec:
    """A table between two stages: its columns and the key that makes a row unique and orders the rows."""

    name: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    @cached_property
    def schema(self) -> dict[str, pl.DataType]:
        """Column name -> polars type, in order."""
        return {column.name: column.dtype for column in self.columns}

    @cached_property
    def content(self) -> list[str]:
        """The columns that the digest covers."""
        return [column.name for column in self.columns if column.content]

    def frame(self, rows: Rows = None) -> pl.DataFrame:
        """Build a frame of this table: declared columns and types only, absent ones as their default or nulls, sorted by key.

        Raises:
            InputError: a column that must be there is absent, or a value does not fit its type.
        """
        given = self.given(rows)
        absent = [c.name for c in self.columns if c.name not in given.columns and not c.nullable and c.default is None]
        if absent and (given.width or given.height):
            raise InputError(f"table {self.name} lacks column(s) {', '.join(absent)}; it has {', '.join(given.columns)}.")
        columns = [
            pl.col(c.name).cast(c.dtype) if c.name in given.columns else pl.lit(c.default, dtype=c.dtype).alias(c.name)
            for c in self.columns
        ]
        try:
            shaped = given.select(columns) if given.width else pl.DataFrame(schema=self.schema)
        except pl.exceptions.PolarsError as error:
            raise InputError(f"table {self.name}: a value does not fit its column's type: {error}") from error
        self.refuse_cut(given, shaped)
        return shaped.sort(self.key)

    def given(self, rows: Rows) -> pl.DataFrame:
        """Rows in any form as a frame of whatever types they have.

        Raises:
            InputError: the values of one column have several types.
        """
        if isinstance(rows, pl.DataFrame):
            return rows
        try:
            return pl.DataFrame(rows if rows is not None else {}, infer_schema_length=None)
        except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
            raise InputError(f"table {self.name}: the values of a column do not have one type: {error}") from error

    def refuse_cut(self, given: pl.DataFrame, shaped: pl.DataFrame) -> None:
        """Refuse a number that a cast to whole numbers would cut: polars does so without a word.

        Raises:
            InputError: names the column and the first such value.
        """
        for name, dtype in self.schema.items():
            if name in given.columns and dtype.is_integer() and given.schema[name].is_float():
                cut = given[name].filter(given[name] != given[name].cast(dtype).cast(given.schema[name]))
                if len(cut):
                    raise InputError(f"table {self.name}: column {name} holds {cut[0]}, which is not a whole number.")

    def validate(self, table: pl.DataFrame) -> pl.DataFrame:
        """Return the table when it keeps the declaration: columns, types, no forbidden null, unique key.

        Raises:
            InputError: names the column or the duplicate key.
        """
        if dict(table.schema) != self.schema:
            raise InputError(f"table {self.name} has schema {dict(table.schema)}, expected {self.schema}.")
        for column in self.columns:
            nulls = table[column.name].null_count()
            if nulls and not column.nullable:
                raise InputError(f"table {self.name}: column {column.name} has {nulls} null(s); it must have none.")
        twice = table.select(self.key).is_duplicated()
        if twice.any():
            row = table.filter(twice).select(self.key).row(0)
            raise InputError(
                f"table {self.name}: {int(twice.sum())} rows share a key, first {dict(zip(self.key, row, strict=True))}."
            )
        return table
