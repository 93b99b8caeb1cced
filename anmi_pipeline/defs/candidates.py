"""Group `candidates`: first-stage runs and the candidate pool.

Belongs here: the assets of retrieval. Does not: retrieving (`retrieval/`).
"""

import hashlib
from typing import cast

import dagster as dg
import polars as pl

from anmi_pipeline import tables
from anmi_pipeline.defs.building import EMPTY, Bench, Read, Result, Work, split_parts
from anmi_pipeline.defs.declaring import dataset_asset
from anmi_pipeline.defs.embeddings import base_vectors, encoder_settings, query_table, query_vectors
from anmi_pipeline.defs.op_tags import GPU_POOL, GPU_TAGS
from anmi_pipeline.defs.reporting import warn
from anmi_pipeline.defs.workspace import Workspace
from anmi_pipeline.digests import Json
from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.recorded import judge_inputs, recorded_documents
from anmi_pipeline.retrieval.config import RecordedRunConfig
from anmi_pipeline.retrieval.dense import search
from anmi_pipeline.retrieval.late_interaction import late_interaction_run as late_interaction
from anmi_pipeline.retrieval.lexical import lexical_run as bm25
from anmi_pipeline.retrieval.pool import build_pool, coverage
from anmi_pipeline.retrieval.runs import read_groups, recorded_run
from anmi_pipeline.retrieval.sparse import sparse_run as sparse
from anmi_pipeline.store import Content

COLLECTION = (Read("corpus"), Read("queries", tables.SPLITS))
SHOWN = 5


def run_content(work: Work, run: pl.DataFrame, reason: str = "") -> Content:
    """A run in parts by split; why it is empty, when it is."""
    facts: dict[str, Json] = {"queries": run["query_id"].n_unique()}
    if reason:
        facts[EMPTY] = reason
    return Content(tables=(split_parts(tables.RUN, run, work.table("queries", tables.QUERIES)),), facts=facts)


def run_file(bench: Bench, path: str | None) -> dict[str, Json]:
    """Digest of a recorded run file, when one is given."""
    if path is None:
        return {}
    file = (bench.workspace.settings.data or bench.workspace.settings.home) / path
    if not file.is_file():
        raise InputError(f"recorded run {file} does not exist. Set ANMI_DATA to the folder that {path} starts from.")
    return {"run_file": hashlib.sha256(file.read_bytes()).hexdigest()}


@dataset_asset("candidates", {"bm25", "parquet"}, reads=("corpus", "queries"))
def lexical_run(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> Result:
    """BM25 ranking of the corpus for every query, in parts by split."""
    bench = Bench(context, workspace)
    config, scope, data = bench.dataset.retrieval.lexical, bench.dataset.scope, workspace.settings.data

    def compute(work: Work) -> Content:
        corpus, queries = work.table("corpus", tables.CORPUS), work.table("queries", tables.QUERIES)
        if config.recorded is not None:
            return run_content(work, recorded_run(config.recorded, queries, corpus, depth=config.depth, data_root=data))
        return run_content(work, bm25(corpus, queries, config, scope=scope, progress=work.progress))

    settings = {"lexical": cast("Json", config.model_dump(mode="json")), "scope": scope}
    return bench.build(compute, config=settings | run_file(bench, config.recorded), reads=COLLECTION)


@dataset_asset("candidates", {"pytorch", "faiss"}, reads=("corpus", "queries"), pool=GPU_POOL, op_tags=GPU_TAGS)
def dense_run(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> Result:
    """Exact nearest neighbours of every query under the dataset's bi-encoder, in parts by split."""
    bench = Bench(context, workspace)
    config, scope, data = bench.dataset.retrieval.dense, bench.dataset.scope, workspace.settings.data

    def compute(work: Work) -> Content:
        corpus, queries = work.table("corpus", tables.CORPUS), query_table(bench, tables.SPLITS)
        if config.recorded is not None:
            return run_content(work, recorded_run(config.recorded, queries, corpus, depth=config.depth, data_root=data))
        documents = base_vectors(bench, config.encoder, "corpus")
        vectors, ids = query_vectors(bench, config.encoder, tables.SPLITS), queries["query_id"].to_list()
        groups = read_groups(corpus, queries, scope)
        return run_content(work, search(documents, corpus["doc_id"].to_list(), vectors, ids, config.depth, groups))

    settings: dict[str, Json] = {"depth": config.depth, "scope": scope} | run_file(bench, config.recorded)
    if config.recorded is None:
        settings |= encoder_settings(config.encoder)
    return bench.build(compute, config=settings, reads=COLLECTION, pool=GPU_POOL)


def optional_settings(bench: Bench, config: RecordedRunConfig | None) -> dict[str, Json]:
    """Settings of a retriever that a dataset may leave out."""
    return {"depth": config.depth} | run_file(bench, config.recorded) if config is not None else {}


@dataset_asset("candidates", {"parquet"}, reads=("corpus", "queries"))
def sparse_run(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> Result:
    """Ranking of a learned sparse retriever; empty, with the reason, where none is configured."""
    bench = Bench(context, workspace)
    config = bench.dataset.retrieval.sparse

    def compute(work: Work) -> Content:
        corpus, queries = work.table("corpus", tables.CORPUS), work.table("queries", tables.QUERIES)
        made = sparse(corpus, queries, config, data_root=workspace.settings.data)
        return run_content(work, made.run, made.reason)

    return bench.build(compute, config=optional_settings(bench, config), reads=COLLECTION)


@dataset_asset("candidates", {"parquet"}, reads=("corpus", "queries"))
def late_interaction_run(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> Result:
    """Ranking of a late-interaction retriever; empty, with the reason, where none is configured."""
    bench = Bench(context, workspace)
    config = bench.dataset.retrieval.late_interaction

    def compute(work: Work) -> Content:
        corpus, queries = work.table("corpus", tables.CORPUS), work.table("queries", tables.QUERIES)
        made = late_interaction(corpus, queries, config, data_root=workspace.settings.data)
        return run_content(work, made.run, made.reason)

    return bench.build(compute, config=optional_settings(bench, config), reads=COLLECTION)


def remark(work: Work, query_ids: list[str], problem: str) -> None:
    """Name queries that the later stages can do little with."""
    if query_ids:
        warn(work.log, f"{len(query_ids)} of the queries ({', '.join(query_ids[:SHOWN])}) have {problem}.")


RUNS = tuple(f"{retriever}_run" for retriever in tables.RETRIEVERS)


@dataset_asset("candidates", {"polars", "parquet"}, reads=("queries", *RUNS), code_version=2)
def candidate_pool(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> Result:
    """Documents of each query that may be compared, trained on and reranked, with each retriever's rank (generators G1..G5)."""
    bench = Bench(context, workspace)
    config, judging, data = bench.dataset.retrieval.pool, bench.dataset.judging, workspace.settings.data

    def compute(work: Work) -> Content:
        runs = {retriever: work.table(f"{retriever}_run", tables.RUN) for retriever in tables.RETRIEVERS}
        queries = work.table("queries", tables.QUERIES)
        extra = recorded_documents(judging, data) if judging.recorded else None
        pool = build_pool(runs, config, extra_documents=extra)
        without = coverage(pool, queries)
        alone = pool.group_by("query_id").len().filter(pl.col("len") == 1)["query_id"].sort().to_list()
        remark(work, without, "no candidate: they find nothing and are never judged. Check their text and the retrievers")
        remark(work, alone, "one candidate only: there is nothing to compare it with, so they are never judged")
        facts: dict[str, Json] = {"queries_without_candidates": len(without), "first_without_candidates": without[:SHOWN]}
        facts |= {"queries_with_one_candidate": len(alone), "first_with_one_candidate": alone[:SHOWN]}
        return Content(tables=(split_parts(tables.POOL, pool, queries),), facts=facts)

    settings: dict[str, Json] = {"pool": cast("Json", config.model_dump(mode="json")), "judged": judge_inputs(judging, data)}
    reads = (Read("queries", tables.SPLITS), *(Read(run, tables.SPLITS) for run in RUNS))
    return bench.build(compute, config=settings, reads=reads)
