"""The rows of an estimate: each judge in each tier, for what is still to be asked.

Belongs here: joining calls, counts, bills and prices of a judge. Does not: any of these (`outlay.py`, `usage.py`,
`estimating.py`, `prices.py`).
"""

from dataclasses import dataclass
from pathlib import Path

from anmi_pipeline.judging.api_judge import ApiJudge
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.estimating import JudgeCost, Tariff, judge_cost, local_cost
from anmi_pipeline.judging.judge_configs import ApiJudgeConfig
from anmi_pipeline.judging.judges import CALLS, Judge, JudgeEvidence
from anmi_pipeline.judging.outlay import Ahead, alike, calls_of_judge
from anmi_pipeline.judging.prices import Price, Tier, load_prices, price_of
from anmi_pipeline.judging.spans import Span
from anmi_pipeline.judging.usage import Usage, count_calls

TIERS: tuple[Tier, ...] = ("sync", "batch")


@dataclass(frozen=True)
class Basis:
    """What prices rest on.

    Attributes:
        evidence: the texts.
        config: the judging configuration: tiers of judges, caps.
        seed: seed of the dataset, for the sample of calls that are counted.
        conf: the user's configuration folder, whose prices.yaml stands above the shipped one.
    """

    evidence: JudgeEvidence
    config: JudgingConfig
    seed: int
    conf: Path | None = None


def costs_of(basis: Basis, ahead: Ahead, judge: Judge, usage: Usage | None) -> list[JudgeCost]:
    """Rows of one judge: each tier that has a price, and the configured one; a single row for a judge without an API.

    Args:
        basis: texts, settings, prices.
        ahead: what is still to be asked.
        judge: the judge.
        usage: what its calls were billed; None: nothing is known, and defaults with a wide interval stand in.

    Raises:
        InputError: the price is unknown, and the dataset is capped in money: names prices.yaml.
    """
    calls = calls_to_make(ahead, judge, basis.evidence)
    if not isinstance(judge, ApiJudge):
        return [local_cost(judge.name, calls)]
    settings = next(one for one in basis.config.judges if one.name == judge.name and isinstance(one, ApiJudgeConfig))
    asked: Tier = "sync" if settings.batch is None else "batch"
    counted = count_calls(judge, alike(ahead, judge, basis.evidence).select(list(CALLS)), basis.seed)
    plain = price_in(basis, settings.model, "sync", must=False)
    rows: list[JudgeCost] = []
    for tier in TIERS:
        price = price_in(basis, settings.model, tier, must=tier == asked and basis.config.max_usd is not None)
        if tier == asked or price is not None:
            tariff = Tariff(tier, price, plain, tier == asked)
            rows.append(judge_cost(judge.name, calls, counted, usage, tariff, settings.form))
    return rows


def calls_to_make(ahead: Ahead, judge: Judge, evidence: JudgeEvidence) -> Span:
    """Calls of a judge: the planned ones without a verdict, each once, and those of rounds and tiers to come."""
    missing = calls_of_judge(ahead.missing, judge, evidence)
    exact = float(missing["call_key"].n_unique())
    later = [span for name, span in ahead.later.items() if name.split("/", 1)[0] == judge.name]
    low, expected, high = (sum(getattr(span, end) for span in later) for end in ("low", "expected", "high"))
    return Span(exact + low, exact + expected, exact + high)


def price_in(basis: Basis, model: str, tier: Tier, *, must: bool) -> Price | None:
    """The price of a model in a tier; None when nobody knows it.

    Raises:
        InputError: it is unknown and must be known.
    """
    return price_of(model, tier, basis.conf) if must or load_prices(basis.conf).knows(model, tier) else None
