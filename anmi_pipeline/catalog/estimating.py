"""What judging a dataset will cost, read from its artifacts, its ledger and, where asked for, from a probe.

Belongs here: opening what the estimate needs by the dataset's name, and asking the probe. Does not: the texts (`evidence.py`),
the estimate (`judging/estimating.py`), the choice of the probe (`judging/probing.py`), counting what is to come
(`judging/outlay.py`), the report (`estimate_report.py`).
"""

from dataclasses import dataclass, replace
from typing import cast

import polars as pl

from anmi_pipeline import tables
from anmi_pipeline.catalog.datasets import DatasetConfig, load_dataset
from anmi_pipeline.catalog.estimate_report import EstimateReport
from anmi_pipeline.catalog.evidence import stored_evidence
from anmi_pipeline.catalog.refreshing import standing
from anmi_pipeline.digests import Json
from anmi_pipeline.errors import ArtifactError, InputError
from anmi_pipeline.judging.api_judge import ApiJudge
from anmi_pipeline.judging.collect import Term, collect, of_judge
from anmi_pipeline.judging.costing import Basis, costs_of
from anmi_pipeline.judging.epochs import Epoch
from anmi_pipeline.judging.estimating import JudgeCost, total_usd
from anmi_pipeline.judging.judge_configs import ApiJudgeConfig
from anmi_pipeline.judging.judges import CALLS, Judge, JudgeEvidence
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.judging.money import Money
from anmi_pipeline.judging.outlay import Ahead, alike, look_ahead
from anmi_pipeline.judging.panel import Home, build_judges
from anmi_pipeline.judging.probing import PROBE, next_size, probe_keys
from anmi_pipeline.judging.study import Study, open_study
from anmi_pipeline.judging.usage import Source, Usage, billed_usage
from anmi_pipeline.judging.worth import worth_of_next
from anmi_pipeline.progress import Progress, silent
from anmi_pipeline.records import Records
from anmi_pipeline.settings import Settings
from anmi_pipeline.store import Store


@dataclass(frozen=True)
class Opened:
    """What an estimate looks at."""

    config: DatasetConfig
    settings: Settings
    plan: pl.DataFrame
    evidence: JudgeEvidence
    study: Study | None
    books: Books
    money: Money
    epoch: Epoch

    @property
    def basis(self) -> Basis:
        """What prices rest on."""
        return Basis(self.evidence, self.config.judging, self.config.seed, self.settings.conf)

    @property
    def term(self) -> Term:
        """The epoch that new verdicts are written under."""
        return Term(self.epoch.name, self.epoch.opened_at)

    def judges(self) -> list[Judge]:
        """The configured judges. An estimate reads, and a probe asks at once, so none of them works in batches."""
        judging = self.config.judging
        plain = [
            judge.model_copy(update={"batch": None}) if isinstance(judge, ApiJudgeConfig) else judge for judge in judging.judges
        ]
        config = judging.model_copy(update={"judges": tuple(plain)})
        home = Home(Records(Store(self.settings.store_url)), self.settings.home / "cache", self.config.name)
        return build_judges(
            config, self.evidence, self.config.seed, self.settings.data, money=self.money, conf=self.settings.conf, home=home
        )

    def ahead(self, judges: list[Judge]) -> Ahead:
        """What is still to be asked."""
        return look_ahead(self.plan, judges, self.evidence, self.books, self.config.judging, self.study, self.term)


def estimate(dataset: str, settings: Settings, *, probe: bool = False, progress: Progress = silent) -> EstimateReport:
    """Say what judging a dataset will still cost.

    What a judge bills is learnt from its verdicts on record. With `probe`, 20 planned calls of each judge behind an API are asked
    where there are none, and more while the price of a call is not known to 10 %, up to 320; they are asked and paid as in a run,
    under its caps, and their verdicts are kept. Without either, defaults with a wide interval stand in.

    Args:
        dataset: name of the dataset.
        settings: the installation.
        probe: ask planned calls.
        progress: told the probe's verdicts.

    Raises:
        InputError: no such dataset, nothing is judged, or a capped judge has no price (names prices.yaml).
        ArtifactError: the dataset has no plan yet.
        JudgeError, CapReached: the probe cannot be asked.
    """
    config = load_dataset(dataset, settings.conf)
    if not config.judging.judges:
        raise InputError(f"dataset {dataset} has no judges (judging.judges), so nothing is judged and nothing paid.")
    books = Books(settings.ledger_url)
    with books:
        opened = open_dataset(config, settings, books)
        judges = opened.judges()
        probed = sum(ask_probe(opened, judge, progress) for judge in judges if isinstance(judge, ApiJudge)) if probe else 0
        ahead = opened.ahead(judges)
        source: Source = "probe" if probed else "ledger"
        costs = tuple(cost for judge in judges for cost in costs_now(opened, ahead, judge, source))
        total = total_usd(costs)
        spent, most = opened.money.budget().spending(), opened.money.max_calls
        report = EstimateReport(
            dataset=dataset,
            costs=costs,
            on_record=ahead.known["call_key"].n_unique(),
            queries=ahead.queries,
            total=total,
            max_usd=opened.money.max_usd,
            spent_usd=float(spent.usd),
            worth=None,
            probed=probed,
            calls_left=None if most is None else max(most - spent.calls, 0),
        )
        worth = None
        if opened.study is not None and ahead.known.height:
            worth = worth_of_next(ahead.known, ahead.planned, opened.study, ahead.prior, report.usd_per_call or paid(ahead))
    return replace(report, worth=worth)


def open_dataset(config: DatasetConfig, settings: Settings, books: Books) -> Opened:
    """Read the plan and the texts.

    Raises:
        ArtifactError: there is no plan yet; says which command makes it.
    """
    records, judging, name = Records(Store(settings.store_url)), config.judging, config.name
    if records.current("comparison_plan", name) is None:
        raise ArtifactError(
            f"dataset {name} has no comparison plan yet. `anmi run --dataset {name} --until comparison_plan` makes it; "
            "that asks no judge and costs nothing."
        )
    evidence = stored_evidence(records, config)
    retrieval = cast("Json", config.retrieval.model_dump(mode="json"))
    epoch, previous = standing(books, records, config)
    study = None
    if judging.adaptive:
        study = open_study(config.family, judging, config.rating, config.seed, evidence.pool, retrieval, previous, name)
    caps = (epoch.max_usd, epoch.max_calls) if epoch.capped else (judging.max_usd, judging.max_calls)
    money = Money(books, epoch.scope, *caps, settings.conf)
    plan = records.require("comparison_plan", name)[1].table(tables.PLAN)
    return Opened(config, settings, plan, evidence, study, books, money, epoch)


def costs_now(opened: Opened, ahead: Ahead, judge: Judge, source: Source) -> list[JudgeCost]:
    """Rows of one judge, from what it has been billed."""
    usage = usage_of(opened, ahead, judge, source) if isinstance(judge, ApiJudge) else None
    return costs_of(opened.basis, ahead, judge, usage)


def usage_of(opened: Opened, ahead: Ahead, judge: ApiJudge, source: Source) -> Usage:
    """What calls of a judge were billed: planned ones on record, and those of a probe for an upper tier."""
    known = of_judge(ahead.known, judge)
    if known.height:
        return billed_usage(judge, known.select(list(CALLS)), known, source)
    calls = alike(ahead, judge, opened.evidence)
    stored = opened.books.look_up(calls["call_key"], opened.term.epoch, opened.term.opened_at)
    return billed_usage(judge, calls.select(list(CALLS)), stored, source)


def ask_probe(opened: Opened, judge: ApiJudge, progress: Progress) -> int:
    """Ask planned calls of one judge until the price of a call is known well enough; the number asked now."""
    asked = 0
    while True:
        ahead = opened.ahead(opened.judges())
        usage = usage_of(opened, ahead, judge, "probe")
        error = costs_of(opened.basis, ahead, judge, usage)[0].error
        wanted = next_size(len(usage), error) if len(usage) >= PROBE else PROBE
        calls = alike(ahead, judge, opened.evidence)
        stored = opened.books.look_up(calls["call_key"], opened.term.epoch, opened.term.opened_at)
        open_calls = calls.join(stored.select("call_key"), on="call_key", how="anti")
        if wanted <= len(usage) or open_calls.is_empty():
            return asked
        keys = probe_keys(judge, open_calls.select(list(CALLS)), wanted - len(usage), opened.config.seed)
        rows = open_calls.filter(pl.col("call_key").is_in(keys.implode()))
        fresh = next(one for one in opened.judges() if one.name == judge.name)
        found, _ = collect(
            tables.PLAN.frame(rows), [fresh], opened.evidence, opened.books, opened.config.judging, progress, opened.term
        )
        asked += len(keys)
        if not int(found["input_tokens"].sum()):
            return asked  # nothing was billed: more calls would say no more


def paid(ahead: Ahead) -> float | None:
    """Mean price of the calls on record; None where nothing was paid."""
    return float(ahead.known["cost_usd"].sum()) / ahead.known["call_key"].n_unique() or None
