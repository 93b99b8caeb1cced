"""Batch jobs at half the price: submit, walk away, come back, collect; never the same calls twice.

Belongs here: a turn, which does what can be done now. Does not: the decisions (`batch_decisions.py`), wire formats (a
`BatchProvider`), the record (`intents.py`), committing verdicts (the caller commits each part before it asks for the next). A
turn never waits: what is not ready is left for a later turn, of this process or of another.
"""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol

from anmi_pipeline.errors import AnmiError, JudgeError
from anmi_pipeline.judging.batch_decisions import MAY_BE_BILLED, NO_RESULT, BatchConfig, is_final, next_attempt, packed, reconcile
from anmi_pipeline.judging.budget import Budget
from anmi_pipeline.judging.intents import Intent, IntentBook, Tried
from anmi_pipeline.judging.prices import Price, cost_units, dollars, worst_units
from anmi_pipeline.judging.requests import Batch, Outcome, Request, Retryable, Usage

LOG = logging.getLogger(__name__)


class BatchPending(AnmiError):  # noqa: N818 - read as "raise BatchPending"
    """Batches are on their way: run again later. Everything that is ready was handed over.

    Attributes:
        calls: calls in them.
        batches: how many there are.
        scope: whose they are.
    """

    def __init__(self, calls: int, batches: int, scope: str) -> None:
        """Say how many."""
        self.calls, self.batches, self.scope = calls, batches, scope
        super().__init__(f"{calls:,} calls in {batches} batch(es) of {scope} are on their way. Run again later.")

    def plus(self, other: "BatchPending") -> "BatchPending":
        """What two judges of a dataset wait for."""
        return BatchPending(self.calls + other.calls, self.batches + other.batches, self.scope)


class BatchProvider(Protocol):
    """What a turn needs of a provider; `requests.BatchClient` has it."""

    async def submit(self, requests: Sequence[Request], token: str) -> Batch:
        """Submit a batch whose custom ids are the requests' keys."""
        ...

    async def batches_since(self, since: datetime) -> list[Batch]:
        """List the batches accepted at or after a time."""
        ...

    async def retrieve(self, batch_id: str) -> Batch:
        """Look one batch up."""
        ...

    def results(self, batch_id: str) -> AsyncIterator[Outcome]:
        """Yield the outcomes of an ended batch."""
        ...


def utc_now() -> datetime:
    """The time, UTC."""
    return datetime.now(UTC)


class Batcher:
    """The batches of one scope at one provider and model."""

    def __init__(
        self,
        provider: BatchProvider,
        name: str,
        budget: Budget,
        price: Price | None,
        config: BatchConfig | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """Prepare.

        Args:
            provider: talks to the provider.
            name: names provider and model in the record: the same after a restart.
            budget: scope, cap and ledger; without caps it still keeps the books.
            price: of the model in the Batch API; None: unknown, and then there must be no cap in money.
            config: sizes and attempts.
            clock: tells the time, UTC.

        Raises:
            JudgeError: a cap in money without a price.
        """
        if budget.max_usd is not None and price is None:
            raise JudgeError(f"the batches of {budget.scope} are capped in money, so the price of the model must be known.")
        self.provider, self.budget, self.price, self.clock = provider, budget, price, clock
        self.config = config or BatchConfig()
        self.book = IntentBook(budget, name)
        self._refused: list[str] = []

    async def turn(self, requests: Sequence[Request]) -> AsyncGenerator[list[Outcome]]:
        """Do what can be done now: reconcile, collect, submit. Yields outcomes that are ready.

        The outcomes of one batch may be yielded again by a later turn when this one ends in between: what files them must take a
        call that is on file as filed. They include calls of earlier turns that are not among `requests` any more.

        Args:
            requests: every call that has no verdict, each key once.

        Raises:
            BatchPending: some calls are still on their way.
            CapReached: nothing is on its way, and the next batch does not fit under the cap.
            JudgeError: the provider refused a batch, or does not answer.
            LedgerError: the record cannot be written, or another process takes a turn.
        """
        wanted = {request.key: request for request in requests}
        with self.budget.books.exclusive(self.book.name):
            await self._reconcile(wanted)
            for intent in self.book.open():
                if intent.state == "submitted":
                    async for part in self._advance(intent, wanted):
                        yield part
            capped = await self._submit_rest(wanted)
            self._conclude(capped)

    async def _reconcile(self, wanted: Mapping[str, Request]) -> None:
        """Find out about every intent whose acceptance is not known."""
        unsure = [intent for intent in self.book.open() if intent.state == "written"]
        if not unsure:
            return
        since = min(intent.created_at for intent in unsure) - timedelta(seconds=self.config.skew_seconds)
        listed, known = await self.provider.batches_since(since), self.book.known_ids()
        shown: dict[str, frozenset[str]] = {}
        for intent in unsure:
            found = await self._find(intent, listed, known, shown)
            if isinstance(found, Batch):
                LOG.info("batch %s was accepted before the last run ended", found.id)
                self.book.accepted(intent, found.id, self.clock())
                known.add(found.id)
            elif found == "submit" and all(key in wanted for key in intent.keys):
                await self._submit(intent, [wanted[key] for key in intent.keys])
            elif found == "submit":
                self.book.dropped(intent, self.clock())

    async def _find(
        self, intent: Intent, listed: Sequence[Batch], known: Collection[str], shown: dict[str, frozenset[str]]
    ) -> Batch | Literal["submit", "wait"]:
        """The batch of an intent if the provider shows it, or else what to do. `shown` remembers the custom ids of batches."""
        age, settle = self.clock() - intent.created_at, timedelta(seconds=self.config.settle_seconds)
        others: set[str] = set()
        while True:
            decision = reconcile(intent, listed, {*known, *others}, age, settle)
            if decision.do == "adopt":
                return decision.batches[0]
            if decision.do != "inspect":
                return decision.do
            for batch in decision.batches:
                if batch.id not in shown:
                    shown[batch.id] = frozenset([outcome.key async for outcome in self.provider.results(batch.id)])
                if shown[batch.id] and shown[batch.id] <= set(intent.keys):
                    return batch
                others.add(batch.id)

    async def _submit(self, intent: Intent, requests: Sequence[Request]) -> None:
        """Submit an intent that is on record. Where acceptance stays unknown the next turn looks for it."""
        try:
            batch = await self.provider.submit(requests, intent.token)
        except Retryable as error:
            LOG.warning("a batch of %d calls was not confirmed (%s); the next turn looks for it", len(requests), error.kind)
            return
        self.book.accepted(intent, batch.id, self.clock())
        LOG.info("batch %s submitted: %d calls, at most $%.4f", batch.id, len(requests), dollars(intent.reservation.worst))

    async def _advance(self, intent: Intent, wanted: dict[str, Request]) -> AsyncGenerator[list[Outcome]]:
        """Collect a batch when it has ended."""
        batch = await self.provider.retrieve(intent.batch_id or "")
        if batch.status == "failed":
            self.book.failed(intent, self.clock())
            self._refused.append(batch.id)
        if batch.status != "ended":
            return
        tried = self.book.tried()
        statuses, cost, billed = dict.fromkeys(intent.keys, NO_RESULT), 0, 0
        ready: list[Outcome] = []
        async for outcome in self.provider.results(batch.id):
            units = self._units(intent, outcome)
            cost, billed = cost + units, billed + (outcome.text is not None or outcome.status in MAY_BE_BILLED)
            statuses[outcome.key] = outcome.status
            if self._finished(outcome.status, tried.get(outcome.key)):
                ready.append(replace(outcome, cost_usd=float(dollars(units))))
            if len(ready) >= self.config.part:
                yield ready
                ready = []
        ready += [
            Outcome(key, NO_RESULT, None, Usage())
            for key, status in statuses.items()
            if status == NO_RESULT and self._finished(status, tried.get(key))
        ]
        if ready:
            yield ready
        # Only now: killed before this line, the next turn hands everything over again.
        self.book.collected(intent, statuses, cost, billed, self.clock())
        for key, status in statuses.items():
            if self._finished(status, tried.get(key)):
                wanted.pop(key, None)

    def _finished(self, status: str, tried: Tried | None) -> bool:
        """Whether a call of a batch that is being collected has its last outcome."""
        return is_final(status) or next_attempt(tried, self.config.attempts) >= self.config.attempts

    def _units(self, intent: Intent, outcome: Outcome) -> int:
        if outcome.status in MAY_BE_BILLED:
            return -(-intent.reservation.worst // max(intent.reservation.calls, 1))
        return 0 if self.price is None else cost_units(outcome.usage, self.price)

    async def _submit_rest(self, wanted: Mapping[str, Request]) -> bool:
        """Write and submit intents for all calls that are in no open batch; returns whether the cap ended it."""
        covered = {key for intent in self.book.open() for key in intent.keys}
        tried = self.book.tried()
        rest = [request for key, request in wanted.items() if key not in covered]
        todo = packed(rest, self.config)[::-1]
        while todo:
            calls = todo.pop()
            worst = 0 if self.price is None else sum(worst_units(request, self.price) for request in calls)
            attempts = [(request.key, next_attempt(tried.get(request.key), self.config.attempts)) for request in calls]
            intent = self.book.write(sorted(attempts), worst, self.clock())
            if intent is not None:
                await self._submit(intent, calls)
            elif len(calls) == 1:
                return True
            else:  # a part of it may fit
                todo += [calls[len(calls) // 2 :], calls[: len(calls) // 2]]
        return False

    def _conclude(self, capped: bool) -> None:
        """End the turn with what the caller has to know."""
        if self._refused:
            names, self._refused = ", ".join(self._refused), []
            raise JudgeError(
                f"the provider took none of the calls of batch {names}: see its page of batches for the reason (often a limit on "
                "queued tokens). Nothing was billed for it. Correct the cause and run again.", retryable=True,
            )  # fmt: skip
        pending = self.book.open()
        if pending:
            raise BatchPending(sum(len(intent.keys) for intent in pending), len(pending), self.budget.scope)
        if capped:
            raise self.budget.refusal()
