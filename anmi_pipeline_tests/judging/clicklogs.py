"""Click logs drawn from a position-based model with a known truth."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from anmi_pipeline.judging.click_files import CLICKS


@dataclass(frozen=True)
class Clicked:
    """A log with what it was drawn from: attraction (queries, documents), examination (K,)."""

    log: pl.DataFrame
    attraction: np.ndarray
    examination: np.ndarray


def clicked(queries: int, impressions: int, seed: int, *, documents: int = 12, shown: int = 8, mixing: float = 0.15) -> Clicked:
    """A ranker that half knows the truth shows its list, a little shuffled each time; people click as the model says."""
    rng = np.random.default_rng(seed)
    attraction = rng.beta(1.5, 4.0, size=(queries, documents))
    examination = 1 / np.arange(1, shown + 1) ** 0.8
    ranker = attraction + rng.normal(0, 0.2, size=attraction.shape)
    query = np.repeat(np.arange(queries), impressions)
    scores = ranker[query] + rng.normal(0, mixing, size=(len(query), documents))
    order = np.argsort(-scores, axis=1)[:, :shown]
    hits = rng.random(order.shape) < examination * np.take_along_axis(attraction[query], order, axis=1)
    log = pl.DataFrame(
        {
            "impression": np.repeat(np.arange(len(query)), shown).astype(str),
            "query_id": np.repeat([f"q{number:03}" for number in query], shown),
            "doc_id": [f"d{number:02}" for number in order.ravel()],
            "position": np.tile(np.arange(1, shown + 1), len(query)),
            "clicked": hits.ravel(),
            "dwell_s": np.where(hits.ravel(), 60.0, np.nan),
        }
    ).with_columns(pl.col("dwell_s").fill_nan(None))
    return Clicked(log.select(pl.col(name).cast(dtype) for name, dtype in CLICKS.items()), attraction, examination)
