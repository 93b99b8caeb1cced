"""Quality of comparison designs against the number of comparisons, in the simulation of notes/judging.md.

A query has 100 documents: 10 % N(1.5, .6), 90 % N(-.2, .8). A vote is the sign of the gap plus noise of sd .7, half of whose
variance the judges of a pair share, plus a position shift of .25 in a random direction. Designs run through the pipeline's own
functions: `rating.rounds` in four rounds with a prior that is fitted after the first, `rating.designs` at once. The peer is the
adaptive rule of zELO (arXiv 2509.12541): after the same first cycle the pairs with the smallest gap. Prints a table, writes
JSON and a PNG where asked.

Usage: python benchmarks/designs.py [--queries 60] [--seed 0] [--json designs.json] [--png designs.png]
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from time import perf_counter

import numpy as np
import polars as pl

from anmi_pipeline.rating.adaptive import CAP, round_sizes
from anmi_pipeline.rating.comparisons import flatten
from anmi_pipeline.rating.designs import design
from anmi_pipeline.rating.posterior import modes
from anmi_pipeline.rating.prior import ScorePrior, fit_prior, starting_prior
from anmi_pipeline.rating.rounds import FLAT_PRECISION, first_round, next_round

DOCUMENTS = 100
RIDGE = 0.05
NOISE, SHARED, SHIFT = 0.7, 0.5, 0.25
RETRIEVER_NOISE = 1.1
"""Noise of the made-up retriever score: its correlation with the truth is .64."""
DEGREES = (4, 6, 8, 12, 24)
PAIR = ("query_id", "doc_i", "doc_j")


@dataclass(frozen=True)
class Quality:
    """Means over queries: Kendall's tau of the whole list, nDCG@10 with its standard error, recall of the true top 10."""

    tau: float
    ndcg: float
    ndcg_error: float
    recall: float


@dataclass(frozen=True)
class Row:
    """A design at one budget; pairs and calls per query."""

    design: str
    pairs: float
    judges: int
    calls: float
    quality: Quality
    seconds: float

    def __str__(self) -> str:
        """One line of the table."""
        got = self.quality
        return (
            f"{self.design:17} {self.pairs:6.0f} {self.judges:6} {self.calls:6.0f} {got.tau:6.3f} {got.ndcg:8.3f} "
            f"{got.ndcg_error:6.3f} {got.recall:7.3f} {self.seconds:6.1f}"
        )


@dataclass(frozen=True)
class World:
    """Queries with a truth, a judge and a retriever; every draw is a function of the seed.

    Attributes:
        queries: number of queries.
        seed: of the truth, the votes, the retriever and the designs.
        documents: per query.
    """

    queries: int
    seed: int
    documents: int = DOCUMENTS

    @cached_property
    def truth(self) -> np.ndarray:
        """(queries, documents) true scores."""
        rng = self.generator("truth")
        shape = (self.queries, self.documents)
        return np.where(rng.random(shape) < 0.1, rng.normal(1.5, 0.6, shape), rng.normal(-0.2, 0.8, shape))

    @cached_property
    def features(self) -> pl.DataFrame:
        """The retriever's scores, standardised within each query, as `features.score_features` gives them."""
        noisy = self.truth + self.generator("retriever").normal(0, RETRIEVER_NOISE, self.truth.shape)
        z = (noisy - noisy.mean(axis=1, keepdims=True)) / noisy.std(axis=1, keepdims=True)
        return pl.DataFrame({
            "query_id": np.repeat([f"q{number:05}" for number in range(self.queries)], self.documents),
            "doc_id": np.tile([f"d{number:04}" for number in range(self.documents)], self.queries),
            "fused": z.ravel(),
        })  # fmt: skip

    @property
    def names(self) -> list[str]:
        """Query ids."""
        return self.features["query_id"].unique(maintain_order=True).to_list()

    def generator(self, name: str) -> np.random.Generator:
        """The generator of one kind of draw."""
        return np.random.default_rng([self.seed, *name.encode()])

    def ask(self, pairs: pl.DataFrame, judges: int, name: str) -> pl.DataFrame:
        """Answer pairs: preference = mean of the judges' 0/1 votes, weight = their number."""
        pairs = pairs.sort(*PAIR)
        rng = self.generator(name)
        query = pairs["query_id"].str.slice(1).cast(pl.Int64()).to_numpy()
        first, second = (pairs[end].str.slice(1).cast(pl.Int64()).to_numpy() for end in ("doc_i", "doc_j"))
        gap = (self.truth[query, first] - self.truth[query, second])[:, None]
        shape = (len(gap), judges)
        noise = rng.normal(0, NOISE * SHARED**0.5, (len(gap), 1)) + rng.normal(0, NOISE * (1 - SHARED) ** 0.5, shape)
        won = gap + noise + SHIFT * rng.choice([-1.0, 1.0], shape) > 0
        return pairs.with_columns(preference=pl.Series(won.mean(axis=1)), weight=pl.lit(float(judges)))

    def theta(self, comparisons: pl.DataFrame, prior: ScorePrior | None) -> np.ndarray:
        """(queries, documents) fitted scores: probit MAP under the prior, or under a ridge of .05."""
        pairs = comparisons.sort(*PAIR)
        batch, _ = flatten(pairs, self.features.select("query_id", "doc_id"))
        mean, precision = (prior.mean(self.features), prior.precision) if prior is not None else (None, RIDGE)
        return modes(batch, pairs["preference"].to_numpy(), mean, precision, "thurstone").reshape(self.truth.shape)

    def quality(self, theta: np.ndarray) -> Quality:
        """Compare fitted scores with the truth. Gain 2^(4 u^2) - 1, u = truth min-max scaled per query."""
        from scipy.stats import kendalltau

        low, high = self.truth.min(axis=1, keepdims=True), self.truth.max(axis=1, keepdims=True)
        gain = 2.0 ** (4 * ((self.truth - low) / (high - low)) ** 2) - 1
        top = np.argsort(-theta, axis=1, kind="stable")[:, :10]
        best = np.argsort(-self.truth, axis=1, kind="stable")[:, :10]
        discount = 1 / np.log2(np.arange(top.shape[1]) + 2)
        reached, ideal = (np.take_along_axis(gain, order, axis=1) @ discount for order in (top, best))
        tau = [float(np.asarray(kendalltau(mine, true))[0]) for mine, true in zip(theta, self.truth, strict=True)]
        recall = [len(set(mine) & set(true)) / len(true) for mine, true in zip(top.tolist(), best.tolist(), strict=True)]
        ndcg = reached / ideal
        error = float(ndcg.std(ddof=1) / len(ndcg) ** 0.5) if len(ndcg) > 1 else 0.0
        return Quality(float(np.mean(tau)), float(ndcg.mean()), error, float(np.mean(recall)))


Played = tuple[pl.DataFrame, ScorePrior | None]
"""Comparisons, and the prior that they are fitted under."""


def at_once(kind: str) -> Callable[[World, int, int], Played]:
    """A design that looks at no verdict."""

    def play(world: World, degree: int, judges: int) -> Played:
        rng = world.generator(kind)
        ids = np.array([f"d{number:04}" for number in range(world.documents)])
        drawn = [design(kind, world.documents, degree, rng) for _ in world.names]  # type: ignore[arg-type]
        pairs = np.concatenate(drawn)
        frame = pl.DataFrame({
            "query_id": np.repeat(world.names, [len(own) for own in drawn]), "doc_i": ids[pairs[:, 0]], "doc_j": ids[pairs[:, 1]],
        })  # fmt: skip
        return world.ask(frame, judges, f"{kind} votes"), None

    return play


def in_rounds(world: World, degree: int, judges: int, *, informed: bool) -> Played:
    """The adaptive design; `informed`: its prior is fitted after the first round and then frozen."""
    rng = world.generator("adaptive")
    prior = starting_prior() if informed else None
    comparisons = world.ask(first_round(world.features, prior, lambda _: rng), judges, "round 1")
    if informed:
        prior = fit_prior(comparisons, world.features)
    for number, size in enumerate(round_sizes(world.documents, degree)[1:], start=2):
        pairs = next_round(comparisons, world.features, prior, dict.fromkeys(world.names, size))
        comparisons = pl.concat([comparisons, world.ask(pairs, judges, f"round {number}")])
    return comparisons, prior


def smallest_gap(world: World, degree: int, judges: int) -> Played:
    """The peer: a random cycle, then batches of the pairs with the smallest fitted gap, under the same cap per document."""
    rng = world.generator("adaptive")
    comparisons = world.ask(first_round(world.features, None, lambda _: rng), judges, "round 1")
    for number, size in enumerate(round_sizes(world.documents, degree)[1:], start=2):
        theta = world.theta(comparisons, None)
        asked = {str(name): own for (name,), own in comparisons.partition_by("query_id", as_dict=True).items()}
        rows = [
            (name, f"d{i:04}", f"d{j:04}")
            for row, name in enumerate(world.names)
            for i, j in closest(theta[row], asked[name], size)
        ]
        comparisons = pl.concat(
            [comparisons, world.ask(pl.DataFrame(rows, schema=list(PAIR), orient="row"), judges, f"gap {number}")]
        )
    return comparisons, None


def closest(theta: np.ndarray, asked: pl.DataFrame, size: int) -> Iterator[tuple[int, int]]:
    """Pairs of one query that were not asked, smallest gap first, at most CAP per document."""
    known = set(asked.select(pl.col("doc_i", "doc_j").str.slice(1).cast(pl.Int64())).iter_rows())
    i, j = np.triu_indices(len(theta), 1)
    order = np.argsort(np.abs(theta[i] - theta[j]), kind="stable")
    used, made = np.zeros(len(theta), dtype=int), 0
    for first, second in zip(i[order].tolist(), j[order].tolist(), strict=True):
        if made == size:
            return
        if (first, second) not in known and used[first] < CAP and used[second] < CAP:
            used[first] += 1
            used[second] += 1
            made += 1
            yield first, second


DESIGNS: Mapping[str, Callable[[World, int, int], Played]] = {
    "cycles": at_once("cycles"),
    "random": at_once("random"),
    "smallest gap": smallest_gap,
    "adaptive": lambda world, degree, judges: in_rounds(world, degree, judges, informed=False),
    "adaptive + prior": lambda world, degree, judges: in_rounds(world, degree, judges, informed=True),
}


def measure(world: World, name: str, degree: int, judges: int = 1) -> Row:
    """Play a design and compare its scores with the truth."""
    started = perf_counter()
    play = at_once("complete") if name == "complete" else DESIGNS[name]
    comparisons, prior = play(world, degree, judges)
    found = world.quality(world.theta(comparisons, prior))
    pairs = comparisons.height / world.queries
    return Row(name, pairs, judges, pairs * judges, found, perf_counter() - started)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Plot nDCG@10 and tau against calls, one judge a pair."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    figure = Figure(figsize=(10, 4), layout="constrained")
    shown = sorted((row for row in rows if row.judges == 1), key=lambda row: row.calls)
    ticks = [DOCUMENTS * degree / 2 for degree in DEGREES]
    left, right = figure.subplots(1, 2)
    for name in DESIGNS:
        own = [row for row in shown if row.design == name]
        calls = [row.calls for row in own]
        left.plot(calls, [row.quality.ndcg for row in own], marker="o", label=name)
        right.plot(calls, [row.quality.tau for row in own], marker="o", label=name)
    for axes, label in ((left, "nDCG@10"), (right, "Kendall's tau, whole list")):
        axes.set(xscale="log", xlabel="judge calls per query, one judge a pair", ylabel=label)
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(alpha=0.3)
    left.legend()
    figure.savefig(path, dpi=120)


def main() -> int:
    """Measure every design at every budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write all rows here")
    parser.add_argument("--png", type=Path, help="write the plot here")
    options = parser.parse_args()
    world = World(options.queries, options.seed)
    plan = [(name, degree, 1) for name in DESIGNS for degree in DEGREES] + [("cycles", 8, 3), ("complete", DOCUMENTS - 1, 1)]
    print(
        f"{options.queries} queries x {DOCUMENTS} documents, seed {options.seed}; ridge {RIDGE}, {FLAT_PRECISION} between rounds"
    )
    print(f"{'design':17} {'pairs':>6} {'judges':>6} {'calls':>6} {'tau':>6} {'nDCG@10':>8} {'+- se':>6} {'top-10':>7} {'s':>6}")
    rows: list[Row] = []
    for name, degree, judges in plan:
        rows.append(measure(world, name, degree, judges))
        print(rows[-1], flush=True)
    if options.json:
        content = {"queries": options.queries, "seed": options.seed, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    if options.png:
        draw(rows, options.png)
    return 0


if __name__ == "__main__":
    sys.exit(main())
