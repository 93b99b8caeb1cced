"""Asking in tiers: a plan is asked of the first tier, and the pairs that leave doubt of the next ones.

Belongs here: the loop between asking and moving up. Does not: which pairs move up (`routing.py`), rounds of new pairs
(`rounds.py`), asking (`collect.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from anmi_pipeline.judging.asked_pairs import answered_or_not
from anmi_pipeline.judging.beliefs import pair_beliefs
from anmi_pipeline.judging.carrying import Previous, without_pairs
from anmi_pipeline.judging.collect import CollectReport, Term, collect_async
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.judges import Judge, JudgeEvidence
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.judging.money import Money
from anmi_pipeline.judging.routing import escalate, plan_escalations
from anmi_pipeline.progress import Progress, silent
from anmi_pipeline.rating.config import RatingConfig
from anmi_pipeline.rating.prior import ScorePrior
from anmi_pipeline.tables import JUDGMENTS, PLAN

STEP_ROUNDS = 1000
"""Pairs of round r that move up in step s are asked under round r + 1000 s: another round draws other orders."""


@dataclass(frozen=True)
class Desk:
    """What verdicts are asked with.

    Attributes:
        judges: the judges of the plan.
        evidence: the texts.
        books: the ledger, where verdicts are looked up and committed.
        config: the judging configuration.
        rating: the model under which beliefs are formed.
        seed: seed of the dataset.
        term: epoch of new verdicts; None: the configured one.
        money: caps and prices, for judges that are built later; None where nobody is paid.
        previous: the verdicts that a refresh carries on from: their pairs do not move up again.
    """

    judges: Sequence[Judge]
    evidence: JudgeEvidence
    books: Books
    config: JudgingConfig
    rating: RatingConfig
    seed: int
    term: Term | None = None
    money: Money | None = None
    previous: Previous | None = None


@dataclass(frozen=True)
class Round:
    """What came of one round.

    Attributes:
        judgments: JUDGMENTS frame of the round.
        asked: PLAN frame of everything asked in it.
        report: what collecting took.
    """

    judgments: pl.DataFrame
    asked: pl.DataFrame
    report: CollectReport


async def ask_round(
    plan: pl.DataFrame,
    desk: Desk,
    documents: pl.DataFrame,
    prior: ScorePrior | None,
    before: pl.DataFrame | None = None,
    number: int = 1,
    progress: Progress = silent,
) -> Round:
    """Ask one round of pairs, and move those that leave doubt up through the tiers.

    Args:
        plan: PLAN frame.
        desk: what they are asked with.
        documents: query_id, doc_id and features of every document that may be compared.
        prior: the frozen prior; None for a flat one.
        before: JUDGMENTS of earlier rounds, which the beliefs rest on too.
        number: the round.
        progress: told the verdicts that are durable.

    Raises:
        InputError, JudgeError, LedgerError, CapReached, BatchPending: as `collect.collect`.
    """
    judgments, report = await collect_async(plan, desk.judges, desk.evidence, desk.books, desk.config, progress, desk.term)
    routing, asked = desk.config.routing, plan
    if routing is None or not plan.height:
        return Round(judgments, asked, report)
    for step in range(1, routing.steps + 1):
        known = judgments if before is None else JUDGMENTS.frame(pl.concat([before, judgments]))
        beliefs = pair_beliefs(answered_or_not(known, desk.config), documents, prior=prior, model=desk.rating.model)
        fresh = known if desk.previous is None else without_pairs(known, desk.previous)
        moved = escalate(fresh, routing, beliefs, step)
        upper = plan_escalations(moved, routing, desk.config, desk.seed, number + STEP_ROUNDS * step)
        if not upper.height:
            continue
        later, took = await collect_async(upper, desk.judges, desk.evidence, desk.books, desk.config, progress, desk.term)
        judgments, report = JUDGMENTS.frame(pl.concat([judgments, later])), report.plus(took)
        asked = PLAN.frame(pl.concat([asked, upper]))
    return Round(judgments, asked, report)
