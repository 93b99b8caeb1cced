"""The scores that judges without an API read out of a candidate pool.

Belongs here: the judged part of a pool, z-scores within a query, and the look-up of per-document values for pairs. Does not: the
judges that use them.
"""

import numpy as np
import polars as pl

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.config import JudgingConfig


def judged_pool(pool: pl.DataFrame, config: JudgingConfig) -> pl.DataFrame:
    """Return the pool rows that may be compared: the top `pool_size` of the configured generator, by query and document.

    Raises:
        InputError: the pool has no ranks of that generator.
    """
    column = f"{config.generator}_pool_rank"
    if pool.height and pool[column].null_count() == pool.height:
        raise InputError(
            f'the candidate pool holds no document of generator "{config.generator}" (judging.generator). Choose a generator '
            "whose retrievers are configured."
        )
    return pool.filter(pl.col(column) <= config.pool_size).sort("query_id", "doc_id")


def pool_documents(pool: pl.DataFrame, config: JudgingConfig) -> pl.DataFrame:
    """Name the documents to compare: query_id, doc_id, rank (in the generator's pool)."""
    return judged_pool(pool, config).select("query_id", "doc_id", rank=pl.col(f"{config.generator}_pool_rank"))


def within_query_z(query_ids: pl.Series, values: np.ndarray) -> np.ndarray:
    """Standardise within each query.

    Equation: z = (x - mean) / sd over the query's documents, sd with divisor n; 0 where all values are equal. NaN values (a
    document that the retriever did not return) count as the query's smallest value, or 0 when there is none.

    Args:
        query_ids: (n,) query of each value, equal ones adjacent.
        values: (n,) scores, NaN where there is none.

    Returns:
        (n,) z-scores.
    """
    if not len(values):
        return np.zeros(0)
    starts = np.flatnonzero(np.r_[True, (query_ids != query_ids.shift(1)).to_numpy()[1:]])
    counts = np.diff(np.r_[starts, len(values)])
    lowest = np.minimum.reduceat(np.where(np.isnan(values), np.inf, values), starts)
    lowest = np.where(np.isinf(lowest), 0.0, lowest)
    filled = np.where(np.isnan(values), np.repeat(lowest, counts), values)
    centred = filled - np.repeat(np.add.reduceat(filled, starts) / counts, counts)
    deviation = np.repeat(np.sqrt(np.add.reduceat(centred**2, starts) / counts), counts)
    # Below this the spread is rounding error of equal scores, and dividing by it would invent preferences.
    flat = deviation <= 1e-12 * np.maximum(1.0, np.abs(filled))
    return np.where(flat, 0.0, centred / np.where(flat, 1.0, deviation))


def pair_rows(calls: pl.DataFrame, documents: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Find the rows of `documents` that hold the first and the second document of each call.

    Args:
        calls: frame with query_id, first_id, second_id.
        documents: frame with unique (query_id, doc_id).

    Returns:
        Two (n_calls,) int64 arrays of row numbers.

    Raises:
        InputError: a call names a document outside the judged pool.
    """
    rows = documents.select("query_id", "doc_id").with_row_index("row")
    found: list[np.ndarray] = []
    for side in ("first_id", "second_id"):
        joined = calls.select("query_id", doc_id=pl.col(side)).join(
            rows, on=["query_id", "doc_id"], how="left", maintain_order="left"
        )
        if joined["row"].null_count():
            absent = joined.filter(pl.col("row").is_null()).row(0, named=True)
            raise InputError(
                f"the plan compares document {absent['doc_id']} for query {absent['query_id']}, which is not in the judged pool. "
                "Materialize comparison_plan again: it was made from another pool."
            )
        found.append(joined["row"].to_numpy().astype(np.int64))
    return found[0], found[1]


def scores_or_nan(pool: pl.DataFrame, column: str) -> np.ndarray:
    """Return a nullable score column as (n,) float64 with NaN for null."""
    return pool[column].cast(pl.Float64()).fill_null(float("nan")).to_numpy()
