"""The prior that chooses later pairs: estimated once from the first round, and frozen in the ledger.

Belongs here: its estimate, its entry in the ledger, what stands in for it before the first verdict. Does not: the estimator
(`rating/prior.py`), its name in the ledger (`study.py`).
"""

import json
from dataclasses import dataclass
from typing import cast

import polars as pl

from anmi_pipeline.digests import Json, canonical_json
from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.asked_pairs import so_far
from anmi_pipeline.judging.asking import CAPPED
from anmi_pipeline.judging.ledger import Ledger, LedgerError
from anmi_pipeline.judging.study import Study
from anmi_pipeline.rating.prior import ScorePrior, fit_prior, starting_prior


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
    estimate = canonical_json(estimate_prior(judgments, asked, study).as_json()).decode()
    if (judgments["status"] == CAPPED).any():
        return Frozen.from_text(estimate)  # the cap may be raised: what follows from half of a round is not for good
    return Frozen.from_text(ledger.freeze_prior(study.plan_key, estimate))


def estimate_prior(judgments: pl.DataFrame, asked: pl.DataFrame, study: Study) -> Frozen:
    """Estimate the prior from the first round."""
    first = so_far(judgments.filter(pl.col("round") == 1), asked.filter(pl.col("round") == 1), study.judging)
    prior = fit_prior(first, study.features, model=study.rating.model)
    return Frozen(prior, first["query_id"].n_unique(), first.filter(pl.col("weight") > 0).height)
