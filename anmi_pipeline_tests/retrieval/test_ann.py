import numpy as np
import pytest

from anmi_pipeline.errors import ArtifactError, InputError
from anmi_pipeline.retrieval.ann import (
    build_index,
    load_index,
    measure_latency,
    recall_against_exact,
    save_index,
    search_index,
)
from anmi_pipeline.retrieval.config import IndexConfig
from anmi_pipeline.retrieval.dense import search
from anmi_pipeline.tables import RUN
from anmi_pipeline_tests.retrieval.frames import listing

KINDS = ("flat", "hnsw", "ivf_flat", "ivf_pq")


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((30, 32))
    rows = centres[rng.integers(30, size=1200)] + 0.5 * rng.standard_normal((1200, 32))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def ids(vectors: np.ndarray) -> list[str]:
    return [f"d{number:05d}" for number in np.random.default_rng(1).permutation(len(vectors))]


def config(kind: str, **settings: int) -> IndexConfig:
    return IndexConfig.model_validate({"kind": kind, "segments": 16, **settings})


def test_flat_equals_exact_search(vectors: np.ndarray, ids: list[str]) -> None:
    queries = vectors[:5]
    found = RUN.validate(search_index(build_index(vectors, ids, config("flat")), queries, ["a", "b", "c", "d", "e"], 10))
    exact = search(vectors, ids, queries, ["a", "b", "c", "d", "e"], 10)
    assert found.drop("score").equals(exact.drop("score"))
    assert found["score"].to_numpy() == pytest.approx(exact["score"].to_numpy(), abs=1e-5)


@pytest.mark.parametrize(("kind", "floor"), [("flat", 1.0), ("hnsw", 0.98), ("ivf_flat", 0.95), ("ivf_pq", 0.5)])
def test_recall(vectors: np.ndarray, ids: list[str], kind: str, floor: float) -> None:
    index = build_index(vectors, ids, config(kind))
    recall = recall_against_exact(index, vectors, ids, vectors[:50], k=10)
    assert floor <= recall <= 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_equal_inputs_give_equal_bytes_and_answers_survive_storage(vectors, ids, kind: str, tmp_path) -> None:
    for name in ("first", "second"):
        save_index(build_index(vectors, ids, config(kind), seed=3), tmp_path / name)
    for file in ("index.faiss", "index.json"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()
    built, loaded = build_index(vectors, ids, config(kind), seed=3), load_index(tmp_path / "first")
    assert loaded.config == built.config
    assert search_index(loaded, vectors[:4], list("abcd"), 7).equals(search_index(built, vectors[:4], list("abcd"), 7))


@pytest.mark.parametrize("kind", KINDS)
def test_document_order_does_not_matter(vectors: np.ndarray, ids: list[str], kind: str) -> None:
    order = np.random.default_rng(2).permutation(len(ids))
    moved = build_index(vectors[order], [ids[n] for n in order], config(kind))
    expected = search_index(build_index(vectors, ids, config(kind)), vectors[:3], list("abc"), 5)
    assert search_index(moved, vectors[:3], list("abc"), 5).equals(expected)


def test_settings_of_the_search_are_used(vectors: np.ndarray, ids: list[str]) -> None:
    def recall(**settings: int) -> float:
        index = build_index(vectors, ids, config("ivf_flat", nlist=30, **settings))
        return recall_against_exact(index, vectors, ids, vectors[:80], k=20)

    assert recall(nprobe=30) == 1.0
    assert recall(nprobe=1) < 1.0


def test_equal_vectors_are_ranked_by_document_id(vectors: np.ndarray) -> None:
    twins = np.repeat(vectors[:1], 6, axis=0)
    run = search_index(build_index(twins, list("fbdace"), config("flat")), vectors[:1], ["q"], 6)
    assert listing(run, "q") == list("abcdef")


def test_fewer_documents_than_asked_for(vectors: np.ndarray) -> None:
    index = build_index(vectors[:3], ["a", "b", "c"], config("hnsw"))
    assert search_index(index, vectors[:1], ["q"], 10).height == 3


def test_latency_is_measured(vectors: np.ndarray, ids: list[str]) -> None:
    latency = measure_latency(build_index(vectors, ids, config("flat")), vectors[:7], searches=20)
    assert 0 < latency.p50_ms <= latency.p95_ms
    assert latency.queries_per_second > 0


@pytest.mark.parametrize(
    ("settings", "rows", "named"),
    [
        ({"kind": "ivf_pq", "segments": 48}, 600, "Set it to 32"),
        ({"kind": "ivf_pq", "segments": 16}, 100, "Use kind: flat"),
        ({"kind": "ivf_flat", "nlist": 50}, 10, "nlist is 50"),
        ({"kind": "flat"}, 0, "no document vector"),
    ],
)
def test_what_cannot_be_built_is_named(vectors: np.ndarray, ids: list[str], settings: dict, rows: int, named: str) -> None:
    with pytest.raises(InputError, match=named):
        build_index(vectors[:rows], ids[:rows], IndexConfig.model_validate(settings))


@pytest.mark.parametrize("damage", ["cut", "absent", "another"])
def test_damaged_index_is_named(vectors: np.ndarray, ids: list[str], damage: str, tmp_path) -> None:
    save_index(build_index(vectors, ids, config("hnsw")), tmp_path)
    file = tmp_path / "index.faiss"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:1000])
    elif damage == "absent":
        file.unlink()
    else:
        save_index(build_index(vectors[:9], ids[:9], config("flat")), tmp_path / "other")
        file.write_bytes((tmp_path / "other" / "index.faiss").read_bytes())
    with pytest.raises(ArtifactError, match="Build it again"):
        load_index(tmp_path)
