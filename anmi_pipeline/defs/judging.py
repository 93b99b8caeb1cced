"""Group `judging`: the comparison plan, the verdicts, the distilled judge and the judge report.

Belongs here: the assets of judging. Does not: planning, asking and reporting (`judging/`).
"""

from dataclasses import replace
from functools import partial
from typing import cast

import dagster as dg
import polars as pl

from anmi_pipeline import tables
from anmi_pipeline.defs.building import Bench, Read, Result, Work
from anmi_pipeline.defs.declaring import dataset_asset
from anmi_pipeline.defs.epochs import carried_reads, epoch_of_plan, previous_of
from anmi_pipeline.defs.op_tags import JUDGE_POOL, JUDGE_TAGS
from anmi_pipeline.defs.workspace import Workspace
from anmi_pipeline.digests import Json
from anmi_pipeline.judging.cascade import Desk
from anmi_pipeline.judging.collect import CollectReport, Term
from anmi_pipeline.judging.config import AnchorsConfig
from anmi_pipeline.judging.epochs import Epoch
from anmi_pipeline.judging.evidence import pool_documents
from anmi_pipeline.judging.grades import ask_grades, check_grader, choose, grade_anchors
from anmi_pipeline.judging.imports import Imported, imported_judgments
from anmi_pipeline.judging.judges import JudgeEvidence
from anmi_pipeline.judging.ledger_imports import imports_digest
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.judging.money import Money
from anmi_pipeline.judging.panel import Home, build_grader, build_judges
from anmi_pipeline.judging.recorded import judge_inputs, recorded_documents
from anmi_pipeline.judging.report import judge_report as report_on
from anmi_pipeline.judging.rounds import Rounds, collect_plan, collect_rounds
from anmi_pipeline.judging.study import Study, open_study
from anmi_pipeline.rating.comparisons import fold_judgments
from anmi_pipeline.store import Content, Table


def judged_splits(bench: Bench) -> tuple[str, ...]:
    """Splits whose queries are judged: configured, or those of the queries that recorded verdicts are about.

    No wider than that: a build that reads a split is made again when one of its questions is edited.
    """
    judging = bench.dataset.judging
    if not judging.recorded:
        return judging.splits
    judged = recorded_documents(judging, bench.workspace.settings.data)["query_id"].unique()
    queries = bench.open(Read("queries", tables.SPLITS)).table(tables.QUERIES)
    found = queries.filter(pl.col("query_id").is_in(judged.implode()))["split"].unique().to_list()
    return tuple(split for split in tables.SPLITS if split in found) or judging.splits


def judging_settings(bench: Bench, epoch: Epoch | None = None) -> dict[str, Json]:
    """What the plan and the verdicts depend on beside their inputs; `epoch` defaults to that of the current plan."""
    dataset, epoch = bench.dataset, epoch or epoch_of_plan(bench)
    settings: dict[str, Json] = {"judging": cast("Json", dataset.judging.content())} | epoch.settings()
    if dataset.judging.adaptive:
        # Later pairs are chosen under the prior of the ratings.
        settings |= {"prior": dataset.rating.prior, "model": dataset.rating.model}
    return settings | {"files": cast("Json", judge_inputs(dataset.judging, bench.workspace.settings.data))}


def study_of(work: Work) -> Study:
    """What the rounds of this dataset rest on."""
    dataset = work.bench.dataset
    retrieval = cast("Json", dataset.retrieval.model_dump(mode="json"))
    pool = work.table("candidate_pool", tables.POOL)
    return open_study(
        dataset.family, dataset.judging, dataset.rating, dataset.seed, pool, retrieval, previous_of(work), dataset.name
    )


@dataset_asset(
    "judging",
    {"sqlite", "parquet"},
    reads=("comparison_plan", "candidate_pool", "corpus", "queries", "qrels"),
    pool=JUDGE_POOL,
    op_tags=JUDGE_TAGS,
    code_version=2,
)
def pairwise_judgments(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> Result:
    """Every verdict of all rounds, sealed from the ledger: asked once, durable before it counts, failures kept as failures."""
    bench = Bench(context, workspace)
    splits, epoch = judged_splits(bench), epoch_of_plan(bench)
    reads = [Read("comparison_plan"), Read("corpus"), Read("queries", splits), Read("candidate_pool", splits)]
    reads += carried_reads(bench, epoch)
    reads += [Read("pairwise_judge", partition=name) for name in bench.dataset.judging.teachers]
    if bench.dataset.judging.needs_qrels:
        reads.append(Read("qrels", splits))
    settings = judging_settings(bench, epoch)
    with Books(workspace.settings.ledger_url) as books:
        digest = imports_digest(books, bench.dataset.name)
    if digest:
        settings["imports"] = digest
    ask_all = partial(judge, epoch=epoch)
    return bench.build(ask_all, config=settings, reads=reads, seeds=(bench.dataset.seed,), pool=JUDGE_POOL)


def evidence_of(work: Work) -> JudgeEvidence:
    """What judges may look at, from the inputs of a build; grades where they are among them."""
    return JudgeEvidence(
        queries=work.table("queries", tables.QUERIES),
        corpus=work.table("corpus", tables.CORPUS),
        pool=work.table("candidate_pool", tables.POOL),
        qrels=work.table("qrels", tables.QRELS) if "qrels" in work.inputs else None,
    )


def judge(work: Work, epoch: Epoch) -> Content:
    """Ask what the ledger does not know yet: the first round, the rounds that follow from it, the grades of the anchors."""
    dataset, settings = work.bench.dataset, work.bench.workspace.settings
    evidence = evidence_of(work)
    if dataset.judging.anchors is not None:
        check_grader(dataset.judging.anchors, evidence.qrels)
    study = study_of(work) if dataset.judging.adaptive else None
    with Books(settings.ledger_url) as books:
        desk = desk_of(work, books, evidence, epoch)
        done = ask(work, desk, study)
        brought = imported(work, desk)
        verdicts = tables.JUDGMENTS.frame(pl.concat([done.judgments, brought.judgments]))
        parts = [Table.whole(tables.JUDGMENTS, verdicts)]
        if dataset.judging.anchors is not None:
            graded, took = grade(work, dataset.judging.anchors, replace(done, judgments=verdicts), study, desk)
            parts.append(Table.whole(tables.ANCHORS, graded))
            done = replace(done, report=done.report.and_also(took))
    facts: dict[str, Json] = {
        "judges": [one.name for one in dataset.judging.judges],
        "simulated": dataset.judging.simulated,
        "failures": done.report.failed,
    }
    if brought.judgments.height or brought.elsewhere or brought.outdated:
        facts["imported"] = {
            "verdicts": brought.judgments.height, "outside_the_pool": brought.elsewhere, "outdated": brought.outdated,
        }  # fmt: skip
    if study is not None:
        facts["frozen_prior"] = {"plan_key": study.plan_key} | (done.frozen.as_json() if done.frozen else {})
    notes: dict[str, Json] = {"asked": done.report.asked, "known": done.report.reused, "cost_usd": done.report.cost_usd}
    return Content(tuple(parts), facts=facts, notes=notes)


def imported(work: Work, desk: Desk) -> Imported:
    """The verdicts that people or other systems brought to this dataset."""
    documents = recorded_ends(work) if desk.config.recorded else pool_documents(desk.evidence.pool, desk.config)
    return imported_judgments(desk.books, work.bench.dataset.name, documents, desk.evidence)


def recorded_ends(work: Work) -> pl.DataFrame:
    """query_id, doc_id of what recorded verdicts compare."""
    plan = work.table("comparison_plan", tables.PLAN)
    return pl.concat([plan.select("query_id", doc_id=end) for end in ("first_id", "second_id")]).unique()


def desk_of(work: Work, books: Books, evidence: JudgeEvidence, epoch: Epoch | None = None) -> Desk:
    """The judges of a dataset, under the caps of the refresh where it has its own, else of the dataset."""
    dataset, settings = work.bench.dataset, work.bench.workspace.settings
    judging = dataset.judging
    epoch = epoch or epoch_of_plan(work.bench)
    caps = (epoch.max_usd, epoch.max_calls) if epoch.capped else (judging.max_usd, judging.max_calls)
    money = Money(books, epoch.scope, *caps, settings.conf)
    home = Home(work.bench.workspace.records, work.bench.workspace.cache, dataset.name, books)
    judges = build_judges(judging, evidence, dataset.seed, settings.data, money=money, conf=settings.conf, home=home)
    term = Term(epoch.name, epoch.opened_at)
    return Desk(judges, evidence, books, judging, dataset.rating, dataset.seed, term, money, previous_of(work))


def ask(work: Work, desk: Desk, study: Study | None) -> Rounds:
    """Ask the judges."""
    pairs = work.table("comparison_plan", tables.PLAN)
    if study is not None:
        return collect_rounds(pairs, desk, study, work.progress)
    # Only a cascade looks at more than the pairs; recorded verdicts may be about documents outside the pool.
    documents = pool_documents(desk.evidence.pool, desk.config) if desk.config.routing is not None else pl.DataFrame()
    return collect_plan(pairs, desk, documents, work.progress)


def grade(
    work: Work, anchors: AnchorsConfig, done: Rounds, study: Study | None, desk: Desk
) -> tuple[pl.DataFrame, CollectReport | None]:
    """Choose the anchors from all verdicts and have them graded: ANCHORS frame, and what asking took where a judge was asked."""
    dataset, settings = work.bench.dataset, work.bench.workspace.settings
    graph = fold_judgments(done.judgments, dataset.judging.weights)
    documents = judged_documents(work, graph)
    prior = done.frozen.prior if done.frozen is not None else None
    chosen = choose(graph, documents, anchors, dataset.rating, study.features if study is not None else None, prior)
    grader = build_grader(desk.config, desk.evidence, money=desk.money, conf=settings.conf)
    if grader is not None:
        return ask_grades(chosen, grader, desk, work.progress)
    return grade_anchors(chosen, anchors, desk.evidence.qrels, dataset.judging.draw_seed(dataset.seed), settings.data), None


def judged_documents(work: Work, graph: pl.DataFrame) -> pl.DataFrame:
    """query_id, doc_id (and rank, unless recorded verdicts brought them) of every document that could have been compared."""
    judging = work.bench.dataset.judging
    if judging.recorded:
        sides = [graph.select("query_id", pl.col(side).alias("doc_id")) for side in ("doc_i", "doc_j")]
        return pl.concat(sides).unique().sort("query_id", "doc_id")
    return pool_documents(work.table("candidate_pool", tables.POOL), judging)


@dataset_asset("judging", {"polars"}, reads=("pairwise_judgments",), code_version=3)
def judge_report(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> Result:
    """Flip rate, position bias, agreement, intransitivity, failures and cost of every judge and tier, and what routing saved."""
    bench = Bench(context, workspace)
    judging = bench.dataset.judging
    routing = judging.routing
    settings: dict[str, Json] = {"coverage_floor": judging.coverage_floor}
    if routing is not None:
        settings["routing"] = cast("Json", routing.model_dump(mode="json"))

    def compute(work: Work) -> Content:
        verdicts = work.table("pairwise_judgments", tables.JUDGMENTS)
        measured = report_on(verdicts, judging.coverage_floor, routing=routing)
        return Content((Table.whole(tables.REPORT, measured),))

    return bench.build(compute, config=settings, reads=(Read("pairwise_judgments"),))
