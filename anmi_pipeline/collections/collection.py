"""What every reader returns, and the checks that make it safe to use.

Belongs here: `Collection`, the rules a source may set for doubtful documents, and every check that needs more than one row to
see. Does not: file formats (one module each) and split assignment (`splits.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import polars as pl
from pydantic import Field

from anmi_pipeline.errors import InputError
from anmi_pipeline.settings import Config
from anmi_pipeline.table_specs import TableSpec
from anmi_pipeline.tables import CORPUS, QRELS, QUERIES, SPLITS

SHOWN = 5
"""How many offending ids an error names."""


@dataclass(frozen=True)
class Collection:
    """A collection as the pipeline sees it.

    Attributes:
        corpus: frame of table CORPUS.
        queries: frame of table QUERIES.
        qrels: frame of table QRELS; empty when nobody graded anything.
        notes: what a reader did that a person should know (rows dropped, where splits come from), by topic.
    """

    corpus: pl.DataFrame
    queries: pl.DataFrame
    qrels: pl.DataFrame
    notes: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Parts:
    """What one format's reader took from its files, before splits and checks.

    Attributes:
        corpus: doc_id, title, text, group_id.
        queries: query_id, text and what else of QUERIES the files say; `split` as declared, `dev` allowed, null when not.
        qrels: query_id, doc_id, grade, split (of the file, or null).
        places: table name -> the file it was read from.
        notes: as in `Collection`.
    """

    corpus: pl.DataFrame
    queries: pl.DataFrame
    qrels: pl.DataFrame
    places: dict[str, str]
    notes: dict[str, str] = field(default_factory=dict[str, str])


class DocumentRules(Config):
    """What to do with doubtful rows; the base of every source that reads a person's own files."""

    empty_documents: Literal["error", "keep", "drop"] = Field(
        default="error",
        description="documents whose title and text are both empty: refuse them, keep them, or drop them with their grades",
    )
    absent_ids: Literal["error", "drop"] = Field(
        default="error", description="grades that name a document or query that is not there: refuse them or drop those rows"
    )
    max_document_bytes: int = Field(
        default=65_536,
        ge=1,
        description="longest document, title and text in UTF-8 bytes; models read only its first tokens, so split longer ones",
    )


def check_collection(
    collection: Collection, *, rules: DocumentRules | None = None, places: Mapping[str, str] | None = None
) -> Collection:
    """Return the collection when it keeps every rule, without the rows that the rules say to drop.

    Args:
        collection: what a reader made.
        rules: what to do with empty documents, absent ids and long documents; the defaults refuse all three.
        places: table name -> the file it was read from, for the errors.

    Raises:
        InputError: the first broken rule, with the ids, the file and what to do.
    """
    rules = rules or DocumentRules()
    where = {"corpus": "the corpus", "queries": "the queries", "qrels": "the qrels", **(places or {})}
    for name, table in (("corpus", collection.corpus), ("queries", collection.queries)):
        check_ids(table, name, where[name])
    for spec, table in ((CORPUS, collection.corpus), (QUERIES, collection.queries), (QRELS, collection.qrels)):
        check_table(spec, table, where[spec.name])
    check_queries(collection.queries, where["queries"])
    check_lengths(collection.corpus, rules.max_document_bytes, where["corpus"])
    notes = dict(collection.notes)
    qrels = present_only(collection, rules, where, notes)
    corpus = without_empty(collection.corpus, rules, where["corpus"], notes)
    if corpus.height < collection.corpus.height:
        qrels = qrels.join(corpus.select("doc_id"), on="doc_id", how="semi", maintain_order="left")
    return Collection(corpus, collection.queries, qrels, notes)


def check_table(spec: TableSpec, table: pl.DataFrame, where: str) -> None:
    """Check schema, nulls and key, and say which file broke them."""
    try:
        spec.validate(table)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def check_ids(table: pl.DataFrame, name: str, where: str) -> None:
    """Refuse an empty table, an empty id, an id with white space around it and an id that occurs twice."""
    key = "doc_id" if name == "corpus" else "query_id"
    thing = "documents" if name == "corpus" else "queries"
    if table.is_empty():
        raise InputError(f"{where} holds no {thing}. Check that the path names the right file.")
    ids = table[key]
    bad = ids.filter(ids.is_null() | (ids == "") | (ids != ids.str.strip_chars()) | ids.str.contains(r"[\x00-\x1f]"))
    if bad.len():
        raise InputError(
            f"{where}: {bad.len()} {key} value(s) are empty or hold white space at an end or a control character: {shown(bad)}. "
            "Give every row a plain id."
        )
    twice = ids.filter(ids.is_duplicated()).unique(maintain_order=True)
    if twice.len():
        raise InputError(f"{where}: {twice.len()} {key} value(s) occur more than once: {shown(twice)}. Ids must be unique.")


def check_queries(queries: pl.DataFrame, where: str) -> None:
    """Refuse queries without text and unknown splits."""
    blank = queries.filter(pl.col("text").str.strip_chars() == "")["query_id"]
    if blank.len():
        raise InputError(f"{where}: {blank.len()} query(s) have no text: {shown(blank)}. Give them a text or remove them.")
    unknown = queries.filter(~pl.col("split").is_in(SPLITS))
    if unknown.height:
        raise InputError(
            f'{where}: query {unknown["query_id"][0]} has split "{unknown["split"][0]}". Splits are {", ".join(SPLITS)}.'
        )


def check_lengths(corpus: pl.DataFrame, limit: int, where: str) -> None:
    """Refuse documents longer than the limit."""
    size = pl.col("title").str.len_bytes() + pl.col("text").str.len_bytes()
    long = (
        corpus.select("doc_id", size=size.cast(pl.Int64()))
        .filter(pl.col("size") > limit)
        .sort("size", "doc_id", descending=[True, False])
    )
    if long.height:
        named = ", ".join(f"{doc} ({size:,} bytes)" for doc, size in long.head(SHOWN).iter_rows())
        raise InputError(
            f"{where}: {long.height} document(s) are longer than max_document_bytes = {limit:,}: {named}. "
            "Encoders and judges read only the first tokens of a document: split it into passages with ids of their own, "
            "or raise max_document_bytes in the dataset's source."
        )


def present_only(collection: Collection, rules: DocumentRules, where: Mapping[str, str], notes: dict[str, str]) -> pl.DataFrame:
    """Return the grades whose query and document exist.

    Raises:
        InputError: some do not exist and the rules do not say to drop them.
    """
    qrels = collection.qrels
    for key, table, other in (("doc_id", collection.corpus, "corpus"), ("query_id", collection.queries, "queries")):
        absent = qrels.join(table.select(key), on=key, how="anti", maintain_order="left")
        if absent.is_empty():
            continue
        ids = absent[key].unique(maintain_order=True)
        found = f"{ids.len()} {key} value(s) in {absent.height} row(s) are not in {where[other]}: {shown(ids)}"
        if rules.absent_ids == "error":
            raise InputError(
                f"{where['qrels']}: {found}. Add them there, remove the rows, or set absent_ids: drop in the dataset's source."
            )
        notes[f"absent {key}"] = f"dropped grades: {found}"
        qrels = qrels.join(table.select(key), on=key, how="semi", maintain_order="left")
    return qrels


def without_empty(corpus: pl.DataFrame, rules: DocumentRules, where: str, notes: dict[str, str]) -> pl.DataFrame:
    """Return the corpus as the rule on empty documents says.

    Raises:
        InputError: there are some and the rule is `error`.
    """
    blank = (pl.col("title").str.strip_chars() == "") & (pl.col("text").str.strip_chars() == "")
    ids = corpus.filter(blank)["doc_id"]
    if ids.is_empty():
        return corpus
    found = f"{ids.len()} document(s) have neither title nor text: {shown(ids)}"
    if rules.empty_documents == "error":
        raise InputError(f"{where}: {found}. Remove them, or set empty_documents: drop (or keep) in the dataset's source.")
    if rules.empty_documents == "keep":
        notes["empty documents"] = f"kept: {found}"
        return corpus
    if ids.len() == corpus.height:
        raise InputError(f"{where}: every document is empty. Check which column holds the text.")
    notes["empty documents"] = f"dropped with their grades: {found}"
    return corpus.filter(~blank)


def shown(ids: pl.Series) -> str:
    """Name the first few ids.

    >>> shown(pl.Series(["a", "b"]))
    '"a", "b"'
    """
    named = ", ".join(f'"{value}"' for value in ids.head(SHOWN))
    return f"{named} and {ids.len() - SHOWN} more" if ids.len() > SHOWN else named
