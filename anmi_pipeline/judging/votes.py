"""Answered verdicts as numbers, one row per verdict, folded to one preference per pair where that is wanted.

Belongs here: the numbering of queries' documents and of judges, the folding of both orders. Does not: what is measured on them
(`agreement.py`), fitting judges (`rating/votes.py`).
"""

from dataclasses import dataclass

import polars as pl

from anmi_pipeline.judging.verdicts import OK
from anmi_pipeline.rating.graphs import Ints

PAIR = ["query", "low", "high"]


@dataclass(frozen=True)
class Votes:
    """Answered verdicts with numbers for names.

    Attributes:
        rows: query, low, high (document numbers within the query, low has the smaller id), judge, round, audit, low_first, p_low
            = P(low is more relevant); one row per verdict.
        judges: names, sorted; `judge` numbers them.
        sizes: (Q,) documents of each query with an answered verdict.
    """

    rows: pl.DataFrame
    judges: list[str]
    sizes: Ints

    def of(self, judge: str) -> "Votes":
        """One judge's verdicts."""
        return Votes(self.rows.filter(pl.col("judge") == self.judges.index(judge)), self.judges, self.sizes)

    def folded(self, *by: str) -> pl.DataFrame:
        """One preference per unordered pair: PAIR, `by`, p_low, winner (1 low, 0 tie, -1 high), sorted."""
        means = self.rows.group_by(*PAIR, *by).agg(pl.col("p_low").mean())
        # Rounded: p and 1 - p of two orders must fold to a tie whatever the last bit of 1 - p.
        winner = pl.col("p_low").round(12).sub(0.5).sign().cast(pl.Int8())
        return means.with_columns(winner=winner).sort(*PAIR, *by)


def coded(judgments: pl.DataFrame) -> Votes:
    """Number the names of JUDGMENTS rows that were answered."""
    low_first = pl.col("first_id") < pl.col("second_id")
    p_low = pl.when(low_first).then(pl.col("p_first")).otherwise(1 - pl.col("p_first"))
    ends = judgments.filter(pl.col("status") == OK).select(
        "query_id", "judge", "round", "audit", "first_id", "second_id", low_first=low_first, p_low=p_low
    )
    known = pl.concat([ends.select("query_id", doc_id=end) for end in ("first_id", "second_id")]).unique()
    known = known.sort("query_id", "doc_id").with_columns(
        place=pl.int_range(pl.len()).over("query_id"), query=pl.col("query_id").rle_id().cast(pl.Int64())
    )
    names: list[str] = ends["judge"].unique().sort().to_list()
    numbers = pl.DataFrame({"judge": names, "number": range(len(names))}, schema={"judge": pl.String(), "number": pl.Int64()})
    rows = ends.join(numbers, on="judge", how="left", maintain_order="left").drop("judge").rename({"number": "judge"})
    for end in ("first", "second"):
        places = known.select("query_id", pl.col("doc_id").alias(f"{end}_id"), pl.col("place").alias(end), pl.col("query"))
        rows = rows.drop("query", strict=False).join(places, on=["query_id", f"{end}_id"], how="left", maintain_order="left")
    rows = rows.with_columns(low=pl.min_horizontal("first", "second"), high=pl.max_horizontal("first", "second"))
    sizes = known.group_by("query", maintain_order=True).len()["len"].cast(pl.Int64()).to_numpy()
    kept = rows.select(*PAIR, "judge", "round", "audit", "low_first", "p_low")
    return Votes(kept.sort(*PAIR, "judge", "round", "low_first"), names, sizes)
