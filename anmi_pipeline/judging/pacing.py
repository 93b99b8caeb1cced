"""When a call may leave: budgets of requests and tokens per minute that give way to 429, and a breaker for outages.

Belongs here: `Pacer`, `Breaker`, the delay before a retry. Does not: sending and retrying (`dispatch.py`), money (`budget.py`).
All times are the running event loop's, so that a test may own the clock. Every attempt passes the same pacer, first or repeated:
retries that arrive as a stampede are refused and counted by the provider (152 instead of 198 requests/s, measured).
"""

import asyncio
import logging
import math
from collections.abc import Callable

import numpy as np
from pydantic import Field

from anmi_pipeline.judging.requests import Request
from anmi_pipeline.settings import Config

LOG = logging.getLogger(__name__)
WINDOW_CALLS = 50
WINDOW_SECONDS = 1.0
"""The share of refusals is looked at after so many answers or so many seconds, whichever is first."""
QUIET_SECONDS = 30.0
"""Time between two lines about refusals in the log."""
LOWEST_SHARE = 0.01
"""The pace never falls below this share of the limit, so that it finds out when the provider recovers."""
LOWEST_PACE = 0.1
"""Nor, where no limit is given, below so many requests per second."""


class PaceConfig(Config):
    """How fast calls may leave. Set it to what the provider grants; `headroom` is taken off."""

    requests_per_minute: float | None = Field(default=None, gt=0, description="null: as fast as the workers go, until a 429")
    tokens_per_minute: float | None = Field(default=None, gt=0, description="input + most output tokens; null: no limit")
    input_tokens_per_minute: float | None = Field(default=None, gt=0, description="input tokens; null: no limit")
    output_tokens_per_minute: float | None = Field(default=None, gt=0, description="most output tokens; null: no limit")
    headroom: float = Field(default=0.99, gt=0, le=1, description="share of the limits that is used")
    burst_seconds: float = Field(
        default=0.05, ge=0, description="a moment without calls is made up for by a burst of at most this many seconds' worth"
    )
    tolerance: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="share of 429 that is taken as chance: such a call waits alone; above it the pace gives way",
    )
    recovery: float = Field(default=0.1, gt=0, description="share of the limit that the pace regains per second without 429")


class Bucket:
    """One limit by the generic cell rate algorithm (ITU-T I.371): the time at which all that was sent would be paid off."""

    def __init__(self, per_second: float, weight: Callable[[Request], float]) -> None:
        """Start with nothing sent."""
        self.per_second, self.weight = per_second, weight
        self.paid_off = -math.inf

    def take(self, request: Request, at: float, share: float) -> None:
        """Send a request at a share of the limit."""
        self.paid_off = max(self.paid_off, at) + self.weight(request) / (self.per_second * share)


class Pacer:
    """Lets requests through in the order they come, as fast as the limits and the provider's refusals allow.

    Additive increase, multiplicative decrease: a window of answers with more 429 than `tolerance` cuts the pace to the accepted
    share (at most to a half) and stops everything for the longest Retry-After in it; every other window wins `recovery` back.
    Calls that left before a cut count for nothing after it: one burst that was too fast is punished once (as in RFC 6582).
    """

    def __init__(self, config: PaceConfig) -> None:
        """Start at the full pace."""
        self.config = config
        self.share = 1.0
        self._requests = Bucket(_per_second(config.requests_per_minute, config.headroom), lambda _: 1.0)
        limits: list[tuple[float | None, Callable[[Request], float]]] = [
            (config.tokens_per_minute, lambda request: request.input_tokens + request.max_output_tokens),
            (config.input_tokens_per_minute, lambda request: request.input_tokens),
            (config.output_tokens_per_minute, lambda request: request.max_output_tokens),
        ]
        self._limited = config.requests_per_minute is not None
        self._tokens = [Bucket(_per_second(limit, config.headroom), weight) for limit, weight in limits if limit is not None]
        self._turn = asyncio.Lock()  # wakes its waiters in the order they came
        self._paused_until = self._told = self._cut_at = -math.inf
        self._window = Window(-math.inf)

    @property
    def per_second(self) -> float:
        """Requests per second at the present pace; infinite while nothing limits them."""
        return self._requests.per_second * self.share

    async def wait(self, request: Request) -> None:
        """Return when the request may leave."""
        clock = asyncio.get_running_loop().time
        async with self._turn:
            # Asked again after each sleep: a refusal in the meantime may have moved the time.
            while (delay := self._free_at() - clock()) > 0:
                await asyncio.sleep(delay)
            at = clock()
            self._requests.take(request, at, self.share)
            for bucket in self._tokens:  # a pace that nobody limited may grow; limits of tokens that were given stay
                bucket.take(request, at, min(self.share, 1.0))

    def answered(self, left: float) -> None:
        """Count an attempt that was not refused for its rate; `left`: when it was sent, by the event loop's clock."""
        if left >= self._cut_at:
            self._window.answered += 1
            self._look()

    def refused(self, left: float, retry_after: float | None) -> None:
        """Count an attempt that was refused for its rate (429); `left`: when it was sent, by the event loop's clock."""
        if left >= self._cut_at:
            self._window.refused += 1
            self._window.longest_wait = max(self._window.longest_wait, retry_after or 0.0)
            self._look()

    def _free_at(self) -> float:
        paid_off = max(bucket.paid_off for bucket in (self._requests, *self._tokens))
        return max(self._paused_until, paid_off - self.config.burst_seconds)

    def _look(self) -> None:
        """Close the window when it is full, and adapt the pace to it."""
        at, window = asyncio.get_running_loop().time(), self._window
        if window.since == -math.inf:
            window.since = at
        total, seconds = window.answered + window.refused, at - window.since
        if total < WINDOW_CALLS and seconds < WINDOW_SECONDS:
            return
        if window.refused > self.config.tolerance * total:
            self._give_way(window, at, seconds)
        else:
            grown = self.share + self.config.recovery * seconds
            self.share = min(grown, 1.0) if self._limited else grown
        self._window = Window(at)

    def _give_way(self, window: "Window", at: float, seconds: float) -> None:
        accepted, self._cut_at = window.answered / (window.answered + window.refused), at
        self.share = max(self.share * max(accepted, 0.5), LOWEST_SHARE)
        if not self._limited:
            # No limit was given: the pace that remains after a cut is what the next recovery is a share of.
            seen = max(window.answered, 1) / max(seconds, WINDOW_SECONDS / 20)
            pace = seen if math.isinf(self._requests.per_second) else self._requests.per_second * self.share
            self._requests.per_second, self.share = max(pace, LOWEST_PACE), 1.0
        self._paused_until = max(self._paused_until, at + window.longest_wait)
        if at >= self._told + QUIET_SECONDS:
            self._told = at
            LOG.info(
                "the provider refuses %.0f %% of the calls (429); pace cut to %.3g requests/s, %.1f s of silence",
                100 * (1 - accepted), self.per_second, max(self._paused_until - at, 0.0),
            )  # fmt: skip


class Window:
    """Answers and refusals since a time."""

    def __init__(self, since: float) -> None:
        """Start counting."""
        self.since = since
        self.answered = self.refused = 0
        self.longest_wait = 0.0


class Breaker:
    """Stops all sending while a provider is down, and tries it with single calls until it answers.

    Closed -> open after `threshold` failures in a row -> one trial after `cooldown` seconds, doubled each time up to a minute ->
    closed by an answer, or given up after `trials` trials.
    """

    LONGEST_COOLDOWN = 60.0

    def __init__(self, threshold: int, cooldown: float, trials: int) -> None:
        """Start closed."""
        self.threshold, self.cooldown, self.trials = threshold, cooldown, trials
        self.failures = 0
        self.tried = 0
        self._open_until: float | None = None
        self._trial_under_way = False
        self._changed = asyncio.Event()

    @property
    def is_open(self) -> bool:
        """Whether sending is stopped."""
        return self._open_until is not None

    @property
    def given_up(self) -> bool:
        """Whether all trials failed."""
        return self.tried >= self.trials and self.is_open

    async def wait(self) -> bool:
        """Return when a call may leave: False while closed, True for the one call that tries an open breaker."""
        clock = asyncio.get_running_loop().time
        while self._open_until is not None:
            if not self._trial_under_way and clock() >= self._open_until:
                self._trial_under_way = True
                return True
            left = None if self._trial_under_way else self._open_until - clock()
            try:
                async with asyncio.timeout(left):
                    await self._changed.wait()
            except TimeoutError:
                continue
        return False

    def succeeded(self) -> None:
        """Note an answer of the provider, refusals of single calls included: it is there."""
        self.failures = 0
        if self.is_open:
            LOG.info("the provider answers again")
            self._open_until, self._trial_under_way, self.tried = None, False, 0
            self._tell()

    def failed(self) -> None:
        """Note an attempt without an answer."""
        self.failures += 1
        at = asyncio.get_running_loop().time()
        if self._open_until is None:
            if self.failures >= self.threshold:
                self._open(at)
        elif self._trial_under_way:
            self.tried += 1
            self._open(at)

    def forgone(self) -> None:
        """Note that a call which was let through did not leave after all; another may be the trial."""
        if self.is_open and self._trial_under_way:
            self._trial_under_way = False
            self._tell()

    def _open(self, at: float) -> None:
        seconds = min(self.cooldown * 2**self.tried, self.LONGEST_COOLDOWN)
        self._open_until, self._trial_under_way = at + seconds, False
        LOG.warning("%d calls in a row failed; sending stops for %.0f s", self.failures, seconds)
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def backoff(attempt: int, retry_after: float | None, rng: np.random.Generator, base: float, longest: float) -> float:
    """Seconds before the next attempt: half to all of base * 2^(attempt - 1), and never less than the provider asks for.

    Args:
        attempt: attempts made so far, 1 or more.
        retry_after: seconds the provider asks for; None: it does not say.
        rng: draws the jitter, so that calls which failed together do not return together.
        base: seconds after the first attempt.
        longest: cap of the exponential part, seconds.
    """
    grown = min(base * 2.0 ** min(attempt - 1, 30), longest)
    jittered = grown * (0.5 + 0.5 * float(rng.random()))
    return jittered if retry_after is None else max(retry_after, 0.0) + 0.1 * jittered


def _per_second(per_minute: float | None, headroom: float) -> float:
    return math.inf if per_minute is None else per_minute * headroom / 60
