"""Paying for calls as they come and go: many reservations and settlements in one transaction.

Belongs here: `Cashier`, the asynchronous front of a `Budget`. Does not: the transaction itself (`budget.py`). A commit costs
milliseconds; at hundreds of calls per second it must be shared, and must not stop the event loop.
"""

import asyncio
from collections import deque

from anmi_pipeline.judging.budget import Budget, Reservation, Settlement, Want

Waiting = tuple[Want, "asyncio.Future[Reservation]"]


class Cashier:
    """Reserves and settles for one dispatcher, at most one transaction per `linger` seconds.

    A wish that does not fit waits while calls of this dispatcher are in flight: their settlement may make room. It is refused
    when none is.
    """

    def __init__(self, budget: Budget, linger: float = 0.02) -> None:
        """Start with nothing reserved. `run` must be running for anything to happen."""
        self.budget, self.linger = budget, linger
        self._wishes: deque[Waiting] = deque()
        self._settlements: list[Settlement] = []
        self._in_flight = 0
        self._work = asyncio.Event()
        self._closing = False

    async def reserve(self, want: Want) -> Reservation:
        """Return when the money is reserved.

        Raises:
            CapReached: it does not fit, and nothing is in flight that could give some back.
        """
        future: asyncio.Future[Reservation] = asyncio.get_running_loop().create_future()
        self._wishes.append((want, future))
        self._work.set()
        return await future

    def settle(self, reservation: Reservation, cost: int, calls: int) -> None:
        """Replace a reserved amount by the true cost, with the next transaction."""
        self._settlements.append(Settlement(reservation, cost, calls))
        self._work.set()

    def close(self) -> None:
        """Let `run` end once everything is settled."""
        self._closing = True
        self._work.set()

    async def run(self) -> None:
        """Serve until closed.

        Raises:
            LedgerError: the ledger cannot be written; wishes then wait in vain.
        """
        clock = asyncio.get_running_loop().time
        while not self._closing or self._settlements:
            await self._work.wait()
            self._work.clear()
            started = clock()
            await self._turn()
            if not self._closing:
                await asyncio.sleep(max(self.linger - (clock() - started), 0))

    async def _turn(self) -> None:
        """One transaction: all settlements, then all wishes in their order."""
        settlements, self._settlements = self._settlements, []
        wishes = [wish for wish in self._wishes if not wish[1].done()]
        self._wishes.clear()
        granted = await asyncio.to_thread(self.budget.turn, settlements, [want for want, _ in wishes])
        self._in_flight += len(granted) - len(settlements)
        for reservation, (_, future) in zip(granted, wishes, strict=False):
            if future.done():  # its worker was cancelled while the transaction ran: the call never leaves
                self.settle(reservation, 0, 0)
            else:
                future.set_result(reservation)
        refused = wishes[len(granted) :]
        if refused and not self._in_flight and not self._settlements:
            error = await asyncio.to_thread(self.budget.refusal)
            for _, future in refused:
                if not future.done():
                    future.set_exception(error)
        else:  # before those that came while the transaction ran: they have not been tried yet
            self._wishes.extendleft(reversed(refused))
