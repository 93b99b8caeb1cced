"""Relevance: a probability in [0, 1] that means the same in every query, from Elo and a few absolute grades.

Belongs here: anchors and labels as frames, the steps from theta to relevance, their cross-validation by query. Does not: the
hierarchical model (`offsets.py`), the choice of anchors (`anchors.py`), figures (`reliability.py`).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from pydantic import Field

from anmi_pipeline.errors import InputError
from anmi_pipeline.rating.comparisons import DOCUMENT
from anmi_pipeline.rating.graphs import Bools, Floats, Ints
from anmi_pipeline.rating.maps import Map, fit_line, fit_map
from anmi_pipeline.rating.offsets import Graded, Hyper, fit_offsets, levels, posterior, predict, subset
from anmi_pipeline.rating.reliability import Reliability, any_relevant, auc, measure
from anmi_pipeline.settings import Config
from anmi_pipeline.tables import ELO

PARTS = 10
"""Most parts that the anchors of a query are left out in."""


class CalibrationConfig(Config):
    """How grades turn Elo into relevance."""

    relevant_from: int = Field(default=1, description="lowest grade that counts as relevant")
    anchors_from: int | None = Field(
        default=None, description="the same for anchors where their scale is another one; null: relevant_from"
    )
    final: Literal["auto", "isotonic", "line"] = Field(
        default="auto",
        description="last step on pooled scores. isotonic: any increasing map; line: a line in log-odds, two numbers; auto: "
        "isotonic from 1,000 grades on, which it needs, else line",
    )
    folds: int = Field(default=5, ge=2, description="parts of the queries in the cross-validation")
    bins: int = Field(default=10, ge=1, description="bins of the calibration error")
    seed: int = Field(default=0, ge=0, description="seed of the split into folds")


@dataclass(frozen=True)
class CalibrationReport:
    """What a calibration rests on and how far it can be believed.

    Attributes:
        queries: queries in the Elo table.
        anchored: queries with an anchor.
        anchors: anchors.
        labels: other grades that the shared steps were fitted to; 0: the anchors themselves.
        anchor_level: what the queries share according to the anchors; None without anchors.
        label_level: the same according to the labels, with the gain of the anchors' level; None without labels.
        final: the last step that was taken, isotonic or line; "none" without grades.
        reliability: of the relevance of queries left out; None with fewer than two graded queries.
        raw: of theta through one global logistic function, fitted to the same grades and left out likewise.
        evidence_auc: probability that a query with a relevant document gets a higher chance of one than a query without; from
            labels of left-out queries; None without labels or where all queries are alike.
        predictions: query_id, doc_id, outcome, relevance, raw of the left-out rows: what a reliability diagram shows.
    """

    queries: int
    anchored: int
    anchors: int
    labels: int
    anchor_level: Hyper | None
    label_level: Hyper | None
    final: str
    reliability: Reliability | None
    raw: Reliability | None
    evidence_auc: float | None
    predictions: pl.DataFrame


@dataclass(frozen=True)
class Pool:
    """All rated documents: scores in units of their spread, and the query of each."""

    x: Floats
    query: Ints
    queries: int
    rows: pl.DataFrame


@dataclass(frozen=True)
class Grades:
    """Anchors and labels, each sorted by query, and the rows of the pool that they grade."""

    anchors: Graded
    labels: Graded | None
    anchor_rows: Ints
    label_rows: Ints

    @property
    def truth(self) -> Graded:
        """What the shared steps are fitted to and judged by."""
        return self.anchors if self.labels is None else self.labels


def calibrate(
    elo: pl.DataFrame,
    anchors: pl.DataFrame,
    config: CalibrationConfig | None = None,
    *,
    labels: pl.DataFrame | None = None,
    offsets: pl.DataFrame | None = None,
) -> tuple[pl.DataFrame, CalibrationReport]:
    """Fill in the relevance of an Elo table.

    Steps: (1) a hierarchical logistic model of the anchors gives each query a bar and a slope, shrunk towards those of all
    queries (`offsets`); a query without anchors has the mean bar and all the doubt about it. (2) With labels, the same model of
    the labels learns how much of the anchors' level holds for them (its gain: another judge, another bar). (3) The last step maps
    the pooled probabilities to shares relevant, increasing, so the order within a query is never reversed.

    Args:
        elo: `tables.ELO`.
        anchors: query_id, doc_id, grade: absolute grades of a few documents per query.
        config: thresholds, last step and cross-validation.
        labels: query_id, doc_id, grade of any other graded documents, trusted above the anchors (people's). They teach the shared
            steps and never their own query's bar.
        offsets: query_id, offset, added to theta first (`cross_query.cross_query_offsets`).

    Returns:
        `tables.ELO` with relevance; null everywhere when there is neither anchor nor label. The report, its figures from
        queries left out: hyperparameters and last step come from the other folds. Without labels the left-out rows are the
        anchors, each predicted from the other anchors of its query.

    Raises:
        InputError: a grade on a document without an Elo, twice on one document, or none.
    """
    settings = config or CalibrationConfig()
    pool = pooled(elo, offsets)
    grades = collected(pool, anchors, labels, settings)
    if not len(grades.truth.x) and not len(grades.anchors.x):
        return ELO.frame(elo.with_columns(relevance=pl.lit(None, dtype=pl.Float64))), empty_report(pool)
    fitted = fit_steps(grades, settings)
    relevance = fitted.final(predict(fitted.level, fitted.weights(grades), pool.x, pool.query, fitted.known))
    table = elo.drop("relevance", strict=False).join(
        pool.rows.select(*DOCUMENT, relevance=pl.Series(relevance)), on=DOCUMENT, how="left"
    )
    return ELO.frame(table), reported(pool, grades, fitted, settings)


def pooled(elo: pl.DataFrame, offsets: pl.DataFrame | None) -> Pool:
    """Scores of all documents, theta plus offset over the standard deviation of all.

    Raises:
        InputError: a query without an offset where offsets are given.
    """
    rows = elo.select(*DOCUMENT, "theta").sort(DOCUMENT)
    theta = rows["theta"].to_numpy().astype(np.float64)
    if offsets is not None:
        added = rows.join(offsets.select("query_id", "offset"), on="query_id", how="left", maintain_order="left")["offset"]
        if added.null_count():
            raise InputError(f"query {rows.filter(added.is_null())['query_id'][0]} has no offset; give one for every query.")
        theta = theta + added.to_numpy()
    spread = float(theta.std()) if len(theta) else 0.0
    query = rows["query_id"].rank("dense").to_numpy().astype(np.int64) - 1
    return Pool(theta / spread if spread > 0 else theta, query, rows["query_id"].n_unique(), rows)


def collected(pool: Pool, anchors: pl.DataFrame, labels: pl.DataFrame | None, config: CalibrationConfig) -> Grades:
    """Place anchors and labels in the pool."""
    bar = config.relevant_from if config.anchors_from is None else config.anchors_from
    anchor_rows, anchored = graded(pool, anchors, bar, "anchor")
    if labels is None:
        return Grades(anchored, None, anchor_rows, np.zeros(0, dtype=np.int64))
    label_rows, labelled = graded(pool, labels, config.relevant_from, "label")
    return Grades(anchored, labelled if len(labelled.x) else None, anchor_rows, label_rows)


def graded(pool: Pool, grades: pl.DataFrame, relevant_from: int, what: str) -> tuple[Ints, Graded]:
    """Rows of the pool that are graded, in order, and their scores and outcomes.

    Raises:
        InputError: a document without an Elo, graded twice or without a grade.
    """
    found = grades.select(*DOCUMENT, "grade").join(pool.rows.with_row_index("row"), on=DOCUMENT, how="left").sort("row")
    twice = found.select(DOCUMENT).is_duplicated()
    for bad, complaint in (
        (found["row"].is_null(), "has no Elo; grade rated documents only"),
        (found["grade"].is_null(), "has no grade; leave it out"),
        (twice, "is graded twice; fold the grades of a document into one"),
    ):
        if bad.any():
            row = found.filter(bad).row(0, named=True)
            raise InputError(
                f"{what} {row['doc_id']} of query {row['query_id']} {complaint}. {bad.sum()} {what}(s) are like this."
            )
    rows = found["row"].to_numpy().astype(np.int64)
    outcome = (found["grade"].to_numpy() >= relevant_from).astype(np.float64)
    return rows, Graded(pool.x[rows], outcome, pool.query[rows], np.zeros(pool.queries))


@dataclass(frozen=True)
class Steps:
    """The fitted steps.

    Attributes:
        anchor_level: what queries share, according to the anchors.
        label_level: the same according to the labels; None without labels.
        known: (Q,) level of each query that the anchors tell; zeros without labels, where the posterior itself carries it.
        final: the last map.
    """

    anchor_level: Hyper
    label_level: Hyper | None
    known: Floats
    final: Map

    @property
    def level(self) -> Hyper:
        """The model that predicts."""
        return self.anchor_level if self.label_level is None else self.label_level

    def weights(self, grades: Grades) -> Floats:
        """(Q, K) posterior that predicts: of the query's anchors, or, behind labels, none but what the anchors' level tells."""
        if self.label_level is None:
            return posterior(self.anchor_level, grades.anchors)
        return posterior(self.label_level, unseen(grades.truth, self.known))


def unseen(rows: Graded, known: Floats) -> Graded:
    """The same queries without any grade."""
    return Graded(rows.x[:0], rows.y[:0], rows.query[:0], known)


def fit_steps(grades: Grades, config: CalibrationConfig) -> Steps:
    """Fit all steps to all grades given."""
    anchor_level = fit_offsets(grades.anchors)
    nothing = np.zeros(len(grades.anchors.known))
    if grades.labels is None:
        scores = left_out(anchor_level, grades.anchors)
        return Steps(anchor_level, None, nothing, fit_map(scores, grades.anchors.y, config.final))
    known = levels(anchor_level, posterior(anchor_level, grades.anchors))
    truth = Graded(grades.labels.x, grades.labels.y, grades.labels.query, known)
    label_level = fit_offsets(truth)
    prior = posterior(label_level, unseen(truth, known))
    scores = predict(label_level, prior, truth.x, truth.query, known)
    return Steps(anchor_level, label_level, known, fit_map(scores, truth.y, config.final))


def left_out(hyper: Hyper, anchors: Graded) -> Floats:
    """(N,) probability of each anchor given the other anchors of its query (other parts of ten where it has more than ten)."""
    first = np.flatnonzero(np.r_[True, anchors.query[1:] != anchors.query[:-1]]) if len(anchors.x) else np.zeros(0, np.int64)
    within = np.arange(len(anchors.x)) - np.repeat(first, np.diff(np.r_[first, len(anchors.x)]))
    result = np.empty(len(anchors.x))
    for part in range(min(PARTS, int(within.max(initial=-1)) + 1)):
        own = within % PARTS == part
        weights = posterior(hyper, subset(anchors, ~own))
        result[own] = predict(hyper, weights, anchors.x[own], anchors.query[own], anchors.known)
    return result


def reported(pool: Pool, grades: Grades, fitted: Steps, config: CalibrationConfig) -> CalibrationReport:
    """Cross-validate and describe."""
    truth = grades.truth
    rows = grades.anchor_rows if grades.labels is None else grades.label_rows
    p, raw, evidence = cross_validated(pool, grades, config)
    measured = len(p) > 0
    outcomes = truth.y if measured else truth.y[:0]
    return CalibrationReport(
        queries=pool.queries,
        anchored=len(np.unique(grades.anchors.query)),
        anchors=len(grades.anchors.x),
        labels=0 if grades.labels is None else len(grades.labels.x),
        anchor_level=fitted.anchor_level,
        label_level=fitted.label_level,
        final=fitted.final.kind,
        reliability=measure(p, outcomes, truth.query, config.bins) if measured else None,
        raw=measure(raw, outcomes, truth.query, config.bins) if measured else None,
        evidence_auc=evidence_auc(truth, evidence) if grades.labels is not None and measured else None,
        predictions=pool.rows[rows if measured else rows[:0]].select(
            *DOCUMENT, outcome=pl.Series(outcomes), relevance=pl.Series(p), raw=pl.Series(raw)
        ),
    )


def cross_validated(pool: Pool, grades: Grades, config: CalibrationConfig) -> tuple[Floats, Floats, Floats]:
    """Predict every graded row from the other folds of queries.

    Returns:
        (N,) relevance and (N,) theta through one logistic function, both empty with fewer than two graded queries; (Q,) score
        of having any relevant document.
    """
    truth, graded_queries = grades.truth, np.unique(grades.truth.query)
    count = min(config.folds, len(graded_queries))
    if count < 2:
        return np.zeros(0), np.zeros(0), np.zeros(pool.queries)
    fold = np.full(pool.queries, -1)
    fold[graded_queries] = np.random.default_rng(config.seed).permutation(len(graded_queries)) % count
    p, raw, evidence = np.empty(len(truth.x)), np.empty(len(truth.x)), np.zeros(pool.queries)
    for part in range(count):
        out = fold[truth.query] == part
        steps = fit_steps(training(grades, out), config)
        line = fit_line(truth.x[~out], truth.y[~out])
        raw[out] = line(truth.x[out])
        if grades.labels is None:
            p[out] = steps.final(left_out(steps.anchor_level, grades.anchors))[out]
            continue
        relevance = steps.final(predict(steps.level, steps.weights(grades), pool.x, pool.query, steps.known))
        p[out] = relevance[grades.label_rows[out]]
        own = fold == part
        evidence[own] = any_relevant(relevance, pool.query, pool.queries)[own]
    return p, raw, evidence


def training(grades: Grades, out: Bools) -> Grades:
    """The grades without those rows of the truth. Anchors stay where labels are the truth: they are known for every query."""
    if grades.labels is None:
        return Grades(subset(grades.anchors, ~out), None, grades.anchor_rows[~out], grades.label_rows)
    return Grades(grades.anchors, subset(grades.labels, ~out), grades.anchor_rows, grades.label_rows[~out])


def evidence_auc(truth: Graded, evidence: Floats) -> float | None:
    """Has-evidence AUC over the queries with labels."""
    queries = np.unique(truth.query)
    found = np.bincount(truth.query, weights=truth.y, minlength=len(truth.known))[queries] > 0
    return auc(evidence[queries], found.astype(np.float64))


def empty_report(pool: Pool) -> CalibrationReport:
    """The report where nothing is graded."""
    nothing = (
        pool.rows.clear()
        .select(DOCUMENT)
        .with_columns(outcome=pl.lit(None, pl.Float64), relevance=pl.lit(None, pl.Float64), raw=pl.lit(None, pl.Float64))
    )
    return CalibrationReport(pool.queries, 0, 0, 0, None, None, "none", None, None, None, nothing)
