import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.propensities import counted, em_round, fit_propensities, log_likelihood
from anmi_pipeline_tests.judging.clicklogs import clicked


@pytest.mark.parametrize(("queries", "impressions", "error"), [(60, 200, 0.12), (600, 20, 0.12), (2400, 5, 0.15)])
def test_examination_is_recovered_however_few_impressions_a_document_has(queries: int, impressions: int, error: float):
    made = clicked(queries, impressions, 0)
    model = fit_propensities(made.log)
    assert model.identified.all()
    assert model.examination[0] == 1
    assert np.abs(model.examination / made.examination - 1).max() < error


def test_em_recovers_it_from_many_impressions_and_is_fooled_by_few():
    many, few = clicked(60, 400, 1), clicked(2400, 5, 1)
    em, ratios = (fit_propensities(few.log, estimator=name, prior=0.0).examination / few.examination for name in ("em", "ratios"))
    assert np.abs(fit_propensities(many.log, estimator="em", prior=0.0).examination / many.examination - 1).max() < 0.12
    assert np.abs(em - 1).max() > 3 * np.abs(ratios - 1).max()


def test_attraction_is_recovered():
    made = clicked(40, 600, 2)
    model = fit_propensities(made.log)
    known = model.attraction.filter(pl.col("impressions") >= 300)
    rows = known.select(pl.col("query_id").str.slice(1).cast(int), pl.col("doc_id").str.slice(1).cast(int)).to_numpy()
    true = made.attraction[rows[:, 0], rows[:, 1]]
    assert np.corrcoef(true, known["attraction"])[0, 1] > 0.95
    assert abs(float(np.mean(known["attraction"].to_numpy() - true))) < 0.02


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000))
def test_em_never_lowers_the_likelihood(seed: int):
    counts = counted(clicked(5, 30, seed).log)
    rng = np.random.default_rng(seed)
    state = rng.uniform(0.05, 0.95, counts.positions + counts.documents.height)
    for _ in range(5):
        better = em_round(state, counts, 0.0, fixed=False)
        assert log_likelihood(better, counts) >= log_likelihood(state, counts) - 1e-9
        state = better


def test_a_ranking_that_never_changes_identifies_nothing():
    model = fit_propensities(clicked(30, 50, 3, mixing=0.0).log)
    assert model.identified.tolist() == [True] + [False] * 7


def test_positions_that_nothing_ties_to_the_first_are_named():
    log = clicked(30, 50, 4).log
    fixed = clicked(30, 50, 5, mixing=0.0).log.filter(pl.col("position") > 6).with_columns(pl.col("query_id") + "x")
    both = pl.concat([log.filter(pl.col("position") <= 6), fixed])
    assert fit_propensities(both).identified.tolist() == [True] * 6 + [False] * 2


def test_given_examination_is_kept():
    made = clicked(30, 100, 6)
    model = fit_propensities(made.log, examination=made.examination)
    assert model.examination == pytest.approx(made.examination)
    assert model.identified.all()
    with pytest.raises(InputError, match="given for 3 positions; the click log shows 8"):
        fit_propensities(made.log, examination=made.examination[:3])


def test_bad_logs_and_settings_are_refused():
    log = clicked(3, 5, 0).log
    for bad, text in (
        (log.clear(), "is empty"),
        (log.with_columns(position=pl.col("position") - 1), "position 0"),
        (log.with_columns(clicked=pl.lit(False)), "no click at position 1"),
    ):
        with pytest.raises(InputError, match=text):
            fit_propensities(bad)
    with pytest.raises(InputError, match="prior is -1"):
        fit_propensities(log, prior=-1)
    with pytest.raises(InputError, match='Did you mean "em"'):
        fit_propensities(log, estimator="emm")
