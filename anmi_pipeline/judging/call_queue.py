"""Calls that wait for a worker: new requests, and those that are attempted again after a delay.

Belongs here: which call is next. Does not: how long a retry waits (`pacing.py`), attempts (`dispatch.py`).
"""

import asyncio
import heapq
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from anmi_pipeline.judging.requests import Request

WAITING_PER_WORKER = 16
"""Calls that may wait for their retry, per worker, before no new request is taken: they are held in memory."""


@dataclass
class Call:
    """A request under way."""

    request: Request
    attempts: int = 0


@dataclass(order=True)
class Retry:
    """A call that waits for its next attempt; it holds no worker."""

    due: float
    number: int
    call: Call = field(compare=False)


class CallQueue:
    """Hands the workers of a dispatch their next calls: a retry that is due, else a new request."""

    def __init__(self, workers: int, stop: asyncio.Event, room: asyncio.Event) -> None:
        """Start empty.

        Args:
            workers: how many take calls.
            stop: set: nothing more is to be sent.
            room: unset: no call is to be taken, since the caller is behind with committing.
        """
        self._most, self._stop, self._room = WAITING_PER_WORKER * workers, stop, room
        self._fresh: Iterator[Request] = iter(())
        self._retries: list[Retry] = []
        self._numbers = itertools.count()
        self._idle = 0

    def take(self, requests: Iterable[Request]) -> None:
        """Take requests, one by one as workers become free."""
        self._fresh = iter(requests)

    def again(self, call: Call, delay: float) -> None:
        """Hand a call out once more after some seconds."""
        heapq.heappush(self._retries, Retry(asyncio.get_running_loop().time() + delay, next(self._numbers), call))

    async def next(self) -> Call | None:
        """The next call: a retry that is due, else a new request; None when this worker is not needed any more."""
        clock = asyncio.get_running_loop().time
        while not self._stop.is_set():
            while not self._room.is_set():  # the caller is behind with committing: what is lost by a kill stays bounded
                await self._room.wait()
            if self._retries and self._retries[0].due <= clock():
                return heapq.heappop(self._retries).call
            if len(self._retries) < self._most and (request := next(self._fresh, None)) is not None:
                return Call(request)
            if len(self._retries) <= self._idle:
                return None  # enough others wait for the retries; a call in flight that fails is its own worker's
            self._idle += 1
            try:
                await asyncio.sleep(max(self._retries[0].due - clock(), 0))
            finally:
                self._idle -= 1
        return None
