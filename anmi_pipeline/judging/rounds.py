"""Judging in rounds: pairs are chosen, asked, and the next are chosen from the verdicts, with the ledger's frozen prior.

Belongs here: the loop of the adaptive design, and how many calls it may take. Does not: the plan of a round (`round_plans.py`),
the prior that is frozen after the first (`frozen_prior.py`), asking (`collect.py`, `cascade.py`).
"""

from dataclasses import dataclass
from math import sqrt

import polars as pl

from anmi_pipeline.judging.asked_pairs import ENDS
from anmi_pipeline.judging.cascade import Desk, ask_round
from anmi_pipeline.judging.choices import ChoiceBook
from anmi_pipeline.judging.collect import CollectReport, shifted
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.frozen_prior import Frozen, freeze, starting
from anmi_pipeline.judging.intervals import Z95
from anmi_pipeline.judging.round_plans import plan_next
from anmi_pipeline.judging.running import run
from anmi_pipeline.judging.study import Study
from anmi_pipeline.progress import Progress, silent
from anmi_pipeline.tables import JUDGMENTS, PLAN


@dataclass(frozen=True)
class Rounds:
    """The verdicts of all rounds.

    Attributes:
        judgments: JUDGMENTS frame.
        report: what collecting took.
        frozen: the prior that chose the later pairs; None without one.
    """

    judgments: pl.DataFrame
    report: CollectReport
    frozen: Frozen | None


async def collect_rounds_async(plan: pl.DataFrame, desk: Desk, study: Study, progress: Progress = silent) -> Rounds:
    """Obtain every verdict of all rounds; `collect_rounds` for callers that run an event loop."""
    config = study.judging
    total = plan.height + round(later_calls(plan, study)[1])
    first = await ask_round(plan, desk, study.features, starting(study), None, 1, shifted(progress, 0, total))
    judgments, asked, report, frozen = first.judgments, first.asked, first.report, None
    book = ChoiceBook(desk.books, study.choices) if study.choices is not None else None
    for number in range(2, config.rounds + 1):
        if number == 2:
            frozen = freeze(judgments, asked, desk.books, study)
            if frozen is not None and desk.books.frozen_prior(study.plan_key) is None:
                book = None  # what is chosen under a prior that is not for good is not put on record
        prior = frozen.prior if frozen else None
        later = plan_next(judgments, asked, study, prior, number, book)
        told = shifted(progress, asked.height, max(total, asked.height + later.height))
        done = await ask_round(later, desk, study.features, prior, judgments, number, told)
        judgments, report = JUDGMENTS.frame(pl.concat([judgments, done.judgments])), report.plus(done.report)
        asked = PLAN.frame(pl.concat([asked, done.asked]))
    return Rounds(judgments, report, frozen)


def collect_rounds(plan: pl.DataFrame, desk: Desk, study: Study, progress: Progress = silent) -> Rounds:
    """Obtain every verdict of all rounds of an adaptive plan.

    Every call goes through the ledger, and what is asked is a function of the verdicts and the frozen prior alone: killed at any
    moment, the next call repeats nothing that was committed and returns the same table.

    Args:
        plan: PLAN frame of the first round (`plan_first`), with the rows that a refresh carries on.
        desk: what they are asked with.
        study: what the choice of pairs rests on.
        progress: told the verdicts that are durable.

    Raises:
        InputError, JudgeError, LedgerError, CapReached, BatchPending: as `collect.collect`.
    """
    return run(collect_rounds_async(plan, desk, study, progress), desk.judges)


def collect_plan(plan: pl.DataFrame, desk: Desk, documents: pl.DataFrame, progress: Progress = silent) -> Rounds:
    """Obtain every verdict of a plan that was drawn at once, tier by tier where there is a cascade.

    Args:
        plan: PLAN frame.
        desk: what they are asked with.
        documents: query_id, doc_id of every document that may be compared.
        progress: told the verdicts that are durable.

    Raises:
        InputError, JudgeError, LedgerError, CapReached, BatchPending: as `collect.collect`.
    """
    done = run(ask_round(plan, desk, documents, None, progress=progress), desk.judges)
    return Rounds(done.judgments, done.report, None)


def later_calls(plan: pl.DataFrame, study: Study) -> tuple[float, float, float]:
    """Low, expected and high number of calls after the first round: the pairs are known, how many are audited is drawn.

    Equation: pairs * votes + A * (2 judges - votes), A ~ Binomial(pairs, audit share), with A at its mean and at 1.96 standard
    deviations either way.
    """
    config = study.judging
    first = plan.select("query_id", **ENDS).n_unique() if plan.height else 0
    pairs = max(sum(study.budgets.values()) - first, 0) if config.rounds > 1 and plan.height else 0
    share, extra = config.audit_share, 2 * len(config.judges) - config.votes_per_pair
    spread = Z95 * sqrt(pairs * share * (1 - share))
    audited = [min(max(pairs * share + sign * spread, 0), pairs) for sign in (-1, 0, 1)]
    upper = moved_up(config) * (pairs + first)
    least = 0.0 if config.stop is not None else 1.0  # a stop rule may leave every query after its first round
    doubled = 2 if config.routing is not None and config.routing.tiers[0].both_orders else 1
    low, expected, high = (pairs * config.votes_per_pair * doubled + extra * count for count in audited)
    return least * low, expected + upper, high + upper


def moved_up(config: JudgingConfig) -> float:
    """Calls per pair of the upper tiers, at most: their shares, which a cascade fills while there is doubt."""
    tiers = config.routing.tiers[1:] if config.routing is not None else ()
    return sum(tier.share * (2 if tier.both_orders else 1) for tier in tiers)
