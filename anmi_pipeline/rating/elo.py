"""From verdicts to the comparison graph, and from the comparison graph to the Elo table.

Belongs here: the frames of the rating stage. Does not: the solver (`fit.py`), asking judges (`judging/`).
"""

from dataclasses import dataclass
from time import perf_counter

import numpy as np
import polars as pl

from anmi_pipeline.errors import InputError
from anmi_pipeline.progress import Progress, silent
from anmi_pipeline.rating.config import ELO_SCALES, ELO_START, LOGISTIC_ELO, PROBIT_ELO, RatingConfig
from anmi_pipeline.rating.fit import FitStatus, RatingFit, fit_batch
from anmi_pipeline.rating.graphs import Floats, GraphBatch, effective_resistance, graph_batch
from anmi_pipeline.tables import COMPARISONS, ELO

__all__ = [
    "ELO_START", "LOGISTIC_ELO", "PROBIT_ELO", "FitReport", "RatingConfig", "fold_judgments", "rate", "top_positive_quality",
    "true_labels",
]  # fmt: skip

PAIR = ["query_id", "doc_i", "doc_j"]
DOCUMENT = ["query_id", "doc_id"]
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


def fold_judgments(judgments: pl.DataFrame) -> pl.DataFrame:
    """Fold all verdicts of each unordered pair into one comparison.

    Equation: w_ij = mean over the pair's verdicts of P(i preferred), whatever the order, judge or round; weight = their number.
    Failed calls are no votes: a pair with failures only is no comparison.

    Args:
        judgments: `tables.JUDGMENTS`.

    Returns:
        `tables.COMPARISONS`, with component, degrees and effective resistance within each query's graph.

    Raises:
        InputError: an answered verdict without a probability in [0, 1], or a document paired with itself.
    """
    votes = judgments.filter(pl.col("status") == "ok").sort("query_id", "first_id", "second_id", "judge", "round")
    check_votes(votes)
    swapped = pl.col("first_id") > pl.col("second_id")
    folded = (
        votes.with_columns(
            doc_i=pl.when(swapped).then("second_id").otherwise("first_id"),
            doc_j=pl.when(swapped).then("first_id").otherwise("second_id"),
            vote=pl.when(swapped).then(1 - pl.col("p_first")).otherwise("p_first"),
        )
        .group_by(PAIR, maintain_order=True)
        .agg(preference=pl.col("vote").mean(), n_verdicts=pl.len().cast(pl.Int64))
        .with_columns(weight=pl.col("n_verdicts").cast(pl.Float64))
        .sort(PAIR)
    )
    return COMPARISONS.frame(with_graph(folded)) if folded.height else COMPARISONS.frame()


def check_votes(votes: pl.DataFrame) -> None:
    """Refuse answered verdicts that are no probability or compare a document with itself."""
    p = pl.col("p_first")
    bad = votes.filter(p.is_null() | p.is_nan() | (p < 0) | (p > 1) | (pl.col("first_id") == pl.col("second_id")))
    if bad.height:
        row = bad.row(0, named=True)
        raise InputError(
            f"verdict of judge {row['judge']} on query {row['query_id']}, first {row['first_id']}, second {row['second_id']} has "
            f"p_first {row['p_first']}; an answered verdict needs two different documents and a number in 0..1. "
            f"{bad.height} verdict(s) are like this: give failed calls a failure status."
        )


def with_graph(pairs: pl.DataFrame) -> pl.DataFrame:
    """Add component, degrees and effective resistance to folded pairs."""
    ends = [pairs.select("query_id", doc_id=end) for end in ("doc_i", "doc_j")]
    batch, _ = flatten(pairs, pl.concat(ends).unique().sort(DOCUMENT))
    degrees = batch.degrees()
    return pairs.with_columns(
        component=pl.Series(batch.labels[batch.head]),
        degree_i=pl.Series(degrees[batch.head]),
        degree_j=pl.Series(degrees[batch.tail]),
        effective_resistance=pl.Series(effective_resistance(batch)),
    )


def flatten(pairs: pl.DataFrame, documents: pl.DataFrame) -> tuple[GraphBatch, list[str]]:
    """Lay out pairs, sorted by query, over documents, sorted by query and id: the batch and its query ids.

    Raises:
        InputError: a pair names a document that is not among the documents.
    """
    sizes = documents.group_by("query_id", maintain_order=True).len()
    places = documents.with_columns(place=pl.int_range(pl.len()).over("query_id"))
    placed = pairs
    for end in ("doc_i", "doc_j"):
        placed = placed.join(
            places.rename({"doc_id": end, "place": f"place_{end}"}), on=["query_id", end], how="left", maintain_order="left"
        )
    lost = placed.filter(pl.col("place_doc_i").is_null() | pl.col("place_doc_j").is_null())
    if lost.height:
        row = lost.row(0, named=True)
        raise InputError(
            f"{lost.height} comparison(s) name documents that are not in the query's pool, first query {row['query_id']}: "
            f"{row['doc_i']} and {row['doc_j']}. Rate against the pool that was compared."
        )
    counts = sizes.join(pairs.group_by("query_id").len("pairs"), on="query_id", how="left", maintain_order="left")
    pointer = np.concatenate(([0], counts["pairs"].fill_null(0).to_numpy().cumsum())).astype(np.int64)
    batch = graph_batch(
        sizes["len"].cast(pl.Int64).to_numpy(),
        pointer,
        placed["place_doc_i"].to_numpy(),
        placed["place_doc_j"].to_numpy(),
        placed["weight"].to_numpy(),
    )
    return batch, sizes["query_id"].to_list()


def rate(
    comparisons: pl.DataFrame, documents: pl.DataFrame, config: RatingConfig, progress: Progress = silent
) -> tuple[pl.DataFrame, FitReport]:
    """Fit every query and put its scores on the Elo scale.

    Equation: elo = 1500 + c * theta with c = 400 / ln 10 for logistic and 1.702 * 400 / ln 10 for probit theta.

    Args:
        comparisons: `tables.COMPARISONS`.
        documents: query_id, doc_id of every document that was or could have been compared. One that never was keeps the prior:
            Elo 1500, a standard error of c / sqrt(prior_precision) or little less, n_comparisons 0; its query is `disconnected`.
        config: model, prior and tolerance.
        progress: told how many queries are done.

    Returns:
        `tables.ELO` and the report of the fit.

    Raises:
        InputError: a comparison outside `documents`, a preference or weight out of range.
    """
    known = documents.select(DOCUMENT).unique().sort(DOCUMENT)
    pairs = comparisons.sort(PAIR)
    check_comparisons(pairs)
    batch, query_ids = flatten(pairs, known)
    started = perf_counter()
    fit = fit_batch(
        batch.n_items, batch.edge_ptr, batch.i, batch.j, pairs["preference"].to_numpy(), weight=batch.weight,
        model=config.model, prior_precision=config.prior_precision, tol=config.tolerance, progress=progress,
    )  # fmt: skip
    seconds = perf_counter() - started
    table = elo_frame(known, batch, fit, ELO_SCALES[config.model])
    return table, report(fit, batch, table, seconds, len(query_ids))


def check_comparisons(pairs: pl.DataFrame) -> None:
    """Refuse comparisons no fit can use, by the names a person knows them by."""
    preference, weight = pl.col("preference"), pl.col("weight")
    usable = preference.is_between(0, 1) & weight.is_finite() & (weight >= 0) & (pl.col("doc_i") != pl.col("doc_j"))
    bad = pairs.filter(~usable.fill_null(False))
    if bad.height:
        row = bad.row(0, named=True)
        raise InputError(
            f"comparison of {row['doc_i']} and {row['doc_j']} for query {row['query_id']} has preference {row['preference']} and "
            f"weight {row['weight']}; it needs two different documents, a preference in 0..1 and a finite weight of 0 or more. "
            f"{bad.height} comparison(s) are like this."
        )


def elo_frame(known: pl.DataFrame, batch: GraphBatch, fit: RatingFit, scale: float) -> pl.DataFrame:
    """Shape a fit as `tables.ELO`."""
    error = fit.std_error if fit.std_error is not None else np.zeros(len(fit.theta))
    texts = np.array([FitStatus(int(flag)).text() for flag in fit.status], dtype=object)
    return ranked(
        known.with_columns(
            theta=pl.Series(fit.theta),
            elo=pl.Series(ELO_START + scale * fit.theta),
            std_error=pl.Series(scale * error),
            n_comparisons=pl.Series(batch.degrees()),
            status=pl.Series(np.repeat(texts, batch.n_items).tolist(), dtype=pl.String),
        )
    )


def ranked(scores: pl.DataFrame) -> pl.DataFrame:
    """Add the rank within each query: highest elo first, documents equal to 1e-6 points by id."""
    # Rounding keeps the last bits of a linear solver from ordering documents whose evidence is the same.
    ordered = scores.with_columns(rounded=pl.col("elo").round(6)).sort(
        "query_id", "rounded", "doc_id", descending=[False, True, False]
    )
    return ELO.frame(ordered.with_columns(rank=pl.int_range(1, pl.len() + 1).over("query_id")))


def report(fit: RatingFit, batch: GraphBatch, table: pl.DataFrame, seconds: float, queries: int) -> FitReport:
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
    )


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
