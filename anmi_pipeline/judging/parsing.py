"""Reading the answers of models: a probability, a grade or a ranking, or nothing.

Belongs here: log-probabilities, JSON, tool arguments and bare answers. Does not: sentences (`prose.py`), asking (the clients) and
folding rankings (`ranking.py`). What cannot be read is None and never a vote: not .5, which is a tie that a model stated. An
answer that says two things says nothing.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

from anmi_pipeline.judging.prose import NUMBER, SIGNS, grade_in_prose, one_of, preference_in_prose
from anmi_pipeline.judging.ranking import Ranking, checked_ranking, ranking_in_prose
from anmi_pipeline.judging.requests import Answer

PARSER = 1
"""Version of the readers. Stored answers are read again when it changes; nobody is asked."""
MIN_MASS = 0.5
"""Least probability of all answer tokens together. Below it the model was about to say something else: a refusal, a preamble."""
LONGEST = 20_000
"""Characters that are looked at, from the end, where decisions stand. Longer answers are loops."""
CUT = ("length", "max_tokens")
"""What providers call a stop at the limit of output tokens."""

PAIR_TOKENS = {"A": 1.0, "B": 0.0, "T": 0.5}
"""P(first is more relevant) of each answer token of the pairwise prompt."""
GRADE_TOKENS = {"0": 0.0, "1": 1.0, "2": 2.0, "3": 3.0}

Logprobs = Sequence[tuple[str, float]]

PAIR_FIELDS = ("preference", "score", "winner", "answer", "choice", "verdict", "decision", "result")
GRADE_FIELDS = ("grade", "relevance", "score", "rating", "answer", "result")
RANKING_FIELDS = ("ranking", "order", "answer", "result")
THOUGHT = re.compile(r"<(think|thinking|reasoning)>.*?</\1>", re.DOTALL | re.IGNORECASE)
OPEN_THOUGHT = re.compile(r"<(?:think|thinking|reasoning)>", re.IGNORECASE)
DECORATION = " \t\r\n*_`\"'.,:;!()[]{}<>$#"
WORD_STARTS = "\u2581\u0120"
"""Word boundaries of SentencePiece and of byte-level vocabularies, as some servers print them."""
PAIR_NAMES = {
    **dict.fromkeys(("a", "first", "the first", "1st"), 1.0),
    **dict.fromkeys(("b", "second", "the second", "2nd"), 0.0),
    **dict.fromkeys(("t", "tie", "a tie", "tied", "equal", "equally relevant", "draw", "both", "neither", "same"), 0.5),
}
PAIR_NOUNS = re.compile(
    r"^(?:the\s+)?(?:document|doc|passage|text|option)\s+(?=[ab]$)|(?<=first|econd)\s+(?:document|doc|passage|text|option)$"
)
HUGE = 1e9
LAST_NUMBER = re.compile(r"[-+\u2212.\d]+$")


def p_first(answer: Answer) -> float | None:
    """Read the answer to a pairwise prompt: P(first document is more relevant), None when it says nothing."""
    text = said(answer)
    return None if text is None else parse_pairwise(text, answer.logprobs)


def grade(answer: Answer) -> float | None:
    """Read the answer to a pointwise prompt: a grade from 0 to 3, the expected one under log-probabilities."""
    text = said(answer)
    return None if text is None else parse_pointwise(text, answer.logprobs)


def ranking(answer: Answer, documents: int) -> Ranking | None:
    """Read the answer to a listwise prompt."""
    text = said(answer)
    return None if text is None else parse_listwise(text, documents)


def said(answer: Answer) -> str | None:
    """The text that counts: the arguments of the tool call, else the visible text; None for a refusal.

    The last number of an answer that was cut off is left out: "0" may have been the beginning of "0.9".
    """
    if answer.refusal or answer.stop in ("refusal", "content_filter"):
        return None
    text = answer.text if answer.arguments is None else answer.arguments
    return (LAST_NUMBER.sub("", text) if answer.stop in CUT and len(text.strip()) > 1 else text) or None


def parse_pairwise(text: str, logprobs: Logprobs | None = None) -> float | None:
    """Read which of two documents is the more relevant one.

    Equation: p = (1 + g) / 2 of a grade g in [-1, 1]; under log-probabilities p = (P(A) + P(T) / 2) / (P(A) + P(B) + P(T)), each
    P summed over the spellings of its token that are listed, 0 for one that is not.

    Args:
        text: the answer, or the JSON text of the arguments of a tool call.
        logprobs: the answer token's alternatives with the logarithms of their probabilities.

    Returns:
        P(first is more relevant), None when the answer does not say.

    >>> parse_pairwise('{"preference": -1}'), parse_pairwise("0.00"), parse_pairwise("Both have merits.")
    (0.0, 0.5, None)
    """
    weighed = None if logprobs is None else expected(logprobs, PAIR_TOKENS)
    return weighed if weighed is not None else _read(text, PAIR_FIELDS, pair_value, preference_in_prose)


def parse_pointwise(text: str, logprobs: Logprobs | None = None) -> float | None:
    """Read a grade from 0 to 3.

    Args:
        text: the answer, or the JSON text of the arguments of a tool call.
        logprobs: the answer token's alternatives; the grade is then its mean over their probabilities.

    >>> parse_pointwise("Grade: 2"), parse_pointwise("2.5"), parse_pointwise("4")
    (2.0, None, None)
    """
    weighed = None if logprobs is None else expected(logprobs, GRADE_TOKENS)
    return weighed if weighed is not None else _read(text, GRADE_FIELDS, grade_value, grade_in_prose)


def parse_listwise(text: str, documents: int) -> Ranking | None:
    """Read a ranking of the documents 1 to m.

    Documents that the answer leaves out are absent: that a model stopped early says nothing about them. An answer that names one
    twice, or one that was not shown, is no ranking.

    Args:
        text: the answer, or the JSON text of the arguments of a tool call.
        documents: number of documents shown.

    Returns:
        Groups of labels, the most relevant first; at least two labels. None when there is no ranking.

    >>> parse_listwise("[2] > [3] = [1]", 3), parse_listwise('{"ranking": [2, 1]}', 3), parse_listwise("[1] > [4]", 3)
    (((2,), (3, 1)), ((2,), (1,)), None)
    """
    visible = _visible(text)
    if visible is None:
        return None
    listed = [found for found in _values(visible, RANKING_FIELDS) if isinstance(found, list)]
    if not listed:
        return ranking_in_prose(visible, documents)
    rankings = {checked_ranking(cast("list[object]", found), documents) for found in listed}
    return rankings.pop() if len(rankings) == 1 else None


def expected(logprobs: Logprobs, values: Mapping[str, float]) -> float | None:
    """Mean value under the probabilities renormalised over the answer tokens; None below MIN_MASS of them together."""
    masses = dict.fromkeys(values, 0.0)
    for token, logprob in logprobs:
        name = token.strip(DECORATION + WORD_STARTS)
        if name in masses and not math.isnan(logprob):
            masses[name] += math.exp(min(logprob, 0.0))
    total = sum(masses.values())
    return sum(mass * values[name] for name, mass in masses.items()) / total if total >= MIN_MASS else None


def pair_value(found: object) -> float | None:
    """Read one value of a pairwise answer: a grade in [-1, 1] or a name."""
    number = _number(found)
    if number is not None:
        return (1 + number) / 2 if -1 <= number <= 1 else None
    if not isinstance(found, str):
        return None
    name = " ".join(found.strip(DECORATION).lower().split())
    return PAIR_NAMES.get(PAIR_NOUNS.sub("", name))


def grade_value(found: object) -> float | None:
    """Read one value of a pointwise answer: an integer from 0 to 3."""
    number = _number(found)
    return number if number in (0, 1, 2, 3) else None


def _number(found: object) -> float | None:
    """A number, or a text that is nothing but one; None for one so large that it is no grade."""
    if isinstance(found, bool):
        return None
    if isinstance(found, (int, float)):
        return float(found) if -HUGE < found < HUGE else None
    if isinstance(found, str):
        bare = re.fullmatch(rf"({NUMBER})\.?", found.strip(" \t\r\n*_`\"'"))
        return float(bare[1].translate(SIGNS)) if bare else None
    return None


def _read(
    text: str,
    fields: Sequence[str],
    value: Callable[[object], float | None],
    prose: Callable[[str, Callable[[object], float | None]], float | None],
) -> float | None:
    """Read JSON, then a bare answer, then sentences."""
    visible = _visible(text)
    if visible is None:
        return None
    found = list(_values(visible, fields))
    if found:
        return one_of([value(one) for one in found])
    bare = value(visible.strip())
    return bare if bare is not None else prose(visible, value)


def _visible(text: str) -> str | None:
    """The answer without the model's thoughts; None when it was cut off while it thought."""
    visible = THOUGHT.sub(" ", text[-LONGEST:])
    return None if OPEN_THOUGHT.search(visible) else visible


def _values(text: str, fields: Sequence[str]) -> Iterator[object]:
    """Yield what each JSON object in a text says: the value of the first of the fields that it has."""
    for record in json_objects(text):
        name = next((field for field in fields if record.get(field) is not None), None)
        if name is not None:
            yield record[name]


def json_objects(text: str) -> Iterator[dict[str, object]]:
    """Yield the JSON objects that stand in a text, outermost ones only, keys in lower case."""
    decoder = json.JSONDecoder()
    start = text.find("{")
    while start >= 0:
        try:
            found, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
        else:
            yield {str(name).lower(): value for name, value in cast("dict[str, object]", found).items()}
        start = text.find("{", end)
