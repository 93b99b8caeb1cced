"""Digests over canonical content: what makes two artifacts, settings or builds the same.

Belongs here: the canonical byte forms and their sha256. Does not: where the bytes are kept (`store.py`).
"""

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NewType, cast

import numpy as np
import polars as pl
import pyarrow as pa

from anmi_pipeline.errors import ArtifactError, InputError
from anmi_pipeline.table_specs import TableSpec

Digest = NewType("Digest", str)
Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]

CHUNK = 1 << 20


def digest_bytes(data: bytes) -> Digest:
    """sha256 of bytes, hexadecimal."""
    return Digest(hashlib.sha256(data).hexdigest())


def canonical_json(value: Json) -> bytes:
    """JSON with sorted keys, no spaces and no NaN: equal values give equal bytes.

    Raises:
        ArtifactError: a number is NaN or infinite.

    >>> canonical_json({"b": 1, "a": [1.5, None]})
    b'{"a":[1.5,null],"b":1}'
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise ArtifactError(
            f"a figure to be stored is NaN or infinite ({error}): {value!r:.300}. Look for a diverged fit."
        ) from error


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

    Every column is brought to a form without undefined bytes first: Arrow leaves the bytes under a null and the bits behind the
    last boolean undefined, and string views depend on how the strings were made, so the frame's own bytes are not canonical.

    Raises:
        InputError: a column's type has no canonical form.
    """
    ordered = table.select(spec.content).sort([name for name in spec.key if name in spec.content])
    columns = [column for name, dtype in ordered.schema.items() for column in canonical_columns(name, dtype)]
    arrow = cast("pa.Table", ordered.select(columns).rechunk().to_arrow(compat_level=pl.CompatLevel.oldest()))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, arrow.schema) as writer:
        writer.write_table(arrow.combine_chunks())
    hasher = hashlib.sha256(canonical_json([[name, str(dtype)] for name, dtype in ordered.schema.items()]))
    hasher.update(sink.getvalue())
    return Digest(hasher.hexdigest())


def canonical_columns(name: str, dtype: pl.DataType) -> list[pl.Expr]:
    """A column as a mask of its nulls and values without nulls; a list as its elements joined, with their lengths.

    Masks and booleans become whole bytes, negative zero becomes zero, every NaN the same NaN.
    """
    column = pl.col(name)
    mask = column.is_null().cast(pl.UInt8).alias(f"{name}?")
    if isinstance(dtype, pl.List):
        texts = column.cast(pl.List(pl.String()))
        lengths = texts.list.eval(pl.element().str.len_bytes().cast(pl.String()).fill_null("-")).list.join(",")
        return [mask, lengths.fill_null("").alias(f"{name}#"), texts.list.join("", ignore_nulls=True).fill_null("")]
    if dtype.is_float():
        positive = column.fill_null(0.0) + 0.0
        return [mask, pl.when(positive.is_nan()).then(pl.lit(float("nan"), dtype)).otherwise(positive).alias(name)]
    if dtype.is_integer():
        return [mask, column.fill_null(0)]
    if dtype == pl.Boolean:
        return [mask, column.fill_null(value=False).cast(pl.UInt8)]
    if dtype == pl.String:
        return [mask, column.fill_null("")]
    raise InputError(f"column {name} has type {dtype}, which has no canonical form; declare a text, number, boolean or list.")


def digest_safetensors(stream: BinaryIO) -> Digest:
    """sha256 over tensor names, dtypes, shapes and bytes of a safetensors file, whatever its free metadata says.

    Raises:
        ArtifactError: the stream is not safetensors, or was cut off.
    """
    raw = stream.read()
    hasher = hashlib.sha256()
    try:
        (length,) = struct.unpack("<Q", raw[:8])
        header = cast("dict[str, dict[str, Json]]", json.loads(raw[8 : 8 + length]))
        body = memoryview(raw)[8 + length :]
        for name, entry in sorted(header.items()):
            if name != "__metadata__":
                begin, end = cast("tuple[int, int]", entry["data_offsets"])
                if not 0 <= begin <= end <= len(body):
                    raise ValueError(f"tensor {name} lies outside the file")
                hasher.update(canonical_json([name, entry["dtype"], entry["shape"]]))
                hasher.update(body[begin:end])
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"weights are not a safetensors file ({error}); train or fetch the checkpoint again.") from error
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
