"""What is measured, on which queries, and how surely.

Belongs here: the configuration models of the room. Imports nothing heavy, so definitions can load it.
"""

import re

from pydantic import Field, field_validator

from anmi_pipeline.settings import Config
from anmi_pipeline.tables import SPLITS

PRIMARY_METRIC = "nDCG@10"
FALSE_EVIDENCE = "false_evidence"
"""Share of queries known to have no answer for which the system returns something all the same."""

METRIC_PATTERN = re.compile(r"^(nDCG|MRR|Recall)@([1-9]\d*)$")


class EvaluationConfig(Config):
    """Metrics, query sets and statistics of one dataset's leaderboard."""

    depth: int = Field(default=200, ge=1, description="documents per query that are kept and scored")
    metrics: tuple[str, ...] = Field(
        default=("nDCG@10", "MRR@10", "Recall@10", "Recall@50", "Recall@100", "Recall@200"),
        description="ranking metrics: nDCG@k (linear gain), MRR@k or Recall@k; nDCG@10 must be one of them",
    )
    query_sets: tuple[str, ...] = Field(
        default=("dev_select", "dev_final", "test", "held_out"),
        description="query sets with a board of their own: a split, or splits joined by '+' (dev_final+test)",
    )
    baselines: tuple[str, ...] = Field(
        default=("minilm", "placebo"),
        description="systems that every other system is contrasted with, when they are on the board",
    )
    bootstrap_samples: int = Field(default=5000, ge=100, description="draws of the bootstrap and of the randomisation test")
    interval: float = Field(default=0.95, gt=0, lt=1, description="coverage of the reported intervals")
    seed: int = Field(default=0, ge=0, description="seed of the bootstrap and of the randomisation test")
    max_false_evidence: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="highest tolerated share of unanswerable queries that get an answer; unset = no abstention threshold",
    )
    confidence: float = Field(default=0.9, gt=0, lt=1, description="confidence at which max_false_evidence is to hold")

    @field_validator("metrics")
    @classmethod
    def known_metrics(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        """Refuse a metric that is not computed here, and a board without its primary metric."""
        wrong = [metric for metric in metrics if not METRIC_PATTERN.match(metric)]
        if wrong:
            raise ValueError(f"unknown metric(s) {', '.join(wrong)}; write nDCG@k, MRR@k or Recall@k")
        if PRIMARY_METRIC not in metrics:
            raise ValueError(f"metrics must include {PRIMARY_METRIC}: tuning and the winner are chosen by it")
        return metrics

    @field_validator("query_sets")
    @classmethod
    def known_splits(cls, query_sets: tuple[str, ...]) -> tuple[str, ...]:
        """Refuse a query set that names an unknown split."""
        unknown = sorted({split for name in query_sets for split in name.split("+")} - set(SPLITS))
        if unknown:
            raise ValueError(f"unknown split(s) {', '.join(unknown)}; the splits are {', '.join(SPLITS)}")
        if "dev_final" not in query_sets:
            raise ValueError("query_sets must name dev_final by itself: the winner is chosen there")
        return query_sets


class TuningConfig(Config):
    """The grid of inference settings that `tuned_system` searches on dev_select."""

    fusions: tuple[str, ...] = Field(
        default=("none", "rrf", "min_max"), description="how a system's run is joined with the lexical run"
    )
    lexical_weights: tuple[float, ...] = Field(
        default=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), description="weights of the lexical run in min_max fusion, 0..1"
    )
    pool_sizes: tuple[int, ...] = Field(default=(20, 50, 100), description="pool sizes tried for a reranker, in documents")
    rrf_k: int = Field(default=60, ge=1, description="constant of reciprocal rank fusion")

    @field_validator("fusions")
    @classmethod
    def known_fusions(cls, fusions: tuple[str, ...]) -> tuple[str, ...]:
        """Refuse a fusion that is not computed here."""
        unknown = sorted(set(fusions) - {"none", "rrf", "min_max"})
        if unknown:
            raise ValueError(f"unknown fusion(s) {', '.join(unknown)}; known: none, rrf, min_max")
        return fusions

    @field_validator("lexical_weights")
    @classmethod
    def weights_in_unit_interval(cls, weights: tuple[float, ...]) -> tuple[float, ...]:
        """Refuse a weight outside 0..1."""
        if any(not 0 <= weight <= 1 for weight in weights):
            raise ValueError(f"lexical_weights must lie in 0..1, got {list(weights)}")
        return weights


class InferenceSettings(Config):
    """Settings of one system at query time: what tuning chooses and serving obeys."""

    fusion: str = Field(default="none", description="none, rrf or min_max: how the system's run is joined with the lexical run")
    lexical_weight: float = Field(default=0.0, ge=0, le=1, description="weight of the lexical run in min_max fusion")
    rrf_k: int = Field(default=60, ge=1, description="constant of reciprocal rank fusion")
    pool_size: int | None = Field(default=None, ge=1, description="a reranker's candidates per query; unset = its own fixed pool")
    threshold: float | None = Field(
        default=None, description="a query whose best score of the system itself, before fusion, is below it gets no answer"
    )
