"""Which split a query belongs to, as a pure function of its id and the seed.

Belongs here: the hash, the shares and the rules for collections with and without a dev split. Does not: reading the files that
declare splits. A query's split never depends on which other queries exist, only on which splits the files declare at all:
adding a query moves no other query.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Literal, Self

from pydantic import Field, model_validator

from anmi_pipeline.settings import Config

DeclaredSplit = Literal["train", "dev", "dev_select", "dev_final", "test", "held_out"]
"""What a file may declare; `dev` is halved into dev_select and dev_final."""
Split = Literal["train", "dev_select", "dev_final", "test", "held_out"]
UNDECLARED_SHARES: dict[Split, float] = {"train": 0.6, "dev_select": 0.1, "dev_final": 0.1, "test": 0.2}
"""Shares when no file declares a split and nobody graded anything (the main case of the project)."""
DEV_HALVES: dict[Split, float] = {"dev_select": 0.5, "dev_final": 0.5}


class SplitOptions(Config):
    """How queries are split when the files do not say."""

    dev_share: float = Field(
        default=0.1,
        ge=0.0,
        le=0.4,
        description="no dev split: this share of the graded training queries becomes dev_select and as much dev_final",
    )
    shares: dict[Split, float] | None = Field(
        default=None, description="assign every query by hash with these shares (sum 1), whatever the files declare"
    )

    @model_validator(mode="after")
    def check_shares(self) -> Self:
        """Refuse shares that are negative or do not add up to 1."""
        if self.shares is not None and (
            min(self.shares.values(), default=0.0) < 0 or not math.isclose(sum(self.shares.values()), 1.0)
        ):
            raise ValueError(f"shares must be at least 0 and sum to 1, got {self.shares} (sum {sum(self.shares.values()):g})")
        return self


def hash_unit(query_id: str, seed: int, purpose: str) -> float:
    """Return a number in [0, 1) that is uniform over ids: the first 53 bits of sha256(seed, purpose, id).

    >>> hash_unit("q1", 0, "dev") == hash_unit("q1", 0, "dev") != hash_unit("q1", 1, "dev")
    True
    """
    digest = hashlib.sha256(f"{seed}\n{purpose}\n{query_id}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def draw_split(query_id: str, shares: Mapping[Split, float], seed: int, purpose: str) -> Split:
    """Return the split whose slice of [0, 1) holds the query's hash; exact shares only on average."""
    unit = hash_unit(query_id, seed, purpose)
    bounds = list(accumulate(shares.values()))
    for name, bound in zip(shares, bounds, strict=True):
        if unit < bound / bounds[-1]:
            return name
    return next(name for name, share in reversed(list(shares.items())) if share > 0)


def split_queries(
    query_ids: Sequence[str], declared: Mapping[str, DeclaredSplit], graded: Iterable[str], options: SplitOptions, seed: int
) -> tuple[dict[str, Split], str]:
    """Assign every query to a split.

    The rules, in order. (1) `options.shares`: all by hash. (2) No file declares a split: graded queries are test, the others
    train; without any grade all go by hash with UNDECLARED_SHARES. (3) A declared split holds, dev is halved by hash, a query
    that no file declares is a training query without labels. (4) Train has graded queries and there is no dev: `dev_share`
    twice of them, by hash, is taken out of training.

    Args:
        query_ids: every query.
        declared: query -> what a file says; absent when none does.
        graded: queries with at least one grade.
        options: shares.
        seed: dataset seed.

    Returns:
        query -> split, and one sentence on where the splits come from.
    """
    with_grades = set(graded)
    if options.shares is not None:
        return {q: draw_split(q, options.shares, seed, "shares") for q in query_ids}, f"all by hash with shares {options.shares}"
    if not declared:
        return undeclared(query_ids, with_grades, seed)
    result: dict[str, Split] = {}
    for query in query_ids:
        said = declared.get(query, "train")
        result[query] = draw_split(query, DEV_HALVES, seed, "dev") if said == "dev" else said
    unlabelled = sum(1 for query in query_ids if query not in declared)
    said = (
        f"declared by the files; {unlabelled} that none declares are training queries without labels"
        if unlabelled
        else ("declared by the files")
    )
    if set(declared.values()) & {"dev", "dev_select", "dev_final"}:
        return result, f"{said}; dev halved by hash of the query id" if "dev" in declared.values() else said
    return carve_dev(result, with_grades, options.dev_share, seed, said)


def undeclared(query_ids: Sequence[str], graded: set[str], seed: int) -> tuple[dict[str, Split], str]:
    """Assign queries when no file declares a split."""
    if graded:
        note = (
            "no split declared: graded queries are test, the others training queries without labels (splits.shares changes that)"
        )
        return {query: "test" if query in graded else "train" for query in query_ids}, note
    note = f"no split and no grade declared: all by hash with shares {UNDECLARED_SHARES}"
    return {query: draw_split(query, UNDECLARED_SHARES, seed, "shares") for query in query_ids}, note


def carve_dev(splits: dict[str, Split], graded: set[str], share: float, seed: int, said: str) -> tuple[dict[str, Split], str]:
    """Take two shares of the graded training queries out of training, for dev_select and dev_final."""
    eligible = [query for query, split in splits.items() if split == "train" and query in graded]
    if not eligible or share == 0:
        return splits, f"{said}; no dev split and no graded training query to take one from" if not eligible else said
    shares: dict[Split, float] = {"dev_select": share, "dev_final": share, "train": 1 - 2 * share}
    moved: dict[str, Split] = {**splits, **{query: draw_split(query, shares, seed, "dev") for query in eligible}}
    return moved, f"{said}; no dev split: {share:.0%} + {share:.0%} of the graded training queries taken out of training by hash"
