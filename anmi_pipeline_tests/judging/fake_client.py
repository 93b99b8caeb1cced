"""A client without a wire: what it answers is a function of the request's key and of the attempt's number."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence

from anmi_pipeline.judging.requests import ANSWERED, Outcome, Request, Retryable, Usage


def made_requests(count: int, tokens: int = 100, most: int = 10) -> list[Request]:
    return [Request(f"{i:064x}", {"n": i}, most, tokens) for i in range(count)]


def chance(*parts: object) -> float:
    """A number in [0, 1) that belongs to these parts."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6], "big") / 2**48


def answer(request: Request) -> Outcome:
    return Outcome(request.key, ANSWERED, f"A{request.key[-4:]}", Usage(request.input_tokens, 0, request.max_output_tokens // 2))


def faults(request: Request, attempt: int) -> Exception | None:
    """2 % 429, 1 % 500, 1 % timeouts, of each attempt."""
    drawn = chance("fault", request.key, attempt)
    if drawn < 0.02:
        return Retryable(429, 1.0)
    if drawn < 0.03:
        return Retryable(500)
    return Retryable(None, kind="timeout") if drawn < 0.04 else None


class FakeClient:
    """Answers after `seconds`; `fails(request, attempt)` says what goes wrong instead."""

    def __init__(self, fails: Callable[[Request, int], Exception | None] = lambda *_: None, seconds: float = 0.05) -> None:
        self.fails, self.seconds = fails, seconds
        self.attempts: Counter[str] = Counter()
        self.billed: list[Request] = []
        self.times: list[float] = []
        self.in_flight = self.most_in_flight = 0
        self.closed = False

    async def send(self, request: Request) -> Outcome:
        self.attempts[request.key] += 1
        self.times.append(asyncio.get_running_loop().time())
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.seconds)
            error = self.fails(request, self.attempts[request.key])
            if error is not None:
                raise error
            self.billed.append(request)
            return answer(request)
        finally:
            self.in_flight -= 1

    async def close(self) -> None:
        self.closed = True


def keys(outcomes: Sequence[Outcome]) -> list[str]:
    return [outcome.key for outcome in outcomes]
