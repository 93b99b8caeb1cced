"""The leaderboard: systems with metrics, intervals, rank groups and contrasts against the declared baselines.

Belongs here: putting per-query values of all systems side by side. Does not: scoring, tuning (`tuning.py`), choosing and printing
(`presentation.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from anmi_pipeline.errors import InputError
from anmi_pipeline.evaluation.config import FALSE_EVIDENCE, EvaluationConfig
from anmi_pipeline.evaluation.metrics import answerable_queries, per_query_metrics, seed_means, with_seed
from anmi_pipeline.evaluation.statistics import Floats, holm, mean_intervals, paired_differences, rank_groups
from anmi_pipeline.progress import Progress, silent
from anmi_pipeline.tables import CONTRASTS, METRICS, PER_QUERY

Row = Mapping[str, object]

DECIMALS = 9
"""Figures are rounded so that the last bits of a sum, which differ between processors, do not reach the digest."""


@dataclass(frozen=True)
class SystemResult:
    """Everything the board needs about one system.

    Attributes:
        system: name on the board; unique.
        dataset: dataset whose labels trained it.
        recipe: recipe it was made by.
        labels: what its training labels rest on: human, recorded, judged, clicks or simulated.
        raw: SCORES or RUN frame at fixed inference settings.
        tuned: SCORES frame at tuned settings; None when it was not tuned.
        checkpoint: digest of the checkpoint; None for untrained systems.
        elo_table: digest of the Elo table it was trained on; None for untrained systems.
        seeds: training seeds; empty reads them from `raw`. A seed without rows for a query counts 0 there.
    """

    system: str
    dataset: str
    recipe: str
    labels: str
    raw: pl.DataFrame
    tuned: pl.DataFrame | None = None
    checkpoint: str | None = None
    elo_table: str | None = None
    seeds: tuple[int, ...] = ()

    @property
    def trained_seeds(self) -> tuple[int, ...]:
        """The declared seeds, else those of the raw scores, else seed 0."""
        return self.seeds or tuple(sorted(with_seed(self.raw)["seed"].unique().to_list())) or (0,)

    @property
    def variants(self) -> dict[str, pl.DataFrame]:
        """Variant name -> scores, raw first."""
        return {"raw": self.raw} | ({"tuned": self.tuned} if self.tuned is not None else {})


@dataclass(frozen=True)
class Leaderboard:
    """The three tables of a board.

    Attributes:
        metrics: METRICS frame; empty without labels.
        per_query: PER_QUERY frame.
        contrasts: CONTRASTS frame, raw variants only.
        systems: names of the systems that were to be measured.
        reason: why a part or all of the board is empty; "" when nothing is.
    """

    metrics: pl.DataFrame
    per_query: pl.DataFrame
    contrasts: pl.DataFrame
    systems: tuple[str, ...]
    reason: str


def check_unique(systems: Sequence[SystemResult]) -> None:
    """Raise InputError when two systems share a name."""
    names = [result.system for result in systems]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"system name(s) {', '.join(twice)} stand on the leaderboard twice; give each system its own name.")


def per_query_table(
    systems: Sequence[SystemResult], qrels: pl.DataFrame, queries: pl.DataFrame, config: EvaluationConfig, progress: Progress
) -> pl.DataFrame:
    """Measure every system and variant on every query of the configured sets: a PER_QUERY frame."""
    splits = sorted({split for name in config.query_sets for split in name.split("+")})
    measured = queries.filter(pl.col("split").is_in(splits))
    frames: list[pl.DataFrame] = []
    for done, result in enumerate(systems, start=1):
        for variant, scores in result.variants.items():
            kept = scores.filter(pl.col("rank") <= config.depth)
            values = seed_means(per_query_metrics(kept, qrels, measured, config.metrics, result.trained_seeds))
            frames.append(values.with_columns(system=pl.lit(result.system), variant=pl.lit(variant)))
        progress(done, len(systems), "systems")
    if not frames:
        return PER_QUERY.frame()
    return PER_QUERY.frame(pl.concat(frames).join(measured.select("query_id", "split"), on="query_id"))


def value_matrix(per_query: pl.DataFrame, query_set: str, variant: str, metric: str) -> tuple[list[str], Floats]:
    """Return the systems (sorted) and their (n_queries, n_systems) values, the queries in one order for all."""
    splits = query_set.split("+")
    chosen = per_query.filter(pl.col("split").is_in(splits) & (pl.col("variant") == variant) & (pl.col("metric") == metric)).sort(
        "system", "query_id"
    )
    names = chosen["system"].unique(maintain_order=True).to_list()
    values = chosen["value"].to_numpy().astype(np.float64)
    return names, values.reshape(len(names), -1).T if names else values.reshape(0, 0)


def metric_rows(per_query: pl.DataFrame, query_set: str, variant: str, config: EvaluationConfig) -> list[Row]:
    """Mean, interval and rank group of every system for one query set and variant."""
    rows: list[Row] = []
    for metric in (*config.metrics, FALSE_EVIDENCE):
        names, values = value_matrix(per_query, query_set, variant, metric)
        if not names:
            continue
        # A generator of its own per cell of the board: a figure never depends on what else is measured.
        draws, rng = config.bootstrap_samples, np.random.default_rng(config.seed)
        intervals = mean_intervals(values, draws=draws, coverage=config.interval, rng=rng)
        ranks: dict[str, int] = {}
        if metric != FALSE_EVIDENCE:
            ranks = rank_groups(
                dict(zip(names, values.T, strict=True)),
                draws=draws,
                alpha=1 - config.interval,
                rng=np.random.default_rng(config.seed),
            )
        for name, interval in zip(names, intervals, strict=True):
            row = {"system": name, "variant": variant, "split": query_set, "metric": metric, "n_queries": values.shape[0]}
            figures = {end: round(getattr(interval, end), DECIMALS) for end in ("value", "low", "high")}
            rows.append(row | figures | {"rank": ranks.get(name)})
    return rows


def contrast_rows(per_query: pl.DataFrame, query_set: str, baseline: str, config: EvaluationConfig) -> list[Row]:
    """Compare every system's raw rows with one baseline; p values Holm-corrected over the systems of one metric."""
    rows: list[Row] = []
    for metric in config.metrics:
        names, values = value_matrix(per_query, query_set, "raw", metric)
        if baseline not in names or len(names) < 2:
            continue
        others = [place for place, name in enumerate(names) if name != baseline]
        reference = np.repeat(values[:, [names.index(baseline)]], len(others), axis=1)
        differences = paired_differences(
            values[:, others],
            reference,
            draws=config.bootstrap_samples,
            coverage=config.interval,
            rng=np.random.default_rng(config.seed),
        )
        adjusted = holm([difference.p for difference in differences])
        for place, difference, p in zip(others, differences, adjusted, strict=True):
            row = {
                "system": names[place],
                "baseline": baseline,
                "split": query_set,
                "metric": metric,
                "n_queries": values.shape[0],
            }
            figures = {end: round(getattr(difference, end), DECIMALS) for end in ("difference", "low", "high")}
            rows.append(row | figures | {"p_value": round(p, DECIMALS)})
    return rows


def described(rows: Sequence[Row], systems: Sequence[SystemResult]) -> list[Row]:
    """Add what is known of each system (dataset, recipe, labels, digests, seeds) to its rows."""
    facts = {
        result.system: {
            "dataset": result.dataset,
            "recipe": result.recipe,
            "labels": result.labels,
            "seeds": len(result.trained_seeds),
            "checkpoint": result.checkpoint,
            "elo_table": result.elo_table,
        }
        for result in systems
    }
    return [dict(row) | facts[str(row["system"])] for row in rows]


def missing_labels(qrels: pl.DataFrame, queries: pl.DataFrame, config: EvaluationConfig) -> str:
    """Say which query sets have no answerable query; "" when all have some."""
    counts = dict(answerable_queries(qrels, queries).group_by("split").len().iter_rows())
    empty = [name for name in config.query_sets if not any(counts.get(split) for split in name.split("+"))]
    if len(empty) == len(config.query_sets):
        return (
            "no query of this dataset has relevance labels, so no system can be measured; "
            "add qrels for evaluation queries, or choose a system by other means"
        )
    return f"no relevance labels for: {', '.join(empty)}" if empty else ""


def leaderboard(
    systems: Sequence[SystemResult],
    qrels: pl.DataFrame,
    queries: pl.DataFrame,
    config: EvaluationConfig,
    progress: Progress = silent,
) -> Leaderboard:
    """Put systems on one board.

    Args:
        systems: one result per system; the order does not matter.
        qrels: QRELS frame.
        queries: QUERIES frame of the dataset.
        config: metrics, query sets and statistics.
        progress: called once per system.

    Returns:
        The board; its tables are empty, with the reason, when nothing is labelled.

    Raises:
        InputError: two systems share a name.
    """
    check_unique(systems)
    reason = missing_labels(qrels, queries, config)
    per_query = per_query_table(systems, qrels, queries, config, progress)
    rows: list[Row] = []
    contrasts: list[Row] = []
    for query_set in config.query_sets:
        for variant in ("raw", "tuned"):
            rows.extend(metric_rows(per_query, query_set, variant, config))
        for baseline in config.baselines:
            contrasts.extend(contrast_rows(per_query, query_set, baseline, config))
    return Leaderboard(
        metrics=METRICS.frame(described(rows, systems)) if rows else METRICS.frame(),
        per_query=per_query,
        contrasts=CONTRASTS.frame(contrasts) if contrasts else CONTRASTS.frame(),
        systems=tuple(sorted(result.system for result in systems)),
        reason=reason,
    )
