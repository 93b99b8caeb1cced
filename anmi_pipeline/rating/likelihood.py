"""The two links: log-likelihood, slope and curvature of a preference as functions of d = theta_i - theta_j.

Belongs here: numerics that stay right far into the tails. Does not: graphs, priors and solvers.
"""

from math import pi, sqrt

import numpy as np

from anmi_pipeline.rating.config import Model
from anmi_pipeline.rating.graphs import Floats


def log_cdf(d: Floats, model: Model) -> Floats:
    """Logarithm of P(i beats j): log Phi(d) for thurstone, -log(1 + exp(-d)) for bradley_terry."""
    from scipy.special import log_ndtr

    return log_ndtr(d) if model == "thurstone" else -np.logaddexp(0.0, -d)


def edge_log_likelihood(d: Floats, w: Floats, model: Model) -> Floats:
    """Per edge w * log F(d) + (1 - w) * log F(-d), w the preference for i."""
    # 0 * log F is 0 even where log F overflows to -inf.
    won = np.where(w > 0, w * log_cdf(d, model), 0.0)
    lost = np.where(w < 1, (1 - w) * log_cdf(-d, model), 0.0)
    return won + lost


def inverse_mills(d: Floats) -> Floats:
    """phi(d) / Phi(d) = sqrt(2 / pi) / erfcx(-d / sqrt 2), exact to rounding in both tails."""
    from scipy.special import erfcx

    return sqrt(2 / pi) / erfcx(-d / sqrt(2))


def edge_derivatives(d: Floats, w: Floats, model: Model) -> tuple[Floats, Floats]:
    """Slope and curvature (minus the second derivative, never negative) of the edge log-likelihood in d.

    Equation: logistic w - p and p (1 - p); probit w h(d) - (1 - w) h(-d) and w h(d) (h(d) + d) + (1 - w) h(-d) (h(-d) - d), with
    h the inverse Mills ratio.
    """
    if model == "bradley_terry":
        from scipy.special import expit

        p = expit(d)
        return w - p, p * expit(-d)
    up, down = inverse_mills(d), inverse_mills(-d)
    # Each term lies in [0, 1]; the clip removes cancellation noise far in the tail.
    curvature = w * np.clip(up * (up + d), 0.0, 1.0) + (1 - w) * np.clip(down * (down - d), 0.0, 1.0)
    return w * up - (1 - w) * down, curvature
