"""The real collections load with the counts their SOURCE.md files state."""

import pytest

from anmi_pipeline.collections.reading import fingerprint, read_collection
from anmi_pipeline.collections.sources import BeirSource
from anmi_pipeline.collections.trec import read_trec_run


@pytest.mark.parametrize(
    ("name", "options", "documents", "queries", "grades"),
    [
        ("nfcorpus", {}, 3633, {"train": 2590, "dev": 324, "test": 323}, {"train": 110575, "dev": 11385, "test": 12334}),
        ("scifact", {}, 5183, {"train": 809, "test": 300}, {"train": 919, "test": 339}),
        ("msmarco-dl19", {}, 16157, {"test": 43}, {"test": 9260}),
        ("cranfield", {"empty_documents": "keep"}, 1400, {"test": 225}, {"test": 1837}),
    ],
)
def test_counts_are_those_of_the_source(data_root, name, options, documents, queries, grades):
    source = BeirSource(path=name, splits={"dev_share": 0}, **options)
    found = read_collection(source, data_root=data_root, seed=0)
    assert found.corpus.height == documents
    split = found.queries.with_columns(found.queries["split"].replace({"dev_select": "dev", "dev_final": "dev"}))
    assert dict(split["split"].value_counts().iter_rows()) == queries
    graded = found.qrels.join(split, on="query_id")["split"].value_counts()
    assert dict(graded.iter_rows()) == grades
    assert set(fingerprint(source, data_root=data_root, seed=0)) == {"corpus", "queries", "qrels"}


def test_scifact_takes_dev_out_of_training(data_root):
    found = read_collection(BeirSource(path="scifact"), data_root=data_root, seed=0)
    counts = dict(found.queries["split"].value_counts().iter_rows())
    assert counts["test"] == 300
    assert sum(counts.values()) == 1109
    assert 60 <= counts["dev_select"] <= 102  # 81 +- 2.5 standard deviations
    assert 60 <= counts["dev_final"] <= 102


def test_binary_grades_of_cranfield_can_be_chosen(data_root):
    source = BeirSource(path="cranfield", qrels={"test": "qrels/test_binary.tsv"}, empty_documents="drop")
    found = read_collection(source, data_root=data_root, seed=0)
    assert found.qrels["grade"].unique().to_list() == [1]
    assert found.corpus.height == 1398
    assert found.qrels.height == 1836  # document 995 is empty and graded


@pytest.mark.parametrize("name", ["bm25", "bm25_rm3", "d_bert_kd_tasb", "open_ai_ada2", "splade_p_p_ensemble_distil"])
def test_recorded_runs_have_a_hundred_documents_a_query(data_root, name):
    run = read_trec_run(data_root / "msmarco-dl19" / "runs" / f"{name}.trec.gz")
    assert run.height == 4300
    assert run.group_by("query_id").len()["len"].unique().to_list() == [100]
