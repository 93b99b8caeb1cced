"""Comparison designs: which pairs of a query's documents to compare.

Belongs here: exactly regular unions of Hamiltonian cycles, random pairs, all pairs, behind `design`; lists of documents that one
call ranks. Does not: pairs chosen from verdicts (`adaptive.py`, `rounds.py`), orders and judges (`judging/`), the quality of the
resulting graph (`certificates.py`).

A design is an int64 array (E, 2) of distinct unordered pairs of local document indices, smaller index first, rows sorted.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from anmi_pipeline.errors import InputError, nearest

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
DesignKind = Literal["cycles", "random", "complete", "lists", "adaptive"]
DESIGNS: tuple[DesignKind, ...] = ("cycles", "random", "complete", "lists", "adaptive")
LIST_SIZE, SHORTEST_LIST = 10, 3


def design(kind: DesignKind, n: int, k: int, rng: np.random.Generator, m: int = LIST_SIZE) -> Ints:
    """Choose the pairs of one query.

    Args:
        kind: `cycles` (regular, connected), `random` (pairs drawn without replacement), `complete` (all pairs), `lists` (the
            pairs within lists, see `lists`) or `adaptive` (its first round alone, one random cycle: the later ones look at
            verdicts, see `rounds.py`).
        n: documents.
        k: comparisons per document (`random`: on average; `lists`: see there; `complete` and `adaptive`: ignored).
        rng: source of every random choice.
        m: documents in a list, design `lists`.

    Returns:
        (E, 2) distinct pairs, smaller index first, sorted.

    Raises:
        InputError: an unknown kind, a negative n or a k below 1.
    """
    if kind == "complete":
        return complete(n)
    if kind == "random":
        return random_pairs(n, k, rng)
    if kind == "cycles":
        return cycles(n, k, rng)
    if kind == "lists":
        return pairs_within(lists(n, k, m, rng))
    if kind == "adaptive":
        return cycles(n, 2, rng)
    raise InputError(f'comparison design "{kind}" does not exist.{nearest(kind, DESIGNS)}')


def cycles(n: int, k: int, rng: np.random.Generator) -> Ints:
    """Draw a union of edge-disjoint random Hamiltonian cycles: every document has exactly k comparisons.

    An odd k adds a perfect matching; where n is odd too no k-regular graph exists, and one document has k - 1. k >= n - 1 gives
    all pairs. Connected for every k >= 2. No draw is ever rejected as a whole: up to k = n/2 a random cycle is repaired edge by
    edge, beyond it the cycles come from Walecki's decomposition of the complete graph.

    Source: the design of zELO (arXiv 2509.12541, section 3); there cycles may repeat each other's edges, here they do not.
    """
    check(n, k)
    if k >= n - 1:
        return complete(n)
    full, half = divmod(k, 2)
    # Ore's condition holds for every cycle drawn while used degree <= n/2 - 1.
    repairable = 2 * (full + half) <= n / 2 + 1
    return repaired_cycles(n, full, half, rng) if repairable else walecki_cycles(n, full, half, rng)


def random_pairs(n: int, k: int, rng: np.random.Generator) -> Ints:
    """Draw floor(n * k / 2) distinct pairs uniformly; the graph may be disconnected."""
    check(n, k)
    pairs = complete(n)
    wanted = min(n * k // 2, len(pairs))
    return pairs[np.sort(rng.choice(len(pairs), size=wanted, replace=False))] if wanted else pairs[:0]


def complete(n: int) -> Ints:
    """All n * (n - 1) / 2 pairs."""
    check(n, 1)
    return np.column_stack(np.triu_indices(n, 1)).astype(np.int64)


def check(n: int, k: int) -> None:
    """Refuse sizes no design exists for."""
    if n < 0:
        raise InputError(f"a comparison design for n = {n} documents was asked for; n must be 0 or more.")
    if k < 1:
        raise InputError(f"a comparison design with k = {k} comparisons per document was asked for; k must be 1 or more.")


def canonical(first: Ints, second: Ints) -> Ints:
    """Order each pair and the list of pairs."""
    low, high = np.minimum(first, second), np.maximum(first, second)
    order = np.lexsort((high, low))
    return np.column_stack((low[order], high[order])).astype(np.int64)


def repaired_cycles(n: int, full: int, half: int, rng: np.random.Generator) -> Ints:
    """Draw `full` cycles and `half` matchings one by one, each avoiding the edges of those before."""
    free = ~np.eye(n, dtype=np.bool_)
    first: list[Ints] = []
    second: list[Ints] = []
    for number in range(full + half):
        tour = repaired_tour(free, rng)
        following = np.roll(tour, -1)
        if number >= full:
            # Every second edge of a Hamiltonian cycle is a perfect matching, near-perfect when n is odd.
            tour, following = tour[0 : n - 1 : 2], following[0 : n - 1 : 2]
        free[tour, following] = free[following, tour] = False
        first.append(tour)
        second.append(following)
    return canonical(np.concatenate(first), np.concatenate(second))


def repaired_tour(free: Bools, rng: np.random.Generator) -> Ints:
    """Turn a random cyclic order of the documents into one whose neighbours are all free to be compared.

    Palmer's proof of Ore's theorem, made random: where tour[i] -> tour[i+1] is not free, some j has tour[i] - tour[j] and
    tour[i+1] - tour[j+1] both free; reversing the stretch between closes this gap and opens none. So it ends after at most as
    many steps as the first order has gaps.

    Args:
        free: (n, n) symmetric; every row needs at least n/2 free entries.
        rng: draws the first order and each repair.

    Returns:
        (n,) documents in cyclic order.
    """
    tour = rng.permutation(len(free)).astype(np.int64)
    while True:
        gaps = np.flatnonzero(~free[tour, np.roll(tour, -1)])
        if not len(gaps):
            return tour
        tour = np.roll(tour, -(int(gaps[0]) + 1))  # the gap now lies between the last and the first entry
        closing = np.flatnonzero(free[tour[-1], tour[:-1]] & free[tour[0], tour[1:]])
        end = int(rng.choice(closing))
        tour[: end + 1] = tour[: end + 1][::-1].copy()


def walecki_cycles(n: int, full: int, half: int, rng: np.random.Generator) -> Ints:
    """Draw cycles (and a matching) of Walecki's decomposition of the complete graph, documents relabelled at random.

    Equation: with modulus M = n - 1, cycle r is (hub, r, r+1, r-1, r+2, r-2, ...) mod M for r < M // 2; their edges have the sums
    2r and 2r + 1 mod M, so no two share one. For odd M the sum M - 1 and the edge (hub, (M - 1) / 2) are left, a
    perfect matching.
    Source: Alspach, "The wonderful Walecki construction", Bull. ICA 52 (2008).
    """
    modulus = n - 1
    steps = np.arange(modulus)
    zigzag = np.where(steps % 2 == 1, (steps + 1) // 2, -(steps // 2))
    starts = rng.permutation(modulus // 2)
    tours = [np.append((zigzag + r) % modulus, modulus) for r in starts[: full + half]]
    first, second = list(tours[:full]), [np.roll(tour, -1) for tour in tours[:full]]
    if half and modulus % 2:
        left = np.arange(modulus)
        right = (modulus - 1 - left) % modulus
        middle = (modulus - 1) // 2
        first += [left[left < right], np.array([middle])]
        second += [right[left < right], np.array([modulus])]
    elif half:
        spare = tours[full]
        first.append(spare[0 : n - 1 : 2])
        second.append(spare[1:n:2])
    names = rng.permutation(n).astype(np.int64)
    return canonical(names[np.concatenate(first)], names[np.concatenate(second)])


def lists(n: int, k: int, m: int, rng: np.random.Generator) -> list[Ints]:
    """Draw lists of documents, each of which one call ranks.

    The documents are cut at random into lists of m, or into as many lists of even size where m does not divide n, so that none
    is longer than m or of one document; that ceil(k / (m - 1)) times. Several lists are drawn twice at least: lists of one
    partition alone say nothing about each other. Later partitions keep documents apart that have met, where that is possible,
    and the first two together connect all documents.

    Args:
        n: documents.
        k: others that a document meets in lists of full length, those met again counted again.
        m: documents in a list, at least 3.
        rng: source of every random choice.

    Returns:
        Lists of document indices, each sorted; partition by partition.

    Raises:
        InputError: a negative n, a k below 1 or an m below 3.
    """
    check(n, k)
    if m < SHORTEST_LIST:
        raise InputError(f"lists of {m} documents were asked for; a list has {SHORTEST_LIST} or more.")
    count, partitions = -(-n // m), -(-k // (m - 1))
    if count <= 1:
        return [np.arange(n) for _ in range(partitions)] if n > 1 else []
    sizes = np.full(count, n // count)
    sizes[: n % count] += 1
    met = np.zeros((n, n))
    drawn: list[Ints] = []
    for _ in range(max(2, partitions)):
        own = dealt(met, sizes, rng)
        if len(drawn) == 1:
            own = joined(drawn[0], own, rng)
        met += own[:, None] == own
        drawn.append(own)
    return [np.flatnonzero(own == number) for own in drawn for number in range(count)]


def dealt(met: npt.NDArray[np.float64], sizes: Ints, rng: np.random.Generator) -> Ints:
    """(n,) list of each document: one by one in random order, each where it meets the fewest documents again."""
    own = np.full(len(met), -1, dtype=np.int64)
    room = rng.permutation(sizes)
    for document in rng.permutation(len(met)):
        placed = np.flatnonzero(own >= 0)
        again = np.bincount(own[placed], weights=met[document, placed], minlength=len(room))
        own[document] = np.argmin(np.where(room > 0, again + rng.random(len(room)), np.inf))
        room[own[document]] -= 1
    return own


def joined(first: Ints, second: Ints, rng: np.random.Generator) -> Ints:
    """Exchange documents of the second partition until both together connect all documents.

    Two documents of different components change places. The number of components never rises by that, and it falls unless both
    documents were all that held their component together. Lists have two documents or more, so every component has a document
    that is not: the number falls with a probability above 0 at every step.
    """
    second = second.copy()
    lists_in_first = first[:, None] == np.arange(first.max() + 1)
    while True:
        shares = lists_in_first.T @ (second[:, None] == np.arange(second.max() + 1))
        reached = shares.T @ shares
        while (wider := reached @ reached).sum() > reached.sum():
            reached = wider
        component = np.argmax(reached, axis=0)[second]
        here = int(rng.integers(len(second)))
        others = np.flatnonzero(component != component[here])
        if not len(others):
            return second
        there = int(rng.choice(others))
        second[here], second[there] = second[there], second[here]


def pairs_within(drawn: Sequence[Ints]) -> Ints:
    """Distinct pairs of documents that share a list, as a design."""
    pairs = [np.column_stack(np.triu_indices(len(documents), 1)) for documents in drawn]
    ends = [documents[own] for documents, own in zip(drawn, pairs, strict=True)]
    return np.unique(np.concatenate([np.zeros((0, 2), dtype=np.int64), *ends]), axis=0)
