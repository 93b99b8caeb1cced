"""Fit of the learned fusion: Elo regressed on retrieval features.

Belongs here: the ridge regression. Does not: the features and the scoring (`reranking/features.py`).
"""

import time

import numpy as np
import polars as pl

from anmi_pipeline.errors import InputError
from anmi_pipeline.mining.curriculum import unusable_reason
from anmi_pipeline.reranking.features import FEATURES, FeatureModel, pool_features
from anmi_pipeline.training.config import FeaturesConfig
from anmi_pipeline.training.report import TrainingReport


def train_features(training_set: pl.DataFrame, pool: pl.DataFrame, config: FeaturesConfig) -> tuple[FeatureModel, TrainingReport]:
    """Fit Elo above the query's mean by ridge regression, in closed form.

    Equation: w = D (Z'Z + lambda I)^-1 Z'y with Z the within-query centred features over their standard deviations D^-1, and y
    the within-query centred Elo: a regression with one free level per query (Hoerl and Kennard 1970, eq. 2.3).

    Args:
        training_set: TRAINING_SET frame; every judged document counts, whatever its role.
        pool: POOL frame with those documents. Features are relative to the judged documents of the query.
        config: the penalty.

    Raises:
        InputError: there is no judged document, or one is in no pool.
    """
    started = time.perf_counter()
    judged = training_set.select("query_id", "doc_id", "elo")
    if judged.is_empty():
        raise InputError(f"training_set has no row to learn from ({unusable_reason(training_set)}).")
    rows = judged.join(pool, on=["query_id", "doc_id"], how="inner").sort("query_id", "doc_id")
    if rows.height < judged.height:
        missing = judged.join(pool, on=["query_id", "doc_id"], how="anti").row(0)
        raise InputError(
            f"{judged.height - rows.height} judged document(s) are in no pool, first {missing[1]} of query {missing[0]}. "
            "Materialize candidate_pool and training_set from the same runs."
        )
    target = rows.select(pl.col("elo") - pl.col("elo").mean().over("query_id")).to_series().to_numpy()
    features = pool_features(rows)
    width = features.std(axis=0)
    width[width == 0] = 1.0
    scaled = features / width
    gram = scaled.T @ scaled + config.ridge * np.eye(len(FEATURES))
    # lstsq, not solve: without a penalty, equal or constant features make the matrix singular.
    weights = np.linalg.lstsq(gram, scaled.T @ target, rcond=None)[0] / width
    residual = target - features @ weights
    spread = float(target @ target)
    facts = {f"weight_{name}": float(weight) for name, weight in zip(FEATURES, weights, strict=True)}
    facts["explained_variance"] = 1.0 - float(residual @ residual) / spread if spread > 0 else 0.0
    return FeatureModel(weights), TrainingReport([], time.perf_counter() - started, rows.height, epochs=1, facts=facts)
