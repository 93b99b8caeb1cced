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
from anmi_pipeline.judging.evidence import pool_documents
from anmi_pipeline.judging.judges import JudgeEvidence
from anmi_pipeline.judging.ledger import Ledger
from anmi_pipeline.judging.panel import build_judges
from anmi_pipeline.judging.plan import certify_plan, estimate, plan_comparisons
from anmi_pipeline.judging.recorded import judge_inputs, recorded_documents, recorded_plan
from anmi_pipeline.judging.report import judge_report as report_on
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
    return settings | {"files": cast("Json", judge_inputs(dataset.judging, bench.workspace.settings.data))}


@dataset_asset("judging", {"polars", "parquet"}, reads=("corpus", "queries", "candidate_pool"))
def comparison_plan(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> Result:
    """First-round pairs of every judged query with their graph's certificate, and what asking them would cost."""
    bench = Bench(context, workspace)
    splits = judged_splits(bench)
    reads = [Read("candidate_pool", splits)]
    if bench.dataset.judging.recorded:
        reads += [Read("corpus"), Read("queries", splits)]
    return bench.build(plan, config=judging_settings(bench), reads=reads, seeds=(bench.dataset.seed,))


def plan(work: Work) -> Content:
    """Draw the plan, or take over that of recorded verdicts."""
    dataset, data = work.bench.dataset, work.bench.workspace.settings.data
    if dataset.judging.recorded:
        queries, corpus = work.table("queries", tables.QUERIES), work.table("corpus", tables.CORPUS)
        pairs = recorded_plan(dataset.judging, data, queries, corpus)
        certified = certify_plan(pairs)
    else:
        documents = pool_documents(work.table("candidate_pool", tables.POOL), dataset.judging)
        pairs, certified = plan_comparisons(documents, dataset.judging, dataset.seed, work.progress)
    cost = estimate(pairs, dataset.judging)
    facts: dict[str, Json] = {"calls": cost.calls, "queries": pairs["query_id"].n_unique()}
    facts |= {"usd_low": cost.usd_low, "usd_expected": cost.usd_expected, "usd_high": cost.usd_high}
    facts |= {"estimate": cast("Json", [asdict(judge) for judge in cost.judges])}
    facts |= certificate_facts(certified)
    return Content((Table.whole(tables.PLAN, pairs), Table.whole(tables.CERTIFICATES, certified)), facts=facts)


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
    """Every verdict of the plan, sealed from the ledger: asked once, durable before it counts, failures kept as failures."""
    bench = Bench(context, workspace)
    splits = judged_splits(bench)
    reads = [Read("comparison_plan"), Read("corpus"), Read("queries", splits), Read("candidate_pool", splits)]
    if bench.dataset.judging.needs_qrels:
        reads.append(Read("qrels", splits))
    return bench.build(judge, config=judging_settings(bench), reads=reads, seeds=(bench.dataset.seed,), pool=JUDGE_POOL)


def judge(work: Work) -> Content:
    """Ask what the ledger does not know yet."""
    dataset, settings = work.bench.dataset, work.bench.workspace.settings
    evidence = JudgeEvidence(
        queries=work.table("queries", tables.QUERIES),
        corpus=work.table("corpus", tables.CORPUS),
        pool=work.table("candidate_pool", tables.POOL),
        qrels=work.table("qrels", tables.QRELS) if "qrels" in work.inputs else None,
    )
    judges = build_judges(dataset.judging, evidence, dataset.seed, settings.data)
    pairs = work.table("comparison_plan", tables.PLAN)
    with Ledger(settings.ledger_url) as ledger:
        verdicts, took = collect(pairs, judges, evidence, ledger, dataset.judging, work.progress)
    facts: dict[str, Json] = {
        "judges": [one.name for one in dataset.judging.judges],
        "simulated": dataset.judging.simulated,
        "failures": took.failed,
    }
    notes: dict[str, Json] = {"asked": took.asked, "known": took.reused, "cost_usd": took.cost_usd}
    return Content((Table.whole(tables.JUDGMENTS, verdicts),), facts=facts, notes=notes)


@dataset_asset("judging", {"pytorch"}, reads=("pairwise_judgments",), pool=GPU_POOL, op_tags=GPU_TAGS)
def pairwise_judge(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> Result:
    """Pairwise model distilled from the verdicts; empty, with the reason, where the dataset asks for none."""
    facts: dict[str, Json] = {EMPTY: "the dataset asks for no distilled judge"}
    return Bench(context, workspace).build(
        lambda _: Content(facts=facts), config={}, reads=(Read("pairwise_judgments"),), pool=GPU_POOL
    )


@dataset_asset("judging", {"polars"}, reads=("pairwise_judgments",))
def judge_report(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> Result:
    """Flip rate, position bias, agreement, intransitivity, failures and cost of every judge."""
    bench = Bench(context, workspace)
    floor = bench.dataset.judging.coverage_floor

    def compute(work: Work) -> Content:
        measured = report_on(work.table("pairwise_judgments", tables.JUDGMENTS), floor)
        return Content((Table.whole(tables.REPORT, measured),))

    return bench.build(compute, config={"coverage_floor": floor}, reads=(Read("pairwise_judgments"),))
