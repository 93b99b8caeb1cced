"""The ledger's tables of money and of batch jobs, beside the verdicts and in the same database.

Belongs here: the tables, creating them, one transaction on them, and the lock that keeps two processes from the same batches.
Does not: what the rows mean (`budget.py`, `batches.py`) and verdicts (`ledger.py`). Unlike verdicts these rows change: a
reservation is settled, a batch moves on.
"""

import hashlib
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import sqlalchemy as sa
from filelock import FileLock, Timeout
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DatabaseError

from anmi_pipeline.judging.ledger import CREATE_LOCK, Ledger, LedgerError

METADATA = sa.MetaData()
SPEND = sa.Table(
    "spend",
    METADATA,
    sa.Column("scope", sa.Text(), primary_key=True),
    # What is spent and what is reserved, in units of 1e-12 USD: whole numbers add up exactly, whoever adds them.
    sa.Column("committed", sa.BigInteger(), nullable=False),
    sa.Column("calls", sa.BigInteger(), nullable=False),
)
RESERVATIONS = sa.Table(
    "reservations",
    METADATA,
    sa.Column("id", sa.String(48), primary_key=True),
    sa.Column("scope", sa.Text(), nullable=False),
    sa.Column("subject", sa.Text(), nullable=False),  # call key, or the token of a batch
    sa.Column("calls", sa.BigInteger(), nullable=False),
    sa.Column("worst", sa.BigInteger(), nullable=False),
    sa.Column("cost", sa.BigInteger(), nullable=True),  # null while in flight, or for ever when its process died
    sa.Column("created_at", sa.Text(), nullable=False),
    sa.Column("settled_at", sa.Text(), nullable=True),
)
BATCHES = sa.Table(
    "batches",
    METADATA,
    sa.Column("token", sa.String(32), primary_key=True),
    sa.Column("scope", sa.Text(), nullable=False),
    sa.Column("provider", sa.Text(), nullable=False),  # whose batches these are: endpoint and model
    sa.Column("state", sa.Text(), nullable=False),
    sa.Column("batch_id", sa.Text(), nullable=True),  # null until the provider's acceptance is known
    sa.Column("reservation", sa.String(48), nullable=True),
    sa.Column("created_at", sa.Text(), nullable=False),
    sa.Column("changed_at", sa.Text(), nullable=False),
)
BATCH_ITEMS = sa.Table(
    "batch_items",
    METADATA,
    sa.Column("token", sa.String(32), primary_key=True),
    sa.Column("call_key", sa.String(64), primary_key=True),  # also its custom id at the provider
    sa.Column("attempt", sa.BigInteger(), nullable=False),
    sa.Column("status", sa.Text(), nullable=True),  # null until collected
)
sa.Index("batches_by_scope", BATCHES.c.scope, BATCHES.c.provider, BATCHES.c.state)


class Books(Ledger):
    """The ledger with its tables of money and batches. Safe for several processes at once."""

    def transaction(self, action: str = "written") -> AbstractContextManager[sa.Connection]:
        """Open one transaction; it commits at the end of the block.

        Begin it with a write when it reads what it will change: the write takes the row's lock on Postgres and the writer's lock
        on SQLite, so that what is read stays true until the commit.

        Raises:
            LedgerError: the database cannot be reached or written; nothing of the transaction was.
        """
        return self._connection(action)

    def insert_new(self, table: sa.Table) -> sa.Executable:
        """An INSERT that leaves rows which are there already as they are."""
        return (sqlite.insert if self._sqlite else postgresql.insert)(table).on_conflict_do_nothing()

    @contextmanager
    def exclusive(self, what: str) -> Generator[None]:
        """Hold a lock of this database by name; it ends with the process, however that ends.

        Raises:
            LedgerError: another process holds it.
        """
        number = int.from_bytes(hashlib.sha256(what.encode()).digest()[:8], "big", signed=True)
        taken = LedgerError(f'another process works on "{what}" of the ledger {self.url}. Wait until it has ended.')
        if self._sqlite:
            lock = FileLock(self._lock_path(number))
            try:
                lock.acquire(timeout=0)
            except Timeout as error:
                raise taken from error
            try:
                yield
            finally:
                lock.release()
            return
        # A lock of a session, on a connection of its own: a transaction's lock would need a transaction open for hours.
        with self._session() as connection:
            if not connection.execute(sa.select(sa.func.pg_try_advisory_lock(number))).scalar_one():
                raise taken
            try:
                yield
            finally:
                connection.execute(sa.select(sa.func.pg_advisory_unlock(number)))

    @contextmanager
    def _session(self) -> Generator[sa.Connection]:
        try:
            connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        except DatabaseError as error:
            raise LedgerError(f"the ledger {self.url} could not be locked: {type(error.orig).__name__}.") from error
        with connection:
            yield connection

    def _lock_path(self, number: int) -> Path:
        database = self._engine.url.database or ""
        if not database or database == ":memory:" or database.startswith("file:"):
            raise LedgerError(f"the ledger {self.url} is not a plain file, so it cannot be locked. Point ANMI_LEDGER to a file.")
        return Path(f"{database}.{number & 0xFFFFFFFF:08x}.lock")

    def _create(self) -> None:
        super()._create()
        with self._connection("created") as connection:
            if not self._sqlite:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(CREATE_LOCK)))
            for table in METADATA.sorted_tables:
                connection.execute(sa.schema.CreateTable(table, if_not_exists=True))
                for index in table.indexes:
                    connection.execute(sa.schema.CreateIndex(index, if_not_exists=True))
