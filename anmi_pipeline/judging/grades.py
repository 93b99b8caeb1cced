"""Anchors: absolute grades of a few documents per query, which tie the Elo of different queries to one scale.

Belongs here: the graders and the ANCHORS table of a dataset. Does not: which documents are graded (`rating/anchors.py`) and what
is learnt from the grades (`rating/calibration.py`). Recorded and simulated grades are there at once and need no ledger; those of
a judge are calls like any other.
"""

import hashlib
from pathlib import Path

import numpy as np
import polars as pl

from anmi_pipeline.collections.beir import read_beir_grades
from anmi_pipeline.collections.grades import GradeRows
from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.api_calls import TOP_GRADE
from anmi_pipeline.judging.call_keys import text_digest
from anmi_pipeline.judging.cascade import Desk
from anmi_pipeline.judging.collect import CollectReport, collect
from anmi_pipeline.judging.config import AnchorsConfig, RecordedGrades, SimulatedGrades
from anmi_pipeline.judging.judges import Judge
from anmi_pipeline.judging.recorded import data_file
from anmi_pipeline.judging.verdicts import NO_ANSWER, OK
from anmi_pipeline.progress import Progress, silent
from anmi_pipeline.rating.anchors import choose_anchors
from anmi_pipeline.rating.config import RatingConfig
from anmi_pipeline.rating.elo import rate
from anmi_pipeline.rating.prior import ScorePrior
from anmi_pipeline.tables import ANCHORS, PLAN, QRELS

DOCUMENT = ["query_id", "doc_id"]
GRADED = 0
"""Round of calls that grade: they are of no round of pairs."""


def choose(
    comparisons: pl.DataFrame,
    documents: pl.DataFrame,
    config: AnchorsConfig,
    rating: RatingConfig,
    features: pl.DataFrame | None,
    prior: ScorePrior | None,
) -> pl.DataFrame:
    """Choose the documents to grade from the verdicts of all rounds.

    Each query's choice depends on its own verdicts and on the frozen prior alone, so that a new query asks for no other grades:
    where no prior is frozen, the scores that place the anchors are fitted under mean zero.

    Args:
        comparisons: COMPARISONS frame.
        documents: query_id, doc_id of every document that could be compared.
        config: how many and where.
        rating: model and strength of the zero prior.
        features: features of the documents, for the frozen prior.
        prior: the frozen prior; None without one.

    Returns:
        query_id, doc_id, sorted.
    """
    settings = rating.model_copy(update={"std_error": "none", "prior": "zero" if prior is None else "scores"})
    elo, _ = rate(comparisons, documents, settings, features=features, prior=prior)
    return choose_anchors(elo, config.per_query, strategy=config.strategy, expected_share=config.expected_share)


def grade_anchors(
    anchors: pl.DataFrame, config: AnchorsConfig, qrels: pl.DataFrame | None, seed: int, data_root: Path | None = None
) -> pl.DataFrame:
    """Have documents graded.

    Args:
        anchors: query_id, doc_id.
        config: the grader.
        qrels: QRELS frame, for simulated grades.
        seed: seed of simulated errors.
        data_root: folder that a relative path of recorded grades starts from.

    Returns:
        ANCHORS frame with exactly these documents.

    Raises:
        InputError: the file of grades is absent or damaged, or there are no human grades to simulate from.
    """
    wanted = anchors.select(DOCUMENT)
    source = config.source
    if isinstance(source, RecordedGrades):
        known = recorded_grades(source, data_root)
        graded = wanted.join(known, on=DOCUMENT, how="left").with_columns(provenance=pl.lit("recorded"))
    elif isinstance(source, SimulatedGrades):
        check_grader(config, qrels)
        human = qrels if qrels is not None else QRELS.frame()
        graded = simulated_grades(wanted, source, human, seed).with_columns(provenance=pl.lit("simulated"))
    else:
        raise InputError(f'the grades of judge "{source.name}" are asked for (`ask_grades`), not read.')
    status = pl.when(pl.col("grade").is_null()).then(pl.lit(NO_ANSWER)).otherwise(pl.lit(OK))
    return ANCHORS.frame(graded.with_columns(judge=pl.lit(source.name), status=status))


def ask_grades(
    anchors: pl.DataFrame, grader: Judge, desk: Desk, progress: Progress = silent
) -> tuple[pl.DataFrame, CollectReport]:
    """Have documents graded by a judge behind an API, through the ledger.

    Args:
        anchors: query_id, doc_id.
        grader: the judge, with the prompt `pointwise`.
        desk: evidence, ledger and epoch.
        progress: told the grades that are durable.

    Returns:
        ANCHORS frame with exactly these documents, and what it took. Grades that log-probabilities put between two are rounded.

    Raises:
        JudgeError, LedgerError, CapReached, BatchPending: as `collect.collect`.
    """
    asked = anchors.select(*DOCUMENT).with_columns(
        first_id="doc_id", second_id="doc_id", judge=pl.lit(grader.name), round=pl.lit(GRADED), audit=pl.lit(False)
    )
    graded, report = collect(PLAN.frame(asked), [grader], desk.evidence, desk.books, desk.config, progress, desk.term)
    grade = (pl.col("p_first") * TOP_GRADE).round().cast(pl.Int64())
    rows = graded.select("query_id", "status", "provenance", "judge", doc_id="first_id", grade=grade)
    return ANCHORS.frame(rows), report


def check_grader(config: AnchorsConfig, qrels: pl.DataFrame | None) -> None:
    """Refuse a grader that could grade nothing, before any verdict is paid for.

    Raises:
        InputError: grades are simulated, and the dataset has no human ones.
    """
    if isinstance(config.source, SimulatedGrades) and (qrels is None or qrels.is_empty()):
        raise InputError(
            f'grader "{config.source.name}" is simulated from human grades, but the dataset has no qrels. Choose recorded grades.'
        )


def recorded_grades(source: RecordedGrades, data_root: Path | None) -> pl.DataFrame:
    """Read a file of grades: query_id, doc_id, grade, each document once.

    Raises:
        InputError: the file is absent, a line is wrong, or one document has two grades.
    """
    path = data_file(source.path, f'grader "{source.name}"', data_root)
    rows = GradeRows()
    read_beir_grades(path, "test", rows)
    grades = rows.frame().select(*DOCUMENT, "grade").unique()
    twice = grades.filter(grades.select(DOCUMENT).is_duplicated()).sort(DOCUMENT)
    if twice.height:
        query, document, _ = twice.row(0)
        raise InputError(f"{path} grades document {document} of query {query} twice, differently. Leave one of the lines.")
    return grades


def simulated_grades(wanted: pl.DataFrame, source: SimulatedGrades, qrels: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Take human grades, and another level of the scale at the error rate; ungraded documents are 0.

    Each draw is a hash of seed, grader, query and document: it depends on no other document that is graded.
    """
    true = wanted.join(qrels, on=DOCUMENT, how="left", maintain_order="left")["grade"].fill_null(0).to_numpy()
    top = max(int(qrels["grade"].to_numpy().max()), 1)
    head = text_digest(str(seed), source.name)
    digests = [hashlib.sha256(head + text_digest(query, document)).digest() for query, document in wanted.iter_rows()]
    words = np.frombuffer(b"".join(digests), dtype="<u8").reshape(-1, 4)
    wrong = (words[:, 0] >> np.uint64(11)) * 2.0**-53 < source.error_rate
    # One of the other levels: skip the true one by counting on from it.
    other = (true + 1 + (words[:, 1] % np.uint64(top)).astype(np.int64)) % (top + 1)
    return wanted.with_columns(grade=pl.Series(np.where(wrong, other, true), dtype=pl.Int64()))
