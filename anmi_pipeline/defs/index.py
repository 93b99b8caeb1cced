"""Group `index`: document vectors and nearest-neighbour index of a retriever.

Belongs here: the assets of the index. Does not: encoding and building (`retrieval/`, `training/checkpoints.py`).
"""

from functools import partial
from pathlib import Path
from typing import cast

import dagster as dg
import numpy as np

from anmi_pipeline import tables
from anmi_pipeline.defs.building import EMPTY, Bench, Read, Result, Work
from anmi_pipeline.defs.declaring import system_asset
from anmi_pipeline.defs.embeddings import VECTORS, Floats, base_vectors, encoder_of, encoder_settings, loaded
from anmi_pipeline.defs.op_tags import CPU_POOL, CPU_TAGS, GPU_POOL, GPU_TAGS
from anmi_pipeline.defs.training import empty
from anmi_pipeline.defs.workspace import Workspace
from anmi_pipeline.digests import Json
from anmi_pipeline.retrieval.ann import build_index, save_index
from anmi_pipeline.retrieval.lexical import document_texts
from anmi_pipeline.store import Content
from anmi_pipeline.training.checkpoints import load_retriever


def has_vectors(bench: Bench) -> bool:
    """Whether the recipe is a retriever with vectors of its own."""
    return bench.recipe.kind == "retriever" or bench.recipe.method == "encoder"


def seed_folder(root: Path, seed: int) -> Path:
    """Folder of one training seed inside an artifact."""
    return root / f"seed-{seed}"


@system_asset("index", {"pytorch", "numpy"}, reads=("corpus", "checkpoint"), pool=GPU_POOL, op_tags=GPU_TAGS)
def corpus_embeddings(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> Result:
    """Vectors of every document under a retriever recipe, one file per seed, in document id order."""
    bench = Bench(context, workspace)
    if not has_vectors(bench):
        return bench.build(lambda _: empty("the recipe is no retriever"), config={"vectors": False})
    reads = (Read("corpus"), Read("checkpoint")) if bench.recipe.trained else (Read("corpus"),)
    settings = encoder_settings(encoder_of(bench))
    return bench.build(partial(embed, bench), config=settings, reads=reads, seeds=bench.recipe.seeds, pool=GPU_POOL)


def embed(bench: Bench, work: Work) -> Content:
    """Embed the corpus with every seed."""
    if bench.recipe.trained and EMPTY in work.inputs["checkpoint"].artifact.facts:
        return empty(str(work.inputs["checkpoint"].artifact.facts[EMPTY]))
    corpus = work.table("corpus", tables.CORPUS)
    config = encoder_of(bench)
    base = base_vectors(bench, config, "corpus")
    for seed in bench.recipe.seeds:
        vectors = base
        if bench.recipe.trained:
            model = load_retriever(seed_folder(work.local("checkpoint"), seed), loaded(config))
            vectors = model.embed(document_texts(corpus), "document", base, work.progress)
        folder = seed_folder(work.folder, seed)
        folder.mkdir()
        np.save(folder / VECTORS, vectors)
    return Content(folder=work.folder, facts={"documents": corpus.height, "dimension": int(base.shape[1])})


@system_asset("index", {"faiss"}, reads=("corpus", "corpus_embeddings"), pool=CPU_POOL, op_tags=CPU_TAGS)
def ann_index(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> Result:
    """FAISS index over a retriever's vectors, one per seed."""
    bench = Bench(context, workspace)
    config = bench.recipe.index

    def compute(work: Work) -> Content:
        facts = work.inputs["corpus_embeddings"].artifact.facts
        if EMPTY in facts:
            return empty(str(facts[EMPTY]))
        doc_ids = work.table("corpus", tables.CORPUS)["doc_id"].to_list()
        for seed in bench.recipe.seeds:
            vectors = cast("Floats", np.load(seed_folder(work.local("corpus_embeddings"), seed) / VECTORS))
            save_index(build_index(vectors, doc_ids, config, seed), seed_folder(work.folder, seed))
        return Content(folder=work.folder, facts={"kind": config.kind, "documents": len(doc_ids)})

    settings = {"index": cast("Json", config.model_dump(mode="json"))}
    reads = (Read("corpus"), Read("corpus_embeddings"))
    return bench.build(compute, config=settings, reads=reads, seeds=bench.recipe.seeds, pool=CPU_POOL)
