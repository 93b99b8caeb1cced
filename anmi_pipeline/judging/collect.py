"""Collecting the verdicts of a plan: look up what the ledger has, ask only for the rest, commit before counting.

Belongs here: the loop between plan, judges and ledger. Does not: any judge, retries and rate limits (a judge's own affair), the
fit. Killed at any moment, the next call asks only what was not committed, and returns the same table.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import polars as pl

from anmi_pipeline.errors import InputError, JudgeError, nearest
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.judges import CALLS, OK, Judge, JudgeEvidence, call_keys, checked
from anmi_pipeline.judging.ledger import Ledger
from anmi_pipeline.judging.plan import belongs
from anmi_pipeline.progress import Progress, silent
from anmi_pipeline.tables import JUDGMENTS, PLAN

FILED = ["call_key", "epoch", "status", "p_first", "provenance", "input_tokens", "output_tokens", "cost_usd", "latency_ms"]
"""What a row of JUDGMENTS takes from the ledger."""


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


@dataclass(frozen=True)
class CollectReport:
    """What collecting took, per judge and together."""

    judges: tuple[JudgeCount, ...]

    @property
    def planned(self) -> int:
        """Rows of the plan."""
        return sum(judge.planned for judge in self.judges)

    @property
    def asked(self) -> int:
        """Calls made now."""
        return sum(judge.asked for judge in self.judges)

    @property
    def reused(self) -> int:
        """Calls whose verdict the ledger had."""
        return sum(judge.reused for judge in self.judges)

    @property
    def failed(self) -> int:
        """Rows of the plan without a vote."""
        return sum(judge.failed for judge in self.judges)

    @property
    def cost_usd(self) -> float:
        """Paid now, USD."""
        return sum(judge.cost_usd for judge in self.judges)

    def plus(self, later: "CollectReport") -> "CollectReport":
        """Both together, judge by judge: two rounds of the same judges."""
        return CollectReport(tuple(one.plus(other) for one, other in zip(self.judges, later.judges, strict=True)))


def collect(
    plan: pl.DataFrame,
    judges: Sequence[Judge],
    evidence: JudgeEvidence,
    ledger: Ledger,
    config: JudgingConfig,
    progress: Progress = silent,
) -> tuple[pl.DataFrame, CollectReport]:
    """Obtain every verdict of a plan. Inside a running event loop use `collect_async`.

    Args:
        plan: PLAN frame.
        judges: the judges of the plan (`panel.build_judges`).
        evidence: the texts.
        ledger: where verdicts are looked up and committed.
        config: the epoch.
        progress: told the verdicts that are durable.

    Returns:
        JUDGMENTS frame with exactly the plan's rows, and what it took.

    Raises:
        InputError: the plan names an unknown judge, query or document.
        JudgeError: a judge cannot answer at all; what it answered before is kept.
        LedgerError: the ledger cannot be read or written.
    """
    return asyncio.run(collect_async(plan, judges, evidence, ledger, config, progress))


def on_record(
    plan: pl.DataFrame, judges: Sequence[Judge], evidence: JudgeEvidence, ledger: Ledger, config: JudgingConfig
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Take from the ledger what it knows of a plan, and ask nobody.

    Returns:
        JUDGMENTS frame of the plan's rows that are on record, and PLAN frame of those that would be asked.

    Raises:
        InputError: the plan names an unknown judge, query or document.
        LedgerError: the ledger cannot be read.
    """
    refuse_unknown_judges(plan, judges)
    parts = [plan.with_columns(call_key=pl.lit(None, dtype=pl.String())).clear()]
    for judge in judges:
        own = of_judge(plan, judge)
        parts.append(own.with_columns(call_key=pl.Series(call_keys(own, judge, evidence), dtype=pl.String())))
    calls = pl.concat(parts)
    stored = ledger.look_up(calls["call_key"], config.epoch).select(FILED)
    known = JUDGMENTS.frame(calls.join(stored, on="call_key", how="inner"))
    return known, PLAN.frame(calls.join(stored, on="call_key", how="anti"))


def refuse_unknown_judges(plan: pl.DataFrame, judges: Sequence[Judge]) -> None:
    """Refuse a plan that asks a judge which the dataset does not configure."""
    unknown = sorted({name for name in plan["judge"].unique() if not any(belongs(name, judge.name) for judge in judges)})
    if unknown:
        hint = nearest(unknown[0], [judge.name for judge in judges])
        raise InputError(f'the comparison plan asks judge "{unknown[0]}", which the dataset does not configure.{hint}')


def of_judge(plan: pl.DataFrame, judge: Judge) -> pl.DataFrame:
    """The rows of a plan that a judge answers."""
    return plan.filter(pl.col("judge").str.split("/").list.first() == judge.name)


async def collect_async(
    plan: pl.DataFrame,
    judges: Sequence[Judge],
    evidence: JudgeEvidence,
    ledger: Ledger,
    config: JudgingConfig,
    progress: Progress = silent,
) -> tuple[pl.DataFrame, CollectReport]:
    """Obtain every verdict of a plan; `collect` for callers that run an event loop."""
    refuse_unknown_judges(plan, judges)
    parts: list[pl.DataFrame] = []
    counts: list[JudgeCount] = []
    for judge in judges:
        own = of_judge(plan, judge)
        done = sum(count.planned for count in counts)
        part, count = await _collect_one(own, judge, evidence, ledger, config, shifted(progress, done, plan.height))
        parts.append(part)
        counts.append(count)
    table = JUDGMENTS.frame(pl.concat(parts)) if parts else JUDGMENTS.frame()
    return table, CollectReport(tuple(counts))


async def _collect_one(
    plan: pl.DataFrame, judge: Judge, evidence: JudgeEvidence, ledger: Ledger, config: JudgingConfig, progress: Progress
) -> tuple[pl.DataFrame, JudgeCount]:
    """Obtain the verdicts of one judge: JUDGMENTS frame of its part of the plan."""
    started = time.monotonic()
    calls = plan.with_columns(call_key=pl.Series(call_keys(plan, judge, evidence), dtype=pl.String()))
    stored = ledger.look_up(calls["call_key"], config.epoch).select(FILED)
    # Equal calls (equal texts under two ids) are asked once; the first row in plan order stands for all.
    missing = calls.join(stored, on="call_key", how="anti", maintain_order="left").unique(
        "call_key", maintain_order=True, keep="first"
    )
    parts, asked, cost = [stored], 0, 0.0
    progress(plan.height - missing.height, plan.height, "verdicts")
    for start in range(0, missing.height, judge.chunk):
        async for part in _ask(judge, missing[start : start + judge.chunk].select(list(CALLS)), ledger, config.epoch):
            parts.append(part)
            asked += part.height
            cost += float(part["cost_usd"].sum())
            progress(plan.height - missing.height + asked, plan.height, "verdicts")
    table = JUDGMENTS.frame(calls.join(pl.concat(parts), on="call_key", how="left"))
    failed = int((table["status"] != OK).sum())
    return table, JudgeCount(judge.name, plan.height, asked, stored.height, failed, cost, time.monotonic() - started)


async def _ask(judge: Judge, calls: pl.DataFrame, ledger: Ledger, epoch: str) -> AsyncIterator[pl.DataFrame]:
    """Ask one chunk; yields FILED frames of verdicts that are committed.

    Raises:
        JudgeError: the judge left calls out, or answered calls it was not asked.
    """
    open_calls = calls.select("call_key", "judge")
    async for answers in judge.answer(calls):
        part = checked(answers, judge.name).join(open_calls, on="call_key", how="inner", maintain_order="left")
        if part.height < answers.height or part["call_key"].n_unique() < part.height:
            raise JudgeError(f'judge "{judge.name}" answered a call twice, or one that it was not asked.')
        open_calls = open_calls.join(part.select("call_key"), on="call_key", how="anti", maintain_order="left")
        written = ledger.append(part.drop("judge"), part["judge"], epoch)
        if written < part.height:
            # Another process wrote some of these first: its rows are the ones on record.
            yield ledger.look_up(part["call_key"], epoch).select(FILED)
        else:
            yield part.with_columns(epoch=pl.lit(epoch)).select(FILED)
    if open_calls.height:
        raise JudgeError(f'judge "{judge.name}" left {open_calls.height} of {calls.height} calls without a verdict or a failure.')


def shifted(progress: Progress, done: int, total: int) -> Progress:
    """Report the progress of one part, one judge's or one round's, as progress of the whole."""

    def report(count: int, _total: int, unit: str, /) -> None:
        progress(done + count, total, unit)

    return report
