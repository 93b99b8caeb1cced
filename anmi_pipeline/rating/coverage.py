"""How much of each query's plan was answered, and which queries have too little to be rated.

Belongs here: the share of answered verdicts per query and what is left without the queries under the floor. Does not: the fit
(`elo.py`) and the report on judges (`judging/report.py`). A query of which half the calls failed has a graph that chance chose:
its ratings would look like any other's, so it gets none, and is named instead.
"""

from dataclasses import dataclass

import polars as pl

from anmi_pipeline.digests import Json

NAMED = 5
"""Queries that a message names."""


def coverage(judgments: pl.DataFrame) -> pl.DataFrame:
    """Count how much of each query's plan was answered.

    Args:
        judgments: `tables.JUDGMENTS`: every planned verdict, failures among them.

    Returns:
        query_id, planned, answered, coverage (answered / planned), by query.
    """
    counts = judgments.group_by("query_id").agg(
        planned=pl.len().cast(pl.Int64()), answered=pl.col("status").eq("ok").sum().cast(pl.Int64())
    )
    return counts.with_columns(coverage=pl.col("answered") / pl.col("planned")).sort("query_id")


@dataclass(frozen=True)
class Flagged:
    """The queries that are flagged and not scored.

    Attributes:
        queries: rows of `coverage` below the floor.
        floor: share of a query's planned verdicts that must be answered.
    """

    queries: pl.DataFrame
    floor: float

    @classmethod
    def of(cls, judgments: pl.DataFrame, floor: float) -> "Flagged":
        """Find them.

        Args:
            judgments: `tables.JUDGMENTS`. A query of which nothing was planned is not flagged: no call of it failed.
            floor: in [0, 1]; a query exactly at it is scored.
        """
        return cls(coverage(judgments).filter(pl.col("coverage") < floor), floor)

    def __len__(self) -> int:
        """How many."""
        return self.queries.height

    def left_out_of(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows (with `query_id`) without those of flagged queries, in their order."""
        return rows.join(self.queries, on="query_id", how="anti", maintain_order="left") if len(self) else rows

    def facts(self) -> dict[str, Json]:
        """What an artifact says about them: how many, and each with its coverage; nothing when there is none."""
        if not len(self):
            return {}
        shares = self.queries.select("query_id", pl.col("coverage").round(6)).iter_rows()
        return {"queries_under_coverage_floor": len(self), "not_scored": dict(shares)}

    def said(self, of: int, why: str = "The judge report says what failed.") -> str:
        """In one sentence, for people.

        Args:
            of: queries there are.
            why: what failed, or where that is said.
        """
        first = ", ".join(self.queries["query_id"].head(NAMED))
        return (
            f"{len(self)} of {of} queries have less than {self.floor:.0%} of their verdicts, first {first}: they are not scored. "
            f"{why}"
        )
