"""Issue 3, aim: relevance from 3 recorded UMBRELA grades a query: ECE <= .05 against NIST grade >= 2, and better than raw Elo.

The compared passages of TREC DL 2019 (43 queries). Anchors: GPT-4o's UMBRELA grades of 3 passages a query. The assessors' grades
of the other folds' queries teach the shared steps; each query is predicted without any of its own. Raw Elo: theta through one
global logistic function, fitted to the same grades of the same folds. Means over 5 splits into 5 folds by query. An aim: the exit
code is 1 only when the figures cannot be computed. About two minutes.
"""

import sys
from dataclasses import fields

import dl19
import numpy as np
import polars as pl
from harness import Figures, arguments, at_least, at_most, bootstrap, data_root
from scipy.special import expit

from anmi_pipeline.rating.anchors import STRATEGIES, choose_anchors
from anmi_pipeline.rating.calibration import CalibrationConfig, CalibrationReport, calibrate
from anmi_pipeline.rating.offsets import Graded, levels, posterior, predict
from anmi_pipeline.rating.reliability import Reliability, calibration_error

PER_QUERY, SPLITS, FEWER = 3, 5, 2
RELEVANT = 2
SHOWN = {
    "ece": "ECE, 10 bins of equal mass", "ece_width": "ECE, 10 bins of equal width", "brier": "Brier score",
    "log_loss": "log-loss", "query_gap": "mean over queries of |mean probability - share relevant|",
}  # fmt: skip


class Collection:
    """Elo of the compared passages and both kinds of grades."""

    def __init__(self) -> None:
        """Read and fit."""
        root = data_root()
        recorded = dl19.games(root)
        self.elo = dl19.fitted(dl19.comparisons(recorded), dl19.documents(recorded))
        self.labels = dl19.graded(self.elo, dl19.nist(root))
        self.umbrela = {model: dl19.graded(self.elo, dl19.umbrela(root, model)) for model in ("gpt-4o", "gpt-4")}

    def anchors(self, grades: pl.DataFrame, **choice: object) -> pl.DataFrame:
        """Anchors with their grades."""
        chosen = choose_anchors(self.elo, PER_QUERY, **choice)
        return grades.join(chosen, on=dl19.DOCUMENT, how="semi")

    def reports(self, anchors: pl.DataFrame, splits: int = SPLITS, **settings: object) -> list[CalibrationReport]:
        """Calibrate with several splits into folds."""
        values = {"relevant_from": RELEVANT, **settings}
        configs = [CalibrationConfig.model_validate({**values, "seed": seed}) for seed in range(splits)]
        return [calibrate(self.elo, anchors, config, labels=self.labels)[1] for config in configs]


def mean(found: list[Reliability]) -> dict[str, float]:
    """Mean of every figure over splits."""
    return {field.name: float(np.mean([getattr(one, field.name) for one in found])) for field in fields(Reliability)}


def both(reports: list[CalibrationReport]) -> tuple[dict[str, float], dict[str, float]]:
    """Figures of relevance and of raw Elo."""
    sides = [[getattr(report, side) for report in reports] for side in ("reliability", "raw")]
    if any(one is None for side in sides for one in side):
        raise RuntimeError("the calibration could not be cross-validated")
    return mean(sides[0]), mean(sides[1])


def brier_gain(report: CalibrationReport) -> np.ndarray:
    """(queries,) mean squared error of raw Elo minus that of relevance."""
    error = {name: (pl.col(name) - pl.col("outcome")) ** 2 for name in ("raw", "relevance")}
    return (
        report.predictions.group_by("query_id").agg(gain=(error["raw"] - error["relevance"]).mean()).sort("query_id")["gain"]
    ).to_numpy()


def model_floor(data: Collection, anchors: pl.DataFrame, report: CalibrationReport, draws: int = 200) -> float:
    """Mean ECE of the fitted model if it were exactly right: bars of the queries and outcomes drawn from it."""
    level, first = report.label_level, report.anchor_level
    if level is None or first is None:
        raise RuntimeError("the calibration was not fitted to labels")
    rows = data.elo.sort(dl19.DOCUMENT)
    x = rows["theta"].to_numpy() / rows["theta"].to_numpy().std()
    query = rows["query_id"].rank("dense").to_numpy().astype(int) - 1
    graded = rows.with_row_index("row").join(anchors, on=dl19.DOCUMENT).sort("row")
    at = graded["row"].to_numpy().astype(int)
    queries = query.max() + 1
    seen = Graded(x[at], (graded["grade"].to_numpy() >= RELEVANT).astype(float), query[at], np.zeros(queries))
    known = levels(first, posterior(first, seen))
    p = predict(level, posterior(level, Graded(x[:0], x[:0], query[:0], known)), x, query, known)
    rng, found = np.random.default_rng(0), []
    for _ in range(draws):
        bar = level.intercept + level.gain * known + level.offset_sd * rng.normal(size=queries)
        slope = level.slope * np.exp(level.slope_spread * rng.normal(size=queries))
        found.append(calibration_error(p, (rng.random(len(x)) < expit(bar[query] + slope[query] * x)).astype(float)))
    return float(np.mean(found))


def level_agreement(data: Collection, grades: pl.DataFrame) -> float:
    """Correlation over queries of the share relevant by all of a model's grades with that by the assessors' grades."""
    shares = [
        frame.group_by("query_id").agg(share=(pl.col("grade") >= RELEVANT).mean()).sort("query_id")["share"].to_numpy()
        for frame in (grades, data.labels)
    ]
    return float(np.corrcoef(shares[0], shares[1])[0, 1])


def headline(figures: Figures, data: Collection) -> bool:
    """The aim's own figures."""
    anchors = data.anchors(data.umbrela["gpt-4o"])
    reports = data.reports(anchors)
    ours, raw = both(reports)
    seeds = f"0-{SPLITS - 1}"
    detail = f"{ours['rows']:.0f} passages, {anchors.height} anchors, last step {reports[0].final}"
    reached = figures.check(SHOWN["ece"], ours["ece"], at_most(0.05), seed=seeds, detail=detail)
    figures.note("the same of raw Elo through one logistic function", raw["ece"], seed=seeds)
    for name in ("ece", "brier", "log_loss", "query_gap"):
        gain = raw[name] - ours[name]
        better = figures.check(f"raw Elo minus relevance: {SHOWN[name]}", gain, at_least(0.0), seed=seeds)
        reached = reached and (better or name != "ece")
    figures.note(SHOWN["ece_width"], ours["ece_width"], seed=seeds, detail=f"raw Elo {raw['ece_width']:.4f}")
    figures.say(f"Brier gain over raw Elo, mean over queries, 95 % interval: {bootstrap(brier_gain(reports[0]))}")
    figures.note(
        "ECE by chance of right probabilities, passages independent", ours["floor"], detail=f"raw Elo {raw['floor']:.4f}"
    )
    figures.note(
        "ECE by chance if the fitted model were right, 43 queries with bars of their own", model_floor(data, anchors, reports[0])
    )
    return reached


def beside(figures: Figures, data: Collection) -> None:
    """What the anchors could do: other choices, other judges, the assessors themselves, no labels."""
    sources = {"UMBRELA gpt-4o": data.umbrela["gpt-4o"], "UMBRELA gpt-4": data.umbrela["gpt-4"], "NIST": data.labels}
    for name, grades in sources.items():
        agreement = level_agreement(data, grades)
        figures.note(f"{name}: correlation of the shares relevant per query with NIST's, all grades", agreement)
        for strategy in STRATEGIES:
            rng = np.random.default_rng(0) if strategy == "random" else None
            ours, _ = both(data.reports(data.anchors(grades, strategy=strategy, rng=rng), FEWER))
            detail = f"ECE {ours['ece']:.4f}, log-loss {ours['log_loss']:.4f}, query gap {ours['query_gap']:.4f}"
            figures.note(f"{name}, {strategy} anchors: Brier score", ours["brier"], seed=f"0-{FEWER - 1}", detail=detail)
    line, _ = both(data.reports(data.anchors(data.umbrela["gpt-4o"]), FEWER, final="line"))
    figures.note("ECE with a line as the last step", line["ece"], seed=f"0-{FEWER - 1}", detail=f"Brier {line['brier']:.4f}")
    alone, _ = calibrate(data.elo, data.anchors(data.umbrela["gpt-4o"]), CalibrationConfig(relevant_from=RELEVANT))
    rows = alone.join(data.labels, on=dl19.DOCUMENT)
    p, y = rows["relevance"].to_numpy(), (rows["grade"].to_numpy() >= RELEVANT).astype(float)
    detail = f"mean relevance {p.mean():.3f}, share relevant {y.mean():.3f}"
    figures.note("ECE against NIST from the anchors alone, no assessor's grade used", calibration_error(p, y), detail=detail)


def main() -> int:
    """Calibrate and measure."""
    arguments(__doc__ or "")
    figures = Figures("3.10 calibration (aim)")
    data = Collection()
    reached = headline(figures, data)
    beside(figures, data)
    figures.say("the aim is reached" if reached else "the aim is not reached in full")
    figures.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
