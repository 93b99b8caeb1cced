import subprocess
import sys

import pytest

from anmi_pipeline.collections import reading
from anmi_pipeline.collections.collection import Collection
from anmi_pipeline.collections.sources import FileSource, StdlibSource
from anmi_pipeline.collections.trec import read_trec_run
from anmi_pipeline.errors import InputError
from anmi_pipeline.tables import CORPUS, QRELS, QUERIES


def test_the_stdlib_collection_is_checked_too(monkeypatch):
    corpus = CORPUS.frame({"doc_id": ["a"], "title": [""], "text": ["b"]})
    queries = QUERIES.frame({"query_id": ["q"], "text": ["c"], "split": ["train"]})
    qrels = QRELS.frame({"query_id": ["q"], "doc_id": ["gone"], "grade": [1]})
    monkeypatch.setattr(reading, "read_stdlib", lambda *_, **__: Collection(corpus, queries, qrels))
    with pytest.raises(InputError, match='"gone"'):
        reading.read_collection(StdlibSource(), data_root=None, seed=0)


def test_the_stdlib_fingerprint_is_its_own(monkeypatch):
    monkeypatch.setattr(reading, "stdlib_fingerprint", lambda *_, **__: {"corpus": "c"})
    assert reading.fingerprint(StdlibSource(), data_root=None, seed=0) == {"corpus": "c"}


def test_a_source_without_a_reader_is_refused():
    for step in (reading.read_parts, reading.read_inputs):
        with pytest.raises(InputError, match="no reader"):
            step(FileSource(), None)


def test_files_that_cannot_be_opened_are_named(tmp_path):
    for path in (tmp_path / "none.trec", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            read_trec_run(path)


def test_settings_and_readers_import_no_heavy_package():
    heavy = "datasets ir_datasets torch pyarrow scipy sklearn transformers dagster"
    code = f"import sys, anmi_pipeline.collections.reading; print([m for m in '{heavy}'.split() if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
