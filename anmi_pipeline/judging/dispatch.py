"""Sending requests to an API: bounded workers, one pacer, a hard cap, retries, and an outcome for every request.

Belongs here: the loop that turns requests into outcomes. Does not: which call is next (`call_queue.py`), wire formats (a
`Client`), pace (`pacing.py`), the cap (`budget.py`), lines of progress (`dispatch_progress.py`), batches (`batches.py`), and
writing outcomes to the ledger (the caller commits a part before it asks for the next). What ends early - a refused key, a reached
cap, Ctrl-C - ends after the calls in flight, and their outcomes are still handed over. Requests that were not sent then have no
outcome: a failure on record would keep a later run from asking them. A kill loses fewer than 2 * `workers` calls: no worker takes
one while as many outcomes as there are workers wait for their commit.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sized
from dataclasses import replace
from typing import cast

import numpy as np

from anmi_pipeline.errors import JudgeError
from anmi_pipeline.judging.budget import Budget, Reservation, Want
from anmi_pipeline.judging.call_queue import Call, CallQueue
from anmi_pipeline.judging.dispatch_config import DispatchConfig
from anmi_pipeline.judging.dispatch_progress import Tally, Watch
from anmi_pipeline.judging.pacing import Breaker, Pacer, backoff
from anmi_pipeline.judging.paying import Cashier
from anmi_pipeline.judging.prices import Price, cost_units, dollars, worst_units
from anmi_pipeline.judging.requests import ANSWERED, UNREACHABLE, Client, Outcome, Request, Retryable, Usage
from anmi_pipeline.progress import Progress, silent

OUTAGE_SHARE = 0.1
"""Share of the pace below which refusals for the rate count as an outage."""


class Dispatcher:
    """Sends requests through one client. Make one per run of requests, inside the event loop."""

    def __init__(
        self,
        client: Client,
        config: DispatchConfig | None = None,
        *,
        price: Price | None = None,
        budget: Budget | None = None,
        pacer: Pacer | None = None,
        seed: int = 0,
        progress: Progress = silent,
    ) -> None:
        """Prepare.

        Args:
            client: makes one attempt.
            config: workers, retries, breaker.
            price: of the model in this tier; None: unknown, and then there must be no cap in money.
            budget: the cap; None: none, and nothing is reserved.
            pacer: shared by dispatchers that share a provider's limit; None: one of its own.
            seed: of the jitter of retries.
            progress: told (outcomes, requests, "calls, $...").

        Raises:
            JudgeError: a cap in money without a price.
        """
        if budget is not None and budget.max_usd is not None and price is None:
            raise JudgeError(f"the calls of {budget.scope} are capped in money, so the price of the model must be known.")
        self.client, self.price, self.progress = client, price, progress
        self.config = config or DispatchConfig()
        self.pacer = pacer or Pacer(self.config.pace)
        self.tally = Tally()
        self._cashier = None if budget is None else Cashier(budget, self.config.linger_seconds)
        self.cap = budget
        self._breaker = Breaker(self.config.breaker_failures, self.config.breaker_seconds, self.config.breaker_trials)
        self._rng = np.random.default_rng(seed)
        self._handed = 0
        self._finished: list[Outcome] = []
        self._news, self._room, self._stop = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._room.set()
        self._queue = CallQueue(self.config.workers, self._stop, self._room)
        self._sending: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._error: BaseException | None = None

    def stop(self) -> None:
        """Send nothing more; what is in flight is awaited and handed over, then `parts` ends."""
        self._stop.set()
        self._news.set()

    async def parts(self, requests: Iterable[Request], total: int | None = None) -> AsyncGenerator[list[Outcome]]:
        """Send requests; yields everything that finished since the last part.

        A cancelled task gets what was in flight, part by part, before the cancellation goes on.

        Args:
            requests: each key once; taken one by one as workers become free, so bodies may be made on the way.
            total: how many there are, for the log; None: their length where they have one.

        Raises:
            Refused: no call of this client can succeed.
            CapReached: the next call does not fit under the cap.
            JudgeError: the provider is down.
            LedgerError: money cannot be reserved.
        """
        self._queue.take(requests)
        number = total if total is not None else len(requests) if isinstance(requests, Sized) else 0
        watch = Watch(self.tally, number, self.progress, self.cap, priced=self.price is not None)
        cashier = None if self._cashier is None else asyncio.create_task(self._cashier.run())
        workers = [asyncio.create_task(self._work()) for _ in range(self.config.workers)]
        cancelled: asyncio.CancelledError | None = None
        for task in [*workers, *([cashier] if cashier else [])]:
            task.add_done_callback(self._ended)
        try:
            while not all(task.done() for task in workers) or self._finished:
                try:
                    await self._wait_for_news(workers)
                except asyncio.CancelledError as error:
                    if cancelled is not None:
                        raise  # asked twice: now
                    cancelled = error
                    self.stop()
                    continue
                if part := self._take():
                    watch.look(part)
                    yield part
                    self._committed()
        finally:
            await self._close(workers, cashier)
            watch.end()
        if (error := cancelled or self._error) is not None:
            raise error

    async def _wait_for_news(self, workers: "list[asyncio.Task[None]]") -> None:
        """Return when there is an outcome, after a moment for others to join it; or when a worker ended."""
        if self._stop.is_set() and self._timer is None:
            self._timer = self._release(workers)
        if not self._finished and not all(task.done() for task in workers):
            self._news.clear()
            await self._news.wait()
        if self._finished and self.config.linger_seconds and not self._stop.is_set():
            await asyncio.sleep(self.config.linger_seconds)

    def _release(self, workers: "list[asyncio.Task[None]]") -> asyncio.TimerHandle:
        """End the workers that have no call in flight, and the others when their time is up."""
        for task in workers:
            if task not in self._sending:
                task.cancel()
        return asyncio.get_running_loop().call_later(self.config.grace_seconds, _cancel_all, list(self._sending))

    def _take(self) -> list[Outcome]:
        part, self._finished = self._finished, []
        self._handed = len(part)
        return part

    def _committed(self) -> None:
        """The caller came back: the last part is on record."""
        self._handed = 0
        if len(self._finished) < self.config.workers:
            self._room.set()

    async def _close(self, workers: "list[asyncio.Task[None]]", cashier: "asyncio.Task[None] | None") -> None:
        _cancel_all(workers)
        if self._timer is not None:
            self._timer.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        if cashier is not None and self._cashier is not None:
            self._cashier.close()
            await asyncio.gather(cashier, return_exceptions=True)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """A worker or the cashier ended; with an error, everything stops."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._error = self._error or error
            self._stop.set()
        self._news.set()

    async def _work(self) -> None:
        """Attempt calls until there are none."""
        while (call := await self._queue.next()) is not None:
            await self._attempt(call)

    async def _attempt(self, call: Call) -> None:
        """Make one attempt: paid, paced, sent. Paid first: a slow commit would let paced calls leave as a burst."""
        reservation, leaves = None, False
        try:
            reservation = await self._reserve(call.request)
            await self._admit(call.request)
            leaves = not self._stop.is_set()
        finally:
            if not leaves:
                self._breaker.forgone()
                self._settle(reservation, 0, 0)
        if leaves:
            await self._send(call, reservation)

    async def _admit(self, request: Request) -> None:
        """Return when the request may leave, by the breaker and by the pace."""
        admitted = False
        while not admitted:
            trial = await self._breaker.wait()
            await self.pacer.wait(request)
            admitted = trial or not self._breaker.is_open  # it may have opened while this call waited its turn

    async def _send(self, call: Call, reservation: Reservation | None) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        call.attempts += 1
        self.tally.attempts += 1
        self._sending.add(task)
        started = asyncio.get_running_loop().time()
        worst = 0 if self.price is None else worst_units(call.request, self.price)
        # Whatever else happens - cancellation, an error of the client - the call may have been billed.
        cost, calls = worst, 1
        try:
            outcome = await self.client.send(call.request)
            cost = 0 if self.price is None else cost_units(outcome.usage, self.price)
            self._answered(call, outcome, cost, started)
        except Retryable as error:
            cost, calls = (worst, 1) if may_be_billed(error) else (0, 0)
            self._failed(call, error, started)
        except JudgeError:
            cost, calls = 0, 0
            raise
        finally:
            self._sending.discard(task)
            self.tally.units += cost
            self._settle(reservation, cost, calls)

    def _answered(self, call: Call, outcome: Outcome, cost: int, started: float) -> None:
        self.pacer.answered(started)
        self._breaker.succeeded()
        latency = outcome.latency_ms if outcome.latency_ms is not None else (asyncio.get_running_loop().time() - started) * 1000
        self._finish(replace(outcome, cost_usd=float(dollars(cost)), latency_ms=latency))

    def _failed(self, call: Call, error: Retryable, started: float) -> None:
        """Note a failed attempt: another follows, or the request is finished without an answer."""
        if error.status == 429:
            self.pacer.refused(started, error.retry_after)
        else:
            self.pacer.answered(started)
        # A refusal for the rate is the pacer's to mend; it is an outage when the pace has given way and refusals go on.
        if error.status != 429 or self._breaker.is_open or self.pacer.share < OUTAGE_SHARE:
            self._breaker.failed()
        if self._breaker.given_up:
            raise JudgeError(
                f"the provider does not answer ({error.kind}): {self._breaker.failures} calls in a row failed. All answers are "
                "kept; run again when it is back.", retryable=True,
            )  # fmt: skip
        if call.attempts >= self.config.attempts:
            self._finish(Outcome(call.request.key, error.kind, None, Usage()))
            return
        config = self.config
        delay = backoff(call.attempts, error.retry_after, self._rng, config.backoff_seconds, config.longest_backoff_seconds)
        self._queue.again(call, delay)

    def _finish(self, outcome: Outcome) -> None:
        self.tally.done += 1
        self.tally.failed += outcome.status != ANSWERED
        self._finished.append(outcome)
        if len(self._finished) + self._handed >= self.config.workers:
            self._room.clear()
        self._news.set()

    async def _reserve(self, request: Request) -> Reservation | None:
        if self._cashier is None:
            return None
        worst = 0 if self.price is None else worst_units(request, self.price)
        return await self._cashier.reserve(Want(request.key, worst))

    def _settle(self, reservation: Reservation | None, cost: int, calls: int) -> None:
        if self._cashier is not None and reservation is not None:
            self._cashier.settle(reservation, cost, calls)


def may_be_billed(error: Retryable) -> bool:
    """Whether the provider may have answered and billed an attempt that failed here: no response, or one that came too late."""
    return error.kind != UNREACHABLE and (error.status is None or error.status == 408 or error.status < 400)


async def dispatch(dispatcher: Dispatcher, requests: Iterable[Request], total: int | None = None) -> AsyncIterator[Outcome]:
    """Send requests; yields outcomes one by one. See `Dispatcher.parts`, which hands over all that are ready at once."""
    async for part in dispatcher.parts(requests, total):
        for outcome in part:
            yield outcome


def _cancel_all(tasks: "list[asyncio.Task[None]]") -> None:
    for task in tasks:
        task.cancel()
