"""Refreshing verdicts: when and for how much, the name of a refresh, and what one has bought.

Belongs here: the configuration and the account of a refresh. Does not: its plan (`carrying.py`), its record (`epochs.py`), and
whether the Elo table moved (`rating/drift.py`).
"""

import re
from collections.abc import Collection

import polars as pl
from pydantic import Field, field_validator

from anmi_pipeline.settings import Config

CRON_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))
CRON_TERM = re.compile(r"^(\*|\d{1,2}(?:-\d{1,2})?)(?:/(\d{1,2}))?$")
OK = "ok"
CALL = ["query_id", "first_id", "second_id", "judge", "round", "list"]
REASONS = ("new query", "new document", "asked again", "failed before")
"""Why a refresh bought a verdict."""


class RefreshConfig(Config):
    """When verdicts are refreshed, for how much, and when that trains again."""

    cron: str | None = Field(
        default=None,
        description='when, as cron of five fields in UTC ("0 3 * * 1": Mondays at three); null: by `anmi refresh` only',
    )
    max_usd: float | None = Field(default=None, ge=0, description="most that one refresh may spend, USD; null: no cap of its own")
    max_calls: int | None = Field(default=None, ge=0, description="most calls of one refresh; null: no cap of its own")
    retrain_above: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="train again when the Elo table has moved by more: mean nDCG@10 that the old ranking loses under the new Elo",
    )
    retrain_new_queries: float = Field(
        default=0.1, ge=0, le=1, description="train again when a larger share of the queries is new since the table trained on"
    )

    @field_validator("cron")
    @classmethod
    def readable(cls, cron: str | None) -> str | None:
        """Refuse what no scheduler would read: it would keep all definitions from loading."""
        if cron is not None:
            fields = cron.split()
            if len(fields) != len(CRON_FIELDS):
                raise ValueError(
                    f'cron "{cron}" has {len(fields)} field(s); give minute, hour, day, month and weekday: 0 3 * * 1.'
                )
            for text, (name, low, high) in zip(fields, CRON_FIELDS, strict=True):
                check_cron_field(text, name, low, high)
        return cron

    @property
    def daily(self) -> bool:
        """Whether it runs at most once a day, so that a date names a refresh."""
        return self.cron is not None and all(text.isdigit() for text in self.cron.split()[:2])


def check_cron_field(text: str, name: str, low: int, high: int) -> None:
    """Refuse a field of a cron that is not numbers, ranges, steps or `*` within its bounds.

    Raises:
        ValueError: names the field.
    """
    for term in text.split(","):
        found = CRON_TERM.match(term)
        numbers = [int(number) for number in re.findall(r"\d+", found.group(1))] if found else []
        steps_well = found is not None and (found.group(2) is None or 1 <= int(found.group(2)) <= high)
        if not steps_well or any(not low <= number <= high for number in numbers) or numbers != sorted(numbers):
            raise ValueError(f'cron has {name} "{text}"; give *, numbers of {low} to {high}, ranges 1-5, lists 1,3 or steps */2.')


def next_name(date: str, taken: Collection[str]) -> str:
    """Name of a new epoch: the date, with -2, -3, ... where there are others of that day.

    >>> next_name("2026-10-05", ["1", "2026-10-05"])
    '2026-10-05-2'
    """
    names = (date if number == 1 else f"{date}-{number}" for number in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)


def purchases(previous: pl.DataFrame, now: pl.DataFrame, epoch: str) -> pl.DataFrame:
    """What an epoch bought, and why.

    Args:
        previous: JUDGMENTS frame that the epoch carried on from.
        now: JUDGMENTS frame of the epoch.
        epoch: its name.

    Returns:
        judge, reason (one of REASONS), calls, failed, cost_usd, sorted; equal calls count once.
    """
    bought = now.filter(pl.col("epoch") == epoch).unique("call_key", keep="first", maintain_order=True)
    known = previous.select(*CALL, before=pl.col("status"))
    named = bought.join(known, on=CALL, how="left").join(
        previous.select("query_id", known=pl.lit(value=True)).unique(), on="query_id", how="left"
    )
    reason = (
        pl.when(pl.col("known").is_null())
        .then(pl.lit(REASONS[0]))
        .when(pl.col("before").is_null())
        .then(pl.lit(REASONS[1]))
        .when(pl.col("before") == OK)
        .then(pl.lit(REASONS[2]))
        .otherwise(pl.lit(REASONS[3]))
    )
    return (
        named.with_columns(reason=reason)
        .group_by("judge", "reason")
        .agg(
            calls=pl.len().cast(pl.Int64),
            failed=(pl.col("status") != OK).sum().cast(pl.Int64),
            cost_usd=pl.col("cost_usd").sum(),
        )
        .sort("judge", "reason")
    )
