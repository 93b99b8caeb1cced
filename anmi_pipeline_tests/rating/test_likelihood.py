import mpmath
import numpy as np
import pytest

from anmi_pipeline.rating.likelihood import edge_derivatives, edge_log_likelihood

POINTS = np.array([-300.0, -40.0, -8.0, -1.0, -1e-3, 0.0, 0.5, 3.0, 9.0, 38.0, 200.0])


@pytest.mark.parametrize("model", ["thurstone", "bradley_terry"])
@pytest.mark.parametrize("w", [0.0, 0.3, 0.5, 1.0])
def test_value_slope_and_curvature_against_mpmath(model: str, w: float) -> None:
    mpmath.mp.dps = 60

    def cdf(x):
        return mpmath.erfc(-x / mpmath.sqrt(2)) / 2 if model == "thurstone" else 1 / (1 + mpmath.exp(-x))

    def value(x):
        won, lost = (cdf(x) if w else mpmath.mpf(1)), (cdf(-x) if w < 1 else mpmath.mpf(1))
        return mpmath.mpf(w) * mpmath.log(won) + (1 - mpmath.mpf(w)) * mpmath.log(lost)

    weights = np.full(len(POINTS), w)
    found = edge_log_likelihood(POINTS, weights, model)  # pyright: ignore[reportArgumentType]
    slope, curvature = edge_derivatives(POINTS, weights, model)  # pyright: ignore[reportArgumentType]
    for place, point in enumerate(POINTS):
        x = mpmath.mpf(float(point))
        assert found[place] == pytest.approx(float(value(x)), rel=1e-12, abs=1e-60)
        assert slope[place] == pytest.approx(float(mpmath.diff(value, x, 1, h=1e-12)), rel=1e-9, abs=1e-15)
        assert curvature[place] == pytest.approx(-float(mpmath.diff(value, x, 2, h=1e-12)), rel=1e-6, abs=1e-10)
