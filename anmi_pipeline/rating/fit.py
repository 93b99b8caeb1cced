"""Penalised maximum-likelihood scores of many queries at once: the one entry point `fit_batch`.

Belongs here: input checks, the parallel loop over blocks of queries, the status of each query. Does not: the compiled loops
(`kernels/`), frames and the Elo scale (`elo.py`).
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntFlag
from os import cpu_count
from typing import get_args

import numpy as np
import numpy.typing as npt

from anmi_pipeline.errors import InputError, nearest
from anmi_pipeline.progress import Progress, silent
from anmi_pipeline.rating.config import ELO_SCALES, ErrorKind, Model
from anmi_pipeline.rating.graphs import Bools, Floats, Ints, check_shapes
from anmi_pipeline.rating.probing import DENSE_ITEMS, LargeGraph, probed_errors

SMALLEST_PRECISION = 1e-12

BLOCK_SIZE = 1 << 15
"""Documents and edges of one block of queries: few enough for the caches, enough to hide Python's share of the work."""

ERROR_KINDS: tuple[ErrorKind, ...] = get_args(ErrorKind)


class FitStatus(IntFlag):
    """What is known about one query's fit; flags combine.

    `converged`: the gradient is below the tolerance. `separable`: no finite maximum-likelihood score exists, the prior holds the
    scores. `disconnected`: several components, scores compare only within one. `too_few`: fewer than two documents or no
    comparison, the scores are the prior.
    """

    CONVERGED = 1
    SEPARABLE = 2
    DISCONNECTED = 4
    TOO_FEW = 8

    def text(self) -> str:
        """Flags joined by '+', as `tables.ELO` stores them.

        >>> (FitStatus.CONVERGED | FitStatus.DISCONNECTED).text()
        'converged+disconnected'
        """
        return "+".join(str(flag.name).lower() for flag in FitStatus if flag in self) or "not_converged"


@dataclass(frozen=True)
class RatingFit:
    """Scores of a batch of Q queries.

    Attributes:
        theta: (sum n,) scores, sum 0 per query, in units of the link.
        std_error: (sum n,) standard errors of these centred scores; None when not asked for.
        status: (Q,) `FitStatus` flags as integers.
        components: (Q,) connected components.
        iterations: (Q,) Newton steps.
        grad_norm: (Q,) largest gradient component at the result, float64.
        log_likelihood: (Q,) of the preferences, without the prior.
    """

    theta: Floats
    std_error: Floats | None
    status: Ints
    components: Ints
    iterations: Ints
    grad_norm: Floats
    log_likelihood: Floats


@dataclass(frozen=True)
class Problem:
    """Checked input of Q queries: everything the compiled loops read.

    Attributes:
        n_items: (Q,) documents per query.
        offsets: (Q + 1,) first document of each query in flat arrays.
        edge_ptr: (Q + 1,) first edge of each query.
        i: (E,) first document; unsigned, so that compiled code does not test for negative indices.
        j: (E,) second document.
        w: (E,) preference for i.
        weight: (E,) evidence; `w` itself when unweighted.
        weighted: whether there are weights.
    """

    n_items: Ints
    offsets: Ints
    edge_ptr: Ints
    i: npt.NDArray[np.uint32]
    j: npt.NDArray[np.uint32]
    w: Floats
    weight: Floats
    weighted: bool

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Cut the queries into runs first..last - 1; the cut depends on the sizes alone."""
        size = np.maximum(np.diff(self.edge_ptr), self.n_items)
        first, total = 0, 0
        for query, own in enumerate(size.tolist()):
            # A graph too large for a dense matrix stands alone.
            if query > first and (total + own > BLOCK_SIZE or self.n_items[first : query + 1].max() > DENSE_ITEMS):
                yield first, query
                first, total = query, 0
            total += own
        if first < len(size):
            yield first, len(size)


@dataclass(frozen=True)
class Settings:
    """How to fit: link, prior, errors wanted, tolerance and starting scores."""

    model: Model
    precision: float
    std_error: ErrorKind
    tolerance: float
    prior_mean: Floats | None
    start: Floats | None


def fit_batch(  # noqa: PLR0913  (one entry point on flat arrays)
    n_items: Ints,
    edge_ptr: Ints,
    i: npt.ArrayLike,
    j: npt.ArrayLike,
    w: npt.ArrayLike,
    *,
    weight: Floats | None = None,
    model: Model = "thurstone",
    prior_precision: float = 0.05,
    prior_mean: Floats | None = None,
    std_error: ErrorKind = "hc3",
    tol: float = 1e-6,
    threads: int | None = None,
    start: Floats | None = None,
    progress: Progress = silent,
) -> RatingFit:
    """Fit the latent scores of every query.

    Equation: maximise sum over edges of weight * [w log F(d) + (1 - w) log F(-d)] - prior_precision / 2 * |theta - prior_mean|^2
    with d = theta_i - theta_j and F = Phi (Thurstone 1927, case V) or the logistic function (Bradley and Terry 1952). The result
    is then shifted to sum 0 per query. Standard errors: `kernels.errors.standard_errors`; beyond `probing.DENSE_ITEMS` documents
    they are estimated by random probes (`probing.py`).

    Args:
        n_items: (Q,) documents per query.
        edge_ptr: (Q + 1,) edges of query q are edge_ptr[q] to edge_ptr[q + 1].
        i: (E,) local index of the first document.
        j: (E,) local index of the second document.
        w: (E,) preference for i, 0..1.
        weight: (E,) evidence, in verdicts; 1 each when absent.
        model: the link F.
        prior_precision: precision of the Gaussian prior, at least 1e-12.
        prior_mean: (sum n,) mean of the prior; 0 when absent.
        std_error: `hc3` for the sandwich that covers whatever the noise of the preferences, `dispersion` for posterior errors
            scaled by the Pearson dispersion, `fisher` for plain posterior errors (right for single 0/1 verdicts only), `none`.
        tol: largest gradient component that counts as converged.
        threads: worker threads, one per core when absent; the result has the same bits for any number.
        start: (sum n,) scores to start from, as after a small change of the comparisons; a least-squares start when absent.
        progress: told how many queries are done.

    Returns:
        The scores with a status per query; a query that does not converge is not an error.

    Raises:
        InputError: a preference outside [0, 1] or not a number, a bad index, a self-loop, a negative weight (query and edge are
            named), or a setting out of range.
    """
    check_settings(model, prior_precision, std_error, tol, threads)
    problem = checked_problem(n_items, edge_ptr, i, j, w, weight)
    mean, begin = (checked_scores(name, given, problem) for name, given in (("prior_mean", prior_mean), ("start", start)))
    wanted = Settings(model, prior_precision, std_error, tol, mean, begin)
    return fitted(problem, wanted, threads or cpu_count() or 1, progress)


def check_settings(model: str, precision: float, std_error: str, tol: float, threads: int | None) -> None:
    """Refuse settings out of range."""
    if model not in ELO_SCALES:
        raise InputError(f'rating model "{model}" does not exist.{nearest(model, ELO_SCALES)}')
    if std_error not in ERROR_KINDS:
        raise InputError(f'standard errors of kind "{std_error}" do not exist.{nearest(std_error, ERROR_KINDS)}')
    if not SMALLEST_PRECISION <= precision < np.inf:
        raise InputError(
            f"prior_precision is {precision}; it must be at least {SMALLEST_PRECISION}: without a prior, undefeated documents "
            "have no finite score. Use 1e-6 for maximum likelihood in practice."
        )
    if not 0 < tol < np.inf:
        raise InputError(f"tol is {tol}; it must be a positive number.")
    if threads is not None and threads < 1:
        raise InputError(f"threads is {threads}; it must be 1 or more.")


def checked_problem(
    n_items: Ints, edge_ptr: Ints, i: npt.ArrayLike, j: npt.ArrayLike, w: npt.ArrayLike, weight: Floats | None
) -> Problem:
    """Check flat arrays and lay them out for the compiled loops; nothing that already fits is copied."""
    sizes, pointer = np.ascontiguousarray(n_items, dtype=np.int64), np.ascontiguousarray(edge_ptr, dtype=np.int64)
    head, tail = indices("i", i), indices("j", j)
    preference = np.ascontiguousarray(w, dtype=np.float64)
    evidence = preference if weight is None else np.ascontiguousarray(weight, dtype=np.float64)
    if len(preference) != len(head):
        raise InputError(f"w has {len(preference)} entries for {len(head)} edges; give one preference per edge.")
    check_shapes(sizes, pointer, len(head), len(tail), len(evidence))
    offsets = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(sizes)))
    problem = Problem(
        sizes, offsets, pointer, head.view(np.uint32), tail.view(np.uint32), preference, evidence, weight is not None
    )  # fmt: skip
    refuse_bad_edge(problem, head, tail)
    return problem


def indices(name: str, values: npt.ArrayLike) -> npt.NDArray[np.int32]:
    """Document indices as int32; one too large for it is out of range whatever the query."""
    given = np.asarray(values)
    if given.size and given.dtype.kind not in "iu":
        raise InputError(f"{name} holds values of type {given.dtype}; document indices are integers.")
    if given.dtype == np.int32:
        return np.ascontiguousarray(given)
    limit = np.iinfo(np.int32).max
    return np.ascontiguousarray(np.clip(given, -1, limit), dtype=np.int32)


def refuse_bad_edge(problem: Problem, head: npt.NDArray[np.int32], tail: npt.NDArray[np.int32]) -> None:
    """Raise an InputError that names the first edge no fit can use."""
    from anmi_pipeline.rating.kernels import graph

    sizes, pointer, w = problem.n_items, problem.edge_ptr, problem.w
    edge, wrong = graph.first_bad_edge(0, len(sizes), sizes, pointer, head, tail, w, problem.weight, problem.weighted)
    if wrong == graph.GOOD:
        return
    query = int(np.searchsorted(pointer, edge, side="right")) - 1
    complaint = {
        graph.BAD_INDEX: "names a document outside its query",
        graph.SELF_LOOP: "compares a document with itself",
        graph.BAD_WEIGHT: f"has a weight that is negative or not finite: {problem.weight[edge]}",
        graph.BAD_PREFERENCE: f"has a preference outside 0..1: {w[edge]}",
    }[wrong]
    raise InputError(
        f"query {query} ({int(sizes[query])} documents), edge {edge - int(pointer[query])} (i={int(head[edge])}, "
        f"j={int(tail[edge])}) {complaint}. Correct the comparisons."
    )


def checked_scores(name: str, scores: Floats | None, problem: Problem) -> Floats | None:
    """A flat array with one finite number per document, or None."""
    if scores is None:
        return None
    total, given = int(problem.offsets[-1]), np.ascontiguousarray(scores, dtype=np.float64)
    if given.shape != (total,):
        raise InputError(f"{name} has shape {given.shape} for {total} documents; give one number per document.")
    if not np.isfinite(given).all():
        place = int(np.argmin(np.isfinite(given)))
        query = int(np.searchsorted(problem.offsets, place, side="right")) - 1
        raise InputError(
            f"{name} of query {query}, document {place - int(problem.offsets[query])} is {given[place]}; it must be finite."
        )
    return given


def fitted(problem: Problem, settings: Settings, threads: int, progress: Progress) -> RatingFit:
    """Fit all blocks, `threads` at a time; every query is solved alone, so neither threads nor blocks change a bit."""
    queries, documents = len(problem.n_items), int(problem.offsets[-1])
    fit = RatingFit(
        np.zeros(documents), None if settings.std_error == "none" else np.zeros(documents), np.zeros(queries, dtype=np.int64),
        np.zeros(queries, dtype=np.int64), np.zeros(queries, dtype=np.int64), np.zeros(queries), np.zeros(queries),
    )  # fmt: skip
    separable = np.zeros(queries, dtype=np.bool_)
    done = 0
    with ThreadPoolExecutor(max_workers=threads) as pool:
        for count in pool.map(lambda block: fit_block(problem, settings, fit, separable, *block), problem.blocks()):
            done += count
            progress(done, queries, "queries")
    fit.status[:] = statuses(problem, settings, fit, separable)
    return fit


def fit_block(problem: Problem, settings: Settings, fit: RatingFit, separable: Bools, first: int, last: int) -> int:
    """Fit queries first..last - 1 into their places in `fit`; returns their number."""
    from anmi_pipeline.rating.kernels.errors import DISPERSION, FISHER, HC3, standard_errors
    from anmi_pipeline.rating.kernels.graph import survey
    from anmi_pipeline.rating.kernels.newton import solve

    none = np.empty(0)
    sizes, offsets, pointer, i, j = problem.n_items, problem.offsets, problem.edge_ptr, problem.i, problem.j
    evidence = (problem.w, problem.weight, problem.weighted)
    documents, edges = int(offsets[last] - offsets[first]), int(pointer[last] - pointer[first])
    rows, columns = np.empty(documents + last - first, np.uint32), np.empty(2 * edges, np.uint32)
    places, labels = np.empty(2 * edges, np.uint32), np.empty(documents, np.int32)
    survey(first, last, sizes, pointer, i, j, *evidence, rows, columns, places, labels, fit.components, separable)
    slope, curvature = np.empty(edges), np.empty(edges)
    pearson = np.empty(edges) if settings.std_error == "dispersion" else none
    mean, start = settings.prior_mean, settings.start
    solve(
        first, last, sizes, offsets, pointer, i, j, *evidence, rows, columns, places, labels, fit.components,
        none if mean is None else mean, mean is not None, none if start is None else start, start is not None,
        settings.precision, settings.model == "thurstone", settings.tolerance, fit.theta, slope, curvature, pearson,
        fit.iterations, fit.grad_norm, fit.log_likelihood,
    )  # fmt: skip
    if fit.std_error is None:
        return last - first
    if last - first == 1 and documents > DENSE_ITEMS:
        ends = (i[pointer[first] : pointer[last]].astype(np.int64), j[pointer[first] : pointer[last]].astype(np.int64))
        graph = LargeGraph(*ends, slope, curvature, labels.astype(np.int64), settings.precision)
        fit.std_error[offsets[first] : offsets[last]] = probed_errors(graph, pearson, settings.std_error)
    else:
        kind = {"fisher": FISHER, "dispersion": DISPERSION, "hc3": HC3}[settings.std_error]
        standard_errors(
            first, last, sizes, offsets, pointer, i, j, labels, fit.components, settings.precision, kind, slope, curvature,
            pearson, fit.std_error,
        )  # fmt: skip
    return last - first


def statuses(problem: Problem, settings: Settings, fit: RatingFit, separable: Bools) -> Ints:
    """(Q,) flags of each query."""
    edges = np.diff(problem.edge_ptr)
    if problem.weighted:
        live = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(problem.weight > 0)))
        edges = live[problem.edge_ptr[1:]] - live[problem.edge_ptr[:-1]]
    flags = np.where(fit.grad_norm < settings.tolerance, int(FitStatus.CONVERGED), 0)
    flags |= np.where(separable, int(FitStatus.SEPARABLE), 0)
    flags |= np.where(fit.components > 1, int(FitStatus.DISCONNECTED), 0)
    flags |= np.where((problem.n_items < 2) | (edges == 0), int(FitStatus.TOO_FEW), 0)
    return flags.astype(np.int64)
