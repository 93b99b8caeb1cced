"""The recorded judge: verdicts of a file, with the pool and the plan they bring.

Belongs here: reading battle files and ordered-verdict files, and answering from them. Does not: buying verdicts, or the import of
verdicts into the ledger without a plan.
"""

import csv
import gzip
import hashlib
import io
import zlib
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path

import polars as pl

from anmi_pipeline.errors import InputError, nearest
from anmi_pipeline.judging.config import JudgingConfig, RecordedGrades
from anmi_pipeline.judging.judge_configs import RecordedJudge
from anmi_pipeline.judging.judges import CallSettings
from anmi_pipeline.judging.local_judge import LocalJudge
from anmi_pipeline.judging.simulated import pair_bytes
from anmi_pipeline.judging.verdicts import verdicts
from anmi_pipeline.tables import PLAN

COLUMNS = {
    "battles": (("query_id", "left", "right", "winner"), ("judge", "round", "ties_visible")),
    "ordered": (("query_id", "first", "second", "verdict"), ("judge", "round")),
}
"""Columns a file of each format must have, and those it may have besides."""

ANSWERS: dict[str, dict[str, float | None]] = {
    "battles": {"left": 1.0, "right": 0.0, "tie": 0.5},
    "ordered": {"first": 1.0, "second": 0.0, "tie": 0.5, "invalid": None},
}
"""Recorded word -> P(first is more relevant); left and first are the document shown first. None: the judge gave no usable
answer, which is a failure on record and never a vote."""

RECORDED = {
    "query_id": pl.String(),
    "first_id": pl.String(),
    "second_id": pl.String(),
    "judge": pl.String(),
    "round": pl.Int64(),
    "p_first": pl.Float64(),
    "answer": pl.String(),
    "line": pl.Int64(),
}


def read_recorded(judge: RecordedJudge, data_root: Path | None) -> pl.DataFrame:
    """Read the file of a recorded judge; every line becomes a row.

    The judge id is `name/judge of the file`, or the name alone when the file names no judge or the same one. Rounds are numbered
    as the file numbers them (1 without that column). Where one judge answers one ordered pair twice in one round, the second line
    gets the judge id `.../#2` and so on, so that each line is a vote of its own and none is lost.

    Returns:
        RECORDED columns, in file order.

    Raises:
        InputError: the file is absent or damaged, or a line is wrong; names file and line.
    """
    path = recorded_path(judge, data_root)
    must, _ = COLUMNS[judge.format]
    answers = ANSWERS[judge.format]
    first, second, verdict = must[1:]
    rows: list[tuple[str, str, str, str, int, float | None, str, int]] = []
    for line, row in _lines(path, judge.format):
        for column in must[:3]:
            if not row[column]:
                raise InputError(f"{path} line {line}: {column} is empty.")
        if row[verdict] not in answers:
            raise InputError(f'{path} line {line}: {verdict} is "{row[verdict]}"; it must be one of {", ".join(answers)}.')
        if row[first] == row[second]:
            raise InputError(f'{path} line {line}: document "{row[first]}" is compared with itself.')
        told = row.get("judge", "")
        judge_id = judge.name if told in ("", judge.name) else f"{judge.name}/{told}"
        rows.append(
            (
                row["query_id"],
                row[first],
                row[second],
                judge_id,
                _round(row, path, line),
                answers[row[verdict]],
                row[verdict],
                line,
            )
        )
    return _numbered(pl.DataFrame(rows, schema=RECORDED, orient="row"))


def recorded_documents(
    config: JudgingConfig, data_root: Path | None, queries: pl.DataFrame | None = None, corpus: pl.DataFrame | None = None
) -> pl.DataFrame:
    """Name the documents that recorded verdicts compare: the pool these judges bring.

    Args:
        config: the judging configuration.
        data_root: folder that relative paths start from.
        queries: QUERIES frame; when given, an unknown query id is an error.
        corpus: CORPUS frame; when given, an unknown document id is an error.

    Returns:
        query_id, doc_id, sorted, each once; empty without recorded judges.

    Raises:
        InputError: as `read_recorded`, or an unknown id.
    """
    documents = pl.DataFrame(schema={"query_id": pl.String(), "doc_id": pl.String()})
    for judge in config.recorded:
        rows = _known(read_recorded(judge, data_root), recorded_path(judge, data_root), queries, corpus)
        for side in ("first_id", "second_id"):
            documents = documents.vstack(rows.select("query_id", doc_id=pl.col(side)))
    return documents.unique().sort("query_id", "doc_id")


def recorded_plan(
    config: JudgingConfig, data_root: Path | None, queries: pl.DataFrame | None = None, corpus: pl.DataFrame | None = None
) -> pl.DataFrame:
    """Return the plan that recorded verdicts answer: one row per line of the files, whatever the query's split.

    A pair that one judge answered in both orders of one round is marked `audit`: it measures position bias.

    Args:
        config: the judging configuration.
        data_root: folder that relative paths start from.
        queries: QUERIES frame; when given, an unknown query id is an error.
        corpus: CORPUS frame; when given, an unknown document id is an error.

    Returns:
        PLAN frame.

    Raises:
        InputError: as `read_recorded`, or an unknown id.
    """
    plans = [PLAN.frame()]
    for judge in config.recorded:
        rows = _known(read_recorded(judge, data_root), recorded_path(judge, data_root), queries, corpus)
        swapped = rows.select("query_id", "judge", "round", first_id="second_id", second_id="first_id").unique()
        keys = ["query_id", "first_id", "second_id", "judge", "round"]
        joined = rows.join(swapped.with_columns(audit=pl.lit(True)), on=keys, how="left")
        plans.append(PLAN.frame(joined.with_columns(pl.col("audit").fill_null(False))))
    return PLAN.frame(pl.concat(plans))


def judge_inputs(config: JudgingConfig, data_root: Path | None) -> dict[str, str]:
    """Return the sha256 of every file that judges read, by the path in the configuration: part of a build key.

    Raises:
        InputError: a file cannot be read.
    """
    sources: list[RecordedJudge | RecordedGrades] = list(config.recorded)
    if config.anchors is not None and isinstance(config.anchors.source, RecordedGrades):
        sources.append(config.anchors.source)
    inputs: dict[str, str] = {}
    for source in sources:
        path = data_file(source.path, f'judge "{source.name}"', data_root)
        try:
            inputs[source.path] = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise InputError(f'verdict file {path} of judge "{source.name}" cannot be read: {error.strerror}.') from error
    return inputs


class Recorded(LocalJudge):
    """Answers from the lines of its file."""

    chunk = 20_000

    def __init__(self, settings: RecordedJudge, data_root: Path | None) -> None:
        """Read the file once."""
        self._settings = settings
        self._rows = read_recorded(settings, data_root)

    @property
    def name(self) -> str:
        """Name that the judge ids of the file start with."""
        return self._settings.name

    def settings(self, judge_id: str) -> CallSettings:
        """Only the judge id: what the file says about a pair is the call's context."""
        return CallSettings(judge=judge_id, endpoint="local", model="recorded", sampling={"format": self._settings.format})

    def context(self, calls: pl.DataFrame) -> Sequence[bytes]:
        """The recorded answer and the ids: an edited line is another call, and its old row stays in the ledger."""
        found = self._found(calls)
        columns = found.select("query_id", "first_id", "second_id", "round", "answer").iter_rows()
        return [f"{number},{answer}:".encode() + pair_bytes(query, a, b) for query, a, b, number, answer in columns]

    async def answer(self, calls: pl.DataFrame) -> AsyncGenerator[pl.DataFrame]:
        """Answer all calls at once."""
        found = self._found(calls)
        yield verdicts(calls, found["p_first"], "recorded", raw_answer=found["answer"])

    def _found(self, calls: pl.DataFrame) -> pl.DataFrame:
        keys = ["query_id", "first_id", "second_id", "judge", "round"]
        found = calls.select(keys).join(self._rows, on=keys, how="left", maintain_order="left")
        if found["answer"].null_count():
            row = found.filter(pl.col("answer").is_null()).row(0, named=True)
            raise InputError(
                f"verdict file {self._settings.path} has no answer of {row['judge']} for query {row['query_id']}, "
                f"{row['first_id']} before {row['second_id']}, round {row['round']}. Materialize comparison_plan again."
            )
        return found


def recorded_path(judge: RecordedJudge, data_root: Path | None) -> Path:
    """Return the file of a recorded judge.

    Raises:
        InputError: the path is relative and no data folder is known, or there is no such file.
    """
    return data_file(judge.path, f'judge "{judge.name}"', data_root)


def data_file(given: str, reader: str, data_root: Path | None) -> Path:
    """Return an existing file by its path in a configuration.

    Raises:
        InputError: the path is relative and no data folder is known, or there is no such file; names who reads it.
    """
    path = Path(given).expanduser()
    if not path.is_absolute():
        if data_root is None:
            raise InputError(f"{reader} reads {given}; set ANMI_DATA to the folder that this path starts from.")
        path = data_root / path
    if not path.is_file():
        siblings = (
            [str(found.name) for found in path.parent.glob(f"*{''.join(path.suffixes[:1])}*")] if path.parent.is_dir() else []
        )
        raise InputError(f"verdict file {path} of {reader} does not exist.{nearest(path.name, siblings)}")
    return path


def _lines(path: Path, kind: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, column -> value), having checked header and width."""
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    must, may = COLUMNS[kind]
    try:
        header = next(reader, [])
        _check_header(header, must, may, path)
        for row in reader:
            if not row:  # an empty line
                continue
            if len(row) != len(header):
                raise InputError(f"{path} line {reader.line_num}: {len(row)} values for {len(header)} columns.")
            yield reader.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise InputError(f"{path} line {reader.line_num}: not valid CSV ({error}).") from error


def _check_header(header: list[str], must: tuple[str, ...], may: tuple[str, ...], path: Path) -> None:
    absent = [column for column in must if column not in header]
    unknown = [column for column in header if column not in must + may]
    if absent or unknown or len(set(header)) < len(header):
        problem = (
            f"lacks column(s) {', '.join(absent)}"
            if absent
            else f"has wrong or repeated column(s) {', '.join(unknown or header)}"
        )
        hint = nearest(unknown[0], must + may) if unknown else ""
        raise InputError(f"{path} line 1: {problem}. Expected {','.join(must)} and optionally {','.join(may)}.{hint}")


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"verdict file {path} cannot be read: {error}.") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path} line {line}: byte {data[error.start]:#04x} is not valid UTF-8. Save the file as UTF-8."
        ) from error


def _round(row: dict[str, str], path: Path, line: int) -> int:
    text = row.get("round", "1")
    if not (text.isascii() and text.isdecimal()):
        raise InputError(f'{path} line {line}: round is "{text}"; it must be a whole number.')
    return int(text)


def _numbered(rows: pl.DataFrame) -> pl.DataFrame:
    """Give repeats of a key judge ids of their own: the n-th becomes `judge/#n`."""
    keys = ["query_id", "first_id", "second_id", "judge", "round"]
    repeat = pl.col("line").rank("ordinal").over(keys)
    judge = pl.when(repeat > 1).then(pl.format("{}/#{}", "judge", repeat)).otherwise(pl.col("judge"))
    return rows.with_columns(judge=judge)


def _known(rows: pl.DataFrame, path: Path, queries: pl.DataFrame | None, corpus: pl.DataFrame | None) -> pl.DataFrame:
    checks = [("query_id", queries, "query_id", "query"), ("first_id", corpus, "doc_id", "document")]
    for column, table, key, what in [*checks, ("second_id", corpus, "doc_id", "document")]:
        if table is None:
            continue
        unknown = rows.join(table.select(key), left_on=column, right_on=key, how="anti").sort("line")
        if unknown.height:
            row = unknown.row(0, named=True)
            raise InputError(
                f'{path} line {row["line"]}: {what} "{row[column]}" is not in the dataset '
                f"({unknown.height} line(s) name unknown {what}s)."
            )
    return rows
