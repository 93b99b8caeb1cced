"""Ties as an outcome of their own: Davidson's logistic model and the threshold probit.

Belongs here: probabilities of win, tie and loss, their log-likelihood and its derivatives in the difference and in the tie
parameter, right far into the tails. Does not: the links without ties (`likelihood.py`), judges and scores (`votes.py`).
"""

from dataclasses import dataclass
from functools import cache
from math import log, pi, sqrt
from typing import Literal

import numpy as np
import numpy.typing as npt

from anmi_pipeline.rating.graphs import Floats
from anmi_pipeline.rating.likelihood import inverse_mills, log_cdf

TiesModel = Literal["thurstone_ties", "davidson"]
TIES_MODELS: tuple[TiesModel, ...] = ("thurstone_ties", "davidson")

LEGENDRE_NODES = 12
LOG_LIMIT = 3.2
"""Largest log threshold the probit is computed at (tau = 24.5): far beyond it, erfcx of a negative argument overflows."""


@dataclass(frozen=True)
class Outcomes:
    """Numbers for the three outcomes of a verdict, each an array of one shape."""

    win: Floats
    tie: Floats
    loss: Floats


@dataclass(frozen=True)
class TieDerivatives:
    """First and second derivatives of a log-likelihood in the difference d and in the LOG of the tie parameter.

    Attributes:
        d: first derivative in d.
        tie: first derivative in log tau or log nu.
        dd: second derivative in d, never positive.
        d_tie: mixed derivative.
        tie_tie: second derivative in the log tie parameter.
    """

    d: Floats
    tie: Floats
    dd: Floats
    d_tie: Floats
    tie_tie: Floats


def outcome_masses(p_first: npt.ArrayLike) -> Outcomes:
    """Split verdicts into the masses of the three outcomes, which sum to 1.

    p_first == .5 exactly is a tie. Any other p is p of a win and 1 - p of a loss: a soft verdict near one half says how sure the
    judge is, not that the judge saw a tie.

    >>> masses = outcome_masses([1.0, 0.5, 0.2])
    >>> masses.win.tolist(), masses.tie.tolist(), masses.loss.tolist()
    ([1.0, 0.0, 0.2], [0.0, 1.0, 0.0], [0.0, 0.0, 0.8])
    """
    p = np.asarray(p_first, dtype=np.float64)
    tied = p == 0.5
    return Outcomes(np.where(tied, 0.0, p), tied.astype(np.float64), np.where(tied, 0.0, 1 - p))


def log_probabilities(d: Floats, log_tie: Floats, model: TiesModel) -> Outcomes:
    """Logarithms of P(win), P(tie) and P(loss) of the first document.

    Equation: davidson (Davidson, JASA 65, 1970), with pi_i = exp(theta_i): P(win) = e^(d/2) / Z, P(tie) = nu / Z, P(loss)
    = e^(-d/2) / Z, Z = e^(d/2) + e^(-d/2) + nu. thurstone_ties (Glenn and David, Biometrics 16, 1960): P(win) = Phi(d - tau),
    P(tie) = Phi(d + tau) - Phi(d - tau), P(loss) = Phi(-d - tau). Without ties (nu = 0, tau = 0) they are Bradley-Terry and
    Thurstone.

    Args:
        d: difference of the two documents on the link's scale.
        log_tie: logarithm of nu or tau; broadcasts with d. log tau is cut at 3.2.
        model: the ties model.
    """
    if model == "davidson":
        half, lam = 0.5 * d, log_tie + 0.0 * d
        total = np.logaddexp(np.logaddexp(half, -half), lam)
        return Outcomes(half - total, lam - total, -half - total)
    tau = np.exp(np.minimum(log_tie, LOG_LIMIT)) + 0.0 * d
    return Outcomes(log_cdf(d - tau, "thurstone"), band(d, tau).log, log_cdf(-d - tau, "thurstone"))


def probabilities(d: Floats, log_tie: Floats, model: TiesModel) -> Outcomes:
    """P(win), P(tie), P(loss) of the first document (equations: `log_probabilities`)."""
    logs = log_probabilities(d, log_tie, model)
    return Outcomes(np.exp(logs.win), np.exp(logs.tie), np.exp(logs.loss))


def ties_log_likelihood(d: Floats, log_tie: Floats, masses: Outcomes, model: TiesModel) -> Floats:
    """Log-likelihood of each verdict: sum over outcomes of mass * log P."""
    logs = log_probabilities(d, log_tie, model)
    pairs = ((masses.win, logs.win), (masses.tie, logs.tie), (masses.loss, logs.loss))
    # An outcome without mass counts 0 even where its log-probability overflows to -inf.
    first, second, third = (np.where(mass > 0, mass * value, 0.0) for mass, value in pairs)
    return first + second + third


def ties_derivatives(d: Floats, log_tie: Floats, masses: Outcomes, model: TiesModel) -> TieDerivatives:
    """Derivatives of `ties_log_likelihood` in d and log_tie.

    Equation: davidson, with m = win - loss and P likewise: d: (m - (P_win - P_loss)) / 2; tie: mass - P_tie; second derivatives:
    minus the covariance of (outcome / 2, tied). thurstone_ties: see `threshold_derivatives`.
    """
    if model == "thurstone_ties":
        return threshold_derivatives(d, log_tie, masses)
    p = probabilities(d, log_tie, model)
    lead = p.win - p.loss
    spread = p.win * (p.tie + 4 * p.loss) + p.loss * p.tie  # = P_win + P_loss - lead^2 without its cancellation
    return TieDerivatives(
        d=0.5 * (masses.win - masses.loss - lead),
        tie=masses.tie - p.tie,
        dd=-0.25 * spread,
        d_tie=0.5 * p.tie * lead,
        tie_tie=-p.tie * (p.win + p.loss),
    )


@dataclass(frozen=True)
class Band:
    """The tie outcome of the threshold probit.

    Attributes:
        log: log P, P = Phi(d + tau) - Phi(d - tau).
        fall: (phi(d - tau) - phi(d + tau)) / P, minus the derivative of log P in d.
        rise: (phi(d - tau) + phi(d + tau)) / P, the derivative of log P in tau.
    """

    log: Floats
    fall: Floats
    rise: Floats


def threshold_derivatives(d: Floats, log_tie: Floats, masses: Outcomes) -> TieDerivatives:
    """Derivatives of the threshold probit's log-likelihood in d and log tau.

    Equation: with h the inverse Mills ratio and k(x) = h(x) (h(x) + x): win h(d - tau), -k(d - tau); loss likewise in -d - tau;
    tie, with s and c the fall and rise of `Band`: d: -s; tau: c; dd: d s - tau c - s^2; tau tau: d s - tau c - c^2; d tau:
    -d c + tau s + s c. Derivatives in log tau follow by the chain rule.
    """
    tau = np.exp(np.minimum(log_tie, LOG_LIMIT)) + 0.0 * d
    up, down = inverse_mills(d - tau), inverse_mills(-d - tau)
    # k lies in [0, 1]; the clip removes cancellation noise far in the tail.
    up_bend, down_bend = np.clip(up * (up + d - tau), 0.0, 1.0), np.clip(down * (down - d - tau), 0.0, 1.0)
    tie = band(d, tau)
    s, c = tie.fall, tie.rise
    shared = d * s - tau * c
    win, draw, loss = masses.win, masses.tie, masses.loss
    slope_tau = draw * c - win * up - loss * down
    bend_tau = draw * (shared - c**2) - win * up_bend - loss * down_bend
    mixed = draw * (tau * s - d * c + s * c) + win * up_bend - loss * down_bend
    return TieDerivatives(
        d=win * up - loss * down - draw * s,
        tie=tau * slope_tau,
        dd=draw * np.clip(shared - s**2, -1.0, 0.0) - win * up_bend - loss * down_bend,
        d_tie=tau * mixed,
        tie_tie=tau**2 * bend_tau + tau * slope_tau,
    )


def band(d: Floats, tau: Floats) -> Band:
    """Compute the tie outcome without cancellation, whatever the threshold.

    Equation: P = 2 phi(d) I with I = integral over u in 0..tau of exp(-u^2 / 2) cosh(d u). Narrow bands (tau (1 + |d|) < 1) take
    I by Gauss-Legendre; wide ones P = Phi(tau - |d|) (1 - r), r = Phi(-|d| - tau) / Phi(tau - |d|) from scaled error functions.
    """
    far = np.abs(d)
    narrow = tau * (1 + far) < 1
    close, wide = narrow_band(far, np.where(narrow, tau, 0.1 / (1 + far))), wide_band(far, np.where(narrow, 1.0, tau))
    fall = np.where(narrow, close.fall, wide.fall)
    return Band(np.where(narrow, close.log, wide.log), np.where(d < 0, -fall, fall), np.where(narrow, close.rise, wide.rise))


def narrow_band(far: Floats, tau: Floats) -> Band:
    """The band for d >= 0 by Gauss-Legendre over the threshold."""
    nodes, weights = legendre()
    u = tau * nodes.reshape(-1, *([1] * tau.ndim))
    area = tau * np.tensordot(weights, np.exp(-0.5 * u**2) * np.cosh(far * u), axes=1)
    edge = np.exp(-0.5 * tau**2) / area
    value = log(2.0) - 0.5 * log(2 * pi) - 0.5 * far**2 + np.log(area)
    return Band(value, edge * np.sinh(far * tau), edge * np.cosh(far * tau))


def wide_band(far: Floats, tau: Floats) -> Band:
    """The band for d >= 0 where its two ends differ clearly."""
    from scipy.special import erfcx

    near, beyond = (far - tau) / sqrt(2), (far + tau) / sqrt(2)
    # The ratio of the two tails; exp(-2 d tau) is what scaling took out of their quotient.
    tail = erfcx(beyond) / erfcx(near) * np.exp(-2 * far * tau)
    inside = -np.expm1(np.log(np.maximum(tail, np.finfo(np.float64).tiny)))
    height = sqrt(2 / pi) / erfcx(near) / inside
    other = height * np.exp(-2 * far * tau)
    return Band(log_cdf(tau - far, "thurstone") + np.log(inside), height - other, height + other)


@cache
def legendre() -> tuple[Floats, Floats]:
    """Nodes and weights of Gauss-Legendre on 0..1."""
    nodes, weights = np.polynomial.legendre.leggauss(LEGENDRE_NODES)
    return 0.5 * (np.asarray(nodes, dtype=np.float64) + 1), 0.5 * np.asarray(weights, dtype=np.float64)
