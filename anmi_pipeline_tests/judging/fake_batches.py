"""A provider of batches without a wire, and a world in which the process may die at any step."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.judging.requests import Batch, BatchStatus, Outcome, Request, Retryable
from anmi_pipeline_tests.judging.fake_client import answer

Result = Callable[[Request, int], Outcome | None]


class Killed(BaseException):
    """The process died here."""


@dataclass
class World:
    """What outlives a process: the time, and the step at which the next kill falls."""

    time: datetime = datetime(2026, 11, 20, 12, tzinfo=UTC)
    kill_at: int = -1
    steps: int = 0

    def step(self) -> None:
        self.steps += 1
        if self.steps == self.kill_at:
            raise Killed

    def clock(self) -> datetime:
        return self.time

    def passes(self, minutes: float) -> None:
        self.time += timedelta(minutes=minutes)


class MortalBooks(Books):
    """Books whose process may die before a transaction, or between its commit and the next line."""

    def __init__(self, url: str, world: World) -> None:
        self.world = world
        super().__init__(url)

    @contextmanager
    def transaction(self, action: str = "written") -> Generator[sa.Connection]:
        self.world.step()
        with super().transaction(action) as connection:
            yield connection
        self.world.step()


@dataclass
class Held:
    batch: Batch
    requests: Sequence[Request]
    ends_at: datetime


@dataclass
class FakeProvider:
    """Takes batches and ends them after ten minutes.

    Attributes:
        world: time and kills.
        tokens: whether it keeps tokens (OpenAI) or not (Anthropic).
        result: what comes of a call at its n-th submission; None: no result.
        refuse: says for the n-th submission what goes wrong: before ("lost") or after ("accepted") the provider took it.
        fails: whether the n-th batch fails as a whole.
    """

    world: World
    tokens: bool = True
    result: Result = lambda request, _: answer(request)
    refuse: Callable[[int], str] = lambda _: ""
    fails: Callable[[int], bool] = lambda _: False
    held: dict[str, Held] = field(default_factory=dict)
    attempts: Counter[str] = field(default_factory=Counter)
    asked: int = 0

    async def submit(self, requests: Sequence[Request], token: str) -> Batch:
        self.asked += 1
        self.world.step()
        how = self.refuse(self.asked)
        if how == "lost":
            raise Retryable(503)
        name = f"batch-{len(self.held)}"
        at = self.world.time - timedelta(minutes=2)  # its clock is behind
        batch = Batch(name, token if self.tokens else None, "running", at, len(requests), 0)
        self.held[name] = Held(batch, list(requests), self.world.time + timedelta(minutes=10))
        self.attempts.update(request.key for request in requests)
        if how == "accepted":
            raise Retryable(None, kind="timeout")
        self.world.step()
        return batch

    async def batches_since(self, since: datetime) -> list[Batch]:
        self.world.step()
        return [self._now(name) for name, held in reversed(self.held.items()) if held.batch.created_at >= since]

    async def retrieve(self, batch_id: str) -> Batch:
        self.world.step()
        return self._now(batch_id)

    async def results(self, batch_id: str) -> AsyncIterator[Outcome]:
        assert self._now(batch_id).status == "ended"
        for request in reversed(self.held[batch_id].requests):  # in any order
            self.world.step()
            nth = 1 + sum(request.key in {one.key for one in self.held[name].requests} for name in self._before(batch_id))
            if (outcome := self.result(request, nth)) is not None:
                yield outcome

    def _before(self, batch_id: str) -> list[str]:
        names = list(self.held)
        return names[: names.index(batch_id)]

    def _now(self, name: str) -> Batch:
        held = self.held[name]
        failed = self.fails(list(self.held).index(name) + 1)
        status: BatchStatus = "failed" if failed else "ended" if self.world.time >= held.ends_at else "running"
        one = held.batch
        return Batch(one.id, one.token, status, one.created_at, one.total, 0)
