import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from sklearn.metrics import roc_auc_score

from anmi_pipeline.errors import InputError
from anmi_pipeline.rating.reliability import any_relevant, auc, calibration_error, chance_error, measure, reliability_bins


def test_errors_by_hand() -> None:
    p, y = np.array([0.1, 0.1, 0.8, 0.8]), np.array([0.0, 1.0, 1.0, 1.0])
    assert calibration_error(p, y, 2) == pytest.approx(0.5 * 0.4 + 0.5 * 0.2)
    assert calibration_error(p, y, 10, "width") == pytest.approx(0.5 * 0.4 + 0.5 * 0.2)
    found = measure(p, y, np.array([0, 0, 1, 1]), 2)
    assert found.brier == pytest.approx((0.01 + 0.81 + 0.04 + 0.04) / 4)
    assert found.log_loss == pytest.approx(-(np.log(0.9) + np.log(0.1) + 2 * np.log(0.8)) / 4)
    assert found.query_gap == pytest.approx((0.4 + 0.2) / 2)


def test_pooled_error_misses_queries_that_cancel() -> None:
    p, y, query = np.full(100, 0.5), np.repeat([0.0, 1.0], 50), np.repeat([0, 1], 50)
    mixed = np.random.default_rng(0).permutation(100)
    found = measure(p[mixed], y[mixed], query[mixed], 1)
    assert (found.ece, found.query_gap) == (0.0, 0.5)


def test_chance_error_is_what_perfect_probabilities_show() -> None:
    rng = np.random.default_rng(3)
    p = rng.random(2_000)
    shown = [calibration_error(p, (rng.random(2_000) < p).astype(float)) for _ in range(300)]
    assert chance_error(p) == pytest.approx(np.mean(shown), rel=0.05)
    exact = sum(abs(k - 3) * binom.pmf(k, 10, 0.3) for k in range(11)) / 10
    assert chance_error(np.full(10, 0.3), 1) == pytest.approx(exact, rel=0.05)


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0.0, 1.0])), min_size=1, max_size=50),
    bins=st.integers(1, 12),
    binning=st.sampled_from(["mass", "width"]),
)
def test_bins_account_for_every_row(rows: list[tuple[float, float]], bins: int, binning: str) -> None:
    p, y = (np.array(column) for column in zip(*rows, strict=True))
    table = reliability_bins(p, y, bins, binning)
    assert table["n"].sum() == len(rows)
    gap = ((table["predicted"] - table["observed"]).abs() * table["n"]).sum() / len(rows)
    assert gap == pytest.approx(calibration_error(p, y, bins, binning), abs=1e-12)
    assert table["predicted"].is_sorted()


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([0.0, 1.0])), min_size=2, max_size=40))
def test_auc_is_scikit_learns(rows: list[tuple[int, float]]) -> None:
    score, positive = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    if len(set(positive)) < 2:
        assert auc(score, positive) is None
    else:
        assert auc(score, positive) == pytest.approx(roc_auc_score(positive, score))


def test_evidence_grows_with_every_document() -> None:
    score = any_relevant(np.array([0.5, 0.5, 0.5, 1.0]), np.array([0, 2, 2, 3]), 5)
    assert score[:3].tolist() == pytest.approx([np.log(2), 0.0, 2 * np.log(2)])
    assert np.isfinite(score[3])
    assert score[4] == 0.0


@pytest.mark.parametrize(("p", "y"), [([], []), ([0.5], [0.5]), ([1.5], [1.0]), ([np.nan], [1.0]), ([0.5], [1.0, 0.0])])
def test_no_outcome_is_an_error(p: list[float], y: list[float]) -> None:
    with pytest.raises(InputError):
        measure(np.array(p), np.array(y), np.zeros(len(p), dtype=np.int64))
