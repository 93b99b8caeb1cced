import sqlite3
import threading
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging import ledger as module
from anmi_pipeline.judging.ledger import STORED, Ledger, LedgerError, now
from anmi_pipeline.judging.verdicts import VERDICTS

KEYS = [f"{i:064x}" for i in range(5)]


def answers(keys: list[str], p_first: float | None = 1.0, **values: object) -> pl.DataFrame:
    row = {
        "status": "ok" if p_first is not None else "timeout", "p_first": p_first, "raw_answer": "left", "input_tokens": 3,
        "output_tokens": 1, "cost_usd": 0.25, "latency_ms": 12.5, "request_id": "r1", "provenance": "model", "expires_at": None,
        **values,
    }  # fmt: skip
    return pl.DataFrame([{"call_key": key, **row} for key in keys], schema=VERDICTS)


def append(ledger: Ledger, frame: pl.DataFrame, epoch: str = "1") -> int:
    return ledger.append(frame, pl.Series(["j"] * frame.height, dtype=pl.String), epoch)


def test_rows_come_back_as_they_were_written(ledger_url: str):
    with Ledger(ledger_url) as ledger:
        given = answers(KEYS[:3], 0.1 + 0.2)
        assert append(ledger, given) == 3
        found = ledger.look_up(pl.Series([KEYS[2], KEYS[0], KEYS[4], KEYS[0]]), "1")
        assert dict(found.schema) == STORED
        assert found["call_key"].to_list() == [KEYS[0], KEYS[2]]
        assert found.select(list(VERDICTS)).equals(given[[0, 2]])
        assert set(found["judge"]) == {"j"}
        assert found["created_at"].max() <= now()
    with Ledger(ledger_url) as again:
        assert again.count() == 3
        assert again.look_up(pl.Series([], dtype=pl.String), "1").height == 0


def test_a_row_is_written_once_per_epoch_and_never_changed(ledger_url: str):
    with Ledger(ledger_url) as ledger:
        append(ledger, answers(KEYS[:3], 1.0))
        assert append(ledger, answers(KEYS[1:5], 0.0)) == 2
        assert ledger.look_up(pl.Series(KEYS), "1")["p_first"].to_list() == [1, 1, 1, 0, 0]
        assert append(ledger, answers(KEYS[:1], 0.5), epoch="2") == 1
        assert ledger.count() == 6
        assert ledger.append(answers([]), pl.Series([], dtype=pl.String), "1") == 0


def test_the_newest_unexpired_answer_of_any_epoch_counts(ledger_url: str):
    def found(epoch: str) -> tuple[object, ...] | None:
        rows = ledger.look_up(pl.Series(KEYS[:1]), epoch, at="2030-01-01T00:00:00.000000Z").select("epoch", "p_first", "status")
        return rows.row(0) if rows.height else None

    with Ledger(ledger_url) as ledger:
        append(ledger, answers(KEYS[:1], 0.1, expires_at="2029-12-31T23:59:59.999999Z"), epoch="a")
        assert found("a") == ("a", 0.1, "ok")  # a finished epoch never changes
        assert found("b") is None  # expired for every other epoch
        append(ledger, answers(KEYS[:1], 0.2, expires_at="2030-01-01T00:00:00.000001Z"), epoch="b")
        append(ledger, answers(KEYS[:1], None), epoch="c")
        assert found("d") == ("b", 0.2, "ok")  # another epoch's failure is no answer
        assert found("c") == ("b", 0.2, "ok")  # an answer stands above a failure of the epoch itself
        append(ledger, answers(KEYS[:1], 0.3), epoch="e")
        assert found("f") == ("e", 0.3, "ok")
    with Ledger(ledger_url) as ledger:
        append(ledger, answers(KEYS[1:2], None), epoch="a")
        assert ledger.look_up(pl.Series(KEYS[1:2]), "a")["status"].to_list() == ["timeout"]
        assert ledger.look_up(pl.Series(KEYS[1:2]), "b").height == 0  # a new epoch asks failures again


def test_more_keys_than_one_query_takes(ledger_url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "KEYS_PER_QUERY", 7)
    keys = [f"{i:064x}" for i in range(50)]
    with Ledger(ledger_url) as ledger:
        append(ledger, answers(keys[::2]))
        assert ledger.look_up(pl.Series(keys), "1")["call_key"].to_list() == keys[::2]


def test_answers_may_hold_anything(ledger_url: str):
    text = "A\0B 'quote' \"double\" \U0001f600\n; DROP TABLE verdicts"
    with Ledger(ledger_url) as ledger:
        append(ledger, answers(KEYS[:1], raw_answer=text))
        assert ledger.look_up(pl.Series(KEYS[:1]), "1")["raw_answer"].item() == text.replace("\0", "\ufffd")


def test_writers_do_not_disturb_each_other(ledger_url: str):
    keys = [f"{i:064x}" for i in range(400)]
    written: list[int] = []
    errors: list[Exception] = []

    def write(shift: int) -> None:
        try:
            with Ledger(ledger_url) as ledger:
                for start in range(0, 400, 20):
                    at = (start + shift) % 400
                    written.append(append(ledger, answers(keys[at : at + 20])))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(shift,)) for shift in (0, 40, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert sum(written) == 400
    with Ledger(ledger_url) as ledger:
        assert ledger.count() == 400


def test_a_full_disk_is_one_clear_error_and_keeps_what_was_committed(sqlite_url: str, monkeypatch: pytest.MonkeyPatch):
    with Ledger(sqlite_url) as ledger:
        append(ledger, answers(KEYS))
    configure = module._configure_sqlite

    def small(connection: sqlite3.Connection, record: object) -> None:
        configure(connection, record)
        connection.execute("PRAGMA max_page_count = 12")  # SQLite answers as it does when the disk is full

    monkeypatch.setattr(module, "_configure_sqlite", small)
    with Ledger(sqlite_url) as ledger:
        with pytest.raises(LedgerError, match=r"could not be written: .*full.* Free disk space"):
            append(ledger, answers([f"{i:064x}" for i in range(100, 3000)]))
        assert ledger.count() == len(KEYS)


def test_a_read_only_ledger_is_one_clear_error(tmp_path: Path):
    path = tmp_path / "ledger.db"
    with Ledger(f"sqlite:///{path}") as ledger:
        append(ledger, answers(KEYS))
    with (
        pytest.raises(LedgerError, match=r"readonly.*Make the file and its folder writable"),
        Ledger(f"sqlite:///file:{path}?mode=ro&uri=true") as ledger,
    ):
        append(ledger, answers([f"{9:064x}"]))


def test_a_locked_ledger_waits_and_then_says_so(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "BUSY_SECONDS", 0)
    with Ledger(sqlite_url) as ledger:
        holder = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError, match=r"locked.*Another process"):
            append(ledger, answers(KEYS))
        holder.execute("ROLLBACK")
        holder.close()
        assert append(ledger, answers(KEYS)) == len(KEYS)


def test_a_file_that_is_no_ledger(tmp_path: Path):
    (tmp_path / "ledger.db").write_bytes(b"something else " * 500)
    with pytest.raises(LedgerError, match=r"not a database.*point ANMI_LEDGER to another path"):
        Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")


def test_a_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(LedgerError, match="cannot be created"):
        Ledger(f"sqlite:///{tmp_path / 'file' / 'ledger.db'}")


@pytest.mark.parametrize(
    "url", ["nonsense", "nosuchdb://u:secret@h/d", "postgresql+nodriver://u:secret@h/d", "mssql+pyodbc://u:secret@h/d"]
)
def test_bad_urls_name_the_variable_and_never_the_password(url: str):
    with pytest.raises(InputError, match="ANMI_LEDGER") as caught:
        Ledger(url)
    assert "secret" not in str(caught.value)


def test_a_server_that_is_not_there_is_named_without_its_password(tmp_path: Path):
    pytest.importorskip("psycopg")
    with pytest.raises(LedgerError, match="could not be created") as caught:
        Ledger(f"postgresql+psycopg://u:secret@/d?host={tmp_path}")
    assert "secret" not in str(caught.value)


def test_commits_are_durable_by_setting(sqlite_url: str):
    with Ledger(sqlite_url) as ledger, ledger._engine.connect() as connection:
        assert connection.execute(sa.text("PRAGMA journal_mode")).scalar_one() == "wal"
        assert connection.execute(sa.text("PRAGMA synchronous")).scalar_one() == 2  # FULL
        assert connection.execute(sa.text("PRAGMA busy_timeout")).scalar_one() == 60_000


def test_what_could_not_be_written_is_quoted_by_no_error(sqlite_url: str):
    with Ledger(sqlite_url) as ledger:
        append(ledger, answers(KEYS[:1]))
        with sqlite3.connect(sqlite_url.removeprefix("sqlite:///")) as connection:
            connection.execute("create trigger full before insert on verdicts begin select raise(abort, 'full'); end")
        with pytest.raises(LedgerError, match="could not be written: full") as caught:
            append(ledger, answers(KEYS[1:], raw_answer="PLANTED ANSWER"))
        chain, shown = caught.value, ""
        while chain is not None:
            shown, chain = shown + f"{chain} {chain!r}", chain.__cause__ or chain.__context__
        assert "PLANTED" not in shown
