"""Names of calls: equal calls have equal keys, whatever run makes them, and the ledger files their answers under them.

Belongs here: the key of a call of two documents, digests of texts. Does not: keys of calls of several documents
(`api_calls.py`), what an answer depends on besides the texts (each judge's `CallSettings`).
"""

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

import polars as pl

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.judges import CallSettings, JudgeEvidence


class Settled(Protocol):
    """What call keys are made from."""

    @abstractmethod
    def settings(self, judge_id: str) -> CallSettings:
        """What the answers depend on besides the texts."""
        ...

    @abstractmethod
    def context(self, calls: pl.DataFrame) -> Sequence[bytes] | None:
        """What each answer depends on besides settings and texts."""
        ...


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
