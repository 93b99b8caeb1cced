"""Lists against pairs: what a ranking in one call buys at equal calls and at equal tokens, and whether its weight is honest.

The world is that of `designs.py`: 100 documents a query, a judge that hears the gap of two documents with noise of sd .7 and
leans by .25 to one place. In a list the same judge hears each document with half of that variance (times `--noise`), leans by .25
from the first place to the last, and ranks what it heard. Lists come from `rating.designs.lists`, weights from
`judging.ranking`, scores and intervals from `rating.fit`. Tokens are those of the prompts that are sent, with documents of
`--document` tokens. Prints two tables, writes JSON where asked.

Usage: python benchmarks/lists.py [--queries 60] [--seed 0] [--noise 1] [--document 200] [--json lists.json]
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from designs import DESIGNS, DOCUMENTS, NOISE, SHIFT, Quality, World

from anmi_pipeline.judging.prompts import PromptKind, PromptWriter, read_prompt
from anmi_pipeline.judging.ranking import dependence
from anmi_pipeline.rating.comparisons import flatten
from anmi_pipeline.rating.config import ErrorKind
from anmi_pipeline.rating.designs import lists
from anmi_pipeline.rating.fit import fit_batch
from anmi_pipeline.rating.prior import ScorePrior

PAIR = ["query_id", "doc_i", "doc_j"]
PAIR_SIZE, SIZES = 2, (5, 10, 20)
CALLS = (20, 40, 80, 160)
ERRORS: tuple[ErrorKind, ...] = ("fisher", "hc3")
Z95 = 1.96


class Near(World):
    """The same documents at three tenths of their distances: gaps below the noise of a vote."""

    @cached_property
    def truth(self) -> np.ndarray:
        """(queries, documents) true scores."""
        return 0.3 * World(self.queries, self.seed).truth


@dataclass(frozen=True)
class Row:
    """One way of asking at one budget; calls and tokens per query."""

    design: str
    calls: float
    tokens: float
    quality: Quality

    def __str__(self) -> str:
        """One line of the table."""
        got = self.quality
        figures = f"{got.tau:6.3f} {got.ndcg:8.3f} {got.ndcg_error:6.3f} {got.recall:7.3f}"
        return f"{self.design:19} {self.calls:6.0f} {self.tokens:9.0f} {figures}"


def prompt_tokens(kind: PromptKind, documents: int, each: int) -> int:
    """Tokens of one call: the prompt around texts of a length, and its answer."""
    writer = PromptWriter(read_prompt(kind), "json")
    frame = writer.write("", [""] * documents).tokens
    answer = 10 if kind == "pairwise" else 10 + 3 * documents
    return frame + 10 + documents * each + answer


def rank_lists(world: World, size: int, calls: int, noise: float) -> tuple[pl.DataFrame, float]:
    """Comparisons of as many whole partitions as the calls pay for (two at least), and the calls they took per query."""
    rng = world.generator(f"lists {size} {calls}")
    per_partition = -(-world.documents // size)
    partitions = max(2, round(calls / per_partition))
    weight, won = np.zeros((2, world.queries, world.documents, world.documents))
    for query, truth in enumerate(world.truth):
        for documents in lists(world.documents, partitions * (size - 1), size, rng):
            shown = rng.permutation(documents)
            lean = np.linspace(0.5, -0.5, len(shown)) * SHIFT * rng.choice([-1.0, 1.0])
            heard = truth[shown] + lean + rng.normal(0, NOISE * (noise / 2) ** 0.5, len(shown))
            i, j = np.sort(shown[np.array(np.triu_indices(len(shown), 1))], axis=0)
            score = np.zeros(world.documents)
            score[shown] = heard
            weight[query, i, j] += dependence(len(shown))
            won[query, i, j] += dependence(len(shown)) * (score[i] > score[j])
    query, i, j = np.nonzero(weight)
    ids = np.array([f"d{number:04}" for number in range(world.documents)])
    found = pl.DataFrame({
        "query_id": np.array(world.names)[query], "doc_i": ids[i], "doc_j": ids[j],
        "preference": won[query, i, j] / weight[query, i, j], "weight": weight[query, i, j],
    })  # fmt: skip
    return found.sort(PAIR), partitions * per_partition


def link_sd(size: int, noise: float) -> float:
    """Standard deviation of what is added to a gap: the truth in units of the link is the truth divided by it."""
    if size == PAIR_SIZE:
        return (NOISE**2 + SHIFT**2) ** 0.5
    place = np.linspace(0, SHIFT, size)
    apart = (place[:, None] - place)[~np.eye(size, dtype=np.bool_)]
    return float((noise * NOISE**2 + (apart**2).mean()) ** 0.5)


def covered(truth: np.ndarray, world: World, found: pl.DataFrame, errors: ErrorKind) -> float:
    """Share of the 95 % intervals of the scores that hold the truth in units of the link, under its own spread as prior."""
    batch, _ = flatten(found, world.features.select("query_id", "doc_id"))
    fit = fit_batch(
        batch.n_items, batch.edge_ptr, batch.i, batch.j, found["preference"].to_numpy(), weight=batch.weight,
        prior_precision=float(1 / truth.var()), std_error=errors,
    )  # fmt: skip
    centred = (truth - truth.mean(axis=1, keepdims=True)).ravel()
    return float(np.mean(np.abs(fit.theta - centred) < Z95 * np.asarray(fit.std_error)))


def measure(world: World, noise: float, document: int) -> list[Row]:
    """Print and return what pairs and lists give at several budgets."""
    print(f"{'design':19} {'calls':>6} {'tokens':>9} {'tau':>6} {'nDCG@10':>8} {'+- se':>6} {'top-10':>7}")
    rows: list[Row] = []

    def add(name: str, calls: float, tokens: int, compared: pl.DataFrame, prior: ScorePrior | None = None) -> None:
        rows.append(Row(name, calls, calls * tokens, world.quality(world.theta(compared, prior))))
        print(rows[-1], flush=True)

    for name in ("cycles", "adaptive + prior"):
        for degree in (4, 8, 12, 24):
            compared, prior = DESIGNS[name](world, degree, 1)
            add(name, compared.height / world.queries, prompt_tokens("pairwise", 2, document), compared, prior)
    for size in SIZES:
        for wanted in CALLS:
            if wanted * size >= 2 * world.documents:
                compared, calls = rank_lists(world, size, wanted, noise)
                add(f"lists of {size}", calls, prompt_tokens("listwise", size, document), compared)
    return rows


def cover(queries: int, seed: int, noise: float) -> list[dict[str, object]]:
    """Print and return the cover of 95 % intervals, for documents as they are and for nearly equal ones."""
    print(f"{'gaps':5} {'asked':12} {'weights':11} {'fisher':>7} {'hc3':>7}")
    found: list[dict[str, object]] = []
    for gaps in (1.0, 0.3):
        world = World(queries, seed) if gaps == 1 else Near(queries, seed)
        asked = {PAIR_SIZE: DESIGNS["cycles"](world, 24, 1)[0]}
        asked |= {size: rank_lists(world, size, 2000 // size, noise)[0] for size in SIZES}
        for size, compared in asked.items():
            name = "pairs" if size == PAIR_SIZE else f"lists of {size}"
            truth = world.truth / link_sd(size, noise)
            whole = compared.with_columns(pl.col("weight") / dependence(size))
            for weights, own in (("discounted", compared), ("one each", whole)):
                shares = {kind: covered(truth, world, own, kind) for kind in ERRORS}
                print(f"{gaps:<5} {name:12} {weights:11} {shares['fisher']:7.3f} {shares['hc3']:7.3f}", flush=True)
                found.append({"gaps": gaps, "asked": name, "weights": weights, **shares})
    return found


def main() -> int:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--noise", type=float, default=1.0, help="variance of the noise in lists, in that of pairs")
    parser.add_argument("--document", type=int, default=200, help="tokens of a document")
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args()
    world = World(options.queries, options.seed)
    print(f"{options.queries} queries x {DOCUMENTS} documents, seed {options.seed}, noise of lists x {options.noise}")
    rows = measure(world, options.noise, options.document)
    shares = cover(options.queries, options.seed, options.noise)
    if options.json:
        options.json.write_text(json.dumps({"rows": [asdict(row) for row in rows], "cover": shares}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
