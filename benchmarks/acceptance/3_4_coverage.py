"""Issue 3: 95 % intervals from HC3 errors cover 93 to 97 % of the truth.

n = 100, prior .05, unions of cycles, truth N(0, .8) and N(0, 1.5), 2,000 queries a cell; theta centred. Votes: the mean of three
0/1 votes (k = 6, 8), and w = Phi(difference + N(0, .5)) (k = 6, 8, 20), which is measured against the attenuated truth theta /
sqrt(1.25): noise inside Phi is bias, that no error formula repairs; its slope is what `fit_votes` reports. Printed without a
bound: the same against the raw truth, one 0/1 vote, and the Fisher and dispersion errors. About two minutes.
"""

import sys

import numpy as np
from harness import Bound, Figures, arguments
from scipy.special import ndtr

from anmi_pipeline.rating.config import ErrorKind
from anmi_pipeline.rating.designs import cycles
from anmi_pipeline.rating.fit import fit_batch

SEED, QUERIES, N, NOISE = 0, 2_000, 100, 0.5
SPREADS = (0.8, 1.5)
BETWEEN = Bound(".93 to .97", lambda value: 0.93 <= value <= 0.97)
GRAPHS = 100
"""Distinct unions of cycles a cell: the queries take turns, the votes are their own."""


def votes(kind: str, d: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Preferences of pairs whose true difference is d."""
    if kind == "soft":
        return ndtr(d + rng.normal(0, NOISE, len(d)))
    return rng.binomial(3 if kind == "three" else 1, ndtr(d)) / (3 if kind == "three" else 1)


def cell(kind: str, k: int, spread: float, queries: int, error: ErrorKind) -> tuple[float, float]:
    """Share of documents whose interval covers the attenuated truth (soft votes) and the raw truth."""
    rng = np.random.default_rng([SEED, k, int(10 * spread), len(kind)])
    graphs = [cycles(N, k, rng) for _ in range(min(GRAPHS, queries))]
    edges = np.concatenate([graphs[q % len(graphs)] for q in range(queries)])
    size = len(graphs[0])
    truth = rng.normal(0, spread, (queries, N))
    truth -= truth.mean(axis=1, keepdims=True)
    base = np.repeat(np.arange(queries) * N, size)
    w = votes(kind, truth.ravel()[base + edges[:, 0]] - truth.ravel()[base + edges[:, 1]], rng)
    fit = fit_batch(
        np.full(queries, N), np.arange(queries + 1) * size, edges[:, 0], edges[:, 1], w, std_error=error, prior_precision=0.05
    )  # fmt: skip
    half = 1.959964 * (fit.std_error if fit.std_error is not None else np.zeros(len(fit.theta)))
    shrunk = truth.ravel() / (1 + NOISE**2) ** 0.5 if kind == "soft" else truth.ravel()
    return float((np.abs(fit.theta - shrunk) <= half).mean()), float((np.abs(fit.theta - truth.ravel()) <= half).mean())


def coverage(queries: int, figures: Figures) -> None:
    """Measure every cell."""
    for spread in SPREADS:
        for kind, degrees in (("three", (6, 8)), ("soft", (6, 8, 20))):
            for k in degrees:
                covered, raw = cell(kind, k, spread, queries, "hc3")
                others = ", ".join(
                    f"{error} {cell(kind, k, spread, queries, error)[0]:.3f}" for error in ("fisher", "dispersion")
                )
                detail = others + (f"; against the raw truth {raw:.3f}" if kind == "soft" else "")
                name = "mean of 3 votes" if kind == "three" else "soft votes, attenuated truth"
                figures.check(f"{name}, k {k}, truth N(0, {spread}): cover", covered, BETWEEN, seed=SEED, detail=detail)
        for k in (6, 8):
            figures.note(
                f"one 0/1 vote, k {k}, truth N(0, {spread}): cover", cell("one", k, spread, queries, "hc3")[0], seed=SEED
            )


def main() -> int:
    """Check at full size."""
    arguments(__doc__ or "")
    figures = Figures("3.4 coverage")
    coverage(QUERIES, figures)
    return figures.finish()


if __name__ == "__main__":
    sys.exit(main())
