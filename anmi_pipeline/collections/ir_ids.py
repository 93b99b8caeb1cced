"""Read collections by their ids in the package ir_datasets (pip extra `ir-datasets`).

Belongs here: what is particular to that package. Does not: files of one's own (`trec.py`, `tabular.py`). The package downloads
what it does not have yet and checks the checksum of every file.
"""

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Protocol, cast

import polars as pl

from anmi_pipeline.collections.collection import Parts
from anmi_pipeline.collections.files import Inputs
from anmi_pipeline.collections.grades import GradeRows
from anmi_pipeline.collections.hub import extra_module
from anmi_pipeline.collections.sources import IrDatasetsSource
from anmi_pipeline.errors import InputError, nearest
from anmi_pipeline.table_specs import TEXT


class Identified(Protocol):
    """A document or query of ir_datasets: a named tuple with an id, its own fields and a default text."""

    def default_text(self) -> str:
        """Return what the package takes as the text."""
        ...


class Document(Identified, Protocol):
    """A document of ir_datasets."""

    doc_id: str


class Query(Identified, Protocol):
    """A query of ir_datasets."""

    query_id: str


class Grade(Protocol):
    """A grade of ir_datasets."""

    query_id: str
    doc_id: str
    relevance: int


class IrDataset(Protocol):
    """What is used of a dataset of ir_datasets."""

    def has(self, entity: str) -> bool:
        """Tell whether it has "docs", "queries" or "qrels"."""
        ...

    def docs_iter(self) -> Iterator[Document]:
        """Iterate over the documents."""
        ...

    def queries_iter(self) -> Iterator[Query]:
        """Iterate over the queries."""
        ...

    def qrels_iter(self) -> Iterator[Grade]:
        """Iterate over the grades."""
        ...


def read_ir_datasets(source: IrDatasetsSource) -> Parts:
    """Read documents, queries and grades by their ids; the package downloads what it does not have yet.

    Raises:
        InputError: the package is not installed, an id is unknown, or an id has no documents or queries.
    """
    rows: dict[str, tuple[str, str, str | None]] = {}
    grades = GradeRows()
    try:
        corpus = registered(source.corpus, "docs")
        documents = [document_row(doc, source) for doc in corpus.docs_iter()]
        for split, name in source.queries.items():
            read_split(name, None if split == "all" else split, source.query_field, rows, grades)
    except OSError as error:
        raise InputError(
            f"ir_datasets cannot get {source.corpus}: {error}. Check the network and the room on the disk."
        ) from error
    names = ", ".join(source.queries.values())
    return Parts(
        corpus=pl.DataFrame(documents, schema={"doc_id": TEXT, "title": TEXT, "text": TEXT, "group_id": TEXT}, orient="row"),
        queries=pl.DataFrame(list(rows.values()), schema={"query_id": TEXT, "text": TEXT, "split": TEXT}, orient="row"),
        qrels=grades.frame(),
        places={"corpus": source.corpus, "queries": names, "qrels": f"qrels of {names}"},
    )


def read_split(
    name: str, split: str | None, query_field: str | None, rows: dict[str, tuple[str, str, str | None]], grades: GradeRows
) -> None:
    """Add the queries and grades of one id.

    Raises:
        InputError: the id is unknown or has no queries, or a query is in another split already.
    """
    dataset = registered(name, "queries")
    for query in dataset.queries_iter():
        row = (str(query.query_id), field_text(query, query_field, name), split)
        if rows.setdefault(row[0], row)[2] != split:
            raise InputError(f'{name}: query "{row[0]}" is also in split {rows[row[0]][2]}. A query belongs to one split.')
    if dataset.has("qrels"):
        for grade in dataset.qrels_iter():
            grades.add(str(grade.query_id), str(grade.doc_id), str(grade.relevance), split, f"{name} qrels")


def registered(name: str, entity: str) -> IrDataset:
    """Return a dataset of ir_datasets that has such entities ("docs", "queries").

    Raises:
        InputError: unknown id, or it has none.
    """
    package = extra_module("ir_datasets", "ir-datasets")
    try:
        dataset = package.load(name)
    except KeyError as error:
        known = [str(key) for key in package.registry]
        raise InputError(f'ir_datasets knows no dataset "{name}".{close_to(name, known)}') from error
    if not dataset.has(entity):
        raise InputError(f'the ir_datasets id "{name}" has no {entity}. A part of it, or the id above it, may have them.')
    return dataset


def close_to(name: str, known: Sequence[str]) -> str:
    """Name the nearest id, without listing the many when none is near."""
    said = nearest(name, known)
    return said if said.startswith(" Did you mean") else " See https://ir-datasets.com for the ids."


def document_row(doc: Document, source: IrDatasetsSource) -> tuple[str, str, str, None]:
    """Return (id, title, text, no group) of one document."""
    title = str(getattr(doc, source.title_field, "") or "") if source.title_field else ""
    if source.text_field is not None:
        text = field_text(doc, source.text_field, source.corpus)
    else:
        text = str(getattr(doc, "text", None) or "") if hasattr(doc, "text") else doc.default_text()
        title = title if hasattr(doc, "text") else ""  # default_text already has the title in it
    return str(doc.doc_id), title, text, None


def field_text(item: Identified, name: str | None, where: str) -> str:
    """Return a field of a document or query as text, or what the package takes as its text."""
    if name is None:
        return str(item.default_text())
    if not hasattr(item, name):
        raise InputError(f'{where}: has no field "{name}".{nearest(name, cast(Sequence[str], getattr(item, "_fields", ())))}')
    return str(getattr(item, name) or "")


def ir_datasets_inputs(source: IrDatasetsSource) -> Inputs:
    """Identify the tables by id and package version: the package pins a checksum for every file it downloads."""
    extra_module("ir_datasets", "ir-datasets")
    package = version("ir_datasets")
    corpus = source.model_dump(mode="json", include={"corpus", "title_field", "text_field"})
    queries = source.model_dump(mode="json", include={"queries", "query_field"})
    return Inputs(
        settings={
            "corpus": {"ir_datasets": package, **corpus},
            "queries": {"ir_datasets": package, **queries},
            "qrels": {"ir_datasets": package, "queries": source.queries},
        }
    )
