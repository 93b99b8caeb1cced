"""Rankings in text, and rankings as comparisons.

Belongs here: reading "[3] > [1] > ...", checking a list, and folding a ranking into weighted comparisons. Does not: JSON
(`parsing.py`).
"""

import re
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from typing import NamedTuple, cast

Ranking = tuple[tuple[int, ...], ...]
"""Labels 1..m from the most to the least relevant, equally relevant ones in one group. What the answer left out is absent."""

BRACKETED = re.compile(r"\[\s*(\d{1,4})\s*\]")
BARE = re.compile(r"(?<![\w.\[-])(\d{1,4})(?![\w.\]])")
ABOVE = re.compile(r"\s*(?:>+|\u2265|\u227b|->|\u2192)\s*(?:\d{1,4}[.)]\s*)?")
EVEN = re.compile(r"\s*=+\s*")
NUMBERED = re.compile(r"[^\[\]>]*?\s(\d{1,4})[.)]\s*")
"""Between two entries of a numbered list: whatever an entry says about its document, then the next number."""
LOOSE = re.compile(r"\s*[,;]?\s*")
FIRST_NUMBER = re.compile(r"(?:^|\s)1[.)]\s*$")


class Comparison(NamedTuple):
    """One comparison of a ranking.

    Attributes:
        first: label of one document.
        second: label of the other, ranked at most as high.
        p_first: 1, or .5 for equally relevant ones.
        weight: evidence in independent comparisons.
    """

    first: int
    second: int
    p_first: float
    weight: float


def ranking_in_prose(text: str, documents: int) -> Ranking | None:
    """Read a chain of labels: `[2] > [1]`, `2 > 1`, or a numbered list of bracketed labels.

    Labels in one row without a sign between them are a ranking only when all documents are there: "[1], [2] are off topic" is
    none.

    Args:
        text: the answer.
        documents: number of documents shown.
    """
    pattern = BRACKETED if BRACKETED.search(text) else BARE
    found = list(pattern.finditer(text))
    if len(found) < 2:
        return None
    gaps = [text[left.end() : right.start()] for left, right in pairwise(found)]
    labels = [int(match[1]) for match in found]
    if pattern is BRACKETED and _is_numbered(text[: found[0].start()], gaps):
        return checked_ranking(labels, documents)
    if all(ABOVE.fullmatch(gap) or EVEN.fullmatch(gap) for gap in gaps):
        return checked_ranking(_grouped(labels, gaps), documents)
    loose = pattern is BRACKETED and len(labels) == documents and all(LOOSE.fullmatch(gap) for gap in gaps)
    return checked_ranking(labels, documents) if loose else None


def _is_numbered(before: str, gaps: Sequence[str]) -> bool:
    """Whether the labels stand in a list that is numbered 1, 2, 3, ..."""
    numbers = [NUMBERED.fullmatch(gap) for gap in gaps]
    counted = [int(match[1]) for match in numbers if match is not None]
    return FIRST_NUMBER.search(before) is not None and counted == list(range(2, len(gaps) + 2))


def _grouped(labels: Sequence[int], gaps: Sequence[str]) -> list[object]:
    """Put labels that stand beside an equals sign into one group."""
    groups = [[labels[0]]]
    for label, gap in zip(labels[1:], gaps, strict=True):
        if EVEN.fullmatch(gap):
            groups[-1].append(label)
        else:
            groups.append([label])
    return list(groups)


def checked_ranking(entries: Sequence[object], documents: int) -> Ranking | None:
    """Return a list of labels, or of groups of them, as a ranking; None when it is none.

    Args:
        entries: labels as numbers or texts ("3", "[3]", "document 3"), or lists of those.
        documents: number of documents shown.
    """
    groups = [tuple(_labels(entry)) for entry in entries]
    labels = [label for group in groups for label in group]
    known = all(label is not None and 1 <= label <= documents for label in labels)
    if len(labels) < 2 or not known or len(set(labels)) < len(labels) or not all(groups):
        return None
    return cast("Ranking", tuple(groups))


def _labels(entry: object) -> Iterator[int | None]:
    if isinstance(entry, list):
        for one in cast("list[object]", entry):
            yield None if isinstance(one, list) else next(_labels(one))
    elif isinstance(entry, int) and not isinstance(entry, bool):
        yield entry
    elif isinstance(entry, str) and (match := re.fullmatch(r"\W*(?:document|doc|passage)?\W*(\d{1,4})\W*", entry, re.IGNORECASE)):
        yield int(match[1])
    else:
        yield None


def dependence(documents: int) -> float:
    """Weight of each comparison of one ranking, in independent comparisons.

    Equation: 3 / (m + 1). The m (m - 1) / 2 comparisons of a ranking are fitted as if they were independent (a composite
    likelihood). Near equal strengths of documents its curvature is H = h m / 4 on contrasts, h the information of one comparison
    in units of a logit, and the variance of its score is J = h^2 m (m + 1) / 12, because a document's score is its rank, uniform
    on 1..m, whose variance is (m^2 - 1) / 12. The information it really carries is the Godambe information H^2 / J
    = 3 m / (4 (m + 1)); weights of 3 / (m + 1) make the curvature equal it. It holds for any distribution of the noise, needs no
    estimate, is 1 for m = 2, and errs on the safe side for documents that differ clearly.

    Args:
        documents: m, the documents that the ranking holds, at least 2.

    >>> dependence(2), dependence(5)
    (1.0, 0.5)
    """
    return 3 / (documents + 1)


def comparisons(ranking: Ranking) -> list[Comparison]:
    """Fold a ranking of m documents into its m (m - 1) / 2 comparisons, each weighted by `dependence(m)`.

    >>> comparisons(((2,), (1,)))
    [Comparison(first=2, second=1, p_first=1.0, weight=1.0)]
    """
    placed = [(label, place) for place, group in enumerate(ranking) for label in group]
    weight = dependence(len(placed))
    return [
        Comparison(first, second, 0.5 if above == below else 1.0, weight)
        for (first, above), (second, below) in combinations(placed, 2)
    ]
