"""Listwise calls as rows: one call shows several documents, and every pair of them is a row of the plan and of the verdicts.

Belongs here: rows -> the documents of each call in the order shown, and parsed rankings -> a vote per row. Does not: drawing
lists (`rating/designs.py`, `plan.py`), reading answers and the weight of a ranking's comparisons (`parsing.py`, `ranking.py`),
asking.
"""

from collections.abc import Mapping

import polars as pl

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.ranking import Ranking, comparisons
from anmi_pipeline.judging.verdicts import OK, UNPARSED

CALL = ["query_id", "judge", "round", "list"]
"""Rows that agree on these are answered by one call."""
LEFT_OUT = "left_out"
"""Status of a pair whose ranking does not hold both documents: that a model stopped early says nothing about them."""

SHOWN = {"place_first": pl.Int64(), "place_second": pl.Int64()}
RANKED = {"call_key": pl.String(), **SHOWN, "read": pl.Float64(), "evidence": pl.Float64()}


def lists_of(rows: pl.DataFrame) -> pl.DataFrame:
    """Find the documents of each call in the order shown: a row's first document stands before its second.

    Args:
        rows: PLAN columns, all rows of each list.

    Returns:
        CALL columns and `documents`, ids from the first to the last shown; one row per call, sorted.

    Raises:
        InputError: rows of a call are no list: one is absent, stands twice or turns the order around.
    """
    ends = [rows.select(*CALL, doc_id=end, place=pl.lit(place)) for place, end in enumerate(("first_id", "second_id"))]
    # A document of a list of m stands in m - 1 rows, second in one row for each document shown before it.
    documents = pl.concat(ends).group_by(*CALL, "doc_id").agg(pl.len().alias("rows"), pl.col("place").sum())
    shown = (
        documents.sort(*CALL, "place")
        .group_by(CALL, maintain_order=True)
        .agg(pl.col("doc_id").alias("documents"), pl.col("place"), pl.col("rows").unique())
    )
    size = pl.col("documents").list.len().cast(pl.Int64())
    whole = (pl.col("rows").list.len() == 1) & (pl.col("rows").list.first() == size - 1)
    ordered = pl.col("place").list.eval(pl.element() == pl.int_range(pl.len())).list.all()
    bad = shown.filter(~(whole & ordered) | (pl.col("list") < 1))
    if bad.height:
        row = bad.row(0, named=True)
        raise InputError(
            f"the rows of list {row['list']}, round {row['round']}, that judge {row['judge']} is asked about query "
            f"{row['query_id']} are not all pairs of a list in the order shown. Materialize comparison_plan again."
        )
    return shown.select(*CALL, "documents")


def read_lists(rows: pl.DataFrame, rankings: Mapping[str, Ranking | None]) -> pl.DataFrame:
    """Turn rankings into votes: each pair of documents that a ranking holds gets one, weighted by `ranking.dependence`.

    Args:
        rows: PLAN columns, `call_key` and `status`; all rows of each list.
        rankings: call key -> ranking of the documents by the numbers 1..m under which they were shown; None where the answer was
            none. Rows of other calls were not answered and keep their status.

    Returns:
        The rows in their order with `status` (ok, unparsed, left_out or as it was), `p_first` and `weight`.

    Raises:
        InputError: as `lists_of`.
    """
    places = lists_of(rows).explode("documents").rename({"documents": "doc_id"})
    places = places.with_columns(place=pl.int_range(1, pl.len() + 1).over(CALL))
    placed = rows
    for side in ("first", "second"):
        end = places.rename({"doc_id": f"{side}_id", "place": f"place_{side}"})
        placed = placed.join(end, on=[*CALL, f"{side}_id"], how="left", maintain_order="left")
    votes = placed.join(ranked(rankings), on=["call_key", *SHOWN], how="left", maintain_order="left")
    silent = [key for key, ranking in rankings.items() if ranking is None]
    status = (
        pl.when(~pl.col("call_key").is_in(list(rankings)))
        .then("status")
        .when(pl.col("call_key").is_in(silent))
        .then(pl.lit(UNPARSED))
        .when(pl.col("read").is_null())
        .then(pl.lit(LEFT_OUT))
        .otherwise(pl.lit(OK))
    )
    told = votes.with_columns(status=status, p_first=pl.col("read"), weight=pl.col("evidence").fill_null(1.0))
    return told.drop(*SHOWN, "read", "evidence")


def ranked(rankings: Mapping[str, Ranking | None]) -> pl.DataFrame:
    """Comparisons of rankings, the document shown earlier first: RANKED columns."""
    found: list[tuple[str, int, int, float, float]] = []
    for key, ranking in rankings.items():
        for one in comparisons(ranking) if ranking is not None else ():
            ahead = one.first < one.second
            first, second = (one.first, one.second) if ahead else (one.second, one.first)
            found.append((key, first, second, one.p_first if ahead else 1 - one.p_first, one.weight))
    return pl.DataFrame(found, schema=RANKED, orient="row")
