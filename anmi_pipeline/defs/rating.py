"""Group `rating`: the comparison graph and the Elo table.

Belongs here: the assets of rating. Does not: folding and fitting (`rating/`).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Self, cast

import dagster as dg
import polars as pl
from numpy.linalg import LinAlgError

from anmi_pipeline import tables
from anmi_pipeline.catalog.datasets import DatasetConfig
from anmi_pipeline.defs.building import Bench, Read, Result, Work
from anmi_pipeline.defs.declaring import dataset_asset
from anmi_pipeline.defs.epochs import drift_of
from anmi_pipeline.defs.judging import judged_documents, judged_splits
from anmi_pipeline.defs.op_tags import CPU_POOL, CPU_TAGS
from anmi_pipeline.defs.reporting import warn
from anmi_pipeline.defs.workspace import Workspace
from anmi_pipeline.digests import Json
from anmi_pipeline.errors import ConvergenceError
from anmi_pipeline.evaluation.plots import (
    calibration,
    degree_histogram,
    elo_histogram,
    reliability_diagram,
    standard_error_histogram,
)
from anmi_pipeline.judging.click_logs import click_graph, log_files
from anmi_pipeline.judging.distilled import distilled_judgments
from anmi_pipeline.rating.calibration import CalibrationReport, calibrate
from anmi_pipeline.rating.comparisons import fold_judgments
from anmi_pipeline.rating.config import RatingConfig
from anmi_pipeline.rating.coverage import Flagged
from anmi_pipeline.rating.elo import rate, true_labels
from anmi_pipeline.rating.features import score_features
from anmi_pipeline.rating.online import merge_comparisons, rate_and_update
from anmi_pipeline.rating.prior import ScorePrior
from anmi_pipeline.rating.reliability import reliability_bins
from anmi_pipeline.rating.selection import SelectionReport, select_model
from anmi_pipeline.store import Content, Table


def write_plots(work: Work, plots: dict[str, bytes]) -> frozenset[str]:
    """Put plots into the object: shown in the UI, never digested."""
    folder = work.folder / "plots"
    folder.mkdir(exist_ok=True)
    for name, png in plots.items():
        (folder / f"{name}.png").write_bytes(png)
    return frozenset(f"{name}.png" for name in plots)


@dataset_asset("rating", {"polars", "parquet"}, reads=("pairwise_judgments", "pairwise_judge", "candidate_pool"), code_version=2)
def comparison_graph(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> Result:
    """Verdicts and clicks folded into one preference per unordered pair, with degree, component and effective resistance."""
    bench = Bench(context, workspace)
    judging = bench.dataset.judging
    settings: dict[str, Json] = {"weights": cast("Json", judging.weights)}
    reads = [Read("pairwise_judgments")]
    if judging.distil is not None:
        reads.append(Read("pairwise_judge"))
    if judging.clicks is not None:
        reads += [] if judging.recorded else [Read("candidate_pool", judged_splits(bench))]
        logs = log_files(judging.clicks, bench.workspace.settings.data)
        # The contents and not the names: a log that is moved or copied says nothing new.
        settings |= {"clicks": judging.clicks.model_dump(mode="json", exclude={"path"}), "click_logs": list(logs.by_digest)}
        settings |= {"generator": judging.generator, "pool_size": judging.pool_size}
    return bench.build(lambda work: fold(work, settings), config=settings, reads=reads)


def fold(work: Work, settings: Mapping[str, Json]) -> Content:
    """Fold the verdicts, those of the distilled judge among them, and add the clicks."""
    judging = work.bench.dataset.judging
    verdicts = work.table("pairwise_judgments", tables.JUDGMENTS)
    if judging.distil is not None:
        verdicts = pl.concat([verdicts, distilled_judgments(work.inputs["pairwise_judge"].artifact)])
    graph = judged = fold_judgments(verdicts, judging.weights)
    parts: list[Table] = []
    facts: dict[str, Json] = {}
    notes: dict[str, Json] = {}
    if judging.clicks is not None:
        expected = cast("list[str]", settings["click_logs"])
        data, documents = work.bench.workspace.settings.data, judged_documents(work, judged)
        told = click_graph(judging.clicks, data, expected, documents)
        graph = merge_comparisons(judged, told.comparisons)
        parts = [Table.whole(tables.JUDGED, judged), Table.whole(tables.CLICKED, tables.CLICKED.frame(told.comparisons))]
        facts |= told.facts()
        if told.evidence is not None:
            notes["examination_by_position"] = told.evidence.propensities.examination.round(4).tolist()
    split = graph.group_by("query_id").agg(pl.col("component").n_unique()).filter(pl.col("component") > 1)
    facts |= {
        "queries": graph["query_id"].n_unique(),
        "verdicts_folded": int(judged["n_verdicts"].sum()),
        "disconnected_queries": split.height,
    }
    plots = write_plots(work, {"degrees": degree_histogram(graph)} if graph.height else {})
    return Content((Table.whole(tables.COMPARISONS, graph), *parts), work.folder, plots, facts, notes)


@dataset_asset(
    "rating",
    {"numpy", "mlflow"},
    reads=("comparison_graph", "comparison_plan", "pairwise_judgments", "candidate_pool", "qrels"),
    pool=CPU_POOL,
    op_tags=CPU_TAGS,
    code_version=2,
)
def elo_table(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> Result:
    """Scores of every judged document on the Elo scale with 95 % intervals, fitted under a Gaussian prior."""
    bench = Bench(context, workspace)
    rating, splits = rating_of(bench.dataset), judged_splits(bench)
    judging = bench.dataset.judging
    # Recorded verdicts bring their own documents; the informative prior reads the retrievers' scores of any.
    pooled = not judging.recorded or rating.prior == "scores"
    reads = [Read("comparison_graph"), *([Read("candidate_pool", splits)] if pooled else [])]
    reads.append(Read("qrels", splits) if rating.source == "qrels" else Read("pairwise_judgments"))
    settings: dict[str, Json] = {"rating": cast("Json", rating.model_dump(mode="json"))}
    settings |= {"generator": judging.generator, "pool_size": judging.pool_size, "recorded": bool(judging.recorded)}
    settings |= {"selection": cast("Json", bench.dataset.selection.model_dump(mode="json"))}
    if rating.source != "qrels":
        settings |= {"coverage_floor": judging.coverage_floor}
    if judging.anchors is not None:
        settings |= {"calibration": cast("Json", bench.dataset.calibration.model_dump(mode="json"))}
    return bench.build(fit, config=settings, reads=reads, pool=CPU_POOL)


def rating_of(dataset: DatasetConfig) -> RatingConfig:
    """The settings of the fit.

    Errors that are read off the residuals take comparisons for independent, however they are weighted; those of one ranking are
    not. Their weights say how much they are worth together, and `fisher` is what follows from the weights.
    """
    listed = dataset.judging.design == "lists" and dataset.rating.std_error in ("hc3", "dispersion")
    return dataset.rating.model_copy(update={"std_error": "fisher"}) if listed else dataset.rating


def fit(work: Work) -> Content:
    """Fit the Elo table and log the fit to MLflow; queries under the coverage floor are named and not in it."""
    dataset = work.bench.dataset
    graph, flagged = Graph.of(work), flagged_queries(work)
    documents = flagged.left_out_of(judged_documents(work, graph.judged))
    with work.track("rating", rating_of(dataset).model_dump(mode="json"), {"anmi.dataset": dataset.name}) as tracked:
        if dataset.rating.source == "qrels":
            elo = true_labels(documents, work.table("qrels", tables.QRELS), dataset.rating)
            notes, plots = cast("dict[str, Json]", {"source": "true labels, no fit"}), elo_plots(elo)
        else:
            elo, notes, plots = fit_verdicts(work, graph.without(flagged), documents, flagged)
        told, drawn = drift_of(work, elo)
        notes, plots = notes | told, plots | drawn
        for name, png in plots.items():
            tracked.log_figure(png, f"{name}.png")
        tracked.log_metrics(metrics_of(notes))
    facts: dict[str, Json] = {"queries": elo["query_id"].n_unique(), "labels": dataset.labels} | flagged.facts()
    return Content((Table.whole(tables.ELO, elo),), work.folder, write_plots(work, plots), facts, notes)


def flagged_queries(work: Work) -> Flagged:
    """The queries that have too few verdicts to be scored; true labels rest on none."""
    judged = work.inputs.get("pairwise_judgments")
    judgments = tables.JUDGMENTS.frame() if judged is None else judged.table(tables.JUDGMENTS)
    found = Flagged.of(judgments, work.bench.dataset.judging.coverage_floor)
    if len(found):
        warn(work.log, found.said(judgments["query_id"].n_unique()))
    return found


def elo_plots(elo: pl.DataFrame) -> dict[str, bytes]:
    """How the scores and their errors are spread."""
    return {"elo_histogram": elo_histogram(elo), "standard_errors": standard_error_histogram(elo)}


@dataclass(frozen=True)
class Graph:
    """The comparisons of a dataset.

    Attributes:
        whole: COMPARISONS frame of verdicts and clicks.
        judged: that of the verdicts alone.
        clicked: CLICKED frame; None for a dataset without clicks.
    """

    whole: pl.DataFrame
    judged: pl.DataFrame
    clicked: pl.DataFrame | None

    @classmethod
    def of(cls, work: Work) -> Self:
        """Read `comparison_graph`."""
        artifact = work.inputs["comparison_graph"].artifact
        whole = artifact.table(tables.COMPARISONS)
        if tables.CLICKED.name not in artifact.rows:
            return cls(whole, whole, None)
        return cls(whole, artifact.table(tables.JUDGED), artifact.table(tables.CLICKED))

    def without(self, flagged: Flagged) -> "Graph":
        """Leave out the queries that are not scored."""
        clicked = None if self.clicked is None else flagged.left_out_of(self.clicked)
        return Graph(flagged.left_out_of(self.whole), flagged.left_out_of(self.judged), clicked)


def scores(work: Work, graph: Graph, documents: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, Json]]:
    """Rate the documents: ELO frame, and notes about the fit.

    Clicks come on top of a fit of the verdicts: the prior stays theirs, and a query without clicks keeps its scores to the bit.
    """
    config, features, prior = rating_of(work.bench.dataset), prior_features(work, documents), frozen_prior(work)
    # The reports are incidental: they hold times.
    if graph.clicked is None:
        elo, report = rate(graph.judged, documents, config, work.progress, features=features, prior=prior)
        return elo, cast("dict[str, Json]", asdict(report))
    elo, report, done = rate_and_update(
        graph.judged, graph.clicked, documents, config, work.progress, features=features, prior=prior
    )
    update: dict[str, Json] = {"touched_queries": len(done.touched), "steps": done.iterations, "seconds": done.seconds}
    return elo, cast("dict[str, Json]", asdict(report)) | {"click_update": update}


def fit_verdicts(
    work: Work, graph: Graph, documents: pl.DataFrame, flagged: Flagged
) -> tuple[pl.DataFrame, dict[str, Json], dict[str, bytes]]:
    """Rate the documents, calibrate them where there are anchors, and compare the models: ELO frame, notes, plots."""
    dataset = work.bench.dataset
    judgments = flagged.left_out_of(work.table("pairwise_judgments", tables.JUDGMENTS))
    elo, notes = scores(work, graph, documents)
    plots = elo_plots(elo)
    if dataset.judging.anchors is not None:
        graded = flagged.left_out_of(work.table("pairwise_judgments", tables.ANCHORS).drop_nulls("grade"))
        elo, calibrated = calibrate(elo, graded.select("query_id", "doc_id", "grade"), dataset.calibration)
        notes["calibration"] = calibration_notes(calibrated)
        plots["relevance"] = relevance_plot(calibrated)
    if graph.whole.height:
        link = "probit" if dataset.rating.model == "thurstone" else "logistic"
        plots["calibration"] = calibration(graph.whole, elo, link)
    if judgments.height:
        compared, drawn = compared_models(work, judgments, documents)
        notes["selection"], plots = compared, plots | drawn
    return elo, notes, plots


def compared_models(work: Work, judgments: pl.DataFrame, documents: pl.DataFrame) -> tuple[dict[str, Json], dict[str, bytes]]:
    """How the models predict held-out verdicts: notes and a plot.

    The scores do not rest on it: verdicts that were paid for are rated also where this comparison fails, and the notes say so.
    """
    try:
        _, chosen = select_model(judgments, documents, work.bench.dataset.selection, work.progress)
    except (LinAlgError, ConvergenceError) as error:
        work.bench.log.warning(f"the models were not compared: {error}")
        return {"failed": str(error)}, {}
    return selection_notes(chosen), {"models": models_plot(chosen)}


def calibration_notes(report: CalibrationReport) -> dict[str, Json]:
    """A calibration's report without its predictions, which the plot shows."""
    slim = replace(report, predictions=report.predictions.clear())
    return {name: value for name, value in cast("dict[str, Json]", asdict(slim)).items() if name != "predictions"}


def relevance_plot(report: CalibrationReport) -> bytes:
    """Reliability of relevance, and of raw Elo, on queries that were left out."""
    rows = report.predictions
    curves = {
        name: reliability_bins(rows[column].to_numpy(), rows["outcome"].cast(pl.Float64).to_numpy())
        for name, column in (("relevance", "relevance"), ("raw Elo, one logistic", "raw"))
        if rows.height
    }
    return reliability_diagram(curves, "Does relevance mean the same in queries left out?", "relevance", "share relevant")


def selection_notes(report: SelectionReport) -> dict[str, Json]:
    """A model comparison without the bins, which the plot shows; models as rows."""
    facts = cast("dict[str, Json]", report.facts())
    models = cast("list[dict[str, Json]]", facts["models"])
    return facts | {"models": [{name: value for name, value in one.items() if name != "reliability"} for one in models]}


def models_plot(report: SelectionReport) -> bytes:
    """Reliability of each model on verdicts that were held out."""
    curves = {
        one.model: pl.DataFrame([asdict(each) for each in one.reliability]).rename({"verdicts": "n"})
        for one in report.models
        if one.reliability
    }
    return reliability_diagram(curves, "Which model predicts held-out verdicts?", "predicted P(first preferred)", "mean verdict")


def prior_features(work: Work, documents: pl.DataFrame) -> pl.DataFrame | None:
    """Features of the rated documents for the informative prior; None where the prior has mean zero."""
    if work.bench.dataset.rating.prior == "zero":
        return None
    keys = ["query_id", "doc_id"]
    # A recorded verdict may be about a document that no retriever returned: it counts as the last of each.
    return score_features(documents.select(keys).join(work.table("candidate_pool", tables.POOL), on=keys, how="left"))


def frozen_prior(work: Work) -> ScorePrior | None:
    """The prior that chose the pairs, estimated on the first round: chosen pairs would bias another estimate."""
    facts = cast("Mapping[str, Json]", work.inputs["pairwise_judgments"].artifact.facts.get("frozen_prior", {}))
    return ScorePrior.from_json(cast("Mapping[str, object]", facts["prior"])) if "prior" in facts else None


def metrics_of(notes: Mapping[str, Json], prefix: str = "") -> dict[str, float]:
    """Every figure of a report by dotted name; MLflow takes no `+` in one, so flags of a status are joined by `-`."""
    found: dict[str, float] = {}
    for name, value in notes.items():
        path = prefix + name.replace("+", "-")
        if isinstance(value, Mapping):
            found |= metrics_of(value, f"{path}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[path] = float(value)
    return found
