"""Figures of a ledger: verdicts, money, batches and imports, for people.

Belongs here: adding up what the tables hold. Does not: the report of one dataset's judges (`report.py`).
"""

from dataclasses import dataclass

import sqlalchemy as sa

from anmi_pipeline.judging.intents import OPEN
from anmi_pipeline.judging.ledger import TABLE, now
from anmi_pipeline.judging.ledger_imports import count_imports
from anmi_pipeline.judging.ledger_tables import BATCH_ITEMS, BATCHES, RESERVATIONS, SPEND, Books
from anmi_pipeline.judging.prices import dollars
from anmi_pipeline.judging.verdicts import OK

Row = dict[str, object]


@dataclass(frozen=True)
class LedgerStats:
    """What a ledger holds, as rows for people and programs.

    Attributes:
        verdicts: judge, epoch, status, calls, failures, input_tokens, output_tokens, cost_usd, first, last, expired.
        money: scope, spent_usd, reserved_usd (in flight, or lost with a process), calls.
        batches: scope, provider, state, batches, calls, oldest; those whose end is not known.
        imports: dataset, judge, verdicts; the newest of each pair.
    """

    verdicts: list[Row]
    money: list[Row]
    batches: list[Row]
    imports: list[Row]

    def tables(self) -> list[tuple[str, list[Row]]]:
        """Title and rows of each part."""
        return [
            ("verdicts", self.verdicts),
            ("money", self.money),
            ("open batches", self.batches),
            ("imported verdicts", self.imports),
        ]


def ledger_stats(books: Books, at: str | None = None) -> LedgerStats:
    """Add up a ledger.

    Args:
        books: the ledger.
        at: time at which expiry is judged, as `ledger.now` writes it; default now.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    with books.transaction("read") as connection:
        found = (verdict_rows(connection, at or now()), money_rows(connection), batch_rows(connection))
    return LedgerStats(*found, count_imports(books))


def verdict_rows(connection: sa.Connection, at: str) -> list[Row]:
    """Verdicts by judge, epoch and status."""
    groups = (TABLE.c.judge, TABLE.c.epoch, TABLE.c.status)
    expired = sa.func.sum(sa.case((TABLE.c.expires_at <= at, 1), else_=0))
    sums = (sa.func.sum(TABLE.c.input_tokens), sa.func.sum(TABLE.c.output_tokens), sa.func.sum(TABLE.c.cost_usd))
    times = (sa.func.min(TABLE.c.created_at), sa.func.max(TABLE.c.created_at))
    query = sa.select(*groups, sa.func.count(), *sums, *times, expired).group_by(*groups).order_by(*groups)
    return [
        {
            "judge": judge, "epoch": epoch, "status": status, "calls": calls, "failures": 0 if status == OK else calls,
            "input_tokens": int(tokens_in), "output_tokens": int(tokens_out), "cost_usd": round(float(cost), 12),
            "first": first, "last": last, "expired": int(gone),
        }
        for judge, epoch, status, calls, tokens_in, tokens_out, cost, first, last, gone in connection.execute(query)
    ]  # fmt: skip


def money_rows(connection: sa.Connection) -> list[Row]:
    """Spent and reserved by scope."""
    held = (
        sa.select(RESERVATIONS.c.scope, sa.func.sum(RESERVATIONS.c.worst).label("worst"))
        .where(RESERVATIONS.c.cost.is_(None))
        .group_by(RESERVATIONS.c.scope)
        .subquery()
    )
    columns = (SPEND.c.scope, SPEND.c.committed, sa.func.coalesce(held.c.worst, 0), SPEND.c.calls)
    query = sa.select(*columns).select_from(sa.outerjoin(SPEND, held, SPEND.c.scope == held.c.scope)).order_by(SPEND.c.scope)
    return [
        {
            "scope": scope,
            "spent_usd": float(dollars(int(committed) - int(reserved))),
            "reserved_usd": float(dollars(int(reserved))),
            "calls": int(calls),
        }
        for scope, committed, reserved, calls in connection.execute(query)
    ]


def batch_rows(connection: sa.Connection) -> list[Row]:
    """Batches whose end is not known."""
    groups = (BATCHES.c.scope, BATCHES.c.provider, BATCHES.c.state)
    query = (
        sa.select(
            *groups,
            sa.func.count(sa.distinct(BATCHES.c.token)),
            sa.func.count(BATCH_ITEMS.c.call_key),
            sa.func.min(BATCHES.c.created_at),
        )
        .select_from(sa.outerjoin(BATCHES, BATCH_ITEMS, BATCHES.c.token == BATCH_ITEMS.c.token))
        .where(BATCHES.c.state.in_(OPEN))
        .group_by(*groups)
        .order_by(*groups)
    )
    names = ("scope", "provider", "state", "batches", "calls", "oldest")
    return [dict(zip(names, row, strict=True)) for row in connection.execute(query)]
