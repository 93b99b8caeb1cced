"""What passes between the dispatcher and the clients of APIs: requests, answers, outcomes, batches and the two errors.

Belongs here: these shapes and the `Client` and `BatchClient` protocols. Does not: any provider's wire format (`openai_wire.py`,
`anthropic_wire.py`), retries, pace and money (the dispatcher's), and reading an answer (`parsing.py`).
"""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol, cast

from anmi_pipeline.errors import JudgeError

ANSWERED = "ok"
"""Status of an outcome with an answer. Whether the answer can be read is the parser's business."""
DECLINED = "declined"
"""Status of an outcome whose model or content filter would not answer this call. Others may be answered."""
TOO_LONG = "too_long"
"""Status of an outcome whose prompt does not fit the model's context."""
UNREACHABLE = "unreachable"
"""Kind of an attempt for which no connection was made: nothing was asked, so nothing is billed."""

BatchStatus = Literal["running", "ended", "failed"]
"""running: results are not ready; ended: what results there are can be collected; failed: the provider took none of its calls."""


@dataclass(frozen=True)
class Request:
    """One call of an API.

    Attributes:
        key: call key, the name of the call in the ledger and in batches (at most 64 letters, digits, `-` and `_`).
        body: keyword arguments of the SDK's create method: exactly what is sent.
        max_output_tokens: the most tokens that can be billed as output.
        input_tokens: counted or estimated tokens of the input; an upper bound where the model's own tokenizer counts.
    """

    key: str
    body: Mapping[str, object]
    max_output_tokens: int
    input_tokens: int


@dataclass(frozen=True)
class Usage:
    """Tokens that were billed.

    Attributes:
        input: all input tokens, those read from the provider's cache included.
        cached: those of `input` that were read from the provider's cache, at a lower price.
        output: output tokens, hidden reasoning included.
        written: those of `input` that were put into the provider's cache, at a higher price.
    """

    input: int = 0
    cached: int = 0
    output: int = 0
    written: int = 0


@dataclass(frozen=True)
class Answer:
    """What a model answered, with everything a parser may look at. Stored whole, so that a changed parser asks nobody.

    Attributes:
        text: the visible text; "" when there is none.
        arguments: JSON text of the tool call's arguments, as it came; None when no tool was called.
        logprobs: the answer token's alternatives, (token, natural logarithm of its probability); None when not asked for.
        stop: why the model stopped, in the provider's words.
        refusal: the text of a refusal that the provider marks as one.
    """

    text: str
    arguments: str | None = None
    logprobs: tuple[tuple[str, float], ...] | None = None
    stop: str = ""
    refusal: str | None = None

    def stored(self) -> str:
        """The answer as JSON text, for `Outcome.text` and the ledger's `raw_answer`.

        >>> Answer("A", stop="stop").stored()
        '{"text":"A","stop":"stop"}'
        """
        fields = {
            "text": self.text, "arguments": self.arguments, "logprobs": self.logprobs, "stop": self.stop or None,
            "refusal": self.refusal,
        }  # fmt: skip
        return json.dumps({name: value for name, value in fields.items() if value is not None}, separators=(",", ":"))

    @classmethod
    def from_stored(cls, stored: str) -> "Answer":
        """Read what `stored` wrote; any other text is an answer that consists of that text.

        >>> Answer.from_stored('{"text":"A","logprobs":[["A",-0.1]]}').logprobs
        (('A', -0.1),)
        >>> Answer.from_stored("[1] > [2]").text
        '[1] > [2]'
        """
        try:
            fields: object = json.loads(stored)
        except (ValueError, RecursionError):
            return cls(stored)
        if not isinstance(fields, dict) or not isinstance(cast("dict[str, object]", fields).get("text"), str):
            return cls(stored)
        return cls._from_fields(cast("dict[str, object]", fields))

    @classmethod
    def _from_fields(cls, fields: Mapping[str, object]) -> "Answer":
        logprobs = cast("list[tuple[str, float]] | None", fields.get("logprobs"))
        return cls(
            text=str(fields["text"]),
            arguments=cast("str | None", fields.get("arguments")),
            logprobs=None if logprobs is None else tuple((str(token), float(value)) for token, value in logprobs),
            stop=str(fields.get("stop") or ""),
            refusal=cast("str | None", fields.get("refusal")),
        )


@dataclass(frozen=True)
class Outcome:
    """What became of one request.

    Attributes:
        key: call key of the request.
        status: ANSWERED, DECLINED, TOO_LONG, or the kind of failure (`Retryable.kind`).
        text: `Answer.stored()`; None when nothing came back.
        usage: tokens billed.
        cost_usd: price of the call; 0 until whoever knows the prices fills it in.
        latency_ms: wall time of the attempt that ended it; None for batches.
        request_id: the provider's id of the call.
    """

    key: str
    status: str
    text: str | None
    usage: Usage
    cost_usd: float = 0.0
    latency_ms: float | None = None
    request_id: str | None = None


class Retryable(JudgeError):  # noqa: N818 - read as "raise Retryable"; a JudgeError by its base
    """One attempt failed in a way that may pass: 408, 409, 429, 5xx, a timeout, a broken connection, a body that is no answer.

    Attributes:
        kind: `http_429` and so on, `timeout`, `unreachable`, `connection` or `bad_body`: the status of the failure when attempts
            run out.
        status: HTTP status; None when there was no response.
        retry_after: seconds the provider asks to wait; None when it does not say.
    """

    def __init__(self, status: int | None, retry_after: float | None = None, kind: str | None = None) -> None:
        """Name the failure. Never takes a provider's text: it may quote a key or a document."""
        self.kind = kind or f"http_{status}"
        self.status = status
        self.retry_after = retry_after
        super().__init__(f"the provider did not answer this attempt: {self.kind}.", retryable=True)


class Refused(JudgeError):  # noqa: N818 - as above
    """No call can succeed until a person changes something: a missing key, an unknown model, no credit, a bad setting."""

    def __init__(self, message: str) -> None:
        """One sentence that names the environment variable or the model."""
        super().__init__(message, retryable=False)


class Client(Protocol):
    """One model behind one endpoint."""

    async def send(self, request: Request) -> Outcome:
        """Make one attempt, without retries.

        Raises:
            Retryable: this attempt failed; another may succeed.
            Refused: no call of this client can succeed.
        """
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


@dataclass(frozen=True)
class Batch:
    """A batch as its provider describes it.

    Attributes:
        id: the provider's id.
        token: the token it was submitted with; None where the provider keeps none (Anthropic).
        status: BatchStatus.
        created_at: when the provider accepted it, UTC.
        total: calls in it; 0 while the provider has not counted them.
        done: calls that are finished, failures included.
    """

    id: str
    token: str | None
    status: BatchStatus
    created_at: datetime
    total: int
    done: int


class BatchClient(Client, Protocol):
    """A client whose provider also takes batches, at half the price."""

    async def submit(self, requests: Sequence[Request], token: str) -> Batch:
        """Submit a batch whose custom ids are the requests' keys.

        Args:
            requests: the calls, each key once.
            token: name of the intent, stored in the batch's metadata where the provider has such.

        Raises:
            Retryable: not accepted as far as is known; list the batches before the next attempt.
            Refused: no batch of this client can be accepted.
        """
        ...

    async def batches_since(self, since: datetime) -> list[Batch]:
        """List the batches that the provider accepted at or after a time (UTC), newest first."""
        ...

    async def retrieve(self, batch_id: str) -> Batch:
        """Look one batch up."""
        ...

    def results(self, batch_id: str) -> AsyncIterator[Outcome]:
        """Yield the outcome of every call of an ended batch; calls that the provider gives no result for are left out."""
        ...
