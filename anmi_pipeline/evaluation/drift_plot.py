"""The picture of a drift between two Elo tables.

Belongs here: drawing. Does not: the measures (`rating/drift.py`).
"""

import numpy as np

from anmi_pipeline.evaluation.plots import ACCENT, INK, SECOND, canvas, empty_plot, label, png
from anmi_pipeline.rating.drift import Drift


def drift_plot(found: Drift, retrain_above: float | None = None) -> bytes:
    """Draw every query's loss against how far its scores changed: a cloud in the lower left is noise, queries on top have moved.

    Args:
        found: the drift.
        retrain_above: threshold of the mean loss, drawn as a line; None: not drawn.

    Returns:
        PNG.
    """
    rows = found.queries.drop_nulls(["mean_change", "loss"])
    title = f"Did the Elo table move? {found.queries.height:,} queries of both tables, {found.new_queries:,} new"
    if rows.is_empty():
        return empty_plot(title, "no query is in both tables")
    figure, (axis,) = canvas(title)
    axis.scatter(rows["mean_change"], rows["loss"], s=14, color=ACCENT, alpha=0.5, edgecolors="none", label="queries")
    axis.axhline(found.moved, color=ACCENT, linewidth=1.4, label=f"mean {found.moved:.3f}")
    if retrain_above is not None:
        axis.axhline(retrain_above, color=SECOND, linewidth=1.2, linestyle="--", label=f"threshold {retrain_above:.3f}")
    axis.set_ylim(-0.01, max(0.1, float(np.max(rows["loss"].to_numpy())) * 1.08))
    axis.legend(frameon=False, fontsize=9, labelcolor=INK)
    label(axis, "mean change of a score (standard errors of the difference)", "nDCG@10 that the old ranking loses")
    return png(figure)
