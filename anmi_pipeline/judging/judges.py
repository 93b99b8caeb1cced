"""What a judge is: the protocol, the calls it gets and the verdicts it gives back.

Belongs here: `Judge`, call keys, the shape of a batch of verdicts, the evidence that judges without an API look at. Does not: any
one judge, and the ledger. Batches are columnar, so that a local judge answers half a million calls in seconds; `answer` is an
asynchronous stream, so that an API judge can hand over each finished part while the rest is still in flight.
"""

import hashlib
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import polars as pl

from anmi_pipeline.errors import InputError, JudgeError

OK = "ok"
NO_ANSWER = "no_answer"
"""Status of a verdict whose source has nothing usable to say about the pair."""
UNPARSED = "unparsed"
"""Status of a verdict whose answer came, and was paid, with nothing a vote could be read from."""
PROVENANCES = ("model", "known_source", "simulated", "recorded", "human")

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

VERDICTS = {
    "call_key": pl.String(),
    "status": pl.String(),  # "ok", or the kind of failure
    "p_first": pl.Float64(),  # null when the call failed
    "raw_answer": pl.String(),
    "input_tokens": pl.Int64(),
    "output_tokens": pl.Int64(),
    "cost_usd": pl.Float64(),
    "latency_ms": pl.Float64(),
    "request_id": pl.String(),
    "provenance": pl.String(),
    "expires_at": pl.String(),  # UTC, ISO 8601 like ledger.now(); null: never
}
"""Columns of the verdicts a judge gives back."""


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


class LocalJudge:
    """What judges that run here have in common: one call per row, no key, nothing to open."""

    folds = False
    late = False
    learns = False

    def settings(self, judge_id: str) -> CallSettings:
        """What the answers of this judge depend on besides the texts."""
        raise NotImplementedError

    def context(self, calls: pl.DataFrame) -> Sequence[bytes] | None:
        """What each answer depends on besides settings and texts."""
        raise NotImplementedError

    def keys(self, plan: pl.DataFrame, evidence: JudgeEvidence) -> list[str]:
        """One call key per row."""
        return call_keys(plan, self, evidence)

    def read(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Take the votes as they were filed."""
        return rows.with_columns(weight=pl.lit(1.0))

    def learn(self, judgments: pl.DataFrame) -> None:
        """Nothing to learn from others."""

    async def open(self) -> None:
        """Nothing to open."""

    def stop(self) -> None:
        """Nothing is in flight between two parts."""

    async def close(self) -> None:
        """Nothing to close."""


class Settled(Protocol):
    """What call keys are made from."""

    def settings(self, judge_id: str) -> CallSettings:
        """What the answers depend on besides the texts."""
        ...

    def context(self, calls: pl.DataFrame) -> Sequence[bytes] | None:
        """What each answer depends on besides settings and texts."""
        ...


def verdicts(
    calls: pl.DataFrame, p_first: np.ndarray | pl.Series, provenance: str | pl.Series, raw_answer: pl.Series | None = None
) -> pl.DataFrame:
    """Shape the answers of a local judge: no tokens, no cost.

    Args:
        calls: the calls answered.
        p_first: (n,) probabilities that the first document is the more relevant one; null where there is no answer.
        provenance: one of PROVENANCES for all, or one per call.
        raw_answer: what the source literally said, when it said something.
    """
    columns = {"call_key": calls["call_key"], "p_first": pl.Series(p_first, dtype=pl.Float64())}
    return (
        pl.DataFrame(columns)
        .with_columns(
            pl.when(pl.col("p_first").is_null()).then(pl.lit(NO_ANSWER)).otherwise(pl.lit(OK)).alias("status"),
            (raw_answer if raw_answer is not None else pl.lit(None, dtype=pl.String())).alias("raw_answer"),
            pl.lit(0, dtype=pl.Int64()).alias("input_tokens"),
            pl.lit(0, dtype=pl.Int64()).alias("output_tokens"),
            pl.lit(0.0).alias("cost_usd"),
            pl.lit(None, dtype=pl.Float64()).alias("latency_ms"),
            pl.lit(None, dtype=pl.String()).alias("request_id"),
            (pl.lit(provenance) if isinstance(provenance, str) else provenance).alias("provenance"),
            pl.lit(None, dtype=pl.String()).alias("expires_at"),
        )
        .select(list(VERDICTS))
    )


def checked(answers: pl.DataFrame, judge: str, *, folds: bool = False) -> pl.DataFrame:
    """Return a judge's answers when they keep the protocol; those of a judge that `folds` have no single probability.

    Raises:
        JudgeError: other columns, a probability outside 0..1, or a failure that carries a vote.
    """
    if dict(answers.schema) != VERDICTS:
        raise JudgeError(f"judge {judge} gave columns {dict(answers.schema)}, expected {VERDICTS}.")
    ok = pl.col("status").eq(OK)
    vote = pl.col("p_first").is_between(0, 1)  # false for NaN, null for null
    needed = vote.fill_null(folds)
    wrong = answers.filter(pl.when(ok).then(~needed).otherwise(pl.col("p_first").is_not_null()))
    if wrong.height:
        row = wrong.row(0, named=True)
        raise JudgeError(
            f"judge {judge} gave {wrong.height} verdict(s) that are neither a probability nor a failure; "
            f"first: status {row['status']}, p_first {row['p_first']}, call {row['call_key']}."
        )
    return answers


def text_digest(*parts: str) -> bytes:
    """sha256 over texts, each with its length in front, so that no two lists of texts meet in one digest."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()


def call_keys(plan: pl.DataFrame, judge: Settled, evidence: JudgeEvidence) -> list[str]:
    """Name each call by its content: judge, endpoint, model, prompt, sampling, query text, first text, second text, context.

    Args:
        plan: PLAN rows of this judge.
        judge: the judge that would be asked.
        evidence: the texts.

    Returns:
        One sha256 (hex) per row.

    Raises:
        InputError: the plan names a query or document that the dataset does not have.
    """
    queries = id_digests(plan["query_id"], evidence.queries, "query_id", ["text"])
    ids = pl.concat([plan["first_id"], plan["second_id"]])
    documents = id_digests(ids, evidence.corpus, "doc_id", ["title", "text"])
    heads = {judge_id: judge.settings(judge_id).digest() for judge_id in plan["judge"].unique()}
    context = judge.context(plan)
    columns = zip(
        plan["judge"].to_list(), plan["query_id"].to_list(), plan["first_id"].to_list(), plan["second_id"].to_list(), strict=True
    )
    sha256 = hashlib.sha256
    # Four digests of 32 bytes each and then the rest: a fixed layout, so no separators are needed.
    prefixes = (heads[j] + queries[q] + documents[a] + documents[b] for j, q, a, b in columns)
    if context is None:
        return [sha256(prefix).hexdigest() for prefix in prefixes]
    return [sha256(prefix + rest).hexdigest() for prefix, rest in zip(prefixes, context, strict=True)]


def id_digests(ids: pl.Series, table: pl.DataFrame, key: str, texts: list[str]) -> dict[str, bytes]:
    """Digest of the texts of each id.

    Raises:
        InputError: an id is not in the table.
    """
    wanted = ids.unique()
    found = table.filter(pl.col(key).is_in(wanted.implode())).select(key, *texts)
    if found.height < wanted.len():
        absent = sorted(set(wanted.to_list()) - set(found[key].to_list()))
        raise InputError(
            f"the comparison plan names {len(absent)} {key}(s) that the dataset does not have, first {', '.join(absent[:3])}. "
            "Materialize comparison_plan again."
        )
    return {row[0]: text_digest(*row[1:]) for row in found.iter_rows()}
