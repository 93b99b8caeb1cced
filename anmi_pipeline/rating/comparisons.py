"""Comparisons: verdicts folded per unordered pair, their graph, and the flat arrays that fits take.

Belongs here: frames <-> flat arrays of comparisons. Does not: the fit and the Elo table (`elo.py`), asking judges (`judging/`).
"""

import numpy as np
import polars as pl

from anmi_pipeline.errors import InputError
from anmi_pipeline.rating.graphs import GraphBatch, effective_resistance, graph_batch
from anmi_pipeline.tables import COMPARISONS

PAIR = ["query_id", "doc_i", "doc_j"]
DOCUMENT = ["query_id", "doc_id"]


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
