"""Penalised maximum-likelihood scores of many queries at once: the one entry point `fit_batch`.

Belongs here: input checks, the parallel loop over stacks, the status of each query. Does not: frames and the Elo scale
(`elo.py`).
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntFlag
from os import cpu_count

import numpy as np
import numpy.typing as npt

from anmi_pipeline.errors import InputError, nearest
from anmi_pipeline.progress import Progress, silent
from anmi_pipeline.rating.config import ELO_SCALES, ErrorKind, Model
from anmi_pipeline.rating.graphs import Block, Floats, GraphBatch, Ints, graph_batch, graph_components, labels_per_query, refuse
from anmi_pipeline.rating.newton import Stack, centred_errors, solve

SMALLEST_PRECISION = 1e-12


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
class Request:
    """Everything one stack's fit needs to know beside its block."""

    batch: GraphBatch
    w: Floats
    prior_mean: Floats
    model: Model
    precision: float
    tolerance: float
    errors: bool


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
    std_error: ErrorKind = "fisher",
    tol: float = 1e-6,
    threads: int | None = None,
    progress: Progress = silent,
) -> RatingFit:
    """Fit the latent scores of every query.

    Equation: maximise sum over edges of weight * [w log F(d) + (1 - w) log F(-d)] - prior_precision / 2 * |theta - prior_mean|^2
    with d = theta_i - theta_j and F = Phi (Thurstone 1927, case V) or the logistic function (Bradley and Terry 1952). The result
    is then shifted to sum 0 per query. Standard errors: `newton.centred_errors`.

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
        std_error: `fisher` for posterior standard errors from the observed information, `none` to skip them.
        tol: largest gradient component that counts as converged.
        threads: worker threads, one per core when absent; the result has the same bits for any number.
        progress: told how many queries are done.

    Returns:
        The scores with a status per query; a query that does not converge is not an error.

    Raises:
        InputError: a preference outside [0, 1] or not a number, a bad index, a self-loop, a negative weight (query and edge are
            named), or a setting out of range.
    """
    check_settings(model, prior_precision, std_error, tol, threads)
    batch = graph_batch(n_items, edge_ptr, i, j, weight)
    preference = np.asarray(w, dtype=np.float64)
    if len(preference) != len(batch.i):
        raise InputError(f"w has {len(preference)} entries for {len(batch.i)} edges; give one preference per edge.")
    refuse(batch, ~((preference >= 0) & (preference <= 1)), "has a preference outside 0..1", preference)
    request = Request(batch, preference, checked_mean(prior_mean, batch), model, prior_precision, tol, std_error == "fisher")
    return assemble(request, threads or cpu_count() or 1, progress)


def check_settings(model: str, precision: float, std_error: str, tol: float, threads: int | None) -> None:
    """Refuse settings out of range."""
    if model not in ELO_SCALES:
        raise InputError(f'rating model "{model}" does not exist.{nearest(model, ELO_SCALES)}')
    if std_error not in ("none", "fisher"):
        raise InputError(f'standard errors of kind "{std_error}" do not exist.{nearest(std_error, ("none", "fisher"))}')
    if not SMALLEST_PRECISION <= precision < np.inf:
        raise InputError(
            f"prior_precision is {precision}; it must be at least {SMALLEST_PRECISION}: without a prior, undefeated documents "
            "have no finite score. Use 1e-6 for maximum likelihood in practice."
        )
    if not 0 < tol < np.inf:
        raise InputError(f"tol is {tol}; it must be a positive number.")
    if threads is not None and threads < 1:
        raise InputError(f"threads is {threads}; it must be 1 or more.")


def checked_mean(prior_mean: Floats | None, batch: GraphBatch) -> Floats:
    """The prior mean as a flat array over documents."""
    total = int(batch.offsets[-1])
    if prior_mean is None:
        return np.zeros(total)
    mean = np.asarray(prior_mean, dtype=np.float64)
    if mean.shape != (total,):
        raise InputError(f"prior_mean has shape {mean.shape} for {total} documents; give one number per document.")
    if not np.isfinite(mean).all():
        place = int(np.argmin(np.isfinite(mean)))
        query = int(np.searchsorted(batch.offsets, place, side="right")) - 1
        raise InputError(
            f"prior_mean of query {query}, document {place - int(batch.offsets[query])} is {mean[place]}; it must be finite."
        )
    return mean


def assemble(request: Request, threads: int, progress: Progress) -> RatingFit:
    """Fit all stacks, `threads` at a time, and put the pieces in their places."""
    batch = request.batch
    queries, documents = len(batch.n_items), int(batch.offsets[-1])
    theta, errors = np.zeros(documents), np.zeros(documents)
    iterations, norm, fitted = np.zeros(queries, dtype=np.int64), np.zeros(queries), np.zeros(queries)
    labels, done = batch.labels, 0  # computed once, before threads share the batch
    with ThreadPoolExecutor(max_workers=threads) as pool:
        for block, piece in pool.map(lambda block: (block, fit_block(request, block, labels)), batch.blocks()):
            theta[block.documents], errors[block.documents] = piece.theta, piece.errors
            iterations[block.queries], norm[block.queries], fitted[block.queries] = piece.iterations, piece.norm, piece.fitted
            done += len(block.queries)
            progress(done, queries, "queries")
    return RatingFit(
        theta, errors if request.errors else None, statuses(request, norm), batch.components, iterations, norm, fitted
    )


@dataclass(frozen=True)
class Piece:
    """The fit of one stack."""

    theta: Floats
    errors: Floats
    iterations: Ints
    norm: Floats
    fitted: Floats


def fit_block(request: Request, block: Block, labels: Ints) -> Piece:
    """Fit one stack of equally large queries."""
    batch, edges = request.batch, block.edges
    stack = Stack(
        block.slot, batch.i[edges], batch.j[edges], request.w[edges], batch.weight[edges],
        request.prior_mean[block.documents], labels[block.documents], request.precision, request.model,
    )  # fmt: skip
    solution = solve(stack, request.tolerance)
    theta = solution.theta
    errors = centred_errors(stack, theta) if request.errors else np.zeros_like(theta)
    centred = theta - theta.mean(axis=1, keepdims=True) if block.n else theta
    return Piece(centred, errors, solution.iterations, solution.gradient_norm, stack.log_likelihood(theta))


def statuses(request: Request, norm: Floats) -> Ints:
    """(Q,) flags of each query.

    Finite maximum likelihood exists within a component exactly when the digraph "beats with positive weight" is strongly
    connected there (Ford 1957), so separable = more strong components than components.
    """
    batch = request.batch
    won, lost = (batch.weight > 0) & (request.w > 0), (batch.weight > 0) & (request.w < 1)
    head = np.concatenate((batch.head[won], batch.tail[lost]))
    tail = np.concatenate((batch.tail[won], batch.head[lost]))
    strong = labels_per_query(graph_components(int(batch.offsets[-1]), head, tail, strong=True), batch.offsets)
    edges = np.bincount(batch.edge_query[batch.weight > 0], minlength=len(batch.n_items))
    flags = np.where(norm < request.tolerance, int(FitStatus.CONVERGED), 0)
    flags |= np.where(strong > batch.components, int(FitStatus.SEPARABLE), 0)
    flags |= np.where(batch.components > 1, int(FitStatus.DISCONNECTED), 0)
    flags |= np.where((batch.n_items < 2) | (edges == 0), int(FitStatus.TOO_FEW), 0)
    return flags.astype(np.int64)
