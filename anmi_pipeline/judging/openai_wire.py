"""The wire format of chat completions and of their batches, in both directions.

Belongs here: what the settings of a model become in a request, and what an answer says. Does not: sending (`openai_client.py`),
what every provider is sent alike (`endpoint.py`), and the vote in an answer (`parsing.py`).
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, cast

from pydantic import Field

from anmi_pipeline.judging.endpoint import Endpoint, Sent, checked_extra, frame_tokens
from anmi_pipeline.judging.prompts import AnswerForm, Messages, PromptWriter
from anmi_pipeline.judging.requests import ANSWERED, DECLINED, Answer, Batch, BatchStatus, Outcome, Retryable, Usage

OFFICIAL = "https://api.openai.com/v1"
TOKEN_KEY = "anmi"
"""Metadata key of a batch's token."""
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


def sent(settings: OpenAIModel, writer: PromptWriter, documents: int) -> Sent:
    """What is sent besides model and messages, and its tokens: the part of a request that calls of a writer share."""
    fixed = sampling(settings, writer, documents)
    return fixed, frame_tokens(fixed, writer.counter.count)


def messages_sent(messages: Messages) -> dict[str, object]:
    """The messages as fields of a body."""
    return {"messages": [{"role": "system", "content": messages.system}, {"role": "user", "content": messages.user}]}


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
