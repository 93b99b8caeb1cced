"""The refresh epoch of a step: opened by the tag of its run, or the one that the dataset is in.

Belongs here: the tag, and what the judging assets need of epochs. Does not: epochs themselves (`judging/epochs.py`).
"""

import polars as pl

from anmi_pipeline import tables
from anmi_pipeline.catalog.refreshing import carried_record, enter_epoch, epoch_of
from anmi_pipeline.defs.building import Bench, Read, Work
from anmi_pipeline.digests import Json
from anmi_pipeline.evaluation.drift_plot import drift_plot
from anmi_pipeline.judging.carrying import Previous
from anmi_pipeline.judging.epochs import JUDGED, RATED, Epoch, EpochBook
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.rating.drift import drift

EPOCH = "anmi/epoch"
"""Tag of runs that refresh: the epoch they open. One that is open already, or was followed by another, is not opened again."""


def planning_epoch(bench: Bench) -> Epoch:
    """The epoch that a plan is made in; opens the one that the run names."""
    with Books(bench.workspace.settings.ledger_url) as books:
        return enter_epoch(books, bench.workspace.records, bench.dataset, bench.context.run.tags.get(EPOCH))


def epoch_of_plan(bench: Bench) -> Epoch:
    """The epoch that the current plan was made in: verdicts are collected under it, whatever was opened since."""
    record, _ = bench.workspace.records.require("comparison_plan", bench.key.dataset)
    with Books(bench.workspace.settings.ledger_url) as books:
        found = EpochBook(books, bench.key.dataset).find(epoch_of(record))
        # A plan that a variant of the dataset made is shared by its family; the epoch is this dataset's own.
        return found if found is not None else enter_epoch(books, bench.workspace.records, bench.dataset)


def carried_reads(bench: Bench, epoch: Epoch) -> list[Read]:
    """The verdicts that an epoch carries on from as an input; none in a first epoch, where nothing was judged or all is recorded.

    Raises:
        ArtifactError: they are not in the store any more.
    """
    record = None if bench.dataset.judging.recorded else carried_record(epoch, bench.workspace.records)
    return [] if record is None else [Read(JUDGED, record=record)]


def previous_of(work: Work) -> Previous | None:
    """The verdicts that this step's epoch carries on from."""
    for entry in work.inputs.values():
        if entry.read.record is not None and entry.read.asset == JUDGED:
            return Previous.of(entry.table(tables.JUDGMENTS), entry.record.config)
    return None


def drift_of(work: Work, elo: pl.DataFrame) -> tuple[dict[str, Json], dict[str, bytes]]:
    """How far an Elo table has moved from the one before this epoch: incidental notes and a picture; empty in a first epoch."""
    bench = work.bench
    epoch = epoch_of_plan(bench)
    origin = epoch.origins.get(RATED) if epoch.number > 1 else None
    if origin is None or not bench.workspace.store.has(RATED, origin.digest):
        return {}, {}
    found = drift(bench.workspace.store.get(RATED, origin.digest).table(tables.ELO), elo)
    picture = drift_plot(found, bench.dataset.judging.refresh.retrain_above)
    return {"drift": {"since": origin.digest, **found.facts()}}, {"drift": picture}


def epoch_tags(name: str) -> dict[str, str]:
    """Tags of a run that refreshes."""
    return {EPOCH: name}
