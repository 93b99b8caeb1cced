from pathlib import Path

import ir_measures
import numpy as np
import polars as pl
import pytest
from ir_measures import nDCG

from anmi_pipeline.errors import InputError
from anmi_pipeline.rating.config import LOGISTIC_ELO, PROBIT_ELO, RatingConfig
from anmi_pipeline.rating.designs import cycles
from anmi_pipeline.rating.elo import fold_judgments, rate, top_positive_quality, true_labels
from anmi_pipeline.rating.prior import ScorePrior
from anmi_pipeline.tables import COMPARISONS, ELO, JUDGMENTS, QRELS

OUTCOME = {"left": 1.0, "right": 0.0, "tie": 0.5}


def verdict(query: str, first: str, second: str, p: float | None, judge: str = "a", status: str = "ok") -> dict[str, object]:
    return {
        "query_id": query, "first_id": first, "second_id": second, "judge": judge, "epoch": "0", "round": 1, "audit": False,
        "p_first": p, "status": status, "call_key": "", "provenance": "recorded", "input_tokens": 0, "output_tokens": 0,
        "cost_usd": 0.0,
    }  # fmt: skip


def documents(**pools: str) -> pl.DataFrame:
    return pl.DataFrame(
        [(query, doc) for query, pool in pools.items() for doc in pool], schema=["query_id", "doc_id"], orient="row"
    )


def test_both_orders_and_all_judges_fold_into_one_comparison() -> None:
    folded = fold_judgments(
        JUDGMENTS.frame(
            [
                verdict("q", "x", "b", 0.9),
                verdict("q", "b", "x", 0.4),
                verdict("q", "b", "x", 0.2, judge="c"),
                verdict("q", "b", "d", 1.0),
            ]
        )
    )
    COMPARISONS.validate(folded)
    pair = folded.filter(doc_i="b", doc_j="x").row(0, named=True)
    assert pair["preference"] == pytest.approx((0.1 + 0.4 + 0.2) / 3)
    assert (pair["weight"], pair["n_verdicts"], pair["degree_i"], pair["degree_j"]) == (3.0, 3, 2, 1)
    assert pair["effective_resistance"] == pytest.approx(1 / 3)


def test_failures_are_never_votes() -> None:
    failed = [verdict("q", "a", "b", None, status="timeout"), verdict("q", "a", "c", 0.9, status="refused")]
    assert COMPARISONS.validate(fold_judgments(JUDGMENTS.frame(failed))).height == 0
    folded = fold_judgments(JUDGMENTS.frame([*failed, verdict("q", "b", "a", 0.25)]))
    assert folded.select("doc_i", "doc_j", "preference", "n_verdicts").rows() == [("a", "b", 0.75, 1)]


@pytest.mark.parametrize(("p", "second"), [(None, "b"), (1.2, "b"), (float("nan"), "b"), (0.5, "a")])
def test_an_answered_verdict_must_be_a_probability(p: float | None, second: str) -> None:
    with pytest.raises(InputError, match=r"judge a on query q, first a, second"):
        fold_judgments(JUDGMENTS.frame([verdict("q", "a", second, p)]))


def test_components_of_a_split_graph() -> None:
    folded = fold_judgments(
        JUDGMENTS.frame([verdict("q", "a", "b", 1.0), verdict("q", "d", "c", 1.0), verdict("r", "b", "a", 1.0)])
    )
    assert folded["component"].to_list() == [0, 1, 0]


def test_a_document_never_compared_has_the_prior_a_large_error_and_a_status() -> None:
    folded = fold_judgments(
        JUDGMENTS.frame([verdict("q", "a", "b", 1.0), verdict("q", "b", "c", 0.7), verdict("r", "b", "a", 0.4)])
    )
    table, report = rate(folded, documents(q="abcz", r="ab", s="a"), RatingConfig())
    ELO.validate(table)
    rows = {(row["query_id"], row["doc_id"]): row for row in table.to_dicts()}
    alone = rows["q", "z"]
    assert alone["status"] == "converged+separable+disconnected"
    assert (alone["elo"], alone["n_comparisons"]) == (pytest.approx(1500), 0)
    assert alone["std_error"] == pytest.approx(PROBIT_ELO * np.sqrt(20 * 3 / 4))
    assert alone["std_error"] > max(rows["q", doc]["std_error"] for doc in "abc")
    assert rows["q", "a"]["rank"] == 1
    assert rows["r", "a"]["status"] == "converged"
    assert rows["s", "a"]["status"] == "converged+too_few"
    assert rows["s", "a"]["std_error"] == pytest.approx(PROBIT_ELO * np.sqrt(20))
    assert (report.queries, report.documents, report.edges, report.verdicts) == (3, 7, 3, 3.0)
    assert report.statuses == {"converged": 1, "converged+too_few": 1, "converged+separable+disconnected": 1}


def test_elo_is_1500_plus_c_theta_and_ties_rank_by_id() -> None:
    tied = fold_judgments(JUDGMENTS.frame([verdict("q", "b", "a", 0.5), verdict("q", "c", "b", 0.5)]))
    table, _ = rate(tied, documents(q="abc"), RatingConfig())
    assert table.sort("rank")["doc_id"].to_list() == ["a", "b", "c"]
    assert table["elo"].to_list() == [1500.0] * 3
    for model, scale in (("thurstone", PROBIT_ELO), ("bradley_terry", LOGISTIC_ELO)):
        table, _ = rate(tied.with_columns(preference=pl.lit(0.9)), documents(q="abc"), RatingConfig(model=model))
        assert table["elo"].to_numpy() == pytest.approx(1500 + scale * table["theta"].to_numpy())
        assert table["theta"].sum() == pytest.approx(0.0)


def test_a_400_point_gap_means_ten_to_one() -> None:
    pairs = fold_judgments(JUDGMENTS.frame([verdict("q", "a", "b", 10 / 11)]))
    table, _ = rate(pairs, documents(q="ab"), RatingConfig(model="bradley_terry", prior_precision=1e-9))
    assert np.ptp(table["elo"].to_numpy()) == pytest.approx(400, abs=1e-3)


def test_bad_comparisons_are_named() -> None:
    pairs = fold_judgments(JUDGMENTS.frame([verdict("q7", "a", "b", 0.5)]))
    with pytest.raises(InputError, match="query q7: a and b"):
        rate(pairs, documents(q7="ac"), RatingConfig())
    for change in ({"preference": float("nan")}, {"preference": 1.5}, {"weight": -1.0}, {"doc_j": "a"}):
        with pytest.raises(InputError, match=r"for query q7 has preference"):
            rate(
                pairs.with_columns(**{name: pl.lit(value) for name, value in change.items()}), documents(q7="ab"), RatingConfig()
            )


def test_nothing_to_rate() -> None:
    table, report = rate(COMPARISONS.frame(), documents().cast(pl.String), RatingConfig())
    assert (table.height, report.queries, report.statuses) == (0, 0, {})
    table, _ = rate(COMPARISONS.frame(), documents(q="ab"), RatingConfig())
    assert set(table["status"]) == {"converged+disconnected+too_few"}


def test_row_order_of_the_input_changes_no_byte(rng: np.random.Generator) -> None:
    edges = cycles(20, 6, rng)
    rows = [verdict("q", f"d{a}", f"d{b}", float(rng.random())) for a, b in edges]
    pool = pl.DataFrame({"query_id": "q", "doc_id": [f"d{a}" for a in range(20)]})
    plain, _ = rate(fold_judgments(JUDGMENTS.frame(rows)), pool, RatingConfig())
    shuffled = fold_judgments(JUDGMENTS.frame(rows).sample(fraction=1, shuffle=True, seed=1)).reverse()
    assert plain.equals(rate(shuffled, pool.reverse(), RatingConfig())[0])


def test_the_interval_is_1_96_standard_errors_and_absent_without_them() -> None:
    pairs = fold_judgments(
        JUDGMENTS.frame([verdict("q", "a", "b", 0.9), verdict("q", "b", "c", 0.3), verdict("q", "a", "c", 0.6)])
    )
    for kind in ("fisher", "dispersion", "hc3"):
        table, report = rate(pairs, documents(q="abc"), RatingConfig(std_error=kind))
        assert (table["elo"] - table["elo_low"]).to_numpy() == pytest.approx(1.959964 * table["std_error"].to_numpy(), rel=1e-6)
        assert (table["elo_high"] + table["elo_low"]).to_numpy() == pytest.approx(2 * table["elo"].to_numpy())
        assert list(report.std_error_quantiles) == ["p05", "p25", "p50", "p75", "p95"]
    table, report = rate(pairs, documents(q="abc"), RatingConfig(std_error="none"))
    assert table["elo_low"].null_count() == table["elo_high"].null_count() == 3
    assert (set(table["std_error"]), report.std_error_quantiles) == ({0.0}, {})


def made_features(
    queries: int, n: int, slope: float, rng: np.random.Generator
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Features that tell something about the truth, one hard vote per pair of a sparse graph, and the truth."""
    rows, votes, truths = [], [], []
    for query in range(queries):
        fused = rng.standard_normal(n)
        fused = (fused - fused.mean()) / fused.std()
        truth = slope * fused + 0.4 * rng.standard_normal(n)
        names = [f"d{place:02d}" for place in range(n)]
        rows += [(f"q{query:03d}", name, value) for name, value in zip(names, fused, strict=True)]
        truths += [(f"q{query:03d}", name, value) for name, value in zip(names, truth - truth.mean(), strict=True)]
        for i, j in cycles(n, 4, rng):
            won = float(truth[i] - truth[j] + rng.standard_normal() > 0)
            votes.append(verdict(f"q{query:03d}", names[i], names[j], won))
    columns = ["query_id", "doc_id"]
    return (
        pl.DataFrame(rows, schema=[*columns, "fused"], orient="row"),
        fold_judgments(JUDGMENTS.frame(votes)),
        pl.DataFrame(truths, schema=[*columns, "truth"], orient="row"),
    )


@pytest.fixture(scope="module")
def informed() -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    return made_features(60, 20, 1.0, np.random.default_rng(5))


def test_the_informative_prior_brings_scores_nearer_to_the_truth_and_covers(informed) -> None:
    features, pairs, truth = informed
    error, cover = {}, 0.0
    for kind in ("scores", "zero"):
        table, report = rate(pairs, features, RatingConfig(prior=kind), features=features)
        both = ELO.validate(table).join(truth, on=["query_id", "doc_id"])
        right = 1500 + PROBIT_ELO * both["truth"]
        error[kind] = float(((both["elo"] - right) ** 2).mean() ** 0.5)
        if kind == "scores":
            cover = float(((both["elo_low"] <= right) & (right <= both["elo_high"])).mean())
            assert report.prior["gain_nats_per_verdict"] > 0.1
            assert report.prior["estimated_from"] == "these comparisons"
    assert error["scores"] < 0.6 * error["zero"]
    assert 0.90 < cover <= 1.0
    assert table["prior_mean"].null_count() == table.height  # the last one had the zero prior


def test_a_given_prior_is_used_as_it_is(informed) -> None:
    features, pairs, _ = informed
    strong = ScorePrior(("fused",), (2.0,), 1e6)
    table, report = rate(pairs, features, RatingConfig(), features=features, prior=strong)
    assert table["elo"].to_numpy() == pytest.approx(table["prior_mean"].to_numpy(), abs=0.5)
    assert table["std_error"].max() < 1.0
    assert (report.prior["precision"], report.prior["estimated_from"]) == (1e6, "the first round")


def test_under_a_given_prior_a_query_is_its_own_affair(informed) -> None:
    features, pairs, _ = informed
    prior = ScorePrior(("fused",), (1.0,), 4.0)
    whole, _ = rate(pairs, features, RatingConfig(), features=features, prior=prior)
    one = pl.col("query_id") == "q017"
    alone, _ = rate(pairs.filter(one), features.filter(one), RatingConfig(), features=features.filter(one), prior=prior)
    assert whole.filter(one).equals(alone)


def test_without_features_the_prior_is_zero(informed) -> None:
    features, pairs, _ = informed
    table, report = rate(pairs, features, RatingConfig(prior="scores"))
    assert report.prior == {"kind": "zero", "precision": 0.05}
    assert table.equals(rate(pairs, features, RatingConfig(prior="zero"), features=features)[0])


def test_a_document_without_features_is_named(informed) -> None:
    features, pairs, _ = informed
    with pytest.raises(InputError, match=r"1 rated document.* first d03 of query q000"):
        lost = (pl.col("query_id") == "q000") & (pl.col("doc_id") == "d03")
        rate(pairs, features, RatingConfig(), features=features.filter(~lost))


def test_the_informative_prior_with_nothing_to_rate() -> None:
    features = documents(q="ab").with_columns(fused=pl.Series([1.0, -1.0]))
    table, report = rate(COMPARISONS.frame(), documents(q="ab"), RatingConfig(), features=features)
    assert table["elo"].to_numpy() == pytest.approx(table["prior_mean"].to_numpy())
    assert table.sort("rank")["doc_id"].to_list() == ["a", "b"]
    assert report.prior["gain_nats_per_verdict"] == 0.0


def test_true_labels_follow_grade_then_fused_rank() -> None:
    pool = pl.DataFrame({"query_id": "q", "doc_id": ["a", "b", "c"], "rank": [1, 2, 3]})
    qrels = QRELS.frame([{"query_id": "q", "doc_id": "c", "grade": 1}])
    table = ELO.validate(true_labels(pool, qrels, RatingConfig(source="qrels")))
    assert table.sort("rank")["doc_id"].to_list() == ["c", "a", "b"]
    assert table["elo"].mean() == pytest.approx(1500)
    best, second, third = table.sort("rank")["elo"].to_list()
    assert (best - second, second - third) == (pytest.approx(596), pytest.approx(2))
    assert set(table["status"]) == {"simulated"}
    assert table["std_error"].to_list() == [0.0] * 3


def test_top_positive_quality_counts_queries_that_could_succeed() -> None:
    rows = [("q", "a", 1), ("q", "b", 2), ("r", "a", 1), ("r", "b", 2), ("s", "a", 1)]
    elo = pl.DataFrame(rows, schema=["query_id", "doc_id", "rank"], orient="row")
    qrels = QRELS.frame([
        {"query_id": "q", "doc_id": "a", "grade": 2}, {"query_id": "r", "doc_id": "b", "grade": 1},
        {"query_id": "s", "doc_id": "a", "grade": 0},
    ])  # fmt: skip
    assert top_positive_quality(elo, qrels) == {
        "queries": 2.0,
        "top_relevant": 0.5,
        "top3_relevant": 1.0,
        "relevant_per_query": 1.0,
    }
    assert top_positive_quality(elo, QRELS.frame())["top_relevant"] == 0.0


@pytest.fixture(scope="module")
def recorded(data_root: Path) -> pl.DataFrame:
    battles = pl.read_csv(data_root / "battles" / "dl19-gpt4o" / "battles.csv.gz", infer_schema=False)
    answered = battles.with_row_index("number").select(
        "query_id",
        pl.col("left").alias("first_id"),
        pl.col("right").alias("second_id"),
        "judge",
        pl.lit("recorded").alias("epoch"),
        pl.col("number").cast(pl.Int64).alias("round"),
        pl.lit(False).alias("audit"),
        pl.col("winner").replace_strict(OUTCOME, return_dtype=pl.Float64).alias("p_first"),
        pl.lit("ok").alias("status"),
        pl.lit("").alias("call_key"),
        pl.lit("recorded").alias("provenance"),
        pl.lit(0).alias("input_tokens"),
        pl.lit(0).alias("output_tokens"),
        pl.lit(0.0).alias("cost_usd"),
    )
    return JUDGMENTS.frame(answered)


@pytest.fixture(scope="module")
def grades(data_root: Path) -> pl.DataFrame:
    names = {"query-id": "query_id", "corpus-id": "doc_id", "score": "grade"}
    table = pl.read_csv(data_root / "msmarco-dl19" / "qrels" / "test.tsv", separator="\t", infer_schema=False)
    return QRELS.frame(table.rename(names).with_columns(pl.col("grade").cast(pl.Int64)))


def linear_ndcg(table: pl.DataFrame, qrels: pl.DataFrame) -> float:
    judged = [ir_measures.Qrel(*row) for row in qrels.select("query_id", "doc_id", "grade").iter_rows()]
    run = [ir_measures.ScoredDoc(*row) for row in table.select("query_id", "doc_id", -pl.col("rank")).iter_rows()]
    return ir_measures.calc_aggregate([nDCG @ 10], judged, run)[nDCG @ 10]


@pytest.mark.parametrize("model", ["thurstone", "bradley_terry"])
def test_recorded_gpt4o_preferences_order_the_passages(model: str, recorded: pl.DataFrame, grades: pl.DataFrame) -> None:
    """nDCG@10, linear gain, of the compared passages against the NIST grades; published: sequential Elo .846, plain BT .852."""
    folded = COMPARISONS.validate(fold_judgments(recorded))
    pool = pl.concat([folded.select("query_id", doc_id=end) for end in ("doc_i", "doc_j")]).unique()
    table, report = rate(folded, pool, RatingConfig(model=model))
    assert (report.queries, report.documents, report.verdicts) == (43, 4102, 27463.0)
    assert all("converged" in status for status in report.statuses)
    compared = grades.join(pool, on=["query_id", "doc_id"], how="semi")
    assert linear_ndcg(table, compared) >= 0.850
    assert linear_ndcg(table, grades) >= 0.850
