"""How far a run is: about twenty lines in the Dagster log per long step, and a listener for the command line's bar.

Belongs here: the receivers of `Progress`. Does not: the bar itself (`cli.py`).
"""

import logging
import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, Protocol

Phase = Literal["start", "built", "reused"]


@dataclass(frozen=True)
class Step:
    """A step that started or ended, with the digest it gave and the one its ref named before."""

    asset: str
    partition: str
    phase: Phase
    digest: str | None = None
    previous: str | None = None
    seconds: float = 0.0


class Listener(Protocol):
    """Who watches a run from the same process."""

    def step(self, step: Step, /) -> None:
        """A step started or ended."""

    def progress(self, asset: str, done: int, total: int, unit: str, /) -> None:
        """A step is `done` of `total` units far."""

    def warning(self, text: str, /) -> None:
        """Something a person should know although the run goes on."""


LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


def announce(step: Step) -> None:
    """Tell the listener, when there is one, that a step started or ended."""
    listener = LISTENER.get()
    if listener is not None:
        listener.step(step)


def warn(log: logging.Logger, text: str) -> None:
    """Tell the Dagster log and the listener what a person should know although the run goes on."""
    log.warning(text)
    listener = LISTENER.get()
    if listener is not None:
        listener.warning(text)


class StepProgress:
    """Progress of one step: every twentieth goes to the log with rate and time left, all of it to the listener."""

    def __init__(self, asset: str, log: logging.Logger, lines: int = 20) -> None:
        """Start the clock."""
        self.asset, self.log, self.lines = asset, log, lines
        self.started = time.monotonic()
        self.logged = 0

    def __call__(self, done: int, total: int, unit: str, /) -> None:
        """Receive a report."""
        listener = LISTENER.get()
        if listener is not None:
            listener.progress(self.asset, done, total, unit)
        twentieth = done * self.lines // max(total, 1)
        if twentieth > self.logged:
            self.logged = twentieth
            seconds = max(time.monotonic() - self.started, 1e-9)
            rate = done / seconds
            left = (total - done) / rate if rate else 0.0
            self.log.info(f"{self.asset}: {done:,} of {total:,} {unit}, {rate:,.0f}/s, {left:,.0f} s left")
