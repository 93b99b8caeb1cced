"""Group `judging`: the comparison plan, the verdicts, the distilled judge and the judge report.

Belongs here: the assets of judging. Does not: planning, asking and reporting (`judging/`).
"""

from dataclasses import asdict
from typing import cast

import dagster as dg
import polars as pl

from anmi_pipeline import tables
from anmi_pipeline.defs.building import EMPTY, Bench, Read, Result, Work
from anmi_pipeline.defs.declaring import dataset_asset
from anmi_pipeline.defs.op_tags import GPU_POOL, GPU_TAGS, JUDGE_POOL, JUDGE_TAGS
from anmi_pipeline.defs.workspace import Workspace
from anmi_pipeline.digests import Json
from anmi_pipeline.judging.collect import collect
from anmi_pipeline.judging.config import AnchorsConfig
from anmi_pipeline.judging.evidence import pool_documents
from anmi_pipeline.judging.grades import check_grader, choose, grade_anchors
from anmi_pipeline.judging.judges import JudgeEvidence
from anmi_pipeline.judging.ledger import Ledger
from anmi_pipeline.judging.panel import build_judges
from anmi_pipeline.judging.plan import certify_plan, estimate, plan_comparisons
from anmi_pipeline.judging.recorded import judge_inputs, recorded_documents, recorded_plan
from anmi_pipeline.judging.report import judge_report as report_on
from anmi_pipeline.judging.rounds import Rounds, Study, collect_rounds, later_calls, open_study, plan_first
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


def judging_settings(bench: Bench) -> dict[str, Json]:
    """What the plan and the verdicts depend on beside their inputs."""
    dataset = bench.dataset
    settings: dict[str, Json] = {"judging": cast("Json", dataset.judging.model_dump(mode="json"))}
    if dataset.judging.adaptive:
        # Later pairs are chosen under the prior of the ratings.
        settings |= {"prior": dataset.rating.prior, "model": dataset.rating.model}
    return settings | {"files": cast("Json", judge_inputs(dataset.judging, bench.workspace.settings.data))}


def study_of(work: Work) -> Study:
    """What the rounds of this dataset rest on."""
    dataset = work.bench.dataset
    retrieval = cast("Json", dataset.retrieval.model_dump(mode="json"))
    pool = work.table("candidate_pool", tables.POOL)
    return open_study(dataset.family, dataset.judging, dataset.rating, dataset.seed, pool, retrieval)


@dataset_asset("judging", {"polars", "parquet"}, reads=("corpus", "queries", "candidate_pool"))
def comparison_plan(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> Result:
    """First-round pairs of every judged query with their graph's certificate, and what all rounds would cost."""
    bench = Bench(context, workspace)
    splits = judged_splits(bench)
    reads = [Read("candidate_pool", splits)]
    if bench.dataset.judging.recorded:
        reads += [Read("corpus"), Read("queries", splits)]
    return bench.build(plan, config=judging_settings(bench), reads=reads, seeds=(bench.dataset.seed,))


def plan(work: Work) -> Content:
    """Draw the first round, or take over the plan of recorded verdicts."""
    dataset, data = work.bench.dataset, work.bench.workspace.settings.data
    later: dict[str, Json] = {}
    if dataset.judging.recorded:
        queries, corpus = work.table("queries", tables.QUERIES), work.table("corpus", tables.CORPUS)
        pairs = recorded_plan(dataset.judging, data, queries, corpus)
        certified = certify_plan(pairs)
    elif dataset.judging.adaptive:
        study = study_of(work)
        pairs, certified = plan_first(study)
        later = later_facts(pairs, study)
    else:
        documents = pool_documents(work.table("candidate_pool", tables.POOL), dataset.judging)
        pairs, certified = plan_comparisons(documents, dataset.judging, dataset.seed, work.progress)
    cost = estimate(pairs, dataset.judging)
    facts: dict[str, Json] = {"calls": cost.calls, "queries": pairs["query_id"].n_unique()}
    facts |= {"usd_low": cost.usd_low, "usd_expected": cost.usd_expected, "usd_high": cost.usd_high}
    facts |= {"estimate": cast("Json", [asdict(judge) for judge in cost.judges])}
    facts |= later | certificate_facts(certified)
    return Content((Table.whole(tables.PLAN, pairs), Table.whole(tables.CERTIFICATES, certified)), facts=facts)


def later_facts(plan: pl.DataFrame, study: Study) -> dict[str, Json]:
    """Low, expected and high number of calls of the rounds after the first and what they would cost, for people."""
    usd = estimate(plan, study.judging).usd_expected / max(plan.height, 1)
    calls = dict(zip(("low", "expected", "high"), later_calls(plan, study), strict=True))
    rows = [{"estimate": name, "calls": round(count), "usd": count * usd} for name, count in calls.items()]
    return {"rounds": study.judging.rounds, "later_rounds": cast("Json", rows)}


def certificate_facts(certified: pl.DataFrame) -> dict[str, Json]:
    """Worst case over the graphs, for people."""
    if certified.is_empty():
        return {}
    return {
        "disconnected_queries": certified.filter(pl.col("components") > 1).height,
        "min_degree": cast("int", certified["min_degree"].min()),
        "max_diameter": cast("int", certified["diameter"].max()),
        "mean_resistance": round(float(cast("float", certified["mean_resistance"].mean())), 6),
    }


@dataset_asset(
    "judging",
    {"sqlite", "parquet"},
    reads=("comparison_plan", "candidate_pool", "corpus", "queries", "qrels"),
    pool=JUDGE_POOL,
    op_tags=JUDGE_TAGS,
)
def pairwise_judgments(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> Result:
    """Every verdict of all rounds, sealed from the ledger: asked once, durable before it counts, failures kept as failures."""
    bench = Bench(context, workspace)
    splits = judged_splits(bench)
    reads = [Read("comparison_plan"), Read("corpus"), Read("queries", splits), Read("candidate_pool", splits)]
    if bench.dataset.judging.needs_qrels:
        reads.append(Read("qrels", splits))
    return bench.build(judge, config=judging_settings(bench), reads=reads, seeds=(bench.dataset.seed,), pool=JUDGE_POOL)


def judge(work: Work) -> Content:
    """Ask what the ledger does not know yet: the first round, the rounds that follow from it, the grades of the anchors."""
    dataset, settings = work.bench.dataset, work.bench.workspace.settings
    evidence = JudgeEvidence(
        queries=work.table("queries", tables.QUERIES),
        corpus=work.table("corpus", tables.CORPUS),
        pool=work.table("candidate_pool", tables.POOL),
        qrels=work.table("qrels", tables.QRELS) if "qrels" in work.inputs else None,
    )
    if dataset.judging.anchors is not None:
        check_grader(dataset.judging.anchors, evidence.qrels)
    judges = build_judges(dataset.judging, evidence, dataset.seed, settings.data)
    pairs = work.table("comparison_plan", tables.PLAN)
    study = study_of(work) if dataset.judging.adaptive else None
    with Ledger(settings.ledger_url) as ledger:
        if study is None:
            verdicts, took = collect(pairs, judges, evidence, ledger, dataset.judging, work.progress)
            done = Rounds(verdicts, took, None)
        else:
            done = collect_rounds(pairs, judges, evidence, ledger, study, work.progress)
    parts = [Table.whole(tables.JUDGMENTS, done.judgments)]
    if dataset.judging.anchors is not None:
        parts.append(Table.whole(tables.ANCHORS, grade(work, dataset.judging.anchors, done, study, evidence.qrels)))
    facts: dict[str, Json] = {
        "judges": [one.name for one in dataset.judging.judges],
        "simulated": dataset.judging.simulated,
        "failures": done.report.failed,
    }
    if study is not None:
        facts["frozen_prior"] = {"plan_key": study.plan_key} | (done.frozen.as_json() if done.frozen else {})
    notes: dict[str, Json] = {"asked": done.report.asked, "known": done.report.reused, "cost_usd": done.report.cost_usd}
    return Content(tuple(parts), facts=facts, notes=notes)


def grade(work: Work, anchors: AnchorsConfig, done: Rounds, study: Study | None, qrels: pl.DataFrame | None) -> pl.DataFrame:
    """Choose the anchors from all verdicts and have them graded."""
    dataset = work.bench.dataset
    graph = fold_judgments(done.judgments)
    documents = judged_documents(work, graph)
    prior = done.frozen.prior if done.frozen is not None else None
    chosen = choose(graph, documents, anchors, dataset.rating, study.features if study is not None else None, prior)
    return grade_anchors(chosen, anchors, qrels, dataset.judging.draw_seed(dataset.seed), work.bench.workspace.settings.data)


def judged_documents(work: Work, graph: pl.DataFrame) -> pl.DataFrame:
    """query_id, doc_id (and rank, unless recorded verdicts brought them) of every document that could have been compared."""
    judging = work.bench.dataset.judging
    if judging.recorded:
        sides = [graph.select("query_id", pl.col(side).alias("doc_id")) for side in ("doc_i", "doc_j")]
        return pl.concat(sides).unique().sort("query_id", "doc_id")
    return pool_documents(work.table("candidate_pool", tables.POOL), judging)


@dataset_asset("judging", {"pytorch"}, reads=("pairwise_judgments",), pool=GPU_POOL, op_tags=GPU_TAGS)
def pairwise_judge(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> Result:
    """Pairwise model distilled from the verdicts; empty, with the reason, where the dataset asks for none."""
    facts: dict[str, Json] = {EMPTY: "the dataset asks for no distilled judge"}
    return Bench(context, workspace).build(
        lambda _: Content(facts=facts), config={}, reads=(Read("pairwise_judgments"),), pool=GPU_POOL
    )


@dataset_asset("judging", {"polars"}, reads=("pairwise_judgments",), code_version=2)
def judge_report(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> Result:
    """Flip rate, position bias, agreement, intransitivity, failures and cost of every judge."""
    bench = Bench(context, workspace)
    floor = bench.dataset.judging.coverage_floor

    def compute(work: Work) -> Content:
        measured = report_on(work.table("pairwise_judgments", tables.JUDGMENTS), floor)
        return Content((Table.whole(tables.REPORT, measured),))

    return bench.build(compute, config={"coverage_floor": floor}, reads=(Read("pairwise_judgments"),))
