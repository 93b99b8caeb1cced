"""Training and held-out queries of the `stdlib` collection: first sentences of docstrings, taken out of their documents.

Belongs here: what counts as a first sentence, which sentences may be taken, their groups and sides. Does not: reading
documentation (`stdlib_names.py`) and the written questions (`stdlib_questions.py`).
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from anmi_pipeline.collections.stdlib_names import Entry

MIN_WORDS, MAX_WORDS = 5, 35
"""Length of a sentence that can stand as a query."""
MIN_REST_WORDS = 10
"""Words that must be left in a document, title not counted; below that the document would be its name alone."""
MIN_LETTERS = 0.75
"""Share of letters and blanks in a sentence; below that it is code, a signature or a table."""
MAX_SOURCES = 8
"""A sentence that opens more documents than this ("Return a shallow copy.") asks for nothing in particular."""
SIGNATURE = re.compile(r"^[\w.]*\(.*\)|->|--")
END = re.compile(r"(?<![ .(]e\.g\.)(?<![ .(]i\.e\.)(?<!etc\.)(?<! vs\.)(?<=[.!?])\s+(?=[A-Z\"'`*(\[])")


@dataclass(frozen=True)
class Sentence:
    """A sentence that became a query.

    Attributes:
        query_id: `s-` and 12 hex digits of the sentence's sha256, so it does not move when others come or go.
        text: the sentence, white space folded.
        split: `train` or `held_out`.
        group: smallest normalised sentence of its group; a group is never on both sides.
        sources: names of all documents that it was taken from, sorted.
    """

    query_id: str
    text: str
    split: str
    group: str
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Taken:
    """The sentences, and what is left of the documents they were taken from (name -> text)."""

    sentences: list[Sentence]
    rests: dict[str, str]


def normalise(text: str) -> str:
    """Fold case, punctuation and white space, for comparing sentences.

    >>> normalise("Return  the *value*.")
    'return the value'
    """
    return " ".join(re.findall(r"\w+", text.lower()))


def first_sentence(text: str) -> tuple[str, str] | None:
    r"""Split a docstring into its first sentence and the rest; None when it has no sentence that could be a query.

    A signature line that compiled functions start with stays in the rest.

    >>> first_sentence("Read all of the file now. Then close it.\n\nMore.")
    ('Read all of the file now.', 'Then close it.\n\nMore.')
    """
    paragraphs = re.split(r"\n\s*\n", text)
    kept = [paragraphs.pop(0)] if len(paragraphs) > 1 and _is_signature(paragraphs[0]) else []
    pieces = END.split(paragraphs[0], maxsplit=1)
    sentence = " ".join(pieces[0].split())
    whole = len(pieces) == 1
    if whole and not sentence.endswith((".", "!", "?")) and "\n" in paragraphs[0].strip():
        return None  # an unfinished paragraph: a list, a table, code
    words = len(sentence.split())
    letters = sum(letter.isalpha() or letter == " " for letter in sentence)
    if not MIN_WORDS <= words <= MAX_WORDS or letters < MIN_LETTERS * len(sentence) or SIGNATURE.search(sentence):
        return None
    rest = [*kept, *pieces[1:], *paragraphs[1:]]
    return sentence, "\n\n".join(part.strip("\n") for part in rest if part.strip())


def _is_signature(paragraph: str) -> bool:
    """Say whether every line of the paragraph is a call signature."""
    return all(re.match(r"^[\w.]+\(.*\)(\s*-+>.*)?$", line.strip()) for line in paragraph.strip().splitlines())


def take_sentences(entries: Sequence[Entry], *, train: int, held_out_share: float, seed: int) -> Taken:
    """Choose training and held-out sentences and take them out of their documents.

    A sentence is taken from every document that it opens, or not at all: when one of them would keep too little, or when the
    sentence also stands elsewhere, answering it would not be knowing where it came from.

    Args:
        entries: documents.
        train: most training sentences.
        held_out_share: share of the sentences held out.
        seed: of the choice and the sides.

    Returns:
        sentences sorted by query id, and the shortened documents.
    """
    found = {entry.name: split for entry in entries if (split := first_sentence(entry.text))}
    sources: dict[str, list[str]] = {}
    for name, (sentence, _) in found.items():
        sources.setdefault(normalise(sentence), []).append(name)
    everything = "\n".join(_spaced(normalise(entry.text)) for entry in entries)
    groups = _groups(sources, {name: rest for name, (_, rest) in found.items()})
    room = {"train": train, "held_out": round(train * held_out_share / (1 - held_out_share))}
    sentences: list[Sentence] = []
    rests: dict[str, str] = {}
    for key in sorted(sources, key=lambda item: (_draw(seed, "order", groups[item]), item)):
        side = "held_out" if _draw(seed, "side", groups[key]) < held_out_share else "train"
        names = sources[key]
        if room[side] and _can_lose(key, names, found, everything):
            room[side] -= 1
            rests |= {name: found[name][1] for name in names}
            query_id = f"s-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
            sentences.append(Sentence(query_id, found[min(names)][0], side, groups[key], tuple(sorted(names))))
        if not any(room.values()):
            break
    return Taken(sorted(sentences, key=lambda sentence: sentence.query_id), rests)


def _can_lose(key: str, names: Sequence[str], found: Mapping[str, tuple[str, str]], everything: str) -> bool:
    """Say whether all documents that a sentence opens keep enough without it, and it stands nowhere else."""
    if len(names) > MAX_SOURCES or any(len(normalise(found[name][1]).split()) < MIN_REST_WORDS for name in names):
        return False
    return everything.count(_spaced(key)) == len(names)


def _spaced(words: str) -> str:
    """Give every word its own blanks on both sides, so that counting finds a sentence that follows itself."""
    return f" {words.replace(' ', '  ')} "


def _groups(sources: Mapping[str, Iterable[str]], rests: Mapping[str, str]) -> dict[str, str]:
    """Map each normalised sentence to its group: sentences whose documents are equal without them belong together."""
    parent = {key: key for key in sources}

    def root(key: str) -> str:
        while parent[key] != key:
            key = parent[key]
        return key

    seen: dict[str, str] = {}
    for key, names in sources.items():
        for name in names:
            rest = normalise(rests[name])
            if rest:
                one, other = sorted((root(key), root(seen.setdefault(rest, key))))
                parent[other] = one
    return {key: root(key) for key in sources}


def _draw(seed: int, purpose: str, group: str) -> float:
    """Return a number in [0, 1) that depends on the seed, the purpose and the group alone."""
    digest = hashlib.sha256(f"{seed}\0{purpose}\0{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
