"""Issue 4: with 30 % of the verdicts lost for good the ratings are those of the surviving votes, and nothing else.

A made-up collection is judged through `anmi run` by a model behind a loopback server that fails: half of the attempts end in a
500 (two attempts a call), some answers are garbage. The survivors are then read from the ledger's raw answers and fitted here by
scipy; Kendall's tau of the ratings must agree with that fit to .03. A few queries have documents that do not fit into the
model's context, so that most of their calls fail: they must be flagged and not scored, and nothing downstream may see them. Once
with a design that is drawn at once and the plain prior, once with the adaptive design and the informative prior. About three
minutes on 2 cores.
"""

import argparse
import json
import math
import sqlite3
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from api_dataset import NAME, ApiDataset, api_judge
from harness import Figures, Installation, above, arguments, at_least, at_most, exactly, within, workplace
from scipy.optimize import minimize
from scipy.special import log_ndtr
from scipy.stats import kendalltau, norm

from anmi_pipeline import tables
from anmi_pipeline.rating.comparisons import fold_judgments
from anmi_pipeline.rating.config import RatingConfig
from anmi_pipeline.rating.elo import rate
from anmi_pipeline.rating.features import score_features
from anmi_pipeline.rating.prior import ScorePrior
from anmi_pipeline_tests.judging.wire_answers import WireSettings, hashed_truth
from anmi_pipeline_tests.judging.wire_server import spawned

FLOOR = 0.5
LOST = {"500": 0.5, "garbage": 1 / 15}
"""Two attempts fail in .25 of the calls, and a fifteenth of the other answers cannot be read: .30 in all."""
SHORT, LONG = 14, 260
"""Words of a document, and of one that does not fit beside another of its kind."""
CONTEXT = 1200
"""Tokens of the model's context."""
PRECISION = 0.05
PROBIT_ELO = 1.702 * 400 / math.log(10)
DESIGNS = {
    "cycles, prior zero": ({"design": "cycles"}, {"prior": "zero", "prior_precision": PRECISION}),
    "adaptive, prior scores": ({"design": "adaptive", "rounds": 3}, {"prior": "scores"}),
}


@dataclass(frozen=True)
class Outcome:
    """What a run left.

    Attributes:
        verdicts: JUDGMENTS frame.
        answers: call key -> status and raw answer, from the ledger's file.
        elo: ELO frame.
        facts: facts of the Elo table.
    """

    verdicts: pl.DataFrame
    answers: Mapping[str, tuple[str, str | None]]
    elo: pl.DataFrame
    facts: Mapping[str, object]

    @classmethod
    def of(cls, installation: Installation) -> "Outcome":
        """Read it."""
        with sqlite3.connect(f"file:{installation.home / 'ledger.db'}?mode=ro", uri=True) as connection:
            rows = connection.execute("select call_key, status, raw_answer from verdicts").fetchall()
        _, rated = installation.records.require("elo_table", NAME)
        verdicts = installation.table("pairwise_judgments", NAME, tables.JUDGMENTS)
        return cls(verdicts, {key: (status, raw) for key, status, raw in rows}, rated.table(tables.ELO), rated.facts)

    def vote(self, key: str) -> float | None:
        """P(first) that an answer on record says, read here; None: it failed or says nothing."""
        status, raw = self.answers[key]
        said = json.loads(raw) if raw is not None else {}
        shares = {token: math.exp(value) for token, value in said.get("logprobs") or ()}
        mass = sum(shares.get(token, 0.0) for token in "ABT")
        return (shares.get("A", 0.0) + shares.get("T", 0.0) / 2) / mass if status in ("ok", "unparsed") and mass > 0.5 else None

    def survivors(self) -> pl.DataFrame:
        """The planned verdicts with `vote`, read here."""
        votes = pl.Series("vote", [self.vote(key) for key in self.verdicts["call_key"]], dtype=pl.Float64)
        return self.verdicts.with_columns(votes)


def long_queries(made: ApiDataset, seed: int) -> list[str]:
    """Give some queries long documents: all of their pool, or three quarters of it."""
    rng = np.random.default_rng([seed, 1])
    words = sorted({word for text in made.documents.values() for word in text.split()})
    chosen = list(made.queries)[:4]
    for number, query in enumerate(chosen):
        share = 1.0 if number < 2 else 0.75
        for place in range(round(share * made.pool)):
            document = f"{query}-long{place}"
            made.documents[document] = " ".join(rng.choice(words, LONG))
            made.candidates[query][place] = document
    return chosen


def fitted(survivors: pl.DataFrame, documents: Mapping[str, list[str]]) -> dict[tuple[str, str], float]:
    """Elo of every document by scipy from the surviving votes alone: probit MAP under a normal prior of mean zero.

    Equation: max over theta of sum over votes of p log Phi(d) + (1 - p) log Phi(-d) - precision/2 |theta|^2, d the difference.
    """
    found: dict[tuple[str, str], float] = {}
    for query, names in documents.items():
        own = survivors.filter((pl.col("query_id") == query) & pl.col("vote").is_not_null())
        place = {name: number for number, name in enumerate(names)}
        i, j = (np.array([place[name] for name in own[side]], dtype=int) for side in ("first_id", "second_id"))
        p = own["vote"].to_numpy()

        def loss(theta: np.ndarray, i: np.ndarray = i, j: np.ndarray = j, p: np.ndarray = p) -> tuple[float, np.ndarray]:
            d = theta[i] - theta[j]
            value = -(p * log_ndtr(d) + (1 - p) * log_ndtr(-d)).sum() + PRECISION / 2 * theta @ theta
            slope = p * np.exp(norm.logpdf(d) - log_ndtr(d)) - (1 - p) * np.exp(norm.logpdf(d) - log_ndtr(-d))
            gradient = PRECISION * theta
            np.add.at(gradient, i, -slope)
            np.add.at(gradient, j, slope)
            return value, gradient

        theta = minimize(loss, np.zeros(len(names)), jac=True, method="L-BFGS-B", options={"ftol": 1e-14, "gtol": 1e-9}).x
        for name, score in zip(names, theta - theta.mean(), strict=True):
            found[query, name] = 1500 + PROBIT_ELO * float(score)
    return found


def informed(installation: Installation, survivors: pl.DataFrame, scored: list[str]) -> dict[tuple[str, str], float]:
    """Elo of every document under the frozen informative prior, from the surviving votes alone."""
    kept = survivors.filter(pl.col("query_id").is_in(pl.Series(scored).implode()) & pl.col("vote").is_not_null())
    graph = fold_judgments(kept.with_columns(p_first="vote", status=pl.lit("ok")))
    pool = installation.table("candidate_pool", NAME, tables.POOL, "train")
    pool = pool.filter(pl.col("query_id").is_in(pl.Series(scored).implode()) & pl.col("dense_pool_rank").is_not_null())
    facts = installation.records.require("pairwise_judgments", NAME)[1].facts["frozen_prior"]
    prior = ScorePrior.from_json(facts["prior"])  # type: ignore[index, call-overload]
    documents = pool.select("query_id", "doc_id")
    elo, _ = rate(graph, documents, RatingConfig(prior="scores"), features=score_features(pool), prior=prior)
    return {(query, doc): value for query, doc, value in elo.select("query_id", "doc_id", "elo").iter_rows()}


def tau(one: Mapping[tuple[str, str], float], other: Mapping[tuple[str, str], float]) -> float:
    """Kendall's tau over the documents of a query, mean over queries."""
    queries = sorted({query for query, _ in one})
    keys = [[key for key in one if key[0] == query] for query in queries]
    return float(np.mean([kendalltau([one[key] for key in own], [other[key] for key in own]).statistic for own in keys]))


def ratings(figures: Figures, made: ApiDataset, installation: Installation, outcome: Outcome, name: str, seed: int) -> None:
    """The ratings are those of the surviving votes."""
    survivors = outcome.survivors()
    wrong = survivors.filter(pl.col("vote").is_not_null() != (pl.col("status") == "ok")).height
    figures.check(f"{name}: verdicts that are votes and should not be, or the other way round", wrong, exactly(0), seed=seed)
    figures.check(f"{name}: failures that carry a vote", outcome.verdicts.filter(
        (pl.col("status") != "ok") & pl.col("p_first").is_not_null()).height, exactly(0), seed=seed)  # fmt: skip
    scored = outcome.elo["query_id"].unique().sort().to_list()
    own = survivors.filter(pl.col("query_id").is_in(pl.Series(scored).implode()))
    figures.check(f"{name}: share of verdicts lost, in scored queries", own["vote"].null_count() / own.height, within(0.3, 0.04),
                  seed=seed, detail=str(dict(own.group_by("status").len().sort("status").iter_rows())))  # fmt: skip
    documents = {query: sorted(made.candidates[query]) for query in scored}
    mine = {(query, doc): value for query, doc, value in outcome.elo.select("query_id", "doc_id", "elo").iter_rows()}
    again = fitted(own, documents) if "zero" in name else informed(installation, survivors, scored)
    figures.check(f"{name}: documents with a rating", len(mine), exactly(len(again)), seed=seed)
    figures.check(f"{name}: tau of the ratings with the fit on the surviving votes", tau(mine, again), at_least(0.97), seed=seed,
                  detail=f"largest difference {max(abs(mine[key] - again[key]) for key in mine):.4f} Elo")  # fmt: skip
    truth = {(query, doc): hashed_truth(made.queries[query], made.documents[doc]) for query, doc in mine}
    moved, detail = abs(tau(mine, truth) - tau(again, truth)), f"tau {tau(mine, truth):.4f}"
    figures.check(f"{name}: tau with the truth, ratings against that fit", moved, at_most(0.03), seed=seed, detail=detail)
    if "zero" in name:
        gap = [2 * (truth[q, a] - truth[q, b]) for q, a, b in own.select("query_id", "first_id", "second_id").iter_rows()]
        whole = own.with_columns(vote=pl.Series(1 / (1 + np.exp(-np.array(gap)))))
        figures.note(f"{name}: tau with the truth had no call failed", tau(fitted(whole, documents), truth), seed=seed)
        first = own.with_columns(pl.col("vote").fill_null(1.0))
        figures.note(
            f"{name}: tau with the truth if failures were votes for the first", tau(fitted(first, documents), truth), seed=seed
        )


def flags(
    figures: Figures, installation: Installation, outcome: Outcome, name: str, long: list[str], text: str, seed: int
) -> None:
    """Queries under the floor are named, and are nowhere else."""
    counts = outcome.verdicts.group_by("query_id").agg(share=(pl.col("status") == "ok").mean())
    under = {query: share for query, share in counts.iter_rows() if share < FLOOR}
    figures.check(f"{name}: queries under the floor", len(under), above(0), seed=seed, detail=", ".join(sorted(under)))
    figures.claim(f"{name}: those whose documents are too long are", set(long) <= set(under), seed=seed)
    figures.claim(f"{name}: the Elo table names exactly these", outcome.facts.get("not_scored") == {
        query: round(share, 6) for query, share in sorted(under.items())}, seed=seed)  # fmt: skip
    seen = {"elo_table": outcome.elo, "training_set": installation.table("training_set", f"{NAME}|features", tables.TRAINING_SET)}
    for asset, table in seen.items():
        rows = table.filter(pl.col("query_id").is_in(pl.Series(sorted(under)).implode())).height
        figures.check(f"{name}: rows of {asset} about them", rows, exactly(0), seed=seed, detail=f"of {table.height:,}")
        others = counts.height - len(under)
        figures.check(f"{name}: other queries in {asset}", table["query_id"].n_unique(), exactly(others), seed=seed)
    report = installation.table("judge_report", NAME, tables.REPORT).filter(pl.col("measure") == "queries_under_coverage_floor")
    figures.check(f"{name}: queries under the floor in the report", report["value"][0], exactly(len(under)), seed=seed)
    figures.claim(
        f"{name}: anmi run says so", f"{len(under)} of {counts.height} queries" in text and "not scored" in text, seed=seed
    )


def fails(figures: Figures, place: Path, name: str, queries: int, pool: int, seed: int) -> None:
    """One design, in a folder of its own."""
    judging, rating = DESIGNS[name]
    with spawned(WireSettings(faults=LOST, context_tokens=CONTEXT, seed=seed, retry_after_s=0.01)) as server:
        judge = api_judge("openai", server.url, "letters", "gpt-4o-mini", dispatch={"attempts": 2, "breaker_failures": 100})
        settings = {"degree": 8, "audit_share": 0.0, "coverage_floor": FLOOR, "judges": [judge]}
        made = ApiDataset.make(place, queries, 10 * pool, pool, settings | judging, seed, rating=rating)
        long = long_queries(made, seed)
        made.write(queries)
        installation = made.installation()
        done = installation.anmi("run", "--dataset", NAME)
        if not figures.check(f"{name}: exit code of anmi run", done.code, exactly(0), seed=seed, detail=f"{done.seconds:.0f} s"):
            figures.say(done.text[-2000:])
            return
    outcome = Outcome.of(installation)
    ratings(figures, made, installation, outcome, name, seed)
    flags(figures, installation, outcome, name, long, done.text, seed)


def most_fail(figures: Figures, place: Path, queries: int, pool: int, seed: int) -> None:
    """A judge that fails for most queries stops the run before anything is rated."""
    name = "a judge that answers a fifth"
    with spawned(WireSettings(faults={"500": 0.8}, seed=seed, retry_after_s=0.01)) as server:
        judge = api_judge("openai", server.url, "letters", "gpt-4o-mini", dispatch={"attempts": 1, "breaker_failures": 1000})
        settings = {"design": "cycles", "degree": 4, "audit_share": 0.0, "coverage_floor": FLOOR, "judges": [judge]}
        installation = ApiDataset.make(place, queries, 10 * pool, pool, settings, seed, rating={"prior": "zero"}).installation()
        done = installation.anmi("run", "--dataset", NAME)
    figures.check(f"{name}: exit code of anmi run", done.code, exactly(1), seed=seed, detail=done.text[-200:])
    rated = ("elo_table", NAME) in installation.records.refs()
    figures.claim(f"{name}: nothing is rated", not rated, seed=seed)


def main() -> int:
    """Both designs."""

    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--queries", type=int, default=80)
        parser.add_argument("--pool", type=int, default=16)
        parser.add_argument("--seed", type=int, default=0)

    options = arguments(__doc__ or "", add=more)
    figures = Figures("4.5 failures")
    with workplace(options.home) as place:
        for number, name in enumerate(DESIGNS):
            fails(figures, place / str(number), name, options.queries, options.pool, options.seed)
        most_fail(figures, place / "most", 10, 8, options.seed)
    return figures.finish()


if __name__ == "__main__":
    sys.exit(main())
