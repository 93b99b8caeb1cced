"""The `stdlib` collection: the documentation of the Python that runs, with queries that need no download.

Belongs here: the source's settings, its collection and its fingerprint. Does not: reading documentation (`stdlib_names.py`),
sentences (`stdlib_sentences.py`) and written questions (`stdlib_questions.py`).
"""

import hashlib
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from anmi_pipeline.collections.collection import Collection
from anmi_pipeline.collections.stdlib_names import Entry, read_entries
from anmi_pipeline.collections.stdlib_parsing import source_files
from anmi_pipeline.collections.stdlib_questions import Answerable, keep_answerable, parse_questions, questions_bytes
from anmi_pipeline.collections.stdlib_sentences import Sentence, Taken, take_sentences
from anmi_pipeline.errors import InputError, nearest
from anmi_pipeline.settings import Config
from anmi_pipeline.tables import CORPUS, QRELS, QUERIES

EXTRACTION = 1
"""Raise when the documents or sentences that are made of equal sources change."""


class StdlibSource(Config):
    """The running interpreter's own documentation."""

    reader: Literal["stdlib"] = Field(default="stdlib", description="kind of source")
    questions: str | None = Field(default=None, description="YAML file of evaluation questions; null = the shipped one")
    train_sentences: int = Field(default=1000, ge=0, description="most docstring sentences that become training queries")
    held_out_share: float = Field(default=0.2, ge=0, lt=1, description="share of the sentences held out of training")
    modules: list[str] = Field(
        default_factory=list[str],
        description='keep only these modules and what lies under them ("builtins" = names without a module); empty = all',
    )


def read_stdlib(source: StdlibSource, *, data_root: Path | None, seed: int) -> Collection:
    """Read the documentation and make its queries.

    Training queries have no grades: where their sentence came from (`source_ids`) is known provenance, not a judgment. For
    held-out sentences that provenance is the answer key, grade 2.

    Raises:
        InputError: `modules` leaves no document, or the questions file is wrong.
    """
    questions = parse_questions(*questions_bytes(source.questions, data_root))
    entries = _entries(source)
    taken = take_sentences(entries, train=source.train_sentences, held_out_share=source.held_out_share, seed=seed)
    answerable = keep_answerable(questions, {entry.name for entry in entries})
    return Collection(
        corpus=CORPUS.frame(
            [{"doc_id": entry.name, "title": entry.title, "text": taken.rests.get(entry.name, entry.text)} for entry in entries]
        ),
        queries=QUERIES.frame([*_sentence_rows(taken.sentences), *_question_rows(answerable)]),
        qrels=QRELS.frame(_grade_rows(taken.sentences, answerable) or None),
        notes=_notes(entries, taken, answerable),
    )


def stdlib_fingerprint(source: StdlibSource, *, data_root: Path | None, seed: int) -> dict[str, str]:
    """Return a sha256 of the raw inputs of each table: the corpus does not depend on the questions file."""
    content, _ = questions_bytes(source.questions, data_root)
    settings = source.model_dump(mode="json", exclude={"questions"}) | {"seed": seed, "extraction": EXTRACTION}
    corpus = hashlib.sha256(json.dumps([settings, sys.version, platform.platform()], sort_keys=True).encode())
    for name, path in source_files().items():
        corpus.update(f"\0{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    written = hashlib.sha256(content).hexdigest()
    both = f"{corpus.hexdigest()}\0{written}"
    asked = {table: hashlib.sha256(f"{table}\0{both}".encode()).hexdigest() for table in ("queries", "qrels")}
    return {"corpus": corpus.hexdigest(), **asked}


def _entries(source: StdlibSource) -> list[Entry]:
    """Read the documents, and refuse a module that has none."""
    entries = read_entries(source.modules)
    for module in source.modules:
        if module != "builtins" and not any(entry.name == module or entry.name.startswith(f"{module}.") for entry in entries):
            known = sorted({entry.name.split(".")[0] for entry in read_entries()} & sys.stdlib_module_names)
            raise InputError(f'module "{module}" has no documentation here (modules of a stdlib source).{nearest(module, known)}')
    return entries


def _sentence_rows(sentences: Sequence[Sentence]) -> list[dict[str, object]]:
    """Rows of QUERIES for sentences. Whether a training query has an answer is for judges to say, so it stays null."""
    return [
        {
            "query_id": sentence.query_id,
            "text": sentence.text,
            "split": sentence.split,
            "has_evidence": True if sentence.split == "held_out" else None,
            "source_ids": list(sentence.sources),
        }
        for sentence in sentences
    ]


def _question_rows(answerable: Answerable) -> list[dict[str, object]]:
    """Rows of QUERIES for written questions."""
    return [
        {
            "query_id": question.id,
            "text": question.text,
            "split": question.split,
            "has_evidence": bool(question.relevant),
            "source_ids": None,
        }
        for question in answerable.questions
    ]


def _grade_rows(sentences: Sequence[Sentence], answerable: Answerable) -> list[dict[str, object]]:
    """Rows of QRELS: held-out sentences with their sources, questions with their names."""
    held_out: list[dict[str, object]] = [
        {"query_id": sentence.query_id, "doc_id": name, "grade": 2}
        for sentence in sentences
        if sentence.split == "held_out"
        for name in sentence.sources
    ]
    written: list[dict[str, object]] = [
        {"query_id": question.id, "doc_id": name, "grade": grade}
        for question in answerable.questions
        for name, grade in question.relevant.items()
    ]
    return [*held_out, *written]


def _notes(entries: Sequence[Entry], taken: Taken, answerable: Answerable) -> dict[str, str]:
    """Say what was read and what this version of Python lacks."""
    sides = [sentence.split for sentence in taken.sentences]
    return {
        "source": f"documentation of {platform.python_implementation()} {platform.python_version()}, {len(entries)} documents",
        "sentences": f"{sides.count('train')} training and {sides.count('held_out')} held-out first sentences, "
        f"taken out of {len(taken.rests)} documents",
        "questions": f"{len(answerable.questions)} written questions, "
        f"{sum(not question.relevant for question in answerable.questions)} of them without an answer in the library",
        "absent_names": ", ".join(answerable.absent),
        "dropped_questions": ", ".join(answerable.dropped),
    }
