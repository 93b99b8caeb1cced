"""A judge behind an API: calls become requests, outcomes become verdicts.

Belongs here: what joins prompts, clients, dispatch or batches, money and parsing into one judge. Does not: any of these. A judge
is built without its key: what is on record is read, and estimated, by people who have none.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path

import polars as pl

from anmi_pipeline.errors import JudgeError
from anmi_pipeline.judging import anthropic_wire, openai_wire
from anmi_pipeline.judging.anthropic_client import AnthropicClient
from anmi_pipeline.judging.api_calls import Shown, Texts, answer_rows, calls_of, keys_of, read_rows
from anmi_pipeline.judging.batches import Batcher
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.dispatch import Dispatcher
from anmi_pipeline.judging.endpoint import Sent, call_settings, written
from anmi_pipeline.judging.judge_configs import AnthropicJudge, ApiJudgeConfig, OpenAIJudge
from anmi_pipeline.judging.judges import CallSettings, JudgeEvidence
from anmi_pipeline.judging.ledger import as_time
from anmi_pipeline.judging.money import Money
from anmi_pipeline.judging.openai_client import OpenAIClient
from anmi_pipeline.judging.pacing import Pacer
from anmi_pipeline.judging.prices import Price, Tier
from anmi_pipeline.judging.prompts import PromptKind, PromptWriter, read_prompt
from anmi_pipeline.judging.requests import BatchClient, Outcome, Request, Retryable

MARGIN = 1.25
"""An attempt is given up at the endpoint's timeout times this: the SDKs' own counts from byte to byte."""


class ApiJudge:
    """A model behind an API with one prompt."""

    chunk = 1_000_000
    late = True
    learns = False

    def __init__(
        self,
        settings: ApiJudgeConfig,
        evidence: JudgeEvidence,
        config: JudgingConfig,
        money: Money | None = None,
        prompt: PromptKind | None = None,
        conf: Path | None = None,
    ) -> None:
        """Prepare; reads no key and opens nothing.

        Args:
            settings: endpoint, model, dispatch.
            evidence: the texts.
            config: the dataset's instruction, and when verdicts expire.
            money: caps and prices; None for a judge that is never asked.
            prompt: another prompt than the settings name: `pointwise` for anchors.
            conf: the user's configuration folder, whose prompts stand above the shipped ones.
        """
        self._settings, self._evidence, self._config, self._money = settings, evidence, config, money
        self._prompt: PromptKind = prompt or settings.prompt
        self.folds = self._prompt == "listwise"
        self.writer = PromptWriter(read_prompt(self._prompt, conf), settings.form, config.instruction, settings.limits)
        self._sent = lru_cache(64)(self._fixed)
        self._client: BatchClient | None = None
        self._pacer: Pacer | None = None
        self._dispatcher: Dispatcher | None = None
        self._stopped = False

    @property
    def name(self) -> str:
        """Judge id."""
        return self._settings.name

    @property
    def tier(self) -> Tier:
        """Which prices hold."""
        return "sync" if self._settings.batch is None else "batch"

    def price(self) -> Price | None:
        """What its calls cost; None when nobody knows.

        Raises:
            InputError: the price is not known, and spending is capped.
        """
        return None if self._money is None else self._money.price(self._settings.model, self.tier)

    def settings(self, judge_id: str, documents: int = 2) -> CallSettings:
        """Endpoint, model, prompt and sampling of calls that show so many documents."""
        return call_settings(judge_id, self._settings, self.writer, self._sent(documents)[0])

    def context(self, calls: pl.DataFrame) -> Sequence[bytes] | None:
        """Texts and settings say everything."""
        return None

    def keys(self, plan: pl.DataFrame, evidence: JudgeEvidence) -> list[str]:
        """One call key per row; the rows of one list share theirs."""
        return keys_of(plan, self._prompt, evidence, lambda judge, count: self.settings(judge, count).digest())

    def read(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Parse the stored answers."""
        return read_rows(rows, self._prompt)

    def learn(self, judgments: pl.DataFrame) -> None:
        """Nothing to learn from others."""

    def requests(self, calls: pl.DataFrame) -> list[Request]:
        """The requests of calls (CALLS columns), each call once. Needs no key."""
        shown = calls_of(calls, self._prompt)
        return list(self._written(shown))

    async def open(self) -> None:
        """Read the key, look the price up, make the client."""
        if self._client is None:
            self.price()
            settings = self._settings
            made = OpenAIClient(settings) if isinstance(settings, OpenAIJudge) else AnthropicClient(settings)
            self._client = Bounded(made, settings.timeout_s * MARGIN)
            self._pacer = Pacer(settings.dispatch.pace)

    def stop(self) -> None:
        """Send nothing more."""
        self._stopped = True
        if self._dispatcher is not None:
            self._dispatcher.stop()

    async def close(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def answer(self, calls: pl.DataFrame) -> AsyncGenerator[pl.DataFrame]:
        """Ask, by plain calls or by batches.

        Raises:
            JudgeError: no call can be answered.
            CapReached: the next call does not fit under the cap.
            BatchPending: batches are on their way.
        """
        await self.open()
        days = self._config.expire_days
        expires_at = None if days is None else as_time(datetime.now(UTC) + timedelta(days=days))
        shown = calls_of(calls, self._prompt)
        sizes = {call.key: len(call.documents) for call in shown}
        async with aclosing(self._outcomes(shown)) as parts:
            async for part in parts:
                yield answer_rows(part, self._prompt, expires_at, sizes)

    async def _outcomes(self, calls: list[Shown]) -> AsyncGenerator[list[Outcome]]:
        if self._client is None or self._money is None:
            raise JudgeError(f'judge "{self.name}" was built to be read, not to be asked.')
        if self._stopped:
            return
        budget, requests = self._money.budget(), self._written(calls)
        if self._settings.batch is not None:
            batcher = Batcher(self._client, self._batch_name(), budget, self.price(), self._settings.batch)
            source = batcher.turn(list(requests))
        else:
            self._dispatcher = Dispatcher(
                self._client, self._settings.dispatch, price=self.price(), budget=budget, pacer=self._pacer
            )
            source = self._dispatcher.parts(requests, len(calls))
        async with aclosing(source) as parts:
            async for part in parts:
                yield part

    def _batch_name(self) -> str:
        return f"{self.name}: {self._settings.model} at {self._settings.base_url} ({self._prompt})"

    def _written(self, calls: list[Shown]) -> Iterator[Request]:
        """Write the requests one by one, as they are taken."""
        texts, settings = Texts(self._evidence, calls), self._settings
        wire = openai_wire if isinstance(settings, OpenAIJudge) else anthropic_wire
        for call in calls:
            query, documents = texts.of(call)
            fixed = self._sent(len(documents))
            yield written(settings, fixed, call.key, self.writer, query, documents, wire.messages_sent)

    def _fixed(self, documents: int) -> Sent:
        if isinstance(self._settings, AnthropicJudge):
            return anthropic_wire.sent(self._settings, self.writer, documents)
        return openai_wire.sent(self._settings, self.writer, documents)


class Bounded:
    """A client whose attempts end: the SDKs' timeouts start anew with every byte, so a slow answer could take for ever."""

    def __init__(self, client: BatchClient, seconds: float) -> None:
        """Bound single calls; those about batches carry files and have the client's own bound."""
        self._client, self._seconds = client, seconds
        self.submit, self.batches_since = client.submit, client.batches_since
        self.retrieve, self.results = client.retrieve, client.results

    async def send(self, request: Request) -> Outcome:
        """Make one attempt.

        Raises:
            Retryable, Refused: as `requests.Client`.
        """
        try:
            return await asyncio.wait_for(self._client.send(request), self._seconds)
        except TimeoutError:
            pass
        raise Retryable(None, None, "timeout")

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()
