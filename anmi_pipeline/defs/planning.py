"""The comparison plan: which pairs are asked first, with their graph's certificate and what asking would cost.

Belongs here: the asset. Does not: drawing pairs (`judging/plan.py`, `round_plans.py`, `carrying.py`) and the estimate
(`costing.py`).
"""

from dataclasses import asdict, replace
from typing import cast

import dagster as dg
import polars as pl

from anmi_pipeline import tables
from anmi_pipeline.defs.building import Bench, Read, Result, Work
from anmi_pipeline.defs.declaring import dataset_asset
from anmi_pipeline.defs.epochs import carried_reads, planning_epoch, previous_of
from anmi_pipeline.defs.judging import evidence_of, judged_splits, judging_settings, study_of
from anmi_pipeline.defs.workspace import Workspace
from anmi_pipeline.digests import Json
from anmi_pipeline.judging.carrying import Previous, refresh_plan
from anmi_pipeline.judging.costing import Basis, costs_of
from anmi_pipeline.judging.evidence import pool_documents
from anmi_pipeline.judging.outlay import all_ahead
from anmi_pipeline.judging.panel import Home, build_judges
from anmi_pipeline.judging.plan import calls_by_judge, certify_plan, plan_comparisons
from anmi_pipeline.judging.recorded import recorded_plan
from anmi_pipeline.judging.round_plans import plan_first
from anmi_pipeline.judging.rounds import later_calls
from anmi_pipeline.judging.study import Study
from anmi_pipeline.store import Content, Table


@dataset_asset("judging", {"polars", "parquet"}, reads=("corpus", "queries", "candidate_pool"), code_version=2)
def comparison_plan(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> Result:
    """First-round pairs of every judged query with their graph's certificate, and what all rounds would cost."""
    bench = Bench(context, workspace)
    splits, epoch = judged_splits(bench), planning_epoch(bench)
    reads = [Read("candidate_pool", splits), *carried_reads(bench, epoch)]
    if bench.dataset.judging.recorded or bench.dataset.judging.uses_api:
        reads += [Read("corpus"), Read("queries", splits)]
    return bench.build(plan, config=judging_settings(bench, epoch), reads=reads, seeds=(bench.dataset.seed,))


def plan(work: Work) -> Content:
    """Draw the first round, or take over the plan of recorded verdicts."""
    dataset, data = work.bench.dataset, work.bench.workspace.settings.data
    later: dict[str, Json] = {}
    previous = previous_of(work)
    study = study_of(work) if dataset.judging.adaptive else None
    if previous is not None:
        pairs, certified, later = plan_refresh(work, previous)
    elif dataset.judging.recorded:
        queries, corpus = work.table("queries", tables.QUERIES), work.table("corpus", tables.CORPUS)
        pairs = recorded_plan(dataset.judging, data, queries, corpus)
        certified = certify_plan(pairs)
    elif study is not None:
        pairs, certified = plan_first(study)
        later = later_facts(pairs, study)
    else:
        documents = pool_documents(work.table("candidate_pool", tables.POOL), dataset.judging)
        pairs, certified = plan_comparisons(documents, dataset.judging, dataset.seed, work.progress)
    calls = calls_by_judge(pairs)
    facts: dict[str, Json] = {"calls": sum(calls.values()), "queries": pairs["query_id"].n_unique()}
    facts |= {"calls_by_judge": cast("Json", [{"judge": name, "calls": calls[name]} for name in sorted(calls)])}
    facts |= later | certificate_facts(certified)
    notes = priced(work, pairs, study) if dataset.judging.uses_api else {}
    return Content((Table.whole(tables.PLAN, pairs), Table.whole(tables.CERTIFICATES, certified)), facts=facts, notes=notes)


def priced(work: Work, pairs: pl.DataFrame, study: Study | None) -> dict[str, Json]:
    """What all rounds would cost if nothing were on record, by judge and tier, for people; `anmi estimate` knows better.

    Notes, because prices change.
    """
    dataset, settings = work.bench.dataset, work.bench.workspace.settings
    evidence = evidence_of(work)
    basis = Basis(evidence, dataset.judging, dataset.seed, settings.conf)
    ahead = all_ahead(pairs, dataset.judging, study)
    home = Home(work.bench.workspace.records, work.bench.workspace.cache, dataset.name)
    judges = build_judges(dataset.judging, evidence, dataset.seed, settings.data, conf=settings.conf, home=home)
    costs = [cost for judge in judges for cost in costs_of(basis, ahead, judge, None)]
    return {"estimate": cast("Json", [asdict(cost) for cost in costs])}


def plan_refresh(work: Work, previous: Previous) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, Json]]:
    """The plan of an epoch after the first, its certificates, and facts for people."""
    dataset = work.bench.dataset
    documents = pool_documents(work.table("candidate_pool", tables.POOL), dataset.judging)
    study = study_of(work) if dataset.judging.adaptive else None

    def plan_new(own: pl.DataFrame) -> pl.DataFrame:
        if study is None:
            return plan_comparisons(own, dataset.judging, dataset.seed, work.progress)[0]
        features = study.features.join(own.select("query_id").unique(), on="query_id", how="semi", maintain_order="left")
        return plan_first(replace(study, features=features, previous=None))[0]

    pairs = refresh_plan(previous, documents, dataset.judging, dataset.seed, plan_new)
    kept = pairs.join(previous.judgments, on=list(tables.PLAN.key), how="semi").height
    later: dict[str, Json] = {"carried_calls": kept} | (later_facts(pairs, study) if study is not None else {})
    return pairs, certify_plan(pairs, documents), later


def later_facts(plan: pl.DataFrame, study: Study) -> dict[str, Json]:
    """Low, expected and high number of calls of the rounds after the first, for people."""
    calls = dict(zip(("low", "expected", "high"), later_calls(plan, study), strict=True))
    rows = [{"estimate": name, "calls": round(count)} for name, count in calls.items()]
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
