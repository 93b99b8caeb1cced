"""How far a pairwise model can be believed: agreement with verdicts, calibration error before and after its temperature.

Belongs here: figures of logits against verdicts, the temperature, reliability bins. Does not: any model.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from anmi_pipeline.rating.graphs import Floats
from anmi_pipeline.rating.reliability import calibration_error, chance_error, places

BINS = 10
LOG_TEMPERATURE = (-4.0, 5.0)
"""Range of log temperature: at its upper end every probability is near one half, right for a model that knows nothing."""


@dataclass(frozen=True)
class PairwiseFigures:
    """Figures on held-out verdicts.

    Attributes:
        pairs: held-out pairs.
        queries: their queries.
        agreement: share of the pairs that are no ties in which the model names the document that the judges prefer.
        ece: expected calibration error of its confidence at temperature 1, 10 bins of equal mass.
        ece_scaled: the same at temperatures that the other half of the queries chose.
        chance: error that perfectly calibrated probabilities of these values would show by chance, pairs independent.
        log_loss: mean negative log-likelihood at temperature 1, nats.
        log_loss_scaled: the same at temperatures that the other half of the queries chose.
        temperature: fitted to all held-out pairs.
    """

    pairs: int
    queries: int
    agreement: float
    ece: float
    ece_scaled: float
    chance: float
    log_loss: float
    log_loss_scaled: float
    temperature: float


def fit_temperature(logits: Floats, preference: Floats, weight: Floats) -> float:
    """The temperature under which held-out verdicts are the most probable.

    Equation: argmin over T of the weighted mean of log(1 + exp(z / T)) - p z / T. Source: Guo, Pleiss, Sun and Weinberger (2017).
    """
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda log_t: loss(logits / np.exp(log_t), preference, weight),
        bounds=LOG_TEMPERATURE,
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))


def loss(logits: Floats, preference: Floats, weight: Floats) -> float:
    """Weighted mean of the cross-entropy, nats."""
    return float(np.average(np.logaddexp(0.0, logits) - preference * logits, weights=weight))


def figures(held_out: pl.DataFrame, temperature: float) -> PairwiseFigures:
    """Measure logits against held-out verdicts.

    Args:
        held_out: query_id, preference, weight, logit.
        temperature: fitted to all of them.
    """
    z, y, weight = (held_out[name].to_numpy().astype(np.float64) for name in ("logit", "preference", "weight"))
    queries = held_out["query_id"].unique().sort()
    number = held_out["query_id"].replace_strict(queries, pl.int_range(len(queries), eager=True)).to_numpy()
    scaled = cross_scaled(z, y, weight, number % 2)
    one, other = confidence(z, y), confidence(scaled, y)
    return PairwiseFigures(
        pairs=held_out.height,
        queries=len(queries),
        agreement=agreement(z, y),
        ece=calibration_error(*one, BINS),
        ece_scaled=calibration_error(*other, BINS),
        chance=chance_error(other[0], BINS),
        log_loss=loss(z, y, weight),
        log_loss_scaled=loss(scaled, y, weight),
        temperature=temperature,
    )


def agreement(logits: Floats, preference: Floats) -> float:
    """Share of the pairs that are no ties in which both name the same document; an undecided model counts half."""
    told = preference != 0.5
    if not told.any():
        return float("nan")
    return float(np.mean(np.where(logits[told] == 0, 0.5, (logits[told] > 0) == (preference[told] > 0.5))))


def retrieval_agreement(held_out: pl.DataFrame, pool: pl.DataFrame, generator: str) -> float | None:
    """Agreement of a candidate generator's order with held-out verdicts: what the model must beat to say anything new.

    Args:
        held_out: query_id, doc_i, doc_j, preference.
        pool: POOL frame; a document beyond the generator's depth counts as the last.
        generator: whose order.

    Returns:
        Share of the pairs that are no ties; None where there are none.
    """
    rank = pl.col(f"{generator}_pool_rank").cast(pl.Float64())
    ranks = pool.select("query_id", "doc_id", rank=rank)
    gap = held_out
    for end in ("doc_i", "doc_j"):
        gap = gap.join(
            ranks.rename({"doc_id": end, "rank": f"rank_{end}"}), on=["query_id", end], how="left", maintain_order="left"
        ).with_columns(pl.col(f"rank_{end}").fill_null(float("inf")))
    ahead = np.sign(gap["rank_doc_j"].to_numpy() - gap["rank_doc_i"].to_numpy())
    found = agreement(np.nan_to_num(ahead), gap["preference"].to_numpy())
    return None if np.isnan(found) else found


def cross_scaled(logits: Floats, preference: Floats, weight: Floats, half: Floats) -> Floats:
    """(n,) logits over the temperature of the other half of the queries; of all, where a half has none."""
    scaled = np.empty(len(logits))
    for side in (0, 1):
        own = half == side
        other = ~own if (~own).any() else own
        if own.any():
            scaled[own] = logits[own] / fit_temperature(logits[other], preference[other], weight[other])
    return scaled


def confidence(logits: Floats, preference: Floats) -> tuple[Floats, Floats]:
    """Probability of the document that the model names, and what the judges said of it: a pair has no first side of its own."""
    p = 1 / (1 + np.exp(-np.abs(logits)))
    return p, np.where(logits >= 0, preference, 1 - preference)


def confidence_bins(held_out: pl.DataFrame, temperature: float, bins: int = BINS) -> pl.DataFrame:
    """Confidence against how often the judges agreed: predicted, observed, n, one row per bin of equal mass."""
    z, y = held_out["logit"].to_numpy() / temperature, held_out["preference"].to_numpy()
    p, said = confidence(z, y)
    rows = pl.DataFrame({"bin": places(p, bins, "mass"), "predicted": p, "observed": said})
    return rows.group_by("bin").agg(pl.col("predicted", "observed").mean(), n=pl.len().cast(pl.Int64())).sort("bin")
