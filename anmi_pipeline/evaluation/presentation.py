"""What is read off a leaderboard: the winner, the rows as JSON and as a table.

Belongs here: choosing and shaping finished figures. Does not: computing them (`leaderboard.py`) or drawing (`plots.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import polars as pl

from anmi_pipeline.evaluation.config import FALSE_EVIDENCE, PRIMARY_METRIC
from anmi_pipeline.evaluation.leaderboard import Leaderboard

ROW_KEY = ["system", "dataset", "recipe", "variant", "split", "labels"]
CONTROLS = ("placebo",)
"""Systems on the board for comparison only: never served."""
CHOICE_ORDER = ("dev_final", "dev_select", "held_out", "test")
UNMEASURED_CHOICE = ("rrf", "default", "minilm", "bm25")
"""Who is served when nothing is labelled: fusion needs no training and no choice on labels."""


class Figure(TypedDict):
    """One metric of one row."""

    value: float
    low: float
    high: float
    n_queries: int


class BoardRow(TypedDict):
    """One system and variant on one query set; `n_queries` counts the answerable queries, `rank` is the group by nDCG@10."""

    system: str
    dataset: str
    recipe: str
    variant: str
    split: str
    labels: str
    metrics: dict[str, Figure]
    n_queries: int
    seeds: int
    rank: int | None
    checkpoint: str | None
    elo_table: str | None


@dataclass(frozen=True)
class Winner:
    """The system to serve.

    Attributes:
        system: its name; "" when the board knows no system that may be served.
        variant: raw or tuned.
        split: query set it was chosen on; "" without labels.
        value: its nDCG@10 there; None without labels.
        reason: why this one, for people.
    """

    system: str
    variant: str
    split: str
    value: float | None
    reason: str


def unmeasured_winner(board: Leaderboard) -> Winner:
    """Choose without labels, by a fixed order of preference."""
    eligible = [name for name in (*UNMEASURED_CHOICE, *board.systems) if name in board.systems and name not in CONTROLS]
    if not eligible:
        return Winner("", "raw", "", None, "no system on the board may be served")
    reason = f"{board.reason or 'no labelled query set'}; {eligible[0]} is served by the fixed order of preference, unmeasured"
    return Winner(eligible[0], "raw", "", None, reason)


def feasible(board: Leaderboard, candidates: pl.DataFrame, split: str, limit: float) -> pl.DataFrame:
    """Keep the candidates whose false-evidence rate on `split` is at most `limit`; all of them when none qualifies."""
    rates = board.metrics.filter((pl.col("metric") == FALSE_EVIDENCE) & (pl.col("split") == split) & (pl.col("value") <= limit))
    kept = candidates.join(rates.select("system", "variant"), on=["system", "variant"], how="semi")
    return kept if kept.height else candidates


def winner(board: Leaderboard, split: str = "dev_final", max_false_evidence: float | None = None) -> Winner:
    """Choose the system with the highest nDCG@10 on `split`, raw or tuned; raw, then the name, break exact ties.

    Controls (the placebo) never win. Without labels on `split` the next of dev_final, dev_select, held_out, test decides, and the
    reason says so. With `max_false_evidence` the systems that keep it on that split go before those that do not.
    """
    figures = board.metrics.filter((pl.col("metric") == PRIMARY_METRIC) & ~pl.col("system").is_in(CONTROLS))
    present = figures["split"].unique().to_list()
    order = (split, *(name for name in CHOICE_ORDER if name != split))
    chosen = next((name for name in order if name in present), None)
    if chosen is None:
        return unmeasured_winner(board)
    candidates = figures.filter(pl.col("split") == chosen)
    if max_false_evidence is not None:
        candidates = feasible(board, candidates, chosen, max_false_evidence)
    best = candidates.sort(["value", "variant", "system"], descending=[True, False, False]).row(0, named=True)
    reason = f"highest {PRIMARY_METRIC} on {chosen}: {best['value']:.4f} [{best['low']:.4f}, {best['high']:.4f}]"
    if chosen != split:
        reason += f"; {split} has no labels"
    if chosen == "test":
        reason += "; its test figure is therefore optimistic"
    return Winner(best["system"], best["variant"], chosen, best["value"], reason)


def board_rows(board: Leaderboard) -> list[BoardRow]:
    """Gather the board's figures by system, variant and query set; best nDCG@10 first within a set and variant."""
    rows: list[BoardRow] = []
    for _, group in board.metrics.group_by(ROW_KEY, maintain_order=True):
        records = group.sort("metric").to_dicts()
        primary = next((record for record in records if record["metric"] == PRIMARY_METRIC), None)
        head = records[0]
        rows.append(
            BoardRow(
                system=head["system"],
                dataset=head["dataset"],
                recipe=head["recipe"],
                variant=head["variant"],
                split=head["split"],
                labels=head["labels"],
                metrics={
                    r["metric"]: Figure(value=r["value"], low=r["low"], high=r["high"], n_queries=r["n_queries"]) for r in records
                },
                n_queries=primary["n_queries"] if primary else 0,
                seeds=head["seeds"],
                rank=primary["rank"] if primary else None,
                checkpoint=head["checkpoint"],
                elo_table=head["elo_table"],
            )
        )
    return sorted(rows, key=lambda row: (row["split"], row["variant"], -primary_value(row), row["system"]))


def primary_value(row: BoardRow) -> float:
    """Return the row's nDCG@10; -1 when its query set has no answerable query."""
    figure = row["metrics"].get(PRIMARY_METRIC)
    return figure["value"] if figure else -1.0


def rows_json(board: Leaderboard) -> dict[str, object]:
    """Return {"rows": [...], "reason": ...}, ready for JSON; the rows are those of `board_rows`."""
    return {"rows": board_rows(board), "reason": board.reason}


def with_interval(figure: Figure) -> str:
    """Write a figure with its interval.

    >>> with_interval({"value": 0.5123, "low": 0.48, "high": 1.0, "n_queries": 60})
    '.512 [.480, 1.000]'
    """
    value, low, high = (f"{number:.3f}".removeprefix("0") for number in (figure["value"], figure["low"], figure["high"]))
    return f"{value} [{low}, {high}]"


def render_table(
    board: Leaderboard, split: str, metrics: Sequence[str] = (PRIMARY_METRIC,), variant: str = "raw"
) -> list[dict[str, str]]:
    """Return one row of strings per system, best first: rank, system, labels, one column per metric, queries, seeds.

    Empty when `split` has no labels; `board.reason` says so.
    """
    rows: list[dict[str, str]] = []
    for row in board_rows(board):
        if row["split"] != split or row["variant"] != variant:
            continue
        rank = "" if row["rank"] is None else str(row["rank"])
        line = {"rank": rank, "system": row["system"], "labels": row["labels"]}
        line |= {metric: with_interval(row["metrics"][metric]) if metric in row["metrics"] else "" for metric in metrics}
        rows.append(line | {"queries": str(row["n_queries"]), "seeds": str(row["seeds"])})
    return rows
