"""Files of clicks: one row per document shown, from rankings in JSON lines or from tables.

Belongs here: the columns of a click log, reading and checking it. Does not: which files a dataset reads (`click_logs.py`), what
clicks say (`clicks.py`).
"""

import json
from pathlib import Path
from typing import cast

import polars as pl

from anmi_pipeline.errors import InputError

CLICKS = {
    "impression": pl.String(),  # one ranking shown to one person
    "query_id": pl.String(),
    "doc_id": pl.String(),
    "position": pl.Int64(),  # from 1
    "clicked": pl.Boolean(),
    "dwell_s": pl.Float64(),  # seconds until the searcher came back; null when not known
}
"""Columns of a click log: one row per document shown."""
MOST_COMPLAINTS = 20


def check_log(log: pl.DataFrame) -> None:
    """Refuse a log that breaks the rules of CLICKS.

    Raises:
        InputError: other columns, a position below 1 or taken twice, or a document twice in one ranking.
    """
    if dict(log.schema) != CLICKS:
        raise InputError(f"the click log has columns {dict(log.schema)}, expected {CLICKS}.")
    if log.is_empty():
        raise InputError("the click log is empty.")
    low = log.filter((pl.col("position") < 1) | pl.any_horizontal(pl.exclude("dwell_s").is_null()))
    if low.height:
        raise InputError(
            f"{low.height} row(s) of the click log lack a value or have a position below 1, first: {low.row(0, named=True)}."
        )
    for column in ("position", "doc_id"):
        twice = log.filter(log.select("impression", column).is_duplicated())
        if twice.height:
            row = twice.row(0, named=True)
            raise InputError(f'impression "{row["impression"]}" of the click log has {column} {row[column]} twice.')


def read_click_log(path: Path) -> pl.DataFrame:
    """Read a click log.

    `.jsonl`: one ranking per line: {"query_id": "q", "ranking": ["d3", "d1"], "clicks": [{"doc_id": "d1", "dwell_s": 40}]}; a
    click may be the document id alone, "impression" names the line, else its number does. `.csv` and `.parquet`: the columns
    of CLICKS, dwell_s optional.

    Raises:
        InputError: the file is absent or of another kind, or lines are wrong: all of them are named, up to 20.
    """
    if not path.is_file():
        raise InputError(f"click log {path} does not exist.")
    if path.suffix == ".jsonl":
        return read_rankings(path)
    if path.suffix not in (".csv", ".parquet"):
        raise InputError(f"click log {path} is of kind {path.suffix!r}; .jsonl, .csv and .parquet are read.")
    try:
        rows = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path, infer_schema=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"click log {path} cannot be read: {error}") from error
    absent = [name for name in CLICKS if name not in rows.columns and name != "dwell_s"]
    if absent:
        raise InputError(f"click log {path} lacks column(s) {', '.join(absent)}; it has {', '.join(rows.columns)}.")
    if "dwell_s" not in rows.columns:
        rows = rows.with_columns(dwell_s=pl.lit(None))
    if rows.schema["clicked"] == pl.String():
        words = {"1": True, "true": True, "0": False, "false": False}
        rows = rows.with_columns(
            pl.col("clicked").str.to_lowercase().replace_strict(words, default=None, return_dtype=pl.Boolean())
        )
    try:
        shaped = rows.select(pl.col(name).cast(dtype) for name, dtype in CLICKS.items())
    except pl.exceptions.PolarsError as error:
        raise InputError(f"click log {path}: a value does not fit its column: {error}") from error
    check_log(shaped)
    return shaped


def read_rankings(path: Path) -> pl.DataFrame:
    """Read a log with one ranking per line."""
    rows: list[tuple[str, str, str, int, bool, float | None]] = []
    complaints: list[str] = []
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                rows.extend(ranking(json.loads(line), number))
            except (ValueError, RecursionError) as error:
                complaints.append(f"line {number}: {error}")
    if complaints:
        more = f" and {len(complaints) - MOST_COMPLAINTS} more" if len(complaints) > MOST_COMPLAINTS else ""
        raise InputError(
            f"click log {path} has {len(complaints)} wrong line(s): {'; '.join(complaints[:MOST_COMPLAINTS])}{more}."
        )
    log = pl.DataFrame(rows, schema=CLICKS, orient="row")
    check_log(log)
    return log


def ranking(value: object, number: int) -> list[tuple[str, str, str, int, bool, float | None]]:
    """Rows of one ranking.

    Raises:
        ValueError: says what is wrong with it.
    """
    fields = cast("dict[str, object]", value) if isinstance(value, dict) else {}
    query, shown, clicks = fields.get("query_id"), fields.get("ranking"), fields.get("clicks", [])
    if not isinstance(query, str) or not isinstance(shown, list) or not isinstance(clicks, list):
        raise ValueError("needs query_id (a text), ranking (a list of document ids) and clicks (a list)")
    documents = cast("list[object]", shown)
    if not all(isinstance(doc, str) for doc in documents) or len(set(documents)) < len(documents):
        raise ValueError("ranking must hold document ids, each once")
    dwell = dict(click(one) for one in cast("list[object]", clicks))
    lost = sorted(set(dwell) - set(documents))
    if lost:
        raise ValueError(f'clicked document "{lost[0]}" is not in the ranking')
    name = str(fields.get("impression", number))
    return [
        (name, query, str(doc), position, doc in dwell, dwell.get(str(doc))) for position, doc in enumerate(documents, start=1)
    ]


def click(value: object) -> tuple[str, float | None]:
    """Document and dwell of one click."""
    if isinstance(value, str):
        return value, None
    fields = cast("dict[str, object]", value) if isinstance(value, dict) else {}
    document, dwell = fields.get("doc_id"), fields.get("dwell_s")
    seconds = float(dwell) if isinstance(dwell, (int, float)) and not isinstance(dwell, bool) else None
    if not isinstance(document, str) or (dwell is not None and (seconds is None or not seconds >= 0)):
        raise ValueError(f"click {value!r} is neither a document id nor an object with doc_id and dwell_s (seconds)")
    return document, seconds
