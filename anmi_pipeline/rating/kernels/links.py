"""The two links as vector loops: slope, curvature and logarithm of Phi and of the logistic function, right far into the tails.

Belongs here: functions of a difference d and a preference w. Does not: graphs and solvers (`newton.py`). `likelihood.py` says the
same in numpy and scipy, for readers and as a reference.
"""

import numpy as np

from anmi_pipeline.rating.graphs import Floats
from anmi_pipeline.rating.kernels.bits import from_bits, to_bits
from anmi_pipeline.rating.kernels.compiling import compiled, reordered

LOG2_E, LN2_HIGH, LN2_LOW = 1.4426950408889634, 6.93147180369123816490e-01, 1.90821492927058770002e-10
ROOT_2_PI, LOG_ROOT_2_PI = 0.3989422804014327, 0.9189385332046728

SMALLEST_EXPONENT = -700.0
"""exp of less underflows; the density of a difference beyond 37 standard deviations counts as this."""

PROBIT_BEND = 0.6366197723675814
"""Curvature of log Phi at 0 for w = 1/2: 2 / pi."""

START_CLIP = 0.97
"""Largest |2 w - 1| that the start trusts: a vote of 0 or 1 says only that the difference is large."""


@reordered
def dot(count: int, a: Floats, b: Floats) -> float:
    """Inner product."""
    total = 0.0
    for u in range(count):
        total += a[u] * b[u]
    return total


@reordered
def total_of(count: int, a: Floats) -> float:
    """Sum."""
    total = 0.0
    for e in range(count):
        total += a[e]
    return total


@compiled
def exp_negative(x: float) -> float:
    """exp(x) for SMALLEST_EXPONENT <= x <= 0, without branches: 2^k times the Taylor series of the rest; relative error 3e-16."""
    k = np.floor(x * LOG2_E + 0.5)
    r = (x - k * LN2_HIGH) - k * LN2_LOW
    p = 1.0 / 479001600.0
    p = p * r + 1.0 / 39916800.0
    p = p * r + 1.0 / 3628800.0
    p = p * r + 1.0 / 362880.0
    p = p * r + 1.0 / 40320.0
    p = p * r + 1.0 / 5040.0
    p = p * r + 1.0 / 720.0
    p = p * r + 1.0 / 120.0
    p = p * r + 1.0 / 24.0
    p = p * r + 1.0 / 6.0
    p = p * r + 0.5
    p = p * r + 1.0
    p = p * r + 1.0
    return p * from_bits((np.int64(np.int32(k)) + 1023) << 52)  # pyright: ignore[reportArgumentType]  (an integer to numba)


@compiled
def log_positive(x: float) -> float:
    """log(x) of a positive normal number, without branches; absolute error 2e-16 near 1, else relative.

    Equation: x = 2^k m with m in [2^-1/2, 2^1/2), log m = 2 artanh(s) with s = (m - 1) / (m + 1), |s| < .172, as its series.
    """
    bits = to_bits(x) - 0x3FE6A09E667F3BCD
    k = bits >> 52
    m = from_bits((bits & 0x000FFFFFFFFFFFFF) + 0x3FE6A09E667F3BCD)
    s = (m - 1.0) / (m + 1.0)
    q = s * s
    p = 1.0 / 21.0
    p = p * q + 1.0 / 19.0
    p = p * q + 1.0 / 17.0
    p = p * q + 1.0 / 15.0
    p = p * q + 1.0 / 13.0
    p = p * q + 1.0 / 11.0
    p = p * q + 1.0 / 9.0
    p = p * q + 1.0 / 7.0
    p = p * q + 0.2
    p = p * q + 1.0 / 3.0
    high = np.float64(np.int32(k))
    return high * LN2_HIGH + (2.0 * s + (2.0 * s * q * p + high * LN2_LOW))


@compiled
def mills(x: float) -> float:
    """Mills ratio Phi(-x) / phi(x) for x >= 0; relative error 5e-16 up to infinity.

    Equation: (x + 4) m(x) as a polynomial in t = (x - 4) / (x + 4), its Chebyshev expansion of degree 22 computed with mpmath
    (the change of variable is that of Shepherd and Laframboise, Math. Comp. 36 (1981)).
    """
    scale = 1.0 / (x + 4.0)
    t = (x - 4.0) * scale
    p = -4.232837128668023e-09
    p = p * t - 3.2015537235375595e-09
    p = p * t + 4.027496644667924e-08
    p = p * t + 4.9053735092410555e-08
    p = p * t - 1.974812079272745e-07
    p = p * t - 4.0665439602468896e-07
    p = p * t + 6.635890483495518e-07
    p = p * t + 2.5742673078165543e-06
    p = p * t - 1.5665301434775512e-06
    p = p * t - 1.4846493010422612e-05
    p = p * t + 1.7912419621396938e-06
    p = p * t + 8.809696060211897e-05
    p = p * t - 4.781834677436329e-06
    p = p * t - 0.0005792696065073663
    p = p * t + 0.0003342443649391365
    p = p * t + 0.0040878557264789955
    p = p * t - 0.008722295248200037
    p = p * t - 0.018900450865484503
    p = p * t + 0.1513917623110474
    p = p * t - 0.46754096299818737
    p = p * t + 0.9704095548676177
    p = p * t - 1.523770910819985
    p = p * t + 1.8932190633084853
    return p * scale


@compiled
def probit_terms(count: int, d: Floats, w: Floats, slope: Floats, curvature: Floats) -> None:
    """Slope and curvature of w log Phi(d) + (1 - w) log Phi(-d), the curvature being minus the second derivative.

    Equation: with x = |d|, h = phi(x) / Phi(x) and g = phi(x) / Phi(-x) = 1 / m(x): for d > 0 w h - (1 - w) g and
    w h (h + x) + (1 - w) g (g - x); mirrored for d < 0. One exponential and one Mills ratio serve both tails.
    """
    for e in range(count):
        x = abs(d[e])
        own = w[e] if d[e] >= 0.0 else 1.0 - w[e]
        ratio = mills(x)
        density = ROOT_2_PI * exp_negative(max(-0.5 * x * x, SMALLEST_EXPONENT))
        near = density / (1.0 - density * ratio)
        far = 1.0 / ratio
        pull = own * near - (1.0 - own) * far
        slope[e] = pull if d[e] >= 0.0 else -pull
        # far * (far - x) lies in [0, 1]; the bounds remove the cancellation noise of the far tail.
        curvature[e] = own * near * (near + x) + (1.0 - own) * min(max(far * (far - x), 0.0), 1.0)


@compiled
def logit_terms(count: int, d: Floats, w: Floats, slope: Floats, curvature: Floats) -> None:
    """Slope and curvature of w log p + (1 - w) log(1 - p) with p = 1 / (1 + exp(-d)): w - p and p (1 - p)."""
    for e in range(count):
        x = abs(d[e])
        own = w[e] if d[e] >= 0.0 else 1.0 - w[e]
        small = exp_negative(max(-x, SMALLEST_EXPONENT))
        rare = small / (1.0 + small)
        pull = rare - (1.0 - own)
        slope[e] = pull if d[e] >= 0.0 else -pull
        curvature[e] = rare / (1.0 + small)


@compiled
def start_value(w: float) -> float:
    """Phi^-1(w) by a rational function within .2 % for .02 < w < .98, held constant beyond START_CLIP."""
    u = min(max(2.0 * w - 1.0, -START_CLIP), START_CLIP)
    s = u * u
    above = 1.2534552754585584 + s * (-1.456369395025415 + s * 0.2998108943292686)
    return u * above / (1.0 + s * (-1.420963570259909 + s * 0.4557566925315159))


@compiled
def probit_logs(count: int, d: Floats, w: Floats, value: Floats) -> None:
    """Write w log Phi(d) + (1 - w) log Phi(-d)."""
    for e in range(count):
        x = abs(d[e])
        own = w[e] if d[e] >= 0.0 else 1.0 - w[e]
        ratio = mills(x)
        density = ROOT_2_PI * exp_negative(max(-0.5 * x * x, SMALLEST_EXPONENT))
        far = log_positive(ratio) - 0.5 * x * x - LOG_ROOT_2_PI
        value[e] = own * log_positive(1.0 - density * ratio) + (1.0 - own) * far


@compiled
def logit_logs(count: int, d: Floats, w: Floats, value: Floats) -> None:
    """Write w log p + (1 - w) log(1 - p), p the logistic function of d."""
    for e in range(count):
        x = abs(d[e])
        own = w[e] if d[e] >= 0.0 else 1.0 - w[e]
        value[e] = -log_positive(1.0 + exp_negative(max(-x, SMALLEST_EXPONENT))) - (1.0 - own) * x


@compiled
def log_likelihood(count: int, d: Floats, w: Floats, weight: Floats, weighted: bool, probit: bool, value: Floats) -> float:
    """Sum of weight * [w log F(d) + (1 - w) log F(-d)]; `value` is scratch."""
    if probit:
        probit_logs(count, d, w, value)
    else:
        logit_logs(count, d, w, value)
    return dot(count, value, weight) if weighted else total_of(count, value)


@compiled
def pearson_residuals(count: int, d: Floats, w: Floats, weight: Floats, weighted: bool, probit: bool, squared: Floats) -> None:
    """Write weight * (w - p)^2 / (p (1 - p)) of every edge, p = F(d)."""
    for e in range(count):
        x = abs(d[e])
        own = w[e] if d[e] >= 0.0 else 1.0 - w[e]
        if probit:
            rare = ROOT_2_PI * exp_negative(max(-0.5 * x * x, SMALLEST_EXPONENT)) * mills(x)
        else:
            small = exp_negative(max(-x, SMALLEST_EXPONENT))
            rare = small / (1.0 + small)
        miss = rare - (1.0 - own)
        value = miss * miss / (rare * (1.0 - rare))
        squared[e] = weight[e] * value if weighted else value
