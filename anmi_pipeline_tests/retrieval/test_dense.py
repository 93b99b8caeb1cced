import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anmi_pipeline.errors import InputError
from anmi_pipeline.retrieval.dense import search
from anmi_pipeline.retrieval.runs import Groups
from anmi_pipeline.tables import RUN
from anmi_pipeline_tests.retrieval.frames import listing


def unit(rng: np.random.Generator, rows: int, columns: int = 16) -> np.ndarray:
    vectors = rng.standard_normal((rows, columns))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def names(letter: str, count: int) -> list[str]:
    return [f"{letter}{number:04d}" for number in range(count)]


def test_equals_a_full_sort(rng: np.random.Generator) -> None:
    documents, queries = unit(rng, 300), unit(rng, 70)
    run = RUN.validate(search(documents, names("d", 300), queries, names("q", 70), 20))
    scores = queries.astype(np.float64) @ documents.astype(np.float64).T
    for row, query_id in enumerate(names("q", 70)):
        assert listing(run, query_id) == [f"d{n:04d}" for n in np.argsort(-scores[row])[:20]]
    assert run["score"].to_numpy() == pytest.approx(np.sort(scores, axis=1)[:, ::-1][:, :20].ravel(), abs=1e-9)


def test_a_query_does_not_depend_on_the_others(rng: np.random.Generator) -> None:
    documents, queries = unit(rng, 500, 384), unit(rng, 65, 384)
    whole = search(documents, names("d", 500), queries, names("q", 65), 50)
    alone = search(documents, names("d", 500), queries[3:4], ["q0003"], 50)
    assert alone.equals(whole.filter(whole["query_id"] == "q0003"))


def test_document_order_does_not_matter(rng: np.random.Generator) -> None:
    documents, queries, ids = unit(rng, 60), unit(rng, 3), names("d", 60)
    order = rng.permutation(60)
    moved = search(documents[order], [ids[n] for n in order], queries, names("q", 3), 10)
    assert moved.equals(search(documents, ids, queries, names("q", 3), 10))


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 60), st.integers(1, 90))
def test_equal_vectors_are_ranked_by_document_id(depth: int, copies: int) -> None:
    rng = np.random.default_rng(copies)
    query = unit(rng, 1)
    documents = np.concatenate([np.repeat(query, copies, axis=0), unit(rng, 20)])
    ids = [f"d{number:04d}" for number in rng.permutation(copies + 20)]
    run = search(documents, ids, query, ["q"], depth)
    twins = sorted(ids[:copies])
    assert listing(run, "q")[: min(depth, copies)] == twins[:depth]


def test_groups_confine_each_query(rng: np.random.Generator) -> None:
    ids = names("d", 6)
    groups = Groups(dict(zip(ids, ["a", "a", "b", "b", "b", None], strict=True)), {"q0000": "b", "q0001": "a"})
    run = search(unit(rng, 6), ids, unit(rng, 2), names("q", 2), 10, groups)
    assert sorted(listing(run, "q0000")) == ["d0002", "d0003", "d0004"]
    assert sorted(listing(run, "q0001")) == ["d0000", "d0001"]


def test_nothing_to_search(rng: np.random.Generator) -> None:
    assert search(unit(rng, 3), names("d", 3), np.zeros((0, 16), np.float32), [], 5).equals(RUN.frame())
    assert search(np.zeros((0, 16), np.float32), [], unit(rng, 1), ["q"], 5).equals(RUN.frame())
    assert search(unit(rng, 3), names("d", 3), unit(rng, 1), ["q"], 50).height == 3


def test_shapes_that_do_not_fit_are_named(rng: np.random.Generator) -> None:
    with pytest.raises(InputError, match="one row per id"):
        search(unit(rng, 3), ["d1"], unit(rng, 1), ["q"], 5)
    with pytest.raises(InputError, match="one encoder"):
        search(unit(rng, 1), ["d1"], unit(rng, 1, 8), ["q"], 5)
