"""The wire format of Anthropic's messages and of their batches, in both directions.

Belongs here: what the settings of a model become in a request, and what an answer says. Does not: sending
(`anthropic_client.py`), what every provider is sent alike (`endpoint.py`), and the vote in an answer (`parsing.py`). There are no
log-probabilities: a graded forced choice, made by a tool call, stands in for them. The SDK takes no temperature; it is sent as an
extra field of the body, and only when set.
"""

import json
from collections.abc import Mapping
from datetime import UTC
from typing import Any, cast

from pydantic import Field

from anmi_pipeline.judging.endpoint import Endpoint, Sent, checked_extra, frame_tokens
from anmi_pipeline.judging.prompts import AnswerForm, Messages, PromptWriter
from anmi_pipeline.judging.requests import ANSWERED, DECLINED, Answer, Batch, Outcome, Retryable, Usage

OFFICIAL = "https://api.anthropic.com"


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


def messages_sent(messages: Messages) -> dict[str, object]:
    """The messages as fields of a body."""
    return {"system": messages.system, "messages": [{"role": "user", "content": messages.user}]}


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
