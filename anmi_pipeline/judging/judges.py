"""What a judge is: the protocol, the calls it gets, what it may look at and what its answers depend on.

Belongs here: `Judge` and the shapes of its inputs. Does not: the verdicts it gives back (`verdicts.py`), call keys
(`call_keys.py`), any one judge, and the ledger. Calls are columnar, so that a local judge answers half a million in seconds;
`answer` is an asynchronous stream, so that an API judge can hand over each finished part while the rest is still in flight.
"""

import hashlib
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import polars as pl

CALLS = {
    "query_id": pl.String(),
    "first_id": pl.String(),
    "second_id": pl.String(),
    "judge": pl.String(),
    "round": pl.Int64(),
    "list": pl.Int64(),
    "call_key": pl.String(),
}
"""Columns of the calls a judge is given: the plan's, and the key under which the ledger files the answer."""


@dataclass(frozen=True)
class JudgeEvidence:
    """What judges may look at.

    Attributes:
        queries: QUERIES frame.
        corpus: CORPUS frame.
        pool: POOL frame of the judged queries at least.
        qrels: QRELS frame, None when the dataset has no grades or no judge may see them.
    """

    queries: pl.DataFrame
    corpus: pl.DataFrame
    pool: pl.DataFrame
    qrels: pl.DataFrame | None = None


@dataclass(frozen=True)
class CallSettings:
    """Everything besides the texts that an answer depends on; any change of it makes other call keys.

    Attributes:
        judge: judge id.
        endpoint: base URL of an API; "local" for judges that run here.
        model: model with its version; for a local judge its algorithm and version.
        prompt: full prompt text with its system part; "" when there is none.
        prompt_version: version of the prompt file.
        sampling: sampling parameters, or the settings of a local judge.
    """

    judge: str
    endpoint: str
    model: str
    prompt: str = ""
    prompt_version: str = ""
    sampling: Mapping[str, object] = field(default_factory=dict[str, object])

    def digest(self) -> bytes:
        """sha256 of the canonical JSON of all fields, 32 bytes."""
        content = [self.judge, self.endpoint, self.model, self.prompt, self.prompt_version, dict(self.sampling)]
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).digest()


class Judge(Protocol):
    """Anything that answers ordered pairs."""

    @property
    def name(self) -> str:
        """Name in the configuration. Ids of its verdicts are the name, or `name/...` when one file holds several judges."""
        ...

    @property
    def folds(self) -> bool:
        """Whether one call answers several rows (a ranking): its verdict on record then has no `p_first`."""
        ...

    @property
    def late(self) -> bool:
        """Whether it may hand over answers to calls of earlier turns, as batches do."""
        ...

    @property
    def learns(self) -> bool:
        """Whether it wants to see the other judges' verdicts before its own answers are read."""
        ...

    def learn(self, judgments: pl.DataFrame) -> None:
        """Take the other judges' verdicts on the same plan (JUDGMENTS frame)."""
        ...

    @property
    def chunk(self) -> int:
        """How many calls `answer` is handed at once; each part it yields is committed before the next is awaited."""
        ...

    def settings(self, judge_id: str) -> CallSettings:
        """What the answers of this judge depend on besides the texts."""
        ...

    def context(self, calls: pl.DataFrame) -> Sequence[bytes] | None:
        """What each answer depends on besides settings and texts (grades, scores, a recorded answer).

        Args:
            calls: CALLS columns without `call_key`.

        Returns:
            One byte string per call, or None when texts and settings say everything, as with an API.
        """
        ...

    def keys(self, plan: pl.DataFrame, evidence: JudgeEvidence) -> list[str]:
        """One call key per row of a plan; rows that one call answers share their key."""
        ...

    def read(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Read votes out of stored answers, so that a changed parser asks nobody.

        Args:
            rows: PLAN columns, and those of the ledger (VERDICTS).

        Returns:
            The rows in their order with `status`, `p_first` and `weight` (evidence in independent verdicts) as read now.
        """
        ...

    async def open(self) -> None:
        """Get ready to be asked: read the key, connect. Called before any judge is asked, and as often as one likes.

        Raises:
            JudgeError: it cannot be asked at all (a missing key).
        """
        ...

    def stop(self) -> None:
        """Ask nothing more: what is in flight is awaited and handed over, and `answer` ends with the rest unanswered."""
        ...

    async def close(self) -> None:
        """Close what `open` opened."""
        ...

    def answer(self, calls: pl.DataFrame) -> AsyncGenerator[pl.DataFrame]:
        """Answer calls (CALLS columns); yields VERDICTS frames as parts finish, each call exactly once.

        A judge that works in batches may also hand over answers to calls of earlier turns: they were paid.

        Raises:
            JudgeError: no call can be answered (a missing key, a refused model). One failed call is a row with its status.
        """
        ...
