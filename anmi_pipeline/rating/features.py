"""Features of a query's documents: what the retrievers said about each before any verdict, standardised within the query.

Belongs here: the columns that the prior of the ratings regresses on. Does not: the regression itself (`prior.py`).
"""

import numpy as np
import polars as pl

from anmi_pipeline.errors import InputError
from anmi_pipeline.rating.graphs import Floats
from anmi_pipeline.tables import RETRIEVERS

FUSED = "fused"
"""Feature that orders the documents before any verdict: the fused (RRF) score."""

FEATURES: tuple[str, ...] = (FUSED, "fused_rank", *RETRIEVERS)
"""Feature columns, in the order of the frame."""

FLAT = 1e-12
"""Spread, relative to the values, below which a query's scores count as equal."""


def score_features(pool: pl.DataFrame) -> pl.DataFrame:
    """Turn the retrievers' scores and ranks into features that mean the same in every query.

    Equation: z = (x - mean) / sd over the query's rows, sd with divisor n, for the RRF score (`fused`), the score of each
    retriever (its name) and -log2(rank + 1) of the RRF rank (`fused_rank`: the gap between ranks 1 and 2 counts more than the gap
    between 30 and 31). A document that a retriever did not return gets the query's smallest score. 0 for every document where the
    retriever returned none or all scores are equal.

    Args:
        pool: rows of `tables.POOL`, restricted to the documents that are rated, in any order.

    Returns:
        query_id, doc_id and the Float64 columns FEATURES, sorted by query and document.

    Raises:
        InputError: a document stands twice in a query, or a score is infinite or NaN.
    """
    known = pool.sort("query_id", "doc_id")
    twice = known.select("query_id", "doc_id").is_duplicated()
    if twice.any():
        query, document = known.filter(twice).select("query_id", "doc_id").row(0)
        raise InputError(f"document {document} stands twice in the candidate pool of query {query}; each document once.")
    raw = {
        FUSED: pl.col("rrf_pool_score"),
        "fused_rank": -(pl.col("rrf_pool_rank").cast(pl.Float64()) + 1.0).log(2.0),
        **{name: pl.col(f"{name}_score") for name in RETRIEVERS},
    }
    values = known.select("query_id", "doc_id", **{name: value.cast(pl.Float64()) for name, value in raw.items()})
    refuse_infinite(values)
    return values.with_columns(standardised(name) for name in FEATURES)


def refuse_infinite(values: pl.DataFrame) -> None:
    """Refuse scores that no standardisation can use."""
    bad = values.filter(pl.any_horizontal(pl.col(name).is_finite().not_() for name in FEATURES))
    if bad.height:
        row = bad.row(0, named=True)
        name = next(n for n in FEATURES if row[n] is not None and not np.isfinite(row[n]))
        raise InputError(
            f"document {row['doc_id']} of query {row['query_id']} has {name} score {row[name]}; scores must be finite. "
            f"{bad.height} row(s) of the candidate pool are like this: materialize the runs again."
        )


def standardised(name: str) -> pl.Expr:
    """Standardise one column within each query; nulls count as the query's smallest value."""
    filled = pl.col(name).fill_null(pl.col(name).min().over("query_id")).fill_null(0.0)
    mean, spread = filled.mean().over("query_id"), filled.std(ddof=0).over("query_id")
    size = pl.max_horizontal(pl.lit(1.0), filled.abs().max().over("query_id"))
    # Below this the spread is rounding error of equal scores, and dividing by it would invent preferences.
    return pl.when(spread > FLAT * size).then((filled - mean) / spread).otherwise(0.0).alias(name)


def feature_matrix(features: pl.DataFrame, names: tuple[str, ...]) -> Floats:
    """Take some features as an (n, p) array, in the frame's order of rows.

    Raises:
        InputError: a feature that the frame does not have.
    """
    absent = [name for name in names if name not in features.columns]
    if absent:
        raise InputError(f"the features lack {', '.join(absent)}; they have {', '.join(features.columns[2:])}.")
    if not names:
        return np.zeros((features.height, 0))
    return np.column_stack([features[name].cast(pl.Float64()).to_numpy() for name in names])
