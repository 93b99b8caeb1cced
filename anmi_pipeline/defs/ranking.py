"""How a recipe ranks the evaluation queries from stored runs, vectors and checkpoints.

Belongs here: choosing what each kind of recipe needs. Does not: the scoring itself (`retrieval/`, `reranking/`, `training/`).
"""

from pathlib import Path

import numpy as np
import polars as pl

from anmi_pipeline import tables
from anmi_pipeline.defs.building import EMPTY, Bench, Work, split_parts
from anmi_pipeline.defs.embeddings import VECTORS, base_vectors, encoder_of, loaded, query_table, query_vectors
from anmi_pipeline.defs.index import seed_folder
from anmi_pipeline.evaluation.tuning import with_tail
from anmi_pipeline.reranking.cross_encoder import load_cross_encoder, score_pools
from anmi_pipeline.reranking.features import score_features
from anmi_pipeline.retrieval.ann import load_index, search_index
from anmi_pipeline.retrieval.dense import search
from anmi_pipeline.retrieval.fusion import min_max, rrf
from anmi_pipeline.retrieval.lexical import document_texts
from anmi_pipeline.retrieval.pool import pool_documents
from anmi_pipeline.retrieval.runs import read_groups
from anmi_pipeline.store import Content
from anmi_pipeline.training.checkpoints import load_retriever
from anmi_pipeline.training.config import CrossEncoderConfig

EVALUATED = tuple(split for split in tables.SPLITS if split != "train")


def rank(bench: Bench, work: Work) -> Content:
    """Rank every evaluation query with every seed of the recipe."""
    recipe = bench.recipe
    reason = work.inputs["checkpoint"].artifact.facts.get(EMPTY)
    if recipe.trained and reason is not None:
        nothing = split_parts(tables.SCORES, tables.SCORES.frame(), work.table("queries", tables.QUERIES))
        return Content((nothing,), facts={EMPTY: str(reason)})
    frames = [one_seed(bench, work, seed).with_columns(seed=pl.lit(seed, dtype=pl.Int64)) for seed in recipe.seeds]
    ranked = pl.concat(frames).filter(pl.col("rank") <= bench.dataset.evaluation.depth)
    queries = work.table("queries", tables.QUERIES)
    return Content(
        (split_parts(tables.SCORES, tables.SCORES.frame(ranked), queries),), facts={"systems_seeds": len(recipe.seeds)}
    )


def one_seed(bench: Bench, work: Work, seed: int) -> pl.DataFrame:
    """Ranking of one seed: a RUN frame."""
    recipe = bench.recipe
    if recipe.kind == "retriever":
        return retrieve(bench, work, seed)
    if recipe.kind == "reranker":
        return rerank(bench, work, seed)
    lexical, depth = work.table("lexical_run", tables.RUN), bench.dataset.evaluation.depth
    match recipe.method:
        case "lexical":
            return lexical
        case "encoder":
            return retrieve(bench, work, seed)
        case "rrf":
            return rrf([lexical, encoder_run(bench, work)], k=recipe.inference.rrf_k, depth=depth)
        case _:
            weight = recipe.inference.lexical_weight
            return min_max([lexical, encoder_run(bench, work)], [weight, 1 - weight], depth=depth)


def encoder_run(bench: Bench, work: Work) -> pl.DataFrame:
    """Ranking by the base encoder: the dataset's dense run, unless the recipe has an encoder of its own."""
    dense = bench.dataset.retrieval.dense
    if dense.recorded is not None or encoder_of(bench) == dense.encoder:
        return work.table("dense_run", tables.RUN)
    corpus, queries = work.table("corpus", tables.CORPUS), query_table(bench, EVALUATED)
    vectors = query_vectors(bench, encoder_of(bench), EVALUATED)
    groups = read_groups(corpus, queries, bench.dataset.scope)
    documents = base_vectors(bench, encoder_of(bench), "corpus")
    depth = bench.dataset.evaluation.depth
    return search(documents, corpus["doc_id"].to_list(), vectors, queries["query_id"].to_list(), depth, groups)


def retrieve(bench: Bench, work: Work, seed: int) -> pl.DataFrame:
    """Ranking by a retriever's own vectors."""
    queries, config = query_table(bench, EVALUATED), encoder_of(bench)
    vectors = query_vectors(bench, config, EVALUATED)
    if bench.recipe.trained:
        model = load_retriever(seed_folder(work.local("checkpoint"), seed), loaded(config))
        vectors = model.embed(queries["text"].to_list(), "query", vectors, work.progress)
    depth = bench.dataset.evaluation.depth
    corpus = work.table("corpus", tables.CORPUS)
    groups = read_groups(corpus, queries, bench.dataset.scope)
    if groups is not None:
        # An index cannot look inside one group only.
        documents = np.load(seed_folder(work.local("corpus_embeddings"), seed) / VECTORS)
        return search(documents, corpus["doc_id"].to_list(), vectors, queries["query_id"].to_list(), depth, groups)
    index = load_index(seed_folder(work.local("ann_index"), seed))
    return search_index(index, vectors, queries["query_id"].to_list(), depth)


def rerank(bench: Bench, work: Work, seed: int) -> pl.DataFrame:
    """Ranking by a reranker: the scored pool first, then the rest of the generator's list in its order."""
    inference = bench.recipe.inference
    pool = work.table("candidate_pool", tables.POOL)
    chosen = pool_documents(pool, inference.generator, inference.pool_size).select("query_id", "doc_id")
    scored = pool_scores(bench, work, seed_folder(work.local("checkpoint"), seed), pool.join(chosen, on=["query_id", "doc_id"]))
    return with_tail(scored, pool_documents(pool, inference.generator, bench.dataset.evaluation.depth))


def pool_scores(bench: Bench, work: Work, folder: Path, pool: pl.DataFrame) -> pl.DataFrame:
    """Score a pool with the recipe's checkpoint: query_id, doc_id, rank, score."""
    training = bench.recipe.training
    if not isinstance(training, CrossEncoderConfig):
        return score_features(folder, pool)
    corpus, queries = work.table("corpus", tables.CORPUS), work.table("queries", tables.QUERIES)
    texts = dict(zip(corpus["doc_id"], document_texts(corpus), strict=True))
    asked = dict(zip(queries["query_id"], queries["text"], strict=True))
    encoder = load_cross_encoder(str(folder / "encoder"), training.max_tokens)
    return score_pools(encoder, pool, asked, texts, progress=work.progress)
