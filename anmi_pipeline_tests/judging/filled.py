"""Ledgers with made-up rows, for the tests of its files, figures and removal."""

import signal
import subprocess
import sys
from pathlib import Path

import polars as pl

from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.judging.verdicts import VERDICTS

PAST, FUTURE = "2001-01-01T00:00:00.000000Z", "2999-01-01T00:00:00.000000Z"


def key(number: int) -> str:
    """A call key."""
    return f"{number:064x}"


def answers(numbers: list[int], p_first: float | None = 1.0, **values: object) -> pl.DataFrame:
    """VERDICTS rows of some call keys."""
    row = {
        "status": "ok" if p_first is not None else "timeout", "p_first": p_first, "raw_answer": "left", "input_tokens": 30,
        "output_tokens": 2, "cost_usd": 0.25, "latency_ms": 12.5, "request_id": None, "provenance": "model", "expires_at": None,
        **values,
    }  # fmt: skip
    return pl.DataFrame([{"call_key": key(number), **row} for number in numbers], schema=VERDICTS)


def append(books: Books, rows: pl.DataFrame, epoch: str = "1", judge: str = "j") -> int:
    """Write rows of one judge."""
    return books.append(rows, pl.Series([judge] * rows.height, dtype=pl.String), epoch)


def contents(books: Books) -> list[dict[str, object]]:
    """Every row as it is, without its number."""
    from anmi_pipeline.judging.ledger_transfers import Choice, stored_blocks

    return [row for block in stored_blocks(books, Choice()) for row in block.to_pylist()]


def killed_import(url: str, path: Path, dataset: str, statements: int) -> None:
    """Import a file in another process and kill it after so many statements, or let it end when it has fewer."""
    command = [sys.executable, "-m", "anmi_pipeline_tests.judging.importing", url, str(path), dataset]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    for _ in range(statements):
        if not process.stdout.readline():
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
