"""The compiled links against mpmath and the numpy reference, far into the tails."""

import os
from pathlib import Path

import mpmath as mp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from anmi_pipeline.rating.kernels import compiling, links
from anmi_pipeline.rating.likelihood import edge_derivatives, edge_log_likelihood

MODELS = ("thurstone", "bradley_terry")


@given(x=st.floats(0, 1e8))
@example(x=50.0)
def test_mills_ratio(x: float) -> None:
    with mp.workdps(40):
        z = mp.mpf(x)
        # Beyond 50 mpmath's erfc underflows its own working precision; the asymptotic series is exact there.
        terms = enumerate((1, -1, 3, -15, 105, -945, 10395))
        exact = mp.ncdf(-z) / mp.npdf(z) if x < 50 else sum(term / z ** (2 * power + 1) for power, term in terms)
        assert abs(links.mills(x) / exact - 1) < 1e-15


@given(x=st.floats(-700, 0))
def test_exponential(x: float) -> None:
    with mp.workdps(40):
        assert abs(links.exp_negative(x) / mp.exp(mp.mpf(x)) - 1) < 1e-15


@given(x=st.floats(1e-300, 1e300))
def test_logarithm(x: float) -> None:
    with mp.workdps(40):
        assert abs(links.log_positive(x) - mp.log(mp.mpf(x))) < 4e-16 * max(1, abs(mp.log(mp.mpf(x))))


@pytest.mark.parametrize("model", MODELS)
def test_terms_agree_with_the_reference(model: str) -> None:
    d = np.concatenate((np.linspace(-30, 30, 401), [0.0, -0.0, 1e-300, 600.0, -600.0]))
    w = np.tile([0.0, 0.3, 0.5, 1.0], len(d))[: len(d)]
    slope, curvature, value = np.empty(len(d)), np.empty(len(d)), np.empty(len(d))
    (links.probit_terms if model == "thurstone" else links.logit_terms)(len(d), d, w, slope, curvature)
    (links.probit_logs if model == "thurstone" else links.logit_logs)(len(d), d, w, value)
    expected, bend = edge_derivatives(d, w, model)
    assert slope == pytest.approx(expected, rel=1e-11, abs=1e-14)
    assert curvature == pytest.approx(bend, abs=1e-9)  # the reference itself cancels in the far tail
    assert value == pytest.approx(edge_log_likelihood(d, w, model), rel=1e-13, abs=1e-15)


def test_start_value_is_close_to_the_quantile() -> None:
    w = np.linspace(0.02, 0.98, 97)
    exact = np.array([float(mp.sqrt(2) * mp.erfinv(2 * p - 1)) for p in w])
    assert np.array([links.start_value(p) for p in w]) == pytest.approx(exact, rel=2.5e-3, abs=1e-9)


def test_machine_code_older_than_a_source_is_forgotten(tmp_path: Path) -> None:
    cache = tmp_path / "__pycache__"
    cache.mkdir()
    for path, age in ((cache / "solver.old.nbi", 100), (tmp_path / "links.py", 200), (cache / "solver.new.nbi", 300)):
        path.touch()
        os.utime(path, (age, age))
    compiling.forget_stale(tmp_path)
    assert [path.name for path in cache.iterdir()] == ["solver.new.nbi"]
