"""OpenAI's chat completions and its Batch API, for OpenAI and for every server that speaks them (vLLM, TGI, Ollama, OpenRouter).

Belongs here: the wire format in both directions, over the official SDK. Does not: retries (the SDK's are switched off; the
dispatcher retries), prices, and reading the answer (`parsing.py`).
"""

import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, TypeVar, cast

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
from anmi_pipeline.judging.requests import (
    ANSWERED,
    DECLINED,
    Answer,
    Batch,
    BatchStatus,
    Outcome,
    Request,
    Retryable,
    Usage,
)  # fmt: skip

T = TypeVar("T")
LOG = logging.getLogger(__name__)
Sent = tuple[dict[str, object], int]
"""Fields of a body that calls share, and the tokens around the messages."""
OFFICIAL = "https://api.openai.com/v1"
COMPLETIONS = "/v1/chat/completions"
TOKEN_KEY = "anmi"
"""Metadata key of a batch's token."""
MAX_BATCH_CALLS = 50_000
MAX_BATCH_BYTES = 200_000_000
PAGE = 100
REQUEST_ID = ("x-request-id", "request-id", "x-litellm-call-id")
"""Headers that name a call, the provider's own first; where there is none of them the answer's own id names it."""
BARE_ANSWERS = 3
"""So many first answers without log-probabilities are the server's way, not one bad answer."""
KNOWN_WRITERS = 64
STATUSES: Mapping[str, BatchStatus] = {"completed": "ended", "expired": "ended", "cancelled": "ended", "failed": "failed"}
"""Other statuses are of batches that run."""


class OpenAIModel(Endpoint):
    """A model behind chat completions."""

    base_url: str = Field(default=OFFICIAL, description="base URL, as http://127.0.0.1:8000/v1 for a local server")
    api_key_env: str | None = Field(
        default="OPENAI_API_KEY",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="environment variable that holds the key; null for a server that asks for none",
    )
    form: AnswerForm = Field(default="token", description="how the model answers: token (log-probabilities), json or tool")
    temperature: float | None = Field(default=0.0, ge=0, le=2, description="null: not sent (reasoning models refuse it)")
    top_logprobs: int = Field(default=10, ge=2, le=20, description="alternatives of the answer token; form token only")
    limit_field: Literal["max_completion_tokens", "max_tokens"] | None = Field(
        default=None, description="name of the output limit; null: max_completion_tokens at OpenAI, max_tokens elsewhere"
    )
    structured: Literal["json_schema", "json_object", "none"] = Field(
        default="json_schema", description="how form json is asked for: what the server supports"
    )


class OpenAIClient:
    """One model behind chat completions, one attempt per call."""

    def __init__(self, settings: OpenAIModel) -> None:
        """Read the key and open a client.

        Raises:
            Refused: the key's variable is unset.
            InputError: `extra` sets what the judge sets itself.
        """
        import openai

        self._settings = settings
        self._errors = openai
        key = settings.key()
        self._place = Place(settings, key)
        quiet_libraries()
        self._fixed = lru_cache(KNOWN_WRITERS)(self._sent)
        self._without_logprobs: int | None = 0
        # A key or an URL from elsewhere than the settings would make equal call keys stand for different calls.
        self._sdk = openai.AsyncOpenAI(
            api_key=key, base_url=settings.base_url, max_retries=0, timeout=settings.timeout_s, http_client=http_client(openai)
        )
        # The SDK imports a resource when it is first asked for, a tenth of a second that would hold up calls under way.
        self._create = self._sdk.chat.completions.with_raw_response.create

    def __repr__(self) -> str:
        """Model and URL, never the key."""
        return f"OpenAIClient({self._settings.model!r} at {self._settings.base_url!r})"

    def sampling(self, writer: PromptWriter, documents: int) -> dict[str, object]:
        """Everything that is sent besides model and messages: `CallSettings.sampling`."""
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
        sent = self._create(model=str(body["model"]), messages=(), extra_body=body)
        raw = await attempt(sent, self._errors, self._place, texts_of(request))
        if isinstance(raw, str):
            return Outcome(request.key, raw, None, Usage(), latency_ms=1e3 * (time.monotonic() - started))
        latency = 1e3 * (time.monotonic() - started)
        named = next((raw.headers[name] for name in REQUEST_ID if raw.headers.get(name)), None)
        # A server that does not count may bill what was reserved: counted as nothing, it would never reach a cap.
        reserved = Usage(request.input_tokens, 0, request.max_output_tokens)
        found = outcome(request.key, decoded(raw.content), named, latency, reserved)
        self._look_for_logprobs(request, found)
        return found

    def _look_for_logprobs(self, request: Request, found: Outcome) -> None:
        """Say once that the server leaves out the log-probabilities it was asked for, by its first answers."""
        if self._without_logprobs in (None, BARE_ANSWERS) or found.text is None or not request.body.get("logprobs"):
            return
        self._without_logprobs = None if Answer.from_stored(found.text).logprobs else self._without_logprobs + 1
        if self._without_logprobs == BARE_ANSWERS:
            LOG.warning(
                "%s gives no log-probabilities: every answer counts as certain. Ask it with form: json, if it states grades.",
                self._place.where,
            )

    async def submit(self, requests: Sequence[Request], token: str) -> Batch:
        """Upload the requests and create a batch whose metadata hold the token.

        A kill between the two leaves a file without a batch, which costs nothing.

        Raises:
            Retryable, Refused: as `requests.BatchClient`.
        """
        lines = (
            {"custom_id": request.key, "method": "POST", "url": COMPLETIONS, "body": wire_body(request.body)}
            for request in requests
        )
        data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
        file = await self._batch_call(self._sdk.files.create(file=("anmi.jsonl", data), purpose="batch", timeout=BATCH_TIMEOUT_S))
        created = await self._batch_call(
            self._sdk.batches.create(
                input_file_id=file.id, endpoint=COMPLETIONS, completion_window="24h", metadata={TOKEN_KEY: token}
            )
        )
        return described(created)

    async def batches_since(self, since: datetime) -> list[Batch]:
        """List the batches created at or after a time, newest first."""
        earliest = int(since.timestamp())  # the provider's times are whole seconds
        found: list[Batch] = []
        page = await self._batch_call(self._sdk.batches.list(limit=PAGE))
        while True:
            found += [described(batch) for batch in page.data if batch.created_at >= earliest]
            if not page.has_next_page() or (page.data and page.data[-1].created_at < earliest):
                return found
            page = await self._batch_call(page.get_next_page())

    async def retrieve(self, batch_id: str) -> Batch:
        """Look one batch up."""
        return described(await self._batch_call(self._sdk.batches.retrieve(batch_id)))

    async def results(self, batch_id: str) -> AsyncIterator[Outcome]:
        """Yield the outcomes of an ended batch, answers first, then the calls that failed."""
        batch = await self._batch_call(self._sdk.batches.retrieve(batch_id))
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id is not None:
                content = await self._batch_call(self._sdk.files.content(file_id, timeout=BATCH_TIMEOUT_S))
                for line in content.text.split("\n"):  # not splitlines: JSON strings may hold U+2028
                    if line.strip():
                        yield self._batch_outcome(cast("dict[str, Any]", json.loads(line)))

    async def close(self) -> None:
        """Close the connections."""
        await self._sdk.close()

    def _batch_outcome(self, line: Mapping[str, Any]) -> Outcome:
        """One line of a result file. A call that failed is an outcome: raising would lose the other lines."""
        key, response = str(line["custom_id"]), cast("Mapping[str, Any]", line.get("response") or {})
        status = response.get("status_code")
        if status == 200:
            try:
                return outcome(key, response.get("body"), response.get("request_id"), None)
            except Retryable as error:
                return Outcome(key, error.kind, None, Usage(), request_id=response.get("request_id"))
        if status is None:
            return Outcome(key, str((line.get("error") or {}).get("code") or "batch_error"), None, Usage())
        failure = self._place.failure(int(status), {}, response.get("body"), ())
        kind = failure if isinstance(failure, str) else f"http_{status}"
        return Outcome(key, kind, None, Usage(), request_id=response.get("request_id"))

    async def _batch_call(self, call: Awaitable[T]) -> T:
        return await batch_call(call, self._errors, self._place)


def sent(settings: OpenAIModel, writer: PromptWriter, documents: int) -> Sent:
    """What is sent besides model and messages, and its tokens: the part of a request that calls of a writer share."""
    fixed = sampling(settings, writer, documents)
    return fixed, frame_tokens(fixed, writer.counter.count)


def written(settings: OpenAIModel, fixed: Sent, key: str, writer: PromptWriter, query: str, documents: Sequence[str]) -> Request:
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
        "messages": [{"role": "system", "content": messages.system}, {"role": "user", "content": messages.user}],
        **fixed[0],
    }
    return Request(key, body, settings.output_tokens(len(documents)), settings.input_tokens(messages.tokens, fixed[1]))


def sampling(settings: OpenAIModel, writer: PromptWriter, documents: int) -> dict[str, object]:
    """Everything that is sent besides model and messages, for a judge's `CallSettings` without opening a client.

    Args:
        settings: the model.
        writer: the writer of the messages.
        documents: documents shown.

    Raises:
        InputError: `extra` sets what the judge sets itself.
    """
    official = settings.base_url == OFFICIAL
    limit_field = settings.limit_field or ("max_completion_tokens" if official else "max_tokens")
    body: dict[str, object] = {limit_field: settings.output_tokens(documents)}
    if settings.temperature is not None:
        body["temperature"] = settings.temperature
    body |= _answer_fields(settings, writer)
    checked_extra(settings.extra, body)
    return body | ({"extra_body": dict(settings.extra)} if settings.extra else {})


def _answer_fields(settings: OpenAIModel, writer: PromptWriter) -> dict[str, object]:
    """The fields that make a model answer in a form."""
    tool, schema = writer.prompt.tool, dict(writer.prompt.schema_)
    if writer.form == "token":
        return {"logprobs": True, "top_logprobs": settings.top_logprobs}
    if writer.form == "tool":
        function = {"name": tool.name, "description": tool.description, "parameters": schema, "strict": True}
        return {
            "tools": [{"type": "function", "function": function}],
            "tool_choice": {"type": "function", "function": {"name": tool.name}},
            "parallel_tool_calls": False,
        }
    if settings.structured == "json_schema":
        return {"response_format": {"type": "json_schema", "json_schema": {"name": tool.name, "schema": schema, "strict": True}}}
    return {"response_format": {"type": "json_object"}} if settings.structured == "json_object" else {}


def outcome(key: str, body: object, request_id: str | None, latency_ms: float | None, uncounted: Usage | None = None) -> Outcome:
    """Read a chat completion.

    Args:
        key: call key.
        body: the decoded body.
        request_id: name of the call; the body's own when None.
        latency_ms: wall time of the attempt; None for batches.
        uncounted: tokens of an answer whose server does not count them; None: none.

    Raises:
        Retryable: the body is no completion.
    """
    answer = answer_of(body)
    if answer is None:
        raise Retryable(None, None, "bad_body")
    declined = answer.refusal is not None or answer.stop == "content_filter"
    fields = cast("Mapping[str, Any]", body)
    usage = usage_of(fields.get("usage"))
    counted = usage if usage != Usage() or uncounted is None else uncounted
    named = request_id or (str(fields["id"]) if fields.get("id") else None)
    status = DECLINED if declined else ANSWERED
    return Outcome(key, status, answer.stored(), counted, latency_ms=latency_ms, request_id=named)


def answer_of(body: object) -> Answer | None:
    """The answer in a chat completion; None when the body is no completion."""
    if not isinstance(body, Mapping):
        return None
    choices = cast("Mapping[str, Any]", body).get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        return None
    choice = cast("Mapping[str, Any]", choices[0])
    message = choice.get("message")
    if not isinstance(message, Mapping):
        return None
    message = cast("Mapping[str, Any]", message)
    calls = cast("list[Mapping[str, Any]]", message.get("tool_calls") or [])
    return Answer(
        text=str(message.get("content") or ""),
        arguments=str((calls[0].get("function") or {}).get("arguments") or "") if calls else None,
        logprobs=answer_token(choice.get("logprobs")),
        stop=str(choice.get("finish_reason") or ""),
        refusal=message.get("refusal") or None,
    )


def answer_token(logprobs: object) -> tuple[tuple[str, float], ...] | None:
    """The alternatives of the answer token: the first one with a letter or a digit, or else the first."""
    if not isinstance(logprobs, Mapping):
        return None
    tokens = cast("list[Mapping[str, Any]]", cast("Mapping[str, Any]", logprobs).get("content") or [])
    if not tokens:
        return None
    chosen = next((token for token in tokens if any(letter.isalnum() for letter in str(token.get("token")))), tokens[0])
    listed = [(str(one["token"]), float(one["logprob"])) for one in chosen.get("top_logprobs") or []]
    sampled = (str(chosen["token"]), float(chosen["logprob"]))
    return tuple(listed if any(token == sampled[0] for token, _ in listed) else [sampled, *listed])


def usage_of(usage: object) -> Usage:
    """Tokens billed; zeros when a server does not count."""
    if not isinstance(usage, Mapping):
        return Usage()
    fields = cast("Mapping[str, Any]", usage)
    details = cast("Mapping[str, Any]", fields.get("prompt_tokens_details") or {})
    return Usage(
        int(fields.get("prompt_tokens") or 0),
        int(details.get("cached_tokens") or 0),
        int(fields.get("completion_tokens") or 0),
        int(details.get("cache_write_tokens") or 0),
    )


def described(batch: Any) -> Batch:  # noqa: ANN401 - the SDK's model, imported only where it is used
    """The SDK's batch as ours."""
    counts = batch.request_counts
    return Batch(
        id=batch.id,
        token=(batch.metadata or {}).get(TOKEN_KEY),
        status=STATUSES.get(batch.status, "running"),
        created_at=datetime.fromtimestamp(batch.created_at, UTC),
        total=counts.total if counts else 0,
        done=counts.completed + counts.failed if counts else 0,
    )
