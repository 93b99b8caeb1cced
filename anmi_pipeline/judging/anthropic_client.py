"""Anthropic's messages and its Message Batches API.

Belongs here: the wire format in both directions, over the official SDK. Does not: retries (the SDK's are switched off; the
dispatcher retries), prices, and reading the answer (`parsing.py`). There are no log-probabilities: a graded forced choice, made
by a tool call, stands in for them. The SDK takes no temperature; it is sent as an extra field of the body, and only when set.
"""

import json
import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeVar, cast

from pydantic import Field

from anmi_pipeline.judging.api_errors import Place, attempt, batch_call, decoded, texts_of
from anmi_pipeline.judging.endpoint import (
    BATCH_TIMEOUT_S,
    Endpoint,
    checked_extra,
    frame_tokens,
    http_client,
    quiet_libraries,
    wire_body,
)
from anmi_pipeline.judging.prompts import AnswerForm, PromptWriter
from anmi_pipeline.judging.requests import ANSWERED, DECLINED, Answer, Batch, Outcome, Request, Retryable, Usage

T = TypeVar("T")
Sent = tuple[dict[str, object], int]
"""Fields of a body that calls share, and the tokens around the messages."""
OFFICIAL = "https://api.anthropic.com"
MAX_BATCH_CALLS = 100_000
MAX_BATCH_BYTES = 256_000_000
PAGE = 100
KNOWN_WRITERS = 64


class AnthropicModel(Endpoint):
    """A model behind Anthropic's messages."""

    base_url: str = Field(default=OFFICIAL, description="base URL, without /v1")
    api_key_env: str | None = Field(
        default="ANTHROPIC_API_KEY",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="environment variable that holds the key; null for a server that asks for none",
    )
    form: AnswerForm = Field(
        default="tool", description="how the model answers: tool (a grade), json (a grade as text) or token (a letter, no grade)"
    )
    temperature: float | None = Field(
        default=None, ge=0, le=1, description="null: not sent, the provider's own holds; newer models refuse any other"
    )
    token_factor: float = Field(
        default=1.4, ge=0.5, le=4, description="billed input tokens per counted one, rounded up; reservations use it"
    )
    tool_tokens: int = Field(
        default=400, ge=0, description="input tokens that the provider adds to a call with a tool, at most; for reservations"
    )


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
        return written(self._settings, self._fixed(writer, len(documents)), key, writer, query, documents)

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


STATUSES = {
    "invalid_request_error": 400, "authentication_error": 401, "billing_error": 402, "permission_error": 403,
    "not_found_error": 404, "request_too_large": 413, "rate_limit_error": 429, "api_error": 500, "timeout_error": 504,
    "overloaded_error": 529,
}  # fmt: skip
"""HTTP status of each type of error, for results of batches, which have types only."""


def sent(settings: AnthropicModel, writer: PromptWriter, documents: int) -> Sent:
    """What is sent besides model and messages, and its tokens: the part of a request that calls of a writer share."""
    fixed = sampling(settings, writer, documents)
    tool_tokens = settings.tool_tokens if writer.form == "tool" else 0
    return fixed, frame_tokens(fixed, writer.counter.count) + tool_tokens


def written(
    settings: AnthropicModel, fixed: Sent, key: str, writer: PromptWriter, query: str, documents: Sequence[str]
) -> Request:
    """Write one request; needs no key and no connection.

    Args:
        settings: the model.
        fixed: what `sent` gives for the writer and the number of documents.
        key: call key.
        writer: writes the messages.
        query: text of the query.
        documents: texts in the order shown.
    """
    messages = writer.write(query, documents)
    body: dict[str, object] = {
        "model": settings.model,
        "system": messages.system,
        "messages": [{"role": "user", "content": messages.user}],
        **fixed[0],
    }
    return Request(key, body, settings.output_tokens(len(documents)), settings.input_tokens(messages.tokens, fixed[1]))


def sampling(settings: AnthropicModel, writer: PromptWriter, documents: int) -> dict[str, object]:
    """Everything that is sent besides model, system and messages, without opening a client.

    Args:
        settings: the model.
        writer: the writer of the messages.
        documents: documents shown.

    Raises:
        InputError: `extra` sets what the judge sets itself.
    """
    body: dict[str, object] = {"max_tokens": settings.output_tokens(documents)}
    extra: dict[str, object] = {} if settings.temperature is None else {"temperature": settings.temperature}
    if writer.form == "tool":
        tool = writer.prompt.tool
        body["tools"] = [{"name": tool.name, "description": tool.description, "input_schema": dict(writer.prompt.schema_)}]
        body["tool_choice"] = {"type": "tool", "name": tool.name, "disable_parallel_tool_use": True}
    checked_extra(settings.extra, body | extra)
    extra |= settings.extra
    return body | ({"extra_body": extra} if extra else {})


def outcome(key: str, body: object, request_id: str | None, latency_ms: float | None) -> Outcome:
    """Read a message.

    Raises:
        Retryable: the body is no message.
    """
    answer = answer_of(body)
    if answer is None:
        raise Retryable(None, None, "bad_body")
    usage = usage_of(cast("Mapping[str, Any]", body).get("usage"))
    status = DECLINED if answer.stop == "refusal" else ANSWERED
    return Outcome(key, status, answer.stored(), usage, latency_ms=latency_ms, request_id=request_id)


def answer_of(body: object) -> Answer | None:
    """The answer in a message; None when the body is no message."""
    if not isinstance(body, Mapping):
        return None
    fields = cast("Mapping[str, Any]", body)
    content = fields.get("content")
    if not isinstance(content, list) or not all(isinstance(block, Mapping) for block in cast("list[object]", content)):
        return None
    blocks = cast("list[Mapping[str, Any]]", content)
    calls = [block.get("input") for block in blocks if block.get("type") == "tool_use"]
    return Answer(
        text="".join(str(block.get("text") or "") for block in blocks if block.get("type") == "text"),
        arguments=json.dumps(calls[0], ensure_ascii=False) if calls else None,
        stop=str(fields.get("stop_reason") or ""),
    )


def usage_of(usage: object) -> Usage:
    """Tokens billed. The provider counts cached and written tokens apart; here they are part of the input."""
    if not isinstance(usage, Mapping):
        return Usage()
    fields = cast("Mapping[str, Any]", usage)
    cached = int(fields.get("cache_read_input_tokens") or 0)
    stored = int(fields.get("cache_creation_input_tokens") or 0)
    read = int(fields.get("input_tokens") or 0) + cached + stored
    return Usage(read, cached, int(fields.get("output_tokens") or 0), stored)


def described(batch: Any) -> Batch:  # noqa: ANN401 - the SDK's model, imported only where it is used
    """The SDK's batch as ours."""
    counts = batch.request_counts
    done = counts.succeeded + counts.errored + counts.canceled + counts.expired
    return Batch(
        id=batch.id,
        token=None,
        status="ended" if batch.processing_status == "ended" else "running",
        created_at=batch.created_at.astimezone(UTC),
        total=done + counts.processing,
        done=done,
    )
