"""Issue 3: the fit is 20 times faster than evalica's; with Fisher errors 100, with HC3 errors 50 times faster than statsmodels.

n = 100, k = 6, 300 soft edges a query, one thread, gradients below 1e-6 certified in float64, medians in one process; then
112,000 queries with HC3 errors in under 30 s and 2 GB, and one graph of a million edges in under 2 s, each in a process of its
own (`benchmarks/rating.py`). Run it on a quiet machine. About four minutes.
"""

import sys
from pathlib import Path

from harness import Figures, arguments, at_least, at_most

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from rating import SEED, alone, per_query

QUERIES, REPEATS = 2_000, 9
AIM = "aim 60 and more"


def main() -> int:
    """Measure and compare."""
    arguments(__doc__ or "")
    figures = Figures("3.1 speed")
    took = per_query(QUERIES, REPEATS)
    theta, fisher, hc3 = (took[f"fit_batch, {name}"] for name in ("theta", "Fisher errors", "HC3 errors"))
    evalica = took["evalica bradley_terry, conversion included"]
    statsmodels = took["statsmodels GLM probit, Fisher errors"]
    shown = f"{theta:.1f} us against {evalica:.0f} us a query; {AIM}"
    figures.check("theta: times faster than evalica", evalica / theta, at_least(20), seed=SEED, detail=shown)
    figures.check(
        "Fisher: times faster than statsmodels", statsmodels / fisher, at_least(100), seed=SEED, detail=f"{fisher:.0f} us"
    )
    figures.check("HC3: times faster than statsmodels", statsmodels / hc3, at_least(50), seed=SEED, detail=f"{hc3:.0f} us")
    for name in ("dense Newton, NumPy", "scipy L-BFGS-B, probit", "choix ilsr_pairwise_dense"):
        figures.note(f"theta: times faster than {name}", took[name] / theta)
    batch, memory = alone("large_batch")
    figures.check("112,000 queries with HC3 errors, 2 threads: seconds", batch, at_most(30), seed=SEED)
    figures.check("the same: peak memory, GiB", memory, at_most(2), seed=SEED)
    graph, memory = alone("large_graph")
    figures.check("100,000 items, 1,000,000 edges: seconds", graph, at_most(2), seed=SEED, detail=f"{memory:.2f} GiB, 1 thread")
    return figures.finish()


if __name__ == "__main__":
    sys.exit(main())
