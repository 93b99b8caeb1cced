"""The fit against its peers, in one process and run: python benchmarks/rating.py [--queries 400] [--json FILE].

Belongs here: the problems, the peers and the clock. Does not: bounds (`acceptance/3_1_speed.py`) and quality (`designs.py`).

One query: n = 100 documents, k = 6, 300 soft preferences on a union of cycles of its own. A peer fits query after query, from
flat arrays to an array of scores, whatever conversion it needs; ours takes the same queries in one call, one thread, everything
that `fit_batch` does included: input checks, components, separation, the gradient certified in float64. Medians over the repeats.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

SEED = 0
N, K = 100, 6
CODE = """
import resource, sys, time
sys.path.insert(0, {folder!r})
from rating import {name} as measured
print(measured({arguments}), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@dataclass(frozen=True)
class Problems:
    """Q queries on flat arrays."""

    n_items: np.ndarray
    edge_ptr: np.ndarray
    i: np.ndarray
    j: np.ndarray
    w: np.ndarray

    def one(self, query: int) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
        """Documents, ends and preferences of one query."""
        own = slice(int(self.edge_ptr[query]), int(self.edge_ptr[query + 1]))
        return int(self.n_items[query]), self.i[own], self.j[own], self.w[own]


def problems(queries: int, n: int = N, k: int = K, seed: int = SEED, graphs: int | None = None) -> Problems:
    """Draw queries: truth N(0, .8), w = Phi(difference + N(0, .5)); `graphs` distinct unions of cycles, else one a query."""
    from scipy.special import ndtr

    from anmi_pipeline.rating.designs import cycles

    rng = np.random.default_rng(seed)
    drawn = [cycles(n, k, rng).astype(np.int32) for _ in range(min(queries, graphs or queries))]
    size = len(drawn[0])
    i, j, w = np.empty(queries * size, np.int32), np.empty(queries * size, np.int32), np.empty(queries * size)
    for query in range(queries):
        own, truth = slice(query * size, (query + 1) * size), rng.normal(0, 0.8, n)
        i[own], j[own] = drawn[query % len(drawn)].T
        w[own] = ndtr(truth[i[own]] - truth[j[own]] + rng.normal(0, 0.5, size))
    return Problems(np.full(queries, n), np.arange(queries + 1, dtype=np.int64) * size, i, j, w)


def ours(kind: str) -> Callable[[Problems], None]:
    """`fit_batch` over all queries in one call, one thread."""

    def run(given: Problems) -> None:
        from anmi_pipeline.rating.fit import FitStatus, fit_batch

        flat = (given.n_items, given.edge_ptr, given.i, given.j, given.w)
        fit = fit_batch(*flat, std_error=kind, threads=1)  # pyright: ignore[reportArgumentType]
        if not (fit.status & FitStatus.CONVERGED).all() or fit.grad_norm.max() >= 1e-6:
            raise SystemExit("a query did not converge to a gradient below 1e-6")

    return run


def evalica_bradley_terry(n: int, i: np.ndarray, j: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Bradley-Terry of evalica; a soft preference is a win of weight w and a loss of weight 1 - w."""
    from evalica import Winner, bradley_terry

    size = len(i)
    winners = [Winner.X] * size + [Winner.Y] * size
    xs, ys = np.concatenate((i, i)).tolist(), np.concatenate((j, j)).tolist()
    found = bradley_terry(xs, ys, winners, weights=np.concatenate((w, 1 - w)).tolist(), tolerance=1e-6)
    return found.scores.sort_index().to_numpy()


def dense_newton(n: int, i: np.ndarray, j: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Probit MAP by dense Newton steps in NumPy, what one writes first."""
    from scipy.special import erfcx

    theta = np.zeros(n)
    for _ in range(50):
        d = theta[i] - theta[j]
        up, down = (2 / np.pi) ** 0.5 / erfcx(-d / 2**0.5), (2 / np.pi) ** 0.5 / erfcx(d / 2**0.5)
        slope, bend = w * up - (1 - w) * down, w * up * (up + d) + (1 - w) * down * (down - d)
        g = np.bincount(i, slope, n) - np.bincount(j, slope, n) - 0.05 * theta
        if np.abs(g).max() < 1e-6:
            break
        h = 0.05 * np.eye(n)
        np.add.at(h, (i, i), bend)
        np.add.at(h, (j, j), bend)
        np.add.at(h, (i, j), -bend)
        np.add.at(h, (j, i), -bend)
        theta = theta + np.linalg.solve(h, g)
    return theta


def scipy_lbfgs(n: int, i: np.ndarray, j: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Probit MAP by scipy's L-BFGS-B with the exact gradient."""
    from scipy.optimize import minimize
    from scipy.special import erfcx, log_ndtr

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        d = theta[i] - theta[j]
        value = -(w * log_ndtr(d) + (1 - w) * log_ndtr(-d)).sum() + 0.025 * theta @ theta
        slope = (2 / np.pi) ** 0.5 * (w / erfcx(-d / 2**0.5) - (1 - w) / erfcx(d / 2**0.5))
        return float(value), np.bincount(j, slope, n) - np.bincount(i, slope, n) + 0.05 * theta

    return minimize(loss, np.zeros(n), jac=True, method="L-BFGS-B", options={"gtol": 1e-6, "ftol": 0.0, "maxcor": 20}).x


def choix_ilsr(n: int, i: np.ndarray, j: np.ndarray, w: np.ndarray) -> np.ndarray:
    """I-LSR of choix on the matrix of soft wins."""
    from choix import ilsr_pairwise_dense

    matrix = np.zeros((n, n))
    np.add.at(matrix, (i, j), w)
    np.add.at(matrix, (j, i), 1 - w)
    return ilsr_pairwise_dense(matrix, alpha=1e-3, max_iter=1000)


def statsmodels_probit(n: int, i: np.ndarray, j: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Probit regression of statsmodels on the design matrix, the last document as reference; with Fisher standard errors."""
    import statsmodels.api as sm

    x = np.zeros((len(i), n))
    x[np.arange(len(i)), i] = 1.0
    x[np.arange(len(i)), j] = -1.0
    family = sm.families.Binomial(sm.families.links.Probit())
    return sm.GLM(w, x[:, :-1], family=family).fit().bse


PEERS: dict[str, Callable[[int, np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "evalica bradley_terry, conversion included": evalica_bradley_terry,
    "dense Newton, NumPy": dense_newton,
    "scipy L-BFGS-B, probit": scipy_lbfgs,
    "choix ilsr_pairwise_dense": choix_ilsr,
    "statsmodels GLM probit, Fisher errors": statsmodels_probit,
}
OURS = {f"fit_batch, {text}": kind for text, kind in (("theta", "none"), ("Fisher errors", "fisher"), ("HC3 errors", "hc3"))}


def seconds(run: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def per_query(queries: int, repeats: int) -> dict[str, float]:
    """Median microseconds a query of every solver on one thread; solvers take turns, so that a slow minute hits all."""
    from threadpoolctl import threadpool_limits

    # The peers' linear algebra would take every core, and is slower for it at this size.
    with threadpool_limits(1):
        return medians(queries, repeats)


def medians(queries: int, repeats: int) -> dict[str, float]:
    """Measure every solver in turns."""
    given = problems(queries)
    few = {name: 5 if "statsmodels" in name else 20 for name in PEERS}
    for name, kind in OURS.items():
        ours(kind)(problems(2))  # compile, or load what is compiled
        few[name] = queries
    for peer in PEERS.values():
        peer(*given.one(0))
    times: dict[str, list[float]] = {name: [] for name in (*OURS, *PEERS)}
    for turn in range(repeats):
        for name, kind in OURS.items():
            times[name].append(seconds(lambda kind=kind: ours(kind)(given)) / queries)
        for name, peer in PEERS.items():
            own = [given.one((turn * few[name] + q) % queries) for q in range(few[name])]
            times[name].append(seconds(lambda peer=peer, own=own: [peer(*one) for one in own]) / few[name])
    return {name: 1e6 * median(own) for name, own in times.items()}


def large_batch(queries: int = 112_000, threads: int = 2) -> float:
    """Seconds for many queries with HC3 errors."""
    from anmi_pipeline.rating.fit import fit_batch

    fit_batch(*vars(problems(2)).values(), std_error="hc3")
    given = problems(queries, graphs=200)
    return seconds(lambda: fit_batch(*vars(given).values(), std_error="hc3", threads=threads))


def large_graph(items: int = 100_000, edges: int = 1_000_000) -> float:
    """Seconds for the scores of one graph of random cycles."""
    from scipy.special import ndtr

    from anmi_pipeline.rating.fit import FitStatus, fit_batch

    fit_batch(*vars(problems(2)).values(), std_error="none")
    rng = np.random.default_rng(SEED)
    tours = [rng.permutation(items).astype(np.int32) for _ in range(edges // items)]
    i, j = np.concatenate(tours), np.concatenate([np.roll(tour, -1) for tour in tours])
    truth = rng.normal(0, 0.8, items)
    w = ndtr(truth[i] - truth[j] + rng.normal(0, 0.5, len(i)))
    started = time.perf_counter()
    fit = fit_batch(np.array([items]), np.array([0, len(i)]), i, j, w, std_error="none", threads=1)
    if not fit.status[0] & FitStatus.CONVERGED:
        raise SystemExit("the large graph did not converge")
    return time.perf_counter() - started


def sequential(games: int = 100_000) -> dict[str, float]:
    """Microseconds for 300 games of sequential Elo, ours and evalica's, on one list of hard outcomes."""
    from evalica import Winner, elo

    from anmi_pipeline.rating.sequential import sequential_elo

    rng = np.random.default_rng(SEED)
    i = rng.integers(0, N, games)
    j, won = (i + rng.integers(1, N, games)) % N, rng.random(games) < 0.5
    winners = [Winner.X if one else Winner.Y for one in won]
    xs, ys, soft = i.tolist(), j.tolist(), won.astype(float)
    sequential_elo(N, i[:2], j[:2], soft[:2])
    own = median(seconds(lambda: sequential_elo(N, i, j, soft)) for _ in range(5))
    peer = median(seconds(lambda: elo(xs, ys, winners)) for _ in range(5))
    return {"sequential Elo, 300 games": own * 3e8 / games, "evalica elo, 300 games": peer * 3e8 / games}


def alone(name: str, arguments: str = "") -> tuple[float, float]:
    """Run one of the large cases in a process of its own: its figure and its peak memory in GiB."""
    code = CODE.format(folder=str(Path(__file__).parent), name=name, arguments=arguments)
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    return float(found[0]), float(found[1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=400, help="queries per call of ours")
    parser.add_argument("--repeats", type=int, default=7, help="turns; the median counts")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    found: dict[str, float] = per_query(options.queries, options.repeats) | sequential()
    base = found["fit_batch, theta"]
    print(f"n = {N}, k = {K}, seed {SEED}, one thread; median of {options.repeats}\n")
    for name, value in found.items():
        print(f"{name:44s} {value:10.1f} us   {value / base:8.1f} x fit_batch, theta")
    batch, batch_memory = alone("large_batch")
    graph, graph_memory = alone("large_graph")
    print(f"\n112,000 queries with HC3 errors, 2 threads    {batch:6.1f} s, {batch_memory:.2f} GiB")
    print(f"100,000 items, 1,000,000 edges, 1 thread      {graph:6.2f} s, {graph_memory:.2f} GiB")
    print(f"peak memory of this process                   {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:6.2f} GiB")
    if options.json:
        more = {"batch_s": batch, "batch_gib": batch_memory, "graph_s": graph, "graph_gib": graph_memory}
        options.json.write_text(json.dumps(found | more, indent=1) + "\n")


if __name__ == "__main__":
    main()
