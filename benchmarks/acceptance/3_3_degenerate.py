"""Issue 3: every degenerate query gives finite scores with a status, or an error that names it; never equal scores in silence.

Undefeated, winless, all-ties, one-document, two-document and disconnected queries, with both links, all kinds of errors and
priors from 1e-9 to 1; then self-loops, NaN, preferences outside 0..1 and indices out of range. Beside it: what evalica's
Bradley-Terry does with the same undefeated and winless documents. Seconds.
"""

import sys
from dataclasses import dataclass

import numpy as np
from harness import Figures, arguments, exactly

from anmi_pipeline.errors import InputError
from anmi_pipeline.rating.config import ErrorKind, Model
from anmi_pipeline.rating.designs import cycles
from anmi_pipeline.rating.fit import FitStatus, RatingFit, fit_batch

SEED = 0
MODELS: tuple[Model, ...] = ("thurstone", "bradley_terry")
KINDS: tuple[ErrorKind, ...] = ("fisher", "dispersion", "hc3")
PRECISIONS = (1e-9, 1e-3, 0.05, 1.0)
FINE, APART, SPLIT, FEW = FitStatus.CONVERGED, FitStatus.SEPARABLE, FitStatus.DISCONNECTED, FitStatus.TOO_FEW


@dataclass(frozen=True)
class Case:
    """One query: documents, edges (i, j, w), the status it must get, and the order its scores must have (best first)."""

    name: str
    n: int
    edges: list[tuple[int, int, float]]
    status: FitStatus
    order: tuple[int, ...] = ()


CASES = (
    Case("no document", 0, [], FINE | FEW),
    Case("one document", 1, [], FINE | FEW),
    Case("documents nobody compared", 4, [], FINE | FEW | SPLIT),
    Case("two documents, one wins", 2, [(0, 1, 1.0)], FINE | APART, (0, 1)),
    Case("two documents, a tie", 2, [(0, 1, 0.5)], FINE),
    Case("all ties", 4, [(0, 1, 0.5), (1, 2, 0.5), (2, 3, 0.5), (0, 3, 0.5)], FINE),
    Case("an undefeated document", 4, [(0, 1, 1.0), (0, 2, 1.0), (1, 2, 0.6), (2, 3, 0.6), (3, 1, 0.6)], FINE | APART, (0, 1)),
    Case("a winless document", 4, [(0, 3, 1.0), (1, 3, 1.0), (0, 1, 0.6), (1, 2, 0.6), (2, 0, 0.6)], FINE | APART, (0, 3)),
    Case("a chain of wins", 4, [(0, 1, 1.0), (1, 2, 1.0), (2, 3, 1.0)], FINE | APART, (0, 1, 2, 3)),
    Case("two components", 5, [(0, 1, 0.7), (2, 3, 0.7), (3, 4, 0.7)], FINE | SPLIT, (2, 3, 4)),
    Case("two components, one separable", 4, [(0, 1, 1.0), (2, 3, 0.7)], FINE | SPLIT | APART, (0, 1)),
    Case("a repeated pair", 2, [(0, 1, 1.0), (1, 0, 1.0), (0, 1, 1.0)], FINE, (0, 1)),
)
BAD: dict[str, tuple[dict[str, list[float]], str]] = {
    "self-loop": ({"j": [1, 1]}, "compares a document with itself"),
    "NaN preference": ({"w": [0.5, float("nan")]}, "outside 0..1: nan"),
    "preference above 1": ({"w": [1.01, 0.5]}, "outside 0..1: 1.01"),
    "preference below 0": ({"w": [0.5, -0.01]}, "outside 0..1: -0.01"),
    "index out of range": ({"j": [1, 3]}, "names a document outside its query"),
    "negative index": ({"i": [-1, 1]}, "names a document outside its query"),
    "huge index": ({"i": [2**33, 1]}, "names a document outside its query"),
    "negative weight": ({"weight": [1.0, -1.0]}, "negative or not finite: -1.0"),
    "infinite weight": ({"weight": [float("inf"), 1.0]}, "negative or not finite: inf"),
    "NaN prior mean": ({"prior_mean": [0.0, 0.0, float("nan"), 0.0, 0.0]}, "query 1, document 0 is nan"),
}


def fit_cases(model: Model, kind: ErrorKind, precision: float) -> RatingFit:
    """Fit all cases in one call."""
    edges = np.array([edge for case in CASES for edge in case.edges])
    pointer = np.cumsum([0, *(len(case.edges) for case in CASES)])
    return fit_batch(
        np.array([case.n for case in CASES]), pointer, edges[:, 0].astype(int), edges[:, 1].astype(int), edges[:, 2],
        model=model, std_error=kind, prior_precision=precision,
    )  # fmt: skip


def wrong_cases(fit: RatingFit) -> list[str]:
    """Cases whose scores are not finite, whose errors are not positive, whose status or order is wrong."""
    offsets = np.cumsum([0, *(case.n for case in CASES)])
    wrong: list[str] = []
    for number, case in enumerate(CASES):
        own = slice(offsets[number], offsets[number + 1])
        theta, errors = fit.theta[own], np.zeros(0) if fit.std_error is None else fit.std_error[own]
        right = np.isfinite(theta).all() and np.isfinite(errors).all() and (errors > 0).all() and len(errors) == case.n
        right = right and int(fit.status[number]) == int(case.status) and (np.diff(theta[list(case.order)]) < 0).all()
        if not right:
            wrong.append(
                f"{case.name}: theta {theta.round(3)}, errors {errors.round(3)}, {FitStatus(int(fit.status[number])).text()}"
            )
    return wrong


def refused(change: dict[str, list[float]], text: str) -> bool:
    """Whether bad input raises the error that names it."""
    given: dict[str, list[float]] = {"i": [0, 1], "j": [1, 2], "w": [0.5, 0.5]} | change
    arrays = {name: np.array(value) for name, value in given.items()}
    try:
        fit_batch(np.array([2, 3]), np.array([0, 1, 2]), **arrays)
    except InputError as error:
        return text in str(error) and "query" in str(error)
    return False


def separated(queries: int, figures: Figures) -> None:
    """Queries as they come, three hard votes a pair: nobody may get equal scores in silence; evalica's answer beside ours."""
    from evalica import Winner, bradley_terry

    rng = np.random.default_rng(SEED)
    flat = ours_flat = flagged = 0
    for _ in range(queries):
        edges, truth = cycles(100, 8, rng), rng.normal(0, 1, 100)
        wins = rng.binomial(3, 1 / (1 + np.exp(truth[edges[:, 1]] - truth[edges[:, 0]])))
        w = (wins >= 2).astype(float)
        fit = fit_batch(np.array([100]), np.array([0, len(edges)]), edges[:, 0], edges[:, 1], w)
        ours_flat += bool(fit.theta.std() < 0.1)
        flagged += bool(fit.status[0] & FitStatus.SEPARABLE)
        winners = [Winner.X if one else Winner.Y for one in w]
        flat += bool(bradley_terry(edges[:, 0].tolist(), edges[:, 1].tolist(), winners).scores.std() < 1e-3)
    figures.check(f"of {queries} queries of majority votes: flat scores of ours", ours_flat, exactly(0), seed=SEED)
    figures.note("the same queries: flagged separable", flagged, seed=SEED)
    figures.note("the same queries: flat scores of evalica's bradley_terry, without a word", flat, seed=SEED)


def main() -> int:
    """Check all."""
    arguments(__doc__ or "")
    figures = Figures("3.3 degenerate")
    wrong = [
        f"{model}, {kind}, prior {precision:g}: {text}"
        for model in MODELS for kind in KINDS for precision in PRECISIONS
        for text in wrong_cases(fit_cases(model, kind, precision))
    ]  # fmt: skip
    total = len(CASES) * len(MODELS) * len(KINDS) * len(PRECISIONS)
    figures.check(
        f"of {total} degenerate fits: not finite, or with a wrong status or order",
        len(wrong),
        exactly(0),
        detail="; ".join(wrong[:4]),
    )
    for name, (change, text) in BAD.items():
        figures.claim(f"{name}: one error that names query and edge", refused(change, text))
    separated(200, figures)
    return figures.finish()


if __name__ == "__main__":
    sys.exit(main())
