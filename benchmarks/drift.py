"""What drift of an Elo table is noise: the figure that `judging.refresh.retrain_above` is compared with, where nothing changed.

Prints, for simulated judges, how far the table moves when a share of the verdicts is asked again and answered anew by the same
judges, when documents are new, and when the judge has changed. Run: `python -m benchmarks.drift [--queries 200] [--seed 0]`.

Simulation (that of the designs, see `designs.py`): 50 documents a query, 10 % N(1.5, .6), 90 % N(-.2, .8); a vote is sign(gap +
noise), noise sd .7; 4 cycles (degree 8), one vote a pair.
"""

import argparse
from collections.abc import Iterator

import numpy as np
import polars as pl

from anmi_pipeline.rating.comparisons import fold_judgments
from anmi_pipeline.rating.config import RatingConfig
from anmi_pipeline.rating.designs import cycles
from anmi_pipeline.rating.drift import Drift, drift
from anmi_pipeline.rating.elo import rate
from anmi_pipeline.tables import JUDGMENTS

DOCUMENTS, DEGREE, NOISE = 50, 8, 0.7
RATING = RatingConfig(prior="zero")


class World:
    """Queries with true scores, a plan of pairs, and judges that answer it."""

    def __init__(self, queries: int, seed: int) -> None:
        """Draw truth and plan."""
        self.rng = np.random.default_rng(seed)
        good = self.rng.random((queries, DOCUMENTS)) < 0.1
        self.truth = np.where(good, self.rng.normal(1.5, 0.6, good.shape), self.rng.normal(-0.2, 0.8, good.shape))
        pairs = [cycles(DOCUMENTS, DEGREE, self.rng) for _ in range(queries)]
        self.query = np.repeat(np.arange(queries), [len(own) for own in pairs])
        self.pairs = np.concatenate(pairs)

    def votes(self, truth: np.ndarray | None = None) -> np.ndarray:
        """One vote per pair."""
        scores = self.truth if truth is None else truth
        gap = scores[self.query, self.pairs[:, 0]] - scores[self.query, self.pairs[:, 1]]
        return (gap + self.rng.normal(0, NOISE, len(gap)) > 0).astype(np.float64)

    def elo(self, votes: np.ndarray, known: np.ndarray | None = None) -> pl.DataFrame:
        """Elo table of the votes among known documents."""
        seen = np.ones(self.truth.shape, dtype=bool) if known is None else known
        kept = seen[self.query, self.pairs[:, 0]] & seen[self.query, self.pairs[:, 1]]
        n = int(kept.sum())
        names = np.array([f"d{place:02d}" for place in range(DOCUMENTS)])
        queries = np.array([f"q{number:04d}" for number in range(len(self.truth))])
        judgments = JUDGMENTS.frame({
            "query_id": queries[self.query[kept]], "first_id": names[self.pairs[kept, 0]],
            "second_id": names[self.pairs[kept, 1]], "judge": ["simulated"] * n, "epoch": ["1"] * n,
            "round": [1] * n, "audit": [False] * n, "p_first": votes[kept],
            "status": ["ok"] * n, "call_key": [str(row) for row in range(n)], "provenance": ["simulated"] * n,
            "input_tokens": [0] * n, "output_tokens": [0] * n, "cost_usd": [0.0] * n,
        })  # fmt: skip
        where = np.argwhere(seen)
        documents = pl.DataFrame({"query_id": queries[where[:, 0]], "doc_id": names[where[:, 1]]})
        return rate(fold_judgments(judgments), documents, RATING)[0]


def cases(world: World) -> Iterator[tuple[str, Drift]]:
    """What changed, and the drift."""
    old = world.votes()
    table = world.elo(old)
    for share in (0.05, 0.1, 0.25, 0.5, 1.0):
        again = world.rng.random(len(old)) < share
        yield f"{share:.0%} of the verdicts asked again", drift(table, world.elo(np.where(again, world.votes(), old)))
    for count in (1, 2, 5, 10):
        known = np.ones(world.truth.shape, dtype=bool)
        for row in known:
            row[world.rng.choice(DOCUMENTS, count, replace=False)] = False
        yield f"{count} of {DOCUMENTS} documents new", drift(world.elo(old, known), table)
    for share in (0.25, 0.5, 1.0):
        other = world.truth + world.rng.normal(0, 0.7, world.truth.shape)
        again = world.rng.random(len(old)) < share
        votes = np.where(again, world.votes(other), old)
        yield f"{share:.0%} asked again of a judge that sees documents otherwise (sd .7)", drift(table, world.elo(votes))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print("| what changed | moved | queries that lost more than .01 | tau | top-10 overlap | mean change, errors |")
    print("|---|---|---|---|---|---|")
    for name, found in cases(World(given.queries, given.seed)):
        facts = found.facts()
        figures = [facts["moved"], facts["moved_share"], facts["tau"], facts["overlap"], facts["mean_change"]]
        print(f"| {name} | " + " | ".join(f"{float(figure or 0):.3f}" for figure in figures) + " |")


if __name__ == "__main__":
    main()
