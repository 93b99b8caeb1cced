"""Which pairs a round chose, on record: what is bought stays bought, however its answers are read later.

Belongs here: the table of choices beside the verdicts, and taking the pairs of a round from it. Does not: the choice
(`rating/rounds.py`) and its prior (`frozen_prior.py`). Later rounds rest on the verdicts of earlier ones. Chosen again after a
change of the parser, or of the model behind one judge, a few pairs of every query would be others, and all judges would be paid
for them. So a choice is made once for a dataset, a query, the pairs it has been asked and the number wanted; `judging.replan`
makes it anew.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import cast

import polars as pl
import sqlalchemy as sa

from anmi_pipeline.digests import Json, digest_json
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.ledger import CREATE_LOCK, now
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.rating.comparisons import PAIR
from anmi_pipeline.rating.config import RatingConfig
from anmi_pipeline.rating.rounds import PAIRS

CHOICES = sa.Table(
    "choices",
    sa.MetaData(),
    sa.Column("choice_key", sa.String(64), primary_key=True),
    # Pairs of places among the query's documents in order: "0-3 1-7".
    sa.Column("pairs", sa.Text(), nullable=False),
    sa.Column("created_at", sa.Text(), nullable=False),
)
KEYS = 5_000
"""Most keys of one look-up."""
Choose = Callable[[Mapping[str, int]], pl.DataFrame]
"""From query id -> pairs wanted to query_id, doc_i, doc_j of the pairs chosen."""


def choices_key(dataset: str, judging: JudgingConfig, rating: RatingConfig, seed: int, retrieval: Json) -> str:
    """Name the choices of pairs of a dataset: sha256 of what they rest on besides queries and verdicts.

    How many judges there are, and not which: another model behind one of them changes no pair that all were paid for.
    """
    named = ("generator", "pool_size", "design", "votes_per_pair", "audit_share", "replan", "instruction", "routing")
    content = judging.content()
    return digest_json({
        "dataset": dataset,
        "judging": {"judges": len(judging.judges), **{name: cast("Json", content[name]) for name in named}},
        "rating": {"prior": rating.prior, "model": rating.model},
        "retrieval": retrieval,
        "seed": seed,
    })  # fmt: skip


@dataclass(frozen=True)
class Wanted:
    """A choice that is to be made for one query.

    Attributes:
        query: query id.
        count: pairs wanted.
        documents: documents that may be compared, sorted.
        key: its name on record.
    """

    query: str
    count: int
    documents: tuple[str, ...]
    key: str

    def packed(self, pairs: Iterable[tuple[str, str]]) -> str:
        """Pairs as they are stored."""
        place = {document: number for number, document in enumerate(self.documents)}
        return " ".join(f"{place[one]}-{place[other]}" for one, other in pairs)

    def unpacked(self, stored: str) -> list[dict[str, str]]:
        """Stored pairs as rows."""
        places = (tuple(map(int, pair.split("-"))) for pair in stored.split())
        return [{"query_id": self.query, "doc_i": self.documents[i], "doc_j": self.documents[j]} for i, j in places]


class ChoiceBook:
    """The choices of one study."""

    def __init__(self, books: Books, study: str, *, keep: bool = True) -> None:
        """Open; the table is made where it is not there yet.

        Args:
            books: the ledger.
            study: name of everything that choices rest on besides the query and its verdicts.
            keep: put what is chosen on record; False for those who only ask what would be chosen.

        Raises:
            LedgerError: the ledger cannot be written.
        """
        self.books, self.study, self.keep = books, study, keep
        with books.transaction("created") as connection:
            if connection.dialect.name != "sqlite":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(CREATE_LOCK)))
            connection.execute(sa.schema.CreateTable(CHOICES, if_not_exists=True))

    def pairs(
        self, number: int, counts: Mapping[str, int], asked: pl.DataFrame, documents: pl.DataFrame, choose: Choose
    ) -> pl.DataFrame:
        """The pairs of a round: those on record, and for the other queries those that are chosen now and put on record.

        Args:
            number: the round.
            counts: query id -> pairs wanted.
            asked: query_id, doc_i, doc_j of every pair that is not to be chosen again.
            documents: query_id, doc_id of the documents that may be compared.
            choose: chooses for the queries without a record.

        Returns:
            query_id, doc_i, doc_j, sorted.

        Raises:
            LedgerError: the ledger cannot be read or written.
        """
        wanted = self.wanted(number, counts, asked, documents)
        known = self.known(wanted)
        fresh = {one.query: one for one in wanted if one.key not in known}
        if fresh:
            chosen = choose({name: one.count for name, one in fresh.items()})
            own = {str(name): rows for (name,), rows in chosen.partition_by("query_id", as_dict=True).items()}
            empty = chosen.clear()
            made = {one.key: one.packed(own.get(name, empty).select("doc_i", "doc_j").iter_rows()) for name, one in fresh.items()}
            known |= made
            if self.keep:
                self.record(made)
                # Read again: of two processes that choose at once the first one's choice counts for both.
                known |= self.known(fresh.values())
        rows = [row for one in wanted for row in one.unpacked(known[one.key])]
        return pl.DataFrame(rows, schema=PAIRS).sort(PAIR)

    def wanted(self, number: int, counts: Mapping[str, int], asked: pl.DataFrame, documents: pl.DataFrame) -> list[Wanted]:
        """Name the choices of a round; a query that wants no pair has none."""
        busy = {name for name, count in counts.items() if count > 0}
        chosen = pl.Series(sorted(busy), dtype=pl.String())
        pool = documents.filter(pl.col("query_id").is_in(chosen.implode())).sort("query_id", "doc_id")
        before = asked.filter(pl.col("query_id").is_in(chosen.implode())).select(PAIR).sort(PAIR)
        pairs = {
            str(name): rows.rows() for (name,), rows in before.partition_by("query_id", as_dict=True, include_key=False).items()
        }
        found: list[Wanted] = []
        for (name,), rows in pool.partition_by("query_id", as_dict=True, maintain_order=True).items():
            ids = tuple(rows["doc_id"].to_list())
            said = [
                self.study,
                str(name),
                number,
                counts[str(name)],
                list(ids),
                [list(pair) for pair in pairs.get(str(name), [])],
            ]
            found.append(Wanted(str(name), counts[str(name)], ids, digest_json(said)))
        return found

    def known(self, wanted: Iterable[Wanted]) -> dict[str, str]:
        """Key -> pairs of the choices that are on record."""
        keys = [one.key for one in wanted]
        found: dict[str, str] = {}
        query = sa.select(CHOICES.c.choice_key, CHOICES.c.pairs)
        with self.books.transaction("read") as connection:
            for start in range(0, len(keys), KEYS):
                part = keys[start : start + KEYS]
                found |= dict(connection.execute(query.where(CHOICES.c.choice_key.in_(part))).tuples().all())
        return found

    def record(self, choices: Mapping[str, str]) -> None:
        """Put choices on record; one that is there stays as it is."""
        rows = [{"choice_key": key, "pairs": pairs, "created_at": now()} for key, pairs in sorted(choices.items())]
        with self.books.transaction() as connection:
            connection.execute(self.books.insert_new(CHOICES), rows)
