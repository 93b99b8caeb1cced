"""Batch jobs at half the price: submit, walk away, come back, collect; never the same calls twice.

Belongs here: what to do next with each batch, as pure decisions, and the turn that does it. Does not: wire formats (a
`BatchProvider`), the record (`intents.py`), committing verdicts (the caller commits each part before it asks for the next). A
turn never waits: what is not ready is left for a later turn, of this process or of another.
"""

import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol

from pydantic import Field

from anmi_pipeline.errors import AnmiError, JudgeError
from anmi_pipeline.judging.budget import Budget
from anmi_pipeline.judging.intents import Intent, IntentBook, Tried
from anmi_pipeline.judging.prices import Price, cost_units, dollars, worst_units
from anmi_pipeline.judging.requests import ANSWERED, DECLINED, TOO_LONG, Batch, Outcome, Request, Retryable, Usage
from anmi_pipeline.settings import Config

LOG = logging.getLogger(__name__)
NO_RESULT = "batch_no_result"
"""Status of a call that an ended batch says nothing about."""
FINAL = frozenset({ANSWERED, DECLINED, TOO_LONG, *(f"http_{status}" for status in (400, 401, 402, 403, 404, 413, 422))})
"""Statuses that another attempt would not change. Every other failure of a call is submitted again."""
MAY_BE_BILLED = frozenset({"bad_body"})


class BatchPending(AnmiError):  # noqa: N818 - read as "raise BatchPending"
    """Batches are on their way: run again later. Everything that is ready was handed over."""


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


class BatchConfig(Config):
    """How calls are put into batches."""

    calls: int = Field(default=10_000, ge=1, le=50_000, description="calls per batch, at most")
    megabytes: float = Field(default=90.0, gt=0, description="size of a batch's bodies, at most")
    attempts: int = Field(default=3, ge=1, description="batches a call may be in before it counts as failed")
    skew_seconds: float = Field(
        default=300.0, ge=0, description="how far the provider's clock may be behind ours when batches are listed"
    )
    settle_seconds: float = Field(
        default=10.0,
        ge=0,
        description="age below which an intent that the provider does not list is looked for again, not submitted",
    )
    part: int = Field(default=500, ge=1, description="outcomes that are handed over, and committed, together")


@dataclass(frozen=True)
class Decision:
    """What to do with an intent whose acceptance is not known.

    Attributes:
        do: "adopt" the batch, "inspect" ended batches for its keys, "wait" until more is known, or "submit" it.
        batches: the batch to adopt, or those to inspect.
    """

    do: Literal["adopt", "inspect", "wait", "submit"]
    batches: tuple[Batch, ...] = ()


def reconcile(intent: Intent, listed: Iterable[Batch], known: Collection[str], age: timedelta, settle: timedelta) -> Decision:
    """Say whether the provider has an intent.

    Where batches carry the token it decides. Elsewhere a batch may be this one when nobody knows its id and it has as many calls:
    an ended one shows its custom ids, a running one must end first.

    Args:
        intent: written, its id unknown.
        listed: the provider's batches since a while before the intent.
        known: ids of batches on record, and of those that were found to be others'.
        age: of the intent.
        settle: how long an accepted batch may take to be listed.
    """
    strangers = [batch for batch in listed if batch.id not in known]
    named = [batch for batch in strangers if batch.token == intent.token]
    if named:
        return Decision("adopt", (named[0],))
    possible = [batch for batch in strangers if batch.token is None and batch.total in (0, len(intent.keys))]
    ended = tuple(batch for batch in possible if batch.status == "ended")
    if ended:
        return Decision("inspect", ended)
    if age < settle or any(batch.status == "running" for batch in possible):
        return Decision("wait")
    return Decision("submit")


def next_attempt(tried: Tried | None, attempts: int) -> int:
    """Number of the next attempt of a call: 1 for a new one, and again after a final outcome (a new epoch asks anew).

    Args:
        tried: what is on record of it.
        attempts: most attempts.
    """
    if tried is None or tried.status is None or is_final(tried.status) or tried.attempt >= attempts:
        return 1
    return tried.attempt + 1


def is_final(status: str) -> bool:
    """Whether another attempt would change nothing."""
    return status in FINAL


def packed(requests: Iterable[Request], config: BatchConfig) -> list[list[Request]]:
    """Fill batches in order, up to the most calls and bytes."""
    batches: list[list[Request]] = []
    size = 0.0
    for request in requests:
        own = len(json.dumps(request.body, ensure_ascii=False).encode()) + len(request.key) + 200
        if not batches or len(batches[-1]) >= config.calls or size + own > config.megabytes * 1e6:
            batches.append([])
            size = 0.0
        batches[-1].append(request)
        size += own
    return batches


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
            calls = sum(len(intent.keys) for intent in pending)
            raise BatchPending(
                f"{calls:,} calls in {len(pending)} batch(es) of {self.budget.scope} are on their way. Run again later."
            )
        if capped:
            raise self.budget.refusal()
