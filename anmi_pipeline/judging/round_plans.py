"""The plan of each round: which pairs of every query are asked next, under the frozen prior and the stop rule.

Belongs here: shares of the budget, choices on record or anew. Does not: the choice within a query (`rating/rounds.py`), orders
and judges of given pairs (`plan.py`), asking (`rounds.py`).
"""

from collections.abc import Mapping

import polars as pl

from anmi_pipeline.judging.asked_pairs import so_far, with_closed
from anmi_pipeline.judging.asking import CAPPED
from anmi_pipeline.judging.choices import ChoiceBook
from anmi_pipeline.judging.config import StopRule
from anmi_pipeline.judging.frozen_prior import starting
from anmi_pipeline.judging.plan import certify_plan, plan_pairs, query_generator
from anmi_pipeline.judging.stopping import outlooks
from anmi_pipeline.judging.study import Study
from anmi_pipeline.rating.prior import ScorePrior
from anmi_pipeline.rating.rounds import first_round, next_round

CHOICE_STREAM = 0
"""Number of the generator that orders the first cycle; those of rounds, from 1, draw orders and judges."""


def plan_first(study: Study) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Draw the first round: one cycle per query, through neighbours of the starting prior's order where there is a prior.

    Returns:
        PLAN and CERTIFICATES frames.
    """
    seed = study.judging.draw_seed(study.seed)
    pairs = first_round(study.features, starting(study), lambda name: query_generator(seed, name, CHOICE_STREAM))
    plan = plan_pairs(pairs, study.judging, study.seed, 1)
    return plan, certify_plan(plan, study.features)


def plan_next(
    judgments: pl.DataFrame,
    asked: pl.DataFrame,
    study: Study,
    prior: ScorePrior | None,
    number: int,
    book: ChoiceBook | None = None,
) -> pl.DataFrame:
    """Choose and plan one later round of every query: an equal share of what is left of its budget.

    Args:
        judgments: verdicts so far.
        asked: PLAN frame of the rounds so far.
        study: what the choice rests on.
        prior: the frozen prior; None for a flat one.
        number: round, from 2.
        book: where choices are on record; None: they are made from the verdicts, and kept nowhere.

    Returns:
        PLAN frame of the round.
    """
    comparisons = so_far(judgments, asked, study.judging)
    spent = dict(comparisons.group_by("query_id").len().iter_rows())
    rounds_left = study.judging.rounds - number + 1
    settled = settled_queries(comparisons, judgments, study, prior)
    # Rounded up: the remainder goes to the earlier rounds, and what a cap held back is spent later.
    counts = {
        name: 0 if name in settled else -(-max(budget - spent.get(name, 0), 0) // rounds_left)
        for name, budget in study.budgets.items()
    }
    if study.closed is not None:
        comparisons = with_closed(comparisons, study.closed)

    def choose(wanted: Mapping[str, int]) -> pl.DataFrame:
        return next_round(comparisons, study.features, prior, wanted, cap=study.judging.cap, model=study.rating.model)

    if book is None:
        return plan_pairs(choose(counts), study.judging, study.seed, number)
    # Pairs that a cap left without an answer will have one when it is raised: what follows from them is not for good.
    blind = set(judgments.filter(pl.col("status") == CAPPED)["query_id"])
    kept = {name: count for name, count in counts.items() if name not in blind}
    pairs = book.pairs(number, kept, comparisons, study.features, choose)
    others = choose({name: count for name, count in counts.items() if name in blind}) if blind else pairs.clear()
    return plan_pairs(pl.concat([pairs, others]), study.judging, study.seed, number)


def settled_queries(comparisons: pl.DataFrame, judgments: pl.DataFrame, study: Study, prior: ScorePrior | None) -> frozenset[str]:
    """Queries that the stop rule leaves: their top is settled, or a dollar would move it too little."""
    rule = study.judging.stop
    if rule is None or not comparisons.height:
        return frozenset()
    seen = outlook_of(comparisons, judgments, study, prior, rule)
    return frozenset(seen.filter(pl.col("stop"))["query_id"])


def outlook_of(
    comparisons: pl.DataFrame, judgments: pl.DataFrame, study: Study, prior: ScorePrior | None, rule: StopRule
) -> pl.DataFrame:
    """OUTLOOKS of every query that was asked, priced by what calls have cost so far."""
    paid = float(judgments["cost_usd"].sum()) / max(judgments.height, 1)
    asked = comparisons.select("query_id").unique()
    documents = study.features.join(asked, on="query_id", how="semi", maintain_order="left")
    seed = study.judging.draw_seed(study.seed)
    return outlooks(comparisons, documents, rule, seed, usd_per_call=paid or None, prior=prior, model=study.rating.model)
