"""Adaptive comparison design on arrays: which pairs of one query to ask next.

Belongs here: the budget of a design in rounds, the first cycle and the choice of a batch of pairs. Does not: posteriors
(`posterior.py`) and frames of many queries (`rounds.py`).
"""

from typing import Literal

import numpy as np

from anmi_pipeline.errors import InputError, nearest
from anmi_pipeline.rating.config import Model
from anmi_pipeline.rating.designs import Bools, Ints, canonical, cycles
from anmi_pipeline.rating.graphs import Floats

Discount = Literal["both", "better", "none"]
DISCOUNTS: tuple[Discount, ...] = ("both", "better", "none")

CAP = 12
"""Most pairs of one document in one batch."""

BATCHES = 3
"""Batches after the first cycle."""

LOGISTIC_WIDTH = 1.702
"""The logistic function of 1.702 x is close to Phi(x)."""


def round_sizes(n: int, degree: int, batches: int = BATCHES) -> tuple[int, ...]:
    """Split the budget of one query over its rounds: (first, batch 1, ..., batch `batches`).

    Equation: floor(n * degree / 2) pairs in all, at most n (n - 1) / 2; first one cycle (n pairs), then equal batches, the
    remainder to the earlier ones.

    Raises:
        InputError: a negative n, fewer than two comparisons per document, or a negative number of batches.
    """
    if n < 0 or degree < 2 or batches < 0:
        raise InputError(
            f"an adaptive design with n = {n}, degree = {degree} and {batches} batches was asked for; it needs n and batches of "
            "0 or more and a degree of 2 or more, because its first cycle compares every document twice."
        )
    total = min(n * degree // 2, n * (n - 1) // 2)
    first = min(n, total)
    share, rest = divmod(total - first, max(batches, 1))
    return (first, *(share + (number < rest) for number in range(batches)))


def first_cycle(mean: Floats, precision: float, rng: np.random.Generator) -> Ints:
    """Draw the first round of one query: a Hamiltonian cycle through neighbours of the noisily sorted prior order.

    Documents are sorted by a draw from the prior, mean + N(0, 1 / precision), and each is compared with the one two places
    below: of all cycles the one whose longest jump in that order is shortest, so that no comparison is a foregone conclusion.

    Args:
        mean: (n,) prior means.
        precision: precision of the prior.
        rng: source of the draw.

    Returns:
        (E, 2) distinct pairs, smaller index first, sorted; E = n from n = 3 on.
    """
    n = len(mean)
    if n < 3:
        return cycles(n, 2, rng)
    order = np.argsort(-(mean + rng.normal(0.0, precision**-0.5, n)), kind="stable").astype(np.int64)
    return canonical(np.r_[order[0], order[-2], order[:-2]], np.r_[order[1], order[-1], order[2:]])


def next_pairs(
    theta: Floats,
    covariance: Floats,
    asked: Ints,
    count: int,
    *,
    cap: int = CAP,
    discount: Discount = "both",
    model: Model = "thurstone",
) -> Ints:
    """Choose the next batch of one query.

    Pairs are taken one by one, the best score first. Score = expected information of the verdict about theta (`kernels/pairs.py`)
    times 1/log2(rank + 2) of both documents, rank from 0 by posterior mean. After each choice the covariance is updated as if
    the verdict were in (its expected curvature is known before its outcome), so that a batch does not ask the same thing twice.
    Source: greedy choice under a submodular gain, Krause and Guestrin (2005); the discount is that of nDCG.

    Args:
        theta: (n,) posterior mode.
        covariance: (n, n) of theta, up to a constant.
        asked: (m, 2) pairs asked already; none is asked again.
        count: pairs wanted.
        cap: most pairs of one document in this batch.
        discount: `both` ranks, the `better` one, or `none`.
        model: link of the fit.

    Returns:
        (E, 2) distinct pairs, smaller index first, sorted; E < count where all pairs are asked or the cap leaves no more.

    Raises:
        InputError: a cap below 1, a negative count, an unknown discount or shapes that do not agree.
    """
    n = len(theta)
    check_batch(n, covariance, asked, count, cap, discount)
    if n < 2 or not count:
        return np.zeros((0, 2), dtype=np.int64)
    free = ~np.eye(n, dtype=np.bool_)
    free[asked[:, 0], asked[:, 1]] = free[asked[:, 1], asked[:, 0]] = False
    width = LOGISTIC_WIDTH if model == "bradley_terry" else 1.0
    return chosen(theta / width, covariance / width**2, free, rank_discounts(theta, discount), count, cap)


def check_batch(n: int, covariance: Floats, asked: Ints, count: int, cap: int, discount: str) -> None:
    """Refuse a request that has no answer."""
    if discount not in DISCOUNTS:
        raise InputError(f'discount "{discount}" does not exist.{nearest(discount, DISCOUNTS)}')
    if cap < 1 or count < 0:
        raise InputError(f"{count} pairs with at most {cap} per document were asked for; give a count >= 0 and a cap >= 1.")
    if covariance.shape != (n, n) or asked.ndim != 2 or asked.shape[1] != 2:
        raise InputError(
            f"theta has {n} documents, covariance shape {covariance.shape}, asked {asked.shape}; expected ({n}, {n}) and (m, 2)."
        )
    if len(asked) and not (asked.min() >= 0 and asked.max() < n):
        raise InputError(f"asked pairs name documents {asked.min()} to {asked.max()}; the query has documents 0 to {n - 1}.")


def rank_discounts(theta: Floats, discount: Discount) -> Floats:
    """(n, n) weight of each pair by the ranks of its documents."""
    n = len(theta)
    rank = np.empty(n, dtype=np.int64)
    rank[np.argsort(-theta, kind="stable")] = np.arange(n)
    own = 1.0 / np.log2(rank + 2.0)
    if discount == "both":
        return own[:, None] * own[None, :]
    return np.maximum(own[:, None], own[None, :]) if discount == "better" else np.ones((n, n))


def chosen(theta: Floats, covariance: Floats, free: Bools, weight: Floats, count: int, cap: int) -> Ints:
    """Run the compiled greedy choice and put its pairs in order."""
    from anmi_pipeline.rating.kernels.pairs import greedy

    picked = greedy(np.ascontiguousarray(theta), covariance.copy(), free, weight, count, cap)
    return canonical(picked[:, 0], picked[:, 1])
