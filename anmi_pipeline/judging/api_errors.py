"""What the errors of APIs mean: another attempt, another call, or a person who must change something.

Belongs here: the mapping of both SDKs' errors to ours. Does not: retries (the dispatcher's). Nothing here shows a key, a text of
a call, or a text of a provider that may quote one.
"""

import json
import re
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import ModuleType
from typing import TypeVar, cast

from anmi_pipeline.judging.endpoint import Endpoint
from anmi_pipeline.judging.requests import DECLINED, TOO_LONG, UNREACHABLE, Refused, Request, Retryable

T = TypeVar("T")
RETRYABLE = (408, 409, 425, 429)
NOT_CONNECTED = {"aiohttp": "ClientConnectorError", "httpcore": "ConnectError"}
"""Errors of the transports whose connection was never made: no address, refused, no TLS. httpx's own names do not tell."""
NO_CREDIT = re.compile(r"insufficient_quota|billing_hard_limit|credit balance|out of credit", re.IGNORECASE)
CONTEXT = re.compile(
    r"context_length_exceeded|string_above_max_length|prompt is too long|maximum context length|context (?:window|length)|"
    r"request_too_large|too many tokens",
    re.IGNORECASE,
)
NO_KEY = re.compile(r"\bno_db_connection\b")
"""What LiteLLM's proxy calls a key that is not its master key when it has no table of others; it says 400."""
POLICY = re.compile(r"content_filter|content_policy|invalid_prompt|responsible_?ai|safety", re.IGNORECASE)
SHINGLE = 20
"""Characters that a quoted error may not share with a text of the call."""
LONGEST_QUOTE = 200
"""Characters of a provider's message that are shown."""
LONGEST_WAIT = 24 * 3600.0
RETRY_AFTER = ("retry-after", "llm_provider-retry-after")
"""Headers that say when to come back; LiteLLM's proxy renames its provider's, and its own."""


@dataclass(frozen=True)
class Place:
    """What the errors of a call may name: endpoint, model, variable. Never the key.

    Attributes:
        endpoint: the endpoint.
        secret: the key, which no message may hold.
    """

    endpoint: Endpoint
    secret: str

    def __repr__(self) -> str:
        """Without the key."""
        return f"Place({self.endpoint.model!r} at {self.endpoint.base_url!r})"

    @property
    def where(self) -> str:
        """Model and URL for a message."""
        return f'model "{self.endpoint.model}" at {self.endpoint.base_url}'

    @property
    def key_name(self) -> str:
        """How messages name the key."""
        variable = self.endpoint.api_key_env
        return f"the key in {variable}" if variable else "the call without a key (api_key_env is null)"

    def failure(self, status: int, headers: Mapping[str, str], body: object, texts: Sequence[str]) -> Retryable | Refused | str:
        """Say what an HTTP error means.

        Args:
            status: HTTP status.
            headers: response headers, names in lower case.
            body: the decoded body, or its text.
            texts: texts of the call, which no message may quote.

        Returns:
            The error to raise, or the status of an outcome when only this call is affected.
        """
        code, message = error_of(body)
        said = f"{code} {message}"
        if status == 402 or NO_CREDIT.search(said):
            return Refused(
                f"the account of {self.key_name} has no credit left for {self.where} ({status}). Add credit or change it."
            )
        if status in RETRYABLE or status >= 500:
            return Retryable(status, retry_after(headers))
        if NO_KEY.search(code):
            status = 401
        if status == 413 or CONTEXT.search(said):
            return TOO_LONG
        if status not in (401, 403, 404) and POLICY.search(code):
            return DECLINED
        return Refused(self._refusal(status, code, message, texts))

    def _refusal(self, status: int, code: str, message: str, texts: Sequence[str]) -> str:
        """One sentence, and what to do."""
        if status == 401:
            return f"{self.key_name} was refused for {self.where} (401). Set it to a valid key."
        if status == 403:
            return f"{self.key_name} may not use {self.where} (403). Allow the model for this key or name another one."
        if status == 404:
            return f"{self.where} does not exist (404). Correct model or base_url."
        quoted = self.quotable(message, texts) or (code if re.fullmatch(r"[\w.\[\]-]{1,80}", code) else "")
        detail = f": {quoted.rstrip('.')}" if quoted and self.secret not in quoted else ""
        return f"{self.where} refused the request ({status}){detail}. Correct the settings of the judge."

    def quotable(self, message: str, texts: Sequence[str]) -> str:
        """A provider's message on one line, or "" when it holds anything of the key or of a text of the call."""
        line = " ".join(message.split())
        line = line if len(line) <= LONGEST_QUOTE else f"{line[:LONGEST_QUOTE]}…"
        pieces = {line[at : at + SHINGLE] for at in range(max(len(line) - SHINGLE, 0) + 1)}
        joined = "\n".join(" ".join(text.split()) for text in texts)
        if any(piece in joined for piece in pieces if len(piece) == SHINGLE):
            return ""
        ends = {self.secret[:6], self.secret[-4:]} if len(self.secret) > 8 else {self.secret}
        return "" if any(end in line for end in ends) else line


def error_of(body: object) -> tuple[str, str]:
    """Code and message of an error body; "" for what is absent.

    Read are the forms of both providers, an error that is a text alone, and FastAPI's `detail`, whose list quotes what was
    sent in a field `input`, which is left out.

    >>> error_of({"error": {"code": "400", "type": "invalid_request_error", "message": "No."}})
    ('invalid_request_error', 'No.')
    >>> error_of({"detail": [{"loc": ["body", "model"], "msg": "Field required", "input": {}}]})
    ('', 'body.model: Field required')
    """
    fields = cast("Mapping[str, object]", body) if isinstance(body, Mapping) else {}
    inner = fields.get("error")
    error = cast("Mapping[str, object]", inner) if isinstance(inner, Mapping) else fields
    codes = [str(code) for code in (error.get("code"), error.get("type")) if code]
    code = next((one for one in codes if not one.isdecimal()), codes[0] if codes else "")
    said = error.get("message") or (inner if isinstance(inner, str) else "") or _detail(fields.get("detail"))
    return code, str(said)


def _detail(detail: object) -> str:
    """FastAPI's `detail`: a text, or the fields that were refused."""
    if isinstance(detail, str):
        return detail
    listed = cast("list[object]", detail) if isinstance(detail, list) else []
    wrong = [cast("Mapping[str, object]", one) for one in listed if isinstance(one, Mapping)]
    return "; ".join(f"{_place(one.get('loc'))}: {one.get('msg')}".removeprefix(": ") for one in wrong)


def _place(loc: object) -> str:
    return ".".join(map(str, cast("list[object]", loc))) if isinstance(loc, list) else ""


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that a provider asks to wait: `retry-after-ms`, or one of RETRY_AFTER in seconds, or `retry-after` as a date.

    Args:
        headers: response headers, names in lower case.
        now: the time; the clock's when None.

    >>> retry_after({"retry-after": "2"}), retry_after({"retry-after-ms": "150"}), retry_after({"retry-after": "soon"})
    (2.0, 0.15, None)
    """
    for name, unit in (("retry-after-ms", 1e-3), *((name, 1.0) for name in RETRY_AFTER)):
        text = headers.get(name, "")
        if re.fullmatch(r"\d{1,12}(?:\.\d{1,12})?", text):
            return min(float(text) * unit, LONGEST_WAIT)
    try:
        moment = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return min(max((moment - (now or datetime.now(UTC))).total_seconds(), 0.0), LONGEST_WAIT)


async def attempt(call: Awaitable[T], sdk: ModuleType, place: Place, texts: Sequence[str]) -> T | str:
    """Await one attempt; its result, or the status of an outcome without one.

    Args:
        call: the SDK's call.
        sdk: the SDK, whose exceptions are caught; both have the same names for them.
        place: what errors may name.
        texts: texts of the call, which no error may quote.

    Raises:
        Retryable, Refused: as `requests.Client`. Raised without the SDK's error behind them, whose text may quote the key.
    """
    failed: Exception | str
    try:
        return await call
    except sdk.APIStatusError as error:
        failed = place.failure(error.status_code, error.response.headers, error.body, texts)
    except sdk.APITimeoutError as error:
        # Over aiohttp a connection that is refused or broken is reported as one that took too long.
        connecting = type(error.__cause__).__name__ == "ConnectTimeout"
        failed = Retryable(None, None, connection_kind(error) if connecting else "timeout")
    except sdk.APIConnectionError as error:
        failed = Retryable(None, None, connection_kind(error))
    except (sdk.APIError, ValueError):
        failed = Retryable(None, None, "bad_body")
    if isinstance(failed, str):
        return failed
    raise failed


def connection_kind(error: BaseException) -> str:
    """Kind of a failed connection: UNREACHABLE when none was made, so that nothing was asked and nothing can be billed."""
    behind: BaseException | None = error
    while behind is not None:
        kinds = type(behind).__mro__
        if any(
            kind.__module__.startswith(home) and kind.__name__ == name for kind in kinds for home, name in NOT_CONNECTED.items()
        ):
            return UNREACHABLE
        behind = behind.__cause__
    return "connection"


async def batch_call(call: Awaitable[T], sdk: ModuleType, place: Place) -> T:
    """Await a call about batches, in which there is no single call of a model to give up.

    Raises:
        Retryable, Refused: as `attempt`.
    """
    answered = await attempt(call, sdk, place, ())
    if isinstance(answered, str):
        raise Refused(f"{place.where} refused the batch: {answered}. Submit fewer or shorter calls in one batch.")
    return answered


def decoded(content: bytes) -> object:
    """Decode a body.

    Raises:
        Retryable: it is not JSON.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        body = None
    if body is None:
        raise Retryable(None, None, "bad_body")
    return body


def texts_of(request: Request) -> list[str]:
    """The texts of a request's messages."""
    messages = request.body.get("messages")
    found = cast("Sequence[Mapping[str, object]]", messages) if isinstance(messages, Sequence) else ()
    return [content for message in found if isinstance(content := message.get("content"), str)]
