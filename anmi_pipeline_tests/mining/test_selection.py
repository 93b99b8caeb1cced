"""The training set: roles, weights, labels, the placebo and the reasons."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anmi_pipeline.errors import InputError
from anmi_pipeline.mining.config import MiningConfig
from anmi_pipeline.mining.selection import shuffled_labels, training_set
from anmi_pipeline.tables import ELO, POOL, TRAINING_SET


def elo_table(rows: list[tuple[str, str, float, float]]) -> pl.DataFrame:
    return ELO.frame(
        [
            {
                "query_id": q,
                "doc_id": d,
                "theta": 0.0,
                "elo": e,
                "std_error": s,
                "rank": 1,
                "n_comparisons": 8,
                "status": "converged",
            }
            for q, d, e, s in rows
        ]
    )


def pool_table(rows: list[tuple[str, str, int | None]]) -> pl.DataFrame:
    return POOL.frame([{"query_id": q, "doc_id": d, "lexical_rank": r} for q, d, r in rows])


GAPS = {"a": 0.0, "b": 100.0, "c": 140.0, "d": 145.0, "e": 160.0, "f": 250.0, "g": 450.0, "h": 900.0, "i": 50.0}
ONE = elo_table([("q", doc, 2000.0 - gap, 100.0) for doc, gap in GAPS.items()])
POOL_ONE = pool_table([("q", doc, {"a": 1, "f": 2, "b": 60}.get(doc)) for doc in GAPS])


def rows_by_document(frame: pl.DataFrame) -> dict[str, dict[str, object]]:
    return {row["doc_id"]: row for row in frame.iter_rows(named=True)}


def test_elo_gap_bands_follow_the_table():
    rows = rows_by_document(training_set(ONE, POOL_ONE, MiningConfig()))
    assert {d: r["role"] for d, r in rows.items()} == {
        "a": "positive", "i": "positive", "b": "positive",
        "c": "negative", "d": "negative", "e": "negative", "f": "negative", "g": "negative", "h": "negative",
    }  # fmt: skip
    assert [(rows[d]["weight"], rows[d]["tier"]) for d in "cdefgh"] == [
        (0.5, 4),
        (0.5, 4),
        (0.5, 4),
        (1.0, 3),
        (0.7, 2),
        (0.3, 1),
    ]
    assert rows["g"]["reason"] == "Elo gap 400-600: negative of weight 0.7"
    assert rows["h"]["reason"] == "Elo gap 600 or more: negative of weight 0.3"
    assert rows["a"]["reason"] == "positive: highest Elo of the query"
    assert rows["i"]["reason"] == "positive: rank 2 and 50 Elo below the best"
    assert rows["f"]["gap"] == 250.0


def test_documents_close_to_the_best_beyond_the_positives_are_rejected():
    table = elo_table([("q", f"d{i}", 2000.0 - 10 * i, 50.0) for i in range(6)] + [("q", "z", 1500.0, 50.0)])
    rows = rows_by_document(training_set(table, POOL_ONE, MiningConfig()))
    assert rows["d4"]["role"] == "unused"
    assert rows["d4"]["weight"] == 0.0
    assert rows["d4"]["reason"] == "Elo gap 0-100: rejected, may be relevant"


def test_probability_of_a_false_negative():
    rows = rows_by_document(training_set(ONE, POOL_ONE, MiningConfig()))
    # Phi(-250 / sqrt(100^2 + 100^2)) = Phi(-1.7678)
    assert rows["f"]["p_false_negative"] == pytest.approx(0.038550, abs=1e-6)
    assert rows["a"]["p_false_negative"] is None


def test_lexical_miner_takes_the_lexical_run_alone_with_weight_one():
    rows = rows_by_document(training_set(ONE, POOL_ONE, MiningConfig(miner="lexical")))
    assert [d for d, r in rows.items() if r["role"] == "negative"] == ["f"]
    assert rows["f"]["weight"] == 1.0
    assert rows["f"]["reason"] == "lexical rank 2"
    assert rows["g"]["reason"] == "not among the first 50 of the lexical run"
    assert rows["b"]["role"] == "positive"


def test_all_miner_takes_every_document_with_weight_one():
    frame = training_set(ONE, POOL_ONE, MiningConfig(miner="all"))
    assert frame.filter(pl.col("role") == "negative").height == 6
    assert set(frame["weight"]) == {1.0}


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([("q", "a", 1500.0, 10.0)], "query unused: one judged document only"),
        ([("q", "a", 1500.0, 10.0), ("q", "b", 1500.0, 10.0)], "query unused: all documents tie"),
        (
            [("q", "a", 1510.0, 10.0), ("q", "b", 1500.0, 10.0)],
            "query unused: no negative; positive: highest Elo of the query",
        ),
    ],
)
def test_a_query_that_cannot_train_is_unused_with_the_reason(rows: list[tuple[str, str, float, float]], reason: str):
    frame = training_set(elo_table(rows), POOL_ONE, MiningConfig())
    assert set(frame["role"]) == {"unused"}
    assert set(frame["weight"]) == {0.0}
    assert frame["reason"][0] == reason


@pytest.mark.parametrize(("transform", "expected"), [("elo_400", [0.25, -0.25]), ("z", [1.0, -1.0]), ("unit", [1.0, 0.0])])
def test_label_transforms(transform: str, expected: list[float]):
    table = elo_table([("q", "a", 1600.0, 10.0), ("q", "b", 1400.0, 10.0)])
    frame = training_set(table, POOL_ONE, MiningConfig(transform=transform))  # pyright: ignore[reportArgumentType]
    assert frame["label"].to_list() == pytest.approx(expected)


def test_not_finite_elo_is_refused_by_name():
    with pytest.raises(InputError, match="first query q, document a: elo nan"):
        training_set(elo_table([("q", "a", float("nan"), 1.0), ("q", "b", 1.0, 1.0)]), POOL_ONE, MiningConfig())


def test_empty_elo_table_gives_an_empty_training_set():
    assert training_set(ELO.frame(), POOL.frame(), MiningConfig()).is_empty()


def test_wrong_bands_are_refused():
    with pytest.raises(ValueError, match="must start at 0 and ascend"):
        MiningConfig(bands=MiningConfig().bands[1:])


def random_elo(seed: int, n_queries: int = 4, n_documents: int = 12) -> pl.DataFrame:
    draw = np.random.default_rng(seed)
    return elo_table(
        [
            (f"q{q}", f"d{d:02}", float(draw.normal(1500, 250)), float(draw.uniform(50, 200)))
            for q in range(n_queries)
            for d in range(n_documents)
        ]
    )


def test_placebo_keeps_the_labels_of_each_query_and_loses_their_place():
    table = random_elo(1)
    config = MiningConfig(labels="shuffled", seed=3)
    twin, placebo = training_set(table, POOL.frame(), MiningConfig(seed=3)), training_set(table, POOL.frame(), config)
    for query in twin["query_id"].unique():
        mine, its = (
            frame.filter(pl.col("query_id") == query).select("elo", "std_error").sort("elo") for frame in (twin, placebo)
        )
        assert mine.equals(its)
    assert not twin.equals(placebo)
    assert (
        twin.group_by("query_id", "role")
        .len()
        .sort("query_id", "role")
        .equals(placebo.group_by("query_id", "role").len().sort("query_id", "role"))
    )


def test_placebo_differs_from_its_twin_in_labels_alone():
    twin, placebo = MiningConfig().model_dump(), MiningConfig(labels="shuffled").model_dump()
    assert {name for name in twin if twin[name] != placebo[name]} == {"labels"}


def test_a_query_keeps_its_permutation_whatever_other_queries_there_are():
    table = random_elo(2).select("query_id", "doc_id", "elo", "std_error")
    alone = shuffled_labels(table.filter(pl.col("query_id") == "q2"), 0)
    assert shuffled_labels(table, 0).filter(pl.col("query_id") == "q2").equals(alone)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["elo_gap", "lexical", "all"]), st.sampled_from(["elo", "shuffled"]))
def test_every_row_is_kept_and_valid(seed: int, miner: str, labels: str):
    table = random_elo(seed)
    pool = pool_table([(q, d, int(d[1:]) + 1) for q, d in table.select("query_id", "doc_id").iter_rows()])
    config = MiningConfig(miner=miner, labels=labels)  # pyright: ignore[reportArgumentType]
    frame = training_set(table, pool, config)
    TRAINING_SET.validate(frame)
    assert frame.height == table.height
    assert frame.select("gap").min().item() == 0
    assert (frame["tier"] > 0).to_list() == (frame["role"] == "negative").to_list()
    assert frame.filter((pl.col("role") == "negative") & (pl.col("weight") == 0)).is_empty()
    assert frame.equals(training_set(table.sample(fraction=1, shuffle=True, seed=seed), pool, config))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(-500, 500))
def test_selection_does_not_change_when_a_constant_is_added_to_elo(seed: int, shift: float):
    table = random_elo(seed)
    moved = table.with_columns(pl.col("elo") + round(shift))
    config = MiningConfig()
    first, second = training_set(table, POOL.frame(), config), training_set(moved, POOL.frame(), config)
    assert first["role"].equals(second["role"])
    assert np.allclose(first["label"], second["label"])
