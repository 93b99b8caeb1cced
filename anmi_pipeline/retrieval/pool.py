"""Candidate pools: which documents of a query may be compared, trained on and reranked.

Belongs here: the five generators, the pool table, its coverage and recall. Does not: retrieval and fusion themselves, and which
pairs of a pool are compared (`rating`, `judging`).
"""

from collections.abc import Mapping, Sequence

import polars as pl

from anmi_pipeline.errors import InputError, nearest
from anmi_pipeline.retrieval.config import Generator, PoolConfig
from anmi_pipeline.retrieval.fusion import min_max, rrf
from anmi_pipeline.tables import GENERATORS, POOL, RETRIEVERS, RUN

KEY = ["query_id", "doc_id"]
SIZES = (50, 100, 200, 400)


def build_pool(runs: Mapping[str, pl.DataFrame], config: PoolConfig, extra_documents: pl.DataFrame | None = None) -> pl.DataFrame:
    """Make the candidate pool of every query from its runs.

    Generators: G1 `dense`: the dense run. G2 `sparse`: the sparse run; a query without one takes the lexical run instead. G3
    `recall`: all runs interleaved round-robin, in the order lexical, dense, sparse, late interaction. G4 `rrf`: reciprocal rank
    fusion of all runs. G5 `weighted`: min-max weighted sum of all runs. A pool of size s is the first s documents of a generator,
    so smaller pools are prefixes of larger ones. Each query's rows depend on its own lists alone.

    Args:
        runs: retriever name -> RUN frame; empty frames stand for retrievers that are not configured.
        config: depth, fusion constant and weights.
        extra_documents: (query_id, doc_id) documents that belong to the pool though no run lists them, such as those that a
            recorded judge compared; their ranks are null where no run lists them.

    Returns:
        POOL frame: one row per (query, document) of any run's or generator's first `depth`, or of `extra_documents`.

    Raises:
        InputError: a name that is no retriever.
    """
    for name in runs:
        if name not in RETRIEVERS:
            raise InputError(f'"{name}" is no retriever.{nearest(name, RETRIEVERS)}')
    given = {name: runs[name] for name in RETRIEVERS if name in runs}
    parts = {**_retriever_columns(given), **_generator_columns(given, config)}
    kept = [part for part in parts.values() if part.height] + ([extra_documents] if extra_documents is not None else [])
    if not kept:
        return POOL.frame()
    pool = pl.concat([part.select(KEY) for part in kept]).unique().sort(KEY)
    for part in parts.values():
        pool = pool.join(part, on=KEY, how="left")
    if extra_documents is None:
        listed = pl.any_horizontal(pl.col(f"{generator}_pool_rank").is_not_null() for generator in GENERATORS)
        return POOL.frame(pool.filter(listed))
    return POOL.frame(pool)


def _retriever_columns(runs: Mapping[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    columns = {name: runs.get(name, RUN.frame()) for name in RETRIEVERS}
    return {
        f"{name}_run": run.select(*KEY, pl.col("rank").alias(f"{name}_rank"), pl.col("score").alias(f"{name}_score"))
        for name, run in columns.items()
    }


def _generator_columns(runs: Mapping[str, pl.DataFrame], config: PoolConfig) -> dict[str, pl.DataFrame]:
    present = {name: run for name, run in runs.items() if run.height}
    if not present:
        return {name: _pool_columns(RUN.frame(), name, scored=name in ("rrf", "weighted")) for name in GENERATORS}
    weights: Mapping[str, float] = {str(name): weight for name, weight in config.weights.items()}
    fused = {
        "dense": runs.get("dense", RUN.frame()),
        "sparse": _sparse_or_lexical(runs),
        "recall": interleave(list(present.values())),
        "rrf": rrf(list(present.values()), config.rrf_k, config.depth),
        "weighted": min_max(list(present.values()), [weights.get(name, 0.0) for name in present], config.depth),
    }
    return {
        name: _pool_columns(run.filter(pl.col("rank") <= config.depth), name, scored=name in ("rrf", "weighted"))
        for name, run in fused.items()
    }


def _pool_columns(run: pl.DataFrame, generator: str, *, scored: bool) -> pl.DataFrame:
    score = [pl.col("score").alias(f"{generator}_pool_score")] if scored else []
    return run.select(*KEY, pl.col("rank").alias(f"{generator}_pool_rank"), *score)


def _sparse_or_lexical(runs: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    sparse, lexical = runs.get("sparse", RUN.frame()), runs.get("lexical", RUN.frame())
    # Decided query by query, so that one query's pool does not depend on which others are there.
    return pl.concat([sparse, lexical.join(sparse.select("query_id").unique(), on="query_id", how="anti")])


def interleave(runs: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Round-robin interleaving: the first of every run, then the second of every run, each document once.

    Args:
        runs: RUN frames; in each round they are taken in this order.

    Returns:
        RUN frame; the score is 1 / rank.
    """
    turns = pl.concat(
        [run.select(*KEY, turn=pl.col("rank") * len(runs) + number) for number, run in enumerate(runs)]
        or [RUN.frame().select(*KEY, turn="rank")]
    )
    first = turns.group_by(KEY).agg(pl.col("turn").min()).sort("query_id", "turn")
    ranked = first.with_columns(rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int64).over("query_id"))
    return RUN.frame(ranked.with_columns(score=1 / pl.col("rank")))


def pool_documents(pool: pl.DataFrame, generator: Generator, size: int) -> pl.DataFrame:
    """The first documents of one generator.

    Args:
        pool: POOL frame.
        generator: dense, sparse, recall, rrf or weighted.
        size: documents per query at most; beyond the depth the pool was built with there are no more.

    Returns:
        RUN frame; the score is the generator's own (the retriever's for dense and sparse, 1 / rank for recall).

    Raises:
        InputError: no such generator.
    """
    scores = {
        "dense": pl.col("dense_score"),
        "sparse": pl.coalesce("sparse_score", "lexical_score"),
        "recall": 1 / pl.col("recall_pool_rank"),
        "rrf": pl.col("rrf_pool_score"),
        "weighted": pl.col("weighted_pool_score"),
    }
    if generator not in scores:
        raise InputError(f'"{generator}" is no candidate generator.{nearest(generator, GENERATORS)}')
    rank = pl.col(f"{generator}_pool_rank")
    return RUN.frame(pool.filter(rank <= size).select(*KEY, rank=rank, score=scores[generator]))


def coverage(pool: pl.DataFrame, queries: pl.DataFrame) -> list[str]:
    """Ids of the queries that have no candidate, sorted; empty when every query has one."""
    return queries.join(pool.select("query_id").unique(), on="query_id", how="anti")["query_id"].sort().to_list()


def pool_recall(pool: pl.DataFrame, qrels: pl.DataFrame, sizes: Sequence[int] = SIZES) -> pl.DataFrame:
    """Share of the relevant documents that each generator's pool holds.

    Args:
        pool: POOL frame.
        qrels: QRELS frame; grades above 0 are relevant. Queries that the pool lacks count 0.
        sizes: pool sizes.

    Returns:
        Frame generator, size, recall (mean over queries with a relevant document), n_queries.
    """
    relevant = qrels.filter(pl.col("grade") > 0).select(KEY)
    ranks = relevant.join(pool, on=KEY, how="left")
    rows: list[dict[str, object]] = []
    for generator in GENERATORS:
        for size in sizes:
            hit = (pl.col(f"{generator}_pool_rank") <= size).fill_null(value=False)
            shares = ranks.group_by("query_id").agg(share=hit.mean()).sort("query_id")
            rows.append({"generator": generator, "size": size, "recall": shares["share"].mean(), "n_queries": shares.height})
    schema = {"generator": pl.String(), "size": pl.Int64(), "recall": pl.Float64(), "n_queries": pl.Int64()}
    return pl.DataFrame(rows, schema=schema)
