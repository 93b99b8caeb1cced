"""What judges may look at, read from a dataset's artifacts as of its last run.

Belongs here: texts, pool and grades by the dataset's name. Does not: the same inside a run, where they are inputs on record
(`defs/judging.py`), and the documents to compare (`judging/evidence.py`).
"""

from anmi_pipeline import tables
from anmi_pipeline.catalog.datasets import DatasetConfig
from anmi_pipeline.judging.judges import JudgeEvidence
from anmi_pipeline.records import Records


def stored_evidence(records: Records, config: DatasetConfig, *, grades: bool = True) -> JudgeEvidence:
    """The texts and the candidate pool of a dataset's judged queries, and the human grades where a judge may see them.

    Args:
        records: of the installation.
        config: the dataset.
        grades: whether grades are read at all.

    Raises:
        ArtifactError: the dataset was never materialised as far as its candidate pool.
    """
    name, judging = config.name, config.judging
    # Recorded verdicts are about whatever queries their file names.
    splits = () if judging.recorded else tuple(split for split in tables.SPLITS if split in judging.splits)
    return JudgeEvidence(
        queries=records.require("queries", name)[1].table(tables.QUERIES, *splits),
        corpus=records.require("corpus", name)[1].table(tables.CORPUS),
        pool=records.require("candidate_pool", name)[1].table(tables.POOL, *splits),
        qrels=records.require("qrels", name)[1].table(tables.QRELS, *splits) if grades and judging.needs_qrels else None,
    )
