import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.imports import Filed, Terms, import_verdicts, imported_judgments
from anmi_pipeline.judging.judges import JudgeEvidence
from anmi_pipeline.judging.ledger_imports import current_imports, imports_digest, withdraw_imports
from anmi_pipeline.judging.ledger_stats import ledger_stats
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.tables import JUDGMENTS
from anmi_pipeline_tests.judging.filled import contents, killed_import
from anmi_pipeline_tests.judging.made import made_evidence


@pytest.fixture
def books(ledger_url: str) -> Iterator[Books]:
    with Books(ledger_url) as opened:
        yield opened


@pytest.fixture
def dataset() -> str:
    return f"made-{uuid.uuid4().hex}"  # the table of the Postgres server outlives a test


EVIDENCE = made_evidence(6, 20)
POOL = EVIDENCE.pool


class Desk:
    """Imports lines of text for one dataset."""

    def __init__(self, books: Books, dataset: str, folder: Path) -> None:
        self.books, self.dataset, self.folder = books, dataset, folder

    def bring(self, *lines: str, header: str = "query_id,first_id,second_id,p,judge", **terms: object) -> Filed:
        path = self.folder / "verdicts.csv"
        path.write_text("\n".join((header, *lines)) + "\n", encoding="utf-8")
        return import_verdicts(self.books, self.dataset, path, EVIDENCE, POOL, Terms(**terms))

    def judged(self, evidence: JudgeEvidence = EVIDENCE, pool: pl.DataFrame = POOL) -> list[tuple[object, ...]]:
        found = imported_judgments(self.books, self.dataset, pool, evidence).judgments
        JUDGMENTS.validate(found)
        return found.select("query_id", "first_id", "second_id", "judge", "p_first").rows()

    def digest(self) -> str:
        return imports_digest(self.books, self.dataset)


@pytest.fixture
def desk(books: Books, dataset: str, tmp_path: Path) -> Desk:
    return Desk(books, dataset, tmp_path)


def test_verdicts_are_filed_and_become_judgments(desk: Desk):
    done = desk.bring("q000,d001,d002,a,", "q000,d002,d001,0.25,gpt", "q001,d003,d004,tie,human/anna", "q001,d003,d005,,")
    assert done == Filed(3, 0, 0, 1)
    assert desk.judged() == [
        ("q000", "d001", "d002", "human", 1.0),
        ("q000", "d002", "d001", "gpt", 0.25),
        ("q001", "d003", "d004", "human/anna", 0.5),
    ]
    found = imported_judgments(desk.books, desk.dataset, POOL, EVIDENCE).judgments
    assert found["round"].to_list() == [0, 0, 0]
    assert set(found["provenance"]) == {"human"}
    assert set(found["status"]) == {"ok"}
    assert found["weight"].to_list() == [1.0, 1.0, 1.0]
    assert found["call_key"].n_unique() == 3
    rows = contents(desk.books)
    assert [(row["epoch"], row["raw_answer"], row["cost_usd"]) for row in rows] == [("1", a, 0.0) for a in ("a", "0.25", "tie")]


def test_importing_again_files_nothing(desk: Desk):
    lines = ("q000,d001,d002,a,", "q001,d003,d004,0.1,")
    desk.bring(*lines)
    before, count = desk.digest(), desk.books.count()
    assert desk.bring(*lines) == Filed(0, 0, 2, 0)
    assert (desk.digest(), desk.books.count()) == (before, count)


def test_the_newest_answer_counts_and_the_old_one_stays_on_record(desk: Desk):
    desk.bring("q000,d001,d002,a,")
    first = desk.digest()
    assert desk.bring("q000,d001,d002,b,", "q000,d001,d003,b,", epoch="2") == Filed(1, 1, 0, 0)
    assert [row[-1] for row in desk.judged()] == [0.0, 0.0]
    assert desk.books.count() == 3
    # Back to the first answer: its row is on record, and it is the newest again.
    assert desk.bring("q000,d001,d002,a,", "q000,d001,d003,b,").changed == 1
    assert [row[-1] for row in desk.judged()] == [1.0, 0.0]
    assert desk.books.count() == 3
    desk.bring("q000,d001,d003,a,")
    assert withdraw_imports(desk.books, desk.dataset, "human") == 2
    assert desk.digest() == ""
    desk.bring("q000,d001,d002,a,")
    assert desk.digest() == first


def test_the_digest_is_of_the_content(desk: Desk, tmp_path: Path):
    assert desk.digest() == ""
    desk.bring("q000,d001,d002,a,", "q001,d003,d004,0.1,x")
    other = Desk(desk.books, f"{desk.dataset}-2", tmp_path)
    other.bring("q001,d003,d004,0.1,x")
    assert other.digest() not in ("", desk.digest())
    other.bring("q000,d001,d002,1,")
    assert other.digest() == desk.digest()
    other.bring("q000,d001,d002,0.999,")
    assert other.digest() != desk.digest()
    assert desk.judged()[0][-1] == 1.0  # datasets do not touch each other


def test_a_changed_text_takes_its_verdicts_away_until_they_are_imported_again(desk: Desk):
    desk.bring("q000,d001,d002,a,", "q000,d003,d004,a,", "q001,d001,d002,b,")
    text = pl.when(pl.col("doc_id") == "d001").then(pl.lit("new")).otherwise("text").alias("text")
    changed = replace(EVIDENCE, corpus=EVIDENCE.corpus.with_columns(text))
    assert [row[1] for row in desk.judged(changed)] == ["d003"]
    assert imported_judgments(desk.books, desk.dataset, POOL, changed).outdated == 2
    path = desk.folder / "verdicts.csv"
    assert import_verdicts(desk.books, desk.dataset, path, changed, POOL) == Filed(0, 2, 1, 0)
    assert len(desk.judged(changed)) == 3


def test_verdicts_about_documents_outside_the_pool_are_left_out(desk: Desk):
    desk.bring("q000,d001,d002,a,", "q000,d003,d004,a,")
    pool = POOL.filter(pl.col("doc_id") != "d004")
    assert len(desk.judged(pool=pool)) == 1
    assert imported_judgments(desk.books, desk.dataset, pool, EVIDENCE).elsewhere == 1


def test_both_orders_of_a_judge_are_two_verdicts_of_the_audit_slice(desk: Desk):
    desk.bring("q000,d001,d002,0.9,m", "q000,d002,d001,0.8,m", "q000,d001,d003,0.5,m", provenance="model")
    found = imported_judgments(desk.books, desk.dataset, POOL, EVIDENCE).judgments
    assert found.select("first_id", "second_id", "audit").rows() == [
        ("d001", "d002", True), ("d001", "d003", False), ("d002", "d001", True),
    ]  # fmt: skip
    with pytest.raises(InputError, match="line 3: the pair was answered in line 2 already"):
        desk.bring("q000,d001,d002,a,", "q000,d002,d001,a,", both_orders=False)


def test_every_wrong_line_is_named_and_nothing_is_written(desk: Desk):
    desk.bring("q000,d001,d002,a,")
    before, count = desk.digest(), desk.books.count()
    bad = [
        "q000,d001,d002,maybe,", "q000,d001,d999,a,", "q999,d001,d002,a,", "q000,d001,d001,a,", "q000,d001,d003,-0.1,",
        "q000,d001,d003,nan,", "q000,d001,d004,a,no name", "q000,d001,d005,a,mine", "q000,d001,d002,b,", "q000,d001,d002,a,",
    ]  # fmt: skip
    with pytest.raises(InputError) as caught:
        desk.bring("q000,d005,d006,a,", *bad, taken=("mine",))
    assert "9 wrong line(s): line 3: answer is" in str(caught.value)
    parts = ('"d999" is not in the pool', 'of query "q999"', "with itself", '"-0.1"', '"nan"', '"no name" is no name')
    for part in (*parts, "that the dataset asks itself", "answered in line 11 already"):
        assert part in str(caught.value)
    assert (desk.digest(), desk.books.count()) == (before, count)
    with pytest.raises(InputError, match=r"30 wrong line\(s\).*line 21.*; and 10 more"):
        desk.bring(*["q000,d001,d002,?,"] * 30)


def test_terms_must_make_sense(desk: Desk):
    with pytest.raises(InputError, match='provenance "guess"'):
        Terms(provenance="guess")
    with pytest.raises(InputError, match='"a b" is no name'):
        desk.bring("q000,d001,d002,a,", judge="a b")
    with pytest.raises(InputError, match="that the dataset asks itself"):
        desk.bring("q000,d001,d002,a,", taken=("human",))


def test_parquet_with_numbers(desk: Desk, tmp_path: Path):
    path = tmp_path / "verdicts.parquet"
    rows = {"query_id": ["q000", "q001"], "doc_a": ["d001", "d002"], "doc_b": ["d002", "d003"], "p": [0.1 + 0.2, None]}
    pl.DataFrame(rows).write_parquet(path)
    assert import_verdicts(desk.books, desk.dataset, path, EVIDENCE, POOL) == Filed(1, 0, 0, 1)
    assert desk.judged()[0][-1] == 0.1 + 0.2


def test_comments_are_kept_and_no_part_of_the_key(desk: Desk):
    header = "query_id;doc_a;doc_b;answer;comment"
    desk.bring("q000;d001;d002;a;hard\x00 to say", header=header)
    assert contents(desk.books)[0]["raw_answer"] == "a\nhard\ufffd to say"
    assert desk.bring("q000;d001;d002;a;easy", header=header).known == 1


def test_stats_count_imports(desk: Desk):
    desk.bring("q000,d001,d002,a,", "q000,d001,d003,a,")
    desk.bring("q000,d001,d002,b,")
    rows = [row for row in ledger_stats(desk.books).imports if row["dataset"] == desk.dataset]
    assert rows == [{"dataset": desk.dataset, "judge": "human", "verdicts": 2}]


LINE = st.tuples(st.sampled_from(["q000", "q001"]), st.permutations(["d001", "d002", "d003"]), st.sampled_from([0.0, 0.5, 1.0]))


@settings(max_examples=40)
@given(files=st.lists(st.lists(LINE, max_size=6, unique_by=lambda line: (line[0], *line[1][:2])), max_size=4))
def test_what_counts_is_the_last_word_on_each_pair(tmp_path_factory, files: list):
    expected: dict[tuple[str, str, str], float] = {}
    with Books("sqlite://") as books:
        desk = Desk(books, "made", tmp_path_factory.mktemp("imports"))
        for lines in files:
            before = dict(expected)
            expected |= {(query, docs[0], docs[1]): p for query, docs, p in lines}
            done = desk.bring(*(f"{query},{docs[0]},{docs[1]},{p}," for query, docs, p in lines))
            assert done.new == len(expected.keys() - before.keys())
            assert done.changed == sum(before[pair] != expected[pair] for pair in before)
        assert {row[:3]: row[-1] for row in desk.judged()} == expected


@pytest.mark.parametrize("statements", [1, 2, 3, 4, 6, 9])
def test_killed_at_any_statement_an_import_leaves_all_or_nothing(ledger_url: str, dataset: str, tmp_path: Path, statements: int):
    documents = [f"d{i:03d}" for i in range(20)]
    lines = [f"q{q:03d},{a},{b},0.7" for q in range(2) for a in documents[:9] for b in documents if a < b]
    path = tmp_path / "verdicts.csv"
    path.write_text("\n".join(("query_id,first_id,second_id,p", *lines)))
    killed_import(ledger_url, path, dataset, statements)
    with Books(ledger_url) as books:
        listed, verdicts = current_imports(books, dataset).height, books.count()
        assert (listed, verdicts) in ((0, 0), (len(lines), len(lines)))
        assert import_verdicts(books, dataset, path, EVIDENCE, POOL).new == len(lines) - listed
        assert current_imports(books, dataset).height == len(lines)
