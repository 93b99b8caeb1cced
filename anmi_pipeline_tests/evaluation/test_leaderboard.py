"""A board of simulated systems: figures, ranks, contrasts, empty cases."""

import numpy as np
import polars as pl
import pytest

from anmi_pipeline.errors import InputError
from anmi_pipeline.evaluation.config import FALSE_EVIDENCE, EvaluationConfig
from anmi_pipeline.evaluation.leaderboard import SystemResult, leaderboard
from anmi_pipeline.evaluation.metrics import per_query_metrics, seed_means
from anmi_pipeline.evaluation.presentation import render_table, rows_json, winner
from anmi_pipeline.tables import CONTRASTS, METRICS, PER_QUERY, QRELS, QUERIES, SCORES

CONFIG = EvaluationConfig(
    bootstrap_samples=500,
    query_sets=("dev_select", "dev_final", "test", "dev_final+test"),
    metrics=("nDCG@10", "MRR@10", "Recall@50"),
)
DOCUMENTS = [f"d{i:02d}" for i in range(30)]


@pytest.fixture
def collection(rng):
    rows = [
        {"query_id": f"q{i:03d}", "text": "?", "split": ("dev_select", "dev_final", "test")[i % 3], "has_evidence": i % 10 != 9}
        for i in range(150)
    ]
    queries = QUERIES.frame(rows)
    answerable = queries.filter("has_evidence")["query_id"].to_list()
    grades = [
        {"query_id": q, "doc_id": d, "grade": int(rng.integers(1, 3))}
        for q in answerable
        for d in rng.choice(DOCUMENTS, 3, replace=False)
    ]
    return queries, QRELS.frame(grades)


def ranking(queries, qrels, quality, rng, seeds=(0,), leave_out=()):
    """Scores = quality * grade + noise, so a larger quality ranks better."""
    pairs = queries.select("query_id").join(pl.DataFrame({"doc_id": DOCUMENTS}), how="cross")
    graded = pairs.join(qrels, on=["query_id", "doc_id"], how="left").with_columns(pl.col("grade").fill_null(0))
    frames = []
    for seed in seeds:
        scored = graded.with_columns(
            seed=pl.lit(seed), score=quality * pl.col("grade") + pl.Series(rng.normal(size=graded.height))
        )
        ranked = scored.sort("query_id", "score", descending=[False, True]).with_columns(
            rank=pl.int_range(1, pl.len() + 1).over("query_id")
        )
        frames.append(ranked.filter(~pl.col("query_id").is_in(list(leave_out))))
    return SCORES.frame(pl.concat(frames))


@pytest.fixture
def systems(collection, rng):
    queries, qrels = collection
    no_evidence = queries.filter(~pl.col("has_evidence"))["query_id"].to_list()

    def system(name, quality, seeds=(0,), tuned=None, **facts):
        return SystemResult(name, "toy", name, "human", ranking(queries, qrels, quality, rng, seeds), tuned=tuned, **facts)

    return [
        system("bm25", 0.5),
        system("minilm", 1.0),
        system(
            "anmi",
            2.5,
            (0, 1, 2),
            tuned=ranking(queries, qrels, 3.0, rng, (0, 1, 2), no_evidence),
            checkpoint="c1",
            elo_table="e1",
        ),
        system("placebo", 0.2, (0, 1, 2), checkpoint="c2", elo_table="e1"),
    ]


@pytest.fixture
def board(systems, collection):
    queries, qrels = collection
    return leaderboard(systems, qrels, queries, CONFIG)


def test_tables_keep_their_declaration(board):
    METRICS.validate(board.metrics)
    PER_QUERY.validate(board.per_query)
    CONTRASTS.validate(board.contrasts)
    assert board.reason == ""


def test_values_are_means_over_queries_and_seeds(board, systems, collection):
    queries, qrels = collection
    anmi = next(s for s in systems if s.system == "anmi")
    test = queries.filter(pl.col("split") == "test")
    expected = (
        seed_means(per_query_metrics(anmi.raw, qrels, test, ["nDCG@10"])).filter(pl.col("metric") == "nDCG@10")["value"].mean()
    )
    row = board.metrics.filter(
        (pl.col("system") == "anmi")
        & (pl.col("variant") == "raw")
        & (pl.col("split") == "test")
        & (pl.col("metric") == "nDCG@10")
    ).row(0, named=True)
    assert row["value"] == pytest.approx(expected)
    assert row["low"] < row["value"] < row["high"]
    assert (row["seeds"], row["checkpoint"], row["elo_table"]) == (3, "c1", "e1")
    assert row["n_queries"] == test.filter("has_evidence").height


def test_joined_sets_hold_the_queries_of_both(board):
    counts = dict(
        board.metrics.filter((pl.col("system") == "bm25") & (pl.col("metric") == "nDCG@10"))
        .select("split", "n_queries")
        .iter_rows()
    )
    assert counts["dev_final+test"] == counts["dev_final"] + counts["test"]


def test_ranks_and_contrasts_find_the_planted_order(board):
    figures = board.metrics.filter(
        (pl.col("split") == "dev_final+test") & (pl.col("metric") == "nDCG@10") & (pl.col("variant") == "raw")
    )
    ranks = dict(figures.select("system", "rank").iter_rows())
    assert (ranks["anmi"], ranks["minilm"], ranks["bm25"]) == (1, 2, 3)
    assert ranks["placebo"] in (3, 4)
    contrast = board.contrasts.filter(
        (pl.col("system") == "anmi")
        & (pl.col("baseline") == "placebo")
        & (pl.col("split") == "test")
        & (pl.col("metric") == "nDCG@10")
    ).row(0, named=True)
    assert contrast["low"] > 0
    assert contrast["p_value"] < 0.05
    assert set(board.contrasts["baseline"]) == {"minilm", "placebo"}
    assert board.contrasts.filter(pl.col("system") == pl.col("baseline")).is_empty()


def test_contrast_is_the_difference_of_the_board(board):
    wide = board.metrics.filter(pl.col("variant") == "raw").select("system", "split", "metric", "value")
    joined = board.contrasts.join(wide, on=["system", "split", "metric"]).join(
        wide, left_on=["baseline", "split", "metric"], right_on=["system", "split", "metric"], suffix="_base"
    )
    np.testing.assert_allclose(joined["difference"], joined["value"] - joined["value_base"], atol=1e-8)


def test_false_evidence_falls_when_a_system_abstains(board):
    rates = board.metrics.filter((pl.col("metric") == FALSE_EVIDENCE) & (pl.col("split") == "test"))
    by_key = {(system, variant): value for system, variant, value in rates.select("system", "variant", "value").iter_rows()}
    assert by_key["anmi", "raw"] == 1.0
    assert by_key["anmi", "tuned"] == 0.0
    assert rates["rank"].null_count() == rates.height


def test_order_of_systems_does_not_matter(systems, collection, board):
    queries, qrels = collection
    again = leaderboard(systems[::-1], qrels, queries, CONFIG)
    assert again.metrics.equals(board.metrics)
    assert again.contrasts.equals(board.contrasts)


def test_a_systems_figures_do_not_depend_on_its_neighbours(systems, collection, board):
    queries, qrels = collection
    alone = leaderboard(systems[:1], qrels, queries, CONFIG)
    columns = ["split", "metric", "value", "low", "high"]
    assert alone.metrics.select(columns).equals(board.metrics.filter(pl.col("system") == "bm25").select(columns))
    assert alone.contrasts.is_empty()


def test_json_rows_have_the_published_shape(board):
    document = rows_json(board)
    row = next(r for r in document["rows"] if (r["system"], r["variant"], r["split"]) == ("anmi", "raw", "test"))
    required = {
        "system",
        "dataset",
        "recipe",
        "variant",
        "split",
        "labels",
        "metrics",
        "n_queries",
        "seeds",
        "checkpoint",
        "elo_table",
    }
    assert required <= set(row)
    assert {"value", "low", "high"} <= set(row["metrics"]["nDCG@10"])
    assert FALSE_EVIDENCE in row["metrics"]
    first = [r["system"] for r in document["rows"] if r["split"] == "test" and r["variant"] == "raw"]
    assert first[0] == "anmi"
    assert len(document["rows"]) == 4 * (4 + 1)


def test_the_table_lists_systems_best_first(board):
    table = render_table(board, "test", ["nDCG@10", FALSE_EVIDENCE])
    assert [line["system"] for line in table][:2] == ["anmi", "minilm"]
    assert table[0]["nDCG@10"].startswith(".")
    assert table[0][FALSE_EVIDENCE] == "1.000 [1.000, 1.000]"
    assert render_table(board, "held_out") == []


def test_winner_is_chosen_on_dev_final_and_may_be_tuned(board):
    best = winner(board)
    assert (best.system, best.split) == ("anmi", "dev_final")
    assert best.variant in ("raw", "tuned")
    assert winner(board, max_false_evidence=0.5).variant == "tuned"


def test_the_placebo_never_wins(systems, collection, rng):
    queries, qrels = collection
    strong = SystemResult("placebo", "toy", "placebo", "human", ranking(queries, qrels, 9.0, rng))
    assert winner(leaderboard([systems[0], strong], qrels, queries, CONFIG)).system == "bm25"


def test_without_dev_labels_the_choice_says_what_it_was_made_on(systems, collection):
    queries, qrels = collection
    test_only = qrels.join(queries.filter(pl.col("split") == "test"), on="query_id", how="semi")
    board = leaderboard(systems, test_only, queries.with_columns(has_evidence=None), CONFIG)
    assert board.reason == "no relevance labels for: dev_select, dev_final"
    choice = winner(board)
    assert (choice.system, choice.split) == ("anmi", "test")
    assert "dev_final has no labels" in choice.reason
    assert "optimistic" in choice.reason


def test_without_labels_the_board_is_empty_and_says_so(systems, collection):
    queries, _ = collection
    board = leaderboard(systems, QRELS.frame(), queries.with_columns(has_evidence=None), CONFIG)
    assert board.metrics.is_empty()
    assert board.contrasts.is_empty()
    assert "no query of this dataset has relevance labels" in board.reason
    assert rows_json(board) == {"rows": [], "reason": board.reason}
    choice = winner(board)
    assert (choice.system, choice.value) == ("minilm", None)
    assert "unmeasured" in choice.reason


def test_no_systems(collection):
    queries, qrels = collection
    board = leaderboard([], qrels, queries, CONFIG)
    assert board.metrics.is_empty()
    assert winner(board).system == ""


def test_two_systems_of_one_name_are_refused(systems, collection):
    queries, qrels = collection
    with pytest.raises(InputError, match="bm25 stand on the leaderboard twice"):
        leaderboard([systems[0], systems[0]], qrels, queries, CONFIG)
