"""Collecting the verdicts of a plan: look up what the ledger has, ask only for the rest, commit before counting.

Belongs here: what a plan needs, and the verdicts and counts that come of it. Does not: asking (`asking.py`), any judge, the fit.
Killed at any moment, the next call asks only what was not committed, and returns the same table.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from anmi_pipeline.errors import InputError, nearest
from anmi_pipeline.judging.asking import FILED, Asking, JudgeCount, Part, Together, asked_together
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.judges import Judge, JudgeEvidence
from anmi_pipeline.judging.ledger import Ledger
from anmi_pipeline.judging.plan import belongs
from anmi_pipeline.judging.running import run
from anmi_pipeline.progress import Progress, silent
from anmi_pipeline.tables import JUDGMENTS, PLAN

LONG_AGO = ""
"""Before every time that the ledger writes: nothing had expired then."""


@dataclass(frozen=True)
class Term:
    """What verdicts are collected under.

    Attributes:
        epoch: new verdicts are written under it.
        opened_at: time at which verdicts of other epochs must not have expired, as the ledger writes it; None: now. Judged when a
            refresh opens its epoch, so that a later run asks nothing because time has passed.
    """

    epoch: str
    opened_at: str | None = None


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

    def and_also(self, other: "CollectReport | None") -> "CollectReport":
        """Both together, side by side: other judges, or the same for another purpose."""
        return self if other is None else CollectReport((*self.judges, *other.judges))

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
    term: Term | None = None,
) -> tuple[pl.DataFrame, CollectReport]:
    """Obtain every verdict of a plan. Inside a running event loop use `collect_async`.

    Args:
        plan: PLAN frame.
        judges: the judges of the plan (`panel.build_judges`).
        evidence: the texts.
        ledger: where verdicts are looked up and committed.
        config: what to do at the cap.
        progress: told the verdicts that are durable.
        term: epoch under which new verdicts are written; None: that of the configuration, opened now.

    Returns:
        JUDGMENTS frame with exactly the plan's rows, and what it took.

    Raises:
        InputError: the plan names an unknown judge, query or document.
        JudgeError: a judge cannot answer at all; what it answered before is kept.
        LedgerError: the ledger cannot be read or written.
    """
    return run(collect_async(plan, judges, evidence, ledger, config, progress, term), judges)


def on_record(
    plan: pl.DataFrame,
    judges: Sequence[Judge],
    evidence: JudgeEvidence,
    ledger: Ledger,
    config: JudgingConfig,
    term: Term | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Take from the ledger what it knows of a plan, and ask nobody.

    Returns:
        JUDGMENTS frame of the plan's rows that are on record, and PLAN frame of those that would be asked.

    Raises:
        InputError: the plan names an unknown judge, query or document.
        LedgerError: the ledger cannot be read.
    """
    refuse_unknown_judges(plan, judges)
    opened = term or Term(config.epoch)
    parts = [look_up(of_judge(plan, judge), judge, evidence, ledger, opened) for judge in judges]
    known = [part.judge.read(part.calls.join(part.answers[0], on="call_key", how="inner")) for part in parts]
    missing = [part.calls.join(part.answers[0], on="call_key", how="anti") for part in parts]
    return JUDGMENTS.frame(pl.concat(known)), PLAN.frame(pl.concat(missing))


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
    term: Term | None = None,
) -> tuple[pl.DataFrame, CollectReport]:
    """Obtain every verdict of a plan; `collect` for callers that run an event loop (`running.run`)."""
    refuse_unknown_judges(plan, judges)
    opened = term or Term(config.epoch)
    parts = [look_up(of_judge(plan, judge), judge, evidence, ledger, opened) for judge in judges]
    told = Together(progress, plan.height, sum(part.known for part in parts))
    # All keys and prices before the first call: a judge that cannot be asked must not cost the others' money.
    for part in parts:
        if part.missing.height:
            await part.judge.open()
    askings = [Asking(part, ledger, opened.epoch, told) for part in parts if part.missing.height]
    await asked_together(askings, finish=config.at_cap == "finish")
    for part in parts:
        if part.capped:
            part.answers.append(outdated(part, ledger, opened.epoch))
    done: dict[str, tuple[pl.DataFrame, JudgeCount]] = {}
    for part in sorted(parts, key=lambda part: part.judge.learns):
        if part.judge.learns:
            part.judge.learn(pl.concat([JUDGMENTS.frame(), *(frame for frame, _ in done.values())]))
        done[part.judge.name] = part.finished(config)
    table = JUDGMENTS.frame(pl.concat([JUDGMENTS.frame(), *(frame for frame, _ in done.values())]))
    return table, CollectReport(tuple(done[judge.name][1] for judge in judges))


def look_up(plan: pl.DataFrame, judge: Judge, evidence: JudgeEvidence, ledger: Ledger, term: Term) -> Part:
    """Find what the ledger knows of one judge's part of a plan."""
    calls = plan.with_columns(call_key=pl.Series(judge.keys(plan, evidence), dtype=pl.String()))
    stored = ledger.look_up(calls["call_key"], term.epoch, term.opened_at).select(FILED)
    # Equal calls (equal texts under two ids) are asked once; the first row in plan order stands for all.
    missing = calls.join(stored, on="call_key", how="anti", maintain_order="left")
    if not judge.folds:
        missing = missing.unique("call_key", maintain_order=True, keep="first")
    return Part(judge, calls, missing, [stored], stored.height)


def outdated(part: Part, ledger: Ledger, epoch: str) -> pl.DataFrame:
    """Expired answers to what the cap left unasked, FILED columns: an old verdict says more than none."""
    return ledger.look_up(part.missing["call_key"], epoch, at=LONG_AGO).select(FILED)


def shifted(progress: Progress, done: int, total: int) -> Progress:
    """Report the progress of one part, one judge's or one round's, as progress of the whole."""

    def report(count: int, _total: int, unit: str, /) -> None:
        progress(done + count, total, unit)

    return report
