"""Rows of tokens for a model that reads a query and two documents together.

Belongs here: a model's control tokens, texts cut to their share, where each text stands in a row. Does not: the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anmi_pipeline.errors import InputError

Pair = tuple[str, str, str]
"""Query id, id of the document shown first, id of the document shown second."""


@dataclass(frozen=True)
class Row:
    """One row: a query and two documents in one order.

    Attributes:
        features: input_ids, attention_mask and, for a model with segments, token_type_ids.
        spans: begin and end of query, first and second document.
    """

    features: dict[str, list[int]]
    spans: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Layout:
    """The tokens that a model puts around and between texts, read off its tokenizer.

    Attributes:
        before: in front of the first text.
        between: between two texts.
        after: behind the last text.
        types: segment numbers of the first and of the last text; None for a model without segments.
    """

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    types: tuple[int, int] | None

    @property
    def tokens(self) -> int:
        """Tokens of a row beside its three texts."""
        return len(self.before) + 2 * len(self.between) + len(self.after)

    def row(self, query: Sequence[int], first: Sequence[int], second: Sequence[int]) -> Row:
        """One row: query, first, second; only the second document stands in the last segment."""
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        for control, text in ((self.before, query), (self.between, first), (self.between, second)):
            ids += control
            spans.append((len(ids), len(ids) + len(text)))
            ids += text
        ids += self.after
        features = {"input_ids": ids, "attention_mask": [1] * len(ids)}
        if self.types is not None:
            head = spans[2][0]
            features["token_type_ids"] = [self.types[0]] * head + [self.types[1]] * (len(ids) - head)
        return Row(features, (spans[0], spans[1], spans[2]))


def read_layout(tokenizer: Any) -> Layout:  # noqa: ANN401
    """Find the layout by letting the tokenizer join two texts.

    Raises:
        InputError: the two texts cannot be found again in what it made.
    """
    first, second = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("first", "second"))
    joined = tokenizer("first", "second")
    ids: list[int] = joined["input_ids"]
    begin, middle = place(ids, first, 0), place(ids, second, len(first))
    if begin < 0 or middle < 0 or not first or not second:
        raise InputError(f"{type(tokenizer).__name__} does not join two texts in a way that this version understands.")
    # Decoders put nothing between two texts; a line break then keeps them apart.
    between = ids[begin + len(first) : middle] or tokenizer("\n", add_special_tokens=False)["input_ids"]
    types = joined.get("token_type_ids")
    segments = (int(types[begin]), int(types[middle])) if types is not None else None
    return Layout(tuple(ids[:begin]), tuple(between), tuple(ids[middle + len(second) :]), segments)


def place(ids: Sequence[int], part: Sequence[int], start: int) -> int:
    """Where a run of tokens begins in others, from `start` on; -1 when it does not."""
    width = len(part)
    return next((at for at in range(start, len(ids) - width + 1) if list(ids[at : at + width]) == list(part)), -1)


@dataclass(frozen=True)
class PairTexts:
    """The token ids of the texts that pairs are made of, each cut to its share of a row.

    Attributes:
        queries: query id -> token ids.
        documents: document id -> token ids.
    """

    queries: Mapping[str, list[int]]
    documents: Mapping[str, list[int]]

    def of(self, pair: Pair) -> tuple[list[int], list[int], list[int]]:
        """Tokens of query, first and second document."""
        return self.queries[pair[0]], self.documents[pair[1]], self.documents[pair[2]]

    def length(self, pair: Pair) -> int:
        """Tokens of the three texts together."""
        return sum(len(part) for part in self.of(pair))


def tokenise(tokenizer: Any, texts: Mapping[str, str], limit: int) -> dict[str, list[int]]:  # noqa: ANN401
    """Token ids of texts by id, cut to a length.

    Control tokens written in a text are left out: a document cannot end its own place in the row and open another.
    """
    if not texts:
        return {}
    banned = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    # Cut before the filter too, so that a long book costs no more than what is read of it.
    found: Any = tokenizer(list(texts.values()), add_special_tokens=False, truncation=True, max_length=2 * limit + 16)
    rows: list[list[int]] = found["input_ids"]
    return {name: [token for token in ids if token not in banned][:limit] for name, ids in zip(texts, rows, strict=True)}
