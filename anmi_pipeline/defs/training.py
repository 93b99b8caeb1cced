"""Group `training`: the training set, the checkpoint and the student.

Belongs here: the assets of training. Does not: mining and training (`mining/`, `training/`).
"""

from collections.abc import Mapping
from typing import cast

import dagster as dg
import polars as pl

from anmi_pipeline import tables
from anmi_pipeline.defs.building import EMPTY, Bench, Read, Result, Work
from anmi_pipeline.defs.declaring import system_asset
from anmi_pipeline.defs.embeddings import base_vectors, encoder_of, encoder_settings
from anmi_pipeline.defs.op_tags import GPU_POOL, GPU_TAGS
from anmi_pipeline.defs.rating import write_plots
from anmi_pipeline.defs.workspace import Workspace
from anmi_pipeline.digests import Json
from anmi_pipeline.evaluation.plots import training_curves
from anmi_pipeline.mining.curriculum import compile_lists, curriculum_table, steps_per_epoch, unusable_reason
from anmi_pipeline.mining.selection import training_set as select
from anmi_pipeline.retrieval.lexical import document_texts
from anmi_pipeline.store import Content, Table
from anmi_pipeline.table_specs import TableSpec
from anmi_pipeline.tracking import TrackedRun
from anmi_pipeline.training.config import FeaturesConfig, ListTraining
from anmi_pipeline.training.report import TrainingReport
from anmi_pipeline.training.trainers import Embedded, TrainingInputs, train_system

TRAIN = ("train",)


def empty(reason: str, *specs: TableSpec) -> Content:
    """An artifact that does not apply: skipping it would skip everything downstream, so it is there and says why it is empty."""
    return Content(tuple(Table.whole(spec, spec.frame()) for spec in specs), facts={EMPTY: reason})


@system_asset("training", {"polars", "parquet"}, reads=("elo_table", "candidate_pool"))
def training_set(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> Result:
    """Training lists of a recipe: role, Elo, gap, weight, tier and reason of every document, and the curriculum's index lists."""
    bench = Bench(context, workspace)
    recipe = bench.recipe
    if not recipe.trained:
        reason = f"recipe {recipe.name} is untrained"
        return bench.build(lambda _: empty(reason, tables.TRAINING_SET, tables.CURRICULUM), config={"trained": False})
    settings = {"mining": cast("Json", recipe.mining.model_dump(mode="json")), "curriculum": curriculum_settings(bench)}
    reads = (Read("elo_table"), Read("candidate_pool", TRAIN))
    return bench.build(mine, config=settings, reads=reads, seeds=recipe.seeds)


def curriculum_settings(bench: Bench) -> dict[str, Json]:
    """What the index lists of the epochs depend on."""
    training = bench.recipe.training
    if not isinstance(training, ListTraining):
        return {}
    kept = {"curriculum", "steps", "batch_queries", "list_size"}
    return cast("dict[str, Json]", training.model_dump(mode="json", include=kept))


def mine(work: Work) -> Content:
    """Choose positives and negatives, and materialise the curriculum."""
    recipe = work.bench.recipe
    pool = work.table("candidate_pool", tables.POOL)
    # Judged evaluation queries (a recorded judge may have some) are never trained on.
    elo = work.table("elo_table", tables.ELO).join(pool.select("query_id").unique(), on="query_id", how="semi")
    chosen = select(elo, pool, recipe.mining)
    usable = chosen.filter(pl.col("role") == "positive")["query_id"].n_unique()
    facts: dict[str, Json] = {"queries": chosen["query_id"].n_unique(), "usable_queries": usable, "labels": recipe.mining.labels}
    if not usable:
        facts[EMPTY] = unusable_reason(chosen)
    training = recipe.training
    schedule = tables.CURRICULUM.frame()
    if usable and isinstance(training, ListTraining):
        lists = compile_lists(chosen)
        epochs = -(-training.steps // steps_per_epoch(len(lists.query_ids), training.batch_queries))
        schedule = curriculum_table(lists, training.list_size, training.curriculum, epochs, recipe.seeds)
    counts = chosen.group_by("role").len().sort("role")
    facts["roles"] = cast("Json", dict(counts.iter_rows()))
    return Content((Table.whole(tables.TRAINING_SET, chosen), Table.whole(tables.CURRICULUM, schedule)), facts=facts)


@system_asset(
    "training",
    {"pytorch", "mlflow"},
    reads=("training_set", "corpus", "queries", "candidate_pool"),
    pool=GPU_POOL,
    op_tags=GPU_TAGS,
)
def checkpoint(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> Result:
    """Trained weights of a recipe, one folder per seed, with the Elo table they were trained on in the metadata."""
    bench = Bench(context, workspace)
    recipe = bench.recipe
    if recipe.training is None:
        return bench.build(lambda _: empty(f"recipe {recipe.name} is untrained"), config={"trained": False})
    reads = (Read("training_set"), Read("corpus"), Read("queries", TRAIN), Read("candidate_pool", TRAIN))
    settings: dict[str, Json] = {"training": cast("Json", recipe.training.model_dump(mode="json"))}
    if not isinstance(recipe.training, FeaturesConfig):
        settings |= encoder_settings(encoder_of(bench))
    return bench.build(train, config=settings, reads=reads, seeds=recipe.seeds, pool=GPU_POOL)


def train(work: Work) -> Content:
    """Train every seed and log the training to MLflow."""
    bench, recipe = work.bench, work.bench.recipe
    reason = work.inputs["training_set"].artifact.facts.get(EMPTY)
    if reason is not None or recipe.training is None:
        return empty(f"nothing to train on: {reason}")
    given = training_inputs(work)
    elo = work.inputs["training_set"].record.upstream["elo_table"].digest
    tags = {"anmi.elo_version": elo, "anmi.recipe": recipe.name, "anmi.dataset": bench.dataset.name}
    reports: dict[int, TrainingReport] = {}
    with work.track("training", recipe.model_dump(mode="json"), tags) as tracked:
        for seed in recipe.seeds:
            # By build key, so that a killed training is taken up by the same training only.
            state = bench.workspace.settings.home / "training" / work.build_key / str(seed)
            folder = work.folder / f"seed-{seed}"
            reports[seed] = train_system(given, recipe.training, seed, folder, work.progress, state_folder=state)
        tracked.log_folder(work.folder, "checkpoint")
        plots = {f"training_seed_{seed}": training_curves(made.metrics) for seed, made in reports.items() if made.metrics}
        log_training(tracked, reports, plots)
    facts: dict[str, Json] = {"elo_table_version": elo, "training_set_version": work.inputs["training_set"].artifact.digest}
    return Content((), work.folder, write_plots(work, plots), facts, training_notes(reports))


def training_inputs(work: Work) -> TrainingInputs:
    """What the trainers of this recipe may read."""
    bench, recipe = work.bench, work.bench.recipe
    corpus, queries = work.table("corpus", tables.CORPUS), work.table("queries", tables.QUERIES)
    config = encoder_of(bench)
    doc_ids, query_ids = corpus["doc_id"].to_list(), queries["query_id"].to_list()
    documents = asked = None
    if recipe.kind == "retriever":
        documents = Embedded(doc_ids, base_vectors(bench, config, "corpus"))
        asked = Embedded(query_ids, base_vectors(bench, config, "queries", "train"))
    return TrainingInputs(
        training_set=work.table("training_set", tables.TRAINING_SET),
        pool=work.table("candidate_pool", tables.POOL),
        documents=documents,
        queries=asked,
        document_texts=dict(zip(doc_ids, document_texts(corpus), strict=True)),
        query_texts=dict(zip(query_ids, queries["text"].to_list(), strict=True)),
        encoder=config,
    )


def log_training(tracked: TrackedRun, reports: Mapping[int, TrainingReport], plots: Mapping[str, bytes]) -> None:
    """Metrics per step and seed, and the curves."""
    for seed, made in reports.items():
        tracked.log_steps(made.metrics, prefix=f"seed_{seed}.")
        tracked.log_metrics({f"seed_{seed}.seconds": made.seconds, f"seed_{seed}.pairs_per_second": made.pairs_per_second})
        tracked.log_metrics({f"seed_{seed}.{name}": value for name, value in made.facts.items()})
    for name, png in plots.items():
        tracked.log_figure(png, f"{name}.png")


def training_notes(reports: Mapping[int, TrainingReport]) -> dict[str, Json]:
    """Seconds, throughput and last metrics of every seed."""
    notes: dict[str, Json] = {}
    for seed, made in reports.items():
        last = dict(made.metrics[-1]) if made.metrics else dict(made.facts)
        notes[f"seed_{seed}"] = {
            "seconds": made.seconds,
            "pairs_per_second": made.pairs_per_second,
            "epochs": made.epochs,
            **last,
        }
    return notes


@system_asset("training", {"pytorch"}, reads=("checkpoint",), pool=GPU_POOL, op_tags=GPU_TAGS)
def student_checkpoint(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> Result:
    """Model distilled from a teacher recipe's checkpoint; empty, with the reason, where the recipe names no teacher."""
    bench = Bench(context, workspace)
    reason = f"recipe {bench.recipe.name} names no teacher"
    return bench.build(lambda _: empty(reason), config={"teacher": None}, reads=(Read("checkpoint"),), pool=GPU_POOL)
