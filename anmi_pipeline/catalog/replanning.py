"""What a re-plan of a dataset would cost, read from its artifacts and the ledger.

Belongs here: opening what the report needs by the dataset's name. Does not: the report (`judging/replanning.py`).
"""

from typing import cast

from anmi_pipeline import tables
from anmi_pipeline.catalog.datasets import load_dataset
from anmi_pipeline.catalog.evidence import stored_evidence
from anmi_pipeline.catalog.refreshing import standing
from anmi_pipeline.digests import Json
from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.judging.panel import Home, build_judges
from anmi_pipeline.judging.replanning import ReplanReport, replan_report
from anmi_pipeline.judging.study import open_study
from anmi_pipeline.records import Records
from anmi_pipeline.settings import Settings
from anmi_pipeline.store import Store


def replan(dataset: str, settings: Settings) -> ReplanReport:
    """Compare the frozen prior of a dataset with one estimated now, and count the calls that a re-plan would make.

    Nothing is asked, written or materialised; the artifacts are those of the last run.

    Args:
        dataset: name of the dataset.
        settings: the installation.

    Raises:
        InputError: no such dataset, its design is not adaptive, or nothing is frozen yet.
        ArtifactError: it has no plan yet.
    """
    config = load_dataset(dataset, settings.conf)
    judging = config.judging
    if not judging.adaptive:
        raise InputError(f'dataset {dataset} has judging.design "{judging.design}" or recorded verdicts: nothing is frozen.')
    records = Records(Store(settings.store_url))
    evidence = stored_evidence(records, config)
    retrieval = cast("Json", config.retrieval.model_dump(mode="json"))
    with Books(settings.ledger_url) as books:
        _, previous = standing(books, records, config)
    study = open_study(config.family, judging, config.rating, config.seed, evidence.pool, retrieval, previous)
    home = Home(records, settings.home / "cache", dataset)
    judges = build_judges(judging, evidence, config.seed, settings.data, conf=settings.conf, home=home)
    plan = records.require("comparison_plan", dataset)[1].table(tables.PLAN)
    with Books(settings.ledger_url) as ledger:
        return replan_report(plan, judges, evidence, ledger, study)
