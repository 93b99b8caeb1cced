"""Relevance grades as they are read from text files, row by row.

Belongs here: what makes a grade row valid, whatever its file format. Does not: columns and headers (`beir.py`, `trec.py`).
"""

from dataclasses import dataclass, field

import polars as pl

from anmi_pipeline.errors import InputError
from anmi_pipeline.table_specs import INT, TEXT

LARGEST = 1_000_000
GRADE_SCHEMA: dict[str, pl.DataType] = {"query_id": TEXT, "doc_id": TEXT, "grade": INT, "split": TEXT}


@dataclass
class GradeRows:
    """Rows of one or more grades files, gathered column by column."""

    query_id: list[str] = field(default_factory=list[str])
    doc_id: list[str] = field(default_factory=list[str])
    grade: list[int] = field(default_factory=list[int])
    split: list[str | None] = field(default_factory=list[str | None])

    def add(self, query_id: str, doc_id: str, grade: str, split: str | None, place: str) -> None:
        """Take one row.

        Raises:
            InputError: an id is empty or the grade is not a whole number: names the place.
        """
        query_id, doc_id = query_id.strip(), doc_id.strip()
        if not query_id or not doc_id:
            raise InputError(f"{place}: the {'query' if not query_id else 'document'} id is empty.")
        self.query_id.append(query_id)
        self.doc_id.append(doc_id)
        self.grade.append(whole_number(grade, place))
        self.split.append(split)

    def frame(self) -> pl.DataFrame:
        """Return the rows in the order read."""
        columns = {"query_id": self.query_id, "doc_id": self.doc_id, "grade": self.grade, "split": self.split}
        return pl.DataFrame(columns, schema=GRADE_SCHEMA)


def whole_number(text: str, place: str) -> int:
    """Read a grade.

    Raises:
        InputError: it is not a whole number of a sensible size.

    >>> whole_number(" 2", "here")
    2
    """
    digits = text.strip()
    if not (digits.removeprefix("-").isascii() and digits.removeprefix("-").isdigit()) or abs(int(digits[:20])) > LARGEST:
        raise InputError(f'{place}: the grade is "{text}", expected a whole number such as 0, 1 or 2 (0 = judged not relevant).')
    return int(digits)


def tidy_grades(qrels: pl.DataFrame, where: str, notes: dict[str, str]) -> pl.DataFrame:
    """Return the rows with equal repeats folded and negative grades read as 0, as TREC's tools do; both are noted.

    Raises:
        InputError: one pair has two different grades, or one query is in the files of two splits.
    """
    pair = ["query_id", "doc_id"]
    torn = (
        qrels.group_by("query_id", maintain_order=True)
        .agg(pl.col("split").unique().sort())
        .filter(pl.col("split").list.len() > 1)
    )
    if torn.height:
        splits = ", ".join(str(split) for split in torn["split"][0])
        raise InputError(
            f'{where}: {torn.height} query(s) are in more than one split, first "{torn["query_id"][0]}" in {splits}. '
            "A query belongs to one split: remove it from the others."
        )
    folded = qrels.unique(maintain_order=True)
    twice = folded.filter(folded.select(pair).is_duplicated())
    if twice.height:
        query, doc = twice.row(0)[:2]
        grades = twice.filter((pl.col("query_id") == query) & (pl.col("doc_id") == doc))["grade"].to_list()
        raise InputError(f'{where}: query "{query}" and document "{doc}" have the grades {grades}. Keep one of the rows.')
    if folded.height < qrels.height:
        notes["repeated grades"] = f"{qrels.height - folded.height} row(s) that repeat another were folded"
    negative = folded.filter(pl.col("grade") < 0).height
    if negative:
        notes["negative grades"] = f"{negative} row(s) with a grade below 0 (TREC: junk) read as 0"
    return folded.with_columns(pl.col("grade").clip(lower_bound=0))
