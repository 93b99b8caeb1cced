"""Noise of soft verdicts inside the link: what shrinks fitted scores however many verdicts there are.

Belongs here: its standard deviation per judge and the attenuation that follows. Does not: standard errors of scores; no error
formula repairs a bias.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anmi_pipeline.rating.graphs import Bools, Floats, Ints, laplacians, summed
from anmi_pipeline.rating.judge_model import JudgeParameters, VoteModel, VoteStack, plain

LOGISTIC_SPREAD = (16 * np.sqrt(3) / (15 * np.pi)) ** 2
"""Variance of the link's own noise in the logistic case is close to 1 / this, in logits (Zeger, Liang and Albert 1988)."""

MAX_ROUNDS, SETTLED = 20, 1e-3
FEWEST_FREE = 5.0
"""Residual degrees of freedom below which a judge's noise is not known."""


@dataclass(frozen=True)
class LinkNoise:
    """Noise inside the link of G judges.

    Attributes:
        sd: (G,) standard deviation of probit(p) (logit(p) for logistic models) around the difference; 0 where not known.
        attenuation: (G,) what the link's scores are multiplied by because of it: 1 / sqrt(1 + sd^2); 1 where not known.
        verdicts: (G,) soft verdicts it was measured on; 0 where not known.
    """

    sd: Floats
    attenuation: Floats
    verdicts: Ints


def link_noise(stacks: Sequence[VoteStack], judges: JudgeParameters, model: VoteModel) -> LinkNoise:
    """Measure how far soft verdicts scatter around any set of scores, on the scale of the link.

    Equation: probit(p) = kappa_g (a_g d + b_g) + e, e ~ N(0, s_g^2), kappa_g = sqrt(1 + s_g^2), because E Phi(x + e) =
    Phi(x / kappa): the fitted slope a_g is the attenuated one. Least squares for theta with weights 1 / s_g^2, then s_g^2 = sum
    of squared residuals / sum of (1 - leverage): with eight verdicts a document the scores take a quarter of the noise with them,
    and residuals around the LIKELIHOOD's own (attenuated) scores would measure the attenuation as noise once more. Logistic
    models: logits, kappa = sqrt(1 + .346 s^2).

    p of 0 and 1 have no probit and are left out; a judge who gives nothing but 0, .5 and 1 has no noise inside the link that can
    be told from the link's own. Leaving out saturated verdicts understates the noise when they are many: see `verdicts`.

    Args:
        stacks: the verdicts.
        judges: the judges' fitted parameters.
        model: the link.
    """
    count = len(judges.bias)
    transformed = [soft_scale(stack.p, model) for stack in stacks]
    chosen = soft_verdicts(stacks, count)
    votes = sum(
        (np.bincount(s.judge[c], minlength=count) for s, c in zip(stacks, chosen, strict=True)), np.zeros(count, np.int64)
    )
    spread = 1.0 if plain(model) == "thurstone" else LOGISTIC_SPREAD
    sd, shift = np.where(votes > 0, 1.0, 0.0), np.zeros(count)
    free = np.zeros(count)
    for _ in range(MAX_ROUNDS if votes.any() else 0):
        kappa = np.sqrt(1 + spread * sd**2)
        squares, free, total = np.zeros(count), np.zeros(count), np.zeros(count)
        for stack, z, soft in zip(stacks, transformed, chosen, strict=True):
            judge = stack.judge[soft]
            target = z[soft] - kappa[judge] * judges.bias[judge] - shift[judge]
            residual, leverage = least_squares(
                stack, soft, target, (kappa * judges.slope)[judge], 1 / np.maximum(sd, 1e-3)[judge] ** 2
            )
            squares += summed(judge, residual**2, count)
            free += summed(judge, 1 - leverage, count)
            total += summed(judge, residual, count)
        shift = shift + total / np.maximum(votes, 1)
        updated = np.where(free >= FEWEST_FREE, np.sqrt(squares / np.maximum(free, FEWEST_FREE)), 0.0)
        settled, sd = np.max(np.abs(updated - sd)) < SETTLED, updated
        if settled:
            break
    known = free >= FEWEST_FREE
    sd = np.where(known, sd, 0.0)
    return LinkNoise(sd, 1 / np.sqrt(1 + spread * sd**2), np.where(known, votes, 0).astype(np.int64))


def soft_scale(p: Floats, model: VoteModel) -> Floats:
    """Verdicts on the scale of the link; infinite at 0 and 1."""
    from scipy.special import logit, ndtri

    return ndtri(p) if plain(model) == "thurstone" else logit(p)


def soft_verdicts(stacks: Sequence[VoteStack], count: int) -> list[Bools]:
    """Which verdicts have a finite value on the link's scale, of judges who do more than win, tie and loss."""
    soft = np.zeros(count, dtype=np.bool_)
    for stack in stacks:
        soft[stack.judge[(stack.p > 0) & (stack.p < 1) & (stack.p != 0.5)]] = True
    return [(stack.p > 0) & (stack.p < 1) & soft[stack.judge] for stack in stacks]


def least_squares(stack: VoteStack, soft: Bools, target: Floats, slope: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Residuals and leverages of target = slope * (theta_i - theta_j), weighted, theta free in every query."""
    (count, n), slot, i, j = stack.prior_mean.shape, stack.slot[soft], stack.i[soft], stack.j[soft]
    if not len(slot):
        return np.zeros(0), np.zeros(0)
    matrix = laplacians(n, count, slot, i, j, weight * slope**2)
    scale = np.maximum(np.trace(matrix, axis1=1, axis2=2) / n, 1e-12)
    # Constants of a component are not determined and never used; a ridge far below the data keeps the matrix regular.
    matrix += scale[:, None, None] * (1e-9 * np.eye(n) + np.full((n, n), 1 / n))
    inverse = np.linalg.inv(matrix)
    values = weight * slope * target
    base = slot * n
    pulled = (summed(base + i, values, count * n) - summed(base + j, values, count * n)).reshape(count, n)
    theta = np.einsum("bij,bj->bi", inverse, pulled)
    resistance = inverse[slot, i, i] + inverse[slot, j, j] - 2 * inverse[slot, i, j]
    leverage = np.clip(weight * slope**2 * resistance, 0.0, 1.0)
    return target - slope * (theta[slot, i] - theta[slot, j]), leverage
