import gzip

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anmi_pipeline.collections.reading import fingerprint, read_collection
from anmi_pipeline.collections.sources import TrecSource
from anmi_pipeline.collections.trec import read_trec_run
from anmi_pipeline.errors import InputError
from anmi_pipeline.tables import RUN
from anmi_pipeline_tests.collections.tiny import DOCUMENTS, json_lines, snapshot

TOPICS = """
<top>
<num> Number: 301
<title> International Organized Crime

<desc> Description:
Identify organizations that participate
in crime.

<narr> Narrative:
A relevant document must name it.
</top>

<top>
<num>302</num>
<title>Poliomyelitis &amp; Post-Polio</title>
<desc>Is polio under control?</desc>
</top>
"""
DOCS = """<DOC>
<DOCNO> FT-1 </DOCNO>
<HEADLINE> Crime <b>grows</b> </HEADLINE>
<TEXT>
Gangs &amp; banks.
Second line.
</TEXT>
</DOC>

<DOC>
<DOCNO>FT-2</DOCNO>
<DATE>1994</DATE>
Polio came back.
</DOC>
"""
GRADES = "301 0 FT-1 2\n302 0 FT-2 1\n302 0 FT-1 -1\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "topics.txt").write_text(TOPICS)
    (tmp_path / "qrels.txt").write_text(GRADES)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "ft1").write_text(DOCS)
    return tmp_path


def source(**changes):
    return TrecSource(**{"corpus": "docs", "topics": "topics.txt", "qrels": "qrels.txt", **changes})


def read(folder, **changes):
    return read_collection(source(**changes), data_root=folder, seed=0)


def refused(folder, match, **changes):
    before = snapshot(folder)
    with pytest.raises(InputError, match=match):
        read(folder, **changes)
    assert snapshot(folder) == before


def test_reads_topics_grades_and_documents(folder):
    found = read(folder)
    assert found.corpus.select("doc_id", "title", "text").rows() == [
        ("FT-1", "Crime grows", "Gangs & banks.\nSecond line."),
        ("FT-2", "", "1994\nPolio came back."),
    ]
    assert found.queries.select("query_id", "text", "split").rows() == [
        ("301", "International Organized Crime", "test"),
        ("302", "Poliomyelitis & Post-Polio", "test"),
    ]
    assert found.qrels.rows() == [("301", "FT-1", 2), ("302", "FT-1", 0), ("302", "FT-2", 1)]
    assert "no split declared" in found.notes["splits"]


def test_topic_parts_can_be_chosen(folder):
    texts = read(folder, topic_fields=["title", "description"]).queries["text"].to_list()
    assert texts[0] == "International Organized Crime Identify organizations that participate in crime."
    refused(folder, "topic 302 has no narrative", topic_fields=["narrative"])


def test_topic_elements_with_a_number_attribute(folder):
    (folder / "covid.xml").write_text('<topics><topic number="301">\n<query>covid origin</query></topic></topics>')
    assert read(folder, topics="covid.xml", qrels={}).queries["text"].to_list() == ["covid origin"]


def test_two_column_topics_and_a_file_per_split(folder):
    (folder / "train.tsv").write_text("301\torganized crime\r\n")
    (folder / "test.tsv").write_text("302\tpolio\n")
    found = read(folder, topics={"train": "train.tsv", "test": "test.tsv"}, splits={"dev_share": 0})
    assert found.queries.select("query_id", "text", "split").rows() == [
        ("301", "organized crime", "train"),
        ("302", "polio", "test"),
    ]


def test_grades_per_split_declare_the_split(folder):
    (folder / "dev.txt").write_text("301 0 FT-1 1\n")
    (folder / "test.txt").write_text("302 0 FT-2 1\n")
    found = read(folder, qrels={"dev_select": "dev.txt", "test": "test.txt"})
    assert found.queries["split"].to_list() == ["dev_select", "test"]


def test_topics_and_grades_that_disagree_on_the_split_are_refused(folder):
    refused(folder, '"301" is in split test, but .* says train', topics={"train": "topics.txt"}, qrels={"test": "qrels.txt"})


def test_json_lines_and_two_column_corpora(folder):
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(json_lines(DOCUMENTS).encode()))
    assert read(folder, corpus="c.jsonl.gz", qrels={}).corpus.height == 3
    (folder / "c2.jsonl").write_text(json_lines([{"id": "p1", "contents": "text"}]))
    found = read(folder, corpus="c2.jsonl", columns={"doc_id": "id", "text": "contents"}, qrels={})
    assert found.corpus.row(0)[:3] == ("p1", "", "text")
    (folder / "c.tsv").write_text("p1\tone passage\np2\tanother\n")
    assert read(folder, corpus=["c.tsv"], qrels={}).corpus["text"].to_list() == ["one passage", "another"]
    (folder / "bad.tsv").write_text("p1\tone\np2 two\n")
    refused(folder, r"bad\.tsv line 2: has no tab", corpus="bad.tsv", qrels={})


def test_several_files_and_hidden_ones(folder):
    (folder / "docs" / "ft2").write_text(DOCS.replace("FT-", "LA-"))
    (folder / "docs" / ".DS_Store").write_bytes(b"\xff\x00")
    assert read(folder).corpus["doc_id"].to_list() == ["FT-1", "FT-2", "LA-1", "LA-2"]


def test_old_encodings_are_a_setting(folder):
    (folder / "docs" / "ft1").write_bytes(DOCS.replace("Polio came", "Polio café").encode("latin-1"))
    refused(folder, r"ft1 line 13: byte \d+ \(0xe9\) is not valid UTF-8")
    assert "café" in read(folder, encoding="latin-1").corpus["text"][1]


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("docs/ft1", DOCS.replace("</DOC>", "", 1), "line 10: a new <DOC> before the one of line 1"),
        ("docs/ft1", DOCS[: DOCS.rindex("</DOC>")], "line 10: <DOC> without </DOC>"),
        ("docs/ft1", "<DOC>\n<TEXT>a</TEXT>\n</DOC>\n", "line 1: <DOC> has no <DOCNO>"),
        ("docs/ft1", "just text\n", "line 1: text outside <DOC>"),
        ("docs/ft1", DOCS + DOCS, r'doc_id .* more than once: "FT-1", "FT-2"'),
        ("topics.txt", "<top>\n<title> a\n</top>\n", "has no <num>"),
        ("topics.txt", "<top>\n<num> 1\n<title> a\n", "<top> without </top>"),
        ("topics.txt", "no topic\n", "line 1: has no tab"),
        ("qrels.txt", "301 0 FT-1\n", r"line 1: has 3 column\(s\), expected 4.*reader: beir"),
        ("qrels.txt", "301 0 FT-1 1\n301 0 FT-2 one\n", 'line 2: the grade is "one"'),
        ("qrels.txt", "301 0 FT-9 1\n", 'not in .*ft1: "FT-9"'),
    ],
)
def test_wrong_files_are_named(folder, name, text, match):
    (folder / name).write_text(text)
    refused(folder, match)


def test_an_empty_corpus_folder_is_refused(folder):
    (folder / "none").mkdir()
    refused(folder, "none: no file in it", corpus="none")


def test_fingerprints_follow_the_files_and_settings_of_each_table(folder):
    before = fingerprint(source(), data_root=folder, seed=0)
    other = fingerprint(source(topic_fields=["description"]), data_root=folder, seed=0)
    assert {table for table in before if before[table] != other[table]} == {"queries"}
    (folder / "docs" / "ft1").write_text(DOCS + "\n")
    after = fingerprint(source(), data_root=folder, seed=0)
    assert {table for table in before if before[table] != after[table]} == {"corpus"}


def write_run(path, rows):
    path.write_text("".join(f"{query} Q0 {doc} {rank} {score} tag\n" for query, doc, rank, score in rows))
    return path


def test_a_run_is_ordered_by_score_then_rank_then_id(tmp_path):
    rows = [("q2", "d", 1, 1.0), ("q1", "b", 3, 0.5), ("q1", "a", 2, 0.5), ("q1", "c", 1, 0.9), ("q1", "e", 3, 0.5)]
    run = read_trec_run(write_run(tmp_path / "run", rows))
    assert run.rows() == [
        ("q1", "c", 1, 0.9),
        ("q1", "a", 2, 0.5),
        ("q1", "b", 3, 0.5),
        ("q1", "e", 4, 0.5),
        ("q2", "d", 1, 1.0),
    ]
    RUN.validate(run)


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 30), st.floats(-5, 5)),
        min_size=1,
        unique_by=lambda row: row[:2],
        max_size=40,
    ),
    st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=40)
def test_a_run_does_not_depend_on_the_order_of_its_lines(tmp_path_factory, rows, random):
    folder = tmp_path_factory.mktemp("runs")
    lines = [(query, f"d{doc:02d}", 0, score) for query, doc, score in rows]
    one = read_trec_run(write_run(folder / "one", lines))
    random.shuffle(lines)
    assert read_trec_run(write_run(folder / "two", lines)).equals(one)
    falling = one.with_columns(pl.col("score").diff().over("query_id").alias("step"))["step"].drop_nulls()
    assert (falling <= 0).all()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "no row in it"),
        ("q1 Q0 d1 1 0.5\n", r"line 1: has 5 column\(s\), expected 6"),
        ("q1 Q0 d1 1 0.5 t\nq1 Q0 d2 x 0.5 t\n", 'line 2: rank "x"'),
        ("q1 Q0 d1 1 nan t\n", "expected a finite number"),
        ("q1 Q0 d1 1 0.5 t\nq1 Q0 d1 2 0.4 t\n", 'query "q1" lists document "d1" more than once'),
    ],
)
def test_a_wrong_run_names_the_line(tmp_path, text, match):
    (tmp_path / "run").write_text(text)
    with pytest.raises(InputError, match=match):
        read_trec_run(tmp_path / "run")
