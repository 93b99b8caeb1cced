"""Markdown for the UI: nothing that a document says may act, small things stay small."""

import html
import re
from urllib.parse import unquote

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anmi_pipeline.defs.markdown import INLINE, escape_markdown, histogram_image, markdown_table, png_image


@given(st.text())
def test_a_cell_is_one_line_without_markup(text: str) -> None:
    cell = escape_markdown(text)
    assert "\n" not in cell
    assert not re.search(r"[<>]", cell)
    assert not re.search(r"(?<!\\)(?:\\\\)*[|`*_\[\]!~]", cell)


@given(st.text(alphabet="ab|`*_[]!~\\<>& ", max_size=20))
def test_a_cell_reads_as_the_text(text: str) -> None:
    assert html.unescape(re.sub(r"\\(.)", r"\1", escape_markdown(text))) == " ".join(text.split())


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), min_size=1, max_size=5))
def test_every_row_of_a_table_has_every_column(rows: list[tuple[str, str]]) -> None:
    lines = markdown_table([{"a": first, "b": second} for first, second in rows]).split("\n")
    assert len(lines) == len(rows) + 2
    assert all(len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 3 for line in lines)


def test_rows_of_unlike_types_make_one_table() -> None:
    assert markdown_table([{"measure": "step", "seed 0": 300}, {"measure": "loss", "seed 0": 0.25, "seed 1": None}]) == (
        "| measure | seed 0 | seed 1 |\n| --- | --- | --- |\n| step | 300 |  |\n| loss | 0.25 |  |"
    )
    assert markdown_table([]) == ""


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300))
def test_a_histogram_is_drawn_in_place(values: list[float]) -> None:
    image = histogram_image("Elo", pl.Series(values))
    assert len(image) < INLINE
    svg = unquote(image.removeprefix("![Elo](data:image/svg+xml,").removesuffix(")"))
    heights = [int(step) for step in re.findall(r"V(-?\d+)h", svg)]
    assert len(heights) == 30
    assert min(heights) == 0
    assert f"median {np.median(values):,.0f}" in svg


def test_a_histogram_of_nothing_is_nothing() -> None:
    assert histogram_image("Elo", pl.Series([None, None], dtype=pl.Float64)) == ""


@pytest.mark.parametrize("title", ["x](javascript:alert)", "<img>"])
def test_titles_of_pictures_cannot_break_out(title: str) -> None:
    assert re.fullmatch(r"!\[(?:[^\[\]<>]|\\[\[\]])*\]\(data:image/png;base64,[A-Za-z0-9+/=]+\)", png_image(title, b"png"))
