import polars as pl
import pytest

from anmi_pipeline.collections.collection import Collection, DocumentRules, check_collection, shown
from anmi_pipeline.errors import InputError
from anmi_pipeline.tables import CORPUS, QRELS, QUERIES


def collection(documents=None, queries=None, grades=None):
    documents = documents or [("d1", "t", "one"), ("d2", "", "two")]
    queries = queries or [("q1", "first", "test")]
    corpus = CORPUS.frame(pl.DataFrame(documents, schema=["doc_id", "title", "text"], orient="row"))
    asked = QUERIES.frame(pl.DataFrame(queries, schema=["query_id", "text", "split"], orient="row"))
    qrels = QRELS.frame(
        pl.DataFrame(grades if grades is not None else [("q1", "d1", 1)], schema=["query_id", "doc_id", "grade"], orient="row")
    )
    return Collection(corpus, asked, qrels)


def refused(match, *, rules=None, places=None, **tables):
    with pytest.raises(InputError, match=match):
        check_collection(collection(**tables), rules=rules, places=places)


def test_a_sound_collection_passes_unchanged():
    given = collection()
    checked = check_collection(given)
    assert checked.corpus.equals(given.corpus)
    assert checked.queries.equals(given.queries)
    assert checked.qrels.equals(given.qrels)


def test_no_grades_at_all_is_sound():
    check_collection(Collection(collection().corpus, collection().queries, QRELS.frame()))


def test_duplicate_ids_are_named_with_their_file():
    refused(r'corpus\.jsonl: 1 doc_id .*"d1"', documents=[("d1", "", "a"), ("d1", "", "b")], places={"corpus": "corpus.jsonl"})
    refused(r'queries: 1 query_id .*"q1"', queries=[("q1", "a", "test"), ("q1", "b", "test")])


@pytest.mark.parametrize("bad", ["", " d1", "d1\r", "d\t1", "d\n1"])
def test_ids_that_files_cannot_carry_are_refused(bad):
    refused("doc_id", documents=[(bad, "", "a")], grades=[("q1", bad, 1)])


def test_absent_ids_are_named_with_both_files():
    places = {"qrels": "qrels/test.tsv", "corpus": "corpus.jsonl"}
    refused(r'qrels/test\.tsv: 1 doc_id .* not in corpus\.jsonl: "gone".*absent_ids', grades=[("q1", "gone", 1)], places=places)
    refused(r'query_id .*"q9"', grades=[("q9", "d1", 1)])


def test_absent_ids_can_be_dropped_with_a_note():
    rules = DocumentRules(absent_ids="drop")
    checked = check_collection(collection(grades=[("q1", "gone", 1), ("q9", "d1", 1), ("q1", "d1", 2)]), rules=rules)
    assert checked.qrels.rows() == [("q1", "d1", 2)]
    assert "gone" in checked.notes["absent doc_id"]
    assert "q9" in checked.notes["absent query_id"]


def test_empty_documents_are_an_error_that_names_the_option():
    refused(r'"d1".*empty_documents: drop', documents=[("d1", " ", "\n"), ("d2", "", "b")])


def test_a_title_alone_is_a_document():
    check_collection(collection(documents=[("d1", "only a title", "")]))


def test_empty_documents_can_be_dropped_with_their_grades_or_kept():
    given = collection(documents=[("d1", "", ""), ("d2", "", "b")], grades=[("q1", "d1", 1), ("q1", "d2", 1)])
    dropped = check_collection(given, rules=DocumentRules(empty_documents="drop"))
    assert dropped.corpus["doc_id"].to_list() == ["d2"]
    assert dropped.qrels.rows() == [("q1", "d2", 1)]
    assert "d1" in dropped.notes["empty documents"]
    kept = check_collection(given, rules=DocumentRules(empty_documents="keep"))
    assert kept.corpus.height == 2


def test_only_empty_documents_is_an_error_whatever_the_rule():
    refused("every document is empty", documents=[("d1", "", "")], rules=DocumentRules(empty_documents="drop"))


def test_a_100_kb_document_is_one_error_that_names_id_size_and_option():
    refused(r"d1 \(102,400 bytes\).*max_document_bytes", documents=[("d1", "", "x" * 102_400)])


def test_the_limit_counts_bytes_and_can_be_raised():
    long = collection(documents=[("d1", "", "ü" * 40_000)])
    with pytest.raises(InputError, match="80,000 bytes"):
        check_collection(long)
    check_collection(long, rules=DocumentRules(max_document_bytes=80_000))


def test_queries_without_text_and_unknown_splits_are_refused():
    refused('no text: "q1"', queries=[("q1", "  ", "test")])
    refused('"validation"', queries=[("q1", "a", "validation")])


def test_empty_tables_are_refused():
    with pytest.raises(InputError, match="holds no documents"):
        check_collection(Collection(CORPUS.frame(), collection().queries, QRELS.frame()))
    with pytest.raises(InputError, match="holds no queries"):
        check_collection(Collection(collection().corpus, QUERIES.frame(), QRELS.frame()))


def test_many_ids_are_counted_not_listed():
    assert shown(pl.Series([f"d{n}" for n in range(9)])).endswith('"d4" and 4 more')
