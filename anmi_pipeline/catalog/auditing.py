"""The audit queue of a dataset: out for people, back as verdicts.

Belongs here: opening what it needs by the dataset's name. Does not: the choice of pairs (`judging/audit_queue.py`), filing
(`judging/imports.py`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import polars as pl

from anmi_pipeline import tables
from anmi_pipeline.catalog.datasets import DatasetConfig, load_dataset
from anmi_pipeline.catalog.ledgering import bring_verdicts, compared
from anmi_pipeline.digests import Json
from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.audit_queue import HUMAN, audit_queue, write_queue
from anmi_pipeline.judging.beliefs import QueryBelief, query_beliefs
from anmi_pipeline.judging.imports import Filed, Terms, imported_judgments
from anmi_pipeline.judging.judges import JudgeEvidence
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.rating.comparisons import weighted_comparisons
from anmi_pipeline.rating.features import score_features
from anmi_pipeline.rating.prior import ScorePrior
from anmi_pipeline.records import Records
from anmi_pipeline.settings import Settings
from anmi_pipeline.store import Store


def audit_export(dataset: str, settings: Settings, path: Path, count: int = 100) -> list[dict[str, object]]:
    """Write the most valuable disagreements of a dataset's verdicts for a human.

    Pairs that a human answered are left out, also where the answer came after the last run.

    Args:
        dataset: name of the dataset.
        settings: the installation.
        path: CSV file that is not there yet: an older one may hold somebody's answers.
        count: most pairs.

    Returns:
        The pairs in the order of the file, for people.

    Raises:
        InputError: no such dataset, nothing to audit, or the file is there or cannot be written.
        ArtifactError: the dataset has no verdicts yet.
    """
    if path.exists():
        raise InputError(f"{path} is there already, and may hold answers. Import it or move it away, or name another file.")
    config = load_dataset(dataset, settings.conf)
    verdicts = Records(Store(settings.store_url)).require("pairwise_judgments", dataset)[1]
    evidence, documents = compared(config, settings)
    judgments = verdicts.table(tables.JUDGMENTS)
    with Books(settings.ledger_url) as books:
        imported = imported_judgments(books, dataset, documents, evidence).judgments
    fresh = imported.join(judgments, on=list(tables.JUDGMENTS.key), how="anti")
    judgments = tables.JUDGMENTS.frame(pl.concat([judgments, fresh]))
    queue = audit_queue(judgments, believed(config, judgments, documents, evidence, verdicts.facts), count)
    if not queue.height:
        raise InputError(f"dataset {dataset} has no verdicts that nobody has audited. Run it to pairwise_judgments first.")
    write_queue(queue, evidence, path)
    shown = queue.select("query_id", "doc_i", "doc_j", "judges", *(pl.col(name).round(4) for name in ("fitted", "value")))
    return shown.to_dicts()


def believed(
    config: DatasetConfig, judgments: pl.DataFrame, documents: pl.DataFrame, evidence: JudgeEvidence, facts: Mapping[str, Json]
) -> list[QueryBelief]:
    """The posteriors of the judged queries under the prior that the dataset's Elo table has."""
    rating = config.rating
    frozen = cast("Mapping[str, Json]", facts.get("frozen_prior", {}))
    prior = ScorePrior.from_json(cast("Mapping[str, object]", frozen["prior"])) if "prior" in frozen else None
    keys = ["query_id", "doc_id"]
    known = documents.select(keys).join(judgments.select("query_id").unique(), on="query_id", how="semi")
    if prior is not None:
        known = score_features(known.join(evidence.pool, on=keys, how="left"))
    folded = weighted_comparisons(judgments, config.judging.weights)
    return list(
        query_beliefs(folded, known, prior=prior, model=rating.model, prior_precision=rating.prior_precision)
    )  # fmt: skip


def audit_import(dataset: str, settings: Settings, path: Path, judge: str = HUMAN) -> Filed:
    """File a human's answers as verdicts of a judge.

    Args:
        dataset: name of the dataset.
        settings: the installation.
        path: the file that `audit_export` wrote, filled in.
        judge: judge id, such as human/anna.

    Raises:
        InputError: no such dataset, or lines are wrong: all are named, up to 20, and nothing is written.
        ArtifactError: the dataset has no candidate pool yet.
    """
    return bring_verdicts(dataset, settings, path, Terms(judge=judge, both_orders=False))
