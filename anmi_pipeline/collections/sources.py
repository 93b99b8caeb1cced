"""The `source` block of a dataset's YAML file: which reader, which files, which splits.

Belongs here: one described model per reader and their union `SourceConfig`. Does not: reading. Paths are absolute or
relative to ANMI_DATA.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, cast

from pydantic import BeforeValidator, Field

from anmi_pipeline.collections.collection import DocumentRules
from anmi_pipeline.collections.files import Encoding
from anmi_pipeline.collections.splits import DeclaredSplit, SplitOptions
from anmi_pipeline.collections.stdlib import StdlibSource
from anmi_pipeline.settings import Config

GradeSplit = Literal["train", "dev", "dev_select", "dev_final", "test", "held_out", "all"]
"""Key of a file that holds one split; `all`: the file is of no split (its own split column decides, or nobody)."""
TopicField = Literal["title", "description", "narrative"]


def under_all(value: object) -> object:
    """Read a bare path, or one table, as the file of no particular split."""
    if isinstance(value, str) or (isinstance(value, Mapping) and "path" in cast(Mapping[str, object], value)):
        return {"all": value}
    return value


def as_list(value: object) -> object:
    """Read a bare text as a list of one."""
    return [value] if isinstance(value, str) else value


SplitPaths = Annotated[dict[GradeSplit, str], BeforeValidator(under_all)]
Texts = Annotated[tuple[str, ...], BeforeValidator(as_list)]


class FileSource(DocumentRules):
    """What every source of a person's own files has."""

    splits: SplitOptions = Field(default=SplitOptions(), description="how queries are split when the files do not say")


class BeirSource(FileSource):
    """A folder in BEIR's layout: corpus.jsonl, queries.jsonl, qrels/*.tsv; the first two may be .gz."""

    reader: Literal["beir"] = Field(default="beir", description="format of the collection")
    path: str = Field(description="folder")
    qrels: dict[DeclaredSplit, str] | None = Field(
        default=None, description="split -> grades file in the folder; default: qrels/{train,dev,test}.tsv that are there"
    )


class TrecSource(FileSource):
    """TREC files: topics, qrels, and a corpus as <DOC> files, JSON lines or two-column TSV."""

    reader: Literal["trec"] = Field(default="trec", description="format of the collection")
    corpus: Texts = Field(min_length=1, description="files, or folders of files, of documents; one or a list")
    corpus_format: Literal["auto", "trec", "jsonl", "tsv"] = Field(
        default="auto", description="auto: by file name (.jsonl, .tsv, otherwise <DOC> blocks)"
    )
    columns: dict[str, str] = Field(
        default={"doc_id": "_id"}, description="JSON lines corpus: field (doc_id, title, text, group_id) -> key in the file"
    )
    title_tags: Texts = Field(default=("TITLE", "HEADLINE"), description="<DOC> blocks: elements that hold the title")
    text_tags: Texts = Field(
        default=("TEXT",), description="<DOC> blocks: elements that hold the text; a block without any gives all but id and title"
    )
    topics: SplitPaths = Field(min_length=1, description="topics file (<top>, <topic> or two-column TSV), or split -> file")
    topic_fields: tuple[TopicField, ...] = Field(
        default=("title",), min_length=1, description="parts of a <top> topic that make the query, in this order"
    )
    qrels: SplitPaths = Field(default={}, description="grades file (query, iteration, document, grade), or split -> file")
    encoding: Encoding = Field(default="utf-8", description="text encoding of corpus and topics; old TREC disks are latin-1")


class TableFile(Config):
    """One table in a file, with its columns declared."""

    path: str = Field(
        description="parquet, .jsonl, .csv or .tsv (the text forms may be .gz); a file, or a pattern such as part-*.parquet"
    )
    columns: dict[str, str] = Field(
        default={},
        description="field -> column of the file, such as doc_id: pmid; a field that is not named has a column of its name",
    )


class TabularSource(FileSource):
    """Parquet, JSON lines or CSV tables with declared columns."""

    reader: Literal["tabular"] = Field(default="tabular", description="format of the collection")
    corpus: TableFile = Field(description="documents: doc_id, text, and if there title, group_id")
    queries: TableFile = Field(description="queries: query_id, text, and if there split, group_id, has_evidence, source_ids")
    qrels: Annotated[dict[GradeSplit, TableFile], BeforeValidator(under_all)] = Field(
        default={}, description="grades: query_id, doc_id, grade, and if there split; one table, or split -> table"
    )


class IrDatasetsSource(FileSource):
    """Ids of the package ir_datasets (pip extra `ir-datasets`)."""

    reader: Literal["ir_datasets"] = Field(default="ir_datasets", description="format of the collection")
    corpus: str = Field(description="id whose documents are the corpus, such as beir/scifact")
    queries: Annotated[dict[GradeSplit, str], BeforeValidator(under_all)] = Field(
        min_length=1, description="id with queries and grades, or split -> id, such as test: beir/scifact/test"
    )
    title_field: str | None = Field(
        default="title", description="attribute of a document that is its title; not used when absent"
    )
    text_field: str | None = Field(default=None, description="attribute that is its text; default: text, else all it has to say")
    query_field: str | None = Field(
        default=None, description="attribute of a query that is its text; default: the package's choice"
    )


class HubTable(Config):
    """One table on the Hugging Face Hub, or saved by the package datasets on disk."""

    path: str = Field(description="Hub name, a folder written by save_to_disk, or json, csv, parquet with data_files")
    name: str | None = Field(default=None, description="configuration (subset) of the Hub dataset")
    split: str | None = Field(default=None, description="split of the Hub dataset; may be left out when it has only one")
    data_files: Texts = Field(default=(), description="files for path json, csv or parquet")
    revision: str | None = Field(
        default=None, description="commit (40 hex digits: never read again to see whether it changed), tag or branch"
    )
    columns: dict[str, str] = Field(
        default={}, description="field -> column of the dataset; a field that is not named has a column of its name"
    )


class HuggingFaceSource(FileSource):
    """Tables read by the package datasets (pip extra `hf`). Code in a Hub repository is never run."""

    reader: Literal["huggingface"] = Field(default="huggingface", description="format of the collection")
    corpus: HubTable = Field(description="documents: doc_id, text, and if there title, group_id")
    queries: HubTable = Field(description="queries: query_id, text, and if there split, group_id, has_evidence, source_ids")
    qrels: Annotated[dict[GradeSplit, HubTable], BeforeValidator(under_all)] = Field(
        default={}, description="grades: query_id, doc_id, grade, and if there split; one table, or split -> table"
    )
    cache_dir: str | None = Field(default=None, description="where the package keeps downloads; default: its own choice")


SourceConfig = Annotated[
    StdlibSource | BeirSource | TrecSource | TabularSource | IrDatasetsSource | HuggingFaceSource, Field(discriminator="reader")
]
"""Any source; the field `reader` says which."""
