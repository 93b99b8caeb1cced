"""The pairwise judge: a model distilled from the verdicts, its own verdicts on the graph, and those it says are worth buying.

Belongs here: the asset, its MLflow run and picture. Does not: the training, the choice of pairs and the judge (`judging/`).
"""

from dataclasses import asdict
from typing import cast

import dagster as dg
import polars as pl

from anmi_pipeline import tables
from anmi_pipeline.defs.building import EMPTY, Bench, Read, Result, Work
from anmi_pipeline.defs.declaring import dataset_asset
from anmi_pipeline.defs.judging import desk_of, evidence_of, judged_documents, judged_splits, judging_settings
from anmi_pipeline.defs.op_tags import GPU_POOL, GPU_TAGS
from anmi_pipeline.defs.rating import frozen_prior, metrics_of, prior_features, write_plots
from anmi_pipeline.defs.workspace import Workspace
from anmi_pipeline.digests import Json
from anmi_pipeline.evaluation.plots import reliability_diagram, training_curves
from anmi_pipeline.judging.distil_config import DistilConfig
from anmi_pipeline.judging.distillation import Distillation, DistilStudy, distil
from anmi_pipeline.judging.evidence import pool_documents
from anmi_pipeline.judging.judges import JudgeEvidence
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.judging.pairwise_measures import confidence_bins, retrieval_agreement
from anmi_pipeline.judging.pairwise_training import PairwiseTraining
from anmi_pipeline.judging.rounds import collect_plan
from anmi_pipeline.rating.comparisons import fold_judgments
from anmi_pipeline.retrieval.config import EncoderConfig
from anmi_pipeline.retrieval.weights import encoder_digest
from anmi_pipeline.store import Content, Table

NONE_ASKED = "the dataset asks for no distilled judge"


@dataset_asset(
    "judging",
    {"pytorch", "mlflow"},
    reads=("pairwise_judgments", "corpus", "queries", "candidate_pool", "qrels"),
    pool=GPU_POOL,
    op_tags=GPU_TAGS,
)
def pairwise_judge(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> Result:
    """Pairwise model distilled from the verdicts, with its own on the whole graph; empty where the dataset asks for none."""
    bench = Bench(context, workspace)
    judging = bench.dataset.judging
    reads = [Read("pairwise_judgments")]
    if judging.distil is None:
        return bench.build(lambda _: Content(facts={EMPTY: NONE_ASKED}), config={}, reads=reads, pool=GPU_POOL)
    splits = judged_splits(bench)
    reads += [Read("corpus"), Read("queries", splits), Read("candidate_pool", splits)]
    if judging.distil.second_pass and judging.needs_qrels:
        reads.append(Read("qrels", splits))
    return bench.build(
        distil_verdicts, config=distil_settings(bench, judging.distil), reads=reads, seeds=(bench.dataset.seed,), pool=GPU_POOL
    )


def distil_settings(bench: Bench, config: DistilConfig) -> dict[str, Json]:
    """What the model and its verdicts depend on beside their inputs."""
    rating = bench.dataset.rating
    encoder = EncoderConfig(model=config.model, revision=config.revision, precision=config.precision)
    settings = judging_settings(bench) | {"distil": cast("Json", config.model_dump(mode="json", exclude={"batch_tokens"}))}
    return settings | {"encoder": encoder_digest(encoder), "rating": {"prior": rating.prior, "model": rating.model}}


def distil_verdicts(work: Work) -> Content:
    """Train, judge the graph, buy what pays, and log it to MLflow."""
    bench = work.bench
    dataset, config = bench.dataset, cast("DistilConfig", bench.dataset.judging.distil)
    judgments = work.table("pairwise_judgments", tables.JUDGMENTS)
    if judgments.filter(pl.col("status") == "ok").is_empty():
        return Content(facts={EMPTY: "there is no verdict to learn from"})
    study = study_of_distilling(work, judgments, config)
    home = bench.workspace.settings.home
    with work.track("distillation", config.model_dump(mode="json"), {"anmi.dataset": dataset.name}) as tracked:
        made = distil(
            judgments,
            study,
            buy=lambda plan: bought(work, plan, study.evidence),
            keep=home / "training" / work.build_key / "second_pass.parquet",
            progress=work.progress,
        )
        made.training.model.save(work.folder)
        plots = pictures(made)
        notes = noted(made) | compared(work, made)
        tracked.log_steps(made.training.steps)
        tracked.log_metrics(metrics_of(notes))
        tracked.log_folder(work.folder, "pairwise_judge")
        for name, png in plots.items():
            tracked.log_figure(png, f"{name}.png")
    facts: dict[str, Json] = {"pairwise_judgments_version": work.inputs["pairwise_judgments"].artifact.digest}
    facts |= {"training_pairs": made.training.pairs, "training_queries": made.training.queries, "bought": made.bought}
    return Content((Table.whole(tables.JUDGMENTS, made.judgments),), work.folder, write_plots(work, plots), facts, notes)


def study_of_distilling(work: Work, judgments: pl.DataFrame, config: DistilConfig) -> DistilStudy:
    """What the distillation rests on besides the verdicts."""
    dataset = work.bench.dataset
    evidence = evidence_of(work)
    documents = judged_documents(work, fold_judgments(judgments, dataset.judging.weights))
    prior = frozen_prior(work)
    features = prior_features(work, documents) if prior is not None else None
    known = documents if features is None else features
    return DistilStudy(dataset.judging, config, evidence, known, dataset.seed, prior, dataset.rating.model)


def bought(work: Work, plan: pl.DataFrame, evidence: JudgeEvidence) -> pl.DataFrame:
    """Have the dataset's judges answer a plan, through the ledger and under the dataset's caps: JUDGMENTS frame."""
    with Books(work.bench.workspace.settings.ledger_url) as books:
        desk = desk_of(work, books, evidence)
        return collect_plan(plan, desk, pool_documents(evidence.pool, desk.config), work.progress).judgments


def pictures(made: Distillation) -> dict[str, bytes]:
    """Reliability on held-out verdicts before and after the temperature, and the loss."""
    plots = {"training": training_curves(made.training.steps, "Pairwise judge")}
    held, temperature = made.training.held_out, made.training.model.temperature
    curves = {}
    if held.height:
        curves = {
            "temperature 1": confidence_bins(held, 1.0),
            f"temperature {temperature:.2f}": confidence_bins(held, temperature),
        }
    title = "Does the pairwise judge know how sure it may be?"
    return plots | {"reliability": reliability_diagram(curves, title, "its confidence", "the judges agree, held-out queries")}


def noted(made: Distillation) -> dict[str, Json]:
    """Agreement, calibration and speed; `before` where a second pass followed a first training."""
    notes: dict[str, Json] = {
        "training_pairs_per_second": round(made.training.pairs_per_second, 2),
        "judged_pairs_per_second": round(made.pairs_per_second, 2),
        "judged_pairs": made.judgments.height - made.bought,
    }
    notes |= measures(made.training)
    if made.first is not made.training:
        notes |= {f"before_{name}": value for name, value in measures(made.first).items()}
    return notes


def compared(work: Work, made: Distillation) -> dict[str, Json]:
    """Agreement of the retrievers' order with the same held-out verdicts, and a warning where the model does not beat it."""
    training, generator = made.training, work.bench.dataset.judging.generator
    if training.figures is None:
        return {}
    base = retrieval_agreement(training.held_out, work.table("candidate_pool", tables.POOL), generator)
    if base is not None and training.figures.agreement <= base:
        work.log.warning(
            f"The pairwise judge agrees with {training.figures.agreement:.3f} of the held-out verdicts, the order of generator "
            f"{generator} with {base:.3f}: its verdicts may add little to them. Buy more verdicts, train a larger model, "
            "or drop judging.distil."
        )
    return {"held_out_retrieval_agreement": base}


def measures(training: PairwiseTraining) -> dict[str, Json]:
    """Figures on held-out queries; none where no query could be held out."""
    if training.figures is None:
        return {"held_out_pairs": 0}
    found: dict[str, Json] = {f"held_out_{name}": value for name, value in asdict(training.figures).items()}
    return found
