"""The embedded collection: documents, sentences, questions, splits, fingerprints."""

import os
import subprocess
import sys
from collections import Counter

import polars as pl
import pytest
import yaml

from anmi_pipeline.collections.stdlib import StdlibSource, read_stdlib, stdlib_fingerprint
from anmi_pipeline.collections.stdlib_names import read_entries
from anmi_pipeline.collections.stdlib_questions import parse_questions, questions_bytes
from anmi_pipeline.collections.stdlib_sentences import MIN_REST_WORDS, first_sentence, normalise, take_sentences
from anmi_pipeline.errors import InputError
from anmi_pipeline.tables import CORPUS, QRELS, QUERIES

SMALL = StdlibSource(modules=["json", "textwrap", "builtins"], train_sentences=40)


@pytest.fixture(scope="module")
def collection():
    return read_stdlib(StdlibSource(), data_root=None, seed=0)


@pytest.fixture(scope="module")
def originals():
    return {entry.name: entry for entry in read_entries()}


def test_the_tables_keep_their_declarations(collection):
    CORPUS.validate(collection.corpus)
    QUERIES.validate(collection.queries)
    QRELS.validate(collection.qrels)
    assert 5_000 < collection.corpus.height < 9_000
    assert (collection.corpus["text"].str.strip_chars() != "").all()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("str.split", "separator"),
        ("open", "stream"),
        ("json.dumps", "JSON"),
        ("pathlib.Path.read_text", "text mode"),
        ("os.path.join", "components"),
        ("os.listdir", "directory"),
        ("collections.abc.Mapping", "container"),
        ("collections.deque.appendleft", "left side"),
        ("concurrent.futures.ThreadPoolExecutor", "threads"),
        ("multiprocessing.Pool", "process pool"),
        ("unittest.TestCase.assertRaises", "exception"),
        ("argparse.ArgumentParser.add_argument", "option_string"),
        ("random.choice", "random element"),
        ("re.Pattern.sub", "pattern"),
        ("threading.Lock.acquire", "lock"),
        ("csv.writer.writerow", "CSV"),
        ("socket.socket.recv", "bytes"),
        ("io.IOBase.readline", "line"),
        ("datetime.timezone", "offset"),
        ("signal.signal", "action"),
        ("hashlib", "hash"),
        ("sqlite3.Connection.execute", "SQL"),
    ],
)
def test_objects_stand_under_the_name_people_import(originals, name, words):
    assert words in originals[name].text


def test_private_names_tests_and_placeholders_are_no_documents(originals):
    assert not [name for name in originals if any(part.startswith("_") for part in name.split("."))]
    assert not [
        name for name in originals if name.split(".")[0] in {"test", "this", "antigravity", "posix", "tkinter", "idlelib"}
    ]
    assert "ast.Add" not in originals


def test_titles_start_with_the_name_and_stay_short(originals):
    assert originals["os.makedirs"].title == "os.makedirs(name, mode=511, exist_ok=False)"
    assert originals["str.split"].title == "str.split(sep=None, maxsplit=-1)"
    assert originals["json"].title == "json"
    assert all(entry.title.startswith(name) and len(entry.title) <= len(name) + 104 for name, entry in originals.items())


def sentences(collection, *splits):
    return collection.queries.filter(pl.col("split").is_in(splits), pl.col("source_ids").is_not_null())


def test_no_sentence_is_left_in_any_document(collection):
    everything = "\n".join(f" {normalise(text)} " for text in collection.corpus["text"])
    left = [text for text in sentences(collection, "train", "held_out")["text"] if f" {normalise(text)} " in everything]
    assert not left


def test_source_documents_keep_something_to_find_them_by(collection):
    sources = set(sentences(collection, "train", "held_out")["source_ids"].explode())
    texts = dict(collection.corpus.select("doc_id", "text").iter_rows())
    assert not [name for name in sources if len(normalise(texts[name]).split()) < MIN_REST_WORDS]
    assert sources <= set(collection.corpus["doc_id"])


def test_groups_do_not_straddle_splits(originals):
    taken = take_sentences(list(originals.values()), train=1000, held_out_share=0.2, seed=0)
    sides = {}
    for sentence in taken.sentences:
        sides.setdefault(sentence.group, set()).add(sentence.split)
        for name in sentence.sources:
            sides.setdefault(name, set()).add(sentence.split)
            sides.setdefault(normalise(originals[name].text), set()).add(sentence.split)
            sides.setdefault(normalise(taken.rests[name]), set()).add(sentence.split)
    assert all(len(side) == 1 for side in sides.values())


def test_a_sentence_comes_with_all_documents_it_opens(collection, originals):
    opening = {}
    for name, entry in originals.items():
        split = first_sentence(entry.text)
        if split:
            opening.setdefault(normalise(split[0]), set()).add(name)
    for text, sources in sentences(collection, "train", "held_out").select("text", "source_ids").iter_rows():
        assert set(sources) == opening[normalise(text)]


def test_training_queries_have_no_grades_and_held_out_ones_their_sources(collection):
    counts = Counter(collection.queries["split"])
    assert counts["train"] == 1000
    assert counts["held_out"] == 250
    graded = set(collection.qrels["query_id"])
    train, held_out = sentences(collection, "train"), sentences(collection, "held_out")
    assert not graded.intersection(train["query_id"])
    assert train["has_evidence"].null_count() == train.height
    assert held_out["has_evidence"].all()
    key = held_out.select("query_id", doc_id="source_ids").explode("doc_id").sort("query_id", "doc_id")
    assert key.equals(collection.qrels.join(held_out, on="query_id", how="semi").filter(pl.col("grade") == 2).select(key.columns))


def test_questions_per_split(collection):
    asked = collection.queries.filter(pl.col("source_ids").is_null())
    counts = Counter(asked.select("split", "has_evidence").iter_rows())
    lost = [name for name in collection.notes["dropped_questions"].split(", ") if name]
    assert sum(counts[split, True] for split in ("dev_select", "dev_final", "test")) + len(lost) == 240
    assert [counts[split, False] for split in ("dev_select", "dev_final", "test")] == [15, 15, 30]
    if not lost:
        assert [counts[split, True] for split in ("dev_select", "dev_final", "test")] == [60, 60, 120]
    answered = set(collection.qrels["query_id"])
    assert all((query in answered) == bool(known) for query, known in asked.select("query_id", "has_evidence").iter_rows())


def test_every_relevant_name_is_there_or_reported(collection):
    questions = parse_questions(*questions_bytes(None, None))
    names = {name for question in questions for name in question.relevant}
    absent = {name for name in collection.notes["absent_names"].split(", ") if name}
    assert names - set(collection.corpus["doc_id"]) == absent
    assert len(absent) < 0.02 * len(names)


def test_no_question_is_a_sentence_of_the_documentation(collection, originals):
    asked = collection.queries.filter(pl.col("source_ids").is_null())["text"]
    taken = {normalise(text) for text in sentences(collection, "train", "held_out")["text"]}
    opening = {normalise(split[0]) for entry in originals.values() if (split := first_sentence(entry.text))}
    assert not (taken | opening).intersection(normalise(text) for text in asked)


def test_questions_are_no_near_duplicates_of_each_other(collection):
    words = {text: set(normalise(text).split()) for text in collection.queries.filter(pl.col("source_ids").is_null())["text"]}
    texts = sorted(words)
    close = [
        (one, other)
        for place, one in enumerate(texts)
        for other in texts[place + 1 :]
        if len(words[one] & words[other]) > 0.6 * len(words[one] | words[other])
    ]
    assert not close


def test_reading_twice_gives_equal_tables():
    one, two = (read_stdlib(SMALL, data_root=None, seed=3) for _ in range(2))
    assert one.corpus.equals(two.corpus)
    assert one.queries.equals(two.queries)
    assert one.qrels.equals(two.qrels)
    assert one.notes == two.notes


def test_modules_make_a_small_variant():
    small = read_stdlib(SMALL, data_root=None, seed=0)
    tops = {name.split(".")[0] for name in small.corpus["doc_id"]}
    assert {"json", "textwrap", "str", "open"} <= tops
    assert not {"os", "asyncio", "re"} & tops
    assert 200 < small.corpus.height < 1_000
    assert small.queries.filter(pl.col("split") == "train").height == 40


def test_an_unknown_module_is_refused():
    with pytest.raises(InputError, match=r'"jsno".*Did you mean "json"'):
        read_stdlib(StdlibSource(modules=["jsno"]), data_root=None, seed=0)


def test_another_seed_draws_other_sentences():
    one, two = (set(sentences(read_stdlib(SMALL, data_root=None, seed=seed), "train")["query_id"]) for seed in (0, 1))
    assert one != two


def test_the_corpus_does_not_depend_on_the_questions(tmp_path):
    rows = [{"id": "q1", "split": "test", "text": "turn a dict into text", "relevant": {"json.dumps": 2, "no.such.name": 1}}]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(rows), encoding="utf-8")
    mine = SMALL.model_copy(update={"questions": "mine.yaml"})
    shipped, own = (stdlib_fingerprint(source, data_root=tmp_path, seed=0) for source in (SMALL, mine))
    assert shipped["corpus"] == own["corpus"]
    assert shipped["queries"] != own["queries"]
    assert shipped["qrels"] != own["qrels"]
    assert stdlib_fingerprint(SMALL, data_root=None, seed=1)["corpus"] != shipped["corpus"]
    one, two = (read_stdlib(source, data_root=tmp_path, seed=0) for source in (SMALL, mine))
    assert one.corpus.equals(two.corpus)
    assert sentences(one, "train").equals(sentences(two, "train"))
    assert two.qrels.filter(pl.col("query_id") == "q1").rows() == [("q1", "json.dumps", 2)]
    assert two.notes["absent_names"] == "no.such.name"


@pytest.mark.slow
def test_another_process_with_another_hash_seed_reads_the_same():
    code = (
        "import hashlib; from anmi_pipeline.collections.stdlib import StdlibSource, read_stdlib; "
        "read = read_stdlib(StdlibSource(), data_root=None, seed=0); "
        "tables = read.corpus, read.queries, read.qrels; "
        "print(hashlib.sha256(''.join(table.write_json() for table in tables).encode()).hexdigest())"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1
