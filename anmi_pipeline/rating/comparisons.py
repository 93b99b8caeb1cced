"""Comparisons: verdicts folded per unordered pair, their graph, and the flat arrays that fits take.

Belongs here: frames <-> flat arrays of comparisons. Does not: the fit and the Elo table (`elo.py`), asking judges (`judging/`).
"""

from collections.abc import Mapping

import numpy as np
import polars as pl

from anmi_pipeline.errors import InputError
from anmi_pipeline.rating.graphs import GraphBatch, effective_resistance, graph_batch
from anmi_pipeline.tables import COMPARISONS, JUDGMENTS

PAIR = ["query_id", "doc_i", "doc_j"]
DOCUMENT = ["query_id", "doc_id"]
VERDICT = list(JUDGMENTS.key)
"""Order in which verdicts are added up, so that equal verdicts give equal sums to the bit."""


def fold_judgments(judgments: pl.DataFrame, weights: Mapping[str, float] | None = None) -> pl.DataFrame:
    """Fold all verdicts of each unordered pair into one comparison, and lay out their graph.

    Args:
        judgments: `tables.JUDGMENTS`.
        weights: judge -> evidence in one of its verdicts, as in `weighted_comparisons`.

    Returns:
        `tables.COMPARISONS`, with component, degrees and effective resistance within each query's graph.

    Raises:
        InputError: as `weighted_comparisons`.
    """
    folded = weighted_comparisons(judgments, weights)
    return COMPARISONS.frame(with_graph(folded)) if folded.height else COMPARISONS.frame()


def weighted_comparisons(judgments: pl.DataFrame, weights: Mapping[str, float] | None = None) -> pl.DataFrame:
    """Fold all verdicts of each unordered pair into one comparison, whatever their order, judge, round or list.

    Equation: preference = sum of w r p / sum of w r over the pair's verdicts, weight = sum of w r; p is P(i preferred), w the
    evidence in the verdict itself, r that in one verdict of its judge. A comparison's log-likelihood is then the sum of its
    verdicts', each times w r. Failed calls are no votes, nor are verdicts without any evidence.

    Args:
        judgments: `tables.JUDGMENTS`.
        weights: judge -> r, 0 or more; 1 for judges that are not named. A judge id `name/...` goes by its own entry, else by that
            of its name.

    Returns:
        query_id, doc_i, doc_j (the smaller id first), preference, weight, n_verdicts, sorted.

    Raises:
        InputError: an answered verdict without a probability in [0, 1] or a finite weight of 0 or more, a document paired with
            itself, or a judge's weight that is no finite number of 0 or more.
    """
    votes = judgments.filter(pl.col("status") == "ok").sort(VERDICT)
    check_votes(votes)
    swapped = pl.col("first_id") > pl.col("second_id")
    return (
        votes.select(
            "query_id",
            doc_i=pl.min_horizontal("first_id", "second_id"),
            doc_j=pl.max_horizontal("first_id", "second_id"),
            vote=pl.when(swapped).then(1 - pl.col("p_first")).otherwise("p_first"),
            evidence=pl.col("weight") * judge_weights(votes["judge"], weights or {}),
        )
        .filter(pl.col("evidence") > 0)
        .group_by(PAIR, maintain_order=True)
        .agg(
            preference=((pl.col("vote") * pl.col("evidence")).sum() / pl.col("evidence").sum()).clip(0.0, 1.0),
            weight=pl.col("evidence").sum(),
            n_verdicts=pl.len().cast(pl.Int64),
        )
        .sort(PAIR)
    )


def judge_weights(judges: pl.Series, weights: Mapping[str, float]) -> pl.Series:
    """Weight of each judge id: its own entry, else that of its name (the part before the first slash), else 1.

    Raises:
        InputError: a weight is no finite number of 0 or more.
    """
    for judge, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise InputError(f'judge "{judge}" has weight {weight}; a weight is a finite number of 0 or more.')
    of: dict[str, float] = {judge: weights.get(judge, weights.get(judge.split("/", 1)[0], 1.0)) for judge in judges.unique()}
    return pl.Series([of[judge] for judge in judges], dtype=pl.Float64())


def check_votes(votes: pl.DataFrame) -> None:
    """Refuse answered verdicts that are no probability, weigh nothing sensible, or compare a document with itself."""
    p, weight = pl.col("p_first"), pl.col("weight")
    usable = p.is_between(0, 1) & weight.is_finite() & (weight >= 0) & (pl.col("first_id") != pl.col("second_id"))
    bad = votes.filter(~usable.fill_null(False))
    if bad.height:
        row = bad.row(0, named=True)
        raise InputError(
            f"verdict of judge {row['judge']} on query {row['query_id']}, first {row['first_id']}, second {row['second_id']} has "
            f"p_first {row['p_first']} and weight {row['weight']}; an answered verdict needs two different documents, a number "
            f"in 0..1 and a finite weight of 0 or more. {bad.height} verdicts are like this: failed calls need a failure status."
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
