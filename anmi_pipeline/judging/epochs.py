"""Refresh epochs: when each was opened, what it carries on from, and what it may cost.

Belongs here: the table of epochs beside the verdicts, opening one, and which one a dataset is in. Does not: the plan of an epoch
(`carrying.py`), and looking verdicts up (`ledger.py`). Expiry is judged at the time at which an epoch was opened: a run of the
same epoch, however much later, asks nothing because time has passed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import sqlalchemy as sa

from anmi_pipeline.digests import Json
from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.ledger import CREATE_LOCK, now
from anmi_pipeline.judging.ledger_tables import Books

EPOCHS = sa.Table(
    "epochs",
    sa.MetaData(),
    # Rows are numbered as they are opened: "last" needs no clock.
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(), primary_key=True),
    sa.Column("dataset", sa.Text(), nullable=False),
    sa.Column("epoch", sa.Text(), nullable=False),
    sa.Column("opened_at", sa.Text(), nullable=False),
    sa.Column("origins", sa.Text(), nullable=False),
    sa.Column("max_usd", sa.Double(), nullable=True),
    sa.Column("max_calls", sa.BigInteger(), nullable=True),
    sa.UniqueConstraint("dataset", "epoch"),
)
JUDGED, RATED = "pairwise_judgments", "elo_table"
"""Artifacts that an epoch remembers: the verdicts that it carries on from, the scores that it will be compared with."""


@dataclass(frozen=True)
class Origin:
    """A build that was current when an epoch was opened: what `Records.named` asks for."""

    partition: str
    build_key: str
    digest: str


@dataclass(frozen=True)
class Epoch:
    """A refresh epoch of a dataset.

    Attributes:
        dataset: whose.
        name: under which new verdicts are written.
        number: 1 for the first, which carries nothing.
        opened_at: time at which expiry is judged, as the ledger writes it.
        origins: asset -> the build that was current then.
        max_usd: cap of this epoch alone, USD.
        max_calls: cap of this epoch alone.
    """

    dataset: str
    name: str
    number: int
    opened_at: str
    origins: Mapping[str, Origin]
    max_usd: float | None = None
    max_calls: int | None = None

    @property
    def carried(self) -> Origin | None:
        """The verdicts that this epoch's plan carries on from; None in the first epoch."""
        return self.origins.get(JUDGED) if self.number > 1 else None

    @property
    def capped(self) -> bool:
        """Whether it has a budget of its own."""
        return self.number > 1 and (self.max_usd is not None or self.max_calls is not None)

    @property
    def scope(self) -> str:
        """What its caps are for: this refresh where it has caps of its own, else the dataset."""
        return f"{self.dataset}:{self.name}" if self.capped else self.dataset

    def settings(self) -> dict[str, Json]:
        """What builds depend on besides their inputs.

        Nothing in the first epoch, where no verdict is expired and none carried: variants of a dataset go on sharing its builds.
        """
        if self.number == 1:
            return {}
        carried = self.carried.digest if self.carried is not None else None
        return {"epoch": {"name": self.name, "opened_at": self.opened_at, "carried": carried}}


class EpochBook:
    """The epochs of one dataset."""

    def __init__(self, books: Books, dataset: str) -> None:
        """Open; the table is made where it is not there yet.

        Raises:
            LedgerError: the ledger cannot be written.
        """
        self.books, self.dataset = books, dataset
        with books.transaction("created") as connection:
            if connection.dialect.name != "sqlite":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(CREATE_LOCK)))
            connection.execute(sa.schema.CreateTable(EPOCHS, if_not_exists=True))

    def open(
        self,
        name: str,
        origins: Mapping[str, Origin] | None = None,
        *,
        max_usd: float | None = None,
        max_calls: int | None = None,
        at: str | None = None,
    ) -> Epoch:
        """Open an epoch; one that is open already stays as it is, with its time, its origins and its caps.

        Args:
            name: name of the epoch.
            origins: asset -> the build that is current now.
            max_usd: most that the epoch may spend, USD.
            max_calls: most calls that it may have billed.
            at: its time, as the ledger writes it; default now.

        Raises:
            InputError: no name, or a long one.
            LedgerError: the ledger cannot be written.
        """
        if not 1 <= len(name) <= 64:
            raise InputError(f'"{name}" is no name of an epoch; give 1 to 64 characters, such as 2026-10-05.')
        kept = {asset: vars(origin) for asset, origin in sorted((origins or {}).items())}
        row = {
            "dataset": self.dataset, "epoch": name, "opened_at": at or now(), "origins": json.dumps(kept, sort_keys=True),
            "max_usd": max_usd, "max_calls": max_calls,
        }  # fmt: skip
        with self.books.transaction() as connection:
            connection.execute(self.books.insert_new(EPOCHS), row)
        return next(epoch for epoch in self.all() if epoch.name == name)

    def cap(self, name: str, max_usd: float | None, max_calls: int | None) -> Epoch:
        """Give an open epoch other caps; a value of None leaves that cap as it is.

        Raises:
            InputError: no such epoch.
            LedgerError: the ledger cannot be written.
        """
        given = {"max_usd": max_usd, "max_calls": max_calls}
        values = {cap: value for cap, value in given.items() if value is not None}
        if values:
            mine = (EPOCHS.c.dataset == self.dataset, EPOCHS.c.epoch == name)
            with self.books.transaction() as connection:
                connection.execute(sa.update(EPOCHS).where(*mine).values(**values))
        found = self.find(name)
        if found is None:
            raise InputError(f'dataset {self.dataset} has no epoch "{name}".')
        return found

    def all(self) -> list[Epoch]:
        """Every epoch, in the order in which they were opened."""
        query = sa.select(EPOCHS).where(EPOCHS.c.dataset == self.dataset).order_by(EPOCHS.c.id)
        with self.books.transaction("read") as connection:
            rows = connection.execute(query).mappings().all()
        return [
            Epoch(
                self.dataset, row["epoch"], number, row["opened_at"], read_origins(row["origins"]), row["max_usd"],
                row["max_calls"],
            )
            for number, row in enumerate(rows, start=1)
        ]  # fmt: skip

    def find(self, name: str) -> Epoch | None:
        """An epoch by name."""
        return next((epoch for epoch in self.all() if epoch.name == name), None)

    def last(self) -> Epoch | None:
        """The epoch that was opened last; None before the first."""
        return next(reversed(self.all()), None)


def current_epoch(
    books: Books,
    dataset: str,
    configured: str,
    origins: Mapping[str, Origin] | None = None,
    *,
    max_usd: float | None = None,
    max_calls: int | None = None,
) -> Epoch:
    """The epoch that a dataset is in: the one opened last. An epoch that the dataset's YAML names anew is opened now.

    So `judging.epoch` names the first epoch, and another text there opens that epoch as `anmi refresh --epoch` does.

    Args:
        books: the ledger.
        dataset: dataset.
        configured: `judging.epoch` of the dataset.
        origins: asset -> the build that is current now, in case that it is opened.
        max_usd: its cap then, USD.
        max_calls: its cap then.
    """
    book = EpochBook(books, dataset)
    book.open(configured, origins, max_usd=max_usd, max_calls=max_calls)
    return book.all()[-1]


def last_epoch(books: Books, dataset: str, configured: str) -> Epoch:
    """`current_epoch` for readers: opens nothing, and takes now for an epoch that would be opened."""
    book = EpochBook(books, dataset)
    known = book.all()
    if any(epoch.name == configured for epoch in known):
        return known[-1]
    return Epoch(dataset, configured, len(known) + 1, now(), {})


def read_origins(text: str) -> dict[str, Origin]:
    """Origins of a row."""
    stored = cast("dict[str, dict[str, str]]", json.loads(text))
    return {asset: Origin(**fields) for asset, fields in stored.items()}
