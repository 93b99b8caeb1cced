"""The hard cap: no call leaves before the most it can cost is reserved in the ledger's database.

Belongs here: reserving, settling and reading what a scope has spent, one transaction each, shared by all processes. Not: what
tokens cost (`prices.py`) and sending (`dispatch.py`). A reservation whose process died is never settled and so counts at its
worst price for ever: the call may have been billed.
"""

import itertools
import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal

import sqlalchemy as sa

from anmi_pipeline.errors import AnmiError, InputError
from anmi_pipeline.judging.ledger import now
from anmi_pipeline.judging.ledger_tables import RESERVATIONS, SPEND, Books
from anmi_pipeline.judging.prices import dollars, units_of

LOG = logging.getLogger(__name__)
MOST_UNITS = 2**62
"""No amount of a scope may pass this: both databases count in 64 bits."""


class CapReached(AnmiError):  # noqa: N818 - read as "raise CapReached"
    """The next call does not fit under the cap. Everything that was answered is kept."""


@dataclass(frozen=True)
class Want:
    """A wish to spend.

    Attributes:
        subject: call key, or the token of a batch.
        worst: the most it can cost, in units of 1e-12 USD (`prices.worst_units`).
        calls: calls in it.
    """

    subject: str
    worst: int
    calls: int = 1


@dataclass(frozen=True)
class Reservation:
    """Leave to spend up to `worst`; to be settled once."""

    id: str
    worst: int
    calls: int


@dataclass(frozen=True)
class Settlement:
    """What came of a reservation.

    Attributes:
        reservation: the reservation.
        cost: true cost, in units of 1e-12 USD.
        calls: calls that were or may have been billed; 0 gives the places back under `max_calls`.
    """

    reservation: Reservation
    cost: int
    calls: int


@dataclass(frozen=True)
class Spending:
    """Where a scope stands.

    Attributes:
        usd: spent and reserved, USD: what counts against the cap.
        open_usd: of these, reserved and not settled: in flight, or lost with a process.
        calls: calls that count against `max_calls`.
    """

    usd: Decimal
    open_usd: Decimal
    calls: int


@dataclass(frozen=True)
class Budget:
    """The cap of one scope. Processes that share a scope share what is left of it.

    Attributes:
        books: the ledger with its tables of money.
        scope: what the cap is for: a dataset, a run, a refresh.
        max_usd: most that may be spent in USD, ever, in this scope; None: no cap in money.
        max_calls: most calls that may be billed; None: no cap in calls.
    """

    books: Books
    scope: str
    max_usd: Decimal | float | None = None
    max_calls: int | None = None
    _prefix: str = field(default_factory=lambda: uuid.uuid4().hex[:20], init=False, repr=False)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count, init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse caps that are no caps, and enter the scope into the books."""
        if (self.max_usd is not None and not 0 <= units_of(self.max_usd) < MOST_UNITS) or (self.max_calls or 0) < 0:
            raise InputError(f"max_usd {self.max_usd} and max_calls {self.max_calls} must be 0 or more, and below $4 million.")
        with self.books.transaction() as connection:
            connection.execute(self.books.insert_new(SPEND), {"scope": self.scope, "committed": 0, "calls": 0})

    @property
    def capped(self) -> bool:
        """Whether there is a cap at all."""
        return self.max_usd is not None or self.max_calls is not None

    def reserve(self, wants: Sequence[Want]) -> list[Reservation]:
        """Reserve in order, as many as fit: `turn` without settlements."""
        return self.turn((), wants)

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Replace reserved amounts by true costs: `turn` without wishes."""
        self.turn(settlements, ())

    def turn(self, settlements: Sequence[Settlement], wants: Sequence[Want]) -> list[Reservation]:
        """Settle, then reserve in order until the first wish that does not fit; one transaction.

        Args:
            settlements: each reservation once in its life.
            wants: wishes.

        Returns:
            One reservation for each of the first wishes; shorter than `wants` when the cap is reached.

        Raises:
            LedgerError: the ledger cannot be written; nothing was settled or reserved.
        """
        if not settlements and not wants:
            return []
        with self.books.transaction() as connection:
            return self.turn_in(connection, settlements, wants)

    def turn_in(self, connection: sa.Connection, settlements: Sequence[Settlement], wants: Sequence[Want]) -> list[Reservation]:
        """`turn` inside a transaction of the caller, which commits it together with rows of its own."""
        for settled in settlements:
            if settled.cost > settled.reservation.worst:
                LOG.warning(
                    "a call of %s cost $%s, more than the $%s reserved for it: its tokens were counted too low.",
                    self.scope, dollars(settled.cost), dollars(settled.reservation.worst),
                )  # fmt: skip
        # The first statement takes the scope's lock: what it returns is true until the commit.
        committed, calls = self._add(
            connection,
            sum(settled.cost - settled.reservation.worst for settled in settlements),
            sum(settled.calls - settled.reservation.calls for settled in settlements),
        )
        granted = self._fitting(committed, calls, wants)
        time = now()
        if settlements:
            rows = [{"which": one.reservation.id, "cost": one.cost, "calls": one.calls, "at": time} for one in settlements]
            connection.execute(SETTLE, rows)
        if granted:
            self._add(connection, sum(one.worst for one in granted), sum(one.calls for one in granted))
            fixed = {"scope": self.scope, "cost": None, "created_at": time, "settled_at": None}
            rows = [
                {"id": one.id, "subject": want.subject, "calls": one.calls, "worst": one.worst, **fixed}
                for one, want in zip(granted, wants, strict=False)
            ]
            connection.execute(sa.insert(RESERVATIONS), rows)
        return granted

    def spending(self) -> Spending:
        """What the scope has spent and reserved so far, by all processes."""
        own = sa.select(sa.func.coalesce(sa.func.sum(RESERVATIONS.c.worst), 0))
        with self.books.transaction("read") as connection:
            row = connection.execute(sa.select(SPEND.c.committed, SPEND.c.calls).where(SPEND.c.scope == self.scope)).one()
            held = connection.execute(own.where(RESERVATIONS.c.scope == self.scope, RESERVATIONS.c.cost.is_(None))).scalar_one()
        return Spending(dollars(int(row[0])), dollars(int(held)), int(row[1]))

    def refusal(self) -> CapReached:
        """The error that says which cap is reached, and what to do."""
        at = self.spending()
        caps = [f"${self.max_usd}"] if self.max_usd is not None else []
        caps += [f"{self.max_calls:,} calls"] if self.max_calls is not None else []
        return CapReached(
            f"the cap of {self.scope} ({' or '.join(caps)}) is reached: ${at.usd:.4f} and {at.calls:,} calls are spent or "
            f"reserved (${at.open_usd:.4f} in flight or lost with a process), and the next call may not fit. "
            f"All answers are kept. {self.advice()}"
        )

    def advice(self) -> str:
        """Where the cap is raised: a refresh has its own, which the dataset's YAML sets for those to come only."""
        dataset, _, epoch = self.scope.partition(":")
        if epoch:
            return (
                f"`anmi refresh --dataset {dataset} --max-usd USD --max-calls CALLS` raises what you name of it and goes on; "
                "judging.refresh in the dataset's YAML is for refreshes to come."
            )
        return "Raise it (judging.max_usd, judging.max_calls in the dataset's YAML) and run again to go on."

    def _fitting(self, committed: int, calls: int, wants: Sequence[Want]) -> list[Reservation]:
        most = MOST_UNITS if self.max_usd is None else units_of(self.max_usd)
        granted: list[Reservation] = []
        for want in wants:
            committed, calls = committed + want.worst, calls + want.calls
            if committed > most or (self.max_calls is not None and calls > self.max_calls):
                break
            granted.append(Reservation(f"{self._prefix}-{next(self._numbers)}", want.worst, want.calls))
        return granted

    def _add(self, connection: sa.Connection, units: int, calls: int) -> tuple[int, int]:
        row = connection.execute(ADD, {"which": self.scope, "units": units, "more": calls}).one()
        return int(row[0]), int(row[1])


ADD = (
    sa.update(SPEND)
    .where(SPEND.c.scope == sa.bindparam("which"))
    .values(committed=SPEND.c.committed + sa.bindparam("units"), calls=SPEND.c.calls + sa.bindparam("more"))
    .returning(SPEND.c.committed, SPEND.c.calls)
)
SETTLE = (
    sa.update(RESERVATIONS)
    .where(RESERVATIONS.c.id == sa.bindparam("which"))
    .values(cost=sa.bindparam("cost"), calls=sa.bindparam("calls"), settled_at=sa.bindparam("at"))
)
