"""Prompts: versioned files, and the messages that are made of them.

Belongs here: reading a prompt file, checking it, and writing the messages of one call. Does not: the fence (`fencing.py`),
counting (`tokens.py`), the provider's wire format (the clients), reading the answer (`parsing.py`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, Self, cast

import yaml
from pydantic import Field, ValidationError, model_validator

from anmi_pipeline.digests import Json, canonical_json
from anmi_pipeline.errors import InputError, nearest
from anmi_pipeline.judging.fencing import fence, fence_tag, harmless
from anmi_pipeline.judging.tokens import MIN_TOKENS, TokenCounter, default_counter
from anmi_pipeline.settings import Config

PromptKind = Literal["pairwise", "listwise", "pointwise"]
AnswerForm = Literal["token", "json", "tool"]
"""token: one answer token, read through its log-probabilities; json: a structured output; tool: a forced tool call."""

LAYOUT = 1
"""Version of everything besides the file that decides what is sent: fences, labels, marks, harmless spellings."""
PLACEHOLDER = re.compile(r"\{(instruction|query|documents|answer|tag|count)\}")
WORD = re.compile(r"\{([a-z]+)\}")
USER_PARTS = ("tag", "query", "documents", "answer")
CACHED_TEXTS = 8_192
LETTERS = ("A", "B")


class Tool(Config):
    """The tool that a model is made to call."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$", description="name of the tool, also that of the structured output")
    description: str = Field(description="what the model is told about the tool")


class Prompt(Config):
    """One prompt file."""

    name: PromptKind = Field(description="what is asked: pairwise, listwise or pointwise")
    version: Annotated[int, Field(ge=1)] = Field(description="raised with every change of the file")
    system: str = Field(description="system message, equal for all calls of a dataset; {instruction} is that of the dataset")
    user: str = Field(description="user message of {tag}, {query}, {documents} and {answer}")
    answer: Mapping[AnswerForm, str] = Field(
        min_length=1, description="how to answer, by form; {count} is the number of documents"
    )
    tool: Tool = Field(description="the tool of the forms tool and json")
    schema_: Mapping[str, object] = Field(
        alias="schema", description="JSON schema of the tool's arguments, or of the JSON answer"
    )

    @model_validator(mode="after")
    def complete(self) -> Self:
        """Refuse a file that would send a prompt without its query, its documents or its question."""
        for field, text, needed in (("system", self.system, ("instruction",)), ("user", self.user, USER_PARTS)):
            found = WORD.findall(text)
            absent = [name for name in needed if found.count(name) != 1]
            if absent:
                raise ValueError(f"{field} must hold {{{absent[0]}}} once; it holds it {found.count(absent[0])} times")
            unknown = [name for name in found if not PLACEHOLDER.fullmatch(f"{{{name}}}")]
            if unknown:
                raise ValueError(f"{field} holds {{{unknown[0]}}}, which stands for nothing")
        return self

    def answered_by(self, form: AnswerForm) -> str:
        """How to answer in a form.

        Raises:
            InputError: the file has no such form.
        """
        if form not in self.answer:
            raise InputError(f'prompt "{self.name}" asks for no answer of form "{form}". It has: {", ".join(self.answer)}.')
        return self.answer[form]


class PromptLimits(Config):
    """How long the parts of a prompt may be."""

    document_tokens: int = Field(
        default=1024, ge=MIN_TOKENS, description="longest document; the middle of a longer one is left out"
    )
    query_tokens: int = Field(default=256, ge=MIN_TOKENS, description="longest query; the middle of a longer one is left out")


@dataclass(frozen=True)
class Messages:
    """The messages of one call.

    Attributes:
        system: system message.
        user: user message.
        tokens: counted tokens of both.
    """

    system: str
    user: str
    tokens: int


class PromptWriter:
    """Writes the messages of calls that share a prompt, a form, an instruction and limits."""

    def __init__(
        self,
        prompt: Prompt,
        form: AnswerForm,
        instruction: str = "",
        limits: PromptLimits | None = None,
        counter: TokenCounter | None = None,
    ) -> None:
        """Fix what the calls share.

        Args:
            prompt: the prompt.
            form: how the model answers.
            instruction: what relevance means in the dataset; trusted, unlike queries and documents.
            limits: lengths of the parts.
            counter: counts and cuts; `tokens.default_counter()` when None.

        Raises:
            InputError: the prompt has no such form.
        """
        self.prompt = prompt
        self.form: AnswerForm = form
        self.limits = limits or PromptLimits()
        self.counter = counter or default_counter()
        self._ask = prompt.answered_by(form)
        self._instruction = instruction.strip()
        self._shortened = lru_cache(CACHED_TEXTS)(self._shorten)
        self._frame_tokens = lru_cache(CACHED_TEXTS)(self._count_frame)

    def identity(self) -> str:
        """Everything of the prompt that an answer depends on, as JSON text: `CallSettings.prompt`."""
        prompt, limits = self.prompt, self.limits
        parts: dict[str, Json] = {
            "layout": LAYOUT, "system": prompt.system, "user": prompt.user, "answer": self._ask, "form": self.form,
            "instruction": self._instruction, "limits": cast("Json", limits.model_dump()), "counter": self.counter.name,
        }  # fmt: skip
        if self.form != "token":
            parts["tool"] = cast("Json", prompt.tool.model_dump())
            parts["schema"] = cast("Json", prompt.schema_)
        return canonical_json(parts).decode()

    @property
    def version(self) -> str:
        """Name and version of the file: `CallSettings.prompt_version`."""
        return f"{self.prompt.name}/{self.prompt.version}"

    def write(self, query: str, documents: Sequence[str]) -> Messages:
        """Write the messages of one call.

        Args:
            query: text of the query.
            documents: texts in the order shown: two for pairwise, any number from two for listwise, one for pointwise.

        Raises:
            InputError: another number of documents than the prompt takes.
        """
        labels = labels_of(self.prompt.name, len(documents))
        asked, query_tokens = self._shortened(query, self.limits.query_tokens)
        shown = [self._shortened(text, self.limits.document_tokens) for text in documents]
        tag = fence_tag([asked, *(text for text, _ in shown)])
        system, user = self._fill(labels, asked, [text for text, _ in shown], tag)
        texts = query_tokens + sum(tokens for _, tokens in shown)
        tags = (system.count(tag) + user.count(tag)) * self.counter.count(tag)
        return Messages(system, user, texts + tags + self._frame_tokens(len(documents)))

    def _fill(self, labels: Sequence[str], query: str, documents: Sequence[str], tag: str) -> tuple[str, str]:
        """Write system and user message from texts that are ready."""
        prompt = self.prompt
        parts = {
            "instruction": f"What relevance means here: {self._instruction}" if self._instruction else "",
            "query": fence("query", query, tag),
            "documents": "\n\n".join(fence(label, text, tag) for label, text in zip(labels, documents, strict=True)),
            "answer": self._ask.replace("{count}", str(len(documents))),
            "tag": tag,
        }
        # In one pass: a document that holds "{answer}" is text, not a place to fill.
        system, user = (
            PLACEHOLDER.sub(lambda place: parts.get(place[1], place[0]), text) for text in (prompt.system, prompt.user)
        )
        return system.strip(), user.strip()

    def _count_frame(self, documents: int) -> int:
        """Tokens of everything but the texts and the tags."""
        system, user = self._fill(labels_of(self.prompt.name, documents), "", [""] * documents, "")
        breaks = 2 * (documents + 1)  # a text without a fence around it has no line break at its ends to count
        return self.counter.count(system) + self.counter.count(user) + breaks

    def _shorten(self, text: str, limit: int) -> tuple[str, int]:
        """The text as it is sent, and its tokens. Made harmless last: what is cut away cannot leave half a mark behind."""
        whole = harmless(text)
        tokens = self.counter.count(whole)
        if tokens <= limit:
            return whole, tokens
        shorter = harmless(self.counter.truncate(whole, limit))
        return shorter, self.counter.count(shorter)


def labels_of(kind: PromptKind, documents: int) -> list[str]:
    """Name the documents of a prompt: A and B, 1 to m, or none.

    Raises:
        InputError: another number of documents than the prompt takes.
    """
    if kind == "pairwise" and documents == len(LETTERS):
        return [f"document {letter}" for letter in LETTERS]
    if kind == "pointwise" and documents == 1:
        return ["document"]
    if kind == "listwise" and documents >= 2:
        return [f"document {number}" for number in range(1, documents + 1)]
    takes = {"pairwise": "2", "listwise": "2 or more", "pointwise": "1"}[kind]
    raise InputError(f"a {kind} prompt takes {takes} documents, not {documents}.")


def document_text(title: str | None, text: str) -> str:
    r"""Title and text as one document; a title that the text begins with is not repeated.

    >>> document_text("Paris", "Paris is a city."), document_text("Paris", "A city.")
    ('Paris is a city.', 'Paris\nA city.')
    """
    return f"{title}\n{text}" if title and not text.startswith(title) else text


def read_prompt(name: PromptKind, conf: Path | None = None) -> Prompt:
    """Read a prompt file: a user's own `prompts/NAME.yaml` first, then the shipped one.

    Args:
        name: name of the prompt.
        conf: the user's configuration folder (ANMI_CONF).

    Raises:
        InputError: no such file, or it is no prompt.
    """
    shipped = Path(str(resources.files("anmi_pipeline"))) / "conf" / "prompts"
    folders = [*([conf / "prompts"] if conf else []), shipped]
    path = next((folder / f"{name}.yaml" for folder in folders if (folder / f"{name}.yaml").is_file()), None)
    if path is None:
        raise InputError(f'unknown prompt "{name}".{nearest(name, (file.stem for file in shipped.glob("*.yaml")))}')
    try:
        prompt = Prompt.model_validate(yaml.safe_load(path.read_text("utf-8")))
    except (yaml.YAMLError, ValidationError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a prompt: {error}") from error
    if prompt.name != name:
        raise InputError(f'{path} says that its name is "{prompt.name}"; a file of that place is named "{name}".')
    return prompt
