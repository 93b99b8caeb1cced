"""Drift: how far an Elo table has moved from an earlier one, and whether judges who were asked again agree with themselves.

Belongs here: the measures by query, their summary, agreement of verdicts asked twice. Does not: what is done about
it (`defs/sensors.py`), and what a refresh bought (`judging/refreshing.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import polars as pl

from anmi_pipeline.digests import Json
from anmi_pipeline.rating.graphs import Floats, Ints

TOP = 10
"""Cut-off of the overlap and of the loss."""
MOVED_LOSS = 0.01
"""Loss of nDCG@10 above which a query is counted as moved."""
Z95 = 1.959963984540054
CALL = ["query_id", "first_id", "second_id", "judge", "round", "list"]
DRIFT = {
    "query_id": pl.String(),
    "documents": pl.Int64(),
    "new_documents": pl.Int64(),
    "gone_documents": pl.Int64(),
    "tau": pl.Float64(),
    "overlap": pl.Float64(),
    "max_change": pl.Float64(),
    "mean_change": pl.Float64(),
    "loss": pl.Float64(),
}
"""Columns of the drift by query: documents now, those that came and went, Kendall's tau and the changes over documents of both
tables (null below two of them), share of the old top 10 that is in the new one, loss (`top_loss`)."""
AGREEMENT = {
    "judge": pl.String(),
    "asked_again": pl.Int64(),
    "agree": pl.Float64(),
    "low": pl.Float64(),
    "high": pl.Float64(),
    "mean_change": pl.Float64(),
}
"""Columns of the agreement by judge: verdicts answered both times, share with the same winner and its 95 % interval (Wilson),
mean |p_first now - p_first before|."""


@dataclass(frozen=True)
class Drift:
    """How far one Elo table has moved from another.

    Attributes:
        queries: frame of DRIFT, the queries of both tables.
        new_queries: queries of the new table alone.
        gone_queries: queries of the old table alone.
    """

    queries: pl.DataFrame
    new_queries: int
    gone_queries: int

    @property
    def moved(self) -> float:
        """Mean loss over the queries of both tables: what `judging.refresh.retrain_above` is compared with. 0 without any."""
        return float(cast("float | None", self.queries["loss"].mean()) or 0.0)

    @property
    def new_share(self) -> float:
        """Share of the new table's queries that the old one did not have; 1 when it had none of them."""
        now = self.queries.height + self.new_queries
        return self.new_queries / now if now else 0.0

    @property
    def moved_share(self) -> float:
        """Share of the queries of both tables that lose more than MOVED_LOSS."""
        losses = self.queries["loss"]
        return float((losses > MOVED_LOSS).sum()) / losses.len() if losses.len() else 0.0

    def facts(self) -> dict[str, Json]:
        """Every figure of the whole, by name."""
        rows = self.queries
        means = {name: cast("float | None", rows[name].mean()) for name in ("tau", "overlap", "mean_change")}
        return {
            "moved": self.moved,
            "moved_share": self.moved_share,
            "queries": rows.height,
            "new_queries": self.new_queries,
            "gone_queries": self.gone_queries,
            "new_documents": int(rows["new_documents"].sum()),
            "gone_documents": int(rows["gone_documents"].sum()),
            "max_change": cast("float | None", rows["max_change"].max()),
            **means,
        }

    def rows(self) -> list[dict[str, object]]:
        """The same for people, one line per figure."""
        facts = self.facts()
        said = {
            "moved": "nDCG@10 that the old ranking loses under the new Elo, mean over queries",
            "moved_share": f"share of queries that lose more than {MOVED_LOSS}",
            "tau": "Kendall's tau of old and new scores, mean over queries",
            "overlap": "share of the old top 10 that is in the new one, mean over queries",
            "mean_change": "change of a score in standard errors of the difference, mean",
            "max_change": "the largest such change",
            "queries": "queries compared",
            "new_queries": "new queries",
            "gone_queries": "queries that are gone",
            "new_documents": "new documents in known queries",
            "gone_documents": "documents gone from known queries",
        }
        return [{"what": text, "value": shown(facts[name])} for name, text in said.items()]


def shown(value: Json) -> str:
    """A figure for people."""
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else "-"


def drift(old: pl.DataFrame, new: pl.DataFrame) -> Drift:
    """Compare two Elo tables query by query.

    Args:
        old: ELO frame.
        new: ELO frame.
    """
    columns = ["query_id", "doc_id", "theta", "elo", "std_error", "rank"]
    queries = [set(table["query_id"].unique()) for table in (old, new)]
    both = sorted(queries[0] & queries[1])
    old_rows, new_rows = (by_query(table.select(columns), both) for table in (old, new))
    rows = [compare(query, old_rows[query], new_rows[query]) for query in both]
    frame = pl.DataFrame(rows, schema=DRIFT, orient="row") if rows else pl.DataFrame(schema=DRIFT)
    return Drift(frame, len(queries[1] - queries[0]), len(queries[0] - queries[1]))


def by_query(table: pl.DataFrame, queries: Sequence[str]) -> dict[str, pl.DataFrame]:
    """The rows of each query, best first."""
    known = table.filter(pl.col("query_id").is_in(list(queries))).sort("query_id", "rank", "doc_id")
    return {str(query): own for (query,), own in known.partition_by("query_id", as_dict=True).items()}


def compare(query: str, old: pl.DataFrame, new: pl.DataFrame) -> tuple[object, ...]:
    """One row of DRIFT."""
    shared = new.join(old, on="doc_id", how="inner", suffix="_old")
    error = np.hypot(shared["std_error"].to_numpy(), shared["std_error_old"].to_numpy())
    # Each query's scores sum to zero: a document that came or went shifts all others alike, which is no change of theirs.
    change = shared["elo"].to_numpy() - shared["elo_old"].to_numpy()
    change = np.abs(change - change.mean()) if len(change) else change
    units = np.divide(change, error, out=np.zeros_like(change), where=error > 0)
    several = shared.height > 1
    top = set(old["doc_id"].head(TOP))
    return (
        query,
        new.height,
        new.height - shared.height,
        old.height - shared.height,
        kendall(shared["elo_old"].to_numpy(), shared["elo"].to_numpy()) if several else None,
        len(top & set(new["doc_id"].head(TOP))) / len(top),
        float(units.max()) if several else None,
        float(units.mean()) if several else None,
        top_loss(old, new),
    )


def kendall(x: Floats, y: Floats) -> float:
    """Kendall's tau-b; 1 for two constant vectors, 0 where only one is constant.

    Equation: (concordant - discordant) / sqrt((pairs - ties of x) (pairs - ties of y)) (Kendall 1945).
    """
    above = np.triu_indices(len(x), 1)
    signs = [np.sign(values[above[0]] - values[above[1]]) for values in (x, y)]
    untied = [float(np.abs(sign).sum()) for sign in signs]
    if not untied[0] or not untied[1]:
        return float(untied[0] == untied[1])
    return float((signs[0] * signs[1]).sum() / np.sqrt(untied[0] * untied[1]))


def top_loss(old: pl.DataFrame, new: pl.DataFrame) -> float:
    """What the old ranking loses of nDCG@10 when the new scores are the truth.

    Equation: 1 - sum_r u(old_r) / log2(r + 1) / sum_r u(new_r) / log2(r + 1), r to 10, u = max(0, elo - the query's mean): linear
    gains on the scale of the new scores. Swaps of documents that the new table scores alike cost next to nothing; a new document
    that belongs to the top costs what its place is worth. The old ranking holds the documents that are still there, in order.

    Args:
        old: one query's rows, best first.
        new: its rows now, best first.
    """
    gains = np.maximum(new["elo"].to_numpy() - cast("float", new["elo"].mean()), 0.0)
    discounts = 1.0 / np.log2(np.arange(2, TOP + 2))
    ideal = float(gains[:TOP] @ discounts[: len(gains[:TOP])])
    if ideal <= 0:
        return 0.0
    place = {name: number for number, name in enumerate(new["doc_id"])}
    kept: Ints = np.array([place[name] for name in old["doc_id"] if name in place][:TOP], dtype=np.int64)
    return float(max(0.0, 1.0 - gains[kept] @ discounts[: len(kept)] / ideal))


def agreement(previous: pl.DataFrame, now: pl.DataFrame, epoch: str) -> pl.DataFrame:
    """How verdicts that were asked again agree with the old ones, by judge: drift of a judge, where its texts are the same.

    Args:
        previous: JUDGMENTS frame before the refresh.
        now: JUDGMENTS frame of the refresh.
        epoch: its epoch.

    Returns:
        Frame of AGREEMENT, sorted by judge.
    """
    again = now.filter((pl.col("epoch") == epoch) & (pl.col("status") == "ok")).select(*CALL, "call_key", now="p_first")
    before = previous.filter((pl.col("status") == "ok") & (pl.col("epoch") != epoch)).select(*CALL, "call_key", before="p_first")
    # Equal keys: the same texts to the same judge under the same settings.
    twice = again.join(before, on=[*CALL, "call_key"], how="inner")
    side = [(pl.col(name) - 0.5).sign() for name in ("now", "before")]
    counted = twice.group_by("judge").agg(
        asked_again=pl.len().cast(pl.Int64),
        agree=(side[0] == side[1]).mean(),
        mean_change=(pl.col("now") - pl.col("before")).abs().mean(),
    )
    n, share = pl.col("asked_again"), pl.col("agree")
    centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 * (share * (1 - share) / n + Z95**2 / (4 * n**2)).sqrt() / (1 + Z95**2 / n)
    return counted.with_columns(low=centre - half, high=centre + half).select(list(AGREEMENT)).sort("judge")
