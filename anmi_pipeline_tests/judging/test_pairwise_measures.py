"""Temperature, agreement and calibration error against known truths."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anmi_pipeline.judging.pairwise_measures import (
    agreement,
    confidence,
    confidence_bins,
    figures,
    fit_temperature,
    retrieval_agreement,
)
from anmi_pipeline.rating.graphs import Floats
from anmi_pipeline.tables import POOL

N = 20_000


def drawn(factor: float, seed: int = 0) -> tuple[Floats, Floats]:
    """Logits that are `factor` times too sure, and what came out."""
    rng = np.random.default_rng(seed)
    true = rng.normal(0, 1.5, N)
    return factor * true, (rng.random(N) < 1 / (1 + np.exp(-true))).astype(np.float64)


def frame(logits: Floats, said: Floats, queries: int = 20) -> pl.DataFrame:
    names = [f"q{n % queries:02d}" for n in range(len(logits))]
    return pl.DataFrame({"query_id": names, "preference": said, "weight": np.ones(len(logits)), "logit": logits})


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_the_temperature_is_recovered_and_heals_the_calibration(factor: float) -> None:
    logits, said = drawn(factor)
    temperature = fit_temperature(logits, said, np.ones(N))
    assert temperature == pytest.approx(factor, rel=0.05)
    found = figures(frame(logits, said), temperature)
    assert found.ece_scaled < 2.5 * found.chance
    if factor != 1:
        assert found.ece > 5 * found.ece_scaled
        assert found.log_loss > found.log_loss_scaled
    assert (found.pairs, found.queries) == (N, 20)


def test_a_model_that_knows_nothing_becomes_undecided() -> None:
    rng = np.random.default_rng(0)
    temperature = fit_temperature(rng.normal(0, 3, N), (rng.random(N) < 0.5).astype(np.float64), np.ones(N))
    assert temperature > 30


def test_ties_of_the_judges_do_not_count_and_an_undecided_model_counts_half() -> None:
    assert agreement(np.array([1.0, -1.0, 0.0, 5.0]), np.array([0.9, 0.8, 1.0, 0.5])) == pytest.approx(0.5)
    assert np.isnan(agreement(np.array([1.0]), np.array([0.5])))


@given(st.integers(0, 10_000))
def test_which_document_is_called_first_changes_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, said = rng.normal(size=60), rng.integers(0, 3, 60) / 2
    turn = np.where(rng.random(60) < 0.5, -1.0, 1.0)
    turned = figures(frame(logits * turn, np.where(turn > 0, said, 1 - said)), 1.3)
    plain = figures(frame(logits, said), 1.3)
    assert turned.agreement == plain.agreement
    assert turned.ece == pytest.approx(plain.ece)
    assert turned.log_loss_scaled == pytest.approx(plain.log_loss_scaled, rel=1e-4)


def test_bins_hold_confidence_and_what_the_judges_said() -> None:
    logits, said = drawn(1.0)
    bins = confidence_bins(frame(logits, said), 1.0)
    assert bins["n"].sum() == N
    assert bins["predicted"].min() >= 0.5  # type: ignore[operator]
    assert (bins["predicted"] - bins["observed"]).abs().max() < 0.04  # type: ignore[operator]
    p, told = confidence(np.array([-2.0]), np.array([0.25]))
    assert (round(float(p[0]), 4), float(told[0])) == (0.8808, 0.75)


def test_the_order_of_the_retrievers_is_a_baseline() -> None:
    pool = POOL.frame({"query_id": ["q"] * 3, "doc_id": ["a", "b", "c"], "rrf_pool_rank": [1, 2, None]})
    pairs = [("a", "b", 1.0), ("a", "c", 0.9), ("b", "c", 0.0), ("c", "unknown", 1.0), ("a", "b", 0.5)]
    held = pl.DataFrame([{"query_id": "q", "doc_i": i, "doc_j": j, "preference": p} for i, j, p in pairs])
    assert retrieval_agreement(held, pool, "rrf") == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    assert retrieval_agreement(held.tail(1), pool, "rrf") is None
