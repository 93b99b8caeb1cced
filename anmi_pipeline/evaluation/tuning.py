"""Choosing inference settings on cached scores: fusion, pool size, abstention threshold.

Belongs here: the grid, its confirmation and the tuned scores. Does not: computing scores (no model runs here) or searching
beyond a grid. The order is dev_select for the choice, dev_final for its confirmation; the test split is not looked at.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from anmi_pipeline.evaluation.config import PRIMARY_METRIC, EvaluationConfig, InferenceSettings, TuningConfig
from anmi_pipeline.evaluation.metrics import answerable_queries, per_query_metrics, seed_means, with_seed
from anmi_pipeline.evaluation.statistics import Floats, PairedDifference, paired_difference
from anmi_pipeline.evaluation.thresholds import abstain, top_scores, tuned_threshold
from anmi_pipeline.progress import Progress, silent
from anmi_pipeline.retrieval.fusion import min_max, rrf
from anmi_pipeline.tables import RUN, SCORES, TRIALS

SAME = 1e-9
"""Means that differ by less are a tie, and the simpler settings win it."""


@dataclass(frozen=True)
class Tuned:
    """What tuning chose.

    Attributes:
        trials: TRIALS frame, from the simplest settings to the most complex; empty when nothing was tried.
        settings: the settings to serve with.
        reason: how they were chosen, for people.
        scores: SCORES frame at those settings, for every query of the raw scores.
        confirmation: nDCG@10 on dev_final against the fixed settings; None when it could not be measured.
    """

    trials: pl.DataFrame
    settings: InferenceSettings
    reason: str
    scores: pl.DataFrame
    confirmation: PairedDifference | None


def settings_json(settings: InferenceSettings) -> str:
    """Write settings as canonical JSON: sorted keys, no spaces."""
    return json.dumps(settings.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def grid(config: TuningConfig, *, has_lexical: bool, has_pool: bool) -> Iterator[InferenceSettings]:
    """Yield the settings to try, simplest first: no fusion, RRF, weighted min-max; within each, the smaller pool first."""
    pools: Sequence[int | None] = [None, *sorted(config.pool_sizes)] if has_pool else [None]
    fusions = [name for name in ("none", "rrf", "min_max") if name in config.fusions and (has_lexical or name == "none")]
    for fusion in fusions:
        for weight in sorted(config.lexical_weights) if fusion == "min_max" else [0.0]:
            for pool_size in pools:
                yield InferenceSettings(fusion=fusion, lexical_weight=weight, rrf_k=config.rrf_k, pool_size=pool_size)


def with_tail(scored: pl.DataFrame, listing: pl.DataFrame) -> pl.DataFrame:
    """Put the documents that a reranker did not score below those it did.

    A reranker scores the first documents of a list; the others keep the list's order, one point apart below the query's lowest
    score, so that recall beyond the pool is that of the list.

    Args:
        scored: frame (query_id, doc_id, rank, score); ranks count from 1 in each query.
        listing: frame (query_id, doc_id, rank) of the whole list; documents of `scored`, and queries without any, are left out.

    Returns:
        RUN frame.
    """
    lowest = scored.group_by("query_id").agg(pl.col("score").min().alias("lowest"), pl.len().alias("n"))
    rest = listing.join(scored, on=["query_id", "doc_id"], how="anti").join(lowest, on="query_id").sort("query_id", "rank")
    placed = rest.with_columns(place=pl.int_range(1, pl.len() + 1).over("query_id"))
    below = placed.select("query_id", "doc_id", rank=pl.col("n") + pl.col("place"), score=pl.col("lowest") - pl.col("place"))
    return pl.concat([RUN.frame(scored), RUN.frame(below)]).sort(RUN.key)


def in_pool(run: pl.DataFrame, pool: pl.DataFrame | None, size: int | None) -> pl.DataFrame:
    """Let only the first `size` documents of each pool be ranked by the system; the others follow in the pool's order.

    Args:
        run: RUN frame of a reranker.
        pool: frame (query_id, doc_id, rank) of the candidates; None leaves the run as it is.
        size: documents of the pool; None leaves the run as it is.
    """
    if pool is None or size is None:
        return run
    key = ["query_id", "doc_id"]
    first = run.join(pool.filter(pl.col("rank") <= size), on=key, how="semi").sort("query_id", "rank")
    scored = first.with_columns(rank=pl.int_range(1, pl.len() + 1).over("query_id"))
    places = run.join(pool.select(*key, pool_rank="rank"), on=key, how="left").sort(
        "query_id", "pool_rank", "rank", nulls_last=True
    )
    listing = places.select(*key, rank=pl.int_range(1, pl.len() + 1).over("query_id"))
    return with_tail(scored, listing)


def fused(run: pl.DataFrame, lexical: pl.DataFrame | None, settings: InferenceSettings, depth: int) -> pl.DataFrame:
    """Join one run with the lexical run as the settings say: a RUN frame of at most `depth` documents per query."""
    if settings.fusion == "none" or lexical is None:
        return run.filter(pl.col("rank") <= depth)
    if settings.fusion == "rrf":
        return rrf([run, lexical], k=settings.rrf_k, depth=depth)
    weight = settings.lexical_weight
    return min_max([run, lexical], [1 - weight, weight], depth=depth)


@dataclass(frozen=True)
class Cached:
    """A system's cached scores with what inference settings need to act on them.

    Attributes:
        scores: SCORES frame at the fixed settings.
        lexical: RUN frame of the lexical retriever; None when no fusion with it is tried.
        pool: frame (query_id, doc_id, rank) of a reranker's candidates; None for systems without a pool.
        depth: documents kept per query.
    """

    scores: pl.DataFrame
    lexical: pl.DataFrame | None
    pool: pl.DataFrame | None
    depth: int

    @property
    def seeds(self) -> list[int]:
        """Seeds of the scores; seed 0 when there are none."""
        return sorted(self.scores["seed"].unique().to_list()) or [0]

    def of(self, queries: pl.DataFrame) -> "Cached":
        """Keep the rows of these queries."""
        return replace(self, scores=self.scores.join(queries, on="query_id", how="semi"))

    def apply(self, settings: InferenceSettings) -> pl.DataFrame:
        """Apply pool size, fusion and threshold, seed by seed: a SCORES frame.

        The threshold looks at the best score of the system itself, before fusion: fused scores do not say how good a match is.
        """
        frames: list[pl.DataFrame] = []
        for (seed,), part in self.scores.group_by("seed", maintain_order=True):
            run = in_pool(part.drop("seed"), self.pool, settings.pool_size)
            # only queries of the system: a fusion must not add queries that the lexical run alone has
            lexical = None if self.lexical is None else self.lexical.join(run, on="query_id", how="semi")
            answered = abstain(fused(run, lexical, settings, self.depth), top_scores(run), settings.threshold)
            frames.append(answered.with_columns(pl.lit(seed, dtype=pl.Int64).alias("seed")))
        return SCORES.frame(pl.concat(frames, how="diagonal")) if frames else SCORES.frame()

    def values(self, settings: InferenceSettings, qrels: pl.DataFrame, queries: pl.DataFrame) -> Floats:
        """Return nDCG@10 of every answerable query at these settings, mean over seeds, in query order."""
        measured = seed_means(per_query_metrics(self.apply(settings), qrels, queries, [PRIMARY_METRIC], self.seeds))
        return measured.filter(pl.col("metric") == PRIMARY_METRIC)["value"].to_numpy().astype(np.float64)


def untuned(scores: pl.DataFrame, reason: str) -> Tuned:
    """Keep the fixed settings and say why."""
    return Tuned(TRIALS.frame(), InferenceSettings(), reason, SCORES.frame(scores), None)


def tuned_system(
    scores: pl.DataFrame,
    qrels: pl.DataFrame,
    queries: pl.DataFrame,
    config: EvaluationConfig,
    tuning: TuningConfig,
    *,
    lexical: pl.DataFrame | None = None,
    pool: pl.DataFrame | None = None,
    progress: Progress = silent,
) -> Tuned:
    """Choose inference settings by nDCG@10 on dev_select and confirm them on dev_final.

    The best settings of the grid (the simplest among equals) are kept only if they are not below the fixed settings on dev_final;
    else the fixed settings stay. An abstention threshold is added when `config.max_false_evidence` is set and dev_select has
    queries without evidence; its price in nDCG@10 shows on the board, because an answerable query without an answer counts 0.

    Args:
        scores: the system's cached SCORES or RUN frame.
        qrels: QRELS frame.
        queries: QUERIES frame.
        config: depth, statistics, tolerated false evidence.
        tuning: the grid.
        lexical: RUN frame of the lexical retriever; None for systems that contain it (no fusion is tried).
        pool: frame (query_id, doc_id, rank) of a reranker's candidates; None for systems without a pool.
        progress: called once per trial.

    Returns:
        Trials, settings, reason and tuned scores.
    """
    cached = Cached(with_seed(scores), lexical, pool, config.depth)
    select = queries.filter(pl.col("split") == "dev_select")
    if answerable_queries(qrels, select).is_empty():
        reason = "fixed settings: dev_select has no query with a relevant document to tune on"
        return Tuned(TRIALS.frame(), InferenceSettings(), reason, cached.apply(InferenceSettings()), None)
    candidates = list(grid(tuning, has_lexical=lexical is not None, has_pool=pool is not None))
    means: list[float] = []
    for settings in candidates:
        means.append(float(cached.of(select).values(settings, qrels, select).mean()))
        progress(len(means), len(candidates), "trials")
    best = next(place for place, mean in enumerate(means) if mean >= max(means) - SAME)
    chosen = f"chosen of {len(candidates)} on dev_select (nDCG@10 {means[best]:.4f}, fixed settings {means[0]:.4f})"
    kept, confirmation, note = (0, None, "the fixed settings are the best")
    if best:
        final = queries.filter(pl.col("split") == "dev_final")
        kept, confirmation, note = confirmed(cached.of(final), candidates, best, qrels, final, config)
    threshold, threshold_note = tuned_threshold(cached.scores, qrels, select, config)
    settings = candidates[kept].model_copy(update={"threshold": threshold})
    return Tuned(
        trials=trials_frame(candidates, means, kept),
        settings=settings,
        reason=f"{chosen}; {note}; {threshold_note}",
        scores=cached.apply(settings),
        confirmation=confirmation,
    )


def confirmed(
    cached: Cached,
    candidates: Sequence[InferenceSettings],
    best: int,
    qrels: pl.DataFrame,
    final: pl.DataFrame,
    config: EvaluationConfig,
) -> tuple[int, PairedDifference | None, str]:
    """Compare the chosen settings with the fixed ones (place 0) on dev_final: (place kept, difference, note)."""
    if answerable_queries(qrels, final).is_empty():
        return best, None, "not confirmed, because dev_final has no query with a relevant document"
    difference = paired_difference(
        cached.values(candidates[best], qrels, final),
        cached.values(candidates[0], qrels, final),
        draws=config.bootstrap_samples,
        coverage=config.interval,
        rng=np.random.default_rng(config.seed),
    )
    figures = f"{difference.difference:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}] on dev_final"
    if difference.difference < 0:
        return 0, difference, f"not confirmed ({figures}), so the fixed settings stay"
    return best, difference, f"confirmed ({figures})"


def trials_frame(candidates: Sequence[InferenceSettings], means: Sequence[float], kept: int) -> pl.DataFrame:
    """Write the trials down as a TRIALS frame."""
    rows = [
        {"trial": place, "settings": settings_json(settings), "ndcg_dev_select": round(mean, 9), "chosen": place == kept}
        for place, (settings, mean) in enumerate(zip(candidates, means, strict=True))
    ]
    return TRIALS.frame(rows)
