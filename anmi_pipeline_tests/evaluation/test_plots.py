"""Plots are PNGs, the same data give the same bytes, and reliability bins are right."""

import numpy as np
import polars as pl
import pytest
from scipy.stats import norm

from anmi_pipeline.evaluation import plots
from anmi_pipeline.tables import COMPARISONS, ELO, METRICS

MAGIC = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def rated(rng):
    theta = rng.normal(size=(40, 20))
    theta -= theta.mean(axis=1, keepdims=True)
    rows = [
        {
            "query_id": f"q{q}",
            "doc_id": f"d{d:02d}",
            "theta": theta[q, d],
            "elo": 1500 + 295.7 * theta[q, d],
            "std_error": 80 + 20 * rng.random(),
            "relevance": None,
            "rank": d + 1,
            "n_comparisons": 8,
            "status": "converged",
        }
        for q in range(40)
        for d in range(20)
    ]
    pairs = []
    for q in range(40):
        for i, j in {tuple(sorted(rng.choice(20, 2, replace=False).tolist())) for _ in range(60)}:
            p = norm.cdf(theta[q, i] - theta[q, j])
            pairs.append(
                {
                    "query_id": f"q{q}",
                    "doc_i": f"d{i:02d}",
                    "doc_j": f"d{j:02d}",
                    "preference": float(rng.random() < p),
                    "weight": 1.0,
                    "n_verdicts": 1,
                    "component": 0,
                    "degree_i": int(rng.integers(6, 10)),
                    "degree_j": int(rng.integers(6, 10)),
                    "effective_resistance": 0.2,
                }
            )
    return ELO.frame(rows), COMPARISONS.frame(pairs)


@pytest.fixture
def figures():
    rows = [
        {
            "system": name,
            "dataset": "toy",
            "recipe": name,
            "variant": "raw",
            "split": "test",
            "labels": "human",
            "metric": "nDCG@10",
            "value": value,
            "low": value - 0.03,
            "high": value + 0.03,
            "n_queries": 180,
            "seeds": 3,
            "rank": place,
        }
        for place, (name, value) in enumerate(
            {"default": 0.66, "anmi": 0.65, "minilm": 0.61, "rrf": 0.48, "placebo": 0.55}.items(), 1
        )
    ]
    return METRICS.frame(rows)


def drawings(rated, figures):
    elo, comparisons = rated
    steps = [{"step": s, "loss": 1 / (1 + s), "alpha": 0.5, "learning_rate": 1e-4 * s} for s in range(50)]
    return {
        "elo": plots.elo_histogram(elo),
        "std_error": plots.standard_error_histogram(elo),
        "calibration": plots.calibration(comparisons, elo),
        "degree": plots.degree_histogram(comparisons),
        "training": plots.training_curves(steps),
        "leaderboard": plots.leaderboard_plot(figures, "test"),
    }


def test_every_plot_is_a_png_and_repeats_byte_for_byte(rated, figures):
    first, second = drawings(rated, figures), drawings(rated, figures)
    assert first == second
    for name, image in first.items():
        assert image.startswith(MAGIC), name
        assert b"tEXt" not in image, f"{name} carries metadata that changes with the version"


def test_empty_tables_say_why(rated):
    elo, comparisons = rated
    empty = [
        plots.elo_histogram(ELO.frame()),
        plots.standard_error_histogram(ELO.frame()),
        plots.calibration(COMPARISONS.frame(), elo),
        plots.degree_histogram(COMPARISONS.frame()),
        plots.training_curves([]),
        plots.leaderboard_plot(METRICS.frame(), "test"),
    ]
    assert all(image.startswith(MAGIC) for image in empty)
    assert plots.calibration(comparisons.head(1), elo).startswith(MAGIC)


def test_reliability_of_the_true_model_is_diagonal(rated):
    elo, comparisons = rated
    bins = plots.reliability(comparisons, elo, "probit", bins=5)
    assert bins["n"].sum() == comparisons.height
    spread = np.sqrt(bins["predicted"] * (1 - bins["predicted"]) / bins["n"])
    assert (np.abs(bins["predicted"] - bins["observed"]) < 3 * spread + 0.01).all()
    assert bins["predicted"].is_sorted()


def test_reliability_ignores_which_side_is_named_first(rated):
    elo, comparisons = rated
    flipped = comparisons.rename({"doc_i": "doc_j", "doc_j": "doc_i"}).with_columns(preference=1 - pl.col("preference"))
    one, two = plots.reliability(comparisons, elo), plots.reliability(flipped, elo)
    np.testing.assert_allclose(one["observed"], two["observed"], atol=1e-9)


def test_logistic_theta_uses_the_logistic_link(rated):
    elo, comparisons = rated
    assert not plots.reliability(comparisons, elo, "logistic").equals(plots.reliability(comparisons, elo, "probit"))


def test_a_reliability_diagram_draws_every_source_and_says_it_when_there_is_none() -> None:
    bins = pl.DataFrame({"bin": [0, 1], "predicted": [0.2, 0.8], "observed": [0.25, 0.7], "n": [10, 30]})
    both = plots.reliability_diagram({"a": bins, "b": bins.with_columns(observed=pl.lit(0.5))}, "title", "x", "y")
    assert both == plots.reliability_diagram({"a": bins, "b": bins.with_columns(observed=pl.lit(0.5))}, "title", "x", "y")
    one = plots.reliability_diagram({"a": bins, "b": bins.clear()}, "title", "x", "y")
    none = plots.reliability_diagram({"b": bins.clear()}, "title", "x", "y")
    assert len({both, one, none}) == 3
    assert all(image.startswith(b"\x89PNG") for image in (both, one, none))
