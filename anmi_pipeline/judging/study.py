"""What the choice of pairs rests on besides the verdicts: configuration, features, budgets, and the name of the frozen prior.

Belongs here: `Study` and the key of a plan. Does not: the frozen prior itself (`frozen_prior.py`), the choice of pairs
(`round_plans.py`).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import cast

import polars as pl
from pydantic import JsonValue

from anmi_pipeline.digests import Json, digest_json
from anmi_pipeline.judging.carrying import Previous, closed_pairs, grown_budgets
from anmi_pipeline.judging.choices import choices_key
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.evidence import judged_pool
from anmi_pipeline.judging.plan import pair_budget
from anmi_pipeline.rating.config import RatingConfig
from anmi_pipeline.rating.features import score_features

FROZEN_VERSION = 1
"""Raised when the estimate of the frozen prior, or what its key covers, changes."""


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
