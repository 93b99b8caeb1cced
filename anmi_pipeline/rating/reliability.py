"""How far probabilities can be believed: calibration error, reliability bins, Brier score, log-loss, has-evidence AUC.

Belongs here: figures from predicted probabilities and what came out. Does not: making the probabilities (`calibration.py`) and
drawing them.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from anmi_pipeline.errors import InputError
from anmi_pipeline.rating.graphs import Floats, Ints

Binning = Literal["mass", "width"]
CLIP = 1e-6
"""Probabilities are kept this far from 0 and 1 in the log-loss, or one certain error would hide all else."""


@dataclass(frozen=True)
class Reliability:
    """How well probabilities fit outcomes.

    Attributes:
        ece: expected calibration error, bins of equal mass.
        ece_width: the same, bins of equal width.
        floor: equal-mass error that perfectly calibrated probabilities of these values would show by chance, in the mean.
        brier: mean squared error.
        log_loss: mean negative log-likelihood, nats.
        query_gap: mean over queries of |mean probability - share relevant|: whether a level holds ACROSS queries. The pooled
            errors cannot see queries that are too high and queries that are too low: they cancel inside a bin.
        rows: outcomes.
    """

    ece: float
    ece_width: float
    floor: float
    brier: float
    log_loss: float
    query_gap: float
    rows: int


def measure(p: Floats, y: Floats, query: Ints, bins: int = 10) -> Reliability:
    """Compare probabilities with outcomes.

    Args:
        p: (N,) probabilities.
        y: (N,) outcomes, 0 or 1.
        query: (N,) query of each.
        bins: bins of the calibration errors.

    Raises:
        InputError: no outcome, or values outside 0..1.
    """
    check_outcomes(p, y, bins)
    safe = np.clip(p, CLIP, 1 - CLIP)
    size = int(query.max()) + 1
    counts = np.bincount(query, minlength=size)
    gaps = np.abs(np.bincount(query, weights=p - y, minlength=size)[counts > 0] / counts[counts > 0])
    return Reliability(
        ece=calibration_error(p, y, bins),
        ece_width=calibration_error(p, y, bins, "width"),
        floor=chance_error(p, bins),
        brier=float(np.mean((p - y) ** 2)),
        log_loss=float(-np.mean(y * np.log(safe) + (1 - y) * np.log1p(-safe))),
        query_gap=float(gaps.mean()),
        rows=len(p),
    )


def check_outcomes(p: Floats, y: Floats, bins: int) -> None:
    """Refuse what no reliability can be computed from."""
    if not len(p) or len(p) != len(y) or bins < 1:
        raise InputError(
            f"{len(p)} probabilities for {len(y)} outcomes in {bins} bins; give as many of each, at least one of all."
        )
    if not ((p >= 0) & (p <= 1) & ((y == 0) | (y == 1))).all():
        raise InputError("a probability lies outside 0..1 or an outcome is neither 0 nor 1.")


def reliability_bins(p: Floats, y: Floats, bins: int = 10, binning: Binning = "mass") -> pl.DataFrame:
    """Gather probabilities in bins.

    Args:
        p: (N,) probabilities.
        y: (N,) outcomes, 0 or 1.
        bins: number of bins.
        binning: `mass`: equally many rows in each (equal probabilities may fall into neighbours); `width`: equal parts of 0..1.

    Returns:
        bin, predicted (mean probability), observed (share relevant), n; one row per bin that holds rows.

    Raises:
        InputError: no outcome, or values outside 0..1.
    """
    check_outcomes(p, y, bins)
    place = places(p, bins, binning)
    rows = pl.DataFrame({"bin": place, "predicted": p, "observed": y})
    means = rows.group_by("bin").agg(pl.col("predicted").mean(), pl.col("observed").mean(), n=pl.len().cast(pl.Int64))
    return means.sort("bin")


def places(p: Floats, bins: int, binning: Binning) -> Ints:
    """(N,) bin of each probability."""
    if binning == "width":
        return np.minimum((p * bins).astype(np.int64), bins - 1)
    place = np.empty(len(p), dtype=np.int64)
    # Equal probabilities keep the order of the rows; which bin they fall into moves the error by less than their number allows.
    place[np.argsort(p, kind="stable")] = np.arange(len(p)) * bins // len(p)
    return place


def calibration_error(p: Floats, y: Floats, bins: int = 10, binning: Binning = "mass") -> float:
    """Expected calibration error.

    Equation: sum over bins of n_b / n * |mean p - mean y|. Source: Naeini, Cooper and Hauskrecht (2015), with equal widths;
    equal mass after Nguyen and O'Connor (2015).
    """
    place = places(p, bins, binning)
    return float(np.abs(np.bincount(place, weights=p - y, minlength=bins)).sum() / len(p))


def chance_error(p: Floats, bins: int = 10) -> float:
    """Equal-mass calibration error that outcomes drawn with exactly these probabilities would show, in the mean.

    Equation: sum over bins of sqrt(2 / pi * sum p (1 - p)) / n: the mean absolute value of a normal sum. Rows are taken as
    independent; rows of one query are not, so the true floor lies higher.
    """
    spread = np.bincount(places(p, bins, "mass"), weights=p * (1 - p), minlength=bins)
    return float(np.sqrt(2 / np.pi * spread).sum() / len(p))


def any_relevant(relevance: Floats, query: Ints, queries: int) -> Floats:
    """(Q,) log-odds-like score that a query has any relevant document: -log P(none).

    Equation: -sum log(1 - relevance), documents taken as independent given the query. A rank is all that is meant: as a
    probability, 1 - exp(-score) is too sure.
    """
    doubt = -np.log1p(-np.clip(relevance, 0.0, 1.0 - CLIP))
    return np.asarray(np.bincount(query, weights=doubt, minlength=queries), dtype=np.float64)


def auc(score: Floats, positive: Floats) -> float | None:
    """Probability that a positive has the higher score, ties counted half; None without both kinds.

    Equation: (sum of ranks of positives - m (m + 1) / 2) / (m n). Source: Mann and Whitney (1947).
    """
    from scipy.stats import rankdata

    m = int((positive == 1).sum())
    n = len(positive) - m
    if not m or not n:
        return None
    return float((rankdata(score)[positive == 1].sum() - m * (m + 1) / 2) / (m * n))
