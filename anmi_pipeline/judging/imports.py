"""Verdicts that people or other systems bring to a dataset: a file in, judgments out.

Belongs here: filing a file of verdicts under call keys, and the judgments that a dataset gets from what was filed. Does not:
reading the file (`answers.py`), the table of what belongs to which dataset (`ledger_imports.py`), exports of another ledger
(`ledger_transfers.py`). A verdict is about texts: when a query or a document has changed, it counts no longer until it is
imported again.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import sqlalchemy as sa

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.answers import read_answers
from anmi_pipeline.judging.audit_queue import HUMAN
from anmi_pipeline.judging.call_keys import call_keys
from anmi_pipeline.judging.judges import CallSettings, JudgeEvidence
from anmi_pipeline.judging.ledger import TABLE, now
from anmi_pipeline.judging.ledger_imports import BLOCK, CALL, current_imports, current_in, file_imports, prepare
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.judging.ledger_transfers import hold_writers
from anmi_pipeline.judging.verdicts import verdicts
from anmi_pipeline.tables import JUDGMENTS

ENDPOINT = "import"
ROUND = 0
"""Round of imported verdicts: before any that was planned."""
IMPORT_PROVENANCES = (HUMAN, "model", "recorded")


@dataclass(frozen=True)
class Terms:
    """Whose verdicts a file holds, and how they are filed.

    Attributes:
        judge: judge id of lines that name none.
        provenance: one of IMPORT_PROVENANCES.
        epoch: epoch of new rows of the ledger.
        taken: names of the dataset's own judges, which nobody else may use.
        both_orders: whether a judge may answer a pair in both orders.
    """

    judge: str = HUMAN
    provenance: str = HUMAN
    epoch: str = "1"
    taken: Collection[str] = ()
    both_orders: bool = True

    def __post_init__(self) -> None:
        """Refuse an unknown provenance."""
        if self.provenance not in IMPORT_PROVENANCES:
            raise InputError(f'provenance "{self.provenance}" was given; imports have one of {", ".join(IMPORT_PROVENANCES)}.')


@dataclass(frozen=True)
class Filed:
    """What an import came to, in lines of the file.

    Attributes:
        new: verdicts on pairs that the judge had not judged.
        changed: verdicts that take the place of another one of the same judge on the same ordered pair.
        known: verdicts that were on record already.
        unanswered: lines without an answer.
    """

    new: int
    changed: int
    known: int
    unanswered: int

    def rows(self) -> list[dict[str, object]]:
        """For people."""
        names = ("new", "changed", "known", "unanswered")
        return [{"verdicts": name, "rows": getattr(self, name)} for name in names]


@dataclass(frozen=True)
class Imported:
    """What a dataset gets from its imports.

    Attributes:
        judgments: JUDGMENTS frame, round 0.
        elsewhere: verdicts left out because a document is not among those that are compared now.
        outdated: verdicts left out because a text has changed since.
    """

    judgments: pl.DataFrame
    elsewhere: int
    outdated: int


class ImportedJudge:
    """Stands for whoever gave imported verdicts, as far as call keys go; it cannot be asked."""

    def settings(self, judge_id: str) -> CallSettings:
        """The judge's name is all that is known of it."""
        return CallSettings(judge=judge_id, endpoint=ENDPOINT, model=judge_id)

    def context(self, calls: pl.DataFrame) -> Sequence[bytes]:
        """The answer: a changed one is another call, and the old row stays in the ledger."""
        return [repr(float(p)).encode() for p in calls["p_first"]]


def import_verdicts(
    books: Books,
    dataset: str,
    path: Path,
    evidence: JudgeEvidence,
    documents: pl.DataFrame,
    terms: Terms = Terms(),
) -> Filed:
    """File the verdicts of a CSV or parquet file in the ledger and list them as a dataset's: all of them or none.

    Columns: query_id; first_id and second_id, or doc_a and doc_b; p or answer (a, b, tie, or P(first is more relevant)); optional
    judge and comment. Others are ignored. A verdict of the same judge on the same ordered pair is replaced by a newer one.

    Args:
        books: the ledger.
        dataset: name of the dataset.
        path: the file; an audit file is one of these.
        evidence: the texts.
        documents: query_id, doc_id of what can be compared.
        terms: whose verdicts they are, and how they are filed.

    Raises:
        InputError: the file or a name is wrong; every wrong line is named, up to 20, and nothing is written.
        LedgerError: the ledger cannot be written; nothing was.
    """
    found = read_answers(path, documents, judge=terms.judge, taken=terms.taken, both_orders=terms.both_orders)
    keys = call_keys(found.answers, ImportedJudge(), evidence)
    rows = found.answers.with_columns(call_key=pl.Series(keys, dtype=pl.String()))
    prepare(books)
    with books.transaction() as connection:
        hold_writers(connection)
        old = current_in(connection, dataset).select(*CALL, filed="call_key")
        known = rows.join(old, on=list(CALL), how="left", maintain_order="left")
        wanted = known.filter(pl.col("filed").ne_missing(pl.col("call_key")))
        write_verdicts(books, connection, wanted, terms)
        file_imports(connection, dataset, wanted)
    new = wanted["filed"].null_count()
    return Filed(new, wanted.height - new, rows.height - wanted.height, found.unanswered)


def write_verdicts(books: Books, connection: sa.Connection, rows: pl.DataFrame, terms: Terms) -> None:
    """Write answers as rows of the ledger; those it has stay as they are."""
    said = pl.when(pl.col("comment") == "").then("answer").otherwise(pl.format("{}\n{}", "answer", "comment"))
    filed = verdicts(rows, rows["p_first"], terms.provenance, rows.select(said.alias("said"))["said"]).with_columns(
        judge=rows["judge"],
        epoch=pl.lit(terms.epoch),
        created_at=pl.lit(now()),
        raw_answer=pl.col("raw_answer").str.replace_all("\0", "\ufffd", literal=True),
    )
    for start in range(0, filed.height, BLOCK):
        connection.execute(books.insert_new(TABLE), filed[start : start + BLOCK].to_dicts())


def imported_judgments(books: Books, dataset: str, documents: pl.DataFrame, evidence: JudgeEvidence) -> Imported:
    """The imported verdicts that count for a dataset now: the newest of every judge on every ordered pair.

    Args:
        books: the ledger.
        dataset: name of the dataset.
        documents: query_id, doc_id of what is compared.
        evidence: the texts, of at least these.

    Raises:
        InputError: a document that is compared has no text.
        LedgerError: the ledger cannot be read.
    """
    rows = current_imports(books, dataset)
    inside = rows
    for end in ("first_id", "second_id"):
        pool = documents.select("query_id", pl.col("doc_id").alias(end)).unique()
        inside = inside.join(pool, on=["query_id", end], how="semi", maintain_order="left")
    keys = call_keys(inside, ImportedJudge(), evidence)
    valid = inside.filter(pl.col("call_key") == pl.Series(keys, dtype=pl.String()))
    turned = valid.select("query_id", "judge", first_id="second_id", second_id="first_id").with_columns(audit=pl.lit(True))
    marked = valid.join(turned, on=list(CALL), how="left", maintain_order="left").with_columns(
        pl.col("audit").fill_null(False), round=pl.lit(ROUND)
    )
    return Imported(JUDGMENTS.frame(marked), rows.height - inside.height, inside.height - valid.height)
