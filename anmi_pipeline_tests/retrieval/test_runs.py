import gzip
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anmi_pipeline.errors import InputError
from anmi_pipeline.retrieval.config import RecordedRunConfig
from anmi_pipeline.retrieval.late_interaction import late_interaction_run
from anmi_pipeline.retrieval.runs import best_positions, rank_rows, read_groups, recorded_run
from anmi_pipeline.retrieval.sparse import sparse_run
from anmi_pipeline.tables import RUN
from anmi_pipeline_tests.retrieval.frames import corpus_frame, listing, query_frame

QUERIES = query_frame({"q1": "aspirin", "q2": "bread"})


@settings(deadline=None)
@given(st.lists(st.integers(-4, 4), max_size=30), st.integers(1, 35))
def test_best_positions_equals_a_full_sort(values: list[int], depth: int) -> None:
    expected = sorted(range(len(values)), key=lambda position: (-values[position], position))[:depth]
    assert best_positions(np.array(values, dtype=np.float32), depth).tolist() == expected


def test_rank_rows_breaks_ties_by_document_id() -> None:
    scored = pl.DataFrame({"query_id": ["q"] * 4, "doc_id": ["d", "b", "a", "c"], "score": [1.0, 1.0, 1.0, 2.0]})
    ranked = rank_rows(scored, 3)
    assert listing(ranked, "q") == ["c", "a", "b"]
    RUN.validate(ranked)


def test_recorded_run_reads_gzip_and_relative_paths(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "run.trec.gz", "wt") as stream:
        stream.write("q1 Q0 d2 1 3.0 x\nq1 Q0 d1 2 2.0 x\nq2 Q0 d3 1 1.0 x\n")
    run = recorded_run("run.trec.gz", QUERIES, corpus_frame(), data_root=tmp_path)
    assert listing(run, "q1") == ["d2", "d1"]
    RUN.validate(run)
    assert recorded_run("run.trec.gz", QUERIES, corpus_frame(), depth=1, data_root=tmp_path).height == 2


@pytest.mark.parametrize(("line", "named"), [("q9 Q0 d1 1 1 x", "q9"), ("q1 Q0 d77 1 1 x", "d77")])
def test_recorded_run_refuses_unknown_ids(tmp_path: Path, line: str, named: str) -> None:
    (tmp_path / "run.trec").write_text(line + "\n")
    with pytest.raises(InputError, match=named):
        recorded_run(str(tmp_path / "run.trec"), QUERIES, corpus_frame())


def test_recorded_run_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.trec does not exist"):
        recorded_run("absent.trec", QUERIES, corpus_frame(), data_root=tmp_path)


@pytest.mark.parametrize(("retrieve", "name"), [(sparse_run, "sparse"), (late_interaction_run, "late_interaction")])
def test_a_retriever_that_is_not_configured_says_so(tmp_path: Path, retrieve, name: str) -> None:
    absent = retrieve(corpus_frame(), QUERIES, None)
    assert absent.run.equals(RUN.frame())
    assert name in absent.reason
    (tmp_path / "run.trec").write_text("q1 Q0 d2 1 3.0 x\n")
    given_run = retrieve(corpus_frame(), QUERIES, RecordedRunConfig(recorded="run.trec"), data_root=tmp_path)
    assert listing(given_run.run, "q1") == ["d2"]
    assert given_run.reason == ""


def test_groups_are_read_only_when_the_scope_says_so() -> None:
    corpus = corpus_frame(groups={"d1": "a", "d2": "a", "d3": "b"})
    queries = query_frame({"q1": "x"}, {"q1": "a"})
    assert read_groups(corpus, queries, "corpus") is None
    groups = read_groups(corpus, queries, "group")
    assert groups is not None
    members = groups.members(corpus["doc_id"].to_list())
    assert {group: positions.tolist() for group, positions in members.items()} == {"a": [0, 1], "b": [2]}


@pytest.mark.parametrize("group", [None, "nowhere"])
def test_a_query_without_its_group_is_refused(group: str | None) -> None:
    corpus = corpus_frame(groups={"d1": "a"})
    queries = query_frame({"q7": "x"}, {"q7": group} if group else None)
    with pytest.raises(InputError, match="q7"):
        read_groups(corpus, queries, "group")
