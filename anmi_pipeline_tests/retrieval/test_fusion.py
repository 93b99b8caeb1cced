from types import ModuleType

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anmi_pipeline.errors import InputError
from anmi_pipeline.retrieval.fusion import min_max, rrf
from anmi_pipeline.tables import RUN
from anmi_pipeline_tests.retrieval.frames import listing, run_frame, runs

THREE = st.lists(runs(), min_size=1, max_size=4)


def naive_rrf(frames: list[pl.DataFrame], k: int) -> dict[tuple[str, str], float]:
    scores: dict[tuple[str, str], float] = {}
    for frame in frames:
        for query_id, doc_id, rank, _ in frame.iter_rows():
            scores[query_id, doc_id] = scores.get((query_id, doc_id), 0.0) + 1 / (k + rank)
    return scores


def naive_min_max(frames: list[pl.DataFrame], weights: list[float]) -> dict[tuple[str, str], float]:
    scores: dict[tuple[str, str], float] = {}
    for frame, weight in zip(frames, weights, strict=True):
        for (query_id,), part in frame.group_by("query_id"):
            low, high = part["score"].min(), part["score"].max()
            for doc_id, score in part.select("doc_id", "score").iter_rows():
                share = (score - low) / (high - low) if high > low else 1.0
                scores[str(query_id), doc_id] = scores.get((str(query_id), doc_id), 0.0) + weight * share
    return scores


def as_dict(run: pl.DataFrame) -> dict[tuple[str, str], float]:
    return {(query_id, doc_id): score for query_id, doc_id, _, score in run.iter_rows()}


@settings(deadline=None)
@given(THREE, st.integers(0, 80))
def test_rrf_equals_a_naive_loop(frames: list[pl.DataFrame], k: int) -> None:
    fused = rrf(frames, k)
    RUN.validate(fused)
    assert as_dict(fused) == pytest.approx(naive_rrf(frames, k))


@settings(deadline=None)
@given(THREE, st.data())
def test_min_max_equals_a_naive_loop(frames: list[pl.DataFrame], data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.floats(0, 2), min_size=len(frames), max_size=len(frames)))
    fused = min_max(frames, weights)
    RUN.validate(fused)
    assert as_dict(fused) == pytest.approx(naive_min_max(frames, weights))


@settings(deadline=None)
@given(THREE, st.randoms(use_true_random=False))
def test_the_order_of_runs_changes_no_bit(frames: list[pl.DataFrame], random) -> None:
    order = list(range(len(frames)))
    random.shuffle(order)
    weights = [0.3 + 0.1 * number for number in range(len(frames))]
    moved = [frames[number] for number in order]
    assert rrf(moved).equals(rrf(frames))
    assert min_max(moved, [weights[number] for number in order]).equals(min_max(frames, weights))


@settings(deadline=None)
@given(THREE)
def test_queries_do_not_influence_each_other(frames: list[pl.DataFrame]) -> None:
    one = [frame.filter(pl.col("query_id") == "q1") for frame in frames]
    weights = [0.5] * len(frames)
    for fuse in (rrf, lambda given_runs: min_max(given_runs, weights)):
        assert fuse(one).equals(fuse(frames).filter(pl.col("query_id") == "q1"))


@settings(deadline=None)
@given(runs(queries=("q",)), runs(queries=("q",)))
def test_a_document_ahead_in_every_run_stays_ahead(first: pl.DataFrame, second: pl.DataFrame) -> None:
    ranks = [dict(zip(frame["doc_id"], frame["rank"], strict=True)) for frame in (first, second)]
    fused = {doc_id: rank for _, doc_id, rank, _ in rrf([first, second]).iter_rows()}
    shared = sorted(set(ranks[0]) & set(ranks[1]))
    for a in shared:
        for b in shared:
            if all(rank[a] < rank[b] for rank in ranks):
                assert fused[a] < fused[b]


@settings(deadline=None)
@given(runs(queries=("q",)), st.floats(0.1, 10), st.floats(-5, 5))
def test_min_max_ignores_scale_and_offset(run: pl.DataFrame, scale: float, offset: float) -> None:
    moved = run.with_columns(score=pl.col("score") * scale + offset)
    assert as_dict(min_max([moved], [1.0])) == pytest.approx(as_dict(min_max([run], [1.0])), abs=1e-9)


def test_depth_cuts_each_query() -> None:
    run = run_frame({"q1": [("a", 3), ("b", 2), ("c", 1)], "q2": [("a", 1)]})
    assert listing(rrf([run], depth=2), "q1") == ["a", "b"]
    assert listing(min_max([run], [1.0], depth=1), "q2") == ["a"]


def test_empty_runs_add_nothing() -> None:
    run = run_frame({"q1": [("a", 3), ("b", 2)]})
    assert rrf([run, RUN.frame()]).equals(rrf([run]))
    assert min_max([RUN.frame(), run], [0.5, 0.5]).equals(min_max([run], [0.5]))
    assert rrf([RUN.frame()]).equals(RUN.frame())


def test_bad_arguments_are_named() -> None:
    with pytest.raises(InputError, match="1 run"):
        min_max([RUN.frame()], [0.5, 0.5])
    with pytest.raises(InputError, match="no run"):
        rrf([])


@pytest.mark.slow
def test_ranx_agrees(ranx: ModuleType) -> None:
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(2):
        lists = {}
        for query in range(4):
            chosen = rng.permutation(20)[:12]
            lists[f"q{query}"] = [(f"d{n}", score) for n, score in zip(chosen, np.sort(rng.random(12))[::-1], strict=True)]
        frames.append(run_frame(lists))
    given_runs = [
        ranx.Run({str(q): dict(zip(part["doc_id"], part["score"], strict=True)) for (q,), part in frame.group_by("query_id")})
        for frame in frames
    ]
    by_rrf = ranx.fuse(given_runs, method="rrf", params={"k": 60}).to_dict()
    assert as_dict(rrf(frames)) == pytest.approx({(q, d): s for q, row in by_rrf.items() for d, s in row.items()})
    by_sum = ranx.fuse(given_runs, norm="min-max", method="wsum", params={"weights": (0.3, 0.7)}).to_dict()
    expected = {(q, d): s for q, row in by_sum.items() for d, s in row.items()}
    assert as_dict(min_max(frames, [0.3, 0.7])) == pytest.approx(expected, abs=1e-6)
