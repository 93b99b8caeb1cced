"""The ledger's verdicts to a file and back: export and import, block by block.

Belongs here: reading the ledger into a file, and adding a file to a ledger. Does not: the format of the file and what makes a row
wrong (`ledger_files.py`), verdicts that people or other systems bring without call keys (`imports.py`), removal
(`ledger_pruning.py`). Neither the ledger nor the file is ever held in memory as a whole.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import sqlalchemy as sa

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.ledger import TABLE
from anmi_pipeline.judging.ledger_files import BLOCK, FILE, SCHEMA, file_blocks, kind_of, refuse_wrong_rows, typed
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.progress import Progress, silent


@dataclass(frozen=True)
class Choice:
    """Which verdicts; None: whatever it is.

    Attributes:
        judge: judge id, or the name in front of its slash.
        epoch: epoch.
        status: `ok`, or a kind of failure.
    """

    judge: str | None = None
    epoch: str | None = None
    status: str | None = None

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """What a row must fulfil."""
        found: list[sa.ColumnElement[bool]] = []
        if self.judge is not None:
            found.append(sa.or_(TABLE.c.judge == self.judge, TABLE.c.judge.startswith(f"{self.judge}/", autoescape=True)))
        if self.epoch is not None:
            found.append(TABLE.c.epoch == self.epoch)
        if self.status is not None:
            found.append(TABLE.c.status == self.status)
        return found


@dataclass(frozen=True)
class Added:
    """What an import came to.

    Attributes:
        new: rows that were written.
        known: rows whose (call key, epoch) the ledger had; they stayed as they were.
    """

    new: int
    known: int

    def rows(self) -> list[dict[str, object]]:
        """For people."""
        return [{"verdicts": "new", "rows": self.new}, {"verdicts": "known", "rows": self.known}]


def export_verdicts(books: Books, path: Path, choice: Choice = Choice(), progress: Progress = silent) -> int:
    """Write verdicts to a file, in the order in which the ledger got them. A file of that name is replaced once all is written.

    Rows that are committed while the export runs may be missing.

    Args:
        books: the ledger.
        path: .csv, .csv.gz or .parquet.
        choice: which verdicts.
        progress: told the rows written.

    Returns:
        Rows written.

    Raises:
        InputError: another suffix, or the file cannot be written.
        LedgerError: the ledger cannot be read.
    """
    kind = kind_of(path)
    partial = path.with_name(f".{path.name}.partial")
    count = 0
    with books.transaction("read") as connection:
        total = connection.execute(sa.select(sa.func.count()).select_from(TABLE).where(*choice.conditions())).scalar_one()
    try:
        with writer(partial, kind) as sink:
            for rows in stored_blocks(books, choice):
                sink.write_table(rows)
                count += rows.num_rows
                progress(count, max(int(total), count), "verdicts")
        partial.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}. Give another path or free disk space.") from error
    finally:
        partial.unlink(missing_ok=True)
    return count


@contextmanager
def writer(path: Path, kind: str) -> Generator[pc.CSVWriter | pq.ParquetWriter]:
    """A writer of Arrow tables of SCHEMA."""
    if kind == "parquet":
        with pq.ParquetWriter(path, SCHEMA, compression="zstd") as sink:
            yield sink
        return
    # Texts are quoted and nulls are not, so that an empty answer and none stay apart.
    with pa.output_stream(path, compression="gzip" if kind == "csv.gz" else None) as stream, pc.CSVWriter(stream, SCHEMA) as sink:
        yield sink


def stored_blocks(books: Books, choice: Choice, size: int = BLOCK) -> Iterator[pa.Table]:
    """Rows in the order of their numbers, up to the newest of now.

    Every block is a transaction of its own: one over all would keep a SQLite ledger from folding its write-ahead log.
    """
    with books.transaction("read") as connection:
        last = int(connection.execute(sa.select(sa.func.coalesce(sa.func.max(TABLE.c.id), 0))).scalar_one())
    at = 0
    query = sa.select(TABLE.c.id, *(TABLE.c[name] for name in FILE)).order_by(TABLE.c.id).limit(size)
    while True:
        with books.transaction("read") as connection:
            rows = connection.execute(query.where(TABLE.c.id > at, TABLE.c.id <= last, *choice.conditions())).fetchall()
        if not rows:
            return
        ids, *columns = zip(*rows, strict=True)
        at = int(ids[-1])
        yield pa.table(dict(zip(FILE, columns, strict=True)), schema=SCHEMA)


def import_export(books: Books, path: Path, progress: Progress = silent) -> Added:
    """Add a file that `export_verdicts` wrote to a ledger: all of it or nothing, in one transaction.

    Verdicts that the ledger has stay as they are. The others keep their times and come after all rows that are there, in the
    order of the file. While it runs, other processes wait to write.

    Args:
        books: the ledger.
        path: .csv, .csv.gz or .parquet.
        progress: told the rows read.

    Raises:
        InputError: the file cannot be read, is no export, or rows are wrong: each is named, up to 20, and nothing is written.
        LedgerError: the ledger cannot be written; nothing was.
    """
    total = refuse_wrong_rows(path)
    insert = books.insert_new(TABLE).execution_options(preserve_rowcount=True)
    new = done = 0
    with books.transaction() as connection:
        hold_writers(connection)
        for block in file_blocks(path):
            rows, _ = typed(block)
            clean = rows.with_columns(pl.col("raw_answer").str.replace_all("\0", "\ufffd", literal=True))
            new += int(connection.execute(insert, clean.to_dicts()).rowcount)
            done += rows.height
            progress(done, max(total, done), "verdicts")
    return Added(new, done - new)


def hold_writers(connection: sa.Connection) -> None:
    """Let no other process write verdicts until this transaction ends; it must be the first statement.

    Two long inserts of the same keys in different orders would end in a deadlock on Postgres.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("LOCK TABLE verdicts IN SHARE ROW EXCLUSIVE MODE"))
    else:
        connection.execute(sa.update(TABLE).where(TABLE.c.id < 0).values(epoch=TABLE.c.epoch))
