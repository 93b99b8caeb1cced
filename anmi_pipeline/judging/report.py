"""What the verdicts say about the judges: failures, flips, position bias, agreement, intransitivity, reliability, cost.

Belongs here: the table of measures per judge, tier and together. Does not: the statistics (`agreement.py`, `intervals.py`), the
coverage of queries (`rating/coverage.py`) and ratings. A measure that was not observed (flips without an audit slice) has no row:
there is no NaN and no made-up zero.
"""

from collections.abc import Iterator
from itertools import combinations

import polars as pl

from anmi_pipeline.judging.agreement import cohen, krippendorff, order_measures, reliability, triad_measures
from anmi_pipeline.judging.intervals import Measure, Resampling, mean_over, share
from anmi_pipeline.judging.routing import savings
from anmi_pipeline.judging.tiers import RoutingConfig
from anmi_pipeline.judging.verdicts import OK, PROVENANCES
from anmi_pipeline.judging.votes import PAIR, Votes, coded
from anmi_pipeline.rating.coverage import Flagged
from anmi_pipeline.tables import REPORT

PAIRED_JUDGES = 6
"""With more judges than this, agreement is reported over all of them only."""
ALL = "all"
UNPARSED = ("unparsed", "no_answer")
"""Statuses of calls that were answered, and paid, with nothing a vote could be read from."""


def judge_report(
    judgments: pl.DataFrame, coverage_floor: float = 0.95, *, routing: RoutingConfig | None = None, seed: int = 0
) -> pl.DataFrame:
    """Describe the judges of a dataset.

    Args:
        judgments: JUDGMENTS frame.
        coverage_floor: share of a query's planned verdicts below which it counts as under the floor.
        routing: the cascade, for calls and cost per tier and what it saved; None: no such rows.
        seed: of the bootstrap over queries.

    Returns:
        REPORT frame: rows per judge and for "all" together; agreement and kappa also per pair of judges ("a & b"), calls and
        cost also per tier ("tier small").
    """
    resampling = Resampling(seed)
    votes = coded(judgments)
    judgments = judgments.with_columns(number=(pl.col("query_id").rank("dense") - 1).cast(pl.Int64()))
    judges: list[str] = sorted(judgments["judge"].unique().to_list())
    together = [*money(judgments), *described(judgments, votes, resampling)]
    rows = [row(ALL, measure) for measure in together]
    for judge in judges:
        asked = judgments.filter(pl.col("judge") == judge)
        one = votes.of(judge) if judge in votes.judges else votes
        own = together if len(judges) == 1 else [*money(asked), *described(asked, one, resampling)]
        rows.extend(row(judge, measure) for measure in own)
    rows.extend(tier_rows(judgments, routing) if routing is not None else ())
    under = len(Flagged.of(judgments, coverage_floor))
    rows.append(row(ALL, Measure("queries_under_coverage_floor", under, judgments["query_id"].n_unique())))
    rows.extend(row(judge, measure) for judge, measure in agreement(votes, resampling))
    rows.extend(row(judge, measure) for judge, measure in reliability(votes))
    return REPORT.frame(rows)


def tier_rows(judgments: pl.DataFrame, routing: RoutingConfig) -> Iterator[dict[str, object]]:
    """Yield calls and cost per tier, the share of pairs that reached it, and what was saved against the last tier alone."""
    spent = savings(judgments, routing)
    name = pl.col("judge").str.split("/").list.first()
    for tier in routing.tiers:
        own = judgments.filter(name.is_in(tier.judges))
        yield from (row(f"tier {tier.name}", measure) for measure in money(own))
        yield row(f"tier {tier.name}", Measure("share_of_pairs", spent.mix[tier.name], spent.pairs))
    yield row(ALL, Measure("saved_share", spent.saved, spent.pairs))
    yield row(ALL, Measure("cost_all_last_tier", spent.usd_all_last, spent.pairs))


def row(judge: str, measure: Measure) -> dict[str, object]:
    """One row of REPORT."""
    return {
        "judge": judge,
        "measure": measure.name,
        "value": float(measure.value),
        "low": measure.low,
        "high": measure.high,
        "n": measure.n,
    }


def money(judgments: pl.DataFrame) -> Iterator[Measure]:
    """Yield calls, failures, tokens and cost of some calls; the rows of a list are one call."""
    voted = judgments.filter(pl.col("status") == OK)
    calls, answered, cost = calls_behind(judgments), voted.height, float(judgments["cost_usd"].sum())
    yield Measure("calls", calls, calls)
    yield Measure("failures", calls - calls_behind(voted), calls)
    yield Measure("cost_usd", cost, calls)
    yield Measure("input_tokens", int(judgments["input_tokens"].sum()), calls)
    yield Measure("output_tokens", int(judgments["output_tokens"].sum()), calls)
    if answered:
        yield Measure("usd_per_verdict", cost / answered, answered)


def calls_behind(rows: pl.DataFrame) -> int:
    """Number of calls that rows of JUDGMENTS come from."""
    lists = rows.filter(pl.col("list") > 0)
    return rows.height - lists.height + lists["call_key"].n_unique()


def described(judgments: pl.DataFrame, votes: Votes, resampling: Resampling) -> Iterator[Measure]:
    """Yield every measure of one group of verdicts that was observed; `number` numbers their queries."""
    yield from failures(judgments)
    answered = judgments.filter(pl.col("status") == OK)
    if not answered.height:
        return
    query = answered["number"]
    yield share("tie_share", query, (answered["p_first"] == 0.5).to_numpy())
    for provenance in PROVENANCES:
        own = (answered["provenance"] == provenance).to_numpy()
        if own.any():
            yield share(f"share_{provenance}", query, own)
    mean = mean_over("mean_p_first", query, answered["p_first"].to_numpy(), resampling)
    yield from [mean] if mean else []
    yield from order_measures(votes, resampling)
    yield from triad_measures(votes)


def failures(judgments: pl.DataFrame) -> Iterator[Measure]:
    """Yield the failure rate, the share of each kind of failure, and the share of answers that could be read."""
    if not judgments.height:
        return
    query, status = judgments["number"], judgments["status"]
    yield share("failure_rate", query, (status != OK).to_numpy())
    for kind in status.filter(status != OK).unique().sort().to_list():
        yield share(f"failure_rate_{kind}", query, (status == kind).to_numpy())
    arrived = judgments.filter(status.is_in([OK, *UNPARSED]))
    if arrived.height:
        yield share("parse_rate", arrived["number"], (arrived["status"] == OK).to_numpy())


def agreement(votes: Votes, resampling: Resampling) -> Iterator[tuple[str, Measure]]:
    """Yield Krippendorff's alpha over all judges, and how often two name the same winner of a pair that both answered.

    A tie agrees with a tie only. `agreement` and `kappa` per pair of judges where these are few.
    """
    folded = votes.folded("judge")
    for measure in (
        krippendorff(folded, "nominal", "alpha", resampling), krippendorff(folded, "interval", "alpha_interval", resampling)
    ):  # fmt: skip
        if measure is not None:
            yield ALL, measure
    mine = folded.select(*PAIR, "judge", "winner")
    both = mine.join(mine, on=PAIR, how="inner", suffix="_other").filter(pl.col("judge") < pl.col("judge_other"))
    if not both.height:
        return
    both = both.with_columns(same=pl.col("winner") == pl.col("winner_other"))
    yield ALL, share("agreement", both["query"], both["same"].to_numpy())
    if len(votes.judges) > PAIRED_JUDGES:
        return
    for one, other in combinations(range(len(votes.judges)), 2):
        shared = both.filter((pl.col("judge") == one) & (pl.col("judge_other") == other))
        if not shared.height:
            continue
        name = f"{votes.judges[one]} & {votes.judges[other]}"
        yield name, share("agreement", shared["query"], shared["same"].to_numpy())
        measure = cohen(folded, one, other, resampling)
        yield from [(name, measure)] if measure is not None else []
