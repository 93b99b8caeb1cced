import gzip

import polars as pl
import pytest

from anmi_pipeline.collections.reading import fingerprint, read_collection
from anmi_pipeline.collections.sources import TabularSource
from anmi_pipeline.errors import InputError
from anmi_pipeline_tests.collections.tiny import json_lines, snapshot

DOCUMENTS = {"pmid": [11, 12], "abstract": ["one, two", None], "name": ["First", "Second"]}
QUERIES = {"query_id": ["a", "b"], "text": ["ask", "tell"], "split": ["train", "test"]}
GRADES = {"query_id": ["a", "b"], "doc_id": ["11", "12"], "grade": [1, 2]}
COLUMNS = {"doc_id": "pmid", "text": "abstract", "title": "name"}


@pytest.fixture
def folder(tmp_path):
    pl.DataFrame(DOCUMENTS).write_parquet(tmp_path / "docs.parquet")
    pl.DataFrame(QUERIES).write_parquet(tmp_path / "queries.parquet")
    pl.DataFrame(GRADES).write_parquet(tmp_path / "grades.parquet")
    return tmp_path


def source(**changes):
    parts = {
        "corpus": {"path": "docs.parquet", "columns": COLUMNS},
        "queries": {"path": "queries.parquet"},
        "qrels": {"path": "grades.parquet"},
        "splits": {"dev_share": 0},
    }
    return TabularSource(**{**parts, **changes})


def read(folder, **changes):
    return read_collection(source(**changes), data_root=folder, seed=0)


def refused(folder, match, **changes):
    before = snapshot(folder)
    with pytest.raises(InputError, match=match):
        read(folder, **changes)
    assert snapshot(folder) == before


def test_reads_declared_columns(folder):
    found = read(folder)
    assert found.corpus.rows() == [("11", "First", "one, two", None), ("12", "Second", "", None)]
    assert found.queries.select("query_id", "split").rows() == [("a", "train"), ("b", "test")]
    assert found.qrels.rows() == [("a", "11", 1), ("b", "12", 2)]


def test_csv_tsv_and_json_lines_give_the_same_collection(folder):
    wanted = read(folder)
    rows = pl.DataFrame(DOCUMENTS)
    rows.write_csv(folder / "docs.csv")
    (folder / "docs.csv.gz").write_bytes(gzip.compress((folder / "docs.csv").read_bytes().replace(b"\n", b"\r\n")))
    (folder / "docs.tsv").write_text("pmid\tabstract\tname\n11\tone, two\tFirst\n12\t\tSecond\n")
    (folder / "docs.jsonl").write_text(json_lines(rows.to_dicts()))
    for name in ("docs.csv", "docs.csv.gz", "docs.tsv", "docs.jsonl"):
        found = read(folder, corpus={"path": name, "columns": COLUMNS})
        assert found.corpus.equals(wanted.corpus), name


def test_a_pattern_reads_all_parts(folder):
    frame = pl.DataFrame(DOCUMENTS)
    for row in range(2):
        frame[row : row + 1].write_parquet(folder / f"part-{row}.parquet")
    assert read(folder, corpus={"path": "part-*.parquet", "columns": COLUMNS}).corpus.height == 2
    refused(folder, 'no file like "piece-', corpus={"path": "piece-*.parquet"})


def test_group_evidence_and_provenance_columns(folder):
    rows = [
        {"query_id": "a", "text": "x", "group_id": 3, "has_evidence": False, "source_ids": ["11"]},
        {"query_id": "b", "text": "y", "group_id": None, "has_evidence": None, "source_ids": None},
    ]
    (folder / "q.jsonl").write_text(json_lines(rows))
    pl.DataFrame(rows).write_parquet(folder / "q.parquet")
    for name in ("q.jsonl", "q.parquet"):
        found = read(folder, queries={"path": name}).queries
        assert found.select("group_id", "has_evidence", "source_ids").rows() == [("3", False, ["11"]), (None, None, None)]


def test_quoted_cells_may_hold_commas_quotes_and_lines(folder):
    (folder / "docs.csv").write_bytes(b'pmid,abstract,name\r\n11,"a ""b"", c\r\nd",N\r\n12,x,y\r\n')
    assert read(folder, corpus={"path": "docs.csv", "columns": COLUMNS}).corpus["text"][0] == 'a "b", c\nd'


def test_csv_flags_and_grades_are_parsed(folder):
    (folder / "q.csv").write_text("query_id,text,has_evidence\na,x,true\nb,y,0\n")
    (folder / "g.csv").write_text("query_id,doc_id,grade\na,11, 2\n")
    found = read(folder, queries={"path": "q.csv"}, qrels={"test": {"path": "g.csv"}})
    assert found.queries["has_evidence"].to_list() == [True, False]
    assert found.qrels["grade"].to_list() == [2]


def test_split_from_the_grades_table(folder):
    pl.DataFrame({**GRADES, "split": ["train", "test"]}).write_parquet(folder / "g.parquet")
    pl.DataFrame(QUERIES).drop("split").write_parquet(folder / "q.parquet")
    found = read(folder, queries={"path": "q.parquet"}, qrels={"path": "g.parquet"})
    assert found.queries["split"].to_list() == ["train", "test"]


def test_without_grades_queries_go_by_hash(folder):
    frame = pl.DataFrame({"query_id": [str(n) for n in range(300)], "text": ["x"] * 300})
    frame.write_parquet(folder / "q.parquet")
    found = read(folder, queries={"path": "q.parquet"}, qrels={})
    assert set(found.queries["split"]) == {"train", "dev_select", "dev_final", "test"}
    assert found.qrels.is_empty()


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"doc_id": "pmid", "text": "abstrct"}, 'no column "abstrct".*Did you mean "abstract"'),
        ({"doc_id": "pmid", "text": "abstract", "title": "heading"}, 'no column "heading"'),
        ({"doc_id": "pmid", "texts": "abstract"}, 'unknown field "texts".*Did you mean "text"'),
        ({"doc_id": "pmid", "text": "pmid"}, r'column "pmid" \(text\) holds Int64, expected a text'),
    ],
)
def test_wrong_columns_name_the_nearest(folder, columns, match):
    refused(folder, rf"docs\.parquet.*{match}", corpus={"path": "docs.parquet", "columns": columns})


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("g.csv", "query_id,doc_id,grade\na,11,1\nb,12,high\n", "row 2: column \"grade\" .* 'high', expected a whole number"),
        ("g.csv", "query_id,doc_id,grade\na,11\n", r"line 2: has 2 cell\(s\), the header has 3"),
        ("g.csv", 'query_id,doc_id,grade\na,"11,1\n', "line 2: not valid CSV"),
        ("g.csv", "query_id,query_id,grade\n", "line 1: expected a header with distinct"),
        ("g.csv", "", "line 1: expected a header"),
        ("g.jsonl", '{"query_id": "a", "doc_id": "11", "grade": 0.5}\n', 'line 1: "grade" is 0.5'),
        ("g.parquet", "not parquet", "cannot be read as parquet"),
        ("g.xlsx", "", 'not in ".xlsx"'),
    ],
)
def test_wrong_tables_are_named(folder, name, text, match):
    (folder / name).write_text(text)
    refused(folder, rf"{name}.*{match}", qrels={"path": name})


def test_null_ids_and_fractional_grades_are_refused(folder):
    pl.DataFrame({"query_id": ["a", None], "doc_id": ["11", "12"], "grade": [1, 1]}).write_parquet(folder / "g.parquet")
    refused(folder, 'row 2: column "query_id"', qrels={"path": "g.parquet"})
    pl.DataFrame({"query_id": ["a"], "doc_id": ["11"], "grade": [1.0]}).write_parquet(folder / "g.parquet")
    refused(folder, r'column "grade" \(grade\) holds Float64', qrels={"path": "g.parquet"})


def test_an_unknown_split_names_the_nearest(folder):
    pl.DataFrame({**QUERIES, "split": ["train", "tests"]}).write_parquet(folder / "q.parquet")
    refused(folder, 'query "b" has split "tests".*Did you mean "test"', queries={"path": "q.parquet"})


def test_fingerprints_follow_files_and_columns(folder):
    before = fingerprint(source(), data_root=folder, seed=0)
    pl.DataFrame({**QUERIES, "text": ["ask", "say"]}).write_parquet(folder / "queries.parquet")
    after = fingerprint(source(), data_root=folder, seed=0)
    assert {table for table in before if before[table] != after[table]} == {"queries"}
    other = source(corpus={"path": "docs.parquet", "columns": {"doc_id": "pmid", "text": "abstract"}})
    moved = fingerprint(other, data_root=folder, seed=0)
    assert {table for table in before if after[table] != moved[table]} == {"corpus"}
