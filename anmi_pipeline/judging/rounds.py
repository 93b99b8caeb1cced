"""Judging in rounds: pairs are chosen, asked, and the next are chosen from the verdicts, with the ledger's frozen prior.

Belongs here: the loop of the adaptive design, the freezing of what its choices share across queries. Does not: the choice within
a query (`rating/rounds.py`), asking (`collect.py`), orders and judges of given pairs (`plan.py`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from typing import cast

import polars as pl
from pydantic import JsonValue

from anmi_pipeline.digests import Json, canonical_json, digest_json
from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.asking import CAPPED
from anmi_pipeline.judging.carrying import Previous, closed_pairs, grown_budgets
from anmi_pipeline.judging.cascade import ENDS, Desk, answered_or_not, ask_round
from anmi_pipeline.judging.choices import ChoiceBook, choices_key
from anmi_pipeline.judging.collect import CollectReport, shifted
from anmi_pipeline.judging.config import JudgingConfig, StopRule
from anmi_pipeline.judging.evidence import judged_pool
from anmi_pipeline.judging.ledger import Ledger, LedgerError
from anmi_pipeline.judging.plan import certify_plan, pair_budget, plan_pairs, query_generator
from anmi_pipeline.judging.running import run
from anmi_pipeline.judging.stopping import outlooks
from anmi_pipeline.progress import Progress, silent
from anmi_pipeline.rating.config import RatingConfig
from anmi_pipeline.rating.features import score_features
from anmi_pipeline.rating.prior import ScorePrior, fit_prior, starting_prior
from anmi_pipeline.rating.rounds import first_round, next_round
from anmi_pipeline.tables import JUDGMENTS, PLAN

FROZEN_VERSION = 1
"""Raised when the estimate of the frozen prior, or what its key covers, changes."""
Z95 = 1.959963984540054
CHOICE_STREAM = 0
"""Number of the generator that orders the first cycle; those of rounds, from 1, draw orders and judges."""


@dataclass(frozen=True)
class Study:
    """What the choice of pairs rests on besides the verdicts.

    Attributes:
        judging: design, budget, judges.
        rating: kind of the prior, model.
        seed: seed of the dataset.
        features: query_id, doc_id and the features of every document that may be compared.
        plan_key: name of the frozen prior in the ledger.
        previous: the verdicts that a refresh carries on from; None in a first epoch.
        choices: name under which the pairs of later rounds are on record; None: they are chosen anew whenever they are wanted.
    """

    judging: JudgingConfig
    rating: RatingConfig
    seed: int
    features: pl.DataFrame
    plan_key: str
    previous: Previous | None = None
    choices: str | None = None

    @cached_property
    def budgets(self) -> dict[str, int]:
        """Query id -> pairs in all rounds; in a refresh what is carried, and what the query has grown by."""
        sizes = self.features.group_by("query_id").len().sort("query_id")
        whole = {name: pair_budget(size, self.judging.degree) for name, size in sizes.iter_rows()}
        return whole if self.previous is None else grown_budgets(whole, self.previous, self.features, self.judging)

    @cached_property
    def closed(self) -> pl.DataFrame | None:
        """Pairs that are not for sale: in a refresh those of two documents that were compared before; None: there are none."""
        return None if self.previous is None else closed_pairs(self.previous, self.features, self.judging)


@dataclass(frozen=True)
class Frozen:
    """The prior that chooses later pairs, estimated once.

    Attributes:
        prior: slopes and precision.
        queries: queries whose first round it was estimated from.
        comparisons: their comparisons.
    """

    prior: ScorePrior
    queries: int
    comparisons: int

    def as_json(self) -> dict[str, Json]:
        """The prior as the ledger and the facts of `pairwise_judgments` hold it."""
        return {
            "prior": cast("Json", self.prior.as_json()),
            "queries": self.queries,
            "comparisons": self.comparisons,
        }

    def values(self) -> dict[str, float]:
        """Every figure by name, for people."""
        prior, lift = self.prior, self.prior.lift
        shown = {f"slope of {name}": slope for name, slope in zip(prior.features, prior.coefficients, strict=True)}
        shown["precision"] = prior.precision
        if lift is not None:
            names = ("relevance, log odds", *(f"log odds per {name}" for name in prior.features))
            shown |= dict(zip(names, lift.odds, strict=True))
            shown |= {"lift of the relevant": lift.height, "their precision": lift.precision}
        return {**shown, "queries": self.queries, "comparisons": self.comparisons}

    @classmethod
    def from_text(cls, text: str) -> "Frozen":
        """Read a ledger entry.

        Raises:
            LedgerError: the entry is not what this version writes.
        """
        try:
            value = json.loads(text)
            return cls(ScorePrior.from_json(value["prior"]), int(value["queries"]), int(value["comparisons"]))
        except (ValueError, KeyError, TypeError, InputError) as error:
            raise LedgerError(
                f"the ledger holds a frozen prior that cannot be read: {text:.200}. Raise judging.replan to estimate it anew."
            ) from error


@dataclass(frozen=True)
class Rounds:
    """The verdicts of all rounds.

    Attributes:
        judgments: JUDGMENTS frame.
        report: what collecting took.
        frozen: the prior that chose the later pairs; None without one.
    """

    judgments: pl.DataFrame
    report: CollectReport
    frozen: Frozen | None


def open_study(
    family: str,
    judging: JudgingConfig,
    rating: RatingConfig,
    seed: int,
    pool: pl.DataFrame,
    retrieval: Json,
    previous: Previous | None = None,
    dataset: str | None = None,
) -> Study:
    """Put together what the rounds of a dataset need.

    Args:
        family: partition family of the dataset: variants that choose pairs alike share one frozen prior.
        judging: the judging configuration.
        rating: the rating configuration.
        seed: seed of the dataset.
        pool: POOL frame of the judged queries.
        retrieval: settings of the retrievers, whose scores the prior rests on.
        previous: the verdicts that a refresh carries on from.
        dataset: name of the dataset, whose choices of pairs are put on record where judges cost money; None: they are not.
    """
    rests = (judging, rating, judging.draw_seed(seed), retrieval)
    choices = choices_key(dataset, *rests) if dataset is not None and judging.uses_api else None
    features = score_features(judged_pool(pool, judging))
    return Study(judging, rating, seed, features, plan_key(family, *rests), previous, choices)


def plan_key(family: str, judging: JudgingConfig, rating: RatingConfig, seed: int, retrieval: Json) -> str:
    """Name the frozen prior of a plan: sha256 of everything the first round and its estimate rest on, except the queries.

    Budget (degree, rounds, cap), splits and refresh epochs are left out on purpose: more pairs, more queries or newer verdicts
    must not change the pairs that were bought.
    """
    named = ("generator", "pool_size", "design", "votes_per_pair", "audit_share", "replan")
    content = judging.content()
    judges = cast("list[dict[str, JsonValue]]", content["judges"])
    # What a verdict counts, later, changes no pair that was bought.
    chosen = {name: content[name] for name in named} | {
        "judges": [{name: value for name, value in judge.items() if name != "weight"} for judge in judges]
    }
    told = {name: content[name] for name in ("instruction", "routing") if content[name]}
    return digest_json({
        "version": FROZEN_VERSION,
        "family": family,
        "judging": cast("Json", chosen | told),
        "rating": {"prior": rating.prior, "model": rating.model},
        "retrieval": retrieval,
        "seed": seed,
    })  # fmt: skip


def plan_first(study: Study) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Draw the first round: one cycle per query, through neighbours of the starting prior's order where there is a prior.

    Returns:
        PLAN and CERTIFICATES frames.
    """
    seed = study.judging.draw_seed(study.seed)
    pairs = first_round(study.features, starting(study), lambda name: query_generator(seed, name, CHOICE_STREAM))
    plan = plan_pairs(pairs, study.judging, study.seed, 1)
    return plan, certify_plan(plan, study.features)


async def collect_rounds_async(plan: pl.DataFrame, desk: Desk, study: Study, progress: Progress = silent) -> Rounds:
    """Obtain every verdict of all rounds; `collect_rounds` for callers that run an event loop."""
    config = study.judging
    total = plan.height + round(later_calls(plan, study)[1])
    first = await ask_round(plan, desk, study.features, starting(study), None, 1, shifted(progress, 0, total))
    judgments, asked, report, frozen = first.judgments, first.asked, first.report, None
    book = ChoiceBook(desk.books, study.choices) if study.choices is not None else None
    for number in range(2, config.rounds + 1):
        if number == 2:
            frozen = freeze(judgments, asked, desk.books, study)
        prior = frozen.prior if frozen else None
        later = plan_next(judgments, asked, study, prior, number, book)
        told = shifted(progress, asked.height, max(total, asked.height + later.height))
        done = await ask_round(later, desk, study.features, prior, judgments, number, told)
        judgments, report = JUDGMENTS.frame(pl.concat([judgments, done.judgments])), report.plus(done.report)
        asked = PLAN.frame(pl.concat([asked, done.asked]))
    return Rounds(judgments, report, frozen)


def collect_rounds(plan: pl.DataFrame, desk: Desk, study: Study, progress: Progress = silent) -> Rounds:
    """Obtain every verdict of all rounds of an adaptive plan.

    Every call goes through the ledger, and what is asked is a function of the verdicts and the frozen prior alone: killed at any
    moment, the next call repeats nothing that was committed and returns the same table.

    Args:
        plan: PLAN frame of the first round (`plan_first`), with the rows that a refresh carries on.
        desk: what they are asked with.
        study: what the choice of pairs rests on.
        progress: told the verdicts that are durable.

    Raises:
        InputError, JudgeError, LedgerError, CapReached, BatchPending: as `collect.collect`.
    """
    return run(collect_rounds_async(plan, desk, study, progress), desk.judges)


def collect_plan(plan: pl.DataFrame, desk: Desk, documents: pl.DataFrame, progress: Progress = silent) -> Rounds:
    """Obtain every verdict of a plan that was drawn at once, tier by tier where there is a cascade.

    Args:
        plan: PLAN frame.
        desk: what they are asked with.
        documents: query_id, doc_id of every document that may be compared.
        progress: told the verdicts that are durable.

    Raises:
        InputError, JudgeError, LedgerError, CapReached, BatchPending: as `collect.collect`.
    """
    done = run(ask_round(plan, desk, documents, None, progress=progress), desk.judges)
    return Rounds(done.judgments, done.report, None)


def starting(study: Study) -> ScorePrior | None:
    """What is believed before the first verdict."""
    return starting_prior() if study.rating.prior == "scores" else None


def freeze(judgments: pl.DataFrame, asked: pl.DataFrame, ledger: Ledger, study: Study) -> Frozen | None:
    """Return the prior that chooses later pairs: that on record, or estimated now from the first round of all queries.

    Slopes and precision are shared by all queries. Estimated again for every new query they would change the pairs of all, and
    the budget would be paid twice.
    """
    if study.rating.prior == "zero":
        return None
    known = ledger.frozen_prior(study.plan_key)
    if known is not None:
        return Frozen.from_text(known)
    estimate = estimate_prior(judgments, asked, study)
    return Frozen.from_text(ledger.freeze_prior(study.plan_key, canonical_json(estimate.as_json()).decode()))


def estimate_prior(judgments: pl.DataFrame, asked: pl.DataFrame, study: Study) -> Frozen:
    """Estimate the prior from the first round."""
    first = so_far(judgments.filter(pl.col("round") == 1), asked.filter(pl.col("round") == 1), study.judging)
    prior = fit_prior(first, study.features, model=study.rating.model)
    return Frozen(prior, first["query_id"].n_unique(), first.filter(pl.col("weight") > 0).height)


def plan_next(
    judgments: pl.DataFrame,
    asked: pl.DataFrame,
    study: Study,
    prior: ScorePrior | None,
    number: int,
    book: ChoiceBook | None = None,
) -> pl.DataFrame:
    """Choose and plan one later round of every query: an equal share of what is left of its budget.

    Args:
        judgments: verdicts so far.
        asked: PLAN frame of the rounds so far.
        study: what the choice rests on.
        prior: the frozen prior; None for a flat one.
        number: round, from 2.
        book: where choices are on record; None: they are made from the verdicts, and kept nowhere.

    Returns:
        PLAN frame of the round.
    """
    comparisons = so_far(judgments, asked, study.judging)
    spent = dict(comparisons.group_by("query_id").len().iter_rows())
    rounds_left = study.judging.rounds - number + 1
    settled = settled_queries(comparisons, judgments, study, prior)
    # Rounded up: the remainder goes to the earlier rounds, and what a cap held back is spent later.
    counts = {
        name: 0 if name in settled else -(-max(budget - spent.get(name, 0), 0) // rounds_left)
        for name, budget in study.budgets.items()
    }
    if study.closed is not None:
        comparisons = with_closed(comparisons, study.closed)

    def choose(wanted: Mapping[str, int]) -> pl.DataFrame:
        return next_round(comparisons, study.features, prior, wanted, cap=study.judging.cap, model=study.rating.model)

    if book is None:
        return plan_pairs(choose(counts), study.judging, study.seed, number)
    # Pairs that a cap left without an answer will have one when it is raised: what follows from them is not for good.
    blind = set(judgments.filter(pl.col("status") == CAPPED)["query_id"])
    kept = {name: count for name, count in counts.items() if name not in blind}
    pairs = book.pairs(number, kept, comparisons, study.features, choose)
    others = choose({name: count for name, count in counts.items() if name in blind}) if blind else pairs.clear()
    return plan_pairs(pl.concat([pairs, others]), study.judging, study.seed, number)


def with_closed(comparisons: pl.DataFrame, closed: pl.DataFrame) -> pl.DataFrame:
    """Comparisons with those pairs added, without evidence, that are not to be asked."""
    more = closed.join(comparisons, on=["query_id", "doc_i", "doc_j"], how="anti")
    without = more.with_columns(preference=pl.lit(0.5), weight=pl.lit(0.0)).select(comparisons.columns)
    return pl.concat([comparisons, without]).sort("query_id", "doc_i", "doc_j")


def so_far(judgments: pl.DataFrame, asked: pl.DataFrame, config: JudgingConfig) -> pl.DataFrame:
    """Fold verdicts into comparisons; a pair that was asked without an answer is one of weight 0, and is not asked again.

    Returns:
        query_id, doc_i, doc_j, preference, weight, sorted.
    """
    known = answered_or_not(judgments, config)
    lost = asked.select("query_id", **ENDS).unique().join(known, on=["query_id", "doc_i", "doc_j"], how="anti")
    unanswered = lost.with_columns(preference=pl.lit(0.5), weight=pl.lit(0.0))
    return pl.concat([known, unanswered]).sort("query_id", "doc_i", "doc_j")


def settled_queries(comparisons: pl.DataFrame, judgments: pl.DataFrame, study: Study, prior: ScorePrior | None) -> frozenset[str]:
    """Queries that the stop rule leaves: their top is settled, or a dollar would move it too little."""
    rule = study.judging.stop
    if rule is None or not comparisons.height:
        return frozenset()
    seen = outlook_of(comparisons, judgments, study, prior, rule)
    return frozenset(seen.filter(pl.col("stop"))["query_id"])


def outlook_of(
    comparisons: pl.DataFrame, judgments: pl.DataFrame, study: Study, prior: ScorePrior | None, rule: StopRule
) -> pl.DataFrame:
    """OUTLOOKS of every query that was asked, priced by what calls have cost so far."""
    paid = float(judgments["cost_usd"].sum()) / max(judgments.height, 1)
    asked = comparisons.select("query_id").unique()
    documents = study.features.join(asked, on="query_id", how="semi", maintain_order="left")
    seed = study.judging.draw_seed(study.seed)
    return outlooks(comparisons, documents, rule, seed, usd_per_call=paid or None, prior=prior, model=study.rating.model)


def later_calls(plan: pl.DataFrame, study: Study) -> tuple[float, float, float]:
    """Low, expected and high number of calls after the first round: the pairs are known, how many are audited is drawn.

    Equation: pairs * votes + A * (2 judges - votes), A ~ Binomial(pairs, audit share), with A at its mean and at 1.96 standard
    deviations either way.
    """
    config = study.judging
    first = plan.select("query_id", **ENDS).n_unique() if plan.height else 0
    pairs = max(sum(study.budgets.values()) - first, 0) if config.rounds > 1 and plan.height else 0
    share, extra = config.audit_share, 2 * len(config.judges) - config.votes_per_pair
    spread = Z95 * sqrt(pairs * share * (1 - share))
    audited = [min(max(pairs * share + sign * spread, 0), pairs) for sign in (-1, 0, 1)]
    upper = moved_up(config) * (pairs + first)
    least = 0.0 if config.stop is not None else 1.0  # a stop rule may leave every query after its first round
    doubled = 2 if config.routing is not None and config.routing.tiers[0].both_orders else 1
    low, expected, high = (pairs * config.votes_per_pair * doubled + extra * count for count in audited)
    return least * low, expected + upper, high + upper


def moved_up(config: JudgingConfig) -> float:
    """Calls per pair of the upper tiers, at most: their shares, which a cascade fills while there is doubt."""
    tiers = config.routing.tiers[1:] if config.routing is not None else ()
    return sum(tier.share * (2 if tier.both_orders else 1) for tier in tiers)
