"""A cascade as far as its verdicts are on record: the tiers that a round's pairs have climbed.

Belongs here: the walk through the steps of `cascade.ask_round` with a reader in the place of the judges. Does not: the decisions
(`routing.py`) and asking (`cascade.py`).
"""

from collections.abc import Callable

import polars as pl

from anmi_pipeline.judging.asked_pairs import answered_or_not
from anmi_pipeline.judging.beliefs import pair_beliefs
from anmi_pipeline.judging.carrying import without_pairs
from anmi_pipeline.judging.cascade import STEP_ROUNDS
from anmi_pipeline.judging.routing import escalate, plan_escalations
from anmi_pipeline.judging.study import Study
from anmi_pipeline.rating.prior import ScorePrior
from anmi_pipeline.tables import JUDGMENTS, PLAN

Read = Callable[[pl.DataFrame], tuple[pl.DataFrame, pl.DataFrame]]
"""PLAN frame -> JUDGMENTS frame of what is on record, PLAN frame of what is not."""


def climbed(
    known: pl.DataFrame, planned: pl.DataFrame, study: Study, prior: ScorePrior | None, number: int, read: Read
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Follow one round of a cascade through its tiers until something is not on record. Asks nobody.

    Args:
        known: JUDGMENTS of all rounds up to this one; its first tier has answered.
        planned: PLAN frame of the same.
        study: routing, features, rating model, what a refresh carries.
        prior: the prior under which this round is asked.
        number: the round.
        read: looks up what is on record.

    Returns:
        Verdicts and plan with those of the tiers, and PLAN frame of what is not on record: empty when the round is through.
    """
    routing, missing = study.judging.routing, planned.clear()
    if routing is None:
        return known, planned, missing
    for step in range(1, routing.steps + 1):
        compared = answered_or_not(known, study.judging)
        beliefs = pair_beliefs(compared, study.features, prior=prior, model=study.rating.model)
        fresh = known if study.previous is None else without_pairs(known, study.previous)
        upper = plan_escalations(
            escalate(fresh, routing, beliefs, step), routing, study.judging, study.seed, number + STEP_ROUNDS * step
        )
        if not upper.height:
            continue
        found, missing = read(upper)
        known, planned = JUDGMENTS.frame(pl.concat([known, found])), PLAN.frame(pl.concat([planned, upper]))
        if missing.height:
            break
    return known, planned, missing
