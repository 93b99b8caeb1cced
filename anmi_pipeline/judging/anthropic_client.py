"""Anthropic's messages and its Message Batches API.

Belongs here: one attempt per call and the turns of a batch, over the official SDK. Does not: the wire format
(`anthropic_wire.py`), retries (the SDK's are switched off; the dispatcher retries), prices, and the vote in an answer
(`parsing.py`).
"""

import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVar, cast

from anmi_pipeline.judging.anthropic_wire import STATUSES, AnthropicModel, described, messages_sent, outcome, sampling, sent
from anmi_pipeline.judging.api_errors import Place, attempt, batch_call, decoded, texts_of
from anmi_pipeline.judging.endpoint import BATCH_TIMEOUT_S, Sent, http_client, quiet_libraries, wire_body, written
from anmi_pipeline.judging.prompts import PromptWriter
from anmi_pipeline.judging.requests import Batch, Outcome, Request, Retryable, Usage

T = TypeVar("T")
PAGE = 100
KNOWN_WRITERS = 64


class AnthropicClient:
    """One model behind Anthropic's messages, one attempt per call."""

    def __init__(self, settings: AnthropicModel) -> None:
        """Read the key and open a client.

        Raises:
            Refused: the key's variable is unset.
        """
        import anthropic

        self._settings = settings
        self._errors = anthropic
        key = settings.key()
        self._place = Place(settings, key)
        quiet_libraries()
        self._fixed = lru_cache(KNOWN_WRITERS)(self._sent)
        self._sdk = anthropic.AsyncAnthropic(
            api_key=key, base_url=settings.base_url, max_retries=0, timeout=settings.timeout_s, http_client=http_client(anthropic)
        )
        # The SDK imports a resource when it is first asked for, a tenth of a second that would hold up calls under way.
        self._create = self._sdk.messages.with_raw_response.create

    def __repr__(self) -> str:
        """Model and URL, never the key."""
        return f"AnthropicClient({self._settings.model!r} at {self._settings.base_url!r})"

    def sampling(self, writer: PromptWriter, documents: int) -> dict[str, object]:
        """Everything that is sent besides model, system and messages: `CallSettings.sampling`."""
        return sampling(self._settings, writer, documents)

    def _sent(self, writer: PromptWriter, documents: int) -> Sent:
        return sent(self._settings, writer, documents)

    def request(self, key: str, writer: PromptWriter, query: str, documents: Sequence[str]) -> Request:
        """Write one request.

        Args:
            key: call key.
            writer: writes the messages.
            query: text of the query.
            documents: texts in the order shown.
        """
        fixed = self._fixed(writer, len(documents))
        return written(self._settings, fixed, key, writer, query, documents, messages_sent)

    async def send(self, request: Request) -> Outcome:
        """Make one attempt.

        Raises:
            Retryable, Refused: as `requests.Client`.
        """
        started = time.monotonic()
        # As an extra body: the SDK walks typed arguments against its types, which costs a third of the time of a call.
        body = wire_body(request.body)
        sent = self._create(model=str(body["model"]), max_tokens=request.max_output_tokens, messages=(), extra_body=body)
        raw = await attempt(sent, self._errors, self._place, texts_of(request))
        latency = 1e3 * (time.monotonic() - started)
        if isinstance(raw, str):
            return Outcome(request.key, raw, None, Usage(), latency_ms=latency)
        return outcome(request.key, decoded(await raw.read()), raw.headers.get("request-id"), latency)

    async def submit(self, requests: Sequence[Request], token: str) -> Batch:
        """Create a batch. The provider keeps no token: the custom ids of its results tell a batch.

        Raises:
            Retryable, Refused: as `requests.BatchClient`.
        """
        del token
        calls = [{"custom_id": request.key, "params": wire_body(request.body)} for request in requests]
        return described(
            await self._batch_call(self._sdk.messages.batches.create(requests=cast("Any", calls), timeout=BATCH_TIMEOUT_S))
        )

    async def batches_since(self, since: datetime) -> list[Batch]:
        """List the batches created at or after a time, newest first."""
        found: list[Batch] = []
        page = await self._batch_call(self._sdk.messages.batches.list(limit=PAGE))
        while True:
            found += [described(batch) for batch in page.data if batch.created_at >= since]
            if not page.has_next_page() or (page.data and page.data[-1].created_at < since):
                return found
            page = await self._batch_call(page.get_next_page())

    async def retrieve(self, batch_id: str) -> Batch:
        """Look one batch up."""
        return described(await self._batch_call(self._sdk.messages.batches.retrieve(batch_id)))

    async def results(self, batch_id: str) -> AsyncIterator[Outcome]:
        """Yield the outcome of every call of an ended batch."""
        decoder = await self._batch_call(self._sdk.messages.batches.results(batch_id, timeout=BATCH_TIMEOUT_S))
        lines = aiter(decoder)
        while (line := await self._batch_call(anext(lines, None))) is not None:
            yield self._batch_outcome(line.custom_id, line.result.to_dict(mode="json"))

    async def close(self) -> None:
        """Close the connections."""
        await self._sdk.close()

    def _batch_outcome(self, key: str, result: Mapping[str, Any]) -> Outcome:
        """One result of a batch. A call that failed is an outcome: raising would lose the others."""
        if result["type"] == "succeeded":
            try:
                return outcome(key, result.get("message"), None, None)
            except Retryable as error:
                return Outcome(key, error.kind, None, Usage())
        if result["type"] == "errored":
            error = result.get("error")
            status = STATUSES.get(str(((error or {}).get("error") or {}).get("type")), 500)
            failure = self._place.failure(status, {}, error, ())
            return Outcome(key, failure if isinstance(failure, str) else f"http_{status}", None, Usage())
        return Outcome(key, f"batch_{result['type']}", None, Usage())

    async def _batch_call(self, call: Awaitable[T]) -> T:
        return await batch_call(call, self._errors, self._place)
