"""Raw input files: where they are, their lines, and the digest of their bytes.

Belongs here: path resolution, decoding with errors that name file, line and byte, and fingerprints of bytes. Does not: what
a line means (the readers). Line ends may be LF or CRLF, a byte order mark is skipped, gzip is recognised by its first bytes.
"""

import gzip
import hashlib
import json
import zlib
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, cast

from anmi_pipeline.errors import InputError, nearest

Encoding = Literal["utf-8", "latin-1"]
TABLES = ("corpus", "queries", "qrels")
GZIP_MAGIC = b"\x1f\x8b"
UTF8_MARK = b"\xef\xbb\xbf"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Inputs:
    """Everything that each of the three tables depends on.

    Attributes:
        files: table -> role of the file ("qrels test") -> path. Only the bytes count, never the path.
        settings: table -> JSON-able settings that change the table.
    """

    files: dict[str, dict[str, Path]] = field(default_factory=dict[str, dict[str, Path]])
    settings: dict[str, dict[str, object]] = field(default_factory=dict[str, dict[str, object]])

    def digests(self) -> dict[str, str]:
        """Return table -> sha256 over the bytes of its files and its settings; each file is read once."""
        known: dict[Path, str] = {}
        for path in (path for roles in self.files.values() for path in roles.values()):
            if path not in known:
                known[path] = file_digest(path)
        result: dict[str, str] = {}
        for table in TABLES:
            roles = {role: known[path] for role, path in sorted(self.files.get(table, {}).items())}
            text = json.dumps({"files": roles, "settings": self.settings.get(table, {})}, sort_keys=True)
            result[table] = hashlib.sha256(text.encode()).hexdigest()
        return result


def resolve(path: str, data_root: Path | None) -> Path:
    """Return the existing file or folder that a source names.

    Args:
        path: absolute, or relative to `data_root`; "~" is the home folder.
        data_root: folder of ANMI_DATA; None when it is not set.

    Raises:
        InputError: a relative path without a data root, or nothing is there (names the nearest entry of the folder).
    """
    found = Path(path).expanduser()
    if not found.is_absolute():
        if data_root is None:
            raise InputError(
                f'the source names the relative path "{path}", but no data folder is set. '
                "Set ANMI_DATA to the folder it starts from, or write an absolute path."
            )
        found = data_root / found
    if not found.exists():
        folder = found.parent
        hint = nearest(found.name, listed(folder)) if folder.is_dir() else f" The folder {folder} does not exist either."
        raise InputError(f"{found} does not exist.{hint} Relative paths start from ANMI_DATA ({data_root}).")
    return found


def listed(folder: Path) -> list[str]:
    """Names in a folder, sorted; an unreadable folder is an error of the person, not a traceback."""
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder} cannot be listed: {error.strerror}. Check its permissions.") from error


def one_of(folder: Path, names: tuple[str, ...]) -> Path:
    """Return the one file of `names` that the folder holds.

    Raises:
        InputError: none of them, or more than one, is there.
    """
    there = [folder / name for name in names if (folder / name).is_file()]
    if not there:
        raise InputError(f"{folder} has no {' or '.join(names)}.{nearest(names[0], listed(folder))}")
    if len(there) > 1:
        raise InputError(f"{folder} has both {' and '.join(path.name for path in there)}; keep one, they may differ.")
    return there[0]


@contextmanager
def opened(path: Path) -> Generator[BinaryIO]:
    """Open a file for reading bytes, through gzip when it is compressed.

    Raises:
        InputError: it cannot be opened or its compressed stream is damaged.
    """
    try:
        with path.open("rb") as raw:
            compressed = raw.read(2) == GZIP_MAGIC
        if compressed:
            with gzip.open(path, "rb") as stream:
                yield cast(BinaryIO, stream)
        else:
            with path.open("rb") as stream:
                yield stream
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(
            f"{path}: its gzip stream is damaged or cut short ({error}). Copy or download the file again."
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}. Check that it is a file you may read.") from error


def text_lines(path: Path, encoding: Encoding = "utf-8") -> Iterator[tuple[int, str]]:
    """Yield (1-based line number, text without its line end).

    Raises:
        InputError: bytes that are not text in this encoding: names line and byte offset in the (uncompressed) file.
    """
    offset = 0
    with opened(path) as stream:
        for number, raw in enumerate(stream, 1):
            line = raw.removeprefix(UTF8_MARK) if number == 1 and encoding == "utf-8" else raw
            yield number, decoded(line, encoding, path, number, offset + len(raw) - len(line))
            offset += len(raw)


def decoded(line: bytes, encoding: Encoding, path: Path, number: int, offset: int) -> str:
    """Decode one line and drop its line end."""
    try:
        return line.decode(encoding).removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        wide = number == 1 and line.startswith(UTF16_MARKS)
        said = " The file starts like UTF-16." if wide else ""
        raise InputError(
            f"{path} line {number}: byte {offset + error.start} (0x{line[error.start]:02x}) is not valid UTF-8.{said} "
            f"Convert the file to UTF-8, for example: iconv -f {'UTF-16' if wide else 'LATIN1'} -t UTF-8."
        ) from error


def json_rows(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield (line number, object) of a JSON lines file; blank lines are skipped.

    Raises:
        InputError: a line that is not one JSON object, or holds half a surrogate pair: names file and line.
    """
    for number, line in text_lines(path):
        if not line.strip():
            continue
        try:
            row: object = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(
                f"{path} line {number}: not valid JSON ({error}). A .jsonl file holds one complete JSON object per line."
            ) from error
        if not isinstance(row, dict):
            raise InputError(f"{path} line {number}: holds a JSON {type(row).__name__}, expected an object with named fields.")
        if "\\ud" in line.lower():
            refuse_half_surrogates(row, path, number)
        yield number, row


def refuse_half_surrogates(row: object, path: Path, number: int) -> None:
    """Raise when a JSON escape made text that no UTF-8 file can hold."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{path} line {number}: holds half of a surrogate pair ({error.object[error.start]!r}), which is not text. "
            "Write the file again with valid Unicode."
        ) from error


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's raw bytes, compressed or not.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}. Check that it is a file you may read.") from error


def folder_files(folder: Path, role: str, ignored: Mapping[str, str] | None = None) -> dict[str, Path]:
    """Return role -> path of every file under a folder, by its relative name.

    Names that start with a key of `ignored` (prefix -> why) are left out.
    """
    prefixes = tuple(ignored or {})
    return {
        f"{role} {path.relative_to(folder).as_posix()}": path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not (prefixes and path.name.startswith(prefixes))
    }
