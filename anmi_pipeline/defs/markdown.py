"""Small tables and pictures as Markdown, the form in which the Dagster UI shows more than a number.

Belongs here: shaping and escaping. Does not: what is worth showing (`presentation.py`). The UI draws Markdown of less than 1,000
characters in place and hides longer text behind "[Show Markdown]".
"""

import base64
from collections.abc import Mapping, Sequence
from urllib.parse import quote

import numpy as np
import polars as pl

INLINE = 1000
"""Characters below which the UI shows Markdown in place."""
BINS, BIN_WIDTH, HEIGHT, FOOT = 30, 12, 90, 16
INK, BAR = "%235b6270", "%232f6db5"
SAFE = "/:=,';%"
"""Characters of an SVG that may stand in a data URI; the colours above are encoded already."""
SPECIAL = ("\\", "|", "`", "*", "_", "[", "]", "!", "~")


def markdown_table(rows: pl.DataFrame | Sequence[Mapping[str, object]]) -> str:
    """A few rows as a Markdown table, with the characters that would break or inject escaped; "" without rows."""
    frame = rows if isinstance(rows, pl.DataFrame) else pl.DataFrame(list(rows), infer_schema_length=None, strict=False)
    if frame.is_empty():
        return ""
    head = "| " + " | ".join(escape_markdown(name) for name in frame.columns) + " |"
    rule = "|" + " --- |" * frame.width
    lines = ["| " + " | ".join(escape_markdown(value) for value in row) + " |" for row in frame.iter_rows()]
    return "\n".join([head, rule, *lines])


def escape_markdown(value: object) -> str:
    r"""A cell's text: floats to 4 digits, and no character that Markdown or HTML would act on.

    >>> print(escape_markdown("<b>|x"), escape_markdown(0.123456), escape_markdown(74077.75))
    &lt;b&gt;\|x 0.1235 74078
    """
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    text = "" if value is None else str(value)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for character in SPECIAL:
        text = text.replace(character, "\\" + character)
    return " ".join(text.split())


def png_image(title: str, data: bytes) -> str:
    """A PNG inside the Markdown itself: the UI fetches nothing."""
    return f"![{escape_markdown(title)}](data:image/png;base64,{base64.b64encode(data).decode()})"


def histogram_image(title: str, values: pl.Series) -> str:
    """A histogram small enough to be drawn in place: an SVG of stepped bars with the range and the median below.

    >>> len(histogram_image("Elo", pl.Series([1400.0, 1500.0, 1600.0]))) < INLINE
    True
    """
    numbers = values.drop_nulls().to_numpy()
    if not len(numbers):
        return ""
    if np.spacing(np.abs(numbers).max()) * BINS > np.ptp(numbers):
        numbers = np.full(len(numbers), numbers[0])  # too close together for so many bins: one value
    counts, edges = np.histogram(numbers, bins=BINS)
    heights = np.round(counts * HEIGHT / counts.max()).astype(int)
    steps = "".join(f"V{HEIGHT - height}h{BIN_WIDTH}" for height in heights)
    width = BINS * BIN_WIDTH
    labels = (
        (0, "start", f"{edges[0]:,.0f}"),
        (width // 2, "middle", f"median {np.median(numbers):,.0f}"),
        (width, "end", f"{edges[-1]:,.0f}"),
    )
    below = HEIGHT + FOOT - 3
    texts = "".join(f"<text x='{x}' y='{below}' text-anchor='{anchor}'>{label}</text>" for x, anchor, label in labels)
    box = f"0,0,{width},{HEIGHT + FOOT}"
    style = f"font-family='sans-serif' font-size='12' fill='{INK}'"
    drawn = f"<path fill='{BAR}' d='M0,{HEIGHT}{steps}V{HEIGHT}z'/><g {style}>{texts}</g>"
    size = f"width='{width}' height='{HEIGHT + FOOT}'"
    svg = f"<svg xmlns='http://www.w3.org/2000/svg' {size} viewBox='{box}'>{drawn}</svg>"
    address = quote(svg, safe=SAFE)
    return f"![{escape_markdown(title)}](data:image/svg+xml,{address})"
