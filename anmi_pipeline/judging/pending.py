"""Batches that a run left waiting: which ones a dataset has at its providers, and whether it is time to run again.

Belongs here: reading open batches of a dataset and asking their providers how far they are. Does not: collecting them, which is
the next run's (`batches.py`). Nothing is written, submitted or collected.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from anmi_pipeline.errors import AnmiError, JudgeError
from anmi_pipeline.judging.anthropic_client import AnthropicClient
from anmi_pipeline.judging.intents import OPEN
from anmi_pipeline.judging.judge_configs import ApiJudgeConfig, OpenAIJudge
from anmi_pipeline.judging.ledger_tables import BATCHES, Books
from anmi_pipeline.judging.openai_client import OpenAIClient
from anmi_pipeline.judging.requests import BatchClient

Connect = Callable[[ApiJudgeConfig], BatchClient]


@dataclass(frozen=True)
class OpenBatch:
    """A batch whose results are not collected.

    Attributes:
        token: its name on record.
        provider: whose: judge, model and endpoint (`Batcher.name`).
        batch_id: the provider's id; None while it is not known whether the provider has it.
    """

    token: str
    provider: str
    batch_id: str | None


@dataclass(frozen=True)
class Waiting:
    """How far the open batches of a dataset are.

    Attributes:
        over: those that the provider has finished with: ended or failed.
        running: those that it is working on.
        unsure: those whose acceptance is not known; a run finds out.
        unknown: those whose provider did not say, with what it said instead.
    """

    over: tuple[OpenBatch, ...]
    running: tuple[OpenBatch, ...]
    unsure: tuple[OpenBatch, ...]
    unknown: tuple[tuple[OpenBatch, str], ...]

    @property
    def ready(self) -> bool:
        """Whether a run has something to do and nothing to wait for."""
        return bool(self.over or self.unsure) and not self.running and not self.unknown

    @property
    def name(self) -> str:
        """Name of this state: the same batches, the same name."""
        tokens = sorted(f"{batch.token} {batch.batch_id}" for batch in (*self.over, *self.unsure))
        return hashlib.sha256("\n".join(tokens).encode()).hexdigest()[:16]

    def said(self) -> str:
        """In one line, for people."""
        parts = [f"{len(self.over)} over", f"{len(self.running)} running", f"{len(self.unsure)} not confirmed"]
        return ", ".join([*parts, *(f"{batch.batch_id or batch.token}: {why}" for batch, why in self.unknown)])


def open_batches(books: Books, scopes: Iterable[str]) -> list[OpenBatch]:
    """The batches of these scopes that are not collected, oldest first.

    Args:
        books: the ledger.
        scopes: scopes of a dataset: its own, and those of its refreshes (`Epoch.scope`).
    """
    columns = [BATCHES.c[name] for name in ("token", "provider", "batch_id")]
    mine = (BATCHES.c.scope.in_(sorted(set(scopes))), BATCHES.c.state.in_(OPEN))
    query = sa.select(*columns).where(*mine).order_by(BATCHES.c.created_at, BATCHES.c.token)
    with books.transaction("read") as connection:
        return [OpenBatch(**row) for row in connection.execute(query).mappings()]


def connect(judge: ApiJudgeConfig) -> BatchClient:
    """The client of a judge.

    Raises:
        AnmiError: its key is not set, or its SDK is not installed.
    """
    return OpenAIClient(judge) if isinstance(judge, OpenAIJudge) else AnthropicClient(judge)


async def waiting(batches: Sequence[OpenBatch], judges: Sequence[ApiJudgeConfig], client_of: Connect = connect) -> Waiting:
    """Ask the providers about open batches.

    Args:
        batches: open batches (`open_batches`).
        judges: the dataset's judges behind APIs, one of whom submitted each batch.
        client_of: makes the client of a judge.
    """
    over: list[OpenBatch] = []
    running: list[OpenBatch] = []
    unknown: list[tuple[OpenBatch, str]] = []
    submitted = [batch for batch in batches if batch.batch_id is not None]
    for judge in judges:
        own = [batch for batch in submitted if belongs_to(batch, judge)]
        if own:
            told = await statuses(own, judge, client_of)
            over += [batch for batch in own if told[batch] in ("ended", "failed")]
            running += [batch for batch in own if told[batch] == "running"]
            unknown += [(batch, told[batch]) for batch in own if told[batch] not in ("ended", "failed", "running")]
    orphans = [batch for batch in submitted if not any(belongs_to(batch, judge) for judge in judges)]
    unknown += [(batch, f'the dataset has no judge "{batch.provider}" any more') for batch in orphans]
    unsure = [batch for batch in batches if batch.batch_id is None]
    return Waiting(tuple(over), tuple(running), tuple(unsure), tuple(unknown))


def belongs_to(batch: OpenBatch, judge: ApiJudgeConfig) -> bool:
    """Whether a judge submitted a batch."""
    return batch.provider.startswith(f"{judge.name}: {judge.model} at {judge.base_url} ")


async def statuses(batches: Sequence[OpenBatch], judge: ApiJudgeConfig, client_of: Connect) -> dict[OpenBatch, str]:
    """Status of each batch as its provider tells it, or why it does not."""
    try:
        client = client_of(judge)
    except AnmiError as error:
        return dict.fromkeys(batches, str(error))
    told: dict[OpenBatch, str] = {}
    try:
        for batch in batches:
            try:
                told[batch] = (await client.retrieve(batch.batch_id or "")).status
            except JudgeError as error:
                told[batch] = str(error)
    finally:
        await client.close()
    return told
