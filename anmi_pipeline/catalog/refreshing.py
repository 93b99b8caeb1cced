"""Refreshing a dataset by name: which epoch it is in, what a refresh bought and moved, which recipes that trains again.

Belongs here: opening what these need from store and ledger. Does not: the plan (`judging/carrying.py`), the record of epochs
(`judging/epochs.py`), the measures (`rating/drift.py`), and running anything.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

import polars as pl

from anmi_pipeline import tables
from anmi_pipeline.catalog.datasets import DatasetConfig, load_dataset
from anmi_pipeline.errors import ArtifactError, InputError
from anmi_pipeline.judging.budget import Budget, Spending
from anmi_pipeline.judging.carrying import Previous
from anmi_pipeline.judging.epochs import JUDGED, RATED, Epoch, EpochBook, Origin, current_epoch, last_epoch
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.judging.pending import open_batches
from anmi_pipeline.judging.refreshing import next_name, purchases
from anmi_pipeline.lineage import lineage
from anmi_pipeline.rating.drift import Drift, agreement, drift
from anmi_pipeline.records import Record, Records
from anmi_pipeline.settings import Settings
from anmi_pipeline.store import Store


@dataclass(frozen=True)
class Movement:
    """How far the Elo table has moved from the one that a recipe's current checkpoint was trained on.

    Attributes:
        recipe: recipe.
        trained_on: digest of that table.
        now: digest of the current one.
        drift: between the two; None when the old one is gone.
        retrain: whether that is more than the dataset's threshold.
        reason: why, or why not.
    """

    recipe: str
    trained_on: str
    now: str
    drift: Drift | None
    retrain: bool
    reason: str


@dataclass(frozen=True)
class RefreshReport:
    """What an epoch has come to.

    Attributes:
        epoch: the epoch.
        bought: what it asked and why (`refreshing.purchases`).
        spending: what its scope has spent and reserved.
        drift: from the Elo table at its opening to the current one; None without one.
        agreement: verdicts asked again against the old ones, by judge (`drift.agreement`).
        movements: recipes whose checkpoints were trained on another Elo table.
    """

    epoch: Epoch
    bought: pl.DataFrame
    spending: Spending
    drift: Drift | None
    agreement: pl.DataFrame
    movements: tuple[Movement, ...]

    @property
    def retrain(self) -> list[str]:
        """Recipes to train again."""
        return [one.recipe for one in self.movements if one.retrain]

    def sections(self) -> list[tuple[str, list[dict[str, object]]]]:
        """Title and rows of each table for people; empty ones too."""
        bought: list[dict[str, object]] = [{**row, "cost_usd": f"{row['cost_usd']:.4f}"} for row in self.bought.to_dicts()]
        agreed: list[dict[str, object]] = [
            {name: f"{value:.3f}" if isinstance(value, float) else value for name, value in row.items()}
            for row in self.agreement.to_dicts()
        ]
        moved: list[dict[str, object]] = [
            {"recipe": one.recipe, "train again": one.retrain, "reason": one.reason} for one in self.movements
        ]
        return [
            (f"bought in epoch {self.epoch.name}", bought),
            ("drift of the Elo table", self.drift.rows() if self.drift is not None else []),
            ("verdicts asked again", agreed),
            ("recipes", moved),
        ]

    def as_json(self) -> dict[str, object]:
        """The same for programs."""
        return {
            "epoch": self.epoch.name,
            "opened_at": self.epoch.opened_at,
            "bought": self.bought.to_dicts(),
            "spent_usd": float(self.spending.usd),
            "drift": self.drift.facts() if self.drift is not None else None,
            "agreement": self.agreement.to_dicts(),
            "recipes": [{"recipe": one.recipe, "retrain": one.retrain, "reason": one.reason} for one in self.movements],
        }


def enter_epoch(books: Books, records: Records, dataset: DatasetConfig, name: str | None = None) -> Epoch:
    """Open an epoch by name if it is not open yet, and say which one the dataset is in: the one opened last.

    Args:
        books: the ledger.
        records: where the builds are found that are current now, which a new epoch remembers.
        dataset: dataset.
        name: epoch to open; None: only the one that its YAML names.
    """
    waiting = waiting_epoch(books, records, dataset.name)
    if waiting is not None:
        return waiting
    refresh, found = dataset.judging.refresh, origins(records, dataset.name)
    current = current_epoch(
        books, dataset.name, dataset.judging.epoch, found, max_usd=refresh.max_usd, max_calls=refresh.max_calls
    )
    if name is None:
        return current
    book = EpochBook(books, dataset.name)
    book.open(name, found, max_usd=refresh.max_usd, max_calls=refresh.max_calls)
    return book.all()[-1]


def waiting_epoch(books: Books, records: Records, dataset: str) -> Epoch | None:
    """The epoch that a dataset must stay in: the last one, while batches of it are on their way to its first Elo table.

    An epoch with caps of its own keeps its own books: another one would not know of these batches, and submit their calls again.
    """
    last = EpochBook(books, dataset).last()
    if last is None or not open_batches(books, [last.scope]):
        return None
    # Batches that nobody collects any more (their judge was replaced) must not hold a dataset for ever.
    return None if finished(last, records) else last


def origins(records: Records, dataset: str) -> dict[str, Origin]:
    """The verdicts and the scores of a dataset that are current now."""
    current = {asset: records.current(asset, dataset) for asset in (JUDGED, RATED)}
    return {asset: Origin(one.partition, one.build_key, one.digest) for asset, one in current.items() if one is not None}


def carried_record(epoch: Epoch, records: Records) -> Record | None:
    """The record of the verdicts that an epoch carries on from; None when it carries none.

    Raises:
        ArtifactError: it is not in the store any more.
    """
    origin = epoch.carried
    if origin is None:
        return None
    record = records.named(JUDGED, origin.partition, origin.build_key, origin.digest)
    if record is None or not records.store.has(JUDGED, origin.digest):
        raise ArtifactError(
            f"epoch {epoch.name} of {epoch.dataset} carries on from {JUDGED} {origin.digest[:12]}, which is not in the store any "
            "more. Open another epoch (`anmi refresh --epoch NAME`): it carries on from the current verdicts."
        )
    return record


def standing(books: Books, records: Records, dataset: DatasetConfig) -> tuple[Epoch, Previous | None]:
    """The epoch of a dataset's current plan, and the verdicts that it carries on from: for reports, which open nothing.

    Raises:
        ArtifactError: the dataset has no plan, or what it carries is not in the store any more.
    """
    plan, _ = records.require("comparison_plan", dataset.name)
    found = EpochBook(books, dataset.name).find(epoch_of(plan))
    epoch = found if found is not None else last_epoch(books, dataset.name, dataset.judging.epoch)
    record = None if dataset.judging.recorded else carried_record(epoch, records)
    if record is None:
        return epoch, None
    return epoch, Previous.of(records.store.get(JUDGED, record.digest).table(tables.JUDGMENTS), record.config)


def epoch_of(record: Record) -> str:
    """The epoch that a plan or its verdicts were made in."""
    own = cast("Mapping[str, str]", record.config.get("epoch", {}))
    return own.get("name") or str(cast("Mapping[str, object]", record.config["judging"])["epoch"])


def finished(epoch: Epoch, records: Records) -> bool:
    """Whether an epoch has come to its Elo table: the current verdicts are the epoch's, and the current table rests on them.

    By content: where nothing was new the table is the one before, whose record names an earlier epoch.
    """
    elo, judged = records.current(RATED, epoch.dataset), records.current(JUDGED, epoch.dataset)
    if elo is None or judged is None or epoch_of(judged) != epoch.name:
        return False
    return any(node.name == JUDGED and node.digest == judged.digest for node in lineage(records, elo).walk())


def open_refresh(
    dataset: str, settings: Settings, name: str | None = None, max_usd: float | None = None, max_calls: int | None = None
) -> Epoch:
    """Open an epoch of a dataset, or take up one that has not come to its Elo table.

    Args:
        dataset: name of the dataset.
        settings: the installation.
        name: name of the epoch; None: today's date (UTC), with a number where an epoch of that day has ended.
        max_usd: most that it may spend, USD; None: as the dataset says, or as before where it is taken up.
        max_calls: most calls that it may have billed; None: likewise.

    Raises:
        InputError: no such dataset, it has no judges or only recorded ones, it was never judged, or it waits for batches whose
            calls would be submitted again.
    """
    config = load_dataset(dataset, settings.conf)
    if not config.judging.judges or config.judging.recorded:
        raise InputError(f"dataset {dataset} has {'recorded verdicts' if config.judging.judges else 'no judges'}: nobody to ask.")
    records = Records(Store(settings.store_url))
    if records.current(JUDGED, dataset) is None:
        raise InputError(f"dataset {dataset} was never judged: `anmi run --dataset {dataset}` is its first epoch.")
    with Books(settings.ledger_url) as books:
        current = enter_epoch(books, records, config)
        book = EpochBook(books, dataset)
        under_way = current.number > 1 and not finished(current, records)
        if name is None:
            today = datetime.now(UTC).strftime("%Y-%m-%d")
            name = current.name if under_way else next_name(today, [epoch.name for epoch in book.all()])
        opened = enter_epoch(books, records, config, name)
        other_books = opened.name != name or (not opened.capped and (max_usd is not None or max_calls is not None))
        if other_books and waiting_epoch(books, records, dataset) is not None:
            raise InputError(
                f'batches of epoch "{opened.name}" of {dataset} are on their way; another epoch, or first caps of its own, would '
                f"submit their calls again. Go on with `anmi run --dataset {dataset} --until {RATED} --wait`, then refresh."
            )
        if opened.name != name:
            raise InputError(f'epoch "{name}" of {dataset} was followed by "{opened.name}". Give a new name, or none.')
        return book.cap(name, max_usd, max_calls)


def refresh_report(epoch: Epoch, settings: Settings) -> RefreshReport:
    """Say what an epoch bought, how far the Elo table moved and which recipes that trains again.

    Args:
        epoch: an epoch whose run has come to its Elo table.
        settings: the installation.

    Raises:
        ArtifactError: there is no Elo table.
    """
    records = Records(Store(settings.store_url))
    judgments = records.require(JUDGED, epoch.dataset)[1].table(tables.JUDGMENTS)
    elo = records.require(RATED, epoch.dataset)[1].table(tables.ELO)
    carried, rated = carried_record(epoch, records), epoch.origins.get(RATED)
    previous = judgments.clear()
    if carried is not None:
        previous = records.store.get(JUDGED, carried.digest).table(tables.JUDGMENTS)
    found = None
    if rated is not None and records.store.has(RATED, rated.digest):
        found = drift(records.store.get(RATED, rated.digest).table(tables.ELO), elo)
    with Books(settings.ledger_url) as books:
        spending = Budget(books, epoch.scope).spending()
    return RefreshReport(
        epoch, purchases(previous, judgments, epoch.name), spending, found, agreement(previous, judgments, epoch.name),
        tuple(movements(load_dataset(epoch.dataset, settings.conf), records)),
    )  # fmt: skip


def movements(dataset: DatasetConfig, records: Records) -> list[Movement]:
    """The dataset's trained recipes whose checkpoint names another Elo table than the current one."""
    elo = records.current(RATED, dataset.name)
    if elo is None:
        return []
    known: dict[str, Drift | None] = {}
    found: list[Movement] = []
    for recipe in dataset.recipes:
        trained_on = trained_table(records, f"{dataset.name}|{recipe}")
        if trained_on is None or trained_on == elo.digest:
            continue
        if trained_on not in known:
            known[trained_on] = drift_between(records, trained_on, elo.digest)
        retrain, reason = decide(known[trained_on], dataset)
        found.append(Movement(recipe, trained_on, elo.digest, known[trained_on], retrain, reason))
    return found


def trained_table(records: Records, system: str, asset: str = "checkpoint") -> str | None:
    """Digest of the Elo table behind the current checkpoint, or another asset, of a system; None when there is none."""
    record = records.current(asset, system)
    if record is None:
        return None
    return next((node.digest for node in lineage(records, record).walk() if node.name == RATED), None)


def drift_between(records: Records, old: str, new: str) -> Drift | None:
    """The drift between two stored Elo tables; None when the old one is gone."""
    if not records.store.has(RATED, old):
        return None
    before, after = (records.store.get(RATED, digest).table(tables.ELO) for digest in (old, new))
    return drift(before, after)


def decide(found: Drift | None, dataset: DatasetConfig) -> tuple[bool, str]:
    """Whether a drift trains again, and why."""
    if found is None:
        return True, "the Elo table it was trained on is not in the store any more"
    refresh = dataset.judging.refresh
    if found.moved > refresh.retrain_above:
        return True, f"the Elo table moved by {found.moved:.4f}, above {refresh.retrain_above:g}"
    if found.new_share > refresh.retrain_new_queries:
        return True, f"{found.new_share:.1%} of the queries are new, above {refresh.retrain_new_queries:.0%}"
    return False, (
        f"the Elo table moved by {found.moved:.4f}, not above {refresh.retrain_above:g}; {found.new_share:.1%} of the queries "
        f"are new, not above {refresh.retrain_new_queries:.0%}"
    )
