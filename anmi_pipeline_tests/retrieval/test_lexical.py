import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from anmi_pipeline.errors import ArtifactError, InputError
from anmi_pipeline.retrieval.config import LexicalConfig
from anmi_pipeline.retrieval.lexical import LexicalIndex, document_texts, lexical_run
from anmi_pipeline.tables import RUN
from anmi_pipeline_tests.retrieval.frames import DOCUMENTS, corpus_frame, listing, query_frame

CONFIG = LexicalConfig()


def test_ties_go_by_document_id_and_zero_scores_are_dropped() -> None:
    run = lexical_run(corpus_frame(), query_frame({"q1": "heart attack aspirin", "q2": "yeast", "q3": "zebra", "q4": ""}), CONFIG)
    RUN.validate(run)
    assert listing(run, "q1") == ["d1", "d4"]  # equal texts
    assert sorted(listing(run, "q2")) == ["d2", "d3"]
    assert listing(run, "q3") == listing(run, "q4") == []
    assert (run["score"] > 0).all()


def test_scores_follow_the_equation() -> None:
    corpus = corpus_frame({"a": ("", "red red blue"), "b": ("", "blue green"), "c": ("", "green green green yellow")})
    config = LexicalConfig(k1=1.2, b=0.6, stemmer="none", stopwords="none")
    run = lexical_run(corpus, query_frame({"q": "red blue blue"}), config)

    def weight(frequency: int, holders: int, length: int) -> float:
        idf = math.log(1 + (3 - holders + 0.5) / (holders + 0.5))
        return idf * frequency / (frequency + 1.2 * (1 - 0.6 + 0.6 * length / 3))

    expected = {"a": weight(2, 1, 3) + 2 * weight(1, 2, 3), "b": 2 * weight(1, 2, 2)}
    assert dict(zip(run["doc_id"], run["score"], strict=True)) == pytest.approx(expected, rel=1e-5)


def test_title_and_text_are_both_searched_and_stemmed() -> None:
    assert document_texts(corpus_frame())[2] == "yeast infections respond to drugs"
    run = lexical_run(corpus_frame(), query_frame({"q1": "engine", "q2": "burning"}), CONFIG)
    assert listing(run, "q1") == listing(run, "q2") == ["d5"]


def test_depth_keeps_the_best() -> None:
    queries = query_frame({"q": "aspirin yeast reduces"})
    full = listing(lexical_run(corpus_frame(), queries, CONFIG), "q")
    assert listing(lexical_run(corpus_frame(), queries, LexicalConfig(depth=2)), "q") == full[:2]
    assert listing(LexicalIndex.build(corpus_frame(), CONFIG).search(["q"], ["aspirin yeast reduces"], depth=1), "q") == full[:1]


def test_scope_group_confines_a_query() -> None:
    corpus = corpus_frame(groups={"d2": "kitchen", "d3": "clinic", "d1": "clinic"})
    queries = query_frame({"q1": "yeast", "q2": "yeast"}, {"q1": "kitchen", "q2": "clinic"})
    run = lexical_run(corpus, queries, CONFIG, scope="group")
    assert listing(run, "q1") == ["d2"]
    assert listing(run, "q2") == ["d3"]


def test_row_order_does_not_matter() -> None:
    queries = query_frame({"q": "aspirin yeast"})
    shuffled = corpus_frame().sample(fraction=1, shuffle=True, seed=3)
    assert lexical_run(shuffled, queries, CONFIG).equals(lexical_run(corpus_frame(), queries, CONFIG))


def test_saved_index_answers_alike(tmp_path: Path) -> None:
    index = LexicalIndex.build(corpus_frame(), CONFIG)
    index.save(tmp_path)
    loaded = LexicalIndex.load(tmp_path)
    assert loaded.search(["q"], ["yeast drugs"]).equals(index.search(["q"], ["yeast drugs"]))
    assert loaded.config == CONFIG


@pytest.mark.parametrize("damage", ["absent", "garbage"])
def test_damaged_index_is_named(tmp_path: Path, damage: str) -> None:
    LexicalIndex.build(corpus_frame(), CONFIG).save(tmp_path)
    if damage == "absent":
        (tmp_path / "weights.npy").unlink()
    else:
        (tmp_path / "lexical.json").write_text("{")
    with pytest.raises(ArtifactError, match="Build it again"):
        LexicalIndex.load(tmp_path)


def test_equal_bytes_under_another_hash_seed(tmp_path: Path) -> None:
    script = (
        "import json, sys, polars as pl\n"
        "from pathlib import Path\n"
        "from anmi_pipeline.retrieval.lexical import LexicalIndex\n"
        "from anmi_pipeline.retrieval.config import LexicalConfig\n"
        "from anmi_pipeline_tests.retrieval.frames import corpus_frame\n"
        "LexicalIndex.build(corpus_frame(), LexicalConfig()).save(Path(sys.argv[1]))\n"
    )
    for seed in ("1", "2"):
        subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / seed)], check=True, env={**os.environ, "PYTHONHASHSEED": seed}
        )
    files = sorted(path.name for path in (tmp_path / "1").iterdir())
    assert files == ["lexical.json", "offsets.npy", "postings.npy", "weights.npy"]
    assert all((tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes() for name in files)


def test_documents_without_words_are_never_found() -> None:
    corpus = corpus_frame({**DOCUMENTS, "d0": ("", "..."), "d9": ("the", "of")})
    assert listing(lexical_run(corpus, query_frame({"q": "yeast the of"}), CONFIG), "q") == listing(
        lexical_run(corpus, query_frame({"q": "yeast"}), CONFIG), "q"
    )
    nothing = LexicalIndex.build(corpus_frame({"d0": ("", "..."), "d9": ("", "the")}), CONFIG)
    assert nothing.search(["q"], ["the yeast"]).height == 0


def test_bad_settings_are_named() -> None:
    with pytest.raises(InputError, match="no document"):
        LexicalIndex.build(corpus_frame().clear(), CONFIG)
    with pytest.raises(InputError, match='Did you mean "english"'):
        LexicalIndex.build(corpus_frame(), LexicalConfig(stemmer="englsh"))


def test_recorded_run_stands_in(tmp_path: Path) -> None:
    (tmp_path / "bm25.trec").write_text("q1 Q0 d5 1 9 x\n")
    config = LexicalConfig(recorded="bm25.trec")
    assert listing(lexical_run(corpus_frame(), query_frame({"q1": "yeast"}), config, data_root=tmp_path), "q1") == ["d5"]


@pytest.mark.slow
@pytest.mark.parametrize(("collection", "expected"), [("nfcorpus", 0.321), ("scifact", 0.686)])
def test_published_figures(data_root: Path, collection: str, expected: float) -> None:
    import gzip

    import ir_measures
    import polars as pl

    folder = data_root / collection
    with gzip.open(folder / "corpus.jsonl.gz", "rt") as stream:
        documents = {row["_id"]: (row.get("title") or "", row["text"]) for row in map(json.loads, stream)}
    with (folder / "queries.jsonl").open() as stream:
        texts = {row["_id"]: row["text"] for row in map(json.loads, stream)}
    ids = {"query-id": pl.String(), "corpus-id": pl.String()}
    rows = pl.read_csv(folder / "qrels" / "test.tsv", separator="\t", schema_overrides=ids).rows()
    judged = {query_id: texts[query_id] for query_id, _, _ in rows}
    run = lexical_run(corpus_frame(documents), query_frame(judged), CONFIG)
    scored = [ir_measures.ScoredDoc(q, d, -float(rank)) for q, d, rank, _ in run.iter_rows()]
    measured = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], [ir_measures.Qrel(q, d, int(g)) for q, d, g in rows], scored)
    assert measured[ir_measures.nDCG @ 10] == pytest.approx(expected, abs=0.005)
    assert np.isfinite(run["score"].to_numpy()).all()
