"""Files of exported verdicts: their columns and kinds, reading them block by block, and what makes a row wrong.

Belongs here: the format. Does not: the ledger that such a file comes from or is added to (`ledger_transfers.py`), verdicts that
people or other systems bring without call keys (`imports.py`).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from anmi_pipeline.errors import InputError, nearest
from anmi_pipeline.judging.ledger import STORED, TABLE
from anmi_pipeline.judging.verdicts import OK, PROVENANCES

BLOCK = 10_000
"""Rows that are held at once."""
CSV_BLOCK = 4 * 2**20
"""Bytes of a CSV file that are read at once; no row may be longer."""
MOST_COMPLAINTS = 20

FILE = {name: STORED[name] for name in (column.name for column in TABLE.columns) if name != "id"}
"""Columns of a file: all of a verdict but its number, which every ledger gives anew."""
ARROW = {pl.String(): pa.string(), pl.Int64(): pa.int64(), pl.Float64(): pa.float64()}
SCHEMA = pa.schema([pa.field(name, ARROW[dtype]) for name, dtype in FILE.items()])
TIME = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$"
"""A time as `ledger.now` writes it."""


def kind_of(path: Path) -> str:
    """The format that a file's name asks for: csv, csv.gz or parquet.

    Raises:
        InputError: none of them.
    """
    for kind in ("parquet", "csv.gz", "csv"):
        if path.name.lower().endswith(f".{kind}"):
            return kind
    raise InputError(f"{path} is neither .csv, .csv.gz nor .parquet. Name a file that ends so.")


def refuse_wrong_rows(path: Path) -> int:
    """Read a file once and refuse it when a row is no verdict; the number of its rows."""
    complaints: list[str] = []
    wrong = row = 0
    for block in file_blocks(path):
        rows, lost = typed(block)
        for number, problem in problems(rows, lost):
            wrong += 1
            if len(complaints) < MOST_COMPLAINTS:
                complaints.append(f"row {row + number + 1}: {problem}")
        row += block.height
    if wrong:
        more = f"; and {wrong - len(complaints)} more" if wrong > len(complaints) else ""
        raise InputError(f"{path} has {wrong} wrong row(s): {'; '.join(complaints)}{more}. Nothing was imported.")
    return row


def file_blocks(path: Path) -> Iterator[pl.DataFrame]:
    """The file's columns as they are read, block by block.

    Raises:
        InputError: it cannot be read, or is no export of a ledger.
    """
    try:
        for batch in batches(path, kind_of(path)):
            frame = pl.DataFrame(batch)
            if frame.height:
                yield frame.select(list(FILE))
    except (OSError, pa.ArrowException, pl.exceptions.PolarsError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def batches(path: Path, kind: str) -> Iterator[pa.RecordBatch]:
    """Record batches of a file with the columns of an export; those of CSV are texts."""
    if kind == "parquet":
        with pq.ParquetFile(path) as source:
            refuse_columns(path, source.schema_arrow.names)
            yield from source.iter_batches(BLOCK)
        return
    convert = pc.ConvertOptions(
        column_types={name: pa.string() for name in FILE}, strings_can_be_null=True, quoted_strings_can_be_null=False,
        null_values=[""],
    )  # fmt: skip
    with (
        pa.input_stream(path, compression="gzip" if kind == "csv.gz" else None) as stream,
        pc.open_csv(
            stream,
            pc.ReadOptions(block_size=CSV_BLOCK),
            pc.ParseOptions(newlines_in_values=True),
            convert,
        ) as reader,
    ):
        refuse_columns(path, reader.schema.names)
        for batch in reader:
            for start in range(0, batch.num_rows, BLOCK):
                yield batch.slice(start, BLOCK)


def refuse_columns(path: Path, names: Sequence[str]) -> None:
    """Refuse a file with other columns than an export's."""
    absent = [name for name in FILE if names.count(name) != 1]
    unknown = [name for name in names if name not in FILE]
    if "call_key" in absent and "query_id" in names:
        raise InputError(
            f"{path} has no call keys: it is no export of a ledger. Verdicts of people or of other systems belong to a dataset; "
            "import them with --dataset."
        )
    if absent or unknown:
        what = f"lacks column(s) {', '.join(absent)}" if absent else f"has unknown column(s) {', '.join(unknown)}"
        hint = nearest(unknown[0], FILE) if unknown and not absent else ""
        raise InputError(f"{path} is no export of a ledger: it {what}.{hint}")


def typed(block: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, pl.Series]]:
    """A block with the ledger's types, and for each column which rows held something that does not fit."""
    frame = block.with_columns(pl.col(name).cast(dtype, strict=False) for name, dtype in FILE.items())
    return frame, {name: frame[name].is_null() & block[name].is_not_null() for name in FILE}


def problems(rows: pl.DataFrame, lost: dict[str, pl.Series]) -> Iterator[tuple[int, str]]:
    """Place of each wrong row in its block and what is wrong with it, the first problem only, in order."""
    tests = [(f"{name} is not of type {FILE[name]}", pl.lit(bad)) for name, bad in lost.items() if bad.any()]
    tests += [(text, wrong.fill_null(True)) for text, wrong in RULES]
    found = pl.coalesce(pl.when(wrong).then(pl.lit(text)) for text, wrong in tests)
    named = rows.select(problem=found).with_row_index("place").drop_nulls("problem")
    for place, problem in named.iter_rows():
        yield int(place), str(problem)


def no_amount(name: str) -> pl.Expr:
    """Whether a number is negative or infinite."""
    return ~(pl.col(name).is_finite() & (pl.col(name) >= 0))


RULES: tuple[tuple[str, pl.Expr], ...] = (
    ("call_key is not 64 hexadecimal digits", ~pl.col("call_key").str.contains(r"^[0-9a-f]{64}$")),
    ("epoch is empty", pl.col("epoch") == ""),
    ("judge is empty", pl.col("judge") == ""),
    ("status is empty", pl.col("status") == ""),
    # An answer that ranks several documents has no single probability.
    ("p_first is not in 0..1", pl.col("p_first").is_not_null() & ~pl.col("p_first").is_between(0, 1)),
    ("status is a failure, and p_first is not empty", (pl.col("status") != OK) & pl.col("p_first").is_not_null()),
    ("input_tokens is negative", pl.col("input_tokens") < 0),
    ("output_tokens is negative", pl.col("output_tokens") < 0),
    ("cost_usd is not 0 or more", no_amount("cost_usd")),
    ("latency_ms is not 0 or more", pl.col("latency_ms").is_not_null() & no_amount("latency_ms")),
    (f"provenance is none of {', '.join(PROVENANCES)}", ~pl.col("provenance").is_in(PROVENANCES)),
    ("created_at is no time like 2026-01-31T12:00:00.000000Z", ~pl.col("created_at").str.contains(TIME)),
    (
        "expires_at is no time like 2026-01-31T12:00:00.000000Z",
        pl.col("expires_at").is_not_null() & ~pl.col("expires_at").str.contains(TIME),
    ),
)
"""What makes a row no verdict; a null counts as wrong."""
