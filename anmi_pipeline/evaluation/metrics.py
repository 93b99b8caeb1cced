"""Ranking metrics per query with every policy written down.

Belongs here: which queries count, how a ranking is read, the metrics through ir-measures. Does not: means and intervals
(`statistics.py`).

Policies:
    ties: the `rank` column is the order; the metric engine sees a score derived from it, so it has no ties to break.
    missing queries: an answerable query without rows counts 0 in every ranking metric.
    unjudged documents: not relevant.
    answerable queries: at least one document with grade > 0 and `has_evidence` not False. Only they enter ranking metrics.
    queries without evidence: `has_evidence` False, or unknown with judged documents none of which is relevant. Only they enter
        the false-evidence rate: 1 when the system returns anything, 0 when it abstains.
    unlabelled queries (no judged document, `has_evidence` not False): in neither.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import ir_measures
import polars as pl

from anmi_pipeline.errors import InputError
from anmi_pipeline.evaluation.config import FALSE_EVIDENCE, METRIC_PATTERN

if TYPE_CHECKING:
    from ir_measures.measures import Measure

PER_QUERY_SCHEMA = {"query_id": pl.String, "seed": pl.Int64, "metric": pl.String, "value": pl.Float64}


def answerable_queries(qrels: pl.DataFrame, queries: pl.DataFrame) -> pl.DataFrame:
    """Select the queries that ranking metrics count: a relevant document exists and `has_evidence` is not False."""
    relevant = qrels.filter(pl.col("grade") > 0).select("query_id").unique()
    return queries.filter(pl.col("has_evidence").fill_null(True)).join(relevant, on="query_id", how="semi").sort("query_id")


def no_evidence_queries(qrels: pl.DataFrame, queries: pl.DataFrame) -> pl.DataFrame:
    """Select the queries known to have no answer: declared so, or judged without finding one."""
    judged = qrels.group_by("query_id").agg(pl.col("grade").max().alias("best_grade"))
    known = queries.join(judged, on="query_id", how="left")
    declared = pl.col("has_evidence").eq_missing(pl.lit(False))
    found_none = pl.col("has_evidence").is_null() & (pl.col("best_grade") <= 0).fill_null(False)
    return known.filter(declared | found_none).drop("best_grade").sort("query_id")


def with_seed(scores: pl.DataFrame) -> pl.DataFrame:
    """Return a SCORES frame: a RUN frame gets seed 0, as untrained systems have.

    Raises:
        InputError: a query lists a document twice.
    """
    seeded = scores if "seed" in scores.columns else scores.with_columns(pl.lit(0, dtype=pl.Int64).alias("seed"))
    twice = seeded.filter(pl.struct("query_id", "seed", "doc_id").is_duplicated())
    if twice.height:
        row = twice.row(0, named=True)
        raise InputError(
            f'query "{row["query_id"]}" (seed {row["seed"]}) ranks document "{row["doc_id"]}" more than once. '
            "A ranking lists each document once: remove the repeated rows."
        )
    return seeded.select("query_id", "seed", "doc_id", "rank", "score")


def engine_measure(metric: str) -> "Measure":
    """Translate nDCG@k, MRR@k or Recall@k to the ir-measures measure that has this value on a run cut at k.

    *Equation*: nDCG@k = DCG@k / ideal DCG@k with DCG = sum_i grade_i / log2(i + 1), the gain LINEAR in the grade, the ideal over
    all judged documents of the query (trec_eval's ndcg_cut; Jarvelin and Kekalainen 2002, doi:10.1145/582415.582418). MRR@k is
    RR of the run cut at k, because the engine knows no cutoff for RR and ignores one silently.

    Raises:
        InputError: the metric is not one of the three.
    """
    k = cutoff(metric)
    if metric.startswith("MRR"):
        return ir_measures.RR
    return ir_measures.nDCG @ k if metric.startswith("nDCG") else ir_measures.R @ k


def cutoff(metric: str) -> int:
    """Return k of nDCG@k, MRR@k or Recall@k.

    Raises:
        InputError: the metric is not one of the three.
    """
    parts = METRIC_PATTERN.match(metric)
    if parts is None:
        raise InputError(f'unknown metric "{metric}"; write nDCG@k, MRR@k or Recall@k.')
    return int(parts[2])


def nested(frame: pl.DataFrame, value: str) -> dict[str, dict[str, float]]:
    """Turn rows into the engine's form, query -> document -> value, in row order."""
    table: dict[str, dict[str, float]] = {}
    for query_id, doc_id, number in frame.select("query_id", "doc_id", value).iter_rows():
        table.setdefault(query_id, {})[doc_id] = number
    return table


def ranking_values(
    scores: pl.DataFrame, qrels: pl.DataFrame, metrics: Sequence[str], seeds: Sequence[int]
) -> Iterator[pl.DataFrame]:
    """Yield frames (query_id, seed, metric, value), one per cutoff and seed; `qrels` holds answerable queries only."""
    judgments = nested(qrels, "grade")
    for k in sorted({cutoff(metric) for metric in metrics}):
        names = {str(engine_measure(metric)): metric for metric in metrics if cutoff(metric) == k}
        evaluator = ir_measures.pytrec_eval.evaluator([engine_measure(metric) for metric in names.values()], judgments)
        # -rank as the score: strictly decreasing, so the engine's own tie rule never decides.
        top = scores.filter(pl.col("rank") <= k).with_columns((-pl.col("rank")).cast(pl.Float64).alias("order"))
        for seed in seeds:
            run = nested(top.filter(pl.col("seed") == seed).join(qrels, on="query_id", how="semi"), "order")
            rows = [(m.query_id, seed, names[str(m.measure)], float(m.value)) for m in evaluator.iter_calc(run)]
            yield pl.DataFrame(rows, schema=PER_QUERY_SCHEMA, orient="row")


def false_evidence_values(scores: pl.DataFrame, unanswerable: pl.DataFrame, seeds: Sequence[int]) -> pl.DataFrame:
    """Return 1 per (unanswerable query, seed) that the system answers and 0 where it abstains."""
    answered = scores.select("query_id", "seed").unique().with_columns(pl.lit(1.0).alias("value"))
    grid = unanswerable.select("query_id").join(pl.DataFrame({"seed": list(seeds)}, schema={"seed": pl.Int64}), how="cross")
    joined = grid.join(answered, on=["query_id", "seed"], how="left").with_columns(pl.col("value").fill_null(0.0))
    return joined.with_columns(pl.lit(FALSE_EVIDENCE).alias("metric")).select(*PER_QUERY_SCHEMA)


def per_query_metrics(
    scores: pl.DataFrame,
    qrels: pl.DataFrame,
    queries: pl.DataFrame,
    metrics: Sequence[str],
    seeds: Sequence[int] | None = None,
) -> pl.DataFrame:
    """Measure every answerable query, and note which unanswerable ones get an answer.

    Args:
        scores: SCORES or RUN frame (a RUN counts as seed 0); its `rank` is the order.
        qrels: QRELS frame.
        queries: QUERIES frame; only its queries are measured.
        metrics: nDCG@k, MRR@k, Recall@k.
        seeds: the system's seeds; None reads them from `scores`. A declared seed without a row for a query counts 0 there.

    Returns:
        Frame (query_id, seed, metric, value) sorted by metric, query and seed; empty when nothing is labelled.
    """
    seeded = with_seed(scores)
    wanted = sorted(set(seeds)) if seeds else sorted(seeded["seed"].unique().to_list()) or [0]
    answerable = answerable_queries(qrels, queries)
    frames = [false_evidence_values(seeded, no_evidence_queries(qrels, queries), wanted)]
    if answerable.height and metrics:
        frames.extend(ranking_values(seeded, qrels.join(answerable, on="query_id", how="semi"), metrics, wanted))
    return pl.concat(frames).sort("metric", "query_id", "seed")


def seed_means(per_query: pl.DataFrame) -> pl.DataFrame:
    """Average a per-query frame over seeds: (query_id, metric, value), sorted by metric and query."""
    return per_query.group_by("metric", "query_id").agg(pl.col("value").mean()).sort("metric", "query_id")


def mean_metric(
    scores: pl.DataFrame, qrels: pl.DataFrame, queries: pl.DataFrame, metric: str, seeds: Sequence[int] | None = None
) -> float:
    """Return the mean of one ranking metric over answerable queries and seeds; NaN-free: raises without such queries.

    Raises:
        InputError: no query of `queries` is answerable.
    """
    values = per_query_metrics(scores, qrels, queries, [metric], seeds).filter(pl.col("metric") == metric)["value"]
    if values.is_empty():
        raise InputError(f"none of the {queries.height} queries has a relevant document; {metric} is not defined.")
    return float(values.to_numpy().mean())
