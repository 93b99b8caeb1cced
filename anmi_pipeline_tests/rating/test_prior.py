import json

import numpy as np
import polars as pl
import pytest
from scipy.special import expit, ndtr

from anmi_pipeline.errors import InputError
from anmi_pipeline.rating.designs import cycles
from anmi_pipeline.rating.posterior import modes
from anmi_pipeline.rating.prior import SHAPES, Lift, ScorePrior, Shape, fit_prior, gather, starting_prior

NAMES = ("fused", "lexical")
MIXED = ScorePrior(NAMES, (0.2, 0.1), 6.0, Lift((-3.0, 1.0, 0.5), 1.2, 5.0))


def made(
    slopes: tuple[float, float], spread: float, *, queries: int = 200, n: int = 30, k: int = 4, seed: int = 1,
    lift: tuple[tuple[float, float, float], float] | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame]:  # fmt: skip
    """Comparisons and features of queries with theta = X slopes + N(0, spread^2) (+ lift) and one 0/1 probit vote a pair."""
    rng = np.random.default_rng(seed)
    comparisons, features = [], []
    ids = np.array([f"d{number:03}" for number in range(n)])
    for query in range(queries):
        x = rng.normal(size=(n, 2))
        x = (x - x.mean(axis=0)) / x.std(axis=0)
        theta = x @ slopes + rng.normal(0, spread, n)
        if lift is not None:
            odds, height = lift
            theta += height * (rng.random(n) < expit(odds[0] + x @ odds[1:]))
        pairs = cycles(n, k, rng)
        won = rng.random(len(pairs)) < ndtr(theta[pairs[:, 0]] - theta[pairs[:, 1]])
        name = [f"q{query:04}"]
        comparisons.append(
            pl.DataFrame({
                "query_id": name * len(pairs), "doc_i": ids[pairs[:, 0]], "doc_j": ids[pairs[:, 1]],
                "preference": won.astype(np.float64), "weight": 1.0,
            })
        )  # fmt: skip
        features.append(pl.DataFrame({"query_id": name * n, "doc_id": ids, "fused": x[:, 0], "lexical": x[:, 1]}))
    return pl.concat(comparisons), pl.concat(features)


@pytest.mark.parametrize(("k", "spread"), [(2, 0.7), (4, 0.3), (2, 1.2)])
def test_a_known_gaussian_is_recovered_from_few_verdicts(k: int, spread: float) -> None:
    comparisons, features = made((0.8, -0.3), spread, k=k)
    found = fit_prior(comparisons, features, shape="gaussian")
    assert found.features == NAMES
    assert found.lift is None
    assert found.coefficients == pytest.approx((0.8, -0.3), abs=0.06)
    assert found.precision**-0.5 == pytest.approx(spread, rel=0.12)


def test_regression_of_fitted_scores_would_shrink() -> None:
    """Why the fit is not a regression of theta on X: the scores are shrunk by the prior they were fitted under."""
    comparisons, features = made((0.8, -0.3), 0.7, k=2)
    evidence = gather(comparisons, features, comparisons["query_id"].unique().sort(), NAMES, "thurstone")
    theta = modes(evidence.batch, evidence.preference, None, 1.0, "thurstone")
    assert np.linalg.lstsq(evidence.design, theta)[0][0] < 0.4


def test_a_known_mixture_is_recovered() -> None:
    comparisons, features = made((0.2, 0.1), 0.4, k=8, n=30, queries=150, lift=((-3.0, 1.5, 0.5), 1.2))
    found = fit_prior(comparisons, features)
    assert found.lift is not None
    assert found.coefficients == pytest.approx((0.2, 0.1), abs=0.05)
    assert found.lift.height == pytest.approx(1.2, abs=0.25)
    assert found.lift.odds == pytest.approx((-3.0, 1.5, 0.5), abs=0.5)
    assert found.precision**-0.5 == pytest.approx(0.4, abs=0.05)


def test_the_prior_orders_unseen_documents_better_than_its_start() -> None:
    comparisons, features = made((0.1, 0.9), 0.4, k=2, queries=100)
    _, unseen = made((0.1, 0.9), 0.0, queries=5, seed=9)
    truth = unseen.select(0.1 * pl.col("fused") + 0.9 * pl.col("lexical")).to_series().to_numpy()
    for shape in SHAPES:
        found = fit_prior(comparisons, features, shape=shape)
        assert np.corrcoef(found.mean(unseen), truth)[0, 1] > 0.97
    assert np.corrcoef(starting_prior().mean(unseen), truth)[0, 1] < 0.3


@pytest.mark.parametrize("shape", SHAPES)
def test_few_or_no_verdicts_stay_near_the_start(shape: Shape) -> None:
    comparisons, features = made((0.8, -0.3), 0.7, queries=1, n=6)
    nothing = fit_prior(comparisons.clear(), features, shape=shape)
    assert nothing == ScorePrior(NAMES, (1.0, 0.0), 1.0)
    assert fit_prior(comparisons.with_columns(weight=pl.lit(0.0)), features, shape=shape) == nothing
    one = fit_prior(comparisons.head(1), features, shape=shape)
    assert np.isfinite([*one.coefficients, one.precision]).all()
    few = fit_prior(comparisons, features, shape=shape)
    assert np.abs(few.coefficients).max() < 3
    assert 0.05 <= few.precision <= 400


@pytest.mark.parametrize("shape", SHAPES)
def test_degenerate_inputs_are_finite(shape: Shape) -> None:
    comparisons, features = made((0.8, -0.3), 0.7, queries=20, n=8)
    constant = fit_prior(comparisons, features.with_columns(lexical=pl.lit(0.0)), shape=shape)
    assert constant.coefficients[1] == 0.0
    twin = fit_prior(comparisons, features.with_columns(lexical=pl.col("fused")), shape=shape)
    ties = fit_prior(comparisons.with_columns(preference=pl.lit(0.5)), features, shape=shape)
    sweep = fit_prior(comparisons.with_columns(preference=pl.lit(1.0), weight=pl.lit(50.0)), features, shape=shape)
    for found in (constant, twin, ties, sweep, fit_prior(comparisons, features, shape=shape, model="bradley_terry")):
        assert np.isfinite([*found.coefficients, found.precision]).all()
    assert np.abs(ties.coefficients).max() < 0.5


@pytest.mark.parametrize("shape", SHAPES)
def test_equal_inputs_in_any_order_give_equal_numbers(shape: Shape) -> None:
    comparisons, features = made((0.8, -0.3), 0.7, queries=10, n=8)
    found = fit_prior(comparisons, features, shape=shape)
    assert fit_prior(comparisons.reverse(), features.reverse(), shape=shape) == found


def test_only_some_queries_are_read_of_very_many() -> None:
    comparisons, features = made((0.8, -0.3), 0.7, queries=12, n=8)
    some = pl.col("query_id").is_in(["q0000", "q0003", "q0007", "q0011"])
    found = fit_prior(comparisons, features, max_queries=4)
    assert found == fit_prior(comparisons.filter(some), features)


def test_json_round_trip() -> None:
    for prior in (starting_prior(0.5, 2.0), MIXED):
        assert ScorePrior.from_json(json.loads(json.dumps(prior.as_json()))) == prior
    for broken in ({}, {"features": ["fused"], "coefficients": "x", "precision": 1.0}, MIXED.as_json() | {"lift": {"odds": []}}):
        with pytest.raises(InputError, match="not a stored prior"):
            ScorePrior.from_json(broken)


def test_the_mean_of_a_mixture_is_its_mean() -> None:
    features = pl.DataFrame({"query_id": ["q"] * 2, "doc_id": ["a", "b"], "fused": [1.0, -1.0], "lexical": [0.5, -0.5]})
    share = expit(np.array([-3 + 1 + 0.25, -3 - 1 - 0.25]))
    assert MIXED.mean(features) == pytest.approx(np.array([0.25, -0.25]) + 1.2 * share)
    assert starting_prior().mean(features).tolist() == [1.0, -1.0]


def test_bad_priors_are_refused() -> None:
    for features, slopes, precision in ((NAMES, (1.0,), 1.0), (("fused",), (np.nan,), 1.0), (("fused",), (1.0,), 0.0)):
        with pytest.raises(InputError, match="finite"):
            ScorePrior(features, slopes, precision)
    comparisons, features = made((0.8, -0.3), 0.7, queries=2, n=6)
    with pytest.raises(InputError, match="starting prior uses feature fused"):
        fit_prior(comparisons, features, names=("lexical",))
    with pytest.raises(InputError, match='"gausian" does not exist'):
        fit_prior(comparisons, features, shape="gausian")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="lack dense"):
        fit_prior(comparisons, features, names=("fused", "dense"))
