"""What a re-plan would cost, before it is done: the frozen prior against one estimated now, and the calls of changed pairs.

Belongs here: the report. Does not: the re-plan itself, which is raising `judging.replan` in the dataset's YAML.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.collect import on_record
from anmi_pipeline.judging.frozen_prior import Frozen, estimate_prior
from anmi_pipeline.judging.judges import Judge, JudgeEvidence
from anmi_pipeline.judging.ledger import Ledger
from anmi_pipeline.judging.round_plans import plan_next
from anmi_pipeline.judging.study import Study
from anmi_pipeline.tables import JUDGMENTS


@dataclass(frozen=True)
class ReplanReport:
    """What raising `judging.replan` would do now.

    Attributes:
        frozen: the prior that chooses pairs now.
        estimated: the one that a re-plan would freeze.
        calls_by_round: round -> calls that are not in the ledger.
    """

    frozen: Frozen
    estimated: Frozen
    calls_by_round: dict[int, int]

    @property
    def calls(self) -> int:
        """Calls of all rounds that are not in the ledger."""
        return sum(self.calls_by_round.values())

    def rows(self) -> list[dict[str, object]]:
        """Frozen and re-estimated values side by side, then the calls, for people."""
        one, other = self.frozen.values(), self.estimated.values()
        lines = [(name, f"{one.get(name, 0):.4g}", f"{other.get(name, 0):.4g}") for name in {**one, **other}]
        lines += [(f"new calls of round {number}", "", f"{calls:,}") for number, calls in self.calls_by_round.items()]
        lines.append(("new calls", "", f"{self.calls:,}"))
        return [{"what": what, "frozen": now, "estimated anew": anew} for what, now, anew in lines]


def replan_report(
    plan: pl.DataFrame, judges: Sequence[Judge], evidence: JudgeEvidence, ledger: Ledger, study: Study
) -> ReplanReport:
    """Say what a re-plan would cost. Asks nobody and writes nothing.

    The second round rests on verdicts that are on record, so its count is exact. Later ones would rest on answers that nobody has
    given: there a pair that is not on record is taken as asked without an answer, and the count is an estimate.

    Args:
        plan: PLAN frame of the first round.
        judges: the judges of the plan.
        evidence: the texts.
        ledger: the verdicts on record.
        study: what the choice of pairs rests on now.

    Raises:
        InputError: pairs are chosen without a fitted prior, none is frozen yet, or the first round is not answered.
    """
    if study.rating.prior == "zero":
        raise InputError('rating.prior is "zero": nothing is frozen that a re-plan could estimate anew.')
    text = ledger.frozen_prior(study.plan_key)
    known, missing = on_record(plan, judges, evidence, ledger, study.judging)
    if text is None:
        raise InputError("the dataset has no frozen prior yet: its first run to pairwise_judgments freezes one. Run that first.")
    if missing.height:
        raise InputError(
            f"{missing.height} calls of the first round are not in the ledger, and the prior is estimated from that round. "
            "Run the dataset to pairwise_judgments first."
        )
    estimated = estimate_prior(known, plan, study)
    calls: dict[int, int] = {}
    asked = plan
    for number in range(2, study.judging.rounds + 1):
        later = plan_next(known, asked, study, estimated.prior, number)
        found, missing = on_record(later, judges, evidence, ledger, study.judging)
        known, asked = JUDGMENTS.frame(pl.concat([known, found])), pl.concat([asked, later])
        calls[number] = missing.height
    return ReplanReport(Frozen.from_text(text), estimated, calls)
