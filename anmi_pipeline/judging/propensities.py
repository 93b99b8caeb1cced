"""How likely a position is to be looked at: the position-based click model, estimated from a click log.

Belongs here: the model, its two estimators and what a log can identify. Does not: reading logs (`click_files.py`) and preferences
(`clicks.py`).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from anmi_pipeline.errors import InputError, nearest
from anmi_pipeline.rating.graphs import Bools, Floats, Ints

Estimator = Literal["ratios", "em"]
ESTIMATORS: tuple[Estimator, ...] = ("ratios", "em")

MAX_ROUNDS, TOLERANCE = 5_000, 1e-7
LEAST = 1e-6
"""Probabilities are kept this far from 0 and 1: at either end EM would never move again."""
DOCUMENT = ["query_id", "doc_id"]


@dataclass(frozen=True)
class Propensities:
    """A fitted position-based model: P(click) = examination of the position * attraction of the document for the query.

    Attributes:
        examination: (K,) P(examined) by position, relative to the first: examination[0] is 1.
        identified: (K,) whether the log ties the position to the first one: a document was shown at both, or at others between.
        impressions: (K,) documents shown at each position.
        attraction: query_id, doc_id, attraction = P(click if examined), impressions.
        rounds: EM rounds.
        converged: whether the last round moved nothing by more than 1e-7.
        log_likelihood: mean per document shown.
    """

    examination: Floats
    identified: Bools
    impressions: Ints
    attraction: pl.DataFrame
    rounds: int
    converged: bool
    log_likelihood: float


@dataclass(frozen=True)
class Counts:
    """A click log in numbers: impressions and clicks of each (document, position) cell.

    Attributes:
        documents: query_id, doc_id by number.
        document: (N,) number of the document.
        position: (N,) from 0.
        shown: (N,) impressions.
        clicked: (N,) of them clicked.
    """

    documents: pl.DataFrame
    document: Ints
    position: Ints
    shown: Floats
    clicked: Floats

    @property
    def positions(self) -> int:
        """Number of positions."""
        return int(self.position.max(initial=-1)) + 1


def fit_propensities(
    log: pl.DataFrame, *, estimator: Estimator = "ratios", prior: float = 1.0, examination: Floats | None = None
) -> Propensities:
    """Estimate examination by position from a click log.

    Equation: P(C = 1) = t_k g_qd, t_1 = 1. `ratios` (see `ratios`) needs only E[C] to have that form and is right however few
    impressions a document has. `em` maximises the likelihood of clicks in t and g together: with few impressions per document it
    makes up an attraction for every document, and t with it (5 impressions each: t_10 off by a factor of two).
    Source of the model: Richardson, Dominowska and Ragno (2007); of its EM: Chuklin, Markov and de Rijke, Click Models for Web
    Search (2015), section 4.2.3. Attractions are those of EM in both cases, for `ratios` with t given.

    Only documents that were shown at several positions tell positions apart. A log whose ranking never changes identifies
    nothing, and says so in `identified`.

    Args:
        log: query_id, doc_id, position (from 1), clicked; one row per document shown.
        estimator: of examination.
        prior: pseudo-impressions behind each document's attraction, at the mean attraction; 0: maximum likelihood.
        examination: (K,) examination where it is known; then only attractions are estimated.

    Raises:
        InputError: an empty log, a position below 1, a negative prior, an unknown estimator, or a log without a single click at
            the first position.
    """
    if estimator not in ESTIMATORS:
        raise InputError(f'estimator "{estimator}" of propensities does not exist.{nearest(estimator, ESTIMATORS)}')
    if not prior >= 0:
        raise InputError(f"prior is {prior}; it counts pseudo-impressions and must be 0 or more.")
    counts = counted(log)
    if examination is not None and len(examination) < counts.positions:
        raise InputError(f"examination is given for {len(examination)} positions; the click log shows {counts.positions}.")
    if examination is None and not counts.clicked[counts.position == 0].any():
        raise InputError(
            f"the click log shows {int(counts.shown.sum())} documents and no click at position 1, which all others are compared "
            "with: nothing can be estimated."
        )
    rate = float(counts.clicked.sum() / counts.shown.sum())
    fixed = examination is not None or estimator == "ratios"
    start = examination[: counts.positions] if examination is not None else first_guess(counts, estimator)
    guess = np.full(counts.documents.height, min(max(2 * rate, LEAST), 0.5))
    state, rounds, converged = squarem(np.concatenate((start, guess)), counts, prior, fixed=fixed)
    t, g = split(state, counts)
    if examination is None:
        t, g = t / t[0], g * t[0]  # only t * g is seen: the first position is the unit
    t, g = np.minimum(t, 1.0), np.minimum(g, 1.0)
    impressions = np.bincount(counts.document, weights=counts.shown).astype(np.int64)
    return Propensities(
        examination=t,
        identified=identified(counts) if examination is None else np.ones(counts.positions, dtype=np.bool_),
        impressions=np.bincount(counts.position, weights=counts.shown, minlength=counts.positions).astype(np.int64),
        attraction=counts.documents.with_columns(attraction=pl.Series(g), impressions=pl.Series(impressions)),
        rounds=rounds,
        converged=converged,
        log_likelihood=log_likelihood(np.concatenate((t, g)), counts) / float(counts.shown.sum()),
    )


def first_guess(counts: Counts, estimator: Estimator) -> Floats:
    """Examination to start from; for `ratios` it is the estimate."""
    return ratios(counts) if estimator == "ratios" else 1 / np.arange(1.0, counts.positions + 1)


def ratios(counts: Counts) -> Floats:
    """(K,) examination from the ratios of a document's click rates at its positions.

    Equation: alternate g_d = sum_k c_dk / sum_k n_dk t_k and t_k = sum_d c_dk / sum_d n_dk g_d. This is the Poisson
    quasi-likelihood with a free effect per document, which conditions on each document's clicks: the estimate of t converges with
    the number of documents, at any number of impressions of each, and only needs E[c_dk] = n_dk g_d t_k.
    Source: Wooldridge, Journal of Econometrics 90 (1999); the idea of ratios within a document: Agarwal et al., WSDM 2019.
    """
    positions, documents = counts.positions, counts.documents.height
    at = np.bincount(counts.position, weights=counts.clicked, minlength=positions)
    own = np.bincount(counts.document, weights=counts.clicked, minlength=documents)
    t = np.ones(positions)
    for _ in range(MAX_ROUNDS):
        g = own / np.bincount(counts.document, weights=counts.shown * t[counts.position], minlength=documents)
        expected = np.bincount(counts.position, weights=counts.shown * g[counts.document], minlength=positions)
        new = np.where(expected > 0, at / np.where(expected > 0, expected, 1.0), t)
        new = np.maximum(new / new[0], LEAST)
        if np.abs(new - t).max() < TOLERANCE:
            return np.asarray(new, dtype=np.float64)
        t = new
    return t


def counted(log: pl.DataFrame) -> Counts:
    """Count a log's impressions and clicks by document and position."""
    if log.is_empty():
        raise InputError("the click log is empty: nothing can be estimated from it.")
    if int(log.select(pl.col("position").min()).item()) < 1:
        raise InputError(f"the click log holds position {log['position'].min()}; positions count from 1.")
    cells = log.group_by(*DOCUMENT, "position").agg(
        shown=pl.len().cast(pl.Float64()), clicked=pl.col("clicked").sum().cast(pl.Float64())
    )
    cells = cells.sort(*DOCUMENT, "position").with_columns(document=pl.struct(DOCUMENT).rle_id().cast(pl.Int64()))
    documents = cells.select(DOCUMENT).unique(maintain_order=True)
    number, position, shown, clicked = (cells[name].to_numpy() for name in ("document", "position", "shown", "clicked"))
    return Counts(documents, number, position.astype(np.int64) - 1, shown, clicked)


def split(state: Floats, counts: Counts) -> tuple[Floats, Floats]:
    """Examination and attraction of a state."""
    return state[: counts.positions], state[counts.positions :]


def em_round(state: Floats, counts: Counts, prior: float, *, fixed: bool) -> Floats:
    """One round of EM: the expected shares of examined and of attractive showings; `fixed` leaves examination as it is.

    Equation: of an unclicked document P(examined, not attractive) = t (1 - g) / (1 - t g) and P(attractive, not examined) =
    g (1 - t) / (1 - t g).
    """
    examination, attraction = split(state, counts)
    t, g = np.minimum(examination[counts.position], 1 - LEAST), attraction[counts.document]
    missed = counts.shown - counts.clicked
    unseen = 1 - t * g
    looked = counts.clicked + missed * t * (1 - g) / unseen
    liked = counts.clicked + missed * g * (1 - t) / unseen
    positions, documents = counts.positions, counts.documents.height
    shown_at = np.bincount(counts.position, weights=counts.shown, minlength=positions)
    shown_of = np.bincount(counts.document, weights=counts.shown, minlength=documents)
    own = np.bincount(counts.document, weights=liked, minlength=documents)
    mean = float(own.sum() / shown_of.sum())
    # A position between others may never have been shown.
    new_t = np.bincount(counts.position, weights=looked, minlength=positions) / np.maximum(shown_at, 1.0)
    new_g = (own + prior * mean) / (shown_of + prior)
    kept = examination if fixed else np.clip(np.where(shown_at > 0, new_t, examination), LEAST, 1 - LEAST)
    return np.concatenate((kept, np.clip(new_g, LEAST, 1 - LEAST)))


def squarem(state: Floats, counts: Counts, prior: float, *, fixed: bool) -> tuple[Floats, int, bool]:
    """Run EM with squared extrapolation; an extrapolation that lowers the likelihood is not taken.

    Source: Varadhan and Roland, Scandinavian Journal of Statistics 35 (2008).

    Returns:
        The state, EM rounds and whether it settled.
    """
    rounds = 0
    while rounds < MAX_ROUNDS:
        once = em_round(state, counts, prior, fixed=fixed)
        twice = em_round(once, counts, prior, fixed=fixed)
        rounds += 2
        r, v = once - state, (twice - once) - (once - state)
        if np.abs(twice - once).max() < TOLERANCE:
            return twice, rounds, True
        length = -max(1.0, float(np.linalg.norm(r) / max(float(np.linalg.norm(v)), 1e-300)))
        leap = np.clip(state - 2 * length * r + length**2 * v, LEAST, 1.0)
        leap = em_round(leap, counts, prior, fixed=fixed)
        rounds += 1
        state = leap if log_likelihood(leap, counts) >= log_likelihood(twice, counts) else twice
    return state, rounds, False


def log_likelihood(state: Floats, counts: Counts) -> float:
    """Of the clicks, without the prior."""
    examination, attraction = split(state, counts)
    p = np.clip(np.minimum(examination[counts.position], 1.0) * attraction[counts.document], LEAST**2, 1 - LEAST)
    return float((counts.clicked * np.log(p) + (counts.shown - counts.clicked) * np.log1p(-p)).sum())


def identified(counts: Counts) -> Bools:
    """(K,) positions that documents shown at several positions, with a click at either, connect with the first one."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    # A document that was never clicked says nothing about the ratio of its positions.
    clicks = np.bincount(counts.document, weights=counts.clicked, minlength=counts.documents.height)
    live = clicks[counts.document] > 0
    positions = counts.positions
    rows, columns = counts.position[live], positions + counts.document[live]
    size = positions + counts.documents.height
    graph = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(size, size))
    labels = connected_components(graph, directed=False)[1]
    return np.asarray(labels[:positions] == labels[0], dtype=np.bool_)
