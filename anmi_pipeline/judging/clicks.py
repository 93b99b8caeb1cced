"""Clicks as a judge: click logs become comparisons, without a call of any LLM.

Belongs here: preferences with their position bias taken out. Does not: reading logs (`click_files.py`), the click model
(`propensities.py`), adding comparisons to an Elo table (`rating/online.py`). Clicks measure what attracts a searcher in a result
list, which is not quite relevance; they are marked by the judge `clicks` wherever they show.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from pydantic import Field

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.click_files import check_log
from anmi_pipeline.judging.propensities import Estimator, Propensities, fit_propensities
from anmi_pipeline.rating.graphs import Floats
from anmi_pipeline.settings import Config

COMPARED = {
    "query_id": pl.String(),
    "doc_i": pl.String(),
    "doc_j": pl.String(),
    "preference": pl.Float64(),
    "weight": pl.Float64(),
    "n_verdicts": pl.Int64(),
}
"""Columns of click comparisons, as `rating.online.update` takes them."""

BLOCK_ROWS = 200_000
"""Rows of the log whose pairs are formed at once."""


class ClickConfig(Config):
    """How clicks are read."""

    min_dwell_s: float = Field(
        default=0.0,
        ge=0,
        description="a click whose known dwell is shorter counts as a look that rejected the document, not as a preference",
    )
    evidence: float = Field(
        default=0.2,
        gt=0,
        description="weight of one observed preference, in verdicts; below 1, because the pairs of one click are not independent",
    )
    min_weight: float = Field(default=0.2, ge=0, description="comparisons with less evidence are left out")
    examination: tuple[float, ...] | None = Field(
        default=None,
        description="P(looked at) by position, relative to the first, where it is known; null: estimated from the log, which "
        "takes rankings that change",
    )
    estimator: Estimator = Field(default="ratios", description="how examination is estimated")
    attraction_prior: float = Field(default=1.0, ge=0, description="pseudo-impressions behind each document's attraction")


@dataclass(frozen=True)
class ClickEvidence:
    """What a log says.

    Attributes:
        comparisons: COMPARED columns, sorted.
        propensities: the click model.
        impressions: rankings shown.
        clicks: documents clicked.
        left_out: documents shown at positions whose examination the log cannot tell.
    """

    comparisons: pl.DataFrame
    propensities: Propensities
    impressions: int
    clicks: int
    left_out: int


def click_comparisons(log: pl.DataFrame, config: ClickConfig) -> ClickEvidence:
    """Turn a click log into comparisons.

    Skip-above (Joachims, KDD 2002) prefers a clicked document to those above it that were not clicked. Taken alone it can only
    ever contradict the ranking that was shown. Here its mirror counts too, a clicked document against one below that was looked
    at and not clicked, and each pair counts by the probability that the unclicked one was looked at.

    Equation: with t examination, g attraction, won = a satisfied click, lost = (not clicked) * t (1 - g) / (1 - t g) + (clicked,
    not satisfied): A = sum over impressions of won_i lost_j, B = sum of won_j lost_i; preference = A / (A + B), weight =
    evidence * (A + B). In the position-based model E[won_i lost_j] = t_i t_j g_i (1 - g_j): both directions carry the same
    examination, whatever the positions, so the preference estimates g_i (1 - g_j) / (g_i (1 - g_j) + g_j (1 - g_i)): logistic in
    logit g, a Bradley-Terry scale.

    Args:
        log: CLICKS frame.
        config: how clicks are read.

    Raises:
        InputError: a log that breaks the rules of CLICKS, or whose ranking never changes, so that positions cannot be told apart.
    """
    check_log(log)
    model = known_model(log, config) if config.examination is not None else estimated_model(log, config)
    positions = np.flatnonzero(model.identified) + 1
    usable = log.filter(pl.col("position").is_in(positions))
    votes = sides(usable, model, config)
    parts = [pl.DataFrame(schema=COMPARED)]
    parts += [paired(block) for block in blocks(votes)]
    sums = (
        pl.concat(parts)
        .group_by("query_id", "doc_i", "doc_j")
        .agg(pl.col("preference").sum(), pl.col("weight").sum(), pl.col("n_verdicts").sum())
    )
    comparisons = sums.with_columns(
        preference=(pl.col("preference") / pl.col("weight")).clip(0.0, 1.0), weight=config.evidence * pl.col("weight")
    ).filter(pl.col("weight") >= config.min_weight)
    return ClickEvidence(
        comparisons.sort("query_id", "doc_i", "doc_j"), model, log["impression"].n_unique(), int(log["clicked"].sum()),
        log.height - usable.height,
    )  # fmt: skip


def known_model(log: pl.DataFrame, config: ClickConfig) -> Propensities:
    """The click model with examination as it was given."""
    given = np.array(config.examination or (), dtype=np.float64)
    if not len(given) or not ((given > 0) & (given <= 1)).all():
        raise InputError(f"examination is {config.examination}; give one number in (0, 1] per position, 1 for the first.")
    return fit_propensities(log, prior=config.attraction_prior, examination=given)


def estimated_model(log: pl.DataFrame, config: ClickConfig) -> Propensities:
    """The click model as the log gives it."""
    model = fit_propensities(log, estimator=config.estimator, prior=config.attraction_prior)
    if model.identified.sum() < min(2, len(model.identified)):
        raise InputError(
            "the rankings of the click log never change: no clicked document was shown at two positions, so what a position does "
            "cannot be told from what a document does. Give `examination` by position, or log a while with neighbours swapped at "
            "random."
        )
    return model


def sides(log: pl.DataFrame, model: Propensities, config: ClickConfig) -> pl.DataFrame:
    """What each document shown can count for: impression, query_id, doc_id, won, lost; impressions with a click only."""
    joined = log.join(
        model.attraction.select("query_id", "doc_id", "attraction"), on=["query_id", "doc_id"], how="left", maintain_order="left"
    )
    t, g = model.examination[joined["position"].to_numpy() - 1], joined["attraction"].to_numpy()
    clicked = joined["clicked"].to_numpy()
    short = (joined["dwell_s"] < config.min_dwell_s).fill_null(False).to_numpy()
    looked = looked_at(t, g)
    won = (clicked & ~short).astype(np.float64)
    votes = joined.select("impression", "query_id", "doc_id").with_columns(
        won=pl.Series(won), lost=pl.Series(np.where(clicked, short.astype(np.float64), looked))
    )
    return votes.filter(pl.col("won").max().over("impression") > 0).sort("query_id", "impression", "doc_id")


def looked_at(t: Floats, g: Floats) -> Floats:
    """P(a document that was not clicked was examined): t (1 - g) / (1 - t g); 1 where the position is always examined."""
    unclicked = 1 - t * g
    return np.where(unclicked > 1e-9, t * (1 - g) / np.maximum(unclicked, 1e-9), 1.0)


def blocks(votes: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Cut sorted rows into parts of whole impressions."""
    starts = votes["impression"].rle_id()
    at = 0
    while at < votes.height:
        end = min(at + BLOCK_ROWS, votes.height)
        while end < votes.height and starts[end] == starts[end - 1]:
            end += 1
        yield votes[at:end]
        at = end


def paired(votes: pl.DataFrame) -> pl.DataFrame:
    """COMPARED sums of one part: `preference` holds A, `weight` A + B."""
    keys = ["impression", "query_id"]
    pairs = votes.join(votes, on=keys, how="inner", suffix="_j").filter(pl.col("doc_id") < pl.col("doc_id_j"))
    a, b = pl.col("won") * pl.col("lost_j"), pl.col("won_j") * pl.col("lost")
    told = pairs.select("query_id", doc_i="doc_id", doc_j="doc_id_j", a=a, both=a + b).filter(pl.col("both") > 0)
    return told.group_by("query_id", "doc_i", "doc_j").agg(
        preference=pl.col("a").sum(), weight=pl.col("both").sum(), n_verdicts=pl.len().cast(pl.Int64())
    )
