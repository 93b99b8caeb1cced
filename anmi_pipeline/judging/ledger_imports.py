"""Which imported verdicts belong to which dataset: the table `imports`, beside the verdicts and in the same database.

Belongs here: the table, filing into it, its current rows, their digest, taking a judge's verdicts back. Does not: files of
verdicts and what a dataset makes of them (`imports.py`). Rows are numbered as they are filed: of the rows about one judge's
verdict on one ordered pair the newest counts.
"""

import hashlib
import json

import polars as pl
import sqlalchemy as sa

from anmi_pipeline.judging.ledger import CREATE_LOCK, TABLE, now
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.judging.verdicts import OK

METADATA = sa.MetaData()
IMPORTS = sa.Table(
    "imports",
    METADATA,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(), primary_key=True),
    sa.Column("dataset", sa.Text(), nullable=False),
    sa.Column("judge", sa.Text(), nullable=False),
    sa.Column("query_id", sa.Text(), nullable=False),
    sa.Column("first_id", sa.Text(), nullable=False),
    sa.Column("second_id", sa.Text(), nullable=False),
    sa.Column("call_key", sa.String(64), nullable=False),
    sa.Column("created_at", sa.Text(), nullable=False),
)
sa.Index("imports_by_dataset", IMPORTS.c.dataset, IMPORTS.c.judge, IMPORTS.c.query_id, IMPORTS.c.first_id, IMPORTS.c.second_id)

CALL = ("judge", "query_id", "first_id", "second_id")
"""What an imported verdict is about, and whose it is."""
FILED = ("epoch", "status", "p_first", "provenance", "input_tokens", "output_tokens", "cost_usd", "latency_ms")
CURRENT = {
    **dict.fromkeys((*CALL, "call_key", "epoch", "status"), pl.String()),
    "p_first": pl.Float64(),
    "provenance": pl.String(),
    **dict.fromkeys(("input_tokens", "output_tokens"), pl.Int64()),
    **dict.fromkeys(("cost_usd", "latency_ms"), pl.Float64()),
}
"""Columns of `current_imports`."""
BLOCK = 10_000


def prepare(books: Books) -> None:
    """Create the table where it is not there yet."""
    with books.transaction("created") as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(CREATE_LOCK)))
        connection.execute(sa.schema.CreateTable(IMPORTS, if_not_exists=True))
        for index in IMPORTS.indexes:
            connection.execute(sa.schema.CreateIndex(index, if_not_exists=True))


def current_imports(books: Books, dataset: str) -> pl.DataFrame:
    """The newest verdict of every judge on every ordered pair of a dataset.

    Returns:
        CURRENT columns, sorted by query, first, second and judge.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    prepare(books)
    with books.transaction("read") as connection:
        return current_in(connection, dataset)


def current_in(connection: sa.Connection, dataset: str) -> pl.DataFrame:
    """`current_imports` inside a transaction of the caller."""
    newest = (
        sa.select(sa.func.max(IMPORTS.c.id)).where(IMPORTS.c.dataset == dataset).group_by(*(IMPORTS.c[name] for name in CALL))
    )
    joined = sa.join(IMPORTS, TABLE, IMPORTS.c.call_key == TABLE.c.call_key)
    columns = (*(IMPORTS.c[name] for name in (*CALL, "call_key")), *(TABLE.c[name] for name in FILED))
    # One answer may be on record under several epochs: the newest row stands for it.
    query = sa.select(*columns).select_from(joined).where(IMPORTS.c.id.in_(newest), TABLE.c.status == OK).order_by(TABLE.c.id)
    rows = connection.execute(query).fetchall()
    found = pl.DataFrame([tuple(row) for row in rows], schema=CURRENT, orient="row")
    return found.unique(list(CALL), keep="last").sort("query_id", "first_id", "second_id", "judge")


def file_imports(connection: sa.Connection, dataset: str, rows: pl.DataFrame) -> None:
    """List verdicts as a dataset's.

    Args:
        connection: the caller's transaction.
        dataset: name of the dataset.
        rows: CALL columns and call_key, in the order in which they are filed.
    """
    listed = rows.select(*CALL, "call_key").with_columns(dataset=pl.lit(dataset), created_at=pl.lit(now()))
    for start in range(0, listed.height, BLOCK):
        connection.execute(sa.insert(IMPORTS), listed[start : start + BLOCK].to_dicts())


def withdraw_imports(books: Books, dataset: str, judge: str) -> int:
    """Take a judge's imported verdicts back from a dataset. The verdicts stay in the ledger and no longer count for it.

    Args:
        books: the ledger.
        dataset: name of the dataset.
        judge: judge id, or the name in front of its slash.

    Returns:
        Ordered pairs whose verdict was taken back.

    Raises:
        LedgerError: the ledger cannot be written.
    """
    prepare(books)
    own = sa.or_(IMPORTS.c.judge == judge, IMPORTS.c.judge.startswith(f"{judge}/", autoescape=True))
    with books.transaction() as connection:
        gone = sa.delete(IMPORTS).where(IMPORTS.c.dataset == dataset, own).returning(*(IMPORTS.c[name] for name in CALL))
        return len({tuple(row) for row in connection.execute(gone)})


def imports_digest(books: Books, dataset: str) -> str:
    """Name the content of a dataset's imported verdicts: sha256, "" when it has none.

    It covers what reaches `pairwise_judgments`: ids, judge, call key, probability, epoch and provenance, but neither times nor
    the order in which they came.
    """
    rows = current_imports(books, dataset)
    if not rows.height:
        return ""
    digest = hashlib.sha256()
    columns = ("query_id", "first_id", "second_id", "judge", "call_key", "p_first", "epoch", "provenance")
    for row in rows.select(columns).iter_rows():
        digest.update(json.dumps(row, separators=(",", ":"), allow_nan=False).encode() + b"\n")
    return digest.hexdigest()


def count_imports(books: Books) -> list[dict[str, object]]:
    """Dataset, judge and number of ordered pairs with an imported verdict, of all datasets."""
    prepare(books)
    pairs = sa.select(IMPORTS.c.dataset, *(IMPORTS.c[name] for name in CALL)).distinct().subquery()
    query = sa.select(pairs.c.dataset, pairs.c.judge, sa.func.count()).group_by(pairs.c.dataset, pairs.c.judge)
    with books.transaction("read") as connection:
        rows = connection.execute(query.order_by(pairs.c.dataset, pairs.c.judge)).all()
    return [{"dataset": dataset, "judge": judge, "verdicts": count} for dataset, judge, count in rows]
