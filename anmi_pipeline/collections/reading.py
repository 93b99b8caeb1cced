"""Read any source, assign its splits, check it; and fingerprint what was read.

Belongs here: the dispatch from a source to its reader and the steps that all formats share. Does not: formats.
"""

from pathlib import Path

import polars as pl

from anmi_pipeline.collections.beir import beir_inputs, read_beir
from anmi_pipeline.collections.collection import Collection, Parts, check_collection
from anmi_pipeline.collections.files import TABLES, Inputs
from anmi_pipeline.collections.grades import tidy_grades
from anmi_pipeline.collections.hub import hugging_face_inputs, read_hugging_face
from anmi_pipeline.collections.ir_ids import ir_datasets_inputs, read_ir_datasets
from anmi_pipeline.collections.sources import (
    BeirSource,
    FileSource,
    HuggingFaceSource,
    IrDatasetsSource,
    SourceConfig,
    TabularSource,
    TrecSource,
)
from anmi_pipeline.collections.splits import DeclaredSplit, split_queries
from anmi_pipeline.collections.stdlib import StdlibSource, read_stdlib, stdlib_fingerprint
from anmi_pipeline.collections.tabular import read_tabular, tabular_inputs
from anmi_pipeline.collections.trec import read_trec, trec_inputs
from anmi_pipeline.errors import InputError, nearest
from anmi_pipeline.tables import CORPUS, QRELS, QUERIES

DECLARED: tuple[DeclaredSplit, ...] = ("train", "dev", "dev_select", "dev_final", "test", "held_out")


def read_collection(source: SourceConfig, *, data_root: Path | None, seed: int) -> Collection:
    """Read and check a collection. Nothing is written.

    Args:
        source: the `source` block of a dataset.
        data_root: folder that relative paths start from (ANMI_DATA).
        seed: dataset seed; decides the hashed splits alone.

    Raises:
        InputError: a file or a row of it is wrong: names the file and, where there is one, the line or the ids.
    """
    if isinstance(source, StdlibSource):
        return check_collection(read_stdlib(source, data_root=data_root, seed=seed))
    parts = read_parts(source, data_root)
    return check_collection(assemble(parts, source, seed), rules=source, places=parts.places)


def fingerprint(source: SourceConfig, *, data_root: Path | None, seed: int) -> dict[str, str]:
    """Return table -> sha256 over everything that the table depends on, without reading meaning into it.

    The corpus depends on its files alone, so editing a question or a grade does not move it; the queries depend also on the
    grades (which name their split) and the seed; the grades also on corpus and queries where the rules may drop rows for what is
    absent there.

    Raises:
        InputError: a file is absent or cannot be read.
    """
    if isinstance(source, StdlibSource):
        return stdlib_fingerprint(source, data_root=data_root, seed=seed)
    inputs = read_inputs(source, data_root)
    dropping = source.absent_ids == "drop" or source.empty_documents == "drop"
    shared: dict[str, dict[str, object]] = {
        "corpus": {"reader": source.reader, "empty_documents": source.empty_documents},
        "queries": {"reader": source.reader, "splits": source.splits.model_dump(mode="json"), "seed": seed},
        "qrels": {"reader": source.reader, "empty_documents": source.empty_documents, "absent_ids": source.absent_ids},
    }
    settings: dict[str, dict[str, object]] = {table: {**inputs.settings.get(table, {}), **shared[table]} for table in TABLES}
    files = dict(inputs.files)
    if dropping:
        files["qrels"] = {**files.get("corpus", {}), **files.get("queries", {}), **files.get("qrels", {})}
        settings["qrels"] |= {"with": [inputs.settings.get("corpus", {}), inputs.settings.get("queries", {})]}
    return Inputs(files=files, settings=settings).digests()


def read_parts(source: FileSource, data_root: Path | None) -> Parts:
    """Read with the reader that the source names."""
    match source:
        case BeirSource():
            return read_beir(source, data_root)
        case TrecSource():
            return read_trec(source, data_root)
        case TabularSource():
            return read_tabular(source, data_root)
        case IrDatasetsSource():
            return read_ir_datasets(source)
        case HuggingFaceSource():
            return read_hugging_face(source, data_root)
        case _:
            raise InputError(f"no reader for a source of type {type(source).__name__}.")


def read_inputs(source: FileSource, data_root: Path | None) -> Inputs:
    """List the bytes and settings that the source's tables depend on."""
    match source:
        case BeirSource():
            return beir_inputs(source, data_root)
        case TrecSource():
            return trec_inputs(source, data_root)
        case TabularSource():
            return tabular_inputs(source, data_root)
        case IrDatasetsSource():
            return ir_datasets_inputs(source)
        case HuggingFaceSource():
            return hugging_face_inputs(source, data_root)
        case _:
            raise InputError(f"no reader for a source of type {type(source).__name__}.")


def assemble(parts: Parts, source: FileSource, seed: int) -> Collection:
    """Make the three tables: tidy grades, one split per query, line ends as LF.

    Raises:
        InputError: two grades for one pair, a query in two splits, an unknown split.
    """
    notes = dict(parts.notes)
    graded = tidy_grades(parts.qrels, parts.places["qrels"], notes)
    declared = declared_splits(parts.queries, graded, parts.places)
    splits, said = split_queries(
        parts.queries["query_id"].to_list(), declared, graded["query_id"].unique().to_list(), source.splits, seed
    )
    notes["splits"] = said
    split = pl.Series("split", [splits.get(query) for query in parts.queries["query_id"]], dtype=pl.String)
    corpus = CORPUS.frame(parts.corpus.with_columns(one_line_end("title"), one_line_end("text")))
    queries = QUERIES.frame(parts.queries.with_columns(one_line_end("text"), split))
    return Collection(corpus, queries, QRELS.frame(graded), notes)


def one_line_end(column: str) -> pl.Expr:
    """Write every line end inside a text as LF, so that a file saved on another system is the same collection."""
    return pl.col(column).str.replace_all("\r\n", "\n", literal=True).str.replace_all("\r", "\n", literal=True)


def declared_splits(queries: pl.DataFrame, qrels: pl.DataFrame, places: dict[str, str]) -> dict[str, DeclaredSplit]:
    """Gather which split the files declare for each query: the queries' own column, else the grades file that names the query.

    Raises:
        InputError: an unknown split, or the two disagree.
    """
    result: dict[str, DeclaredSplit] = {}
    names: dict[str, DeclaredSplit] = {name: name for name in DECLARED}
    tables = [(places["queries"], queries)] if "split" in queries.columns else []
    for where, table in [*tables, (places["qrels"], qrels)]:
        for query, split in table.select("query_id", "split").drop_nulls("split").unique(maintain_order=True).iter_rows():
            known = names.get(split)
            if known is None:
                raise InputError(f'{where}: query "{query}" has split "{split}".{nearest(split, DECLARED)}')
            if result.setdefault(query, known) != known:
                raise InputError(
                    f'{where}: query "{query}" is in split {known}, but {places["queries"]} says {result[query]}. Choose one.'
                )
    return result
