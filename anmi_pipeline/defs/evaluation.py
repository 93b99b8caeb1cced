"""Group `evaluation`: scores, tuned inference settings, leaderboard and lineage report.

Belongs here: the assets of evaluation. Does not: ranking (`defs/ranking.py`), measuring and tuning (`evaluation/`).
"""

from functools import partial
from typing import cast

import dagster as dg
import polars as pl

from anmi_pipeline import tables
from anmi_pipeline.defs.building import EMPTY, Bench, Read, Result, Work, split_parts
from anmi_pipeline.defs.declaring import dataset_asset, system_asset
from anmi_pipeline.defs.embeddings import encoder_of, encoder_settings
from anmi_pipeline.defs.op_tags import CPU_POOL, CPU_TAGS, GPU_POOL, GPU_TAGS
from anmi_pipeline.defs.ranking import EVALUATED, rank
from anmi_pipeline.defs.rating import write_plots
from anmi_pipeline.defs.training import empty
from anmi_pipeline.defs.workspace import Workspace
from anmi_pipeline.digests import Json
from anmi_pipeline.evaluation.leaderboard import Leaderboard, SystemResult
from anmi_pipeline.evaluation.leaderboard import leaderboard as compare
from anmi_pipeline.evaluation.plots import leaderboard_plot
from anmi_pipeline.evaluation.presentation import winner
from anmi_pipeline.evaluation.tuning import tuned_system as tune
from anmi_pipeline.lineage import Node, lineage
from anmi_pipeline.records import Record
from anmi_pipeline.retrieval.pool import pool_documents
from anmi_pipeline.store import Content, Table

HAVE_LEXICAL = ("lexical", "rrf", "min_max")


@system_asset(
    "evaluation",
    {"pytorch", "faiss"},
    reads=("corpus", "queries", "lexical_run", "dense_run", "candidate_pool", "checkpoint", "corpus_embeddings", "ann_index"),
    pool=GPU_POOL,
    op_tags=GPU_TAGS,
)
def scores(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> Result:
    """Ranking of every evaluation query by a system at its fixed inference settings, per seed, in parts by split."""
    bench = Bench(context, workspace)
    recipe, dataset = bench.recipe, bench.dataset
    runs = (Read("lexical_run", EVALUATED), Read("dense_run", EVALUATED), Read("candidate_pool", EVALUATED))
    reads = (Read("corpus"), Read("queries", EVALUATED), *runs, Read("checkpoint"), Read("ann_index"), Read("corpus_embeddings"))
    settings: dict[str, Json] = {
        "kind": recipe.kind,
        "method": recipe.method,
        "inference": cast("Json", recipe.inference.model_dump(mode="json")),
        "depth": dataset.evaluation.depth,
        "scope": dataset.scope,
    }
    if recipe.method != "lexical" and dataset.retrieval.dense.recorded is None:
        settings |= encoder_settings(encoder_of(bench))
    return bench.build(partial(rank, bench), config=settings, reads=reads, seeds=recipe.seeds, pool=GPU_POOL)


@system_asset(
    "evaluation",
    {"polars"},
    reads=("scores", "lexical_run", "candidate_pool", "queries", "qrels"),
    pool=CPU_POOL,
    op_tags=CPU_TAGS,
)
def tuned_system(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> Result:
    """Inference settings of a system chosen on dev_select and confirmed on dev_final, with the rankings they give."""
    bench = Bench(context, workspace)
    config, grid, recipe = bench.dataset.evaluation, bench.dataset.tuning, bench.recipe

    def compute(work: Work) -> Content:
        reason = work.inputs["scores"].artifact.facts.get(EMPTY)
        if reason is not None:
            return empty(str(reason), tables.TRIALS)
        found = work.table("scores", tables.SCORES)
        queries = work.table("queries", tables.QUERIES)
        pool = lexical = None
        if recipe.kind == "reranker":
            pool = pool_documents(work.table("candidate_pool", tables.POOL), recipe.inference.generator, config.depth)
        elif recipe.method not in HAVE_LEXICAL:
            lexical = work.table("lexical_run", tables.RUN)
        qrels = work.table("qrels", tables.QRELS)
        tuned = tune(found, qrels, queries, config, grid, lexical=lexical, pool=pool, progress=work.progress)
        facts: dict[str, Json] = {"settings": tuned.settings.model_dump(mode="json"), "reason": tuned.reason}
        return Content((Table.whole(tables.TRIALS, tuned.trials), split_parts(tables.SCORES, tuned.scores, queries)), facts=facts)

    reads = [Read(name, EVALUATED) for name in ("scores", "lexical_run", "candidate_pool", "queries", "qrels")]
    settings = {"evaluation": cast("Json", config.model_dump(mode="json")), "grid": cast("Json", grid.model_dump(mode="json"))}
    settings |= {"kind": recipe.kind, "method": recipe.method, "generator": recipe.inference.generator}
    return bench.build(compute, config=settings, reads=reads, pool=CPU_POOL)


def systems_of(bench: Bench) -> list[tuple[str, str]]:
    """(dataset, recipe) of every materialised system that belongs on the board: this dataset's and those of `compare_with`."""
    found = [tuple(partition.split("|")) for asset, partition in bench.workspace.records.refs() if asset == "tuned_system"]
    wanted = {bench.key.dataset, *bench.dataset.compare_with}
    systems = sorted((dataset, recipe) for dataset, recipe in found if dataset in wanted)
    return [system for system in systems if built(bench, *system)]


def built(bench: Bench, dataset: str, recipe: str) -> bool:
    """Whether a system was built, and not left empty because nobody asked for it."""
    record = bench.workspace.records.current("tuned_system", f"{dataset}|{recipe}")
    return record is not None and record.config != {"listed": False}


@dataset_asset(
    "evaluation",
    {"polars", "matplotlib"},
    reads=("queries", "qrels", "scores", "tuned_system", "checkpoint"),
    pool=CPU_POOL,
    op_tags=CPU_TAGS,
)
def leaderboard(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> Result:
    """Systems with metrics, intervals, rank groups and paired contrasts; the placebo beside them as the control."""
    bench = Bench(context, workspace)
    systems = systems_of(bench)
    reads = [Read("queries", EVALUATED), Read("qrels", EVALUATED)]
    for dataset, recipe in systems:
        reads += [Read(asset, None, f"{dataset}|{recipe}") for asset in ("scores", "tuned_system", "checkpoint")]
    absent = sorted(set(bench.dataset.recipes) - {recipe for dataset, recipe in systems if dataset == bench.key.dataset})
    settings: dict[str, Json] = {
        "evaluation": cast("Json", bench.dataset.evaluation.model_dump(mode="json")),
        "labels": bench.dataset.labels,
        "absent_recipes": absent,
    }
    return bench.build(partial(board, systems, absent), config=settings, reads=reads, pool=CPU_POOL)


def board(systems: list[tuple[str, str]], absent: list[str], work: Work) -> Content:
    """Measure every system and compare them."""
    bench = work.bench
    results = [result for dataset, recipe in systems if (result := system_result(work, dataset, recipe)) is not None]
    config = bench.dataset.evaluation
    made = compare(results, work.table("qrels", tables.QRELS), work.table("queries", tables.QUERIES), config, work.progress)
    best = winner(made, max_false_evidence=config.max_false_evidence)
    facts: dict[str, Json] = {"winner": best.system, "variant": best.variant, "why": best.reason, "absent_recipes": absent}
    facts |= {"systems": list(made.systems), "no_labels": made.reason}
    named = ((tables.METRICS, made.metrics), (tables.PER_QUERY, made.per_query), (tables.CONTRASTS, made.contrasts))
    shown = tuple(Table.whole(spec, frame) for spec, frame in named)
    return Content(shown, work.folder, write_plots(work, board_plots(made)), facts)


def board_plots(made: Leaderboard) -> dict[str, bytes]:
    """The board of every query set as a picture."""
    sets = made.metrics["split"].unique().sort().to_list()
    return {f"leaderboard_{name.replace('+', '_')}": leaderboard_plot(made.metrics, name) for name in sets}


def system_result(work: Work, dataset: str, recipe: str) -> SystemResult | None:
    """One system as the board needs it; None when it has no ranking (nothing to train on)."""
    bench, suffix = work.bench, f"@{dataset}|{recipe}"
    found, tuned, trained = (work.inputs[f"{asset}{suffix}"] for asset in ("scores", "tuned_system", "checkpoint"))
    if EMPTY in found.artifact.facts:
        work.log.warning(f"{recipe} of {dataset} is not on the board: {found.artifact.facts[EMPTY]}")
        return None
    own = dataset == bench.key.dataset
    config = bench.workspace.dataset(dataset)
    return SystemResult(
        system=recipe if own else f"{recipe}@{dataset}",
        dataset=dataset,
        recipe=recipe,
        labels=config.labels,
        raw=found.table(tables.SCORES),
        tuned=tuned.table(tables.SCORES),
        checkpoint=None if EMPTY in trained.artifact.facts else trained.artifact.digest,
        elo_table=cast("str | None", trained.artifact.facts.get("elo_table_version")),
        seeds=bench.workspace.recipe(recipe, config).seeds,
    )


@dataset_asset("evaluation", {"polars"}, reads=("leaderboard",), code_version=2)
def lineage_report(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> Result:
    """Which Elo table, verdicts and candidates stand behind every model on the board."""
    return Bench(context, workspace).build(trace, config={}, reads=(Read("leaderboard"),))


def trace(work: Work) -> Content:
    """Walk the records from every checkpoint of the board down to the corpus."""
    records = work.bench.workspace.records
    rows: list[dict[str, object]] = []
    for name, upstream in sorted(work.inputs["leaderboard"].record.upstream.items()):
        if not name.startswith("checkpoint@"):
            continue
        record = records.parent(name, upstream)
        if record is not None and record.upstream:
            system = name.split("|", maxsplit=1)[1]
            rows += [lineage_row(system, node) for node in lineage(records, record).walk() if node.record is not None]
    traced = pl.DataFrame(rows, infer_schema_length=None).unique(["system", "artifact", "digest"]) if rows else None
    return Content((Table.whole(tables.LINEAGE, tables.LINEAGE.frame(traced)),)) if rows else empty("no model", tables.LINEAGE)


def lineage_row(system: str, node: Node) -> dict[str, object]:
    """One ancestor of a model."""
    record = cast("Record", node.record)
    config = cast("dict[str, dict[str, list[dict[str, str]]]]", record.config)
    judges = [judge["name"] for judge in config["judging"]["judges"]] if node.name == "pairwise_judgments" else []
    return {
        "system": system,
        "artifact": node.name,
        "digest": node.digest,
        "built_for": record.partition,
        "rows": sum(record.rows.values()) if record.rows else None,
        "judges": ", ".join(judges) or None,
        "cost_usd": record.notes.get("cost_usd"),
        "created_at": record.created_at,
    }
