"""How far a dispatch is: its tally, and the lines that tell it.

Belongs here: counts, rate, spend and time left. Does not: sending (`dispatch.py`), where progress is shown (`progress.py`).
"""

import asyncio
import logging
from dataclasses import dataclass

from anmi_pipeline.judging.budget import Budget
from anmi_pipeline.judging.prices import dollars
from anmi_pipeline.judging.requests import Outcome
from anmi_pipeline.progress import Progress

LOG = logging.getLogger(__name__)
LINES = 20
"""Lines of progress in the log of one dispatch."""


@dataclass
class Tally:
    """What a dispatch did.

    Attributes:
        done: requests with an outcome.
        failed: of these, without an answer.
        attempts: attempts made.
        units: spent, in units of 1e-12 USD; attempts that may have been billed count at their worst price.
    """

    done: int = 0
    failed: int = 0
    attempts: int = 0
    units: int = 0


class Watch:
    """Says about twenty times how far a dispatch is: rate, spend, time left."""

    def __init__(self, tally: Tally, total: int, progress: Progress, cap: Budget | None, *, priced: bool) -> None:
        """Start the clock.

        Args:
            tally: what was done, as it grows.
            total: requests; 0: not known.
            progress: told (outcomes, requests, "calls, $...").
            cap: of the dispatch's scope; None: none.
            priced: whether the model has a price.
        """
        self.tally, self.total, self.progress, self.cap, self.priced = tally, total, progress, cap, priced
        self.clock = asyncio.get_running_loop().time
        self.started = self.clock()
        self.logged = 0

    def look(self, part: list[Outcome]) -> None:
        """Note a part that is handed over."""
        tally = self.tally
        self.progress(tally.done, max(self.total, tally.done), f"calls, {self.spend()}")
        step = tally.done * LINES // max(self.total, tally.done + len(part))
        if step > self.logged:
            self.logged = step
            LOG.info("%s", self.line())

    def end(self) -> None:
        """Say where it ended, unless that was said."""
        if self.logged < LINES and self.tally.attempts:
            LOG.info("%s", self.line())

    def line(self) -> str:
        """One line: done, failed, rate, spend, time left."""
        tally = self.tally
        rate = tally.done / max(self.clock() - self.started, 1e-9)
        left = f", {max(self.total - tally.done, 0) / rate:,.0f} s left" if rate and self.total else ""
        total = f"{self.total:,}" if self.total else "?"
        return (
            f"{tally.done:,} of {total} calls ({tally.failed:,} failed, {tally.attempts:,} attempts), {rate:,.0f}/s, "
            f"{self.spend()}{left}"
        )

    def spend(self) -> str:
        """What this dispatch spent, and the cap of its scope."""
        cap = self.cap
        most = f" (cap ${cap.max_usd} for {cap.scope})" if cap is not None and cap.max_usd is not None else ""
        known = f"${float(dollars(self.tally.units)):,.4f}" if self.priced else "price unknown"
        return f"{known}{most}"
