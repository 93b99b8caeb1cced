import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from anmi_pipeline.collections.sources import (
    BeirSource,
    HubTable,
    HuggingFaceSource,
    IrDatasetsSource,
    SourceConfig,
    TableFile,
    TabularSource,
    TrecSource,
)

ADAPTER = TypeAdapter(SourceConfig)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"reader": "beir", "path": "scifact"}, BeirSource),
        ({"reader": "trec", "corpus": "docs", "topics": "t.txt"}, TrecSource),
        ({"reader": "tabular", "corpus": {"path": "a.csv"}, "queries": {"path": "b.csv"}}, TabularSource),
        ({"reader": "ir_datasets", "corpus": "beir/scifact", "queries": "beir/scifact/test"}, IrDatasetsSource),
        ({"reader": "huggingface", "corpus": {"path": "x/y"}, "queries": {"path": "x/z"}}, HuggingFaceSource),
    ],
)
def test_the_reader_decides_the_model(given, kind):
    source = ADAPTER.validate_python(given)
    assert isinstance(source, kind)
    assert ADAPTER.validate_json(ADAPTER.dump_json(source)) == source


def test_a_bare_path_is_a_file_of_no_split():
    assert TrecSource(corpus="docs", topics="t.txt", qrels="q.txt").qrels == {"all": "q.txt"}
    table = {"path": "g.csv"}
    tabular = TabularSource(corpus=table, queries=table, qrels=table)
    assert tabular.qrels == {"all": TableFile(path="g.csv")}


@pytest.mark.parametrize(
    "given",
    [
        {"reader": "beer", "path": "scifact"},
        {"reader": "beir"},
        {"reader": "beir", "path": "scifact", "qrel": {}},
        {"reader": "beir", "path": "scifact", "qrels": {"validation": "x.tsv"}},
        {"reader": "beir", "path": "scifact", "max_document_bytes": 0},
        {"reader": "trec", "corpus": [], "topics": "t"},
        {"reader": "trec", "corpus": "c", "topics": {}},
        {"reader": "ir_datasets", "corpus": "c", "queries": {}},
    ],
)
def test_typos_are_refused(given):
    with pytest.raises(ValidationError):
        ADAPTER.validate_python(given)


@pytest.mark.parametrize(
    "model", [BeirSource, TrecSource, TabularSource, IrDatasetsSource, HuggingFaceSource, TableFile, HubTable]
)
def test_every_field_is_described(model: type[BaseModel]):
    assert [name for name, field in model.model_fields.items() if not field.description] == []
