"""Single files of a store, on a local folder or any fsspec URL: whole or not there, and sealed so that a changed byte shows.

Belongs here: atomic writes, sealed JSON, what stops a write. Does not: objects and their order of writes (`store.py`).
"""

import errno
import json
import sys
from pathlib import Path
from typing import cast
from uuid import uuid4

from upath import UPath

from anmi_pipeline.digests import Json, canonical_json, digest_bytes
from anmi_pipeline.errors import ArtifactError


def folders(top: UPath) -> list[UPath]:
    """The folders in a folder, in name order; none when it is not there.

    Raises:
        ArtifactError: the store cannot be read.
    """
    try:
        inner = sorted(top.iterdir(), key=lambda path: path.name) if top.exists() else []
        return [path for path in inner if path.is_dir()]
    except refusals() as error:
        raise ArtifactError(unreadable(top, error)) from error


def is_partial(path: UPath) -> bool:
    """Whether a file is what a killed writer left behind."""
    return path.name.startswith(".") and path.name.endswith(".partial")


def seal(value: Json) -> bytes:
    """JSON whose own hash stands in front, so that any changed byte shows."""
    body = canonical_json(value)
    return b'{"seal":"' + digest_bytes(body).encode() + b'","body":' + body + b"}\n"


def read_sealed(path: UPath) -> dict[str, Json] | None:
    """Read a sealed file; None when it is absent, torn or changed.

    Raises:
        ArtifactError: it is there but cannot be read.
    """
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except refusals() as error:
        raise ArtifactError(unreadable(path, error)) from error
    head, tail = b'{"seal":"', b"}\n"
    body = raw[len(head) + 64 + len(b'","body":') : -len(tail)]
    if raw != head + digest_bytes(body).encode() + b'","body":' + body + tail:
        return None
    return cast("dict[str, Json]", json.loads(body))


def is_local(path: UPath) -> bool:
    """Whether a path is on the local file system."""
    return path.protocol in ("", "file", "local")


def write_bytes(path: UPath, data: bytes) -> None:
    """Write a file so that a reader sees the old bytes or the new ones.

    Locally by a temporary name and a replace; an object store's put is atomic by itself.

    Raises:
        ArtifactError: the disk is full or the store refuses the write.
    """
    try:
        if not is_local(path):
            path.write_bytes(data)
            return
        target = Path(str(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{uuid4().hex}.partial")
        try:
            partial.write_bytes(data)
            partial.replace(target)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
    except refusals() as error:
        raise ArtifactError(unwritable(path, error)) from error


def refusals() -> tuple[type[Exception], ...]:
    """What a store raises that cannot be reached or refuses: errors of the system, and those of S3's client, which are none."""
    botocore = sys.modules.get("botocore.exceptions")
    return (OSError,) if botocore is None else (OSError, cast("type[Exception]", botocore.BotoCoreError))


def reason(error: Exception) -> str:
    """What an error says, without its number and path."""
    return str(getattr(error, "strerror", None) or error).rstrip(".")


def unreadable(path: UPath, error: Exception) -> str:
    """What stops the store from being read, and what to do."""
    remedy = "its permissions and the disk" if is_local(path) else "ANMI_STORE, the credentials and the network"
    return f"cannot read {path}: {reason(error)}. Check {remedy}."


def unwritable(path: UPath, error: Exception) -> str:
    """What stops the store from being written, and what to do."""
    remedy = {
        errno.ENOSPC: "The disk is full: free space and run again; finished work is kept.",
        errno.EFBIG: "The file size limit is reached: raise it (ulimit -f) and run again; finished work is kept.",
        errno.EDQUOT: "The quota is used up: free space and run again; finished work is kept.",
        errno.EROFS: "The store is read-only: set ANMI_HOME or ANMI_STORE to a folder that can be written.",
        errno.EACCES: "The store refuses writing: fix its permissions or set ANMI_HOME to a folder that can be written.",
        errno.EPERM: "The store refuses writing: fix its permissions or set ANMI_HOME to a folder that can be written.",
    }.get(getattr(error, "errno", None) or 0, "Check the store and run again; finished work is kept.")
    return f"cannot write {path}: {reason(error)}. {remedy}"
