import datasets
import pytest

from anmi_pipeline.collections import hub
from anmi_pipeline.collections.reading import fingerprint, read_collection
from anmi_pipeline.collections.sources import HuggingFaceSource
from anmi_pipeline.errors import InputError
from anmi_pipeline_tests.collections.tiny import DOCUMENTS, QUERIES, json_lines

GRADES = {"query-id": ["q1", "q2"], "corpus-id": ["d1", "d2"], "score": [1, 2]}
COLUMNS = {"query_id": "query-id", "doc_id": "corpus-id", "grade": "score"}


@pytest.fixture
def folder(tmp_path):
    datasets.Dataset.from_list(DOCUMENTS).save_to_disk(tmp_path / "corpus")
    datasets.DatasetDict({"queries": datasets.Dataset.from_list(QUERIES)}).save_to_disk(tmp_path / "queries")
    both = {
        "train": datasets.Dataset.from_dict(GRADES),
        "test": datasets.Dataset.from_dict({k: [v[1]] for k, v in GRADES.items()}),
    }
    datasets.DatasetDict(both).save_to_disk(tmp_path / "grades")
    return tmp_path


def source(folder, **changes):
    parts = {
        "corpus": {"path": "corpus", "columns": {"doc_id": "_id"}},
        "queries": {"path": "queries", "columns": {"query_id": "_id"}},
        "qrels": {"test": {"path": "grades", "split": "test", "columns": COLUMNS}},
        "cache_dir": str(folder / "cache"),
    }
    return HuggingFaceSource(**{**parts, **changes})


def read(folder, **changes):
    return read_collection(source(folder, **changes), data_root=folder, seed=0)


def test_reads_saved_folders(folder):
    found = read(folder)
    assert found.corpus.row(2) == ("d3", "", "Füchse jagen nachts.", None)
    assert found.queries.select("query_id", "split").rows() == [("q1", "train"), ("q2", "test"), ("q3", "train")]
    assert found.qrels.rows() == [("q2", "d2", 2)]


def test_reads_json_lines_through_the_package(folder):
    (folder / "docs.jsonl").write_text(json_lines(DOCUMENTS))
    table = {"path": "json", "data_files": "docs.jsonl", "split": "train", "columns": {"doc_id": "_id"}}
    assert read(folder, corpus=table).corpus.equals(read(folder).corpus)


@pytest.mark.parametrize(
    ("part", "table", "match"),
    [
        ("corpus", {"path": "corpus"}, 'corpus: has no column "doc_id"'),
        ("corpus", {"path": "./corpse"}, 'Did you mean "corpus"'),
        ("corpus", {"path": "json"}, "needs data_files"),
        ("corpus", {"path": "json", "data_files": ["none.jsonl"]}, "does not exist"),
        ("queries", {"path": "grades", "columns": {"query_id": "query-id"}}, "several splits; name one: train, test"),
        ("queries", {"path": "grades", "split": "dev"}, 'no split "dev": train, test'),
        ("queries", {"path": "cache"}, "cannot read cache"),
    ],
)
def test_wrong_tables_are_named(folder, part, table, match):
    (folder / "cache").mkdir()
    with pytest.raises(InputError, match=match):
        read(folder, **{part: table})


def test_fingerprints_follow_the_bytes_on_disk(folder):
    before = fingerprint(source(folder), data_root=folder, seed=0)
    assert fingerprint(source(folder), data_root=folder, seed=0) == before
    datasets.Dataset.from_list(DOCUMENTS[:2]).save_to_disk(folder / "corpus")
    after = fingerprint(source(folder), data_root=folder, seed=0)
    assert {table for table in before if before[table] != after[table]} == {"corpus"}


def test_a_pinned_commit_is_not_read_again(folder, monkeypatch):
    def unreachable(*_):
        raise AssertionError("a pinned dataset was read for its fingerprint")

    monkeypatch.setattr(hub, "hub_table", unreachable)
    pinned = {"path": "BeIR/scifact", "name": "corpus", "revision": "a" * 40}
    first = fingerprint(source(folder, corpus=pinned), data_root=folder, seed=0)
    second = fingerprint(source(folder, corpus={**pinned, "revision": "b" * 40}), data_root=folder, seed=0)
    assert {table for table in first if first[table] != second[table]} == {"corpus"}


def test_an_unpinned_dataset_is_identified_by_its_content(folder, monkeypatch):
    moving = source(folder, corpus={"path": "someone/corpus", "columns": {"doc_id": "_id"}})
    found = []
    for rows in (DOCUMENTS, DOCUMENTS, DOCUMENTS[:2]):
        monkeypatch.setattr(hub, "load_table", lambda *_, rows=rows: datasets.Dataset.from_list(rows))
        found.append(fingerprint(moving, data_root=folder, seed=0))
    assert found[0] == found[1]
    assert {table for table in found[0] if found[0][table] != found[2][table]} == {"corpus"}


def test_an_absent_package_names_the_extra():
    with pytest.raises(InputError, match=r'pip install "anmi-pipeline\[hf\]"'):
        hub.extra_module("no_such_package_of_anyone", "hf")
