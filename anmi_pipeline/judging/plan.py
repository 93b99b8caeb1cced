"""The comparison plan: which ordered pairs are asked, of whom.

Belongs here: pairs of designs that are drawn at once; orders, judge rotation and the audit slice of any pairs; counting calls.
Does not: the designs (`rating/designs.py`), rounds that look at verdicts (`round_plans.py`), the plan of recorded verdicts
(`recorded.py`).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.progress import Progress, silent
from anmi_pipeline.rating.certificates import certificates
from anmi_pipeline.rating.designs import Ints, design, lists, pairs_within
from anmi_pipeline.tables import CERTIFICATES, PLAN

BOUNDS = ((pl.min_horizontal, "low"), (pl.max_horizontal, "high"))


@dataclass(frozen=True)
class Draw:
    """What is asked about one query: n rows of local document numbers.

    Attributes:
        pairs: (E, 2) unordered pairs of the design.
        first: (n,) document shown first.
        second: (n,) document shown second.
        judge: (n,) number of the judge.
        audit: (n,) whether the row belongs to the audit slice.
        list: (n,) number of the call of several documents that answers the row, from 1; 0 for a call of two.
    """

    pairs: np.ndarray
    first: np.ndarray
    second: np.ndarray
    judge: np.ndarray
    audit: np.ndarray
    list: np.ndarray


def plan_comparisons(
    pool_docs: pl.DataFrame, config: JudgingConfig, seed: int, progress: Progress = silent
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Draw the pairs of every query at once, for the designs that look at no verdict.

    Each pair of the design is asked of `votes_per_pair` judges, rotated, each in one random order; the audit slice is asked in
    both orders by all judges. In the design `lists` the same holds for lists, whose other order is the reverse. Every choice
    about a query comes from a generator seeded by (seed, query id) alone, so that another query, judge list of equal length or
    batch changes nothing.

    Args:
        pool_docs: query_id, doc_id, and rank, the documents to compare; at most one row per query and document.
        config: design, degree, list size, judges, votes and audit share.
        seed: seed of the dataset.
        progress: told the queries drawn.

    Returns:
        PLAN and CERTIFICATES frames; the plan is empty when there are no judges, a query with fewer than two documents has no
        rows in it and its certificate says so.

    Raises:
        InputError: a document stands twice in a query's pool, or the design is adaptive.
    """
    if not config.judges:
        return PLAN.frame(), CERTIFICATES.frame()
    # By document id and not by rank: the pairs then depend on which documents are in the pool, not on their scores' last digits.
    pool = pool_docs.select("query_id", "doc_id").sort("query_id", "doc_id")
    if pool.is_duplicated().any():
        query, document = pool.filter(pool.is_duplicated()).row(0)
        raise InputError(f"document {document} stands twice in the candidate pool of query {query}; each document once.")
    sizes = pool.group_by("query_id", maintain_order=True).len()
    names: list[str] = sizes["query_id"].to_list()
    counts: list[int] = sizes["len"].to_list()
    draws: list[Draw] = []
    for number, (name, count) in enumerate(zip(names, counts, strict=True), start=1):
        draws.append(draw_query(count, config, query_generator(config.draw_seed(seed), name)))
        if number % 100 == 0 or number == len(names):
            progress(number, len(names), "queries")
    certified = certificates(names, counts, [draw.pairs for draw in draws])
    return assemble(pool, names, counts, draws, [judge.name for judge in config.judges]), certified


def query_generator(seed: int, query_id: str, number: int = 1) -> np.random.Generator:
    """Return the generator of every random choice about one round of one query: seeded by sha256(seed, query id, round)."""
    name = f"{seed}:{query_id}" if number == 1 else f"{seed}:{query_id}:{number}"
    return np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest(), "little"))


def draw_query(n: int, config: JudgingConfig, rng: np.random.Generator) -> Draw:
    """Draw pairs, orders, judges and the audit slice of one query with n documents."""
    if config.design == "adaptive":
        raise InputError("the adaptive design is drawn in rounds (`rounds.plan_first`), not at once. Choose another design.")
    if config.design == "lists":
        return draw_lists(n, config, rng)
    return draw_calls(design(config.design, n, config.degree, rng), config, rng)


def draw_calls(pairs: Ints, config: JudgingConfig, rng: np.random.Generator) -> Draw:
    """Draw orders, judges and the audit slice of the pairs of one query.

    Judges rotate over the pairs in random order, so their numbers of calls differ by at most one per vote.
    """
    n_pairs, n_judges = len(pairs), len(config.judges)
    rotated = np.array([place for place, judge in enumerate(config.judges) if judge in config.first_judges])
    turn = rng.permutation(n_pairs)[:, None] + np.arange(config.votes_per_pair) + rng.integers(len(rotated))
    swapped = rng.random((n_pairs, n_judges)) < 0.5  # one order per pair and judge
    audit = rng.random(n_pairs) < config.audit_share
    plain = np.flatnonzero(~audit)
    pair = np.repeat(plain, config.votes_per_pair)
    judge = rotated[turn[plain].ravel() % len(rotated)]
    swap = swapped[pair, judge]
    if config.routing is not None and config.routing.tiers[0].both_orders:
        pair, judge, swap = np.tile(pair, 2), np.tile(judge, 2), np.r_[swap, ~swap]
    # Audited pairs: every judge, both orders.
    audited = np.flatnonzero(audit)
    pair = np.r_[pair, np.repeat(audited, 2 * n_judges)]
    judge = np.r_[judge, np.tile(np.repeat(np.arange(n_judges), 2), len(audited))]
    swap = np.r_[swap, np.tile(np.array([False, True]), n_judges * len(audited))]
    low, high = pairs[pair, 0], pairs[pair, 1]
    first, second = np.where(swap, high, low), np.where(swap, low, high)
    return Draw(pairs, first, second, judge, audit[pair], np.zeros(len(pair), dtype=np.int64))


def draw_lists(n: int, config: JudgingConfig, rng: np.random.Generator) -> Draw:
    """Draw lists, orders, judges and the audit slice of one query with n documents; each list is answered pair by pair.

    Judges rotate over the lists in random order. A row's first document is the one shown earlier. A judge is not asked the same
    documents in the same order twice: its one answer would count twice. Only pools of a few documents come to that.
    """
    drawn = lists(n, config.degree, config.list_size, rng)
    n_judges = len(config.judges)
    turn = rng.permutation(len(drawn))[:, None] + np.arange(config.votes_per_pair) + rng.integers(n_judges)
    orders = [[rng.permutation(documents) for _ in range(n_judges)] for documents in drawn]
    audit = rng.random(len(drawn)) < config.audit_share
    calls: dict[tuple[int, bytes], tuple[Ints, int, bool]] = {}
    for number, own in enumerate(orders):
        judges = range(n_judges) if audit[number] else (turn[number] % n_judges).tolist()
        for judge in judges:
            for shown in (own[judge], own[judge][::-1])[: 1 + audit[number]]:
                calls.setdefault((judge, shown.tobytes()), (shown, judge, bool(audit[number])))
    asked = calls.values()
    rows = [(shown, *np.triu_indices(len(shown), 1)) for shown, _, _ in asked]
    empty = np.zeros(0, dtype=np.int64)
    counts = [len(i) for _, i, _ in rows]
    return Draw(
        pairs_within(drawn),
        np.concatenate([empty, *(shown[i] for shown, i, _ in rows)]),
        np.concatenate([empty, *(shown[j] for shown, _, j in rows)]),
        np.repeat(np.array([judge for _, judge, _ in asked], dtype=np.int64), counts),
        np.repeat(np.array([audited for _, _, audited in asked], dtype=bool), counts),
        np.repeat(np.arange(1, len(calls) + 1), counts),
    )


def plan_pairs(pairs: pl.DataFrame, config: JudgingConfig, seed: int, number: int) -> pl.DataFrame:
    """Plan one round of pairs that were chosen elsewhere: orders, judges and audit are drawn per query.

    Args:
        pairs: query_id, doc_i, doc_j, each unordered pair once.
        config: judges, votes and audit share.
        seed: seed of the dataset.
        number: round.

    Returns:
        PLAN frame of the round.
    """
    ends = pl.concat([pairs.select("query_id", doc_id=end) for end in ("doc_i", "doc_j")])
    pool = ends.unique().sort("query_id", "doc_id")
    places = pool.with_columns(place=pl.int_range(pl.len()).over("query_id"))
    placed = pairs.select("query_id", "doc_i", "doc_j")
    for end in ("doc_i", "doc_j"):
        placed = placed.join(places.rename({"doc_id": end, "place": f"place_{end}"}), on=["query_id", end], how="left")
    # Sorted: the draws then depend on which pairs are asked, not on the order in which they were chosen.
    low, high = (pick("place_doc_i", "place_doc_j").alias(name) for pick, name in BOUNDS)
    local = placed.select("query_id", low, high).sort("query_id", "low", "high")
    sizes = pool.group_by("query_id", maintain_order=True).len()
    names: list[str] = sizes["query_id"].to_list()
    draws = [
        draw_calls(
            own.select("low", "high").to_numpy().astype(np.int64), config, query_generator(config.draw_seed(seed), name, number)
        )
        for name, own in zip(names, local.partition_by("query_id", maintain_order=True), strict=True)
    ]
    return assemble(pool, names, sizes["len"].to_list(), draws, [judge.name for judge in config.judges], number)


def assemble(
    pool: pl.DataFrame, names: Sequence[str], counts: Sequence[int], draws: Sequence[Draw], judges: Sequence[str], number: int = 1
) -> pl.DataFrame:
    """Write one round of all queries as a PLAN frame; `pool` holds the queries' documents in the order of `names`."""
    offsets = np.cumsum([0, *counts])[:-1]
    rows = np.array([len(draw.first) for draw in draws], dtype=np.int64)
    base = np.repeat(offsets, rows)
    empty = np.zeros(0, dtype=np.int64)
    first = base + np.concatenate([empty, *(draw.first for draw in draws)])
    second = base + np.concatenate([empty, *(draw.second for draw in draws)])
    judge = np.concatenate([empty, *(draw.judge for draw in draws)])
    query = np.repeat(np.arange(len(names)), rows)
    return PLAN.frame({
        "query_id": pl.Series(names, dtype=pl.String())[query],
        "first_id": pool["doc_id"][first],
        "second_id": pool["doc_id"][second],
        "judge": pl.Series(judges, dtype=pl.String())[judge],
        "round": np.full(len(query), number, dtype=np.int64),
        "list": np.concatenate([empty, *(draw.list for draw in draws)]),
        "audit": np.concatenate([np.zeros(0, dtype=bool), *(draw.audit for draw in draws)]),
    })  # fmt: skip


def certify_plan(plan: pl.DataFrame, documents: pl.DataFrame | None = None) -> pl.DataFrame:
    """Certify the graphs of a plan that no design drew at once: rounds, recorded verdicts.

    Args:
        plan: PLAN frame.
        documents: query_id, doc_id of all documents; None when only the compared ones are known.

    Returns:
        CERTIFICATES frame, one row per query.
    """
    ends = pl.concat([plan.select("query_id", doc_id=end) for end in ("first_id", "second_id")])
    known = (ends if documents is None else documents.select("query_id", "doc_id")).unique().sort("query_id", "doc_id")
    edges = {str(name): own for (name,), own in plan.partition_by("query_id", as_dict=True).items()}
    names: list[str] = []
    sizes: list[int] = []
    graphs: list[np.ndarray] = []
    for (name,), own in known.partition_by("query_id", as_dict=True, maintain_order=True).items():
        ids = own["doc_id"].to_numpy()
        asked = edges.get(str(name), plan.clear())
        names.append(str(name))
        sizes.append(len(ids))
        sides = [np.searchsorted(ids, asked[end].to_numpy()) for end in ("first_id", "second_id")]
        graphs.append(np.column_stack(sides).astype(np.int64))
    return certificates(names, sizes, graphs)


def pair_budget(n: int, degree: int) -> int:
    """Pairs that one query of n documents gets in all rounds: floor(n * degree / 2), at most all."""
    return min(n * degree // 2, n * (n - 1) // 2)


def calls_by_judge(plan: pl.DataFrame) -> dict[str, int]:
    """Judge id -> calls that a plan makes: one per row, or one per list."""
    rows, own = pl.col("list").eq(0).sum(), pl.struct("query_id", "round", "list").filter(pl.col("list") > 0).n_unique()
    return dict(plan.group_by("judge").agg(calls=rows + own).iter_rows())


def belongs(judge_id: str, name: str) -> bool:
    """Whether a judge id of a plan is answered by the configured judge of that name (see `Judge.name`)."""
    return judge_id.split("/", 1)[0] == name
