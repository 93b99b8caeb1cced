"""Group `serving`: the winning system as a registered MLflow model.

Belongs here: the asset of serving. Does not: packaging and answering (`serving/`).
"""

from functools import partial
from typing import cast

import dagster as dg
import numpy as np

from anmi_pipeline import tables
from anmi_pipeline.catalog.datasets import DatasetConfig
from anmi_pipeline.catalog.recipes import RecipeConfig
from anmi_pipeline.defs.building import EMPTY, Bench, Read, Result, Work
from anmi_pipeline.defs.declaring import dataset_asset
from anmi_pipeline.defs.embeddings import VECTORS, base_vectors
from anmi_pipeline.defs.index import has_vectors, seed_folder
from anmi_pipeline.defs.training import empty
from anmi_pipeline.defs.workspace import Key, Workspace
from anmi_pipeline.digests import Json
from anmi_pipeline.evaluation.config import InferenceSettings
from anmi_pipeline.retrieval.lexical import LexicalIndex
from anmi_pipeline.serving.config import USES_VECTORS, PackageSettings, SystemKind
from anmi_pipeline.serving.package import Embedded, write_search_package
from anmi_pipeline.serving.registration import log_search_model
from anmi_pipeline.store import Content

PACKAGE = "package"


@dataset_asset(
    "serving",
    {"mlflow"},
    reads=("leaderboard", "corpus", "checkpoint", "ann_index", "corpus_embeddings", "tuned_system"),
)
def search_model(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> Result:
    """The winner of dev_final as an MLflow pyfunc that `anmi search` and `mlflow models serve` answer from."""
    bench = Bench(context, workspace)
    best = workspace.records.require("leaderboard", bench.key.dataset)[1].facts
    system = str(best["winner"])
    dataset = bench.dataset
    retrieval = dataset.retrieval
    recorded = (retrieval.dense.recorded, retrieval.lexical.recorded, retrieval.sparse, retrieval.late_interaction)
    if not system or any(run is not None for run in recorded):
        reason = "the board has no winner" if not system else "recorded runs cannot answer a new query"
        return bench.build(lambda _: empty(reason), config={"reason": reason}, reads=(Read("leaderboard"),))
    recipe, _, origin = system.partition("@")
    partition = f"{origin or bench.key.dataset}|{recipe}"
    reads = [Read("leaderboard"), Read("corpus")]
    reads += [Read(asset, None, partition) for asset in ("tuned_system", "checkpoint", "ann_index", "corpus_embeddings")]
    settings: dict[str, Json] = {
        "system": system,
        "variant": str(best["variant"]),
        "recipe": cast("Json", workspace.recipe(recipe, dataset).model_dump(mode="json")),
        "retrieval": cast("Json", dataset.retrieval.model_dump(mode="json")),
    }
    return bench.build(partial(package, partition), config=settings, reads=reads)


def package(partition: str, work: Work) -> Content:
    """Write the search package and log it to MLflow."""
    bench = work.bench
    origin, name = partition.split("|")
    recipe = bench.workspace.recipe(name, bench.workspace.dataset(origin))
    settings = package_settings(work, partition, recipe, bench.dataset)
    corpus = work.table("corpus", tables.CORPUS)
    folder = work.folder / PACKAGE
    seed = recipe.seeds[0]
    own = Bench(bench.context, bench.workspace)
    own.key = Key(origin, name)
    embedded = index = None
    if has_vectors(own) and settings.scope == "group":
        vectors = np.load(seed_folder(work.local(f"corpus_embeddings@{partition}"), seed) / VECTORS)
        embedded = Embedded(corpus["doc_id"].to_list(), vectors)
    elif has_vectors(own):
        index = seed_folder(work.local(f"ann_index@{partition}"), seed)
    elif settings.kind in USES_VECTORS:
        encoder = recipe.encoder or bench.dataset.retrieval.dense.encoder
        embedded = Embedded(corpus["doc_id"].to_list(), base_vectors(own, encoder, "corpus"))
    write_search_package(
        folder,
        settings,
        corpus,
        lexical=LexicalIndex.build(corpus, bench.dataset.retrieval.lexical) if settings.needs_lexical else None,
        embedded=embedded,
        index=index,
        checkpoint=seed_folder(work.local(f"checkpoint@{partition}"), seed) if recipe.trained else None,
        # The base encoder is installed beside this package; 90 MB of it in every version would fill the store.
        include_encoder=False,
    )
    registered = f"anmi-search-{bench.dataset.name}"
    with work.track("serving", settings.model_dump(mode="json"), {"anmi.system": settings.system}) as tracked:
        uri = tracked.log_model(lambda: log_search_model(folder, registered_name=registered).model_uri)
    facts: dict[str, Json] = {"system": settings.system, "kind": settings.kind}
    return Content(folder=work.folder, facts=facts, notes={"model_uri": uri, "registered_model": registered})


def package_settings(work: Work, partition: str, recipe: RecipeConfig, dataset: DatasetConfig) -> PackageSettings:
    """How the packaged system answers."""
    board = work.inputs["leaderboard"].artifact.facts
    tuned = InferenceSettings()
    if board["variant"] == "tuned":
        tuned = InferenceSettings.model_validate(work.inputs[f"tuned_system@{partition}"].artifact.facts["settings"])
    fixed = InferenceSettings()
    if recipe.method in ("rrf", "min_max"):
        weight = recipe.inference.lexical_weight
        fixed = InferenceSettings(fusion=recipe.method, lexical_weight=weight, rrf_k=recipe.inference.rrf_k)
    trained = work.inputs[f"checkpoint@{partition}"].artifact
    versions = {"dataset": dataset.name, "leaderboard": work.inputs["leaderboard"].artifact.digest}
    if EMPTY not in trained.facts:
        versions |= {"checkpoint": trained.digest, "elo_table": str(trained.facts["elo_table_version"])}
    return PackageSettings(
        system=str(board["winner"]),
        kind=kind_of(recipe),
        scope=dataset.scope,
        depth=dataset.evaluation.depth,
        dense_depth=dataset.retrieval.dense.depth,
        encoder=recipe.encoder or dataset.retrieval.dense.encoder,
        fixed=fixed,
        tuned=tuned,
        pool=dataset.retrieval.pool,
        generator=recipe.inference.generator,
        pool_size=recipe.inference.pool_size,
        origin=versions,
    )


def kind_of(recipe: RecipeConfig) -> SystemKind:
    """What ranks in a recipe."""
    if recipe.kind == "retriever":
        return "retriever"
    if recipe.training is not None:
        return "features" if recipe.training.kind == "features" else "cross_encoder"
    kinds: dict[str, SystemKind] = {"lexical": "lexical", "encoder": "encoder"}
    return kinds.get(recipe.method or "", "fusion")
