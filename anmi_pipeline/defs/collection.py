"""Group `collection`: corpus, queries and qrels of a dataset, normalised and checked.

Belongs here: the three root assets. Does not: reading a format (`collections/`).
"""

import dagster as dg

from anmi_pipeline import tables
from anmi_pipeline.collections.reading import fingerprint, read_collection
from anmi_pipeline.defs.building import Bench, Result, Work, split_parts
from anmi_pipeline.defs.declaring import dataset_asset
from anmi_pipeline.defs.workspace import Workspace
from anmi_pipeline.store import Content, Table


def raw_input(bench: Bench, table: str) -> dict[str, str]:
    """The digest of the raw files and settings that one of the three tables depends on."""
    dataset = bench.dataset
    return {"input": fingerprint(dataset.source, data_root=bench.workspace.settings.data, seed=dataset.seed)[table]}


def read(work: Work) -> Content:
    """Read the collection and keep the table that the step's asset names; the collection is read once per run."""
    bench = work.bench
    dataset, cache = bench.dataset, bench.workspace.collections
    if dataset.name not in cache:
        cache[dataset.name] = read_collection(dataset.source, data_root=bench.workspace.settings.data, seed=dataset.seed)
    collection = cache[dataset.name]
    notes = {f"collection_{name}": text for name, text in collection.notes.items()}
    match bench.asset:
        case "corpus":
            return Content(tables=(Table.whole(tables.CORPUS, collection.corpus),), notes=notes)
        case "queries":
            return Content(tables=(split_parts(tables.QUERIES, collection.queries, collection.queries),), notes=notes)
        case _:
            return Content(tables=(split_parts(tables.QRELS, collection.qrels, collection.queries),), notes=notes)


@dataset_asset("collection", {"polars", "parquet"})
def corpus(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> Result:
    """Documents under study: id, title, text."""
    bench = Bench(context, workspace)
    return bench.build(read, config=raw_input(bench, "corpus"))


@dataset_asset("collection", {"polars", "parquet"})
def queries(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> Result:
    """Queries with their split, stored in parts by split: a build depends on the parts that it reads."""
    bench = Bench(context, workspace)
    return bench.build(read, config=raw_input(bench, "queries"))


@dataset_asset("collection", {"polars", "parquet"})
def qrels(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> Result:
    """Graded relevance labels, where the collection has any, in parts by the split of the query."""
    bench = Bench(context, workspace)
    return bench.build(read, config=raw_input(bench, "qrels"))
