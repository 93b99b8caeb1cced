"""Expected values with their 95 % intervals, and how they add and multiply.

Belongs here: the arithmetic of intervals that estimates of costs are made of. Does not: the estimates (`estimating.py`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Span:
    """An expected value with the ends of its 95 % interval."""

    low: float
    expected: float
    high: float

    @classmethod
    def exactly(cls, value: float) -> "Span":
        """A value that is known."""
        return cls(value, value, value)

    @property
    def error(self) -> float:
        """Larger distance of an end from the expected value, relative to it; 0 for nothing."""
        return max(self.high - self.expected, self.expected - self.low) / self.expected if self.expected else 0.0

    def plus(self, other: "Span") -> "Span":
        """The sum of two independent quantities.

        Equation: MOVER, low = a + b - sqrt((a - a_low)^2 + (b - b_low)^2), high likewise. Source: Zou and Donner (2008),
        Statistics in Medicine 27, 1693-1702. It keeps skewed intervals skewed.
        """
        middle = self.expected + other.expected
        below = float(np.hypot(self.expected - self.low, other.expected - other.low))
        above = float(np.hypot(self.high - self.expected, other.high - other.expected))
        return Span(middle - below, middle, middle + above)

    def times(self, other: "Span") -> "Span":
        """The product end by end: the second factor is no random draw, but the least and the most that may be."""
        return Span(self.low * other.low, self.expected * other.expected, self.high * other.high)


def around(value: float, relative_error: float, n: int) -> Span:
    """A positive value with its t interval on the scale of logarithms."""
    from scipy.stats import t

    factor = float(np.exp(t.ppf((1 + CONFIDENCE) / 2, n - 1) * relative_error))
    return Span(value / factor, value, value * factor)


def scaled(span: Span, factor: float) -> Span:
    """A span in other units."""
    return Span(span.low * factor, span.expected * factor, span.high * factor)
