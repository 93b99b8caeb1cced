import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from anmi_pipeline.errors import InputError
from anmi_pipeline.retrieval.config import Generator, PoolConfig, RetrievalConfig
from anmi_pipeline.retrieval.fusion import min_max, rrf
from anmi_pipeline.retrieval.pool import build_pool, coverage, interleave, pool_documents, pool_recall
from anmi_pipeline.tables import GENERATORS, POOL, QRELS, RUN
from anmi_pipeline_tests.retrieval.frames import listing, query_frame, run_frame, runs

LEXICAL = run_frame({"q1": [("a", 9), ("b", 7), ("c", 1)], "q2": [("a", 2)]})
DENSE = run_frame({"q1": [("d", 0.9), ("b", 0.8), ("a", 0.1)], "q2": [("e", 0.5), ("a", 0.4)]})
TWO = {"lexical": LEXICAL, "dense": DENSE, "sparse": RUN.frame(), "late_interaction": RUN.frame()}
SMALL = PoolConfig(depth=10)


def documents(pool: pl.DataFrame, generator: Generator, query_id: str = "q1", size: int = 10) -> list[str]:
    return listing(pool_documents(pool, generator, size), query_id)


def test_each_generator() -> None:
    pool = build_pool(TWO, SMALL)
    POOL.validate(pool)
    assert documents(pool, "dense") == ["d", "b", "a"]
    assert documents(pool, "sparse") == ["a", "b", "c"]  # no sparse run: the lexical one
    assert documents(pool, "recall") == ["a", "d", "b", "c"]
    assert documents(pool, "rrf") == listing(rrf([LEXICAL, DENSE]), "q1")
    assert documents(pool, "weighted") == listing(min_max([LEXICAL, DENSE], [0.5, 0.5]), "q1")


def test_scores_of_a_generator_are_its_own() -> None:
    pool = build_pool(TWO, SMALL)
    for generator, expected in {"dense": DENSE, "sparse": LEXICAL, "rrf": rrf([LEXICAL, DENSE])}.items():
        assert pool_documents(pool, generator, 10).equals(expected)  # pyright: ignore[reportArgumentType]
    assert pool_documents(pool, "recall", 2)["score"].to_list() == [1.0, 0.5, 1.0, 0.5]


def test_rows_carry_every_rank_and_score() -> None:
    row = build_pool(TWO, SMALL).row(by_predicate=(pl.col("query_id") == "q1") & (pl.col("doc_id") == "b"), named=True)
    assert (row["lexical_rank"], row["dense_rank"], row["sparse_rank"]) == (2, 2, None)
    assert (row["lexical_score"], row["dense_score"], row["late_interaction_score"]) == (7.0, 0.8, None)
    assert row["rrf_pool_score"] == pytest.approx(2 / 62)


def test_a_sparse_run_replaces_the_lexical_one_query_by_query() -> None:
    pool = build_pool({**TWO, "sparse": run_frame({"q1": [("z", 3)]})}, SMALL)
    assert documents(pool, "sparse") == ["z"]
    assert documents(pool, "sparse", "q2") == ["a"]
    assert pool_documents(pool, "sparse", 10)["score"].to_list() == [3.0, 2.0]


@settings(deadline=None)
@given(runs(), runs(), runs(), st.integers(1, 9))
def test_pools_are_prefixes_and_queries_independent(
    lexical: pl.DataFrame, dense: pl.DataFrame, sparse: pl.DataFrame, size: int
) -> None:
    given_runs = {"lexical": lexical, "dense": dense, "sparse": sparse}
    config = PoolConfig(depth=6)
    pool = POOL.validate(build_pool(given_runs, config))
    for generator in GENERATORS:
        whole, part = pool_documents(pool, generator, 6), pool_documents(pool, generator, size)
        assert part.equals(whole.filter(pl.col("rank") <= size))
        assert whole.is_empty() or whole["rank"].max() <= 6
        RUN.validate(whole)
    alone = build_pool({name: run.filter(pl.col("query_id") == "q1") for name, run in given_runs.items()}, config)
    assert alone.equals(pool.filter(pl.col("query_id") == "q1"))


@settings(deadline=None)
@given(st.lists(runs(queries=("q",)), min_size=1, max_size=3))
def test_interleaving_equals_taking_turns(frames: list[pl.DataFrame]) -> None:
    lists = [frame["doc_id"].to_list() for frame in frames]
    expected: list[str] = []
    for turn in range(10):
        for documents_of_run in lists:
            if turn < len(documents_of_run) and documents_of_run[turn] not in expected:
                expected.append(documents_of_run[turn])
    assert listing(interleave(frames), "q") == expected


def test_documents_outside_every_run_can_be_added() -> None:
    extra = pl.DataFrame({"query_id": ["q1", "q1", "q3"], "doc_id": ["a", "judged", "only"]})
    pool = POOL.validate(build_pool(TWO, SMALL, extra))
    row = pool.row(by_predicate=pl.col("doc_id") == "judged", named=True)
    assert {value for name, value in row.items() if name not in ("query_id", "doc_id")} == {None}
    assert pool.height == build_pool(TWO, SMALL).height + 2
    assert coverage(pool, query_frame({"q1": "", "q2": "", "q3": "", "q4": ""})) == ["q4"]


def test_rows_beyond_every_generators_depth_are_left_out() -> None:
    deep = run_frame({"q": [(f"d{n:02d}", -n) for n in range(20)]})
    pool = build_pool({"lexical": deep, "dense": deep}, PoolConfig(depth=5))
    assert pool["doc_id"].to_list() == [f"d{n:02d}" for n in range(5)]


def test_no_run_at_all_gives_an_empty_pool_and_names_every_query() -> None:
    pool = build_pool({"lexical": RUN.frame(), "dense": RUN.frame()}, SMALL)
    assert pool.equals(POOL.frame())
    assert coverage(pool, query_frame({"q2": "", "q1": ""})) == ["q1", "q2"]


def test_one_run_is_enough() -> None:
    pool = build_pool({"lexical": LEXICAL}, SMALL)
    assert documents(pool, "rrf") == documents(pool, "weighted") == documents(pool, "recall") == ["a", "b", "c"]
    assert documents(pool, "dense") == []


def test_recall_counts_absent_queries_as_zero() -> None:
    qrels = QRELS.frame({"query_id": ["q1", "q1", "q1", "q9"], "doc_id": ["a", "d", "x", "a"], "grade": [1, 2, 0, 1]})
    recall = pool_recall(build_pool(TWO, SMALL), qrels, sizes=(1, 10))
    value = {(generator, size): share for generator, size, share, _ in recall.iter_rows()}
    assert value["dense", 1] == pytest.approx((1 / 2 + 0) / 2)
    assert value["rrf", 10] == pytest.approx((1 + 0) / 2)
    assert set(recall["n_queries"]) == {2}


def test_bad_arguments_are_named() -> None:
    with pytest.raises(InputError, match='Did you mean "lexical"'):
        build_pool({"lexcal": LEXICAL}, SMALL)
    with pytest.raises(InputError, match='Did you mean "dense"'):
        pool_documents(build_pool(TWO, SMALL), "dens", 5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValidationError, match="0 or above"):
        PoolConfig(weights={"lexical": -1})
    assert RetrievalConfig().pool.depth == 200
