"""Digests over canonical content: what makes two artifacts, settings or builds the same.

Belongs here: the canonical byte forms and their sha256. Does not: where the bytes are kept (`store.py`).
"""

import hashlib
import io
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NewType, cast

import numpy as np
import polars as pl
import pyarrow as pa

from anmi_pipeline.errors import ArtifactError
from anmi_pipeline.tables import TableSpec

Digest = NewType("Digest", str)
Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]

CHUNK = 1 << 20


def digest_bytes(data: bytes) -> Digest:
    """sha256 of bytes, hexadecimal."""
    return Digest(hashlib.sha256(data).hexdigest())


def canonical_json(value: Json) -> bytes:
    """JSON with sorted keys, no spaces and no NaN: equal values give equal bytes.

    >>> canonical_json({"b": 1, "a": [1.5, None]})
    b'{"a":[1.5,null],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_json(value: Json) -> Digest:
    """sha256 of the canonical JSON."""
    return digest_bytes(canonical_json(value))


def digest_stream(stream: BinaryIO) -> Digest:
    """sha256 of a binary stream, read in chunks."""
    hasher = hashlib.sha256()
    while block := stream.read(CHUNK):
        hasher.update(block)
    return Digest(hasher.hexdigest())


def digest_file(path: Path) -> Digest:
    """sha256 of a local file."""
    with path.open("rb") as stream:
        return digest_stream(stream)


def digest_table(table: pl.DataFrame, spec: TableSpec) -> Digest:
    """sha256 over a table's content columns, rows sorted by key, as uncompressed Arrow IPC.

    Nulls are replaced by a filler and a mask column first: Arrow leaves the bytes under a null undefined, and string views depend
    on how the strings were made, so the frame's own bytes would not be canonical.
    """
    ordered = table.select(spec.content).sort([name for name in spec.key if name in spec.content])
    columns: list[pl.Expr] = []
    for name, dtype in ordered.schema.items():
        columns.append(pl.col(name).is_null().alias(f"{name}?"))
        columns.append(filled(name, dtype))
    arrow = cast("pa.Table", ordered.select(columns).rechunk().to_arrow(compat_level=pl.CompatLevel.oldest()))
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, arrow.schema) as writer:
        writer.write_table(arrow.combine_chunks())
    return digest_bytes(sink.getvalue())


def filled(name: str, dtype: pl.DataType) -> pl.Expr:
    """A column without nulls, lists joined by the unit separator, negative zero made zero."""
    column = pl.col(name)
    if isinstance(dtype, pl.List):
        return column.list.join("\x1f").fill_null("")
    if dtype.is_float():
        return column.fill_null(0.0) + 0.0
    if dtype.is_integer():
        return column.fill_null(0)
    if dtype == pl.Boolean:
        return column.fill_null(value=False)
    return column.fill_null("")


def digest_safetensors(stream: BinaryIO) -> Digest:
    """sha256 over tensor names, dtypes, shapes and bytes of a safetensors file, whatever its free metadata says.

    Raises:
        ArtifactError: the stream is not safetensors.
    """
    raw = stream.read()
    try:
        (length,) = struct.unpack("<Q", raw[:8])
        header = json.loads(raw[8 : 8 + length])
    except (struct.error, ValueError) as error:
        raise ArtifactError(f"weights are not a safetensors file ({error}); train or fetch the checkpoint again.") from error
    hasher = hashlib.sha256()
    body = memoryview(raw)[8 + length :]
    for name in sorted(key for key in header if key != "__metadata__"):
        entry = header[name]
        begin, end = entry["data_offsets"]
        hasher.update(canonical_json([name, entry["dtype"], entry["shape"]]))
        hasher.update(body[begin:end])
    return Digest(hasher.hexdigest())


def digest_array(array: np.ndarray) -> Digest:
    """sha256 over dtype, shape and bytes of an array in C order."""
    contiguous = np.ascontiguousarray(array)
    head = canonical_json([contiguous.dtype.str, list(contiguous.shape)])
    return digest_bytes(head + contiguous.tobytes())


def build_key(
    asset: str, partition: str, code_version: int, config: Json, seeds: Sequence[int], upstream: Mapping[str, str]
) -> Digest:
    """Identity of a build: equal keys must give equal content, so a finished build can be reused.

    Args:
        asset: asset name.
        partition: partition whose family the build belongs to.
        code_version: explicit integer, raised when the code's answer changes.
        config: every setting that the build reads.
        seeds: seeds of its random draws.
        upstream: upstream name (with #part where only a part is read) -> digest.
    """
    return digest_json(
        {
            "asset": asset,
            "partition": partition,
            "code_version": code_version,
            "config": config,
            "seeds": list(seeds),
            "upstream": dict(upstream),
        }
    )
