import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.click_files import CLICKS, read_click_log
from anmi_pipeline.judging.clicks import ClickConfig, click_comparisons, looked_at
from anmi_pipeline.rating.comparisons import flatten
from anmi_pipeline.rating.config import RatingConfig
from anmi_pipeline.rating.fit import fit_batch
from anmi_pipeline.rating.online import update
from anmi_pipeline.tables import COMPARISONS, ELO
from anmi_pipeline_tests.judging.clicklogs import Clicked, clicked


def naive(log: pl.DataFrame) -> pl.DataFrame:
    """Skip-above as it is usually done: each unclicked document above a click loses to it, and nothing else counts."""
    both = log.join(log, on=["impression", "query_id"], suffix="_above")
    told = both.filter(pl.col("clicked") & ~pl.col("clicked_above") & (pl.col("position_above") < pl.col("position")))
    smaller = pl.col("doc_id") < pl.col("doc_id_above")
    return (
        told.select(
            "query_id",
            doc_i=pl.min_horizontal("doc_id", "doc_id_above"),
            doc_j=pl.max_horizontal("doc_id", "doc_id_above"),
            won=smaller,
        )
        .group_by("query_id", "doc_i", "doc_j")
        .agg(preference=pl.col("won").mean(), weight=pl.len().cast(pl.Float64))
        .sort("query_id", "doc_i", "doc_j")
    )


def slope_of_error(made: Clicked, comparisons: pl.DataFrame) -> tuple[float, float]:
    """Effect of the mean position on (fitted - true logit), centred per query; and the correlation of fitted and true."""
    places = made.log.group_by("query_id", "doc_id").agg(pl.col("position").mean(), shown=pl.len()).sort("query_id", "doc_id")
    batch, _ = flatten(comparisons, places)
    fit = fit_batch(
        batch.n_items, batch.edge_ptr, batch.i, batch.j, comparisons["preference"].to_numpy(), weight=batch.weight,
        model="bradley_terry", prior_precision=0.01, std_error="none",
    )  # fmt: skip
    numbers = places.select(pl.col("query_id", "doc_id").str.slice(1).cast(pl.Int64)).to_numpy()
    g = made.attraction[numbers[:, 0], numbers[:, 1]]
    table = places.with_columns(fitted=pl.Series(fit.theta), true=pl.Series(np.log(g / (1 - g))))
    # What was hardly shown or hardly ever clicked has no finite logit to compare with.
    table = table.filter((pl.col("shown") >= 60) & pl.Series(g > 0.05))
    columns = ["fitted", "true", "position"]
    centred = table.with_columns(pl.col(columns) - pl.col(columns).mean().over("query_id"))
    fitted, true, position = (centred[name].to_numpy() for name in columns)
    # The true score is held fixed: the logits of few clicks spread outwards, and better documents stand higher.
    design = np.column_stack((true, position))
    slopes = np.linalg.lstsq(design, fitted - true, rcond=None)[0]
    return float(slopes[1]), float(np.corrcoef(fitted, true)[0, 1])


def test_naive_skip_above_is_biased_and_the_corrected_one_is_not():
    made = clicked(40, 1500, 0)
    corrected = click_comparisons(made.log, ClickConfig(evidence=1.0)).comparisons
    wrong, naive_correlation = slope_of_error(made, naive(made.log))
    right, correlation = slope_of_error(made, corrected)
    assert wrong > 0.5  # per position further down, the naive fit adds this much to a document's logit
    assert abs(right) < 0.03
    assert correlation > 0.9
    assert correlation > naive_correlation + 0.1


def test_preferences_are_the_models():
    """Two documents of known attraction, swapped at random, with given examination: the preference is that of the model."""
    rng = np.random.default_rng(0)
    size, t, g = 40_000, np.array([1.0, 0.5]), np.array([0.3, 0.6])
    first = rng.integers(2, size=size)
    order = np.column_stack((first, 1 - first))
    hits = rng.random((size, 2)) < t * g[order]
    log = pl.DataFrame({
        "impression": np.repeat(np.arange(size), 2).astype(str), "query_id": ["q"] * (2 * size),
        "doc_id": np.array(["a", "b"])[order.ravel()], "position": np.tile([1, 2], size), "clicked": hits.ravel(),
        "dwell_s": pl.Series([None] * (2 * size), dtype=pl.Float64),
    })  # fmt: skip
    for config in (ClickConfig(examination=(1.0, 0.5)), ClickConfig()):
        (row,) = click_comparisons(log, config).comparisons.to_dicts()
        expected = g[0] * (1 - g[1]) / (g[0] * (1 - g[1]) + g[1] * (1 - g[0]))
        assert row["preference"] == pytest.approx(expected, abs=0.015)
        examined = size * t[0] * t[1]
        assert row["weight"] == pytest.approx(0.2 * examined * (g[0] * (1 - g[1]) + g[1] * (1 - g[0])), rel=0.05)


def test_a_short_dwell_is_a_look_that_rejected():
    made = clicked(5, 200, 1).log
    bounced = made.with_columns(dwell_s=pl.when(pl.col("doc_id") == "d03").then(2.0).otherwise("dwell_s"))
    config = ClickConfig(min_dwell_s=10, min_weight=0)
    own = click_comparisons(bounced, config).comparisons.filter((pl.col("doc_i") == "d03") | (pl.col("doc_j") == "d03"))
    for row in own.iter_rows(named=True):
        assert row["preference"] == (0.0 if row["doc_i"] == "d03" else 1.0)
    before = click_comparisons(made, config).comparisons
    assert 0 < before.filter(pl.col("doc_i") == "d03")["preference"].mean() < 1


def test_looked_at():
    assert looked_at(np.array([1.0, 0.5, 0.5]), np.array([0.3, 0.0, 1.0])).tolist() == [1.0, 0.5, 0.0]
    assert looked_at(np.array([1.0]), np.array([1.0])).tolist() == [1.0]


def test_clicks_reach_an_elo_table_without_a_judge():
    made = clicked(6, 400, 2)
    documents = made.log.select("query_id", "doc_id").unique()
    told = click_comparisons(made.log, ClickConfig())
    done = update(
        ELO.frame(), COMPARISONS.frame(), told.comparisons, documents, RatingConfig(prior="zero", model="bradley_terry")
    )
    ELO.validate(done.elo)
    best = done.elo.filter(pl.col("rank") <= 3).with_columns(number=pl.col("doc_id").str.slice(1).cast(pl.Int64))
    query = best["query_id"].str.slice(1).cast(pl.Int64).to_numpy()
    assert made.attraction[query, best["number"].to_numpy()].mean() > made.attraction.mean() + 0.15
    assert (told.impressions, told.left_out) == (2400, 0)


def test_equal_logs_give_equal_comparisons_in_any_order_of_rows():
    log = clicked(10, 40, 3).log
    one = click_comparisons(log, ClickConfig()).comparisons
    other = click_comparisons(log.sample(fraction=1, shuffle=True, seed=1), ClickConfig()).comparisons
    assert one.select("query_id", "doc_i", "doc_j", "n_verdicts").equals(other.select("query_id", "doc_i", "doc_j", "n_verdicts"))
    assert np.allclose(one["preference"], other["preference"], atol=1e-9)


def test_a_fixed_ranking_is_refused_unless_examination_is_given():
    made = clicked(10, 50, 4, mixing=0.0)
    with pytest.raises(InputError, match="never change"):
        click_comparisons(made.log, ClickConfig())
    assert click_comparisons(made.log, ClickConfig(examination=tuple(made.examination))).comparisons.height
    with pytest.raises(InputError, match="one number in"):
        click_comparisons(made.log, ClickConfig(examination=(1.0, 0.0)))


def test_logs_that_break_the_rules_are_refused():
    log = clicked(2, 3, 0).log
    for bad, text in (
        (log.clear(), "is empty"),
        (log.drop("dwell_s"), "has columns"),
        (log.with_columns(position=pl.lit(1, dtype=pl.Int64)), 'impression "0" of the click log has position 1 twice'),
        (log.with_columns(doc_id=pl.lit("d")), "has doc_id d twice"),
        (log.with_columns(position=pl.col("position") - 5), "position below 1"),
    ):
        with pytest.raises(InputError, match=text):
            click_comparisons(bad, ClickConfig())


def test_files_round_trip(tmp_path: Path):
    log = clicked(3, 4, 1).log.sort("impression", "position")
    lines = [
        json.dumps({
            "query_id": own["query_id"][0], "impression": name, "ranking": own["doc_id"].to_list(),
            "clicks": own.filter("clicked").select("doc_id", "dwell_s").to_dicts(),
        })
        for (name,), own in log.partition_by("impression", as_dict=True).items()
    ]  # fmt: skip
    (tmp_path / "log.jsonl").write_text("\n".join([*lines, "", ""]))
    log.write_csv(tmp_path / "log.csv")
    log.write_parquet(tmp_path / "log.parquet")
    for name in ("log.jsonl", "log.csv", "log.parquet"):
        assert read_click_log(tmp_path / name).sort("impression", "position").equals(log)
    (tmp_path / "bare.jsonl").write_text('{"query_id": "q", "ranking": ["a", "b"], "clicks": ["b"]}\n')
    assert read_click_log(tmp_path / "bare.jsonl").rows() == [
        ("1", "q", "a", 1, False, None), ("1", "q", "b", 2, True, None),
    ]  # fmt: skip


def test_every_wrong_line_is_named(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    good = '{"query_id": "q", "ranking": ["a", "b"], "clicks": []}'
    bad = {
        2: "not json",
        3: '{"query_id": 1, "ranking": ["a"]}',
        5: '{"query_id": "q", "ranking": ["a", "a"]}',
        6: '{"query_id": "q", "ranking": ["a"], "clicks": ["z"]}',
        7: '{"query_id": "q", "ranking": ["a"], "clicks": [{"doc_id": "a", "dwell_s": -1}]}',
        8: "[]",
    }
    path.write_text("\n".join(bad.get(number, good) for number in range(1, 9)))
    with pytest.raises(InputError) as caught:
        read_click_log(path)
    assert "has 6 wrong line(s)" in str(caught.value)
    assert all(f"line {number}: " in str(caught.value) for number in bad)
    with pytest.raises(InputError, match="does not exist"):
        read_click_log(tmp_path / "absent.jsonl")
    (tmp_path / "log.txt").write_text("")
    with pytest.raises(InputError, match="is of kind"):
        read_click_log(tmp_path / "log.txt")
    (tmp_path / "log.csv").write_text("query_id,doc_id\nq,a\n")
    with pytest.raises(InputError, match=r"lacks column\(s\) impression, position, clicked"):
        read_click_log(tmp_path / "log.csv")
    (tmp_path / "log.csv").write_text("impression,query_id,doc_id,position,clicked\n1,q,a,one,true\n")
    with pytest.raises(InputError, match="does not fit its column"):
        read_click_log(tmp_path / "log.csv")
    assert set(CLICKS) >= {"impression", "dwell_s"}
