"""The plan of a refresh: what the previous epoch asked, without what is gone, with what new documents and queries need.

Belongs here: which rows are carried, the first pairs of new documents, and what later rounds may still spend. Does not: the plan
of new queries, which is that of any first round (`plan.py`, `round_plans.py`), expiry (`ledger.py`) and epochs (`epochs.py`).

A plan decides what is bought: a carried row whose verdict is in the ledger and has not expired costs nothing. So a refresh buys
new queries, pairs of new documents and expired verdicts; where nothing is new its plan is the previous one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import polars as pl

from anmi_pipeline.digests import digest_json
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.plan import Draw, belongs, draw_calls, draw_query, pair_budget
from anmi_pipeline.rating.comparisons import DOCUMENT, PAIR, flatten, fold_judgments
from anmi_pipeline.rating.config import RatingConfig
from anmi_pipeline.rating.elo import rate
from anmi_pipeline.tables import PLAN

FIRST_PAIRS = 2
"""Pairs that connect a new document, as a cycle has two of every document."""
ORDERING = RatingConfig(prior="zero", std_error="none")
"""The fit that orders a query's known documents."""
ENDS = {"doc_i": pl.min_horizontal("first_id", "second_id"), "doc_j": pl.max_horizontal("first_id", "second_id")}
"""The unordered pair of a planned or answered call."""
PlanNew = Callable[[pl.DataFrame], pl.DataFrame]
"""From query_id, doc_id (and rank) of new queries to their first round, a PLAN frame."""


@dataclass(frozen=True)
class Previous:
    """The verdicts that a refresh carries on from.

    Attributes:
        judgments: JUDGMENTS frame of the previous epoch, all rounds, of its judges: imported verdicts come again by themselves.
        degree: `judging.degree` that its budgets came from.
        judges: names of its judges, in order.
    """

    judgments: pl.DataFrame
    degree: int
    judges: tuple[str, ...]

    @classmethod
    def of(cls, judgments: pl.DataFrame, config: Mapping[str, object]) -> "Previous":
        """Read what is needed from the configuration in the verdicts' record.

        Args:
            judgments: JUDGMENTS frame.
            config: `Record.config` of `pairwise_judgments`.
        """
        judging = cast("Mapping[str, object]", config["judging"])
        judges = tuple(judge["name"] for judge in cast("Sequence[Mapping[str, str]]", judging["judges"]))
        planned = pl.col("judge").str.split("/").list.first().is_in(judges)
        return cls(judgments.filter(planned), cast("int", judging["degree"]), judges)


def refresh_plan(
    previous: Previous, documents: pl.DataFrame, config: JudgingConfig, seed: int, plan_new: PlanNew
) -> pl.DataFrame:
    """Plan an epoch after the first.

    Rows of the previous epoch whose documents are still in the pool keep their round, order, judge and list. A query without such
    a row is planned from nothing. A document of a known query that no carried pair connects to the others gets pairs with
    documents along the query's current order, drawn from a generator seeded by (seed, query id, document id) alone.

    Args:
        previous: what is carried on.
        documents: query_id, doc_id (and what `plan_new` needs) of the documents to compare.
        config: judges, votes, audit share, design.
        seed: seed of the dataset.
        plan_new: plans the first round of new queries.

    Returns:
        PLAN frame: all rounds of carried rows, round 1 of what is new.
    """
    if not config.judges:
        return PLAN.frame()
    carried = carried_rows(previous, documents, [judge.name for judge in config.judges])
    new_queries = documents.join(carried, on="query_id", how="anti")
    parts = [carried, joining_rows(carried, previous.judgments, documents, config, seed)]
    if new_queries.height:
        parts.append(PLAN.frame(plan_new(new_queries)))
    return PLAN.frame(pl.concat(parts))


def carried_rows(previous: Previous, documents: pl.DataFrame, judges: Sequence[str]) -> pl.DataFrame:
    """The previous rows both of whose documents are still in the pool, of judges that are still asked: a PLAN frame.

    The rows of a judge that is configured no more go to one that is new; to the others in turn where none is.
    """
    rows = previous.judgments.select(list(PLAN.schema))
    known = documents.select(DOCUMENT).unique()
    for end in ("first_id", "second_id"):
        rows = rows.join(known.rename({"doc_id": end}), on=["query_id", end], how="semi")
    replaced = replacements(rows["judge"].unique().sort().to_list(), previous.judges, judges)
    if replaced:
        rows = rows.with_columns(pl.col("judge").replace(replaced)).unique(list(PLAN.key), keep="first", maintain_order=True)
    return PLAN.frame(rows)


def replacements(ids: Sequence[str], before: Sequence[str], now: Sequence[str]) -> dict[str, str]:
    """Judge id -> judge that is asked in its place, for ids of judges that are not configured any more.

    >>> replacements(["a", "b", "c"], ["a", "b", "c"], ["a", "d", "c"])
    {'b': 'd'}
    """
    lost = [name for name in before if name not in now]
    heirs = [name for name in now if name not in before] or list(now)
    heir = {name: heirs[number % len(heirs)] for number, name in enumerate(lost)}
    found: dict[str, str] = {}
    for judge_id in ids:
        if not any(belongs(judge_id, name) for name in now):
            found[judge_id] = heir.get(judge_id.split("/", 1)[0], heirs[0])
    return found


@dataclass(frozen=True)
class Standing:
    """The documents of one known query.

    Attributes:
        query: query id.
        settled: documents of the largest component of the carried pairs, best first.
        loose: the others, by id: new ones, and those that lost the documents they were compared with.
    """

    query: str
    settled: tuple[str, ...]
    loose: tuple[str, ...]


def standings(carried: pl.DataFrame, judgments: pl.DataFrame, documents: pl.DataFrame) -> Iterator[Standing]:
    """The known queries that have loose documents, in order.

    Args:
        carried: PLAN frame of carried rows.
        judgments: JUDGMENTS frame with their verdicts, which order the settled documents.
        documents: query_id, doc_id of the documents to compare.
    """
    placed = settled_documents(carried, documents)
    open_queries = placed.filter(~pl.col("settled")).select("query_id").unique()
    placed = placed.join(open_queries, on="query_id", how="semi")
    settled = placed.filter("settled").select(DOCUMENT)
    if placed.is_empty():
        return
    verdicts = judgments.join(open_queries, on="query_id", how="semi")
    for end in ("first_id", "second_id"):
        verdicts = verdicts.join(settled.rename({"doc_id": end}), on=["query_id", end], how="semi")
    scores = rate(fold_judgments(verdicts), settled, ORDERING)[0].select(*DOCUMENT, "rank")
    ordered = placed.join(scores, on=DOCUMENT, how="left").sort("query_id", "rank", "doc_id", nulls_last=True)
    for (query,), own in ordered.partition_by("query_id", as_dict=True, maintain_order=True).items():
        best, rest = own.filter("settled"), own.filter(~pl.col("settled"))
        yield Standing(str(query), tuple(best["doc_id"]), tuple(rest["doc_id"].sort()))


def settled_documents(carried: pl.DataFrame, documents: pl.DataFrame) -> pl.DataFrame:
    """query_id, doc_id, settled for the documents of known queries; settled: in the largest component of the carried pairs."""
    pairs = unordered(carried)
    known = documents.select(DOCUMENT).unique().join(carried, on="query_id", how="semi").sort(DOCUMENT)
    batch, _ = flatten(pairs.with_columns(weight=pl.lit(1.0)), known)
    # Of equally large components the one with the smallest document id is kept.
    sizes = pl.len().over("query_id", "component")
    placed = known.with_columns(component=pl.Series(np.asarray(batch.labels))).with_columns(size=sizes)
    largest = pl.col("component").sort_by([-pl.col("size").cast(pl.Int64), "doc_id"]).first().over("query_id")
    return placed.select(*DOCUMENT, settled=pl.col("component") == largest)


def unordered(plan: pl.DataFrame) -> pl.DataFrame:
    """query_id, doc_i, doc_j of every pair of a plan once, sorted."""
    return plan.select("query_id", **ENDS).unique().sort(PAIR)


def joining_rows(
    carried: pl.DataFrame, judgments: pl.DataFrame, documents: pl.DataFrame, config: JudgingConfig, seed: int
) -> pl.DataFrame:
    """The first pairs of documents that carried pairs do not connect to the others: a PLAN frame of round 1."""
    names = np.array([judge.name for judge in config.judges], dtype=object)
    numbers = dict(carried.filter(pl.col("round") == 1).group_by("query_id").agg(pl.col("list").max()).iter_rows())
    columns: dict[str, list[object]] = {name: [] for name in PLAN.schema}
    for standing in standings(carried, judgments, documents):
        last = int(numbers.get(standing.query, 0))
        for ids, drawn in joining_draws(standing, config, seed):
            pool = np.array(ids, dtype=object)
            columns["query_id"] += [standing.query] * len(drawn.first)
            columns["first_id"] += pool[drawn.first].tolist()
            columns["second_id"] += pool[drawn.second].tolist()
            columns["judge"] += names[drawn.judge].tolist()
            columns["round"] += [1] * len(drawn.first)
            columns["list"] += np.where(drawn.list > 0, drawn.list + last, 0).tolist()
            columns["audit"] += drawn.audit.tolist()
            last += int(drawn.list.max(initial=0))
    return PLAN.frame(pl.DataFrame(columns, schema=PLAN.schema))


def joining_draws(standing: Standing, config: JudgingConfig, seed: int) -> Iterator[tuple[list[str], Draw]]:
    """Documents, and the calls about them, that connect the loose documents of a query: one by one, or list by list."""
    if config.design == "lists":
        yield from joining_lists(standing, config, seed)
        return
    for number, document in enumerate(standing.loose):
        rng = document_generator(config.draw_seed(seed), standing.query, document)
        ids = [document, *opponents(standing, number, config, rng)]
        yield ids, draw_calls(np.array([(0, place) for place in range(1, len(ids))], dtype=np.int64), config, rng)


def joining_lists(standing: Standing, config: JudgingConfig, seed: int) -> Iterator[tuple[list[str], Draw]]:
    """Lists of loose documents among settled ones, as many as give each document its degree, never more loose than settled."""
    most = config.list_size // 2
    for start in range(0, len(standing.loose), most):
        loose = standing.loose[start : start + most]
        rng = document_generator(config.draw_seed(seed), standing.query, "\n".join(loose))
        for _ in range(-(-config.degree // (config.list_size - 1))):
            ids = [*loose, *spread(standing.settled, config.list_size - len(loose), rng)]
            yield ids, draw_query(len(ids), config, rng)


def document_generator(seed: int, query_id: str, doc_id: str) -> np.random.Generator:
    """The generator of the choices about a new document of a known query: seeded by (seed, query id, document id) alone."""
    return np.random.default_rng(int(digest_json([seed, query_id, doc_id]), 16))


def opponents(standing: Standing, number: int, config: JudgingConfig, rng: np.random.Generator) -> Sequence[str]:
    """Documents that a loose document is first compared with: one from each equal part of the current order.

    An adaptive design starts with two and chooses the others itself; one that is drawn at once gives a document its share of the
    budget, half the degree; the complete design compares it with all.
    """
    if config.design == "complete":
        return (*standing.settled, *standing.loose[:number])
    count = FIRST_PAIRS if config.adaptive and config.rounds > 1 else max(FIRST_PAIRS, -(-config.degree // 2))
    return spread(standing.settled, count, rng)


def spread(ordered: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    """One document of each of `count` equal parts of an order; all of a short one."""
    parts = np.array_split(np.arange(len(ordered)), min(count, len(ordered)))
    return [ordered[int(rng.choice(part))] for part in parts]


def grown_budgets(
    budgets: Mapping[str, int], previous: Previous, documents: pl.DataFrame, config: JudgingConfig
) -> dict[str, int]:
    """Pairs that a refresh allows every query in all rounds: what is carried, and what the query has grown by.

    Equation: carried pairs + max(0, budget(documents now, degree) - budget(documents carried, previous degree)). A query that has
    not grown buys nothing, although documents that left it have taken their pairs along; a new query has its whole budget.

    Args:
        budgets: query id -> `plan.pair_budget` of its documents now.
        previous: what is carried on.
        documents: query_id, doc_id of the documents to compare.
        config: the judging configuration now.
    """
    carried = carried_rows(previous, documents, [judge.name for judge in config.judges])
    pairs = dict(unordered(carried).group_by("query_id").len().iter_rows())
    kept = dict(settled_documents(carried, documents).group_by("query_id").agg(pl.col("settled").sum()).iter_rows())
    grown = dict(budgets)
    for name, spent in pairs.items():
        if name in grown:
            grown[name] = spent + max(0, budgets[name] - pair_budget(kept[name], previous.degree))
    return grown


def without_pairs(judgments: pl.DataFrame, previous: Previous) -> pl.DataFrame:
    """Verdicts on pairs that the previous epoch did not ask: those that a cascade may move up in a refresh.

    Args:
        judgments: JUDGMENTS frame.
        previous: what is carried on.
    """
    asked = unordered(previous.judgments)
    return judgments.with_columns(**ENDS).join(asked, on=PAIR, how="anti").select(judgments.columns)


def closed_pairs(previous: Previous, documents: pl.DataFrame, config: JudgingConfig) -> pl.DataFrame:
    """Pairs that a refresh does not buy: those of two documents which the carried pairs connect already.

    Args:
        previous: what is carried on.
        documents: query_id, doc_id of the documents to compare.
        config: the judging configuration now.

    Returns:
        query_id, doc_i, doc_j of every pair of settled documents, in the queries that have loose ones.
    """
    carried = carried_rows(previous, documents, [judge.name for judge in config.judges])
    placed = settled_documents(carried, documents)
    open_queries = placed.filter(~pl.col("settled")).select("query_id").unique()
    settled = placed.filter("settled").select(DOCUMENT).join(open_queries, on="query_id", how="semi")
    both = settled.rename({"doc_id": "doc_i"}).join(settled.rename({"doc_id": "doc_j"}), on="query_id", how="inner")
    return both.filter(pl.col("doc_i") < pl.col("doc_j")).sort(PAIR)
