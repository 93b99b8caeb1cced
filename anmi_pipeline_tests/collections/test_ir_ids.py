from typing import NamedTuple

import ir_datasets
import pytest

from anmi_pipeline.collections import hub, ir_ids
from anmi_pipeline.collections.reading import fingerprint, read_collection
from anmi_pipeline.collections.sources import IrDatasetsSource
from anmi_pipeline.errors import InputError


class Doc(NamedTuple):
    doc_id: str
    title: str
    text: str

    def default_text(self):
        return f"{self.title} {self.text}"


class Page(NamedTuple):
    doc_id: str
    title: str
    body: str

    def default_text(self):
        return f"{self.title} {self.body}"


class Query(NamedTuple):
    query_id: str
    text: str

    def default_text(self):
        return self.text


class Qrel(NamedTuple):
    query_id: str
    doc_id: str
    relevance: int


class Docs:
    def __init__(self, docs):
        self.docs = docs

    def docs_iter(self):
        return iter(self.docs)

    def docs_handler(self):
        return self


class Queries:
    def __init__(self, *queries):
        self.queries = queries

    def queries_iter(self):
        return iter(self.queries)

    def queries_handler(self):
        return self


class Qrels:
    def __init__(self, *qrels):
        self.qrels = qrels

    def qrels_iter(self):
        return iter(self.qrels)

    def qrels_handler(self):
        return self


class Broken(Docs):
    def docs_iter(self):
        raise OSError("no route to host")


@pytest.fixture
def registry(monkeypatch):
    known = {
        "pets": ir_datasets.Dataset(Docs([Doc("d1", "Cats", "Cats sleep."), Doc("d2", "Dogs", "Dogs bark.")])),
        "pages": ir_datasets.Dataset(Docs([Page("d1", "Cats", "Cats sleep."), Page("d2", "Dogs", "Dogs bark.")])),
        "broken": ir_datasets.Dataset(Broken([])),
        "pets/train": ir_datasets.Dataset(Queries(Query("q1", "sleepers")), Qrels(Qrel("q1", "d1", 1))),
        "pets/test": ir_datasets.Dataset(Queries(Query("q2", "barkers")), Qrels(Qrel("q2", "d2", 2), Qrel("q2", "d1", -1))),
    }
    monkeypatch.setattr(ir_datasets, "registry", known)
    monkeypatch.setattr(ir_datasets, "load", known.__getitem__)


def source(**changes):
    parts = {"corpus": "pets", "queries": {"train": "pets/train", "test": "pets/test"}, "splits": {"dev_share": 0}}
    return IrDatasetsSource(**{**parts, **changes})


def read(**changes):
    return read_collection(source(**changes), data_root=None, seed=0)


def test_reads_documents_queries_and_grades(registry):
    found = read()
    assert found.corpus.rows() == [("d1", "Cats", "Cats sleep.", None), ("d2", "Dogs", "Dogs bark.", None)]
    assert found.queries.select("query_id", "text", "split").rows() == [("q1", "sleepers", "train"), ("q2", "barkers", "test")]
    assert found.qrels.rows() == [("q1", "d1", 1), ("q2", "d1", 0), ("q2", "d2", 2)]


def test_a_single_id_declares_no_split(registry):
    assert read(queries="pets/test").queries["split"].to_list() == ["test"]


def test_documents_without_a_text_field(registry):
    assert read(corpus="pages").corpus.row(0)[1:3] == ("", "Cats Cats sleep.")
    assert read(corpus="pages", text_field="body").corpus.row(0)[1:3] == ("Cats", "Cats sleep.")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"corpus": "pest"}, 'knows no dataset "pest". Did you mean "pets"'),
        ({"corpus": "zzzz"}, "ir-datasets.com"),
        ({"corpus": "pets/train"}, '"pets/train" has no docs'),
        ({"queries": "pets"}, '"pets" has no queries'),
        ({"corpus": "broken"}, "cannot get broken: no route to host"),
        ({"text_field": "txt"}, 'no field "txt". Did you mean "text"'),
        ({"queries": {"train": "pets/train", "test": "pets/train"}}, '"q1" is also in split train'),
    ],
)
def test_wrong_ids_are_named(registry, changes, match):
    with pytest.raises(InputError, match=match):
        read(**changes)


def test_fingerprints_follow_the_ids(registry):
    before = fingerprint(source(), data_root=None, seed=0)
    after = fingerprint(source(corpus="pages"), data_root=None, seed=0)
    assert {table for table in before if before[table] != after[table]} == {"corpus"}


def test_ids_of_the_package_itself_are_known():
    dataset = ir_ids.registered("beir/scifact/test", "queries")
    assert dataset.has("qrels")
    with pytest.raises(InputError, match='Did you mean "beir/scifact"'):
        ir_ids.registered("beir/scifct", "docs")


def test_an_absent_package_names_the_extra(monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(hub, "import_module", absent)
    with pytest.raises(InputError, match=r'pip install "anmi-pipeline\[ir-datasets\]"'):
        read()
