"""An API endpoint: what a configuration says about it, its key, and what the clients of all providers do alike.

Belongs here: settings, the key, and what is sent whatever the provider. Does not: errors (`api_errors.py`) and wire formats
(`openai_wire.py`, `anthropic_wire.py`).
"""

import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from types import ModuleType
from typing import Annotated, Any, cast
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, JsonValue, field_validator

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.judges import CallSettings
from anmi_pipeline.judging.prompts import AnswerForm, Messages, PromptWriter
from anmi_pipeline.judging.requests import Refused, Request
from anmi_pipeline.settings import Config

VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"
FRAME_TOKENS = 16
"""Tokens that providers add around two messages: 3 a message and 3 for the answer where it is documented."""
BATCH_TIMEOUT_S = 600.0
"""Batches are up to 256 MB, which a timeout made for one call would cut off."""
Sent = tuple[dict[str, object], int]
"""Fields of a body that calls share, and the tokens around the messages."""
QUIET = ("openai", "anthropic", "httpx", "httpx2", "httpcore", "httpcore2")


class Endpoint(Config):
    """One model behind one API."""

    # The URL that is refused may hold a password, which the message must not repeat.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    model: str = Field(min_length=1, description="model, with its date where the provider has dated names")
    base_url: str = Field(description="base URL of the API")
    api_key_env: Annotated[str, Field(pattern=VARIABLE)] | None = Field(
        description="environment variable that holds the key; null for a server that asks for none"
    )
    form: AnswerForm = Field(description="how the model answers: token (log-probabilities), json or tool")
    max_output_tokens: int | None = Field(
        default=None, ge=1, description="most output tokens, hidden reasoning included; null: what the form needs"
    )
    timeout_s: float = Field(default=60.0, gt=0, description="seconds after which an attempt is given up")
    token_factor: float = Field(
        default=1.0, ge=0.5, le=4, description="billed input tokens per counted one, rounded up; reservations use it"
    )
    extra: Mapping[str, JsonValue] = Field(
        default={}, description="further fields of the request body, as the provider names them (seed, reasoning_effort, ...)"
    )

    @field_validator("base_url")
    @classmethod
    def plain_url(cls, url: str) -> str:
        """Refuse what is no URL, and a password in it: URLs are logged and stored."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("base_url must begin with http:// or https:// and name a host")
        if parts.username is not None or parts.password is not None:
            raise ValueError("base_url holds a user or a password; give the key through api_key_env instead")
        return url.rstrip("/")

    def output_tokens(self, documents: int) -> int:
        """Most output tokens of one call.

        Args:
            documents: documents shown.
        """
        if self.max_output_tokens is not None:
            return self.max_output_tokens
        return {"token": 4, "json": 64, "tool": 192}[self.form] + (0 if self.form == "token" else 8 * documents)

    def key(self, environment: Mapping[str, str] = os.environ) -> str:
        """Read the key; "none" for a server that asks for none.

        Raises:
            Refused: the variable is unset, or holds what no header can carry.
        """
        if self.api_key_env is None:
            return "none"
        key = environment.get(self.api_key_env, "").strip()
        if not key:
            raise Refused(f'the environment variable {self.api_key_env} is not set; model "{self.model}" needs the key in it.')
        if not (key.isascii() and key.isprintable()):
            raise Refused(f"the environment variable {self.api_key_env} holds characters that are in no key. Set it again.")
        return key

    def input_tokens(self, messages: int, frame: int) -> int:
        """Tokens of the input to reserve for.

        Args:
            messages: counted tokens of the messages.
            frame: counted tokens of what is sent around them (`frame_tokens`).
        """
        return math.ceil((messages + frame) * self.token_factor)


def http_client(sdk: ModuleType) -> Any:  # noqa: ANN401 - a class of the SDK, imported only where it is used
    """The SDK's HTTP client over aiohttp, None (its default) where that is not installed.

    The default's pool looks at every idle connection for every call: at 64 workers that is a third of the time of a call.
    """
    return sdk.DefaultAioHttpClient() if find_spec("aiohttp") else None


def quiet_libraries() -> None:
    """Keep HTTP libraries from writing one line per call at INFO; a level that someone has set stays."""
    for name in QUIET:
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.WARNING)


def call_settings(judge: str, endpoint: Endpoint, writer: PromptWriter, sampling: Mapping[str, object]) -> CallSettings:
    """Everything besides the texts that an answer depends on. Key, timeout and what is reserved for a call are no part of it.

    Args:
        judge: judge id.
        endpoint: the model.
        writer: the writer of the messages.
        sampling: what is sent besides model and messages (`sampling` of the wire format).
    """
    return CallSettings(judge, endpoint.base_url, endpoint.model, writer.identity(), writer.version, sampling)


def written(
    settings: Endpoint,
    fixed: Sent,
    key: str,
    writer: PromptWriter,
    query: str,
    documents: Sequence[str],
    messages_sent: Callable[[Messages], Mapping[str, object]],
) -> Request:
    """Write one request; needs no key and no connection.

    Args:
        settings: the model.
        fixed: what calls of the writer with so many documents share (`sent` of the wire format).
        key: call key.
        writer: writes the messages.
        query: text of the query.
        documents: texts in the order shown.
        messages_sent: the messages as fields of a body (of the wire format).
    """
    messages = writer.write(query, documents)
    body: dict[str, object] = {"model": settings.model, **messages_sent(messages), **fixed[0]}
    return Request(key, body, settings.output_tokens(len(documents)), settings.input_tokens(messages.tokens, fixed[1]))


def wire_body(body: Mapping[str, object]) -> dict[str, object]:
    """Keyword arguments of the SDK as the body it sends: `extra_body` folded in."""
    extra = cast("Mapping[str, object]", body.get("extra_body") or {})
    return {**{name: value for name, value in body.items() if name != "extra_body"}, **extra}


def frame_tokens(sampling: Mapping[str, object], count: Callable[[str], int]) -> int:
    """Tokens of what a provider reads besides the messages: its own frame, tools and schema as they are sent.

    Args:
        sampling: what is sent besides model and messages.
        count: counts tokens of a text.
    """
    read = {name: sampling[name] for name in ("tools", "response_format") if name in sampling}
    return FRAME_TOKENS + (count(json.dumps(read)) if read else 0)


def checked_extra(extra: Mapping[str, JsonValue], own: Mapping[str, object]) -> None:
    """Refuse further fields that would replace what the client sends.

    Raises:
        InputError: a field stands in both.
    """
    twice = sorted(set(extra) & (set(own) | {"messages", "model", "system", "stream", "n"}))
    if twice:
        raise InputError(f'extra sets "{twice[0]}", which the judge sets itself. Use its own setting, or leave it out.')
