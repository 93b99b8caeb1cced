import gzip

import pytest

from anmi_pipeline.collections.reading import fingerprint, read_collection
from anmi_pipeline.collections.sources import BeirSource
from anmi_pipeline.errors import InputError
from anmi_pipeline_tests.collections.tiny import DOCUMENTS, GRADES, QUERIES, grade_lines, json_lines, snapshot, write_beir


@pytest.fixture
def folder(tmp_path):
    return write_beir(tmp_path / "pets")


def read(folder, **options):
    return read_collection(BeirSource(path=str(folder), **options), data_root=None, seed=0)


def refused(folder, match, **options):
    before = snapshot(folder)
    with pytest.raises(InputError, match=match) as caught:
        read(folder, **options)
    assert snapshot(folder) == before
    return str(caught.value)


def test_reads_the_three_tables_and_writes_nothing(folder):
    before = snapshot(folder)
    found = read(folder, splits={"dev_share": 0})
    assert found.corpus.rows() == [
        ("d1", "Cats", "Cats sleep most of the day.", None),
        ("d2", "Dogs", "Dogs bark at strangers.", None),
        ("d3", "", "Füchse jagen nachts.", None),
    ]
    assert found.queries.select("query_id", "split").rows() == [("q1", "train"), ("q2", "test"), ("q3", "train")]
    assert found.queries.select("has_evidence", "source_ids").null_count().row(0) == (3, 3)
    assert found.qrels.rows() == [("q1", "d1", 2), ("q1", "d2", 0), ("q2", "d2", 1)]
    assert "training queries without labels" in found.notes["splits"]
    assert snapshot(folder) == before


def test_path_is_relative_to_the_data_root(folder):
    source = BeirSource(path="pets")
    assert read_collection(source, data_root=folder.parent, seed=0).corpus.height == 3
    with pytest.raises(InputError, match="ANMI_DATA"):
        read_collection(source, data_root=None, seed=0)
    with pytest.raises(InputError, match='Did you mean "pets"'):
        read_collection(BeirSource(path="pest"), data_root=folder.parent, seed=0)


def test_gzip_gives_the_same_collection(folder, tmp_path):
    plain = read(folder)
    for name in ("corpus.jsonl", "queries.jsonl"):
        path = folder / name
        path.with_name(f"{name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    packed = read(folder)
    assert packed.corpus.equals(plain.corpus)
    assert packed.queries.equals(plain.queries)


def test_both_plain_and_gzip_is_ambiguous(folder):
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(b""))
    refused(folder, "keep one")


def test_damaged_gzip_is_named(folder):
    whole = gzip.compress(json_lines(DOCUMENTS).encode())
    (folder / "corpus.jsonl").unlink()
    for damaged in (whole[:-12], whole[:20] + b"\xff\xff\xff" + whole[23:]):
        (folder / "corpus.jsonl.gz").write_bytes(damaged)
        refused(folder, r"corpus\.jsonl\.gz.* damaged")


def test_crlf_and_byte_order_mark_give_the_same_collection(folder, tmp_path):
    other = write_beir(tmp_path / "windows", end="\r\n")
    for path in other.rglob("*.*"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    plain, windows = read(folder), read(other)
    assert windows.corpus.equals(plain.corpus)
    assert windows.queries.equals(plain.queries)
    assert windows.qrels.equals(plain.qrels)


def test_line_ends_inside_a_text_become_lf(tmp_path):
    folder = write_beir(tmp_path, documents=[*DOCUMENTS[:2], {"_id": "d3", "title": "a\rb", "text": "c\r\nd\re"}])
    assert read(folder).corpus.row(2)[1:3] == ("a\nb", "c\nd\ne")


def test_grades_header_is_optional(folder):
    with_header = read(folder)
    for split, rows in GRADES.items():
        (folder / "qrels" / f"{split}.tsv").write_text(grade_lines(rows, header=False))
    assert read(folder).qrels.equals(with_header.qrels)


def test_whole_number_ids_become_text(tmp_path):
    folder = write_beir(tmp_path, [{"_id": 7, "text": "seven"}], [{"_id": 1, "text": "one"}], {"test": [(1, 7, 1)]})
    found = read(folder)
    assert found.corpus["doc_id"].to_list() == ["7"]
    assert found.qrels.rows() == [("1", "7", 1)]


def test_invalid_utf8_names_file_line_and_byte(folder):
    first = json_lines(DOCUMENTS[:1]).encode()
    (folder / "corpus.jsonl").write_bytes(first + b'{"_id": "d2", "text": "caf\xe9"}\n')
    refused(folder, rf"corpus\.jsonl line 2: byte {len(first) + 26} \(0xe9\) is not valid UTF-8.*iconv")


def test_byte_offset_counts_the_byte_order_mark(folder):
    (folder / "queries.jsonl").write_bytes(b'\xef\xbb\xbf{"\xff')
    refused(folder, r"line 1: byte 5 ")


def test_utf16_is_recognised(folder):
    (folder / "queries.jsonl").write_bytes(json_lines(QUERIES).encode("utf-16"))
    refused(folder, "UTF-16")


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ('{"_id": "d2", "text": ', "line 2: not valid JSON"),
        ('["d2", "text"]', "line 2: holds a JSON list"),
        ('{"_id": "d2", "title": "no text"}', 'line 2: has no "text"'),
        ('{"_id": "d2", "text": 5}', 'line 2: "text" is 5, expected a text'),
        ('{"_id": null, "text": "a"}', 'line 2: "_id" is null'),
        ('{"_id": 1.5, "text": "a"}', 'line 2: "_id" is 1.5'),
        ('{"_id": true, "text": "a"}', 'line 2: "_id" is True'),
        ('{"_id": "d2", "text": "\\ud800"}', "line 2: holds half of a surrogate"),
        ("[" * 100_000, "line 2: not valid JSON"),
    ],
)
def test_a_wrong_line_is_named(folder, line, match):
    (folder / "corpus.jsonl").write_text(json_lines(DOCUMENTS[:1]) + line + "\n")
    refused(folder, rf"corpus\.jsonl {match}")


def test_a_wrong_column_names_the_nearest(tmp_path):
    refused(write_beir(tmp_path / "a", [{"_id": "d1", "txt": "a"}]), 'no column "text".*Did you mean "txt"')
    refused(write_beir(tmp_path / "b", [{"_id": "d1", "titel": "a", "text": "b"}]), 'no column "title".*Did you mean "titel"')
    refused(write_beir(tmp_path / "c", queries=[{"id": "q1", "text": "b"}]), 'no column "_id".*Did you mean "id"')


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("q2\td2\tyes\n", "line 1: the columns are"),
        ("query-id\tcorpus-id\tscore\nq2\td2\t1.5\n", 'line 2: the grade is "1.5"'),
        ("query-id\tcorpus-id\tscore\nq2\td2\t\n", 'line 2: the grade is ""'),
        ("query-id\tcorpus-id\tscore\nq2\td2\t" + "9" * 30 + "\n", "line 2: the grade"),
        ("query-id\tcorpus-id\tscore\n\td2\t1\n", "line 2: the query id is empty"),
        ("query-id\tcorpus-id\tscore\nq2\td2\n", r"line 2: has 2 column\(s\), expected 3"),
        ("corpus-id\tquery-id\tscore\nd2\tq2\t1\n", "line 1: the columns are corpus-id"),
        ("query-id\tcorpus-id\tscroe\n", 'Did you mean "score"'),
        ("q2 0 d2 1\n", "use reader: trec"),
        ("query-id,corpus-id,score\n", "something else than tabs"),
    ],
)
def test_wrong_grades_name_the_line(folder, text, match):
    (folder / "qrels" / "test.tsv").write_text(text)
    refused(folder, rf"test\.tsv.*{match}")


def test_broken_rules_across_files_name_the_file(tmp_path):
    twice = write_beir(tmp_path / "a", documents=[*DOCUMENTS, DOCUMENTS[0]])
    refused(twice, r'corpus\.jsonl: 1 doc_id .* more than once: "d1"')
    absent = write_beir(tmp_path / "b", grades={"test": [("q1", "d99", 1)]})
    refused(absent, r'test\.tsv: 1 doc_id .*corpus\.jsonl: "d99"')
    torn = write_beir(tmp_path / "c", grades={"train": [("q1", "d1", 1)], "test": [("q1", "d2", 1)]})
    refused(torn, '"q1" in test, train')
    disputed = write_beir(tmp_path / "d", grades={"test": [("q1", "d1", 1), ("q1", "d1", 0)]})
    refused(disputed, r'"q1" and document "d1" have the grades \[1, 0\]')


def test_repeated_and_negative_grades_are_noted(tmp_path):
    found = read(write_beir(tmp_path, grades={"test": [("q1", "d1", 1), ("q1", "d1", 1), ("q1", "d2", -2)]}))
    assert found.qrels.rows() == [("q1", "d1", 1), ("q1", "d2", 0)]
    assert found.notes["repeated grades"].startswith("1 ")
    assert found.notes["negative grades"].startswith("1 ")


def test_a_folder_without_grades_is_a_collection(tmp_path):
    folder = write_beir(tmp_path, grades={})
    assert read(folder).qrels.is_empty()


def test_missing_files_are_named(tmp_path, folder):
    (folder / "corpus.jsonl").rename(folder / "corpus.json")
    refused(folder, 'has no corpus.jsonl or corpus.jsonl.gz.*Did you mean "corpus.json"')
    with pytest.raises(InputError, match="is a file"):
        read(folder / "queries.jsonl")


def test_other_grades_files_are_noted_and_can_be_chosen(folder):
    (folder / "qrels" / "binary.tsv").write_text(grade_lines([("q3", "d3", 1)]))
    assert "binary.tsv" in read(folder).notes["files not read"]
    chosen = read(folder, qrels={"test": "qrels/binary.tsv"})
    assert chosen.qrels.rows() == [("q3", "d3", 1)]
    refused(folder, "does not exist", qrels={"test": "qrels/binry.tsv"})


def test_a_query_edit_moves_the_queries_alone(folder):
    source = BeirSource(path=str(folder))
    before = fingerprint(source, data_root=None, seed=0)
    (folder / "queries.jsonl").write_text(json_lines([*QUERIES[:2], {"_id": "q3", "text": "other words"}]))
    after = fingerprint(source, data_root=None, seed=0)
    assert {table for table in before if before[table] != after[table]} == {"queries"}


def test_a_grade_edit_moves_queries_and_grades(folder):
    source = BeirSource(path=str(folder))
    before = fingerprint(source, data_root=None, seed=0)
    (folder / "qrels" / "test.tsv").write_text(grade_lines([("q2", "d2", 2)]))
    after = fingerprint(source, data_root=None, seed=0)
    assert {table for table in before if before[table] != after[table]} == {"queries", "qrels"}


def test_a_document_edit_moves_the_grades_only_where_rows_may_be_dropped(folder):
    for options, moved in ({}, {"corpus"}), ({"absent_ids": "drop"}, {"corpus", "qrels"}):
        write_beir(folder)
        source = BeirSource(path=str(folder), **options)
        before = fingerprint(source, data_root=None, seed=0)
        (folder / "corpus.jsonl").write_text(json_lines([*DOCUMENTS, {"_id": "d4", "text": "new"}]))
        after = fingerprint(source, data_root=None, seed=0)
        assert {table for table in before if before[table] != after[table]} == moved


def test_fingerprint_depends_on_bytes_not_on_the_place(folder, tmp_path):
    copy = write_beir(tmp_path / "elsewhere" / "copy")
    here = fingerprint(BeirSource(path=str(folder)), data_root=None, seed=0)
    assert fingerprint(BeirSource(path=str(copy)), data_root=None, seed=0) == here
    moved = fingerprint(BeirSource(path=str(folder)), data_root=None, seed=1)
    assert {table for table in here if here[table] != moved[table]} == {"queries"}
