"""Increasing maps from a score to a share relevant, fitted to outcomes of all queries together.

Belongs here: the line in log-odds and the isotonic regression, with what keeps them finite. Does not: levels of single queries
(`offsets.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from anmi_pipeline.rating.graphs import Floats

ENOUGH = 1_000
"""Grades from which on isotonic regression is chosen: below, its steps follow the noise (Niculescu-Mizil and Caruana 2005)."""

WEAK = 1e-3
"""Precision of the prior on a line's coefficients: one part in a thousand of a grade."""

MAX_STEPS = 50


@dataclass(frozen=True)
class Map:
    """An increasing map of probabilities.

    Attributes:
        kind: `isotonic` or `line`.
        apply: the map.
    """

    kind: str
    apply: Callable[[Floats], Floats]

    def __call__(self, p: Floats) -> Floats:
        """Map probabilities."""
        return self.apply(p)


def fit_map(p: Floats, y: Floats, final: Literal["auto", "isotonic", "line"]) -> Map:
    """Fit the last step: probabilities to shares relevant.

    Args:
        p: (N,) probabilities, in (0, 1).
        y: (N,) outcomes, 0 or 1.
        final: the kind; `auto` chooses by the number of grades.
    """
    if final == "line" or (final == "auto" and len(p) < ENOUGH) or not len(p):
        # Kept near the identity with the weight of about one grade: the probabilities are meant to be right already.
        line = fit_line(odds(p), y, precision=1.0, centre=(0.0, 1.0))
        return Map("line", lambda values: line(odds(values)))
    return Map("isotonic", isotonic(p, y))


def isotonic(p: Floats, y: Floats) -> Callable[[Floats], Floats]:
    """Isotonic regression, kept within 1/(N + 2) of 0 and 1: N outcomes cannot prove more (Laplace's rule of succession)."""
    from sklearn.isotonic import IsotonicRegression

    edge = 1.0 / (len(p) + 2)
    fitted = IsotonicRegression(y_min=edge, y_max=1 - edge, out_of_bounds="clip").fit(p, y)
    return lambda values: np.asarray(fitted.predict(values), dtype=np.float64)


def fit_line(
    x: Floats, y: Floats, *, precision: float = WEAK, centre: tuple[float, float] = (0.0, 0.0)
) -> Callable[[Floats], Floats]:
    """Fit P(relevant) = sigma(a + b x) with b >= 0.

    Equation: maximise the log-likelihood - precision / 2 * |(a, b) - centre|^2 by Newton's method; finite also when all outcomes
    are alike. With centre (0, 1) on log-odds this is Platt's scaling (1999) with another prior.
    """
    from scipy.special import expit

    design, mean = np.stack((np.ones(len(x)), x), axis=1), np.array(centre)
    found = mean.copy()

    def objective(at: Floats) -> float:
        line = design @ at
        return float((y * line - np.logaddexp(0.0, line)).sum() - precision / 2 * ((at - mean) ** 2).sum())

    for _ in range(MAX_STEPS):
        share = expit(design @ found)
        gradient = design.T @ (y - share) - precision * (found - mean)
        hessian = (design * (share * (1 - share))[:, None]).T @ design + precision * np.eye(2)
        step, length, now = np.linalg.solve(hessian, gradient), 1.0, objective(found)
        while objective(found + length * step) < now and length > 2.0**-30:
            length /= 2
        found = found + length * step
        if np.abs(length * step).max() < 1e-10:
            break
    if found[1] < 0:
        # A falling line would turn the order round: the best increasing one is flat.
        return flat(y)
    a, b = found.tolist()
    return lambda values: expit(a + b * values)


def flat(y: Floats) -> Callable[[Floats], Floats]:
    """The constant share relevant, shrunk like half a grade of each kind."""
    share = (float(y.sum()) + 0.5) / (len(y) + 1)
    return lambda values: np.full(len(values), share)


def odds(p: Floats) -> Floats:
    """Log-odds; probabilities are kept 1e-12 from 0 and 1."""
    safe = np.clip(p, 1e-12, 1 - 1e-12)
    return np.log(safe) - np.log1p(-safe)
