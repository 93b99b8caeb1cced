"""Online updates: new comparisons (a refresh, clicks) reach an Elo table without a fit of everything.

Belongs here: merging comparisons of the same pair, finding the queries they touch, refitting those from where they stood. Does
not: the solver (`fit.py`), a fit of all queries (`elo.rate`), and the estimation of priors: a prior that queries share stays as
it was until a full fit re-estimates it, or else every query would be touched.
"""

from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
import polars as pl

from anmi_pipeline.errors import InputError
from anmi_pipeline.progress import Progress, silent
from anmi_pipeline.rating.comparisons import DOCUMENT, PAIR, check_comparisons, flatten, with_graph
from anmi_pipeline.rating.config import ELO_SCALES, RatingConfig
from anmi_pipeline.rating.elo import FitReport, Prior, elo_frame, mean, quantiles, rate, with_features
from anmi_pipeline.rating.fit import FitStatus, RatingFit, fit_batch
from anmi_pipeline.rating.graphs import Floats, GraphBatch
from anmi_pipeline.rating.informed import informed_fit
from anmi_pipeline.rating.prior import ScorePrior, fit_prior
from anmi_pipeline.tables import COMPARISONS, ELO

AGREEMENT = 1e-7
"""Largest distance of an updated theta from the exact optimum, a tenth of what is promised against a refit."""
SMALLEST_TOLERANCE = 1e-11
"""Rounding in a gradient of many verdicts: a smaller tolerance is never met."""


@dataclass(frozen=True)
class Update:
    """An Elo table after new comparisons.

    Attributes:
        elo: `tables.ELO` of all queries; rows of untouched queries are the old ones, bit for bit.
        comparisons: `tables.COMPARISONS`, old and new ones merged.
        touched: queries that were fitted again, sorted.
        iterations: Newton steps over the touched queries.
        seconds: wall time of the fit.
    """

    elo: pl.DataFrame
    comparisons: pl.DataFrame
    touched: list[str]
    iterations: int
    seconds: float


def update(
    elo: pl.DataFrame,
    comparisons: pl.DataFrame,
    fresh: pl.DataFrame,
    documents: pl.DataFrame,
    config: RatingConfig,
    *,
    features: pl.DataFrame | None = None,
    prior: ScorePrior | None = None,
    progress: Progress = silent,
) -> Update:
    """Bring an Elo table up to date with new comparisons.

    A query is touched by a new comparison of it and by a document that came or went. Touched queries are fitted with all their
    comparisons, starting at their old scores; the result is that of a fit of everything with the same prior, to 1e-6 in theta,
    because the optimum is unique and both are close to it. Under an informative prior a query's posterior does not depend on
    where it starts: there the touched queries are computed as in a full fit. Other queries keep their rows.

    Args:
        elo: `tables.ELO` before.
        comparisons: the comparisons it was fitted to.
        fresh: new comparisons: query_id, doc_i, doc_j, preference for doc_i, weight in verdicts and, where known, n_verdicts; ids
            in either order. One of a known pair adds to it (`merge_comparisons`).
        documents: query_id, doc_id of every document that is to be rated now. A new one starts at its query's mean; queries that
            are absent leave the table.
        config: as in the fit before. `config.prior` is not estimated here.
        features: `features.score_features` of the documents of touched queries at least; needed with a prior.
        prior: the informative prior of the last full fit; None: mean zero with `config.prior_precision`.
        progress: told how many touched queries are done.

    Returns:
        The new state.

    Raises:
        InputError: a comparison outside `documents`, a preference or weight out of range, a document without features.
    """
    check_comparisons(fresh)
    merged = merge_comparisons(comparisons, fresh)
    known = documents.select(DOCUMENT).unique().sort(DOCUMENT)
    touched = touched_queries(elo, fresh, known)
    kept = elo.join(touched, on="query_id", how="anti").join(known.select("query_id").unique(), on="query_id", how="semi")
    own = known.join(touched, on="query_id", how="semi").sort(DOCUMENT)
    pairs = merged.join(touched, on="query_id", how="semi").sort(PAIR)
    batch, names = flatten(pairs, own)
    started = perf_counter()
    preference = pairs["preference"].cast(pl.Float64).to_numpy()
    if prior is None or features is None:
        used = Prior(None, config.prior_precision, {})
        fit = update_batch(batch, preference, warm_start(own, elo), config, None, config.prior_precision, progress)
    else:
        rows = with_features(own, features)
        used = Prior(prior.mean(rows), prior.precision, {})
        fit = informed_fit(batch, preference, rows, prior, config, progress)
    seconds = perf_counter() - started
    fitted = elo_frame(own, batch, fit, used, ELO_SCALES[config.model])
    remaining = merged.join(known.select("query_id").unique(), on="query_id", how="semi")
    return Update(ELO.frame(pl.concat([kept, fitted])), remaining, names, int(fit.iterations.sum()), seconds)


def rate_and_update(
    comparisons: pl.DataFrame,
    fresh: pl.DataFrame,
    documents: pl.DataFrame,
    config: RatingConfig,
    progress: Progress = silent,
    *,
    features: pl.DataFrame | None = None,
    prior: ScorePrior | None = None,
) -> tuple[pl.DataFrame, FitReport, Update]:
    """Fit verdicts, then bring the table up to date with comparisons of another kind: clicks.

    The prior is that of the verdicts (`prior.fit_prior`, which without any is the starting prior): what clicks say about a query
    moves that query and no other.

    Args:
        comparisons: `tables.COMPARISONS` of the verdicts.
        fresh: as in `update`.
        documents: as in `rate`.
        config: as in `rate`.
        progress: told how many queries are done.
        features: as in `rate`.
        prior: as in `rate`.

    Returns:
        `tables.ELO`, a report of the final table (its likelihood is that of the verdicts alone), and the update.

    Raises:
        InputError: as `rate` and `update`.
    """
    check_comparisons(fresh)
    informed = features if config.prior == "scores" else None
    used = prior
    if informed is not None and used is None:
        rows = with_features(documents.select(DOCUMENT).unique().sort(DOCUMENT), informed)
        used = fit_prior(comparisons.sort(PAIR), rows, model=config.model)
    elo, fitted = rate(comparisons, documents, config, progress, features=informed, prior=used)
    if prior is None and used is not None:
        fitted = replace(fitted, prior=fitted.prior | {"estimated_from": "the verdicts"})
    done = update(elo, comparisons, fresh, documents, config, features=informed, prior=used, progress=progress)
    return done.elo, updated_report(fitted, done, config), done


def updated_report(fitted: FitReport, done: Update, config: RatingConfig) -> FitReport:
    """The report of a table after an update."""
    errors = done.elo["std_error"]
    seconds = fitted.seconds + done.seconds
    edges = done.comparisons.height
    return replace(
        fitted,
        edges=edges,
        verdicts=float(done.comparisons["weight"].sum()),
        iterations=fitted.iterations + done.iterations,
        statuses=dict(done.elo.unique("query_id").group_by("status").len().sort("status").iter_rows()),
        seconds=seconds,
        edges_per_second=edges / seconds if seconds > 0 else 0.0,
        mean_std_error=mean(errors.to_numpy()),
        std_error_quantiles=quantiles(errors) if config.std_error != "none" else {},
    )


def update_batch(
    batch: GraphBatch,
    w: Floats,
    start: Floats,
    config: RatingConfig,
    mean: Floats | None,
    precision: float,
    progress: Progress = silent,
) -> RatingFit:
    """Fit queries from a starting point, close enough to the optimum that the start leaves no trace of 1e-6.

    Equation: the objective is precision-strongly concave, so |theta - optimum| <= |g| / precision, and |g| <= sqrt(n) max |g_i|;
    the tolerance of the gradient is therefore 1e-7 * precision / sqrt(n), at most the configured one. With that of the
    configuration a warm start could stop where it stands, up to sqrt(n) * tolerance / precision away.

    Args:
        batch: the graphs of the queries.
        w: (E,) preference for i.
        start: (sum n,) theta to start from.
        config: model, standard errors and tolerance.
        mean: (sum n,) mean of the prior, or None for zero.
        precision: precision of the prior.
        progress: told how many queries are done.

    Returns:
        The fit; `converged` in its statuses means the configured tolerance, as in a full fit.
    """
    largest = int(batch.n_items.max(initial=1))
    tight = min(config.tolerance, max(AGREEMENT * precision / largest**0.5, SMALLEST_TOLERANCE))
    fit = fit_batch(
        batch.n_items, batch.edge_ptr, batch.i, batch.j, w, weight=batch.weight, model=config.model,
        prior_precision=precision, prior_mean=mean, std_error=config.std_error, tol=tight, progress=progress, start=start,
    )  # fmt: skip
    converged = np.where(fit.grad_norm < config.tolerance, int(FitStatus.CONVERGED), 0)
    status = (fit.status & ~int(FitStatus.CONVERGED)) | converged
    return replace(fit, status=status)


def merge_comparisons(comparisons: pl.DataFrame, fresh: pl.DataFrame) -> pl.DataFrame:
    """Merge comparisons of the same unordered pair.

    Equation: weight = sum of weights, preference = weighted mean of preferences (the plain mean where all weights are 0), so that
    the merged comparison has the likelihood of its parts. Pairs of queries without news keep their rows; degrees, components and
    resistances of the others are computed anew.

    Args:
        comparisons: `tables.COMPARISONS`.
        fresh: query_id, doc_i, doc_j, preference, weight and perhaps n_verdicts, ids in either order. Without n_verdicts each
            counts as one.

    Returns:
        `tables.COMPARISONS`.
    """
    touched = fresh.select("query_id").unique()
    kept = comparisons.join(touched, on="query_id", how="anti")
    both = pl.concat([oriented(comparisons.join(touched, on="query_id", how="semi")), oriented(fresh)])
    if both.is_empty():
        return COMPARISONS.frame(kept)
    weight, preference = pl.col("weight"), pl.col("preference")
    # A mean of equal preferences must be that preference to the bit, or merging would leave 0..1 by rounding.
    average = ((preference * weight).sum() / weight.sum()).clip(preference.min(), preference.max())
    merged = both.group_by(PAIR, maintain_order=True).agg(
        preference=pl.when(weight.sum() > 0).then(average).otherwise(preference.mean()),
        weight=weight.sum(),
        n_verdicts=pl.col("n_verdicts").sum(),
    )
    return COMPARISONS.frame(pl.concat([kept, COMPARISONS.frame(with_graph(merged.sort(PAIR)))]))


def oriented(pairs: pl.DataFrame) -> pl.DataFrame:
    """Comparisons with the smaller id first and the preference for it."""
    swapped = pl.col("doc_i") > pl.col("doc_j")
    verdicts = pl.col("n_verdicts") if "n_verdicts" in pairs.columns else pl.lit(1)
    return pairs.select(
        "query_id",
        doc_i=pl.when(swapped).then("doc_j").otherwise("doc_i"),
        doc_j=pl.when(swapped).then("doc_i").otherwise("doc_j"),
        preference=pl.when(swapped).then(1 - pl.col("preference")).otherwise(pl.col("preference")).cast(pl.Float64),
        weight=pl.col("weight").cast(pl.Float64),
        n_verdicts=verdicts.cast(pl.Int64),
    )


def touched_queries(elo: pl.DataFrame, fresh: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """query_id, sorted, of known queries with a new comparison or another set of documents than before."""
    parts = [
        known.join(elo, on=DOCUMENT, how="anti").select("query_id"),
        elo.join(known, on=DOCUMENT, how="anti").select("query_id"),
    ]
    lost = fresh.join(known, on="query_id", how="anti")
    if lost.height:
        raise InputError(
            f"{lost.height} new comparison(s) belong to queries without documents, first query {lost['query_id'][0]}. "
            "Give the documents of every query that is compared."
        )
    every = pl.concat([fresh.select("query_id"), *parts]).unique()
    return every.join(known, on="query_id", how="semi").sort("query_id")


def warm_start(own: pl.DataFrame, elo: pl.DataFrame) -> Floats:
    """(sum n,) old theta of the documents; 0, their query's mean, for new ones."""
    found = own.join(elo.select(*DOCUMENT, "theta"), on=DOCUMENT, how="left", maintain_order="left")
    return found["theta"].fill_null(0.0).to_numpy().astype(np.float64)
