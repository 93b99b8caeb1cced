"""Equal content gives one digest however it was made; any change of content gives another."""

import io
import json
import struct

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anmi_pipeline.digests import (
    build_key,
    canonical_json,
    digest_array,
    digest_bytes,
    digest_file,
    digest_json,
    digest_safetensors,
    digest_stream,
    digest_table,
)
from anmi_pipeline.errors import ArtifactError, InputError
from anmi_pipeline.table_specs import BOOL, FLOAT, INT, TEXT, Column, TableSpec
from anmi_pipeline_tests.foundation.made import SPEC, tensors

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
CELLS = {
    "count": st.none() | st.integers(-(2**63), 2**63 - 1),
    "share": st.none() | st.floats(allow_nan=True, allow_infinity=True),
    "flag": st.none() | st.booleans(),
    "text": st.none() | TEXTS,
    "names": st.none() | st.lists(st.none() | TEXTS, max_size=3),
}


@st.composite
def tables(draw: st.DrawFn, min_rows: int = 0) -> pl.DataFrame:
    """A table of SPEC."""
    keys = draw(st.lists(TEXTS, min_size=min_rows, max_size=12, unique=True))
    return frame([{"key": key, **{name: draw(cell) for name, cell in CELLS.items()}, "seconds": 1.0} for key in keys])


def frame(rows: list[dict[str, object]]) -> pl.DataFrame:
    """Rows of SPEC in the order given."""
    return pl.DataFrame(rows, schema=SPEC.schema)


def digest(table: pl.DataFrame) -> str:
    return digest_table(table, SPEC)


def through_parquet(table: pl.DataFrame) -> pl.DataFrame:
    sink = io.BytesIO()
    table.write_parquet(sink, compression="zstd")
    return pl.read_parquet(io.BytesIO(sink.getvalue()))


@settings(max_examples=60, deadline=None)
@given(table=tables(), seed=st.integers(0, 2**32 - 1), cut=st.integers(0, 12))
def test_equal_rows_give_one_digest_however_they_are_held(table: pl.DataFrame, seed: int, cut: int) -> None:
    expected = digest(table)
    shuffled = table.sample(fraction=1.0, shuffle=True, seed=seed)
    assert digest(shuffled) == expected
    assert digest(shuffled.select(sorted(table.columns))) == expected, "column order"
    assert digest(pl.concat([table.head(cut), table.slice(cut)], rechunk=False)) == expected, "chunks"
    doubled = pl.concat([table, table])
    assert digest(doubled.head(table.height)) == expected, "a slice from the front"
    assert digest(doubled.slice(table.height)) == expected, "a slice from the back"
    assert digest(through_parquet(table)) == expected, "parquet"
    for level in (pl.CompatLevel.oldest(), pl.CompatLevel.newest()):
        assert digest(pl.DataFrame(table.to_arrow(compat_level=level))) == expected, "Arrow strings and string views"


@settings(max_examples=40, deadline=None)
@given(table=tables(min_rows=1), data=st.data())
def test_a_changed_cell_moves_the_digest(table: pl.DataFrame, data: st.DataObject) -> None:
    rows = table.to_dicts()
    row = data.draw(st.sampled_from(rows))
    name = data.draw(st.sampled_from(sorted(CELLS)))
    old = row[name]
    row[name] = data.draw(CELLS[name].filter(lambda value: not same(value, old)))
    assert digest(frame(rows)) != digest(table)


def same(left: object, right: object) -> bool:
    """Equal as content: zeros of either sign are one, and so are NaNs; null equals null alone."""
    if isinstance(left, float) and isinstance(right, float) and np.isnan(left) and np.isnan(right):
        return True
    return left == right


def test_what_lies_under_a_null_does_not_count() -> None:
    rows = [
        {"key": str(i), "count": i, "share": i / 7, "flag": True, "text": f"text {i}" * 3, "names": [str(i)]} for i in range(20)
    ]
    hidden = frame(rows).with_columns(
        pl.when(pl.col("key").str.len_chars() == 2).then(None).otherwise(pl.col(name)).alias(name) for name in CELLS
    )
    plain = frame([row if len(str(row["key"])) == 1 else {"key": row["key"]} for row in rows])
    assert digest(hidden) == digest(plain)
    garbage = pa.Array.from_buffers(pa.int64(), 2, [pa.py_buffer(b"\x01"), pa.py_buffer(struct.pack("<qq", 5, 999))])
    given = frame([{"key": "a", "count": 5}, {"key": "b"}])
    assert digest(given.with_columns(pl.Series("count", garbage))) == digest(given)


def test_zeros_and_nans_have_one_form() -> None:
    def shares(*bits: bytes) -> str:
        values = np.frombuffer(b"".join(bits), dtype="<f8")
        return digest(frame([{"key": str(i)} for i in range(len(values))]).with_columns(pl.Series("share", values)))

    assert shares(struct.pack("<d", -0.0)) == shares(struct.pack("<d", 0.0))
    assert shares(b"\x00\x00\x00\x00\x00\x00\xf8\x7f") == shares(b"\x01\x00\x00\x00\x00\x00\xf8\xff")


def test_boolean_bits_behind_the_last_row_do_not_count() -> None:
    bits = pl.DataFrame(pa.table({"flag": pa.Array.from_buffers(pa.bool_(), 3, [None, pa.py_buffer(b"\xfd")])}))
    three = frame([{"key": k} for k in "abc"]).with_columns(bits["flag"])
    assert three["flag"].to_list() == [True, False, True]
    assert digest(three) == digest(frame([{"key": "a", "flag": True}, {"key": "b", "flag": False}, {"key": "c", "flag": True}]))


def test_lists_that_look_alike_when_joined_differ() -> None:
    lists = [None, [], [""], ["", ""], [None], ["a", "b"], ["ab"], ["a\x1fb"], ["a,b"], ["a", None, "b"], ["1", "2"], ["-"]]
    assert len({digest(frame([{"key": "k", "names": names}])) for names in lists}) == len(lists)
    assert digest(frame([{"key": "k", "text": None}])) != digest(frame([{"key": "k", "text": ""}]))


def test_an_incidental_column_does_not_count() -> None:
    assert digest(frame([{"key": "k", "seconds": 1.0}])) == digest(frame([{"key": "k", "seconds": 2.0}]))


def test_empty_tables_are_one_and_differ_from_a_table_of_nulls() -> None:
    empties = [
        SPEC.frame(),
        frame([{"key": "k"}]).clear(),
        frame([{"key": "k"}]).filter(pl.col("key") == ""),
        pl.concat([SPEC.frame()] * 2),
    ]
    assert len({digest(table) for table in empties}) == 1
    assert digest(empties[0]) != digest(frame([{"key": "k"}]))


def test_names_and_types_of_columns_count() -> None:
    def one(name: str, dtype: pl.DataType, value: object) -> str:
        spec = TableSpec("one", ("k",), (Column("k", TEXT, ""), Column(name, dtype, "")))
        return digest_table(pl.DataFrame({"k": ["x"], name: [value]}, schema=spec.schema), spec)

    digests = {
        one("a", INT, 1),
        one("b", INT, 1),
        one("a", FLOAT, 1.0),
        one("a", BOOL, True),
        one("a", pl.UInt8(), 1),
        one("a", pl.Int32(), 1),
        one("a", pl.Float32(), 1.0),
        one("a", TEXT, "1"),
        one("a", pl.List(pl.String()), ["1"]),
        one("a", pl.List(pl.Int64()), [1]),
    }
    assert len(digests) == 10


def test_a_type_without_canonical_form_is_refused() -> None:
    spec = TableSpec("dated", ("k",), (Column("k", TEXT, ""), Column("day", pl.Date(), "")))
    with pytest.raises(InputError, match=r"column day has type Date"):
        digest_table(pl.DataFrame(schema=spec.schema), spec)


GOLDEN_TABLE = "6e08afa4284310851b0fc0edcbceacbde0f144b35fafa97261a632d35e42f17d"
GOLDEN_KEY = "dcc00a78d8ed7a5da786a48306a8461a1a9186e1418558b05a2ce861a6a4f01e"
GOLDEN_WEIGHTS = "d1a8268442a2217104fd17bc8e2cb236e6b61dd56140285d9321887a8d14b943"


def test_golden_digests() -> None:
    """These literals are what stores on disk hold: when one moves, old stores no longer verify. Say so in CHANGELOG.md."""
    table = frame(
        [
            {"key": "b", "count": -1, "share": 0.1, "flag": False, "text": "größer", "names": ["x", "y"], "seconds": 9.0},
            {"key": "a", "count": 2**40, "share": -0.0, "flag": True, "text": "", "names": []},
            {"key": "c"},
        ]
    )
    assert digest(table) == GOLDEN_TABLE
    upstream = {"corpus": digest_bytes(b"c"), "queries#train": digest_bytes(b"q")}
    config = {"k1": 1.5, "stemmer": "english", "run": None, "weights": [1, 2.5], "nested": {"b": True, "a": "é"}}
    assert build_key("lexical_run", "stdlib|anmi", 3, config, [0, 1], upstream) == GOLDEN_KEY
    assert digest_safetensors(io.BytesIO(tensors({"w": [1.0, -2.5], "b": [0.0]}))) == GOLDEN_WEIGHTS


def test_a_build_key_moves_with_each_of_its_parts() -> None:
    base = ("elo_table", "stdlib", 1, {"a": 1}, [0], {"x": "1"})
    changed = [("elo", *base[1:]), (base[0], "s", *base[2:]), (*base[:2], 2, *base[3:]), (*base[:3], {"a": 2}, *base[4:])]
    changed += [(*base[:4], [1], base[5]), (*base[:5], {"x": "2"}), (*base[:5], {"y": "1"}), (*base[:5], {"x": "1", "y": "1"})]
    assert len({build_key(*args) for args in [base, *changed]}) == 9
    assert build_key(*base[:3], {"b": 1, "a": 2}, (0,), {"y": "1", "x": "2"}) == build_key(
        *base[:3], {"a": 2, "b": 1}, [0], {"x": "2", "y": "1"}
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(value=JSON)
def test_canonical_json_survives_reading_back(value: object) -> None:
    data = canonical_json(value)
    assert canonical_json(json.loads(data)) == data
    assert digest_json(value) == digest_bytes(data)


def test_canonical_json_has_no_nan() -> None:
    for number in (float("nan"), float("inf")):
        with pytest.raises(ArtifactError, match="NaN or infinite"):
            canonical_json({"loss": number})


def test_weights_digest_ignores_metadata_and_sees_a_flipped_weight() -> None:
    plain = tensors({"w": [1.0, 2.0], "b": [3.0]})
    noted = tensors({"b": [3.0], "w": [1.0, 2.0]}, {"framework": "pt", "saved": "today"})
    assert plain != noted
    expected = digest_safetensors(io.BytesIO(plain))
    assert digest_safetensors(io.BytesIO(noted)) == expected
    start = 8 + struct.unpack("<Q", plain[:8])[0]
    for place in range(start, len(plain)):
        flipped = bytearray(plain)
        flipped[place] ^= 1
        assert digest_safetensors(io.BytesIO(bytes(flipped))) != expected
    assert digest_safetensors(io.BytesIO(tensors({"w": [1.0, 2.0], "c": [3.0]}))) != expected


def test_weights_digest_does_not_depend_on_the_order_of_tensors_in_the_file() -> None:
    def file(order: str) -> bytes:
        bodies = {"a": b"\x00\x00\x80?", "b": b"\x00\x00\x00@"}
        header, body = {}, b""
        for name in order:
            header[name] = {"dtype": "F32", "shape": [1], "data_offsets": [len(body), len(body) + 4]}
            body += bodies[name]
        head = json.dumps(header).encode()
        return struct.pack("<Q", len(head)) + head + body

    assert digest_safetensors(io.BytesIO(file("ab"))) == digest_safetensors(io.BytesIO(file("ba")))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"abc",
        b"\xff" * 40,
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 8) + b'{"w": 1}',
        struct.pack("<Q", 9) + b'{"w": {}}',
        tensors({"w": [1.0]})[:-1],
    ],
)
def test_weights_that_are_not_safetensors_are_refused(data: bytes) -> None:
    with pytest.raises(ArtifactError, match="not a safetensors file"):
        digest_safetensors(io.BytesIO(data))


def test_array_digest_sees_type_shape_and_values_not_layout(rng: np.random.Generator) -> None:
    array = rng.normal(size=(4, 6)).astype(np.float32)
    expected = digest_array(array)
    assert digest_array(np.asfortranarray(array)) == expected
    assert digest_array(np.repeat(array, 2, axis=1)[:, ::2]) == expected
    others = [array.reshape(6, 4), array.astype(np.float64), array.T, array + 1]
    assert len({expected, *(digest_array(other) for other in others)}) == 5


def test_file_and_stream_digest_are_the_sha256_of_the_bytes(tmp_path) -> None:
    data = bytes(range(256)) * 9000
    (tmp_path / "f").write_bytes(data)
    assert digest_file(tmp_path / "f") == digest_stream(io.BytesIO(data)) == digest_bytes(data)
    assert digest_bytes(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
