"""Read TREC files: topics, grades, documents and runs.

Belongs here: the <top>, <topic>, two-column, four-column, six-column and <DOC> formats. Does not: what a run is used for
(`retrieval/`).
"""

import html
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import polars as pl

from anmi_pipeline.collections.collection import Parts
from anmi_pipeline.collections.fields import DOCUMENT_FIELDS, read_json_table
from anmi_pipeline.collections.files import Encoding, Inputs, folder_files, resolve, text_lines
from anmi_pipeline.collections.grades import GradeRows
from anmi_pipeline.collections.sources import GradeSplit, TopicField, TrecSource
from anmi_pipeline.errors import InputError
from anmi_pipeline.table_specs import FLOAT, INT, TEXT
from anmi_pipeline.tables import RUN

DOCUMENT_SCHEMA: dict[str, pl.DataType] = {"doc_id": TEXT, "text": TEXT, "title": TEXT, "group_id": TEXT}
FIELD_TAGS: dict[TopicField, tuple[str, ...]] = {
    "title": ("title", "query"),
    "description": ("desc", "description", "question"),
    "narrative": ("narr", "narrative"),
}
LABELS = re.compile(r"^\s*(?:Number|Topic|Description|Narrative)\s*:\s*", re.IGNORECASE)
TOPIC_BLOCK = re.compile(r"<top>(.*?)</top>", re.IGNORECASE | re.DOTALL)
TOPIC_ELEMENT = re.compile(r"<topic\s+number\s*=\s*[\"']([^\"']+)[\"'][^>]*>(.*?)</topic>", re.IGNORECASE | re.DOTALL)
MARKUP = re.compile(r"<[^<>]*>")


def read_trec(source: TrecSource, data_root: Path | None) -> Parts:
    """Read corpus, topics and grades.

    Raises:
        InputError: a file is absent or a line of it cannot be read: names file and line.
    """
    corpus_paths = list(corpus_files(source, data_root).values())
    corpus = pl.concat([read_documents(path, source) for path in corpus_paths])
    topic_paths = split_files(source.topics, data_root)
    rows = [(*topic, declared(split)) for split, path in topic_paths.items() for topic in read_topics(path, source)]
    queries = pl.DataFrame(rows, schema={"query_id": TEXT, "text": TEXT, "split": TEXT}, orient="row")
    grades = GradeRows()
    for split, path in split_files(source.qrels, data_root).items():
        read_trec_grades(path, declared(split), grades)
    places = {
        "corpus": named(corpus_paths),
        "queries": named(list(topic_paths.values())),
        "qrels": named(list(split_files(source.qrels, data_root).values())) or "no qrels",
    }
    return Parts(corpus, queries, grades.frame(), places)


def trec_inputs(source: TrecSource, data_root: Path | None) -> Inputs:
    """Say which bytes and settings each table depends on."""
    topics = {f"topics {split}": path for split, path in split_files(source.topics, data_root).items()}
    grades = {f"qrels {split}": path for split, path in split_files(source.qrels, data_root).items()}
    reading = {"corpus_format", "columns", "title_tags", "text_tags", "encoding"}
    return Inputs(
        files={"corpus": corpus_files(source, data_root), "queries": {**topics, **grades}, "qrels": grades},
        settings={
            "corpus": source.model_dump(mode="json", include=reading),
            "queries": source.model_dump(mode="json", include={"topic_fields", "encoding"}),
        },
    )


def declared(split: GradeSplit) -> str | None:
    """Return the split that a file of this key declares."""
    return None if split == "all" else split


def named(paths: Sequence[Path]) -> str:
    """Name the first of several files."""
    return f"{paths[0]} and {len(paths) - 1} more file(s)" if len(paths) > 1 else ", ".join(map(str, paths))


def split_files(paths: dict[GradeSplit, str], data_root: Path | None) -> dict[GradeSplit, Path]:
    """Return split -> existing file."""
    return {split: resolve(path, data_root) for split, path in paths.items()}


def corpus_files(source: TrecSource, data_root: Path | None) -> dict[str, Path]:
    """Return role -> file of every corpus file; folders are walked in name order."""
    files: dict[str, Path] = {}
    for position, entry in enumerate(source.corpus):
        path = resolve(entry, data_root)
        files |= (
            folder_files(path, f"corpus {position:05d}", {".": "hidden"}) if path.is_dir() else {f"corpus {position:05d}": path}
        )
    if not files:
        raise InputError(f"{', '.join(source.corpus)}: no file in it. Name the folder that holds the documents.")
    return files


def read_documents(path: Path, source: TrecSource) -> pl.DataFrame:
    """Read one corpus file in the format that the source or its name says."""
    kind = source.corpus_format if source.corpus_format != "auto" else guessed_format(path)
    if kind == "jsonl":
        return read_json_table(path, DOCUMENT_FIELDS, source.columns)
    rows = two_columns(path, source.encoding) if kind == "tsv" else trec_documents(path, source)
    return pl.DataFrame([(doc, text, title, None) for doc, title, text in rows], schema=DOCUMENT_SCHEMA, orient="row")


def guessed_format(path: Path) -> Literal["trec", "jsonl", "tsv"]:
    """Tell a corpus file's format from its name."""
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    return "jsonl" if suffix in (".jsonl", ".ndjson", ".json") else "tsv" if suffix == ".tsv" else "trec"


def two_columns(path: Path, encoding: Encoding) -> Iterator[tuple[str, str, str]]:
    """Yield (id, "", text) of a file with an id, a tab and a text on each line."""
    for number, line in text_lines(path, encoding):
        if not line.strip():
            continue
        key, tab, text = line.partition("\t")
        if not tab:
            raise InputError(f"{path} line {number}: has no tab; expected an id, a tab and the text.")
        yield key.strip(), "", text.strip()


def trec_documents(path: Path, source: TrecSource) -> Iterator[tuple[str, str, str]]:
    """Yield (id, title, text) of every <DOC> block.

    Raises:
        InputError: a block without end or without DOCNO: names the line where it starts.
    """
    block: list[str] = []
    start = 0
    for number, line in text_lines(path, source.encoding):
        tag = line.strip().upper()
        if tag == "<DOC>":
            if start:
                raise InputError(f"{path} line {number}: a new <DOC> before the one of line {start} ends with </DOC>.")
            block, start = [], number
        elif tag == "</DOC>" and start:
            yield one_document("\n".join(block), source, f"{path} line {start}")
            start = 0
        elif start:
            block.append(line)
        elif tag and not tag.startswith(("<?", "<!", "</", "<DOCS", "<ROOT")):
            raise InputError(
                f"{path} line {number}: text outside <DOC> ... </DOC>. Each tag stands on a line of its own; see corpus_format."
            )
    if start:
        raise InputError(f"{path} line {start}: <DOC> without </DOC>; the file seems cut short.")


def one_document(block: str, source: TrecSource, place: str) -> tuple[str, str, str]:
    """Return (id, title, text) of the inside of one <DOC> block."""
    number = elements(block, ("DOCNO",))
    if not number:
        raise InputError(f"{place}: <DOC> has no <DOCNO> ... </DOCNO>.")
    title = elements(block, source.title_tags)
    text = elements(block, source.text_tags)
    if not text:
        rest = block
        for tag in ("DOCNO", *source.title_tags):
            rest = re.sub(rf"<{tag}\b[^>]*>.*?</{tag}>", " ", rest, flags=re.IGNORECASE | re.DOTALL)
        text = [rest]
    return plain(number[0]), plain(" ".join(title)), plain("\n".join(text))


def elements(block: str, tags: Sequence[str]) -> list[str]:
    """Return the insides of all elements with these tags, tag by tag."""
    return [
        inside for tag in tags for inside in re.findall(rf"<{re.escape(tag)}\b[^>]*>(.*?)</{re.escape(tag)}>", block, re.I | re.S)
    ]


def plain(text: str) -> str:
    """Drop markup, resolve entities, collapse blanks within lines.

    >>> plain(" a <b>c</b> &amp; d ")
    'a c & d'
    """
    bare = html.unescape(MARKUP.sub(" ", text))
    return "\n".join(line for line in (" ".join(line.split()) for line in bare.splitlines()) if line)


def read_topics(path: Path, source: TrecSource) -> list[tuple[str, str]]:
    """Return (query id, text) of a topics file: <top> blocks, <topic number="..."> elements, or id, tab, text on each line.

    Raises:
        InputError: no topic in it, or a topic lacks its number or a wanted part.
    """
    lines = [line for _, line in text_lines(path, source.encoding)]
    text = "\n".join(lines)
    found = [(None, inside) for inside in TOPIC_BLOCK.findall(text)] or [(n, inside) for n, inside in TOPIC_ELEMENT.findall(text)]
    if found:
        return [one_topic(number, inside, source, path) for number, inside in found]
    if re.search(r"<top(ic)?\b", text, re.IGNORECASE):
        raise InputError(f"{path}: <top> without </top>; the file seems cut short.")
    return [(key, query) for key, _, query in two_columns(path, source.encoding)]


def one_topic(number: str | None, inside: str, source: TrecSource, path: Path) -> tuple[str, str]:
    """Return (query id, text) of one topic."""
    key = number or topic_part(inside, ("num",))
    if not key:
        raise InputError(f'{path}: a topic has no <num>: "{plain(inside)[:60]}".')
    parts = {name: topic_part(inside, FIELD_TAGS[name]) for name in source.topic_fields}
    absent = [name for name, text in parts.items() if not text]
    if absent:
        raise InputError(f"{path}: topic {key} has no {' and no '.join(absent)}. Choose other topic_fields.")
    return key.strip(), " ".join(parts.values())


def topic_part(inside: str, tags: Sequence[str]) -> str:
    """Return the text after the first of these tags, up to the next tag; TREC topics rarely close theirs."""
    for tag in tags:
        match = re.search(rf"<{tag}\b[^>]*>(.*?)(?=<|\Z)", inside, re.IGNORECASE | re.DOTALL)
        if match:
            return " ".join(html.unescape(LABELS.sub("", match.group(1))).split())
    return ""


def read_trec_grades(path: Path, split: str | None, grades: GradeRows) -> None:
    """Read a grades file: query, iteration, document, grade, by white space.

    Raises:
        InputError: another number of columns or a grade that is no whole number: names the line.
    """
    for number, line in text_lines(path):
        cells = line.split()
        if not cells:
            continue
        place = f"{path} line {number}"
        if len(cells) != 4:
            hint = " It looks like a BEIR grades file: use reader: beir." if len(cells) == 3 else ""
            raise InputError(f"{place}: has {len(cells)} column(s), expected 4: query, iteration, document, grade.{hint}")
        grades.add(cells[0], cells[2], cells[3], split, place)


def read_trec_run(path: Path) -> pl.DataFrame:
    """Read a ranked list per query: query, Q0, document, rank, score, tag; plain or gzip.

    Order: by score downwards as trec_eval does, equal scores by the file's rank, then by document id; ranks are
    numbered anew from 1.

    Args:
        path: run file.

    Returns:
        A frame of table RUN.

    Raises:
        InputError: a line that cannot be read, or a document twice for one query: names the line or the ids.
    """
    rows: list[tuple[str, str, int, float]] = []
    for number, line in text_lines(path):
        cells = line.split()
        if cells:
            rows.append(run_row(cells, f"{path} line {number}"))
    if not rows:
        raise InputError(f"{path}: no row in it. A run file has six columns: query, Q0, document, rank, score, tag.")
    given = pl.DataFrame(rows, schema={"query_id": TEXT, "doc_id": TEXT, "given": INT, "score": FLOAT}, orient="row")
    twice = given.filter(given.select("query_id", "doc_id").is_duplicated())
    if twice.height:
        raise InputError(f'{path}: query "{twice["query_id"][0]}" lists document "{twice["doc_id"][0]}" more than once.')
    ordered = given.sort("query_id", "score", "given", "doc_id", descending=[False, True, False, False])
    return RUN.frame(ordered.with_columns(rank=pl.int_range(1, pl.len() + 1, dtype=INT).over("query_id")))


def run_row(cells: list[str], place: str) -> tuple[str, str, int, float]:
    """Return (query, document, rank, score) of one line."""
    if len(cells) != 6:
        raise InputError(f"{place}: has {len(cells)} column(s), expected 6: query, Q0, document, rank, score, tag.")
    try:
        rank, score = int(cells[3]), float(cells[4])
    except ValueError as error:
        raise InputError(f'{place}: rank "{cells[3]}" and score "{cells[4]}" must be a whole number and a number.') from error
    if not math.isfinite(score):
        raise InputError(f'{place}: the score is "{cells[4]}", expected a finite number.')
    return cells[0], cells[2], rank, score
