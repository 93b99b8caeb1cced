"""Calls of an API as frames: which documents a call shows, its key, and what its stored answer says.

Belongs here: frames <-> calls of one prompt (pairwise, listwise, pointwise). Does not: wire formats, sending (`api_judge.py`),
the folding of a ranking (`listwise.py`), parsing (`parsing.py`).
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from anmi_pipeline.judging import parsing
from anmi_pipeline.judging.call_keys import id_digests
from anmi_pipeline.judging.judges import JudgeEvidence
from anmi_pipeline.judging.listwise import CALL, lists_of, read_lists
from anmi_pipeline.judging.prompts import PromptKind, document_text
from anmi_pipeline.judging.ranking import Ranking
from anmi_pipeline.judging.requests import ANSWERED, Answer, Outcome
from anmi_pipeline.judging.verdicts import OK, UNPARSED, VERDICTS

TOP_GRADE = 3
"""Grades of the prompt `pointwise` are 0 to 3; the ledger holds a grade as a share of it in `p_first`."""
ANSWERED_STATUSES = (OK, UNPARSED)
"""Statuses of calls whose answer is stored, and read again whenever it is looked up."""
MOST_SHOWN = 20
"""Documents that a call may show (`judging.list_size`)."""


@dataclass(frozen=True)
class Shown:
    """One call.

    Attributes:
        key: call key.
        judge: judge id.
        query_id: the query.
        documents: ids in the order shown.
    """

    key: str
    judge: str
    query_id: str
    documents: tuple[str, ...]


def documents_shown(rows: pl.DataFrame, prompt: PromptKind) -> pl.DataFrame:
    """Which documents the call behind each row shows.

    Args:
        rows: PLAN columns.
        prompt: what is asked. pointwise: a row's first document, which is also its second.

    Returns:
        The rows in their order with `documents`, ids in the order shown.
    """
    if prompt == "pairwise":
        return rows.with_columns(documents=pl.concat_list("first_id", "second_id"))
    if prompt == "pointwise":
        return rows.with_columns(documents=pl.concat_list("first_id"))
    return rows.join(lists_of(rows), on=CALL, how="left", maintain_order="left")


def keys_of(rows: pl.DataFrame, prompt: PromptKind, evidence: JudgeEvidence, head: Callable[[str, int], bytes]) -> list[str]:
    """Name the call behind each row: sha256 of settings, query text and the texts shown, in their order.

    Args:
        rows: PLAN columns.
        prompt: what is asked.
        evidence: the texts.
        head: digest of the settings of a judge id for calls of so many documents.

    Raises:
        InputError: the plan names a query or document that the dataset does not have.
    """
    shown = documents_shown(rows, prompt)
    queries = id_digests(shown["query_id"], evidence.queries, "query_id", ["text"])
    documents = id_digests(shown["documents"].explode(), evidence.corpus, "doc_id", ["title", "text"])
    heads: dict[tuple[str, int], bytes] = {}
    keys: list[str] = []
    for judge, query, ids in shown.select("judge", "query_id", "documents").iter_rows():
        if (judge, len(ids)) not in heads:
            heads[judge, len(ids)] = head(judge, len(ids))
        texts = b"".join(documents[one] for one in ids)
        keys.append(hashlib.sha256(heads[judge, len(ids)] + queries[query] + texts).hexdigest())
    return keys


def calls_of(rows: pl.DataFrame, prompt: PromptKind) -> list[Shown]:
    """The calls behind rows that have their `call_key`, each once, in the order of the rows."""
    once = documents_shown(rows, prompt).unique("call_key", keep="first", maintain_order=True)
    return [
        Shown(key, judge, query, tuple(ids))
        for key, judge, query, ids in once.select("call_key", "judge", "query_id", "documents").iter_rows()
    ]


class Texts:
    """The texts of queries and documents by id."""

    def __init__(self, evidence: JudgeEvidence, calls: Sequence[Shown]) -> None:
        """Take those that the calls show."""
        queries = {call.query_id for call in calls}
        documents = {document for call in calls for document in call.documents}
        self._queries = dict(picked(evidence.queries, "query_id", queries, ["text"]))
        self._documents = {name: document_text(title, text) for name, title, text in corpus_rows(evidence, documents)}

    def of(self, call: Shown) -> tuple[str, list[str]]:
        """Text of the query, and of the documents in the order shown."""
        return self._queries[call.query_id], [self._documents[document] for document in call.documents]


def picked(table: pl.DataFrame, key: str, wanted: Iterable[str], columns: list[str]) -> Iterator[tuple[str, str]]:
    """Rows of a table by id."""
    ids = pl.Series(sorted(wanted), dtype=pl.String())
    yield from table.filter(pl.col(key).is_in(ids.implode())).select(key, *columns).iter_rows()


def corpus_rows(evidence: JudgeEvidence, wanted: Iterable[str]) -> Iterator[tuple[str, str | None, str]]:
    """doc_id, title and text of documents by id."""
    ids = pl.Series(sorted(wanted), dtype=pl.String())
    yield from evidence.corpus.filter(pl.col("doc_id").is_in(ids.implode())).select("doc_id", "title", "text").iter_rows()


def answer_rows(
    outcomes: Sequence[Outcome], prompt: PromptKind, expires_at: str | None, sizes: Mapping[str, int] | None = None
) -> pl.DataFrame:
    """What becomes of outcomes in the ledger: VERDICTS frame, answers that cannot be read among them.

    Args:
        outcomes: what came of calls.
        prompt: what they asked.
        expires_at: when answers expire, as the ledger writes it.
        sizes: call key -> documents shown, for rankings; of a call that is not here any ranking is taken for one.
    """
    rows: list[dict[str, object]] = []
    for outcome in outcomes:
        status, p, text = outcome.status, None, outcome.text or ""
        if status == ANSWERED and prompt == "listwise":
            ranking = parsing.ranking(Answer.from_stored(text), (sizes or {}).get(outcome.key, MOST_SHOWN))
            status = UNPARSED if ranking is None else OK
        elif status == ANSWERED:
            p = single(text, prompt)
            status = UNPARSED if p is None else OK
        usage = outcome.usage
        rows.append(
            {
                "call_key": outcome.key,
                "status": status,
                "p_first": p,
                "raw_answer": outcome.text,
                "input_tokens": usage.input,
                "output_tokens": usage.output,
                "cost_usd": outcome.cost_usd,
                "latency_ms": outcome.latency_ms,
                "request_id": outcome.request_id,
                "provenance": "model",
                "expires_at": expires_at,
            }
        )
    return pl.DataFrame(rows, schema=VERDICTS, orient="row")


def single(stored: str, prompt: PromptKind) -> float | None:
    """Read a stored answer to a prompt with one value: P(first), or a grade as a share of TOP_GRADE; None: it says nothing."""
    answer = Answer.from_stored(stored)
    if prompt == "pairwise":
        return parsing.p_first(answer)
    grade = parsing.grade(answer)
    return None if grade is None else grade / TOP_GRADE


def read_rows(rows: pl.DataFrame, prompt: PromptKind) -> pl.DataFrame:
    """Read votes out of stored answers.

    Args:
        rows: PLAN columns and those of the ledger.
        prompt: what was asked.

    Returns:
        The rows in their order with `status`, `p_first`, `weight`.
    """
    answered = rows["status"].is_in(ANSWERED_STATUSES)
    stored = dict(rows.filter(answered).select("call_key", "raw_answer").unique("call_key").iter_rows())
    if prompt == "listwise":
        return read_lists(rows, rankings_of(rows, stored))
    values = {key: single(text or "", prompt) for key, text in stored.items()}
    read = pl.DataFrame(
        {"call_key": list(values), "read": list(values.values())}, schema={"call_key": pl.String(), "read": pl.Float64()}
    )
    joined = rows.join(read, on="call_key", how="left", maintain_order="left")
    status = pl.when(~answered).then("status").when(pl.col("read").is_null()).then(pl.lit(UNPARSED)).otherwise(pl.lit(OK))
    return joined.with_columns(status=status, p_first=pl.col("read"), weight=pl.lit(1.0)).drop("read")


def rankings_of(rows: pl.DataFrame, stored: Mapping[str, str | None]) -> dict[str, Ranking | None]:
    """Call key -> ranking of the documents shown, None where the answer is none."""
    sizes = dict(documents_shown(rows, "listwise").select("call_key", pl.col("documents").list.len()).unique().iter_rows())
    return {key: parsing.ranking(Answer.from_stored(text or ""), sizes[key]) for key, text in stored.items()}
