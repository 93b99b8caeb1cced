"""Files of answers: verdicts that people or other systems wrote into a table, an audit queue among them.

Belongs here: reading and checking such a file. Does not: writing the audit queue (`audit_queue.py`), what becomes of the
answers (`imports.py`). A CSV file has been through a spreadsheet: columns may be moved, renamed in case or added, semicolons may
stand for commas, and a row is known by its ids and not by its place.
"""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.audit_queue import HUMAN, bare, pair_key

MUST = ("query_id", "doc_a", "doc_b", "answer")
ALIASES = {"first_id": "doc_a", "second_id": "doc_b", "p": "answer", "p_first": "answer"}
"""Other names of columns: first_id is the document shown first, p = P(first is more relevant)."""
WORDS = {"a": 1.0, "b": 0.0, "first": 1.0, "second": 0.0, "tie": 0.5, "=": 0.5}
JUDGE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[^\s/]+)?")
MOST_COMPLAINTS = 20

ANSWERS = {
    "line": pl.Int64(),
    "query_id": pl.String(),
    "first_id": pl.String(),
    "second_id": pl.String(),
    "judge": pl.String(),
    "p_first": pl.Float64(),
    "answer": pl.String(),  # as it was written
    "comment": pl.String(),
}
"""Columns of `read_answers`."""
Line = tuple[int, dict[str, str]]


@dataclass(frozen=True)
class Answered:
    """What a file says.

    Attributes:
        answers: ANSWERS frame in the order of the file; first_id is document a.
        unanswered: lines left empty.
    """

    answers: pl.DataFrame
    unanswered: int


def read_answers(
    path: Path, known: pl.DataFrame, *, judge: str = HUMAN, taken: Collection[str] = (), both_orders: bool = False
) -> Answered:
    """Read and check a file of answers.

    Columns are found by name, in any order and case: query_id; doc_a and doc_b, or first_id and second_id; answer or p; and,
    where the file has them, judge, comment and the audit queue's key. Others are ignored.

    Args:
        path: .csv, .csv.gz or .parquet; anything else is read as CSV.
        known: query_id, doc_id of the documents that can be compared.
        judge: judge id of lines that name none.
        taken: names of judges that no line may be of.
        both_orders: whether a judge may answer a pair in both orders.

    Raises:
        InputError: the file cannot be read, lacks a column, or lines are wrong: every one of them is named, up to 20, and none of
            the file is taken.
    """
    if (problem := wrong_judge(judge, taken)) is not None:
        raise InputError(problem)
    pairs = set(known.select("query_id", "doc_id").iter_rows())
    rows: list[dict[str, object]] = []
    complaints: list[str] = []
    seen: dict[tuple[str, ...], int] = {}
    empty = 0
    for number, cells in read_lines(path):
        if not cells["answer"]:
            empty += 1
            continue
        problem, p = checked_line(cells, pairs)
        query, a, b = (cells[name] for name in MUST[:3])
        whose = cells.get("judge", "") or judge
        problem = problem or wrong_judge(whose, taken)
        pair = (whose, query, a, b) if both_orders else (whose, query, *sorted((a, b)))
        if problem is None and pair in seen:
            problem = f"the pair was answered in line {seen[pair]} already"
        if problem is not None:
            complaints.append(f"line {number}: {problem}")
            continue
        seen[pair] = number
        told = {"answer": cells["answer"], "comment": cells.get("comment", "")}
        rows.append({"line": number, "query_id": query, "first_id": a, "second_id": b, "judge": whose, "p_first": p, **told})
    if complaints:
        more = f"; and {len(complaints) - MOST_COMPLAINTS} more" if len(complaints) > MOST_COMPLAINTS else ""
        raise InputError(
            f"{path} has {len(complaints)} wrong line(s): {'; '.join(complaints[:MOST_COMPLAINTS])}{more}. Nothing was taken."
        )
    return Answered(pl.DataFrame(rows, schema=ANSWERS), empty)


def wrong_judge(judge: str, taken: Collection[str]) -> str | None:
    """What is wrong with a judge id; None: nothing."""
    if not JUDGE_ID.fullmatch(judge):
        return f'judge "{judge}" is no name: give letters, digits, ".", "_" and "-", and a person after a slash (human/anna)'
    if judge.split("/", 1)[0] in taken:
        return f'judge "{judge}" has the name of a judge that the dataset asks itself; give another'
    return None


def read_lines(path: Path) -> list[Line]:
    """Line number and cells by column name, lower case; empty lines are left out. The rows of parquet are numbered from 1."""
    return parquet_lines(path) if path.suffix.lower() == ".parquet" else csv_lines(path)


def parquet_lines(path: Path) -> list[Line]:
    """Lines of a parquet file; numbers as texts."""
    try:
        table = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    header = columns_of(table.columns, path)
    return [
        (number, {name: "" if cell is None else str(cell) for name, cell in zip(header, row, strict=True)})
        for number, row in enumerate(table.iter_rows(), start=1)
    ]


def csv_lines(path: Path) -> list[Line]:
    """Lines of a CSV file; a number is that of a line's end, where texts hold line breaks."""
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix.lower() == ".gz" else data).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}). Save it as CSV UTF-8.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    head = text.split("\n", 1)[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=";" if head.count(";") > head.count(",") else ",")
    try:
        header = columns_of(next(reader, []), path)
        # Short rows are filled up: spreadsheets drop empty cells at the end of a line.
        return [
            (reader.line_num, {name: bare(cell) for name, cell in zip(header, row + [""] * len(header), strict=False)})
            for row in reader
            if any(cell.strip() for cell in row)
        ]
    except csv.Error as error:
        raise InputError(f"{path} line {reader.line_num} is not valid CSV: {error}.") from error


def columns_of(names: list[str], path: Path) -> list[str]:
    """The header under the names that are used here.

    Raises:
        InputError: a column that must be there is absent or stands there twice.
    """
    lower = [name.strip().lower() for name in names]
    header = [ALIASES.get(name, name) for name in lower]
    absent = [name for name in MUST if header.count(name) != 1]
    if absent:
        also = {name: [other for other, own in ALIASES.items() if own == name] for name in absent}
        wanted = ", ".join(f"{name} (or {', '.join(also[name])})" if also[name] else name for name in absent)
        raise InputError(f"{path} must have column(s) {wanted} once; its header is {', '.join(lower)}.")
    return header


def checked_line(cells: dict[str, str], known: set[tuple[str, ...]]) -> tuple[str | None, float]:
    """What is wrong with an answered line (None: nothing), and P(document a is more relevant)."""
    query, a, b, answer = (cells[name] for name in MUST)
    key = cells.get("key", "")
    if key and key != pair_key(query, a, b):
        return f'the ids ("{query}", "{a}", "{b}") are not those that key {key} was given for; restore them', 0.5
    for document in (a, b):
        if (query, document) not in known:
            return f'document "{document}" is not in the pool of query "{query}"', 0.5
    if a == b:
        return f'document "{a}" is compared with itself', 0.5
    p = WORDS.get(answer.lower())
    if p is None:
        try:
            p = float(answer.replace(",", "."))
        except ValueError:
            p = float("nan")
    if not 0 <= p <= 1:
        return f'answer is "{answer}"; it must be a, b, tie, or a number 0..1 (the probability that a is more relevant)', 0.5
    return None, abs(p)  # -0.0 and 0.0 are one answer
