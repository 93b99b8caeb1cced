"""Removing rows from a ledger: the one place where a verdict is ever deleted, and only on a person's order.

Belongs here: which rows an order covers, the list of them, the removal. Does not: anything that happens by itself. A ledger is a
record of what was paid for: the newest answer of a call that has not expired stays whatever is ordered.
"""

import uuid
from dataclasses import dataclass

import sqlalchemy as sa

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.ledger import TABLE, now
from anmi_pipeline.judging.ledger_tables import RESERVATIONS, Books
from anmi_pipeline.judging.ledger_transfers import hold_writers
from anmi_pipeline.judging.verdicts import OK

FOLDED = "folded"
"""Subject of the row that stands for a scope's settled reservations."""


@dataclass(frozen=True)
class Order:
    """What is to be removed. The parts add up.

    Attributes:
        expired_before: rows that expired before this time (UTC, as `ledger.now` writes it), and by now.
        failures: failures of calls that have an answer which has not expired.
        epochs: rows of these epochs, except the newest answer of a call that has not expired.
        settled_before: reservations settled before this time become one row per scope, with their sums.
    """

    expired_before: str | None = None
    failures: bool = False
    epochs: tuple[str, ...] = ()
    settled_before: str | None = None

    def __post_init__(self) -> None:
        """Refuse an order that covers nothing."""
        if self.expired_before is None and self.settled_before is None and not self.failures and not self.epochs:
            raise InputError(
                "nothing was named to prune. Say which: rows expired before a date, failures that have an answer, epochs, or "
                "reservations settled before a date."
            )


@dataclass(frozen=True)
class Pruned:
    """What an order covers.

    Attributes:
        verdicts: reason, judge, epoch, status, rows, cost_usd (what they cost once).
        reservations: scope, rows; settled reservations that become one.
        applied: whether they are gone, or were only counted.
    """

    verdicts: list[dict[str, object]]
    reservations: list[dict[str, object]]
    applied: bool

    @property
    def rows(self) -> int:
        """Verdicts covered."""
        return sum(int(str(row["rows"])) for row in self.verdicts)

    @property
    def summary(self) -> str:
        """One line for people."""
        folded = sum(int(str(row["rows"])) for row in self.reservations)
        if self.applied:
            return f"{self.rows:,} verdict(s) removed, {folded:,} settled reservation(s) folded"
        return f"{self.rows:,} verdict(s) would go, {folded:,} settled reservation(s) be folded; nothing has changed (--apply)"

    def tables(self) -> list[tuple[str, list[dict[str, object]]]]:
        """Title and rows of each part."""
        return [("verdicts", self.verdicts), ("settled reservations", self.reservations)]


def prune(books: Books, order: Order, *, apply: bool = False, at: str | None = None) -> Pruned:
    """Count what an order covers, and remove it when told to, in one transaction.

    Args:
        books: the ledger.
        order: what to remove.
        apply: remove it; else only count.
        at: time at which expiry is judged; default now.

    Raises:
        LedgerError: the ledger cannot be read or written; nothing was removed.
    """
    time = at or now()
    with books.transaction("written" if apply else "read") as connection:
        if apply:
            hold_writers(connection)
        found = Pruned(verdicts_covered(connection, order, time), reservations_covered(connection, order), apply)
        if apply:
            connection.execute(sa.delete(TABLE).where(covered(order, time)))
            fold(connection, order)
    return found


def covered(order: Order, time: str) -> sa.ColumnElement[bool]:
    """Rows that an order covers. What protects a row is itself protected, so the order of deletion does not matter."""
    parts = [condition for _, condition in reasons(order, time)]
    return sa.or_(sa.false(), *parts)


def reasons(order: Order, time: str) -> list[tuple[str, sa.ColumnElement[bool]]]:
    """Each part of an order as a condition, by name."""
    found: list[tuple[str, sa.ColumnElement[bool]]] = []
    other = TABLE.alias()
    answered = sa.select(other.c.id).where(other.c.call_key == TABLE.c.call_key, other.c.status == OK, alive(other, time))
    if order.expired_before is not None:
        old = sa.and_(TABLE.c.expires_at <= time, TABLE.c.expires_at < order.expired_before)
        found.append(("expired", old))
    if order.failures:
        found.append(("failure with an answer", sa.and_(TABLE.c.status != OK, sa.exists(answered))))
    if order.epochs:
        # A null expiry makes `alive` true, never unknown.
        newest = sa.and_(TABLE.c.status == OK, alive(TABLE, time), ~sa.exists(answered.where(other.c.id > TABLE.c.id)))
        found.append(("epoch", sa.and_(TABLE.c.epoch.in_(order.epochs), ~newest)))
    return found


def alive(table: sa.FromClause, time: str) -> sa.ColumnElement[bool]:
    """Whether a row has not expired."""
    return sa.or_(table.c.expires_at.is_(None), table.c.expires_at > time)


def verdicts_covered(connection: sa.Connection, order: Order, time: str) -> list[dict[str, object]]:
    """Count the covered verdicts by the first reason that covers them."""
    parts = reasons(order, time)
    if not parts:
        return []
    reason = sa.case(*((condition, name) for name, condition in parts)).label("reason")
    rows = sa.select(reason, *(TABLE.c[name] for name in ("judge", "epoch", "status", "cost_usd")))
    some = rows.where(covered(order, time)).subquery()
    groups = [some.c[name] for name in ("reason", "judge", "epoch", "status")]
    query = sa.select(*groups, sa.func.count(), sa.func.sum(some.c.cost_usd)).group_by(*groups).order_by(*groups)
    names = ("reason", "judge", "epoch", "status", "rows")
    found: list[dict[str, object]] = []
    for row in connection.execute(query):
        counted: dict[str, object] = dict(zip(names, row[:-1], strict=True))
        found.append(counted | {"cost_usd": round(float(row[-1]), 12)})
    return found


def settled(order: Order) -> sa.ColumnElement[bool]:
    """Reservations that an order covers; those in flight, or lost with a process, never."""
    return sa.and_(RESERVATIONS.c.cost.is_not(None), RESERVATIONS.c.settled_at < order.settled_before)


def reservations_covered(connection: sa.Connection, order: Order) -> list[dict[str, object]]:
    """Count the covered reservations by scope; a single one stays as it is."""
    if order.settled_before is None:
        return []
    count = sa.func.count()
    query = sa.select(RESERVATIONS.c.scope, count).where(settled(order)).group_by(RESERVATIONS.c.scope).having(count > 1)
    return [{"scope": scope, "rows": rows} for scope, rows in connection.execute(query.order_by(RESERVATIONS.c.scope))]


def fold(connection: sa.Connection, order: Order) -> None:
    """Put one row with the sums in the place of each scope's covered reservations. What counts against caps is another table."""
    if order.settled_before is None:
        return
    columns = RESERVATIONS.c
    sums = (sa.func.sum(columns.calls), sa.func.sum(columns.worst), sa.func.sum(columns.cost))
    times = (sa.func.min(columns.created_at), sa.func.max(columns.settled_at))
    query = sa.select(columns.scope, *sums, *times).where(settled(order)).group_by(columns.scope).having(sa.func.count() > 1)
    rows = [
        {
            "id": f"{FOLDED}-{uuid.uuid4().hex}", "scope": scope, "subject": FOLDED, "calls": int(calls), "worst": int(worst),
            "cost": int(cost), "created_at": first, "settled_at": last,
        }
        for scope, calls, worst, cost, first, last in connection.execute(query)
    ]  # fmt: skip
    if rows:
        connection.execute(sa.delete(RESERVATIONS).where(settled(order), columns.scope.in_([row["scope"] for row in rows])))
        connection.execute(sa.insert(RESERVATIONS), rows)
