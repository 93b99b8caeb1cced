"""Written evaluation questions of the `stdlib` collection: their file and which of them this interpreter can answer.

Belongs here: the shape of a question, reading and checking the file, dropping names that this version does not have. Does not:
the questions themselves (`conf/questions/stdlib.yaml`) and the sentences of docstrings (`stdlib_sentences.py`).
"""

import importlib.resources
from collections.abc import Collection as Names
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError

from anmi_pipeline.errors import InputError, nearest
from anmi_pipeline.settings import Config


class Question(Config):
    """One question that a person would ask, with every public name that answers it."""

    id: str = Field(pattern=r"^[\w.-]+$", description="query id; never reused for another question")
    split: Literal["dev_select", "dev_final", "test"] = Field(description="fixed split")
    text: str = Field(min_length=3, description="the question in a person's words")
    relevant: dict[str, Literal[1, 2]] = Field(
        description="qualified name -> grade: 2 answers it directly, 1 helps; empty = the standard library has no answer"
    )


@dataclass(frozen=True)
class Answerable:
    """The questions as far as one interpreter goes.

    Attributes:
        questions: those kept, grades only for names that exist; one without grades is known to have no answer.
        absent: names that this corpus does not have.
        dropped: ids of questions that lost their last grade 2: nothing here answers them directly.
    """

    questions: list[Question]
    absent: list[str]
    dropped: list[str]


def questions_bytes(path: str | None, data_root: Path | None) -> tuple[bytes, str]:
    """Read the questions file, the shipped one when `path` is None; return its bytes and where they are from.

    Raises:
        InputError: there is no such file.
    """
    if path is None:
        shipped = importlib.resources.files("anmi_pipeline").joinpath("conf", "questions", "stdlib.yaml")
        return shipped.read_bytes(), "the shipped questions (conf/questions/stdlib.yaml)"
    file = Path(path).expanduser()
    file = file if file.is_absolute() or data_root is None else data_root / file
    if not file.is_file():
        raise InputError(f'questions file "{file}" does not exist. Correct `questions` in the source, or leave it out.')
    return file.read_bytes(), str(file)


def parse_questions(content: bytes, where: str) -> list[Question]:
    """Read a YAML list of questions.

    Raises:
        InputError: it is not UTF-8 YAML, a field is wrong, or an id or a text occurs twice.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        rows = yaml.load(content.decode("utf-8"), Loader=loader)
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{where} is not UTF-8 YAML: {error}. Correct it at that place.") from error
    if not isinstance(rows, list) or not rows:
        raise InputError(
            f"{where} must be a YAML list of questions with {', '.join(Question.model_fields)}. It holds: {type(rows).__name__}."
        )
    questions = [_question(row, number, where) for number, row in enumerate(rows, 1)]
    for field in ("id", "text"):
        seen: set[str] = set()
        for question in questions:
            value = str(getattr(question, field))
            if value in seen:
                raise InputError(f'{where}: {field} "{value}" occurs twice. Give every question its own.')
            seen.add(value)
    return questions


def _question(row: object, number: int, where: str) -> Question:
    """Read one row, with its place in the error."""
    try:
        return Question.model_validate(row)
    except ValidationError as error:
        # A misspelt field also makes the right one absent: name what is there, not what it left out.
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        place = ".".join(str(part) for part in first["loc"]) or "the row"
        named = row.get("id", "") if isinstance(row, dict) else ""
        hint = nearest(place, Question.model_fields) if first["type"] == "extra_forbidden" else ""
        raise InputError(f"{where}: question {number} {named}: {place}: {first['msg']}.{hint}") from error


def keep_answerable(questions: list[Question], names: Names[str]) -> Answerable:
    """Drop names that the corpus lacks, and questions that nothing answers directly any more."""
    kept: list[Question] = []
    absent: set[str] = set()
    dropped: list[str] = []
    for question in questions:
        present = {name: grade for name, grade in question.relevant.items() if name in names}
        absent |= question.relevant.keys() - present.keys()
        if question.relevant and 2 not in present.values():
            dropped.append(question.id)
        else:
            kept.append(question.model_copy(update={"relevant": present}))
    return Answerable(kept, sorted(absent), dropped)
