"""Learned fusion: a linear score on retrieval features of a candidate pool.

Belongs here: the features, the model and its scores. Does not: fitting it to Elo (`training/feature_reranker.py`).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from anmi_pipeline.errors import ArtifactError

FEATURES = ("lexical_z", "dense_z", "rrf_z", "lexical_reciprocal_rank", "dense_reciprocal_rank", "in_both")
RRF_K = 60


def pool_features(pool: pl.DataFrame) -> NDArray[np.float64]:
    """Compute the features of every document of some pools, centred within the query.

    z scores use the mean and standard deviation over the query's rows in `pool`, so the pools must be cut to the documents that
    are to be ranked first. A document that is absent from a run takes the lowest score its query has there and reciprocal rank 0.
    Centring makes a query's level irrelevant: only order within the query is learnt and scored.

    Args:
        pool: POOL frame.

    Returns:
        (n_rows, 6) in the row order of `pool`, columns as FEATURES.
    """
    columns = [
        within_query_z("lexical_score"),
        within_query_z("dense_score"),
        within_query_z("rrf_pool_score"),
        (1.0 / (RRF_K + pl.col("lexical_rank"))).fill_null(0.0) * RRF_K,
        (1.0 / (RRF_K + pl.col("dense_rank"))).fill_null(0.0) * RRF_K,
        (pl.col("lexical_rank").is_not_null() & pl.col("dense_rank").is_not_null()).cast(pl.Float64),
    ]
    named = [column.alias(name) for column, name in zip(columns, FEATURES, strict=True)]
    values = pool.select("query_id", *named)
    centred = [(pl.col(name) - pl.col(name).mean().over("query_id")).alias(name) for name in FEATURES]
    return values.select(centred).to_numpy().astype(np.float64)


def within_query_z(column: str) -> pl.Expr:
    """Z score of a column within the query, the lowest value standing in for an absent one; 0 where all are equal or absent."""
    filled = pl.col(column).fill_null(pl.col(column).min().over("query_id")).fill_null(0.0)
    width = filled.std(ddof=0).over("query_id")
    return pl.when(width > 0).then((filled - filled.mean().over("query_id")) / width).otherwise(0.0)


@dataclass(frozen=True)
class FeatureModel:
    """A linear score on FEATURES.

    Attributes:
        weights: (6,) float64, Elo points per unit of the feature.
    """

    weights: NDArray[np.float64]

    def score(self, pool: pl.DataFrame) -> pl.DataFrame:
        """Score pools.

        Returns:
            query_id, doc_id, rank (1 = best, ties by document id) and score (predicted Elo points above the query's mean).
        """
        # Summed feature by feature: a matrix product may add in another order for another number of rows.
        features = pool_features(pool)
        score = np.zeros(len(features))
        for index, weight in enumerate(self.weights):
            score += weight * features[:, index]
        scored = pool.select("query_id", "doc_id").with_columns(score=pl.Series(score, dtype=pl.Float64))
        ordered = scored.sort("query_id", "score", "doc_id", descending=[False, True, False])
        return ordered.select("query_id", "doc_id", pl.int_range(1, pl.len() + 1).over("query_id").alias("rank"), "score")

    def save(self, folder: Path) -> None:
        """Write `model.safetensors` and `settings.json` into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"weights": self.weights}, folder / "model.safetensors")
        settings = {"features": FEATURES, "kind": "features"}
        (folder / "settings.json").write_text(json.dumps(settings, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "FeatureModel":
        """Read what `save` wrote.

        Raises:
            ArtifactError: the model was made for other features.
        """
        settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        if tuple(settings.get("features", ())) != FEATURES:
            raise ArtifactError(
                f"{folder} scores features {settings.get('features')}, this version computes {list(FEATURES)}. "
                "Materialize checkpoint again."
            )
        return cls(load_file(folder / "model.safetensors")["weights"])


def score_features(folder: Path, pool: pl.DataFrame) -> pl.DataFrame:
    """Score pools with a saved model; see `FeatureModel.score`."""
    return FeatureModel.load(folder).score(pool)
