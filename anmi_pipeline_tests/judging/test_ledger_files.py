from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging import ledger_files, ledger_transfers
from anmi_pipeline.judging.ledger import LedgerError
from anmi_pipeline.judging.ledger_files import FILE
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.judging.ledger_transfers import Added, Choice, export_verdicts, import_export
from anmi_pipeline.judging.verdicts import PROVENANCES, VERDICTS
from anmi_pipeline_tests.judging.filled import FUTURE, answers, append, contents, key, killed_import

SUFFIXES = ("csv", "csv.gz", "parquet")
TEXTS = st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
AMOUNTS = st.floats(0, 1e12, allow_subnormal=True)


@pytest.fixture
def books(ledger_url: str) -> Iterator[Books]:
    with Books(ledger_url) as opened:
        yield opened


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_export_comes_back_as_it_was(books: Books, tmp_path: Path, suffix: str):
    append(books, answers([3, 1], 0.1 + 0.2, raw_answer=""), "b", "two/x")
    append(books, answers([1, 2], 0.0, raw_answer=None, request_id='r "1",\r\n;', expires_at=FUTURE), "a")
    append(books, answers([4], None, raw_answer="a\nb\r c\td 'e' \U0001f600", latency_ms=None), "a")
    path = tmp_path / f"out.{suffix}"
    assert export_verdicts(books, path) == 5
    with Books(f"sqlite:///{tmp_path / 'other.db'}") as other:
        assert import_export(other, path) == Added(5, 0)
        assert contents(other) == contents(books)
        assert import_export(other, path) == Added(0, 5)
        assert contents(other) == contents(books)


@settings(max_examples=40)
@given(
    rows=st.lists(
        st.fixed_dictionaries({
            "p_first": st.none() | st.floats(0, 1, allow_subnormal=True), "raw_answer": TEXTS, "request_id": TEXTS,
            "cost_usd": AMOUNTS, "latency_ms": st.none() | AMOUNTS, "input_tokens": st.integers(0, 2**63 - 1),
            "provenance": st.sampled_from(PROVENANCES), "expires_at": st.sampled_from([None, FUTURE]),
        }),
        max_size=12,
    ),
    judge=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=5),
    suffix=st.sampled_from(SUFFIXES),
    block=st.integers(1, 5),
)  # fmt: skip
def test_export_and_import_are_inverse(tmp_path_factory, rows: list[dict], judge: str, suffix: str, block: int):
    path = tmp_path_factory.mktemp("roundtrip") / f"out.{suffix}"
    with pytest.MonkeyPatch.context() as patch, Books("sqlite://") as one:
        patch.setattr(ledger_files, "BLOCK", block)
        for number, row in enumerate(rows):
            append(one, answers([number], **row), judge=judge)
        export_verdicts(one, path)
        kept = contents(one)
    with pytest.MonkeyPatch.context() as patch, Books("sqlite://") as other:
        patch.setattr(ledger_files, "BLOCK", block)
        assert import_export(other, path) == Added(len(rows), 0)
        assert contents(other) == kept
        again = path.with_name(f"again.{suffix}")
        export_verdicts(other, again)
        assert again.read_bytes() == path.read_bytes() or suffix == "csv.gz"


def test_rows_that_are_there_stay(books: Books, tmp_path: Path):
    append(books, answers([1, 2], 1.0))
    path = tmp_path / "out.csv"
    export_verdicts(books, path)
    with Books(f"sqlite:///{tmp_path / 'other.db'}") as other:
        append(other, answers([2, 3], 0.0))
        append(other, answers([1], 0.0), "2")
        assert import_export(other, path) == Added(1, 1)
        found = other.look_up(pl.Series([key(2)]), "1")
        assert found["p_first"].to_list() == [0.0]
        # Imported rows are newer than those that were there.
        assert other.look_up(pl.Series([key(1)]), "9")["p_first"].to_list() == [1.0]


def test_filters(books: Books, tmp_path: Path):
    append(books, answers([1]), "1", "a")
    append(books, answers([2]), "1", "a/x")
    append(books, answers([3]), "2", "ab")
    append(books, answers([4], None), "2", "a_b")
    path = tmp_path / "out.parquet"

    def exported(**choice: str) -> list[str]:
        export_verdicts(books, path, Choice(**choice))
        return [row[-1] for row in pl.read_parquet(path)["call_key"]]

    assert exported() == ["1", "2", "3", "4"]
    assert exported(judge="a") == ["1", "2"]
    assert exported(judge="a_b") == ["4"]
    assert exported(epoch="2", status="ok") == ["3"]
    assert exported(judge="nobody") == []


def test_an_export_is_read_in_blocks(books: Books, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ledger_files, "BLOCK", 7)
    append(books, answers(list(range(40))))
    seen: list[tuple[int, int]] = []
    export_verdicts(books, tmp_path / "out.csv", progress=lambda done, total, _unit: seen.append((done, total)))
    assert [len(block) for block in ledger_transfers.stored_blocks(books, Choice(), 7)] == [7, 7, 7, 7, 7, 5]
    assert seen[-1] == (40, 40)


def rewritten(path: Path, change: Callable[[pl.DataFrame], pl.DataFrame]) -> Path:
    changed = path.with_name("changed.parquet")
    change(pl.read_parquet(path)).write_parquet(changed)
    return changed


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    with Books(f"sqlite:///{tmp_path / 'source.db'}") as books:
        append(books, answers(list(range(30))))
        export_verdicts(books, tmp_path / "out.parquet")
    return tmp_path / "out.parquet"


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("call_key", "x" * 64, "row 3: call_key is not 64 hexadecimal digits"),
        ("judge", None, "judge is empty"),
        ("p_first", 1.5, "p_first is not in 0..1"),
        ("p_first", float("nan"), "p_first is not in 0..1"),
        ("status", "timeout", "status is a failure, and p_first is not empty"),
        ("input_tokens", -1, "input_tokens is negative"),
        ("input_tokens", "many", "input_tokens is not of type Int64"),
        ("cost_usd", float("inf"), "cost_usd is not 0 or more"),
        ("provenance", "guessed", "provenance is none of model"),
        ("created_at", "yesterday", "created_at is no time"),
        ("expires_at", "2026", "expires_at is no time"),
    ],
)
def test_a_wrong_row_is_named_and_nothing_is_written(books: Books, exported: Path, column: str, value: object, text: str):
    def change(frame: pl.DataFrame) -> pl.DataFrame:
        values = frame[column].to_list()
        values[2] = value
        return frame.with_columns(pl.Series(column, values, strict=False, dtype=pl.String if isinstance(value, str) else None))

    with pytest.raises(InputError, match=f"1 wrong row.*{text}.*Nothing was imported"):
        import_export(books, rewritten(exported, change))
    assert books.count() == 0


def test_at_most_twenty_rows_are_named(books: Books, exported: Path):
    with pytest.raises(InputError, match=r"30 wrong row\(s\).*row 20: .*; and 10 more"):
        import_export(books, rewritten(exported, lambda frame: frame.with_columns(judge=pl.lit(""))))


def test_files_that_are_no_exports(books: Books, tmp_path: Path, exported: Path):
    with pytest.raises(InputError, match=r"lacks column\(s\) judge"):
        import_export(books, rewritten(exported, lambda frame: frame.drop("judge")))
    with pytest.raises(InputError, match="unknown column"):
        import_export(books, rewritten(exported, lambda frame: frame.with_columns(more=1)))
    people = tmp_path / "people.csv"
    people.write_text("query_id,doc_a,doc_b,answer\nq,a,b,a\n")
    with pytest.raises(InputError, match="with --dataset"):
        import_export(books, people)
    with pytest.raises(InputError, match="neither"):
        import_export(books, tmp_path / "x.json")
    for name, data in {"absent.csv": None, "torn.parquet": exported.read_bytes()[:-9], "torn.csv.gz": b"\x1f\x8bxx"}.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match="cannot be read"):
            import_export(books, tmp_path / name)
    assert books.count() == 0


def test_a_failed_export_leaves_the_old_file(books: Books, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    append(books, answers([1]))
    path = tmp_path / "out.csv"
    path.write_text("old")

    def broken(*_: object) -> Iterator[pa.Table]:
        raise LedgerError("gone")
        yield pa.table({})

    monkeypatch.setattr(ledger_transfers, "stored_blocks", broken)
    with pytest.raises(LedgerError):
        export_verdicts(books, path)
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir() if "partial" in one.name] == []
    with pytest.raises(InputError, match="cannot be written"):
        export_verdicts(books, tmp_path / "no" / "out.csv")


@pytest.mark.parametrize("statements", [1, 3, 8, 12])
def test_killed_at_any_statement_an_import_leaves_all_or_nothing(ledger_url: str, tmp_path: Path, statements: int):
    count = 1_000
    path = tmp_path / "big.parquet"
    with Books(f"sqlite:///{tmp_path / 'source.db'}") as source:
        append(source, answers(list(range(count))))
        export_verdicts(source, path)
    killed_import(ledger_url, path, "", statements)
    with Books(ledger_url) as books:
        left = books.count()
        assert left in (0, count)
        assert left == 0 or statements > 11  # the lock and ten blocks, then the commit
        assert import_export(books, path) == Added(count - left, left)


def test_columns_are_those_of_a_verdict():
    assert set(FILE) == {"epoch", "judge", "created_at", *VERDICTS}
