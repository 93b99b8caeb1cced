"""The click logs of a dataset: which files there are, what they say together, which are new.

Belongs here: files -> one log -> comparisons of the pool's documents. Does not: the format of a log and how clicks become
preferences (`clicks.py`), what position does (`propensities.py`), adding comparisons to verdicts (`rating/online.py`).
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from pydantic import Field

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.click_files import CLICKS, read_click_log
from anmi_pipeline.judging.clicks import COMPARED, ClickConfig, ClickEvidence, click_comparisons

HASHED_BYTES = 1 << 20
WILD = "*?["
DOCUMENT = ["query_id", "doc_id"]


class ClickLogs(ClickConfig):
    """Where the click logs of a dataset are, and how they are read."""

    path: str = Field(
        min_length=1,
        description="log files, relative to ANMI_DATA or absolute; * and ? stand for any name, ** for folders: clicks/*.jsonl",
    )


@dataclass(frozen=True)
class ClickGraph:
    """What the logs say about the documents that may be compared.

    Attributes:
        comparisons: COMPARED columns, sorted.
        evidence: all that the logs say; None when there is no file yet.
        files: files read, each content once.
        repeated: files left out because another one has the same content.
        queries_outside: queries with comparisons that are not judged.
        documents_outside: documents with comparisons, of judged queries, that are not in the query's pool.
        left_out: comparisons of those.
    """

    comparisons: pl.DataFrame
    evidence: ClickEvidence | None
    files: int
    repeated: int
    queries_outside: int
    documents_outside: int
    left_out: int

    def facts(self) -> dict[str, int]:
        """Every count by name."""
        told = self.evidence
        return {
            "click_files": self.files,
            "click_files_repeated": self.repeated,
            "click_impressions": told.impressions if told is not None else 0,
            "clicks": told.clicks if told is not None else 0,
            "click_comparisons": self.comparisons.height,
            "click_queries": self.comparisons["query_id"].n_unique(),
            "click_comparisons_left_out": self.left_out,
            "click_queries_outside": self.queries_outside,
            "click_documents_outside": self.documents_outside,
            "clicks_at_unknown_positions": told.left_out if told is not None else 0,
        }


@dataclass(frozen=True)
class LogFiles:
    """Log files by content.

    Attributes:
        by_digest: sha256 -> one file with that content, sorted by digest.
        repeated: further files with a content that is already there.
    """

    by_digest: Mapping[str, Path]
    repeated: int


def log_files(config: ClickLogs, data_root: Path | None) -> LogFiles:
    """Find the files; the digests are part of a build key. Empty files say nothing and are left out.

    Raises:
        InputError: as `matching`, or a file cannot be read.
    """
    digests = [(digest_of(path), path) for path in matching(config, data_root) if path.stat().st_size]
    # The last of equal ones stands for all: dictionaries keep that one, and only the content matters.
    return LogFiles(dict(sorted(digests)), len(digests) - len(dict(digests)))


def matching(config: ClickLogs, data_root: Path | None) -> list[Path]:
    """Files that the pattern names, sorted; none is no error, because a dataset may wait for its first log.

    Raises:
        InputError: the path is relative and no data folder is known, its folder does not exist, or it names one file that is
            not there.
    """
    given = Path(config.path).expanduser()
    if not given.is_absolute():
        if data_root is None:
            raise InputError(f"judging.clicks reads {config.path}; set ANMI_DATA to the folder that this path starts from.")
        given = data_root / given
    parts = given.parts
    wild = next((place for place, part in enumerate(parts) if any(sign in part for sign in WILD)), len(parts))
    folder = Path(*parts[: min(wild, len(parts) - 1)])
    if not folder.is_dir():
        raise InputError(f"folder {folder} of judging.clicks.path {config.path} does not exist.")
    if wild == len(parts):
        if not given.is_file():
            raise InputError(
                f"click log {given} of judging.clicks.path does not exist. For logs to come give a pattern: *.jsonl."
            )
        return [given]
    return sorted(path for path in folder.glob(str(Path(*parts[wild:]))) if path.is_file())


def digest_of(path: Path) -> str:
    """sha256 of a file.

    Raises:
        InputError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while part := stream.read(HASHED_BYTES):
                digest.update(part)
    except OSError as error:
        raise InputError(f"click log {path} cannot be read: {error.strerror}.") from error
    return digest.hexdigest()


def click_graph(config: ClickLogs, data_root: Path | None, expected: list[str], documents: pl.DataFrame) -> ClickGraph:
    """Read all logs and compare the documents that may be compared.

    Positions are learnt from everything that was shown, also from documents outside the pool. An impression is named by its file
    and its name there: names of two files never meet.

    Args:
        config: which files, and how clicks are read.
        data_root: folder that relative paths start from.
        expected: digests that the build was planned with.
        documents: query_id, doc_id of every document that may be compared.

    Raises:
        InputError: the files are no longer those that were expected, or one is no click log, or positions cannot be told apart.
    """
    files = log_files(config, data_root)
    if list(files.by_digest) != expected:
        raise InputError("the click logs changed while they were read. Run this step again.")
    if not files.by_digest:
        return ClickGraph(pl.DataFrame(schema=COMPARED), None, 0, 0, 0, 0, 0)
    told = click_comparisons(pl.concat(list(read_logs(files))), config)
    known = documents.select(DOCUMENT).unique()
    judged = told.comparisons.join(known.select("query_id").unique(), on="query_id", how="semi")
    kept, outside = judged, []
    for end in ("doc_i", "doc_j"):
        named = known.rename({"doc_id": end})
        outside.append(judged.join(named, on=["query_id", end], how="anti").select("query_id", pl.col(end).alias("doc_id")))
        kept = kept.join(named, on=["query_id", end], how="semi")
    return ClickGraph(
        comparisons=kept.sort("query_id", "doc_i", "doc_j"),
        evidence=told,
        files=len(files.by_digest),
        repeated=files.repeated,
        queries_outside=told.comparisons["query_id"].n_unique() - judged["query_id"].n_unique(),
        documents_outside=pl.concat(outside).n_unique(),
        left_out=told.comparisons.height - kept.height,
    )


def read_logs(files: LogFiles) -> Iterator[pl.DataFrame]:
    """CLICKS frames of all files.

    Raises:
        InputError: a file is no click log, or changed since its digest was taken.
    """
    for digest, path in files.by_digest.items():
        log = read_click_log(path)
        if digest_of(path) != digest:
            raise InputError(f"click log {path} changed while it was read. Run this step again.")
        yield log.with_columns(impression=pl.format("{}:{}", pl.lit(digest), "impression")).select(list(CLICKS))


def new_logs(config: ClickLogs, data_root: Path | None, cursor: str | None) -> tuple[list[Path], str]:
    """Find the files whose content was not there before. For a sensor: only files that changed on disk are read.

    Args:
        config: which files.
        data_root: folder that relative paths start from.
        cursor: what the last look returned; None at the first, when every file is new.

    Returns:
        New files, one for each new content, sorted, and the cursor for the next look. A file that grew is new; one that was
        copied, renamed or removed is not.

    Raises:
        InputError: as `matching`, or the cursor is none of ours.
    """
    before = read_cursor(cursor)
    known = {digest for _, _, digest in before.values()}
    seen: dict[str, tuple[int, int, str]] = {}
    new: list[Path] = []
    for path in matching(config, data_root):
        state = path.stat()
        size, changed, digest = before.get(str(path), (-1, -1, ""))
        if (size, changed) != (state.st_size, state.st_mtime_ns):
            digest = digest_of(path)
        seen[str(path)] = (state.st_size, state.st_mtime_ns, digest)
        if state.st_size and digest not in known:
            known.add(digest)
            new.append(path)
    return new, json.dumps(seen, sort_keys=True, separators=(",", ":"))


def read_cursor(cursor: str | None) -> dict[str, tuple[int, int, str]]:
    """Path -> size, time of change (ns), digest.

    Raises:
        InputError: the cursor is none of ours.
    """
    try:
        held = json.loads(cursor) if cursor else {}
        return {str(path): (int(size), int(changed), str(digest)) for path, (size, changed, digest) in held.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"the cursor of the click logs cannot be read: {cursor!r:.80}. Reset it.") from error
