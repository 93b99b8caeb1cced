"""Plots for people who look rather than read: PNG bytes for asset metadata and MLflow.

Belongs here: drawing with matplotlib's Agg canvas; the same data give the same bytes (no time stamp, no global state). Does not:
computing figures, except the reliability bins that a calibration plot shows.
"""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl

from anmi_pipeline.evaluation.config import PRIMARY_METRIC

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, ACCENT, SECOND = "#22252b", "#8a8f99", "#2f6db5", "#c8602b"
SERIES = (ACCENT, SECOND, "#3d8f5f", "#8357a4", "#a3843a", "#4b9fb3")
CONTROL = "placebo"
DPI = 120


def canvas(title: str, width: float = 7.0, height: float = 4.2, rows: int = 1) -> "tuple[Figure, list[Axes]]":
    """Open a figure with `rows` panels one below the other, without pyplot's global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    figure.suptitle(title, fontsize=11, color=INK, x=0.01, ha="left")
    axes = list(np.atleast_1d(figure.subplots(rows, 1, sharex=True)))
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(MUTED)
        axis.tick_params(colors=INK, labelsize=9)
        axis.grid(axis="y", color="#e6e8ec", linewidth=0.8)
        axis.set_axisbelow(True)
    return figure, axes


def png(figure: "Figure") -> bytes:
    """Render a figure to PNG bytes without the metadata that would change with the version."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def label(axis: "Axes", x: str, y: str) -> None:
    """Name both axes, with units."""
    axis.set_xlabel(x, fontsize=9, color=INK)
    axis.set_ylabel(y, fontsize=9, color=INK)


def empty_plot(title: str, message: str) -> bytes:
    """Draw the reason why there is nothing to draw."""
    figure, (axis,) = canvas(title, height=1.6)
    axis.set_axis_off()
    axis.text(0.5, 0.5, message, ha="center", va="center", fontsize=10, color=MUTED, transform=axis.transAxes)
    return png(figure)


def histogram(values: npt.NDArray[np.float64], title: str, x: str, y: str) -> bytes:
    """Draw a histogram with its median marked."""
    figure, (axis,) = canvas(title)
    axis.hist(values, bins=min(60, max(10, int(np.sqrt(len(values))))), color=ACCENT, edgecolor="white", linewidth=0.4)
    median = float(np.median(values))
    axis.axvline(median, color=SECOND, linewidth=1.4)
    axis.annotate(
        f"median {median:,.0f}",
        (median, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(5, -12),
        textcoords="offset points",
        fontsize=9,
        color=SECOND,
    )
    label(axis, x, y)
    return png(figure)


def elo_histogram(elo: pl.DataFrame) -> bytes:
    """Draw the Elo of every rated document (ELO frame)."""
    if elo.is_empty():
        return empty_plot("Elo scores", "the Elo table is empty")
    title = f"Elo scores: {elo.height:,} documents of {elo['query_id'].n_unique():,} queries"
    return histogram(elo["elo"].to_numpy().astype(np.float64), title, "Elo (points)", "documents")


def standard_error_histogram(elo: pl.DataFrame) -> bytes:
    """Draw the standard error of every rated document (ELO frame)."""
    if elo.is_empty():
        return empty_plot("Standard errors of Elo", "the Elo table is empty")
    values = elo["std_error"].to_numpy().astype(np.float64)
    return histogram(values, "How sure each Elo score is", "standard error (Elo points)", "documents")


def reliability(comparisons: pl.DataFrame, elo: pl.DataFrame, link: str = "probit", bins: int = 10) -> pl.DataFrame:
    """Compare predicted with observed preferences in bins of equal width.

    *Equation*: predicted P(i beats j) = Phi(theta_i - theta_j) for probit theta (Thurstone 1927, case V), 1 / (1 + exp(theta_j -
    theta_i)) for logistic theta. Each comparison is read from the side that is predicted to win, so the range is .5 to 1.

    Args:
        comparisons: COMPARISONS frame.
        elo: ELO frame with theta.
        link: probit or logistic.
        bins: number of bins over .5..1.

    Returns:
        Frame (bin, predicted, observed, weight, n), weighted means, one row per bin that holds comparisons.
    """
    from scipy.special import expit, ndtr

    theta = elo.select("query_id", "doc_id", "theta")
    joined = comparisons.join(theta, left_on=["query_id", "doc_i"], right_on=["query_id", "doc_id"]).join(
        theta, left_on=["query_id", "doc_j"], right_on=["query_id", "doc_id"], suffix="_j"
    )
    gap = (joined["theta"] - joined["theta_j"]).to_numpy()
    predicted = ndtr(np.abs(gap)) if link == "probit" else expit(np.abs(gap))
    preference = joined["preference"].to_numpy()
    observed = np.where(gap >= 0, preference, 1 - preference)
    weights = joined["weight"].to_numpy()
    table = pl.DataFrame(
        {
            "bin": np.minimum((predicted - 0.5) * 2 * bins, bins - 1).astype(np.int64),
            "predicted": predicted * weights,
            "observed": observed * weights,
            "weight": weights,
        }
    )
    summed = table.group_by("bin").agg(pl.col("predicted", "observed", "weight").sum(), pl.len().alias("n")).sort("bin")
    return summed.filter(pl.col("weight") > 0).with_columns(pl.col("predicted", "observed") / pl.col("weight"))


def calibration(comparisons: pl.DataFrame, elo: pl.DataFrame, link: str = "probit") -> bytes:
    """Draw the reliability of the fit: preference predicted by theta differences against the observed one."""
    title = "Does the fit predict the preferences it was made from?"
    bins = reliability(comparisons, elo, link) if comparisons.height and elo.height else pl.DataFrame()
    if bins.is_empty():
        return empty_plot(title, "there are no comparisons")
    figure, (axis,) = canvas(title, width=5.4, height=4.8)
    axis.plot([0.5, 1], [0.5, 1], color=MUTED, linewidth=1, linestyle="--", label="perfect")
    sizes = 20 + 180 * bins["weight"] / bins["weight"].max()
    axis.plot(bins["predicted"], bins["observed"], color=ACCENT, linewidth=1.2)
    axis.scatter(bins["predicted"], bins["observed"], s=sizes.to_numpy(), color=ACCENT, alpha=0.75, label="bins, area = evidence")
    low = min(0.45, float(np.min(bins["observed"].to_numpy())) - 0.05)
    axis.set_xlim(0.49, 1.02)
    axis.set_ylim(low, 1.04)
    axis.legend(frameon=False, fontsize=9, loc="upper left", markerscale=0.6)
    distance = np.abs(bins["predicted"].to_numpy() - bins["observed"].to_numpy())
    error = float(np.average(distance, weights=bins["weight"].to_numpy()))
    axis.text(0.98, 0.04, f"mean error {error:.3f}", transform=axis.transAxes, ha="right", fontsize=9, color=INK)
    label(axis, "predicted preference for the higher score", "observed preference")
    return png(figure)


def reliability_diagram(curves: Mapping[str, pl.DataFrame], title: str, x: str, y: str) -> bytes:
    """Draw predicted probabilities against what came out, one line per source.

    Args:
        curves: name -> frame with predicted, observed (0..1) and n, one row per bin.
        title: the question the picture answers.
        x: what was predicted.
        y: what came out.
    """
    drawn = {name: bins for name, bins in curves.items() if bins.height}
    if not drawn:
        return empty_plot(title, "nothing was held out")
    figure, (axis,) = canvas(title, width=5.4, height=4.8)
    axis.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--", label="perfect")
    most = max(float(np.max(bins["n"].to_numpy())) for bins in drawn.values())
    for colour, (name, bins) in zip(SERIES, drawn.items(), strict=False):
        axis.plot(bins["predicted"], bins["observed"], color=colour, linewidth=1.2, label=name)
        axis.scatter(bins["predicted"], bins["observed"], s=(12 + 120 * bins["n"] / most).to_numpy(), color=colour, alpha=0.6)
    axis.legend(frameon=False, fontsize=9, loc="upper left")
    label(axis, x, y)
    return png(figure)


def degree_histogram(comparisons: pl.DataFrame) -> bytes:
    """Draw how often documents were compared (COMPARISONS frame)."""
    if comparisons.is_empty():
        return empty_plot("Comparisons per document", "there are no comparisons")
    from matplotlib.ticker import MaxNLocator

    sides = [
        comparisons.select("query_id", pl.col(f"doc_{s}").alias("doc_id"), pl.col(f"degree_{s}").alias("degree")) for s in "ij"
    ]
    degrees = pl.concat(sides).unique(["query_id", "doc_id"])
    counts = degrees.group_by("degree").len().sort("degree")
    figure, (axis,) = canvas(f"Comparisons per document: {degrees.height:,} documents", height=3.4)
    axis.bar(counts["degree"], counts["len"], color=ACCENT, width=0.8)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    label(axis, "distinct documents it was compared with", "documents")
    return png(figure)


def training_curves(steps: Sequence[Mapping[str, float]], title: str = "Training") -> bytes:
    """Draw every logged value against the step, one panel each (at most six, in name order, the losses first).

    Args:
        steps: one mapping per logged step with the key "step"; values that are absent from a step leave a gap.
        title: heading.
    """
    names = sorted({name for step in steps for name in step} - {"step"}, key=lambda n: (not n.startswith("loss"), n))[:6]
    if not names:
        return empty_plot(title, "nothing was trained")
    figure, axes = canvas(title, height=1.0 + 1.5 * len(names), rows=len(names))
    for place, (axis, name) in enumerate(zip(axes, names, strict=True)):
        points = [(step["step"], step[name]) for step in steps if name in step]
        axis.plot(*zip(*points, strict=True), color=SERIES[place], linewidth=1.3)
        axis.set_ylabel(name, fontsize=9, color=INK)
    axes[-1].set_xlabel("step", fontsize=9, color=INK)
    return png(figure)


def leaderboard_plot(metrics: pl.DataFrame, split: str, metric: str = PRIMARY_METRIC, variant: str = "raw") -> bytes:
    """Draw systems with their intervals, best on top; controls are hollow (METRICS frame)."""
    title = f"{metric} on {split}"
    rows = metrics.filter((pl.col("split") == split) & (pl.col("metric") == metric) & (pl.col("variant") == variant))
    if rows.is_empty():
        return empty_plot(title, f"no labels for {split}")
    rows = rows.sort(["value", "system"], descending=[False, True])
    first = rows.row(-1, named=True)
    seeds = int(np.max(rows["seeds"].to_numpy()))
    note = f"{variant} settings, {first['n_queries']} queries, up to {seeds} seed(s), {first['labels']} labels, 95 % intervals"
    figure, (axis,) = canvas(title, height=1.3 + 0.38 * rows.height)
    axis.grid(visible=False)
    axis.grid(axis="x", color="#e6e8ec", linewidth=0.8)
    for place, row in enumerate(rows.iter_rows(named=True)):
        face = "white" if row["system"] == CONTROL else ACCENT
        axis.plot([row["low"], row["high"]], [place, place], color=ACCENT, linewidth=2, alpha=0.55, solid_capstyle="butt")
        axis.plot(row["value"], place, "o", markersize=7, markerfacecolor=face, markeredgecolor=ACCENT)
        axis.annotate(
            f"{row['value']:.3f}".removeprefix("0"),
            (row["value"], place),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=INK,
        )
    axis.set_yticks(range(rows.height), rows["system"].to_list())
    axis.set_ylim(-0.6, rows.height - 0.3)
    label(axis, f"{metric}   ({note})", "")
    return png(figure)
