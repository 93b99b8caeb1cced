"""Recovery and coverage of the intervals and tests on simulated data."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from anmi_pipeline.errors import InputError
from anmi_pipeline.evaluation.statistics import (
    bootstrap_means,
    holm,
    mean_interval,
    mean_intervals,
    paired_difference,
    paired_differences,
    randomisation_p,
    rank_groups,
)


def test_bootstrap_interval_covers_the_true_mean(rng):
    covered = 0
    for _ in range(400):
        interval = mean_interval(rng.beta(0.5, 0.5, 60), draws=600, rng=rng)
        covered += interval.low <= 0.5 <= interval.high
    # 95 % nominal; 400 trials have a standard error of 1.1 points and the percentile interval is a little short at n = 60
    assert 0.91 <= covered / 400 <= 0.98


def test_bootstrap_agrees_with_the_standard_error(rng):
    values = rng.normal(0.4, 0.2, 500)
    spread = bootstrap_means(values, 5000, rng).std()
    assert spread == pytest.approx(values.std() / np.sqrt(500), rel=0.05)


def test_chunks_do_not_change_the_shape_of_the_answer(rng, monkeypatch):
    values = rng.normal(size=(300, 3))
    monkeypatch.setattr("anmi_pipeline.evaluation.statistics.CHUNK_CELLS", 1000)
    intervals = mean_intervals(values, draws=2000, coverage=0.95, rng=rng)
    assert len(intervals) == 3
    for interval, column in zip(intervals, values.T, strict=True):
        assert interval.low < column.mean() < interval.high
        assert interval.high - interval.low == pytest.approx(2 * 1.96 * column.std() / np.sqrt(300), rel=0.15)


def test_equal_seeds_give_equal_figures(rng):
    values = rng.normal(size=(50, 2))
    first, second = (
        paired_differences(values, values[::-1], draws=500, coverage=0.9, rng=np.random.default_rng(7)) for _ in range(2)
    )
    assert first == second


def test_a_systems_interval_does_not_depend_on_its_neighbours(rng):
    values = rng.normal(size=(50, 3))
    alone = mean_interval(values[:, 0], draws=500, rng=np.random.default_rng(1))
    beside = mean_intervals(values, draws=500, coverage=0.95, rng=np.random.default_rng(1))[0]
    assert (alone.low, alone.high) == pytest.approx((beside.low, beside.high))


def test_randomisation_p_is_uniform_under_the_null(rng):
    p = np.concatenate([randomisation_p(rng.normal(size=(40, 50)), 500, rng) for _ in range(8)])
    assert (p <= 0.05).mean() == pytest.approx(0.05, abs=0.035)
    assert p.mean() == pytest.approx(0.5, abs=0.05)


def test_randomisation_p_follows_the_t_test(rng):
    first = rng.normal(0.5, 0.2, 200)
    second = first + rng.normal(-0.015, 0.1, 200)
    ours = paired_difference(first, second, draws=20000, rng=rng)
    assert ours.p == pytest.approx(ttest_rel(first, second).pvalue, abs=0.01)
    assert ours.difference == pytest.approx((first - second).mean())


def test_p_is_never_zero_and_one_for_equal_systems():
    assert paired_difference(np.arange(50.0) + 10, np.zeros(50), draws=200, rng=np.random.default_rng(0)).p == 1 / 201
    assert paired_difference(np.ones(50), np.ones(50), draws=200, rng=np.random.default_rng(0)).p == 1.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_against_the_definition(p_values):
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    expected, running = {}, 0.0
    for place, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - place) * p_values[index]))
        expected[index] = running
    assert holm(p_values) == pytest.approx([expected[i] for i in range(len(p_values))])


def test_rank_groups_separate_what_differs_and_join_what_does_not(rng):
    base = rng.uniform(0.2, 0.6, 200)
    values = {
        "best": base + 0.2 + rng.normal(0, 0.05, 200),
        "twin": base + 0.2 + rng.normal(0, 0.05, 200),
        "middle": base + 0.1 + rng.normal(0, 0.05, 200),
        "last": base,
    }
    ranks = rank_groups(values, rng=rng)
    assert ranks == {"best": 1, "twin": 1, "middle": 3, "last": 4}
    shuffled = rank_groups({name: values[name] for name in reversed(values)}, rng=rng)
    assert shuffled == ranks


def test_rank_groups_of_none_and_one():
    assert rank_groups({}, rng=np.random.default_rng(0)) == {}
    assert rank_groups({"only": [0.1, 0.2]}, rng=np.random.default_rng(0)) == {"only": 1}


def test_bad_values_are_refused(rng):
    with pytest.raises(InputError, match="at least one query"):
        mean_interval([], rng=rng)
    with pytest.raises(InputError, match="not finite"):
        mean_interval([0.1, float("nan")], rng=rng)
    with pytest.raises(InputError, match="same queries"):
        paired_difference([0.1], [0.1, 0.2], rng=rng)


@pytest.mark.slow
def test_thousands_of_queries_take_seconds(rng):
    values = rng.uniform(size=(6000, 8))
    started = time.monotonic()
    mean_intervals(values, draws=5000, coverage=0.95, rng=rng)
    randomisation_p(values[:, :7] - values[:, 1:], 5000, rng)
    assert time.monotonic() - started < 20
