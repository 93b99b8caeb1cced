"""Issue 3: in the simulation of notes/judging.md the adaptive design beats the published one at a third of the money.

200 queries of 100 documents (`benchmarks/designs.py` has the law). The simulation counts only if the published setting, 4 cycles
with three judges a pair, gives its known figures in it. About two minutes on 2 cores; no data is read.
"""

import sys
from pathlib import Path

from harness import Figures, arguments, at_least, exactly, within

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from designs import World, measure

QUERIES, SEED, DEGREE = 200, 0, 8


def main() -> int:
    """Published setting, adaptive at a third of its calls, and what that costs in the whole list."""
    arguments(__doc__ or "")
    figures = Figures("3.5 designs")
    world = World(QUERIES, SEED)
    published = measure(world, "cycles", DEGREE, judges=3)
    figures.check("cycles k=8, 3 judges: calls a query", published.calls, exactly(1200), seed=SEED)
    figures.check("cycles k=8, 3 judges: nDCG@10", published.quality.ndcg, within(0.845, 0.015), seed=SEED)
    figures.check("cycles k=8, 3 judges: Kendall's tau", published.quality.tau, within(0.773, 0.01), seed=SEED)
    adaptive = measure(world, "adaptive", DEGREE)
    figures.check("adaptive, 1 judge, 4 rounds: calls a query", adaptive.calls, exactly(400), seed=SEED)
    figures.check("adaptive, 1 judge, 4 rounds: nDCG@10", adaptive.quality.ndcg, at_least(0.90), seed=SEED)
    figures.note("adaptive, 400 calls: Kendall's tau", adaptive.quality.tau, seed=SEED)
    once = measure(world, "cycles", DEGREE)
    cost = once.quality.tau - adaptive.quality.tau
    figures.note("whole-list tau that adaptive costs against cycles at equal calls", cost, seed=SEED)
    figures.note("cycles, 400 calls, 1 judge: nDCG@10", once.quality.ndcg, seed=SEED)
    informed = measure(world, "adaptive + prior", DEGREE)
    figures.note("adaptive + prior, 400 calls: nDCG@10", informed.quality.ndcg, seed=SEED)
    figures.note("adaptive + prior, 400 calls: Kendall's tau", informed.quality.tau, seed=SEED)
    return figures.finish()


if __name__ == "__main__":
    sys.exit(main())
