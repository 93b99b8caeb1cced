"""OpenAI's chat completions and its Batch API, for OpenAI and for every server that speaks them (vLLM, TGI, Ollama, OpenRouter).

Belongs here: one attempt per call and the turns of a batch, over the official SDK. Does not: the wire format (`openai_wire.py`),
retries (the SDK's are switched off; the dispatcher retries), prices, and the vote in an answer (`parsing.py`).
"""

import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVar, cast

from anmi_pipeline.judging.api_errors import Place, attempt, batch_call, decoded, texts_of
from anmi_pipeline.judging.endpoint import BATCH_TIMEOUT_S, Sent, http_client, quiet_libraries, wire_body, written
from anmi_pipeline.judging.openai_wire import TOKEN_KEY, OpenAIModel, described, messages_sent, outcome, sampling, sent
from anmi_pipeline.judging.prompts import PromptWriter
from anmi_pipeline.judging.requests import Answer, Batch, Outcome, Request, Retryable, Usage

T = TypeVar("T")
LOG = logging.getLogger(__name__)
COMPLETIONS = "/v1/chat/completions"
PAGE = 100
REQUEST_ID = ("x-request-id", "request-id", "x-litellm-call-id")
"""Headers that name a call, the provider's own first; where there is none of them the answer's own id names it."""
BARE_ANSWERS = 3
"""So many first answers without log-probabilities are the server's way, not one bad answer."""
KNOWN_WRITERS = 64


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
