"""The ledger: every verdict ever obtained and every prior ever frozen, in append-only tables.

Belongs here: storage and look-up of verdicts by call key and of frozen priors by plan key, on SQLite or Postgres. Does not: which
calls a dataset needs (`collect.py`, `rounds.py`), budgets and batch jobs. A row is never changed or deleted here; a committed row
survives a kill of the process.
"""

from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import polars as pl
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DatabaseError, NoSuchModuleError

from anmi_pipeline.errors import AnmiError, InputError
from anmi_pipeline.judging.verdicts import OK, VERDICTS

BUSY_SECONDS = 60
"""How long a writer waits for another process's commit before it gives up (SQLite)."""
KEYS_PER_QUERY = 20_000
CREATE_LOCK = 0x616E6D69
"""Postgres advisory lock held while the table is created: IF NOT EXISTS alone races."""

METADATA = sa.MetaData()
TABLE = sa.Table(
    "verdicts",
    METADATA,
    # Rows are numbered as they are appended: "newest" needs no clock.
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(), primary_key=True),
    sa.Column("call_key", sa.String(64), nullable=False),
    sa.Column("epoch", sa.Text(), nullable=False),
    sa.Column("judge", sa.Text(), nullable=False),
    sa.Column("status", sa.Text(), nullable=False),
    sa.Column("p_first", sa.Double(), nullable=True),
    sa.Column("raw_answer", sa.Text(), nullable=True),
    sa.Column("input_tokens", sa.BigInteger(), nullable=False),
    sa.Column("output_tokens", sa.BigInteger(), nullable=False),
    sa.Column("cost_usd", sa.Double(), nullable=False),
    sa.Column("latency_ms", sa.Double(), nullable=True),
    sa.Column("request_id", sa.Text(), nullable=True),
    sa.Column("provenance", sa.Text(), nullable=False),
    sa.Column("created_at", sa.Text(), nullable=False),
    sa.Column("expires_at", sa.Text(), nullable=True),
    sa.UniqueConstraint("call_key", "epoch"),
)
PRIORS = sa.Table(
    "priors",
    METADATA,
    sa.Column("plan_key", sa.String(64), primary_key=True),
    sa.Column("prior", sa.Text(), nullable=False),
    sa.Column("created_at", sa.Text(), nullable=False),
)

STORED = {"id": pl.Int64(), "epoch": pl.String(), "judge": pl.String(), "created_at": pl.String(), **VERDICTS}
"""Columns that a look-up returns."""


class LedgerError(AnmiError):
    """The ledger cannot be opened, read or written."""


def now() -> str:
    """The time as the ledger writes it: UTC, ISO 8601, microseconds, so that texts compare like times."""
    return as_time(datetime.now(UTC))


def as_time(moment: datetime) -> str:
    """A time as the ledger writes it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Ledger:
    """Verdicts by (call key, epoch). Safe for several processes at once."""

    def __init__(self, url: str) -> None:
        """Open or create a ledger.

        Args:
            url: SQLAlchemy URL: `sqlite:////path/ledger.db` or `postgresql+psycopg://...`.

        Raises:
            InputError: the URL is not understood or its driver is not installed.
            LedgerError: the database cannot be opened or written.
        """
        try:
            parsed = sa.make_url(url)
            kind = parsed.get_backend_name()
            if kind not in ("sqlite", "postgresql"):
                raise InputError(f'the ledger URL (ANMI_LEDGER) names "{kind}"; the ledger runs on sqlite and postgresql.')
            # Hidden: an error that is logged with its cause would quote the answers that could not be written.
            timeout = {"timeout": BUSY_SECONDS} if kind == "sqlite" else {}
            self._engine = sa.create_engine(parsed, connect_args=timeout, hide_parameters=True)
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
            # Never the URL itself: it may hold a password.
            raise InputError(
                f"the ledger URL (ANMI_LEDGER) cannot be used: {type(error).__name__}. Give sqlite:////path/ledger.db or "
                "postgresql+psycopg://user@host/database, and install the driver it names."
            ) from error
        self.url = parsed.render_as_string(hide_password=True)
        self._sqlite = kind == "sqlite"
        if self._sqlite:
            self._prepare_file(parsed.database)
            event.listen(self._engine, "connect", _configure_sqlite)
        self._create()

    def __enter__(self) -> Self:
        """Use as a context that closes its connections."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close all connections."""
        self.close()

    def close(self) -> None:
        """Close all connections; a SQLite ledger folds its write-ahead log into the file."""
        self._engine.dispose()

    def append(self, answers: pl.DataFrame, judges: pl.Series, epoch: str) -> int:
        """Write verdicts as one durable commit. Rows whose (call key, epoch) is there already are left as they are.

        Args:
            answers: VERDICTS frame, each call key once.
            judges: judge id of each row.
            epoch: epoch of the rows.

        Returns:
            Rows written; fewer than given when another process wrote some first.

        Raises:
            LedgerError: the disk is full, the file is read-only or the server is gone; nothing of the batch was written.
        """
        if not answers.height:
            return 0
        # Sorted: neighbouring index pages are written together, and two Postgres writers cannot deadlock.
        rows = answers.with_columns(
            judge=judges,
            epoch=pl.lit(epoch),
            created_at=pl.lit(now()),
            raw_answer=pl.col("raw_answer").str.replace_all("\0", "\ufffd", literal=True),  # Postgres text holds no NUL
        ).sort("call_key")
        with self._connection("written") as connection:
            return int(connection.execute(self._insert(TABLE), rows.to_dicts()).rowcount)

    def freeze_prior(self, plan_key: str, prior: str) -> str:
        """Write the prior that chooses the pairs of a plan, once and for all; the first writer wins.

        Args:
            plan_key: names the plan (`rounds.plan_key`).
            prior: the prior as JSON.

        Returns:
            The prior on record, which is another process's when that came first.

        Raises:
            LedgerError: the ledger cannot be written.
        """
        with self._connection("written") as connection:
            connection.execute(self._insert(PRIORS), {"plan_key": plan_key, "prior": prior, "created_at": now()})
        return self.frozen_prior(plan_key) or prior

    def frozen_prior(self, plan_key: str) -> str | None:
        """Look up the frozen prior of a plan: JSON, or None when none is frozen yet."""
        with self._connection("read") as connection:
            found = connection.execute(sa.select(PRIORS.c.prior).where(PRIORS.c.plan_key == plan_key)).scalar_one_or_none()
        return None if found is None else str(found)

    def _insert(self, table: sa.Table) -> sa.Executable:
        insert = (sqlite.insert if self._sqlite else postgresql.insert)(table)
        return insert.on_conflict_do_nothing().execution_options(preserve_rowcount=True)

    def look_up(self, call_keys: pl.Series, epoch: str, at: str | None = None) -> pl.DataFrame:
        """Find the verdict that counts for each call key.

        A verdict of this epoch always counts, so that a finished epoch never changes under a reader. Of other epochs only answers
        count that have not expired. Among those the newest answer wins, and a failure only where there is no answer.

        Args:
            call_keys: keys, in any order, repeats allowed.
            epoch: the epoch that is being collected.
            at: time at which expiry is judged, as `now()` writes it; default now.

        Returns:
            STORED columns, one row per key found, sorted by key.

        Raises:
            LedgerError: the ledger cannot be read.
        """
        keys = call_keys.unique().sort()
        alive = sa.or_(TABLE.c.expires_at.is_(None), TABLE.c.expires_at > (at or now()))
        counts = sa.or_(TABLE.c.epoch == epoch, sa.and_(TABLE.c.status == OK, alive))
        query = sa.select(*(TABLE.c[name] for name in STORED)).where(self._among_keys(), counts)
        parts: list[pl.DataFrame] = [pl.DataFrame(schema=STORED)]
        with self._connection("read") as connection:
            for start in range(0, keys.len(), KEYS_PER_QUERY):
                rows = connection.execute(query, {"keys": self._key_list(keys[start : start + KEYS_PER_QUERY])}).fetchall()
                if rows:
                    columns = dict(zip(STORED, zip(*rows, strict=True), strict=True))
                    parts.append(pl.DataFrame(columns, schema=STORED))
        found = pl.concat(parts).sort("call_key", pl.col("status") == OK, "id")
        return found.unique("call_key", keep="last", maintain_order=True)

    def count(self) -> int:
        """Return the number of rows of all epochs."""
        with self._connection("read") as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(TABLE)).scalar_one())

    def _among_keys(self) -> "sa.ColumnElement[bool]":
        # One bound value holds all keys; thousands of placeholders cost more to bind than the look-up itself.
        if self._sqlite:
            listed = sa.func.json_each(sa.bindparam("keys", type_=sa.Text())).table_valued("value")
            return TABLE.c.call_key.in_(sa.select(listed.c.value))
        return TABLE.c.call_key == sa.any_(sa.bindparam("keys", type_=postgresql.ARRAY(sa.Text())))

    def _key_list(self, keys: pl.Series) -> object:
        listed: list[str] = keys.to_list()
        return "[" + ",".join(f'"{key}"' for key in listed) + "]" if self._sqlite else listed

    def _create(self) -> None:
        with self._connection("created") as connection:
            if not self._sqlite:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(CREATE_LOCK)))
            for table in (TABLE, PRIORS):
                connection.execute(sa.schema.CreateTable(table, if_not_exists=True))

    def _prepare_file(self, database: str | None) -> None:
        if not database or database == ":memory:" or database.startswith("file:"):
            return
        try:
            Path(database).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(
                f"the ledger {self.url} cannot be created: {error.strerror}. Make its folder writable or set ANMI_LEDGER."
            ) from error

    @contextmanager
    def _connection(self, action: str) -> Generator[sa.Connection]:
        """Open one transaction; database errors become one sentence with what to do."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except DatabaseError as error:
            cause = str(error.orig).strip().splitlines()[0] if error.orig else type(error).__name__
            raise LedgerError(f"the ledger {self.url} could not be {action}: {cause}. {_advice(cause)}") from error


def _configure_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401 - a driver's own connection
    for pragma in ("journal_mode = WAL", "synchronous = FULL", f"busy_timeout = {BUSY_SECONDS * 1000}"):
        connection.execute(f"PRAGMA {pragma}").close()


def _advice(cause: str) -> str:
    advice = {
        "full": "Free disk space and run again; what was committed before is kept.",
        "readonly": "Make the file and its folder writable or point ANMI_LEDGER elsewhere.",
        "locked": f"Another process kept it locked for {BUSY_SECONDS} s; run again when it has ended.",
        "unable to open": "Check that its folder exists and is writable.",
        "not a database": "The file is something else; point ANMI_LEDGER to another path.",
        "malformed": "The file is damaged; restore a copy, or move it away and start a new ledger.",
    }
    return next(
        (text for sign, text in advice.items() if sign in cause), "Check that the database runs and that ANMI_LEDGER is right."
    )
