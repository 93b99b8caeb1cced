"""Group `rating`: the comparison graph and the Elo table.

Belongs here: the assets of rating. Does not: folding and fitting (`rating/`).
"""

from dataclasses import asdict
from typing import cast

import dagster as dg
import polars as pl

from anmi_pipeline import tables
from anmi_pipeline.defs.building import Bench, Read, Result, Work
from anmi_pipeline.defs.declaring import dataset_asset
from anmi_pipeline.defs.judging import judged_splits
from anmi_pipeline.defs.op_tags import CPU_POOL, CPU_TAGS
from anmi_pipeline.defs.workspace import Workspace
from anmi_pipeline.digests import Json
from anmi_pipeline.evaluation.plots import calibration, degree_histogram, elo_histogram, standard_error_histogram
from anmi_pipeline.rating.elo import FitReport, fold_judgments, rate, true_labels
from anmi_pipeline.retrieval.pool import pool_documents
from anmi_pipeline.store import Content, Table


def write_plots(work: Work, plots: dict[str, bytes]) -> frozenset[str]:
    """Put plots into the object: shown in the UI, never digested."""
    folder = work.folder / "plots"
    folder.mkdir(exist_ok=True)
    for name, png in plots.items():
        (folder / f"{name}.png").write_bytes(png)
    return frozenset(f"{name}.png" for name in plots)


@dataset_asset("rating", {"polars", "parquet"}, reads=("pairwise_judgments",))
def comparison_graph(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> Result:
    """Verdicts folded into one preference per unordered pair, with degree, component and effective resistance."""
    bench = Bench(context, workspace)

    def compute(work: Work) -> Content:
        graph = fold_judgments(work.table("pairwise_judgments", tables.JUDGMENTS))
        split = graph.group_by("query_id").agg(pl.col("component").n_unique()).filter(pl.col("component") > 1)
        facts: dict[str, Json] = {
            "queries": graph["query_id"].n_unique(),
            "verdicts_folded": int(graph["n_verdicts"].sum()),
            "disconnected_queries": split.height,
        }
        plots = write_plots(work, {"degrees": degree_histogram(graph)} if graph.height else {})
        return Content((Table.whole(tables.COMPARISONS, graph),), work.folder, plots, facts)

    return bench.build(compute, config={}, reads=(Read("pairwise_judgments"),))


@dataset_asset(
    "rating",
    {"numpy", "mlflow"},
    reads=("comparison_graph", "comparison_plan", "candidate_pool", "qrels"),
    pool=CPU_POOL,
    op_tags=CPU_TAGS,
)
def elo_table(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> Result:
    """Thurstone scores of every judged document on the Elo scale, with standard errors; fitted with a Gaussian prior."""
    bench = Bench(context, workspace)
    rating, splits = bench.dataset.rating, judged_splits(bench)
    judging = bench.dataset.judging
    # Recorded verdicts bring their own documents.
    reads = [Read("comparison_graph"), *([] if judging.recorded else [Read("candidate_pool", splits)])]
    if rating.source == "qrels":
        reads.append(Read("qrels", splits))
    settings: dict[str, Json] = {"rating": cast("Json", rating.model_dump(mode="json"))}
    settings |= {"generator": judging.generator, "pool_size": judging.pool_size, "recorded": bool(judging.recorded)}
    return bench.build(fit, config=settings, reads=reads, pool=CPU_POOL)


def fit(work: Work) -> Content:
    """Fit the Elo table and log the fit to MLflow."""
    dataset = work.bench.dataset
    graph = work.table("comparison_graph", tables.COMPARISONS)
    documents = judged_documents(work, graph)
    with work.track("rating", dataset.rating.model_dump(mode="json"), {"anmi.dataset": dataset.name}) as tracked:
        if dataset.rating.source == "qrels":
            elo, report = true_labels(documents, work.table("qrels", tables.QRELS), dataset.rating), None
        else:
            elo, report = rate(graph, documents, dataset.rating, work.progress)
        plots = {"elo_histogram": elo_histogram(elo), "standard_errors": standard_error_histogram(elo)}
        if report is not None and graph.height:
            link = "probit" if dataset.rating.model == "thurstone" else "logistic"
            plots["calibration"] = calibration(graph, elo, link)
        for name, png in plots.items():
            tracked.log_figure(png, f"{name}.png")
        notes = fit_notes(report)
        tracked.log_metrics({name: float(value) for name, value in notes.items() if isinstance(value, int | float)})
    facts: dict[str, Json] = {"queries": elo["query_id"].n_unique(), "labels": dataset.labels}
    return Content((Table.whole(tables.ELO, elo),), work.folder, write_plots(work, plots), facts, notes)


def judged_documents(work: Work, graph: pl.DataFrame) -> pl.DataFrame:
    """query_id, doc_id, rank of every document that was or could have been compared."""
    dataset = work.bench.dataset
    if dataset.judging.recorded:
        sides = [graph.select("query_id", pl.col(side).alias("doc_id")) for side in ("doc_i", "doc_j")]
        return pl.concat(sides).unique().sort("query_id", "doc_id")
    return pool_documents(work.table("candidate_pool", tables.POOL), dataset.judging.generator, dataset.judging.pool_size)


def fit_notes(report: FitReport | None) -> dict[str, Json]:
    """The fit's report as incidental facts: it holds times."""
    return cast("dict[str, Json]", asdict(report)) if report is not None else {"source": "true labels, no fit"}
