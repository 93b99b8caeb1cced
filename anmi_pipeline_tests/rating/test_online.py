import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anmi_pipeline.errors import InputError
from anmi_pipeline.rating.config import RatingConfig
from anmi_pipeline.rating.designs import cycles
from anmi_pipeline.rating.elo import rate
from anmi_pipeline.rating.online import Update, merge_comparisons, rate_and_update, update
from anmi_pipeline.rating.prior import Lift, ScorePrior, fit_prior
from anmi_pipeline.tables import COMPARISONS, ELO

CONFIG = RatingConfig(prior="zero", std_error="fisher", tolerance=1e-10)
PAIRS = {"query_id": pl.String, "doc_i": pl.String, "doc_j": pl.String, "preference": pl.Float64, "weight": pl.Float64}
NOTHING = COMPARISONS.frame()


def pairs(*rows: tuple[str, str, str, float, float]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=PAIRS, orient="row")


def drawn(rng: np.random.Generator, queries: int, n: int, degree: int = 4) -> pl.DataFrame:
    """Soft comparisons along cycles, weights over two decades."""
    rows = [
        (f"q{query:02}", f"d{i:03}", f"d{j:03}", rng.choice([0.0, 1.0, 0.5, rng.random()]), 10 ** rng.uniform(-1, 1))
        for query in range(queries)
        for i, j in cycles(n, degree, rng)
    ]
    return pairs(*rows)


def pool(queries: int, n: int) -> pl.DataFrame:
    return pl.DataFrame(
        [(f"q{query:02}", f"d{doc:03}") for query in range(queries) for doc in range(n)],
        schema=["query_id", "doc_id"], orient="row",
    )  # fmt: skip


def full(comparisons: pl.DataFrame, documents: pl.DataFrame, config: RatingConfig = CONFIG) -> pl.DataFrame:
    return rate(comparisons, documents, config)[0]


def difference(first: pl.DataFrame, second: pl.DataFrame) -> float:
    both = first.join(second, on=["query_id", "doc_id"], how="inner", validate="1:1")
    assert both.height == first.height == second.height
    return float((both["theta"] - both["theta_right"]).abs().max() or 0.0)


def test_equal_to_the_refit_and_the_rest_keeps_its_bits(rng: np.random.Generator) -> None:
    documents, old = pool(6, 20), merge_comparisons(NOTHING, drawn(rng, 6, 20))
    fresh = drawn(rng, 6, 20).filter(pl.col("query_id").is_in(["q01", "q04"]))
    before = full(old, documents)
    after = update(before, old, fresh, documents, CONFIG)
    assert after.touched == ["q01", "q04"]
    assert difference(after.elo, full(after.comparisons, documents)) < 1e-6
    untouched = ~pl.col("query_id").is_in(after.touched)
    assert after.elo.filter(untouched).equals(before.filter(untouched))
    ELO.validate(after.elo)
    COMPARISONS.validate(after.comparisons)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), increments=st.integers(1, 5), model=st.sampled_from(["thurstone", "bradley_terry"]))
def test_any_increments_end_where_one_fit_of_everything_ends(seed: int, increments: int, model: str) -> None:
    rng = np.random.default_rng(seed)
    config = CONFIG.model_copy(update={"model": model})
    # Drawn twice: many pairs come back with another preference and weight.
    documents, rows = pool(3, 8), pl.concat([drawn(rng, 3, 8), drawn(rng, 3, 8)])
    order = rng.permutation(rows.height)
    state = Update(full(NOTHING, documents, config), NOTHING, [], 0, 0.0)
    for part in np.array_split(order, increments):
        state = update(state.elo, state.comparisons, rows[part], documents, config)
    at_once = merge_comparisons(NOTHING, rows)
    assert state.comparisons["preference"].to_list() == pytest.approx(at_once["preference"].to_list(), abs=1e-12)
    assert difference(state.elo, full(at_once, documents, config)) < 1e-6


def test_a_loose_tolerance_does_not_stop_an_update_where_it_stands(rng: np.random.Generator) -> None:
    """A whisper of evidence moves the gradient by less than the tolerance; it still counts."""
    loose = CONFIG.model_copy(update={"tolerance": 1e-2})
    documents, old = pool(1, 10), merge_comparisons(NOTHING, drawn(rng, 1, 10))
    after = update(full(old, documents), old, pairs(("q00", "d000", "d005", 1.0, 5e-3)), documents, loose)
    assert difference(after.elo, full(after.comparisons, documents)) < 1e-6
    assert set(after.elo["status"]) <= {"converged", "converged+separable"}


def test_a_small_change_needs_fewer_steps_than_a_new_start(rng: np.random.Generator) -> None:
    documents, old = pool(8, 40), merge_comparisons(NOTHING, drawn(rng, 8, 40))
    before = full(old, documents)
    fresh = pairs(*[(f"q{query:02}", "d000", "d020", 0.5, 0.05) for query in range(8)])
    after = update(before, old, fresh, documents, CONFIG)
    _, cold = rate(after.comparisons, documents, CONFIG)
    assert after.iterations < cold.iterations
    assert difference(after.elo, full(after.comparisons, documents)) < 1e-6


def test_merging_is_a_weighted_mean_in_either_order() -> None:
    old = merge_comparisons(NOTHING, pairs(("q", "a", "b", 0.9, 1.0), ("q", "b", "c", 0.2, 1.0), ("r", "a", "b", 0.5, 2.0)))
    merged = merge_comparisons(old, pairs(("q", "b", "a", 0.5, 3.0)))
    row = merged.filter(query_id="q", doc_i="a").row(0, named=True)
    assert row["preference"] == pytest.approx((0.9 + 3 * 0.5) / 4)
    assert (row["weight"], row["n_verdicts"], row["degree_j"]) == (4.0, 2, 2)
    assert row["effective_resistance"] == pytest.approx(0.25)
    assert merged.filter(query_id="r").equals(old.filter(query_id="r"))


def test_weightless_comparisons_merge_to_finite_numbers() -> None:
    merged = merge_comparisons(NOTHING, pairs(("q", "a", "b", 0.2, 0.0), ("q", "a", "b", 0.4, 0.0)))
    assert merged["preference"].to_list() == [pytest.approx(0.3)]
    assert merged["weight"].to_list() == [0.0]


def test_equal_preferences_merge_to_that_preference() -> None:
    merged = merge_comparisons(NOTHING, pairs(*[("q", "a", "b", 1.0, 0.1)] * 3))
    assert merged["preference"].to_list() == [1.0]


def test_new_documents_and_new_queries(rng: np.random.Generator) -> None:
    small, large = pool(2, 8), pool(3, 10)
    old = merge_comparisons(NOTHING, drawn(rng, 2, 8))
    fresh = pairs(("q00", "d009", "d001", 0.8, 1.0), ("q02", "d000", "d001", 1.0, 1.0))
    after = update(full(old, small), old, fresh, large, CONFIG)
    assert after.touched == ["q00", "q01", "q02"]
    assert difference(after.elo, full(after.comparisons, large)) < 1e-6


def test_documents_and_queries_that_leave(rng: np.random.Generator) -> None:
    documents, old = pool(3, 8), merge_comparisons(NOTHING, drawn(rng, 3, 8))
    fewer = documents.filter(pl.col("query_id") != "q02")
    after = update(full(old, documents), old, pairs(), fewer, CONFIG)
    assert (after.touched, set(after.elo["query_id"]), set(after.comparisons["query_id"])) == ([], {"q00", "q01"}, {"q00", "q01"})


def test_nothing_new_changes_nothing(rng: np.random.Generator) -> None:
    documents, old = pool(3, 8), merge_comparisons(NOTHING, drawn(rng, 3, 8))
    before = full(old, documents)
    after = update(before, old, pairs(), documents, CONFIG)
    assert after.elo.equals(before)
    assert after.comparisons.equals(old)
    assert (after.touched, after.iterations) == ([], 0)


@pytest.mark.parametrize("lift", [None, Lift((-2.0, 1.0), 1.5, 4.0)])
def test_under_a_frozen_prior_an_update_is_the_full_fit(rng: np.random.Generator, lift: Lift | None) -> None:
    documents, old = pool(6, 20), merge_comparisons(NOTHING, drawn(rng, 6, 20))
    features = documents.with_columns(fused_z=pl.Series(rng.normal(size=documents.height)))
    prior = ScorePrior(("fused_z",), (0.7,), 2.0, lift)
    config = CONFIG.model_copy(update={"prior": "scores"})
    known = {"features": features, "prior": prior}
    before = rate(old, documents, config, **known)[0]
    after = update(before, old, drawn(rng, 1, 20), documents, config, **known)
    assert after.touched == ["q00"]
    assert difference(after.elo, rate(after.comparisons, documents, config, **known)[0]) < 1e-9
    untouched = pl.col("query_id") != "q00"
    assert after.elo.filter(untouched).equals(before.filter(untouched))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("q00", "d000", "d000", 0.5, 1.0)], "two different documents"),
        ([("q00", "d000", "d001", 1.5, 1.0)], "preference 1.5"),
        ([("q00", "d000", "d001", 0.5, -1.0)], "weight -1.0"),
        ([("q00", "d000", "nope", 0.5, 1.0)], "not in the query's pool"),
        ([("q77", "d000", "d001", 0.5, 1.0)], "first query q77"),
    ],
)
def test_bad_news_are_named(rows: list[tuple[str, str, str, float, float]], message: str) -> None:
    documents = pool(1, 3)
    with pytest.raises(InputError, match=message):
        update(full(NOTHING, documents), NOTHING, pairs(*rows), documents, CONFIG)


def test_a_document_without_features_is_named() -> None:
    documents = pool(1, 3)
    known = {"features": documents.head(2).with_columns(fused_z=pl.lit(0.0)), "prior": ScorePrior(("fused_z",), (1.0,), 1.0)}
    with pytest.raises(InputError, match="d002 of query q00"):
        update(full(NOTHING, documents), NOTHING, pairs(("q00", "d000", "d001", 0.5, 1.0)), documents, CONFIG, **known)


@pytest.mark.parametrize("informed", [False, True])
def test_verdicts_then_clicks_end_where_a_fit_of_both_ends(rng: np.random.Generator, informed: bool) -> None:
    config = CONFIG.model_copy(update={"prior": "scores" if informed else "zero"})
    documents, verdicts = pool(6, 15), merge_comparisons(NOTHING, drawn(rng, 6, 15))
    features = documents.with_columns(fused=pl.Series(rng.normal(size=documents.height))) if informed else None
    clicks = drawn(rng, 2, 15)
    elo, report, done = rate_and_update(verdicts, clicks, documents, config, features=features)
    assert done.touched == ["q00", "q01"]
    judged, fitted = rate(verdicts, documents, config, features=features)
    untouched = ~pl.col("query_id").is_in(done.touched)
    assert elo.filter(untouched).equals(judged.filter(untouched)), "clicks on other queries move nothing"
    merged = merge_comparisons(verdicts, clicks)
    prior = None
    if features is not None:
        prior = fit_prior(verdicts, features)
        assert report.prior | {"estimated_from": "these comparisons"} == fitted.prior
    again, at_once = rate(merged, documents, config, features=features, prior=prior)
    assert difference(elo, again) < 1e-6
    assert done.comparisons.equals(merged)
    assert (report.edges, report.verdicts) == (at_once.edges, pytest.approx(at_once.verdicts))
    assert report.statuses == at_once.statuses
    assert report.mean_std_error == pytest.approx(at_once.mean_std_error, abs=1e-3)


@pytest.mark.parametrize("prior", ["zero", "scores"])
def test_clicks_alone_are_a_table(rng: np.random.Generator, prior: str) -> None:
    config = CONFIG.model_copy(update={"prior": prior})
    documents, clicks = pool(3, 12), drawn(rng, 2, 12)
    features = documents.with_columns(fused=pl.Series(rng.normal(size=documents.height)))
    elo, report, done = rate_and_update(NOTHING, clicks, documents, config, features=features)
    ELO.validate(elo)
    assert elo.height == 36
    assert report.edges == clicks.height == done.comparisons.height
    assert set(elo.filter(pl.col("query_id") == "q02")["n_comparisons"]) == {0}
    assert set(elo.filter(pl.col("query_id") == "q00")["n_comparisons"]) == {4}
    nothing, _, none = rate_and_update(NOTHING, clicks.clear(), documents, config, features=features)
    assert none.touched == []
    assert nothing.equals(rate(NOTHING, documents, config, features=features)[0])
