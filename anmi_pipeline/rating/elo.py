"""From the comparison graph to the Elo table.

Belongs here: the fit of a dataset as frames, its prior and its report. Does not: folding verdicts (`comparisons.py`), the solver
(`fit.py`), the regression behind the informative prior (`prior.py`).
"""

from dataclasses import dataclass
from time import perf_counter

import numpy as np
import polars as pl

from anmi_pipeline.digests import Json
from anmi_pipeline.errors import InputError
from anmi_pipeline.progress import Progress, silent
from anmi_pipeline.rating.comparisons import DOCUMENT, PAIR, check_comparisons, flatten, fold_judgments
from anmi_pipeline.rating.config import ELO_SCALES, ELO_START, LOGISTIC_ELO, PROBIT_ELO, RatingConfig
from anmi_pipeline.rating.fit import FitStatus, RatingFit, fit_batch
from anmi_pipeline.rating.graphs import Floats, GraphBatch
from anmi_pipeline.rating.informed import informed_fit, prior_gain
from anmi_pipeline.rating.prior import ScorePrior, fit_prior
from anmi_pipeline.tables import ELO

__all__ = [
    "ELO_START", "LOGISTIC_ELO", "PROBIT_ELO", "FitReport", "RatingConfig", "flatten", "fold_judgments", "rate",
    "top_positive_quality", "true_labels",
]  # fmt: skip

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Quantiles of the standard errors that a fit reports."""
Z95 = 1.959963984540054
"""Half-width of a 95 % interval in standard errors."""
SIMULATED = "simulated"
"""Status of labels that no judge gave."""


@dataclass(frozen=True)
class FitReport:
    """How the fit of one dataset went.

    Attributes:
        queries: queries fitted.
        documents: documents rated.
        edges: comparisons.
        verdicts: verdicts folded into them.
        iterations: Newton steps over all queries.
        statuses: status text -> queries.
        log_likelihood: of all verdicts, without the prior.
        seconds: wall time of the fit.
        edges_per_second: comparisons per second of it.
        mean_std_error: mean standard error, Elo points.
        std_error_quantiles: quantile -> standard error, Elo points.
        prior: kind of the prior's mean, with slopes, precision and gain where it is fitted to the retrievers' scores.
    """

    queries: int
    documents: int
    edges: int
    verdicts: float
    iterations: int
    statuses: dict[str, int]
    log_likelihood: float
    seconds: float
    edges_per_second: float
    mean_std_error: float
    std_error_quantiles: dict[str, float]
    prior: dict[str, Json]


def rate(
    comparisons: pl.DataFrame,
    documents: pl.DataFrame,
    config: RatingConfig,
    progress: Progress = silent,
    *,
    features: pl.DataFrame | None = None,
    prior: ScorePrior | None = None,
) -> tuple[pl.DataFrame, FitReport]:
    """Fit every query and put its scores on the Elo scale.

    Equation: elo = 1500 + c * theta with c = 400 / ln 10 for logistic and 1.702 * 400 / ln 10 for probit theta; interval elo +-
    1.96 std_error.

    Args:
        comparisons: `tables.COMPARISONS`.
        documents: query_id, doc_id of every document that was or could have been compared. One that never was keeps the prior:
            with mean zero Elo 1500 and a standard error of c / sqrt(prior_precision) or little less, n_comparisons 0; its query
            is `disconnected`.
        config: model, prior, standard errors and tolerance.
        progress: told how many queries are done.
        features: `features.score_features` of the documents; None leaves the prior at mean zero, whatever `config.prior` says.
        prior: the informative prior, where it is known: verdicts on adaptively chosen pairs must not estimate it again. None
            estimates it from these comparisons.

    Returns:
        `tables.ELO` and the report of the fit.

    Raises:
        InputError: a comparison outside `documents`, a preference or weight out of range, a document without features.
    """
    known = documents.select(DOCUMENT).unique().sort(DOCUMENT)
    pairs = comparisons.sort(PAIR)
    check_comparisons(pairs)
    batch, query_ids = flatten(pairs, known)
    preference = pairs["preference"].cast(pl.Float64).to_numpy()
    started = perf_counter()
    if config.prior == "zero" or features is None:
        used = Prior(None, config.prior_precision, {"kind": "zero", "precision": config.prior_precision})
        fit = fit_batch(
            batch.n_items, batch.edge_ptr, batch.i, batch.j, preference, weight=batch.weight, model=config.model,
            prior_precision=config.prior_precision, std_error=config.std_error, tol=config.tolerance, progress=progress,
        )  # fmt: skip
    else:
        rows = with_features(known, features)
        informed = prior if prior is not None else fit_prior(pairs, rows, model=config.model)
        used = Prior(informed.mean(rows), informed.precision, prior_facts(informed, frozen=prior is not None))
        used.facts["gain_nats_per_verdict"] = prior_gain(batch, preference, rows, informed, config.model)
        started = perf_counter()  # the time of the fit, not of estimating what all queries share
        fit = informed_fit(batch, preference, rows, informed, config, progress)
    seconds = perf_counter() - started
    table = elo_frame(known, batch, fit, used, ELO_SCALES[config.model])
    return table, report(fit, batch, table, seconds, len(query_ids), used)


@dataclass(frozen=True)
class Prior:
    """The Gaussian prior of one fit: its mean per document (None: zero), its precision, and what is reported about it."""

    mean: Floats | None
    precision: float
    facts: dict[str, Json]


def with_features(known: pl.DataFrame, features: pl.DataFrame) -> pl.DataFrame:
    """Features of the rated documents, in their order.

    Raises:
        InputError: a document without features.
    """
    rows = known.join(features, on=DOCUMENT, how="left", maintain_order="left")
    lost = rows.filter(pl.any_horizontal(pl.exclude(DOCUMENT).is_null()))
    if lost.height:
        query, document = lost.select(DOCUMENT).row(0)
        raise InputError(
            f"{lost.height} rated document(s) have no features for the prior, first {document} of query {query}. Compute the "
            "features over the rated documents, or set rating.prior to zero."
        )
    return rows


def prior_facts(prior: ScorePrior, *, frozen: bool) -> dict[str, Json]:
    """What the report says about an informative prior: every number by name."""
    slopes: dict[str, Json] = dict(zip(prior.features, prior.coefficients, strict=True))
    source = "the first round" if frozen else "these comparisons"
    facts: dict[str, Json] = {"kind": "scores", "estimated_from": source, "slopes": slopes, "precision": prior.precision}
    if prior.lift is not None:
        odds: dict[str, Json] = dict(zip(("intercept", *prior.features), prior.lift.odds, strict=True))
        facts["lift"] = {"log_odds": odds, "height": prior.lift.height, "precision": prior.lift.precision}
    return facts


def elo_frame(known: pl.DataFrame, batch: GraphBatch, fit: RatingFit, prior: Prior, scale: float) -> pl.DataFrame:
    """Shape a fit as `tables.ELO`."""
    error = fit.std_error if fit.std_error is not None else np.zeros(len(fit.theta))
    texts = np.array([FitStatus(int(flag)).text() for flag in fit.status], dtype=object)
    scores = known.with_columns(
        theta=pl.Series(fit.theta),
        elo=pl.Series(ELO_START + scale * fit.theta),
        std_error=pl.Series(scale * error),
        n_comparisons=pl.Series(batch.degrees()),
        status=pl.Series(np.repeat(texts, batch.n_items).tolist(), dtype=pl.String),
    )
    if fit.std_error is not None:
        half = Z95 * pl.col("std_error")
        scores = scores.with_columns(elo_low=pl.col("elo") - half, elo_high=pl.col("elo") + half)
    if prior.mean is not None:
        mean = pl.Series(prior.mean)
        scores = scores.with_columns(prior_mean=mean).with_columns(
            # Centred like theta: without a comparison the two are equal.
            prior_mean=ELO_START + scale * (pl.col("prior_mean") - pl.col("prior_mean").mean().over("query_id"))
        )
    return ranked(scores)


def ranked(scores: pl.DataFrame) -> pl.DataFrame:
    """Add the rank within each query: highest elo first, documents equal to 1e-6 points by id."""
    # Rounding keeps the last bits of a linear solver from ordering documents whose evidence is the same.
    ordered = scores.with_columns(rounded=pl.col("elo").round(6)).sort(
        "query_id", "rounded", "doc_id", descending=[False, True, False]
    )
    return ELO.frame(ordered.with_columns(rank=pl.int_range(1, pl.len() + 1).over("query_id")))


def report(fit: RatingFit, batch: GraphBatch, table: pl.DataFrame, seconds: float, queries: int, prior: Prior) -> FitReport:
    """Summarise a fit."""
    flags, counts = np.unique(fit.status, return_counts=True)
    edges = len(batch.i)
    return FitReport(
        queries=queries,
        documents=table.height,
        edges=edges,
        verdicts=float(batch.weight.sum()),
        iterations=int(fit.iterations.sum()),
        statuses={FitStatus(int(flag)).text(): int(count) for flag, count in zip(flags, counts, strict=True)},
        log_likelihood=float(fit.log_likelihood.sum()),
        seconds=seconds,
        edges_per_second=edges / seconds if seconds > 0 else 0.0,
        mean_std_error=mean(table["std_error"].to_numpy()),
        std_error_quantiles=quantiles(table["std_error"]) if fit.std_error is not None else {},
        prior=prior.facts,
    )


def quantiles(errors: pl.Series) -> dict[str, float]:
    """Quantiles of standard errors by name (`p05` to `p95`); none for no documents."""
    found = {f"p{round(100 * q):02d}": errors.quantile(q, interpolation="linear") for q in QUANTILES}
    return {name: float(value) for name, value in found.items() if value is not None}


def mean(values: Floats) -> float:
    """Arithmetic mean, 0 for no values."""
    return float(values.mean()) if len(values) else 0.0


def true_labels(pool_ranked: pl.DataFrame, qrels: pl.DataFrame, config: RatingConfig) -> pl.DataFrame:
    """Make the Elo table that perfect labels would give: a ceiling for experiments, never a judgment.

    Equation: elo = 600 * grade - 2 * rank, shifted to mean 1500 per query; grade 0 where nobody judged.

    Args:
        pool_ranked: query_id, doc_id, rank of the fused candidates.
        qrels: `tables.QRELS`.
        config: the model gives the scale of theta.

    Returns:
        `tables.ELO` with standard error 0 and status `simulated`.
    """
    graded = pool_ranked.join(qrels.select(*DOCUMENT, "grade"), on=DOCUMENT, how="left").sort(DOCUMENT)
    raw = (600.0 * pl.col("grade").fill_null(0) - 2.0 * pl.col("rank")).alias("raw")
    scores = graded.with_columns(raw).with_columns(elo=ELO_START + pl.col("raw") - pl.col("raw").mean().over("query_id"))
    return ranked(
        scores.select(*DOCUMENT, "elo").with_columns(
            theta=(pl.col("elo") - ELO_START) / ELO_SCALES[config.model],
            std_error=pl.lit(0.0),
            n_comparisons=pl.lit(0),
            status=pl.lit(SIMULATED),
        )
    )


def top_positive_quality(elo: pl.DataFrame, qrels: pl.DataFrame) -> dict[str, float]:
    """How often the document with the highest Elo is relevant, over the queries with a relevant document in the table.

    Returns:
        `queries` (with a relevant document in the table), `top_relevant` and `top3_relevant` (shares of them, 0 when there are
        none), `relevant_per_query`.
    """
    relevant = qrels.filter(pl.col("grade") > 0).select(DOCUMENT)
    found = elo.join(relevant, on=DOCUMENT, how="semi").group_by("query_id").agg(best=pl.col("rank").min(), count=pl.len())
    queries = found.height
    return {
        "queries": float(queries),
        "top_relevant": found.filter(pl.col("best") == 1).height / max(queries, 1),
        "top3_relevant": found.filter(pl.col("best") <= 3).height / max(queries, 1),
        "relevant_per_query": float(found["count"].sum()) / max(queries, 1),
    }
