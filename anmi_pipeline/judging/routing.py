"""Routing: which pairs are asked again of a dearer tier of judges, and what that saves.

Belongs here: the settings of a cascade and its decisions, pure functions of the verdicts so far. Does not: asking
(`collect.py`), the beliefs behind the decisions (`beliefs.py`). What is decided about a query depends on its own verdicts, the
settings and frozen weights alone, so that a new query asks nothing about the others.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from anmi_pipeline.errors import InputError, nearest
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.plan import plan_pairs
from anmi_pipeline.judging.tiers import RoutingConfig, Tier
from anmi_pipeline.judging.verdicts import OK
from anmi_pipeline.rating.comparisons import PAIR
from anmi_pipeline.tables import PLAN

ESCALATIONS = {
    "query_id": pl.String(),
    "doc_i": pl.String(),
    "doc_j": pl.String(),
    "tier": pl.String(),
    "reasons": pl.String(),  # of near_half, orders, judges, no_answer, joined by '+'
    "probability": pl.Float64(),  # P(doc_i wins) on which it was decided; null when nobody answered
}
"""Columns of `escalate`."""

FEWEST_PAIRS = 200
"""Audited pairs of two tiers below which their agreement is not taken for an estimate."""
ACCURACIES = (0.55, 0.98)
"""Bounds of an estimated accuracy: a coin would weigh nothing, and a judge who never erred in a few hundred pairs all."""


def escalate(
    judgments: pl.DataFrame, config: RoutingConfig, beliefs: pl.DataFrame | None = None, step: int | None = None
) -> pl.DataFrame:
    """Choose the pairs that move up by one tier.

    A pair moves up while its probability is near one half, one judge's two orders disagree, its judges disagree, or nobody
    answered; within a query at most the target share of pairs reaches a tier, those of the highest priority first. A pair that
    was asked of the last tier stays where it is, and so does one that was asked of no tier.

    Args:
        judgments: JUDGMENTS frame so far, failures included. Verdicts of judges outside the cascade (a human) count for the
            probability and the disagreement only.
        config: tiers, thresholds and target mix.
        beliefs: `beliefs.pair_beliefs` of the pairs: needed where single verdicts are 0 or 1 and thus never near one half. None
            takes the weighted mean of a pair's verdicts for its probability, and its nearness to one half for the priority.
        step: which of `config.steps`, from 1; None leaves room for the whole shares at once.

    Returns:
        ESCALATIONS columns, sorted: each pair with the tier to ask next.

    Raises:
        InputError: beliefs lack a pair that was judged.
    """
    pairs = pair_states(judgments, config)
    if beliefs is None:
        doubt = 0.5 - (pl.col("probability").fill_null(0.5) - 0.5).abs()
        pairs = pairs.with_columns(priority=doubt)
    else:
        lost = pairs.join(beliefs, on=PAIR, how="anti")
        if lost.height:
            row = lost.row(0, named=True)
            raise InputError(
                f"{lost.height} judged pair(s) have no belief, first {row['doc_i']} and {row['doc_j']} of query "
                f"{row['query_id']}. Compute beliefs over all pairs, those without an answer with weight 0."
            )
        pairs = pairs.drop("probability").join(beliefs.select(*PAIR, "probability", "priority"), on=PAIR, how="left")
    limits = dict(enumerate(tier.near_half for tier in config.tiers))
    near = (pl.col("probability") - 0.5).abs() < pl.col("reached").replace_strict(limits, return_dtype=pl.Float64())
    marks = {"near_half": near, "orders": pl.col("orders"), "judges": pl.col("judges"), "no_answer": pl.col("silent")}
    named = [pl.when(mark.fill_null(False)).then(pl.lit(name)) for name, mark in marks.items()]
    movable = pairs.with_columns(
        reasons=pl.concat_str(named, separator="+", ignore_nulls=True), total=pl.len().over("query_id").cast(pl.Float64())
    )
    return within_mix(movable, config, config.steps if step is None else step)


def within_mix(pairs: pl.DataFrame, config: RoutingConfig, step: int) -> pl.DataFrame:
    """Keep, per query and tier, as many of the pairs with a reason as the target mix leaves room for."""
    parts = [pl.DataFrame(schema=ESCALATIONS)]
    for place, above in enumerate(config.tiers[1:]):
        part = min(max((step - place) / config.passes, 0.0), 1.0)
        # A hair above the product: .3 of 10 pairs is 3, whatever the last bit of .3 says.
        limit = (pl.col("total") * above.share * part + 1e-9).floor()
        room = limit - (pl.col("reached") > place).sum().over("query_id")
        open_pairs = pairs.with_columns(room=room).filter((pl.col("reached") == place) & (pl.col("reasons") != ""))
        ordered = open_pairs.sort("query_id", "priority", "doc_i", "doc_j", descending=[False, True, False, False])
        chosen = ordered.filter(pl.int_range(pl.len()).over("query_id") < pl.col("room"))
        parts.append(chosen.with_columns(tier=pl.lit(above.name)).select(list(ESCALATIONS)))
    return pl.concat(parts).sort(PAIR)


def pair_states(judgments: pl.DataFrame, config: RoutingConfig) -> pl.DataFrame:
    """Fold verdicts into one row per pair that a tier was asked about.

    Returns:
        PAIR, reached (place of the dearest tier asked), probability (weighted mean; null without an answer), orders and judges
        (whether they disagree), silent (no tier judge answered at the tier reached).
    """
    swapped = pl.col("first_id") > pl.col("second_id")
    name = pl.col("judge").str.split("/").list.first()
    answered = pl.col("status") == OK
    rows = judgments.select(
        "query_id",
        "judge",
        "p_first",
        doc_i=pl.min_horizontal("first_id", "second_id"),
        doc_j=pl.max_horizontal("first_id", "second_id"),
        swapped=swapped,
        place=name.replace_strict(config.places, default=-1, return_dtype=pl.Int64()),
        weight=name.replace_strict(config.weights, default=1.0, return_dtype=pl.Float64()),
        vote=pl.when(answered).then(pl.when(swapped).then(1 - pl.col("p_first")).otherwise("p_first")),
        answered=answered,
    )
    by_judge = rows.group_by(*PAIR, "judge").agg(
        vote=pl.col("vote").mean(),
        ahead=pl.col("p_first").filter(pl.col("answered") & ~pl.col("swapped")).mean(),
        behind=pl.col("p_first").filter(pl.col("answered") & pl.col("swapped")).mean(),
    )
    side = pl.col("vote").round(12).sub(0.5).sign()
    flips = ((pl.col("ahead") - 0.5) * (pl.col("behind") - 0.5) > 0).fill_null(False)
    disagreements = by_judge.group_by(PAIR).agg(
        orders=flips.any() & config.orders, judges=((side.min() < 0) & (side.max() > 0)).fill_null(False) & config.judges
    )
    used = pl.col("weight").filter(pl.col("answered"))
    states = rows.group_by(PAIR).agg(
        reached=pl.col("place").max(),
        probability=(pl.col("vote") * pl.col("weight")).sum() / used.sum(),
        silent=~(pl.col("answered") & (pl.col("place") == pl.col("place").max())).any(),
    )
    states = states.with_columns(probability=pl.col("probability").fill_nan(None)).filter(pl.col("reached") >= 0)
    return states.join(disagreements, on=PAIR, how="left").sort(PAIR)


@dataclass(frozen=True)
class Savings:
    """What a cascade cost, and what asking the last tier about every pair would have.

    Attributes:
        pairs: pairs judged.
        calls: tier -> calls, the audit slice left out (it is asked of everybody with and without a cascade).
        mix: tier -> share of the pairs that were asked of it.
        usd: price of these calls.
        usd_all_last: price of one call of the last tier for every pair.
        usd_audit: price of the audit slice, which neither of the two includes.
    """

    pairs: int
    calls: dict[str, int]
    mix: dict[str, float]
    usd: float
    usd_all_last: float
    usd_audit: float

    @property
    def saved(self) -> float:
        """Share of the price that was saved; 0 when nothing had a price."""
        return 1 - self.usd / self.usd_all_last if self.usd_all_last > 0 else 0.0


def savings(judgments: pl.DataFrame, config: RoutingConfig) -> Savings:
    """Count calls and money of a cascade against asking the last tier about every pair.

    Where a tier's calls cost money, its mean price is used, else `Tier.usd` for every call; without a single paid call all tiers
    count at `Tier.usd`.

    Args:
        judgments: JUDGMENTS frame.
        config: the cascade.
    """
    name = pl.col("judge").str.split("/").list.first()
    rows = judgments.select(
        "query_id",
        "cost_usd",
        "audit",
        doc_i=pl.min_horizontal("first_id", "second_id"),
        doc_j=pl.max_horizontal("first_id", "second_id"),
        place=name.replace_strict(config.places, default=-1, return_dtype=pl.Int64()),
    )
    rows = rows.filter(pl.col("place") >= 0)
    paid = float(rows["cost_usd"].sum()) > 0
    routed = rows.filter(~pl.col("audit"))
    pairs = routed.select(PAIR).unique().height
    calls: dict[str, int] = {}
    mix: dict[str, float] = {}
    usd, audit, price = 0.0, 0.0, 0.0
    for place, tier in enumerate(config.tiers):
        every = rows.filter(pl.col("place") == place)
        own = routed.filter(pl.col("place") == place)
        spent = float(every["cost_usd"].sum())
        price = spent / every.height if paid and spent > 0 else tier.usd
        calls[tier.name] = own.height
        mix[tier.name] = own.select(PAIR).unique().height / pairs if pairs else 0.0
        usd += price * own.height
        audit += price * (every.height - own.height)
    return Savings(pairs, calls, mix, usd, price * pairs, audit)


def estimated_weights(judgments: pl.DataFrame, config: RoutingConfig) -> RoutingConfig:
    """Replace the tiers' weights by what the audit slice says, where the same pairs were asked of all of them.

    Equation: judges who err independently, on right pairs with probability a_t, satisfy E[s_t s_u] = (2 a_t - 1)(2 a_u - 1) over
    pairs, s = +-1 the winner (0 a tie): log E[s_t s_u] = e_t + e_u by least squares, which takes three tiers. weight =
    (probit a_t / probit a_last)^2. Source: Dawid and Skene (1979) in moments; errors that tiers share raise all accuracies.
    To be estimated once and frozen with the prior: weights are shared by all queries.

    Args:
        judgments: JUDGMENTS frame; only its audited pairs are used, because pairs that moved up are not like the others.
        config: the cascade; returned as it is where fewer than 200 pairs, or fewer than three tiers, tell.
    """
    from scipy.special import ndtri

    swapped = pl.col("first_id") > pl.col("second_id")
    name = pl.col("judge").str.split("/").list.first()
    rows = judgments.filter(pl.col("audit") & (pl.col("status") == OK)).select(
        "query_id",
        doc_i=pl.min_horizontal("first_id", "second_id"),
        doc_j=pl.max_horizontal("first_id", "second_id"),
        place=name.replace_strict(config.places, default=-1, return_dtype=pl.Int64()),
        side=(pl.col("p_first") - 0.5).sign() * pl.when(swapped).then(-1).otherwise(1),
    )
    sides = rows.filter(pl.col("place") >= 0).group_by(*PAIR, "place").agg(pl.col("side").mean()).sort(*PAIR, "place")
    both = sides.join(sides, on=PAIR, how="inner", suffix="_other").filter(pl.col("place") < pl.col("place_other"))
    products = both.with_columns(product=pl.col("side") * pl.col("side_other"))
    means = products.group_by("place", "place_other").agg(pl.col("product").mean(), n=pl.len()).sort("place", "place_other")
    known = means.filter((pl.col("n") >= FEWEST_PAIRS) & (pl.col("product") > 0))
    matrix = np.zeros((known.height, len(config.tiers)))
    matrix[np.arange(known.height), known["place"].to_numpy()] = 1.0
    matrix[np.arange(known.height), known["place_other"].to_numpy()] = 1.0
    if np.linalg.matrix_rank(matrix) < len(config.tiers):
        return config
    strength = np.linalg.lstsq(matrix, np.log(known["product"].to_numpy()), rcond=None)[0]
    probit = ndtri(np.clip((1 + np.exp(strength)) / 2, *ACCURACIES))
    weights = (probit / probit[-1]) ** 2
    tiers = [tier.model_copy(update={"weight": float(own)}) for tier, own in zip(config.tiers, weights, strict=True)]
    return config.model_copy(update={"tiers": tuple(tiers)})


def plan_escalations(
    escalations: pl.DataFrame, config: RoutingConfig, judging: JudgingConfig, seed: int, number: int
) -> pl.DataFrame:
    """Plan the calls of pairs that move up (`plan_tier`).

    Args:
        escalations: `escalate`.
        config: the cascade.
        judging: the judges by name, and the seed of orders.
        seed: seed of the dataset.
        number: round under which they are asked; another one than that of the tier below, or the draws of orders would repeat.

    Returns:
        PLAN frame.

    Raises:
        InputError: a tier names a judge that the dataset does not configure.
    """
    own = [(tier, escalations.filter(pl.col("tier") == tier.name)) for tier in config.tiers]
    parts = [plan_tier(pairs, tier, judging, seed, number) for tier, pairs in own if pairs.height]
    return PLAN.frame(pl.concat([PLAN.frame(), *parts]))


def plan_tier(pairs: pl.DataFrame, tier: Tier, judging: JudgingConfig, seed: int, number: int) -> pl.DataFrame:
    """Plan one tier's calls: its judges rotated over the pairs, each in one random order, or in both where the tier says so.

    Args:
        pairs: query_id, doc_i, doc_j, each unordered pair once.
        tier: who is asked.
        judging: the judges by name, and the seed of orders.
        seed: seed of the dataset.
        number: round.

    Returns:
        PLAN frame, without an audit slice.

    Raises:
        InputError: the tier names a judge that the dataset does not configure.
    """
    known = {judge.name: judge for judge in judging.judges}
    for name in tier.judges:
        if name not in known:
            raise InputError(
                f'tier "{tier.name}" names judge "{name}", which the dataset does not configure.{nearest(name, known)}'
            )
    judges = tuple(known[name] for name in tier.judges)
    alone = judging.model_copy(update={"judges": judges, "votes_per_pair": 1, "audit_share": 0.0, "routing": None})
    plan = plan_pairs(pairs.select(PAIR), alone, seed, number)
    if not tier.both_orders:
        return plan
    return PLAN.frame(pl.concat([plan, PLAN.frame(plan.rename({"first_id": "second_id", "second_id": "first_id"}))]))
