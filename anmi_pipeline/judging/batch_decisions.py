"""What to do next with each batch and each call of one, as pure decisions.

Belongs here: whether the provider has a batch, whether a call is asked again, how calls are packed. Does not: doing it
(`batches.py`), the record (`intents.py`).
"""

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from pydantic import Field

from anmi_pipeline.judging.intents import Intent, Tried
from anmi_pipeline.judging.requests import ANSWERED, DECLINED, TOO_LONG, Batch, Request
from anmi_pipeline.settings import Config

NO_RESULT = "batch_no_result"
"""Status of a call that an ended batch says nothing about."""
FINAL = frozenset({ANSWERED, DECLINED, TOO_LONG, *(f"http_{status}" for status in (400, 401, 402, 403, 404, 413, 422))})
"""Statuses that another attempt would not change. Every other failure of a call is submitted again."""
MAY_BE_BILLED = frozenset({"bad_body"})


class BatchConfig(Config):
    """How calls are put into batches."""

    calls: int = Field(default=10_000, ge=1, le=50_000, description="calls per batch, at most")
    megabytes: float = Field(default=90.0, gt=0, description="size of a batch's bodies, at most")
    attempts: int = Field(default=3, ge=1, description="batches a call may be in before it counts as failed")
    skew_seconds: float = Field(
        default=300.0, ge=0, description="how far the provider's clock may be behind ours when batches are listed"
    )
    settle_seconds: float = Field(
        default=10.0,
        ge=0,
        description="age below which an intent that the provider does not list is looked for again, not submitted",
    )
    part: int = Field(default=500, ge=1, description="outcomes that are handed over, and committed, together")


@dataclass(frozen=True)
class Decision:
    """What to do with an intent whose acceptance is not known.

    Attributes:
        do: "adopt" the batch, "inspect" ended batches for its keys, "wait" until more is known, or "submit" it.
        batches: the batch to adopt, or those to inspect.
    """

    do: Literal["adopt", "inspect", "wait", "submit"]
    batches: tuple[Batch, ...] = ()


def reconcile(intent: Intent, listed: Iterable[Batch], known: Collection[str], age: timedelta, settle: timedelta) -> Decision:
    """Say whether the provider has an intent.

    Where batches carry the token it decides. Elsewhere a batch may be this one when nobody knows its id and it has as many calls:
    an ended one shows its custom ids, a running one must end first.

    Args:
        intent: written, its id unknown.
        listed: the provider's batches since a while before the intent.
        known: ids of batches on record, and of those that were found to be others'.
        age: of the intent.
        settle: how long an accepted batch may take to be listed.
    """
    strangers = [batch for batch in listed if batch.id not in known]
    named = [batch for batch in strangers if batch.token == intent.token]
    if named:
        return Decision("adopt", (named[0],))
    possible = [batch for batch in strangers if batch.token is None and batch.total in (0, len(intent.keys))]
    ended = tuple(batch for batch in possible if batch.status == "ended")
    if ended:
        return Decision("inspect", ended)
    if age < settle or any(batch.status == "running" for batch in possible):
        return Decision("wait")
    return Decision("submit")


def next_attempt(tried: Tried | None, attempts: int) -> int:
    """Number of the next attempt of a call: 1 for a new one, and again after a final outcome (a new epoch asks anew).

    Args:
        tried: what is on record of it.
        attempts: most attempts.
    """
    if tried is None or tried.status is None or is_final(tried.status) or tried.attempt >= attempts:
        return 1
    return tried.attempt + 1


def is_final(status: str) -> bool:
    """Whether another attempt would change nothing."""
    return status in FINAL


def packed(requests: Iterable[Request], config: BatchConfig) -> list[list[Request]]:
    """Fill batches in order, up to the most calls and bytes."""
    batches: list[list[Request]] = []
    size = 0.0
    for request in requests:
        own = len(json.dumps(request.body, ensure_ascii=False).encode()) + len(request.key) + 200
        if not batches or len(batches[-1]) >= config.calls or size + own > config.megabytes * 1e6:
            batches.append([])
            size = 0.0
        batches[-1].append(request)
        size += own
    return batches
