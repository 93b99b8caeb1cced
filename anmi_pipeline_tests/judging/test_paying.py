"""The cashier between workers and the books: who is refused, and who only came late."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from anmi_pipeline.judging.budget import CapReached, Reservation, Settlement, Want
from anmi_pipeline.judging.paying import Cashier


class SlowBudget:
    """Books of a scope in memory; a transaction ends when the test lets it."""

    def __init__(self, most: int) -> None:
        self.most, self.spent = most, 0
        self.begun, self.go_on = threading.Semaphore(0), threading.Semaphore(0)

    def turn(self, settlements: Sequence[Settlement], wants: Sequence[Want]) -> list[Reservation]:
        self.begun.release()
        assert self.go_on.acquire(timeout=10)
        self.spent += sum(one.cost - one.reservation.worst for one in settlements)
        granted = []
        for want in wants:
            if self.spent + want.worst > self.most:
                break
            self.spent += want.worst
            granted.append(Reservation(want.subject, want.worst, want.calls))
        return granted

    def refusal(self) -> CapReached:
        return CapReached("the cap is reached")


def test_a_wish_that_came_during_the_transaction_is_tried_before_it_is_refused() -> None:
    """The last call in flight failed and was settled, and the retries come while that is written: nothing is in flight then."""

    async def scene() -> Reservation:
        budget = SlowBudget(most=10)
        cashier = Cashier(budget, linger=0)  # type: ignore[arg-type]
        running = asyncio.create_task(cashier.run())
        budget.go_on.release()
        first = await cashier.reserve(Want("a", 10))
        await asyncio.to_thread(budget.begun.acquire)
        cashier.settle(first, 0, 0)
        await asyncio.to_thread(budget.begun.acquire)  # the settlement is being written
        late = asyncio.create_task(cashier.reserve(Want("b", 10)))
        await asyncio.sleep(0)
        budget.go_on.release(3)
        reservation = await late
        cashier.close()
        await running
        return reservation

    assert asyncio.run(scene()).id == "b"


def test_what_was_tried_and_does_not_fit_is_refused_when_nothing_is_in_flight() -> None:
    async def scene() -> None:
        budget = SlowBudget(most=10)
        budget.go_on.release(5)
        cashier = Cashier(budget, linger=0)  # type: ignore[arg-type]
        running = asyncio.create_task(cashier.run())
        first = await cashier.reserve(Want("a", 10))
        second = asyncio.create_task(cashier.reserve(Want("b", 6)))
        await asyncio.to_thread(budget.begun.acquire)
        await asyncio.to_thread(budget.begun.acquire)  # tried; it waits, for a is in flight
        assert not second.done()
        cashier.settle(first, 5, 1)
        with pytest.raises(CapReached):
            await second
        cashier.close()
        await running

    asyncio.run(scene())
