"""Asking judges for what the ledger lacks: all at once, each part of the answers durable before the next is awaited.

Belongs here: a judge's part of a plan and the loop between judge and ledger. Does not: what a plan needs (`collect.py`), retries
and rate limits (a judge's own affair).
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import reduce

import polars as pl

from anmi_pipeline.errors import JudgeError
from anmi_pipeline.judging.batches import BatchPending
from anmi_pipeline.judging.budget import CapReached
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.judges import CALLS, Judge
from anmi_pipeline.judging.ledger import Ledger
from anmi_pipeline.judging.verdicts import OK, checked
from anmi_pipeline.progress import Progress
from anmi_pipeline.tables import JUDGMENTS

FILED = [
    *("call_key", "epoch", "status", "p_first", "raw_answer", "provenance"),
    *("input_tokens", "output_tokens", "cost_usd", "latency_ms"),
]
"""What votes are read from in the ledger."""
CAPPED = "cap"
"""Status of a verdict that was not bought because the cap was reached."""
SOFT = (CapReached, BatchPending)
"""What ends the asking of one judge and lets the others go on."""


@dataclass(frozen=True)
class JudgeCount:
    """What collecting one judge's verdicts took.

    Attributes:
        judge: name of the judge.
        planned: rows of the plan.
        asked: calls made now.
        reused: calls whose verdict the ledger had.
        failed: rows of the plan without a vote.
        cost_usd: paid now, USD.
        seconds: wall time.
    """

    judge: str
    planned: int
    asked: int
    reused: int
    failed: int
    cost_usd: float
    seconds: float

    def plus(self, later: "JudgeCount") -> "JudgeCount":
        """The same judge over two rounds."""
        return JudgeCount(
            self.judge, self.planned + later.planned, self.asked + later.asked, self.reused + later.reused,
            self.failed + later.failed, self.cost_usd + later.cost_usd, self.seconds + later.seconds,
        )  # fmt: skip


@dataclass
class Part:
    """One judge's part of a plan, as far as it is on record.

    Attributes:
        judge: who answers.
        calls: rows of the plan with their call keys.
        missing: of these, the rows that have to be asked; each key once, unless one call answers several rows.
        answers: STORED frames: what was on record, and what came since.
        reused: keys that were on record.
        asked: calls made now.
        cost_usd: paid now.
        capped: whether the cap ended it.
        seconds: wall time.
    """

    judge: Judge
    calls: pl.DataFrame
    missing: pl.DataFrame
    answers: list[pl.DataFrame]
    reused: int
    asked: int = 0
    cost_usd: float = 0.0
    capped: bool = False
    seconds: float = 0.0

    @property
    def known(self) -> int:
        """Rows of the plan whose answer was on record."""
        return self.calls.height - self.missing.height

    def finished(self, config: JudgingConfig) -> tuple[pl.DataFrame, JudgeCount]:
        """JUDGMENTS frame of this part, and what it took.

        Raises:
            JudgeError: rows were left without an answer.
        """
        answers = pl.concat(self.answers).unique("call_key", keep="first", maintain_order=True)
        rows = self.calls.join(answers, on="call_key", how="left", maintain_order="left")
        left = rows["status"].null_count()
        if left and not (self.capped and config.at_cap == "finish"):
            raise JudgeError(f'judge "{self.judge.name}" left {left} of {rows.height} verdicts open: asking was stopped.')
        read = once_paid(self.judge.read(rows.with_columns(NOT_ASKED)))
        failed = int((read["status"] != OK).sum())
        count = JudgeCount(
            self.judge.name, self.calls.height, self.asked, self.reused, failed, self.cost_usd, self.seconds
        )  # fmt: skip
        return JUDGMENTS.frame(read), count


NOT_ASKED = (
    pl.col("status").fill_null(CAPPED),
    pl.col("provenance").fill_null("model"),
    pl.col("epoch").fill_null(""),
    *(pl.col(name).fill_null(0) for name in ("input_tokens", "output_tokens", "cost_usd")),
)
"""What stands in the place of a verdict that the cap left out: a failure, and not on record, so that a higher cap asks for it."""


def once_paid(rows: pl.DataFrame) -> pl.DataFrame:
    """Leave tokens, cost and latency to the first row of each call: sums over rows are then sums over calls."""
    first = pl.int_range(pl.len()).over("call_key") == 0
    zeros = [pl.when(first).then(name).otherwise(0).alias(name) for name in ("input_tokens", "output_tokens", "cost_usd")]
    return rows.with_columns(*zeros, latency_ms=pl.when(first).then("latency_ms"))


class Together:
    """The progress of judges that are asked at the same time."""

    def __init__(self, progress: Progress, total: int, known: int) -> None:
        """Start with what is known."""
        self._progress, self._total, self._done = progress, total, known
        self.usd = 0.0
        progress(known, total, "verdicts")

    def add(self, count: int, usd: float) -> None:
        """Report more verdicts."""
        self._done, self.usd = self._done + count, self.usd + usd
        self._progress(self._done, self._total, f"verdicts, ${self.usd:,.4f}" if self.usd else "verdicts")


@dataclass(frozen=True)
class Asking:
    """Asking one judge for what its part lacks; each part of its answers is durable before the next is awaited."""

    part: Part
    ledger: Ledger
    epoch: str
    told: Together

    async def run(self) -> None:
        """Ask.

        Raises:
            JudgeError: the judge cannot go on, or broke the protocol.
            CapReached, BatchPending: as its `answer`.
        """
        started = time.monotonic()
        missing = self.part.missing.select([*CALLS])
        try:
            for start in range(0, missing.height, self.part.judge.chunk):
                await self._ask(missing[start : start + self.part.judge.chunk])
        finally:
            self.part.seconds = time.monotonic() - started

    async def _ask(self, calls: pl.DataFrame) -> None:
        """Ask one chunk."""
        part, judge = self.part, self.part.judge
        open_keys = calls.select("call_key", "judge").unique("call_key", maintain_order=True)
        rows = dict(calls.group_by("call_key").len().iter_rows())
        async with aclosing(judge.answer(calls)) as stream:
            async for answers in stream:
                came = checked(answers, judge.name, folds=judge.folds)
                mine = came.join(open_keys, on="call_key", how="inner", maintain_order="left")
                if not judge.late and (mine.height < came.height or mine["call_key"].n_unique() < mine.height):
                    raise JudgeError(f'judge "{judge.name}" answered a call twice, or one that it was not asked.')
                # Paid, whoever waits for it: answers to calls of earlier turns are filed under the judge's own name.
                others = came.join(open_keys, on="call_key", how="anti").with_columns(judge=pl.lit(judge.name))
                open_keys = open_keys.join(mine.select("call_key"), on="call_key", how="anti", maintain_order="left")
                part.answers.append(await filed(pl.concat([mine, others.select(mine.columns)]), self.ledger, self.epoch))
                usd = float(came["cost_usd"].sum())
                part.asked, part.cost_usd = part.asked + mine.height, part.cost_usd + usd
                self.told.add(sum(rows[key] for key in mine["call_key"]), usd)
        if open_keys.height and not judge.late:
            raise JudgeError(
                f'judge "{judge.name}" left {open_keys.height} of {calls.height} calls without a verdict or a failure.'
            )


async def filed(answers: pl.DataFrame, ledger: Ledger, epoch: str) -> pl.DataFrame:
    """Commit answers (VERDICTS and judge); returns them as the ledger has them now, FILED columns.

    In a thread: a commit waits for the disk, and calls in flight must not wait for it. Shielded: a cancelled run loses no answer.
    """
    written = await asyncio.shield(asyncio.to_thread(ledger.append, answers.drop("judge"), answers["judge"], epoch))
    if written < answers.height:
        # Another process wrote some of these first: its rows are the ones on record.
        return (await asyncio.to_thread(ledger.look_up, answers["call_key"], epoch)).select(FILED)
    return answers.with_columns(epoch=pl.lit(epoch)).select(FILED)


async def asked_together(askings: Sequence[Asking], *, finish: bool) -> None:
    """Ask all judges at the same time: they have limits of their own.

    A judge that waits for its batches, or reached the cap, lets the others finish. One that cannot go on stops them: what they
    have in flight is awaited and kept.

    Raises:
        The first of: an error of a judge, CapReached, BatchPending (of all judges that wait).
    """
    tasks = [asyncio.create_task(asking.run()) for asking in askings]
    waiting = set(tasks)
    try:
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if any(not isinstance(task.exception(), (*SOFT, type(None))) for task in done):
                for asking in askings:
                    asking.part.judge.stop()
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    errors = [error for task in tasks if (error := task.exception()) is not None]
    for asking, task in zip(askings, tasks, strict=True):
        asking.part.capped = isinstance(task.exception(), CapReached)
    pending = [error for error in errors if isinstance(error, BatchPending)]
    for error in sorted(errors, key=lambda error: isinstance(error, SOFT)):
        if not isinstance(error, BatchPending) and not (isinstance(error, CapReached) and finish):
            raise error
    if pending:
        raise reduce(BatchPending.plus, pending)
