"""What is still to be asked: planned calls without a verdict, and how many more later rounds and tiers will take.

Belongs here: counting calls. Does not: what they cost (`estimating.py`) and asking them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import polars as pl

from anmi_pipeline.judging.asked_pairs import ENDS
from anmi_pipeline.judging.cascade import STEP_ROUNDS
from anmi_pipeline.judging.choices import ChoiceBook
from anmi_pipeline.judging.climbing import climbed
from anmi_pipeline.judging.collect import Term, of_judge, on_record
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.frozen_prior import Frozen, estimate_prior, starting
from anmi_pipeline.judging.intervals import Z95
from anmi_pipeline.judging.judges import Judge, JudgeEvidence
from anmi_pipeline.judging.ledger import Ledger
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.judging.round_plans import plan_next
from anmi_pipeline.judging.spans import Span
from anmi_pipeline.judging.study import Study
from anmi_pipeline.rating.prior import ScorePrior
from anmi_pipeline.tables import JUDGMENTS, PLAN


@dataclass(frozen=True)
class Ahead:
    """Where the judging of a dataset stands.

    Attributes:
        planned: PLAN frame of all rounds whose pairs are known.
        missing: PLAN frame of those of them without a verdict.
        known: JUDGMENTS frame of those with one.
        later: judge -> calls of rounds and tiers whose pairs are not known yet.
        prior: the prior under which the known rounds were chosen; None without one.
    """

    planned: pl.DataFrame
    missing: pl.DataFrame
    known: pl.DataFrame
    later: Mapping[str, Span]
    prior: ScorePrior | None

    @property
    def queries(self) -> int:
        """Judged queries."""
        return self.planned["query_id"].n_unique()


def look_ahead(
    plan: pl.DataFrame,
    judges: Sequence[Judge],
    evidence: JudgeEvidence,
    ledger: Books,
    config: JudgingConfig,
    study: Study | None,
    term: Term | None = None,
) -> Ahead:
    """Follow the rounds as far as their verdicts are on record, and count what comes after. Asks nobody and writes nothing.

    Args:
        plan: PLAN frame of the first round.
        judges: the judges of the plan.
        evidence: the texts.
        ledger: the verdicts on record.
        config: the judging configuration.
        study: what later rounds rest on; None for a plan that was drawn at once.
        term: epoch of the verdicts; None: the configured one.

    Raises:
        InputError: the plan names an unknown judge, query or document.
        LedgerError: the ledger cannot be read.
    """

    def read(rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        return on_record(rows, judges, evidence, ledger, config, term)

    known, missing = read(plan)
    planned, prior, number = plan, None, 1
    if study is not None and missing.is_empty():
        known, planned, missing = climbed(known, planned, study, starting(study), number, read)
    book = ChoiceBook(ledger, study.choices, keep=False) if study is not None and study.choices is not None else None
    while study is not None and missing.is_empty() and number < config.rounds:
        number += 1
        if number == 2:
            prior = prior_of(known, planned, ledger, study)
        later = plan_next(known, planned, study, prior, number, book)
        found, missing = read(later)
        known = JUDGMENTS.frame(pl.concat([known, found]))
        planned = PLAN.frame(pl.concat([planned, later]))
        if missing.is_empty():
            known, planned, missing = climbed(known, planned, study, prior, number, read)
    rest = study is not None and number < config.rounds
    if study is not None and missing.is_empty() and not rest:
        return Ahead(planned, missing, known, {}, prior)
    return Ahead(planned, missing, known, later_spans(planned, config, study if rest else None), prior)


def all_ahead(plan: pl.DataFrame, config: JudgingConfig, study: Study | None) -> Ahead:
    """What a first round and all that follows take when nothing is on record."""
    rest = study if study is not None and config.rounds > 1 else None
    return Ahead(plan, plan, JUDGMENTS.frame(), later_spans(plan, config, rest), None)


def prior_of(known: pl.DataFrame, planned: pl.DataFrame, ledger: Ledger, study: Study) -> ScorePrior | None:
    """The frozen prior, or what would be frozen now."""
    if study.rating.prior == "zero":
        return None
    text = ledger.frozen_prior(study.plan_key)
    return (Frozen.from_text(text) if text is not None else estimate_prior(known, planned, study)).prior


def later_spans(planned: pl.DataFrame, config: JudgingConfig, study: Study | None) -> dict[str, Span]:
    """Calls of rounds and tiers to come, by judge.

    The pairs of later rounds are as many as the budget says; how many are audited is drawn (mean, and 1.96 standard deviations
    either way); a stop rule may leave all of them. An upper tier gets at most its share, which a cascade fills while there is
    doubt: that is expected, and nothing is the least; what of it is planned already is not counted again.

    Args:
        planned: PLAN frame so far.
        config: the judging configuration.
        study: budgets of the rounds to come; None when there are none.
    """
    if planned.is_empty():
        return {}
    pairs = planned.select("query_id", **ENDS).n_unique()
    left = max(sum(study.budgets.values()) - pairs, 0) if study is not None else 0
    doubled = 2 if config.routing is not None and config.routing.tiers[0].both_orders else 1
    extra = 2 * len(config.first_judges) - config.votes_per_pair * doubled
    spread = Z95 * sqrt(left * config.audit_share * (1 - config.audit_share))
    audited = [min(max(left * config.audit_share + sign * spread, 0), left) for sign in (-1, 0, 1)]
    low, expected, high = (left * config.votes_per_pair * doubled + extra * count for count in audited)
    rounds = Span(0.0 if config.stop is not None else low, expected, high)
    first, upper = planned.filter(pl.col("round") < STEP_ROUNDS), planned.filter(pl.col("round") > STEP_ROUNDS)
    shares = dict(first.group_by("judge").len().select("judge", pl.col("len") / first.height).iter_rows())
    climbed_calls = dict(upper.group_by("judge").len().iter_rows())
    found = {judge: rounds.times(Span.exactly(share)) for judge, share in shares.items()}
    for tier in config.routing.tiers[1:] if config.routing is not None else ():
        most = (pairs + left) * tier.share * (2 if tier.both_orders else 1) / len(tier.judges)
        calls = {judge: max(most - climbed_calls.get(judge, 0), 0.0) for judge in tier.judges}
        found |= {judge: Span(0.0, count, count) for judge, count in calls.items()}
    return found


def calls_of_judge(rows: pl.DataFrame, judge: Judge, evidence: JudgeEvidence) -> pl.DataFrame:
    """Rows of a plan that a judge answers, with their call keys."""
    own = of_judge(rows, judge)
    return own.with_columns(call_key=pl.Series(judge.keys(own, evidence), dtype=pl.String()))


def alike(ahead: Ahead, judge: Judge, evidence: JudgeEvidence) -> pl.DataFrame:
    """Calls that those to come are like, with their keys: the judge's own, or those of the first tier asked of it.

    The planned calls without a verdict where there are any, else all planned ones: of later rounds only the number is known.
    """
    for rows in (ahead.missing, ahead.planned):
        own = calls_of_judge(rows, judge, evidence)
        if own.height:
            return own
    return calls_of_judge(ahead.planned.with_columns(judge=pl.lit(judge.name)), judge, evidence)
