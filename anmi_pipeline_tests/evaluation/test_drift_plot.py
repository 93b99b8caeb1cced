"""The picture of a drift: a PNG, the same bytes for the same drift, words where there is nothing to draw."""

import polars as pl

from anmi_pipeline.evaluation.drift_plot import drift_plot
from anmi_pipeline.rating.drift import DRIFT, Drift

PNG = b"\x89PNG"


def rows(n: int) -> pl.DataFrame:
    return pl.DataFrame(
        [(f"q{k}", 10, 0, 0, 0.9, 0.8, 2.0, 0.5 + k / 10, 0.01 * k) for k in range(n)], schema=DRIFT, orient="row"
    )


def test_a_picture_is_drawn_and_drawn_alike() -> None:
    found = Drift(rows(30), 2, 0)
    assert drift_plot(found, 0.05)[:4] == PNG
    assert drift_plot(found, 0.05) == drift_plot(found, 0.05)
    assert drift_plot(found) != drift_plot(found, 0.05)


def test_no_common_query_is_said_in_words() -> None:
    assert drift_plot(Drift(rows(0), 5, 0))[:4] == PNG
