"""Issue 4: a cascade of judges costs at most 30 % of asking the large one about everything, at no loss of quality.

The truths of `benchmarks/designs.py` (100 documents a query). Judges of 75, 85 and 95 % accuracy, whatever the pair, cost 1, 10
and 50. All answer pairs of one cycles graph (400 a query); the cascade asks the small judge about all in both orders, then moves
pairs up by `judging.routing.escalate`. Both are rated by the same fit; a verdict counts by the accuracy of its judge. The
audit slice from which weights are estimated is left out of the price on both sides. Half a minute on one core; no data is read.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from harness import Figures, arguments, at_least, at_most

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from designs import RIDGE, World

from anmi_pipeline.judging.beliefs import pair_beliefs
from anmi_pipeline.judging.routing import RoutingConfig, Savings, Tier, escalate, estimated_weights, savings
from anmi_pipeline.rating.comparisons import flatten, weighted_comparisons
from anmi_pipeline.rating.designs import design
from anmi_pipeline.rating.posterior import modes
from anmi_pipeline.tables import JUDGMENTS

ACCURACY = {"small": 0.75, "medium": 0.85, "large": 0.95}
PRICE = {"small": 1.0, "medium": 10.0, "large": 50.0}
SHARE = {"small": 1.0, "medium": 0.45, "large": 0.165}
NEAR_HALF = {"small": 0.35, "medium": 0.25, "large": 0.0}
DEGREE, AUDIT = 8, 0.02
PAIR = ["query_id", "doc_i", "doc_j"]


def cascade() -> RoutingConfig:
    """Tiers with the weights that their accuracies imply."""
    from scipy.stats import norm

    weights = {name: float((norm.ppf(accuracy) / norm.ppf(ACCURACY["large"])) ** 2) for name, accuracy in ACCURACY.items()}
    tiers = [
        Tier(
            name=name,
            judges=(f"judge-{name}",),
            share=SHARE[name],
            near_half=NEAR_HALF[name],
            weight=weights[name],
            usd=PRICE[name],
            both_orders=name == "small",
        )
        for name in ACCURACY
    ]
    return RoutingConfig(tiers=tuple(tiers))


@dataclass(frozen=True)
class Bench:
    """A world with its pairs: answers of a judge are a function of judge and pair."""

    world: World
    pairs: pl.DataFrame

    @classmethod
    def of(cls, world: World) -> "Bench":
        """Draw the cycles graph of every query."""
        rng = world.generator("cascade cycles")
        ids = np.array([f"d{number:04}" for number in range(world.documents)])
        drawn = np.concatenate([design("cycles", world.documents, DEGREE, rng) for _ in world.names])
        names = np.repeat(world.names, len(drawn) // len(world.names))
        return cls(world, pl.DataFrame({"query_id": names, "doc_i": ids[drawn[:, 0]], "doc_j": ids[drawn[:, 1]]}).sort(PAIR))

    def ask(self, pairs: pl.DataFrame, tier: str, *, both: bool = False) -> pl.DataFrame:
        """JUDGMENTS of one tier in one random order or in both: each ordered pair is right with the tier's accuracy."""
        rng = self.world.generator(f"cascade {tier}")
        right, turned = rng.random((2, self.pairs.height)) < ACCURACY[tier], rng.random(self.pairs.height) < 0.5
        drawn = self.pairs.with_columns(ahead=pl.Series(right[0]), behind=pl.Series(right[1]), turned=pl.Series(turned))
        own = pairs.select(PAIR).join(drawn, on=PAIR, how="left").sort(PAIR)
        query, i, j = (own[name].str.slice(1).cast(pl.Int64()).to_numpy() for name in PAIR)
        own = own.with_columns(truth=pl.Series(self.world.truth[query, i] > self.world.truth[query, j]))
        ahead = own.filter(~pl.col("turned") | both).with_columns(
            first_id="doc_i", second_id="doc_j", p=pl.col("truth") == pl.col("ahead")
        )
        behind = own.filter(pl.col("turned") | both).with_columns(
            first_id="doc_j", second_id="doc_i", p=pl.col("truth") != pl.col("behind")
        )
        return JUDGMENTS.frame(
            pl.concat([ahead, behind]).with_columns(
                p_first=pl.col("p").cast(pl.Float64()), judge=pl.lit(f"judge-{tier}"), epoch=pl.lit("1"), round=pl.lit(1),
                audit=pl.lit(False), status=pl.lit("ok"), call_key=pl.lit(""), provenance=pl.lit("simulated"),
                input_tokens=pl.lit(0), output_tokens=pl.lit(0), cost_usd=pl.lit(PRICE[tier]),
            )
        )  # fmt: skip

    def ndcg(self, judgments: pl.DataFrame, config: RoutingConfig) -> float:
        """nDCG@10 of the ratings that verdicts give."""
        pairs = weighted_comparisons(judgments, config.weights)
        batch, _ = flatten(pairs, self.world.features.select("query_id", "doc_id"))
        theta = modes(batch, pairs["preference"].to_numpy(), None, RIDGE, "thurstone").reshape(self.world.truth.shape)
        return self.world.quality(theta).ndcg

    def play(self, config: RoutingConfig) -> tuple[pl.DataFrame, Savings]:
        """Ask the small judge about all pairs and the others about those that move up."""
        documents = self.world.features.select("query_id", "doc_id")
        judgments = self.ask(self.pairs, "small", both=config.tiers[0].both_orders)
        for step in range(1, config.steps + 1):
            beliefs = pair_beliefs(weighted_comparisons(judgments, config.weights), documents)
            moved = escalate(judgments, config, beliefs, step)
            parts = [self.ask(own, str(tier)) for (tier,), own in moved.partition_by("tier", as_dict=True).items()]
            judgments = JUDGMENTS.frame(pl.concat([judgments, *parts]))
        return judgments, savings(judgments, config)


def main() -> int:
    """The cascade against each judge alone, and with weights that nobody told."""

    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--queries", type=int, default=200)
        parser.add_argument("--seed", type=int, default=0)

    options = arguments(__doc__ or "", add=more)
    figures, seed = Figures("4.7 cascade"), options.seed
    bench, config = Bench.of(World(options.queries, options.seed)), cascade()
    alone = {tier: bench.ndcg(bench.ask(bench.pairs, tier), config) for tier in ACCURACY}
    for tier, ndcg in alone.items():
        figures.note(f"{tier} judge alone: nDCG@10 of the ratings", ndcg, seed=seed)
    judgments, spent = bench.play(config)
    ndcg = bench.ndcg(judgments, config)
    mix = ", ".join(f"{tier} {share:.0%}" for tier, share in spent.mix.items())
    figures.check("cascade: share saved against all-large", spent.saved, at_least(0.70), seed=seed, detail=mix)
    figures.check("cascade: loss of nDCG@10 against all-large", alone["large"] - ndcg, at_most(0.01), seed=seed)
    figures.note("cascade: nDCG@10", ndcg, seed=seed)
    audit = [bench.ask(bench.pairs.sample(fraction=AUDIT, seed=seed), tier) for tier in ACCURACY]
    flat = RoutingConfig(tiers=tuple(tier.model_copy(update={"weight": 1.0}) for tier in config.tiers))
    learnt = estimated_weights(pl.concat(audit).with_columns(audit=pl.lit(True)), flat)
    for tier, true in zip(learnt.tiers, config.tiers, strict=True):
        figures.note(
            f"{tier.name}: weight estimated from a {AUDIT:.0%} audit", tier.weight, seed=seed, detail=f"true {true.weight:.3f}"
        )
    judgments, spent = bench.play(learnt)
    loss = alone["large"] - bench.ndcg(judgments, learnt)
    figures.check("cascade with estimated weights: share saved", spent.saved, at_least(0.70), seed=seed)
    figures.check("cascade with estimated weights: loss of nDCG@10", loss, at_most(0.01), seed=seed)
    return figures.finish()


if __name__ == "__main__":
    sys.exit(main())
