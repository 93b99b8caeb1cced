"""Batch jobs on record: what is about to be submitted, what was, and what came of each call.

Belongs here: reading and writing the batch tables of the ledger. Does not: talking to a provider (`batches.py`) and deciding
(`batch_decisions.py`). An intent is on record, with its money reserved, before the provider hears of it: after a kill at any
moment the record says what to look for there.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import sqlalchemy as sa

from anmi_pipeline.judging.budget import Budget, Reservation, Settlement, Want
from anmi_pipeline.judging.ledger_tables import BATCH_ITEMS, BATCHES, RESERVATIONS

State = Literal["written", "submitted", "collected", "failed", "dropped"]
"""written: the provider may or may not have it; submitted: its id is known; collected: all results are on record; failed: the
provider took none of its calls; dropped: never submitted, and its calls are not wanted any more."""
OPEN: tuple[State, ...] = ("written", "submitted")
TIME = "%Y-%m-%dT%H:%M:%S.%f%z"


@dataclass(frozen=True)
class Intent:
    """A batch, from the moment it is wanted.

    Attributes:
        token: its name, sent along where the provider keeps metadata.
        state: see `State`.
        batch_id: the provider's id; None until its acceptance is known.
        keys: call keys, which are its custom ids, in order.
        reservation: the money held for it.
        created_at: when it was written, UTC.
    """

    token: str
    state: State
    batch_id: str | None
    keys: tuple[str, ...]
    reservation: Reservation
    created_at: datetime


@dataclass(frozen=True)
class Tried:
    """What the last batch with a call said of it.

    Attributes:
        attempt: how often it was submitted since its last final outcome.
        status: status of the outcome; None when the batch was not collected.
    """

    attempt: int
    status: str | None


class IntentBook:
    """The batches of one scope at one provider."""

    def __init__(self, budget: Budget, provider: str) -> None:
        """Open.

        Args:
            budget: scope, cap and ledger.
            provider: whose batches: endpoint and model.
        """
        self.budget, self.books = budget, budget.books
        self.provider = provider

    @property
    def name(self) -> str:
        """Name for locks and messages."""
        return f"batches of {self.budget.scope} at {self.provider}"

    def write(self, wants: Sequence[tuple[str, int]], worst: int, at: datetime) -> Intent | None:
        """Reserve the money and write the intent, in one transaction.

        Args:
            wants: (call key, attempt) of each call.
            worst: the most the batch can cost, in units of 1e-12 USD.
            at: the time, UTC.

        Returns:
            The intent; None when it does not fit under the cap.
        """
        token = uuid.uuid4().hex
        with self.books.transaction() as connection:
            granted = self.budget.turn_in(connection, (), [Want(token, worst, len(wants))])
            if not granted:
                return None
            row = {
                "token": token, "scope": self.budget.scope, "provider": self.provider, "state": "written", "batch_id": None,
                "reservation": granted[0].id, "created_at": at.strftime(TIME), "changed_at": at.strftime(TIME),
            }  # fmt: skip
            connection.execute(sa.insert(BATCHES), row)
            items = [{"token": token, "call_key": key, "attempt": attempt, "status": None} for key, attempt in wants]
            connection.execute(sa.insert(BATCH_ITEMS), items)
        return Intent(token, "written", None, tuple(key for key, _ in wants), granted[0], at)

    def accepted(self, intent: Intent, batch_id: str, at: datetime) -> None:
        """Note the provider's id."""
        self._move(intent, "submitted", at, batch_id=batch_id)

    def dropped(self, intent: Intent, at: datetime) -> None:
        """Give up an intent that the provider does not have; its money is free again."""
        self._close(intent, "dropped", at, 0, 0, {})

    def failed(self, intent: Intent, at: datetime) -> None:
        """Note that the provider took none of its calls; its money is free again."""
        self._close(intent, "failed", at, 0, 0, {})

    def collected(self, intent: Intent, statuses: Mapping[str, str], cost: int, billed: int, at: datetime) -> None:
        """Note what came of every call, and the true cost.

        Args:
            intent: the batch.
            statuses: call key -> status.
            cost: in units of 1e-12 USD.
            billed: calls that were billed.
            at: the time, UTC.
        """
        self._close(intent, "collected", at, cost, billed, statuses)

    def open(self) -> list[Intent]:
        """The intents whose end is not known, oldest first."""
        mine = (BATCHES.c.scope == self.budget.scope, BATCHES.c.provider == self.provider, BATCHES.c.state.in_(OPEN))
        columns = [BATCHES.c[name] for name in ("token", "state", "batch_id", "created_at")]
        joined = sa.join(BATCHES, RESERVATIONS, BATCHES.c.reservation == RESERVATIONS.c.id)
        held = [RESERVATIONS.c[name] for name in ("id", "worst", "calls")]
        query = sa.select(*columns, *held).select_from(joined).where(*mine).order_by(BATCHES.c.created_at, BATCHES.c.token)
        with self.books.transaction("read") as connection:
            rows = connection.execute(query).mappings().all()
            return [
                Intent(
                    row["token"], row["state"], row["batch_id"], self._keys(connection, row["token"]),
                    Reservation(row["id"], int(row["worst"]), int(row["calls"])), datetime.strptime(row["created_at"], TIME),
                )
                for row in rows
            ]  # fmt: skip

    def known_ids(self) -> set[str]:
        """Ids of all batches on record, of every scope: none of them is one that is looked for."""
        with self.books.transaction("read") as connection:
            return set(connection.execute(sa.select(BATCHES.c.batch_id).where(BATCHES.c.batch_id.is_not(None))).scalars())

    def tried(self) -> dict[str, Tried]:
        """Call key -> what its last collected batch said of it."""
        mine = (BATCHES.c.scope == self.budget.scope, BATCHES.c.provider == self.provider, BATCHES.c.state == "collected")
        joined = sa.join(BATCH_ITEMS, BATCHES, BATCH_ITEMS.c.token == BATCHES.c.token)
        columns = [BATCH_ITEMS.c[name] for name in ("call_key", "attempt", "status")]
        query = sa.select(*columns).select_from(joined).where(*mine).order_by(BATCHES.c.created_at, BATCHES.c.token)
        with self.books.transaction("read") as connection:
            rows = connection.execute(query).mappings()
            return {row["call_key"]: Tried(int(row["attempt"]), row["status"]) for row in rows}

    def _keys(self, connection: sa.Connection, token: str) -> tuple[str, ...]:
        query = sa.select(BATCH_ITEMS.c.call_key).where(BATCH_ITEMS.c.token == token).order_by(BATCH_ITEMS.c.call_key)
        return tuple(connection.execute(query).scalars())

    def _move(self, intent: Intent, state: State, at: datetime, **values: object) -> None:
        with self.books.transaction() as connection:
            connection.execute(self._update(intent, state, at, values))

    def _close(self, intent: Intent, state: State, at: datetime, cost: int, billed: int, statuses: Mapping[str, str]) -> None:
        with self.books.transaction() as connection:
            self.budget.turn_in(connection, [Settlement(intent.reservation, cost, billed)], ())
            connection.execute(self._update(intent, state, at, {}))
            if statuses:
                rows = [{"which": intent.token, "key": key, "is": status} for key, status in statuses.items()]
                connection.execute(NOTE_STATUS, rows)

    @staticmethod
    def _update(intent: Intent, state: State, at: datetime, values: Mapping[str, object]) -> sa.Executable:
        return (
            sa.update(BATCHES).where(BATCHES.c.token == intent.token).values(state=state, changed_at=at.strftime(TIME), **values)
        )


NOTE_STATUS = (
    sa.update(BATCH_ITEMS)
    .where(BATCH_ITEMS.c.token == sa.bindparam("which"), BATCH_ITEMS.c.call_key == sa.bindparam("key"))
    .values(status=sa.bindparam("is"))
)
