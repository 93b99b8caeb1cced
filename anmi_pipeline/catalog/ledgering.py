"""The ledger of an installation, by name: figures, files, removal.

Belongs here: opening what `anmi ledger` needs and reading its arguments. Does not: the work (`judging/ledger_stats.py`,
`judging/ledger_transfers.py`, `judging/ledger_pruning.py`, `judging/imports.py`).
"""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from anmi_pipeline.catalog.datasets import DatasetConfig, load_dataset
from anmi_pipeline.catalog.evidence import stored_evidence
from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.audit_queue import HUMAN
from anmi_pipeline.judging.evidence import pool_documents
from anmi_pipeline.judging.imports import Filed, Terms, import_verdicts
from anmi_pipeline.judging.judges import JudgeEvidence
from anmi_pipeline.judging.ledger import as_time
from anmi_pipeline.judging.ledger_imports import withdraw_imports
from anmi_pipeline.judging.ledger_pruning import Order, Pruned, prune
from anmi_pipeline.judging.ledger_stats import LedgerStats, ledger_stats
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.judging.ledger_transfers import Added, Choice, export_verdicts, import_export
from anmi_pipeline.judging.recorded import recorded_documents
from anmi_pipeline.records import Records
from anmi_pipeline.settings import Settings
from anmi_pipeline.store import Store


def stats(settings: Settings) -> LedgerStats:
    """Add up the ledger."""
    with Books(settings.ledger_url) as books:
        return ledger_stats(books)


def export(settings: Settings, path: Path, choice: Choice) -> int:
    """Write verdicts to a file; how many."""
    with Books(settings.ledger_url) as books:
        return export_verdicts(books, path, choice)


def bring_file(
    settings: Settings, path: Path, dataset: str | None, judge: str | None, provenance: str | None
) -> list[dict[str, object]]:
    """Import a file: verdicts of people or other systems for a dataset, or, without one, an export of another ledger.

    Returns:
        How many rows were new and how many known, for people.

    Raises:
        InputError: as `bring_verdicts` and `bring`, or whose verdicts these are was said, and not which dataset gets them.
    """
    if dataset is None:
        if judge is not None or provenance is not None:
            raise InputError("a judge or a provenance was given; they go with verdicts for a dataset. Name it with --dataset.")
        return bring(settings, path).rows()
    return bring_verdicts(dataset, settings, path, Terms(judge=judge or HUMAN, provenance=provenance or HUMAN)).rows()


def bring(settings: Settings, path: Path) -> Added:
    """Add an export of another ledger to this one."""
    with Books(settings.ledger_url) as books:
        return import_export(books, path)


def bring_verdicts(dataset: str, settings: Settings, path: Path, terms: Terms) -> Filed:
    """File verdicts of people or other systems for a dataset.

    Args:
        dataset: name of the dataset.
        settings: the installation.
        path: the file.
        terms: whose verdicts they are; epoch and names that are taken are the dataset's.

    Raises:
        InputError: no such dataset, or the file is wrong: nothing is written.
        ArtifactError: the dataset has no candidate pool yet.
    """
    config = load_dataset(dataset, settings.conf)
    evidence, documents = compared(config, settings)
    own = replace(terms, epoch=config.judging.epoch, taken=tuple(judge.name for judge in config.judging.judges))
    with Books(settings.ledger_url) as books:
        return import_verdicts(books, dataset, path, evidence, documents, own)


def compared(config: DatasetConfig, settings: Settings) -> tuple[JudgeEvidence, pl.DataFrame]:
    """The texts of a dataset as of its last run, and query_id, doc_id (and rank, unless recorded) of what can be compared.

    Raises:
        ArtifactError: it was never materialised as far as its candidate pool.
    """
    records, judging = Records(Store(settings.store_url)), config.judging
    evidence = stored_evidence(records, config, grades=False)
    if judging.recorded:
        return evidence, recorded_documents(judging, settings.data)
    return evidence, pool_documents(evidence.pool, judging)


def withdraw(dataset: str, settings: Settings, judge: str) -> int:
    """Take a judge's imported verdicts back from a dataset; on how many pairs."""
    load_dataset(dataset, settings.conf)
    with Books(settings.ledger_url) as books:
        count = withdraw_imports(books, dataset, judge)
    if not count:
        raise InputError(
            f'dataset {dataset} has no imported verdicts of judge "{judge}". `anmi ledger stats` lists those it has.'
        )
    return count


def clean(settings: Settings, order: Order, *, apply: bool) -> Pruned:
    """Count what an order covers, or remove it."""
    with Books(settings.ledger_url) as books:
        return prune(books, order, apply=apply)


def date_time(text: str | None) -> str | None:
    """A date or time of a person, as the ledger writes it; without a zone it is UTC.

    Raises:
        InputError: it is neither.

    >>> date_time("2026-01-31")
    '2026-01-31T00:00:00.000000Z'
    """
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(f'"{text}" is no date. Give it as 2026-01-31 or 2026-01-31T12:00.') from error
    return as_time(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))
