"""Reading sentences: what a model that was asked for a number or a letter says around it.

Belongs here: English patterns for preferences and grades. Does not: JSON, bare answers and log-probabilities (`parsing.py`).
Every pattern gives up readily: an answer lost costs one verdict, an answer misread is a false one.
"""

import re
from collections.abc import Callable, Sequence

NUMBER = r"[-+\u2212]?(?:\d+(?:\.\d+)?|\.\d+)"
SIGNS = str.maketrans("\u2212", "-")
SHORT = 300
"""Characters up to which a number alone is taken for the answer."""

THING = r"(?:document|doc|passage|text|option)"
LETTER = r"(?-i:[ABT])"
NO_SCALE = r"(?!\w|[.,]\d|\s*(?:/|%|percent\b|out\s+of\b|for\b|towards?\b|in\s+favou?r\b))"
"""After a number: it is whole, and neither of another scale nor for one side."""
NO_MORE = r"(?![\w'’-])(?!\s*(?:[<>=/]|is\b|are\b|and\b|or\b|vs\b|nor\b|&))"
"""After a letter: the sentence does not go on to say something about it."""
STATED = re.compile(
    r"\b(?P<final>final\s+)?(?:answer|preference|score|verdict|decision|judge?ment|winner|choice)\b"
    r"[\s*_`\"']*(?:is\s*[:=]?|=|:)[\s*_`\"'\[(]*"
    rf"(?P<value>{NUMBER}{NO_SCALE}|(?:(?:the\s+)?{THING}\s+)?{LETTER}{NO_MORE}|(?:a\s+)?tie\b)",
    re.IGNORECASE,
)
MARKED = re.compile(r"\[\[\s*([ABT])\s*\]\]|\\boxed\{(?:\\text\{)?\s*([ABT]|[-+.\d]+)\s*\}|<answer>\s*([^<]{1,40}?)\s*</answer>")
COMPARED = re.compile(r"(?<![\w'])([AB])\s*([<>=])\s*([AB])(?![\w'])")
BETTER = re.compile(
    rf"\b(?:{THING}\s+(?P<letter>(?-i:[AB]))|(?:the\s+)?(?P<ordinal>first|second)\s+(?:{THING}|one))\s+"
    r"(?:is|seems|appears\s+to\s+be)\s+"
    r"(?:(?:clearly|far|much|slightly|somewhat|significantly|definitely|marginally|considerably|a\s+bit|the)\s+)*"
    r"(?:more\s+(?:relevant|useful|helpful|specific|precise)|better|most\s+relevant)\b",
    re.IGNORECASE,
)
EVEN = re.compile(
    rf"\b(?:both(?:\s+{THING}s)?|(?:the\s+)?(?:two\s+)?{THING}s(?:\s+A\s+and\s+B)?)\s+are\s+equally\s+(?:relevant|good|useful)\b"
    r"|\bit(?:'s|\s+is)\s+a\s+tie\b",
    re.IGNORECASE,
)
HEDGED = re.compile(
    r"\b(?:if|whether|unless|would|could|might|may|suppose|not|no|cannot|unable|except|but)\b|n['’]t\b", re.IGNORECASE
)
REFUSING = re.compile(r"\b(?:can(?:not|['’]t)|unable|won['’]t|not\s+able|sorry|as\s+an\s+ai|apologi[sz]e)\b", re.IGNORECASE)
LONE = re.compile(rf"(?<![\w.,/+\u2212-]){NUMBER}(?!\w)")
GRADED = re.compile(
    r"\b(?:grade|rating|score|relevance|rate|answer)\b[\s*_`\"']*(?:(?:is|of|it|this|as|at|a|an|the\s+document|=|:)[\s*_`\"']*)*"
    rf"(?P<value>{NUMBER})(?!\w|[.,]\d|\s*(?:/|%|percent\b|out\s+of\b|to\b|-))",
    re.IGNORECASE,
)

Reader = Callable[[object], float | None]


def one_of(values: Sequence[float | None]) -> float | None:
    """The value that all agree on; None when there is none, one is unreadable or two differ."""
    first = values[0] if values else None
    return first if all(value == first for value in values) else None


def preference_in_prose(text: str, value: Reader) -> float | None:
    """Read P(first is more relevant) out of sentences; the most explicit pattern that occurs decides alone.

    Args:
        text: the answer.
        value: reads a number or a name.
    """
    marked = [value(next(group for group in match.groups() if group is not None)) for match in MARKED.finditer(text)]
    if marked:
        return one_of(marked)
    stated = list(STATED.finditer(text))
    if stated:
        final = [match for match in stated if match["final"]]
        return one_of([value(match["value"]) for match in final or stated])
    sentences = _sentences(text)
    return one_of(sentences) if sentences else _lone_number(text, value)


def grade_in_prose(text: str, value: Reader) -> float | None:
    """Read a grade out of sentences.

    Args:
        text: the answer.
        value: reads a number.
    """
    return one_of([value(match["value"]) for match in GRADED.finditer(text)])


def _sentences(text: str) -> list[float | None]:
    """What each sentence says that compares the two; None for one that hedges, denies or makes no sense."""
    said: list[float | None] = []
    for sentence in re.split(r"(?<=[.!?])\s+|\n", text):
        hedged = HEDGED.search(sentence) is not None
        found = [_compared(match) for match in COMPARED.finditer(sentence)]
        found += [_better(match) for match in BETTER.finditer(sentence)]
        found += [0.5 for _ in EVEN.finditer(sentence)]
        said += [None if hedged else one for one in found]
    return said


def _compared(match: re.Match[str]) -> float | None:
    left, sign, right = match.groups()
    if left == right:
        return None
    return 0.5 if sign == "=" else float((left == "A") == (sign == ">"))


def _better(match: re.Match[str]) -> float:
    return float(match["letter"] == "A" if match["letter"] else match["ordinal"].lower() == "first")


def _lone_number(text: str, value: Reader) -> float | None:
    """The only number of a short answer, when it is written like a grade: with a sign or a point."""
    numbers = LONE.findall(text)
    if len(numbers) != 1 or len(text) > SHORT or REFUSING.search(text) or not re.match(r"[-+\u2212]|\d*\.", numbers[0]):
        return None
    return value(numbers[0]) if re.search(re.escape(numbers[0]) + NO_SCALE, text) else None
