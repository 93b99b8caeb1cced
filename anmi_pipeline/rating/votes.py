"""Scores from raw verdicts of unequal judges: `fit_votes`.

Belongs here: the entry point, the scores given the judges, what is reported per judge. Does not: comparisons already folded
(`fit.py`), the judges' likelihood (`judge_model.py`) and its maximum (`judge_fit.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from anmi_pipeline.errors import InputError, nearest
from anmi_pipeline.rating.graphs import Floats, GraphBatch, Ints, gauge, graph_batch, laplacians, refuse, summed
from anmi_pipeline.rating.judge_fit import Errors, JudgeFit, fit_judges
from anmi_pipeline.rating.judge_model import (
    MAX_DOCUMENTS,
    VOTE_MODELS,
    Expected,
    JudgeParameters,
    VoteModel,
    VoteStack,
    expected_derivatives,
    has_ties,
    vote_log_likelihood,
    vote_stacks,
)
from anmi_pipeline.rating.link_noise import LinkNoise, link_noise

SMALLEST_PRECISION = 1e-12
MAX_STEPS, SMALLEST_LENGTH = 100, 2.0**-40
FEWEST_PER_JUDGE = 1_000
MAX_JUDGES = 200


@dataclass(frozen=True)
class VotesFit:
    """Scores of Q queries and what is known about G judges.

    P(first preferred) = F(slope_g (theta_i - theta_j) + bias_g), F the link of the model; with ties `ties.log_probabilities`.

    Attributes:
        theta: (sum n,) scores, sum 0 per query, in units of the link at slope 1.
        std_error: (sum n,) posterior standard errors of these centred scores, the judges taken as known.
        converged: (Q,) whether the query's gradient is below the tolerance.
        grad_norm: (Q,) largest gradient component.
        log_likelihood: (Q,) of the verdicts, without the prior.
        slope: (G,) discrimination; their geometric mean, weighted by the verdicts they were estimated on, is 1.
        slope_error: (G,) its standard error; 0 with one judge.
        bias: (G,) position bias towards the document shown first, in units of the link.
        bias_error: (G,) its standard error.
        tie: (G,) threshold tau (thurstone_ties) or nu (davidson); zeros in models without ties.
        tie_error: (G,) its standard error.
        verdicts: (G,) verdicts per judge; a judge with none keeps the prior.
        noise: noise inside the link and attenuation per judge, for soft verdicts.
        theta_sd: standard deviation of theta over documents, as estimated beside the judges.
        errors: how slope_error, bias_error and tie_error were computed: `sandwich` over queries or `information`.
        judges_converged: whether the judges' parameters settled.
        rounds: steps taken for them.
        judged_on: verdicts that the judges' parameters were estimated on.
    """

    theta: Floats
    std_error: Floats
    converged: npt.NDArray[np.bool_]
    grad_norm: Floats
    log_likelihood: Floats
    slope: Floats
    slope_error: Floats
    bias: Floats
    bias_error: Floats
    tie: Floats
    tie_error: Floats
    verdicts: Ints
    noise: LinkNoise
    theta_sd: float
    errors: Errors
    judges_converged: bool
    rounds: int
    judged_on: int


def fit_votes(  # noqa: PLR0913  (one entry point on flat arrays)
    n_items: Ints,
    edge_ptr: Ints,
    i: npt.ArrayLike,
    j: npt.ArrayLike,
    p_first: npt.ArrayLike,
    judge: npt.ArrayLike,
    *,
    model: VoteModel = "thurstone",
    prior_precision: float = 0.05,
    prior_mean: Floats | None = None,
    tol: float = 1e-6,
    judge_tol: float = 0.01,
    max_verdicts: int | None = 50_000,
) -> VotesFit:
    """Fit the scores of every query with a discrimination and a position bias per judge, shared by all queries.

    Equation: the judges' parameters maximise the marginal likelihood of the verdicts, scores integrated out (`judge_fit`: joint
    maximisation is biased). Given them, theta maximises sum of log-likelihood - prior_precision / 2 |theta - prior_mean|^2 and is
    then shifted to sum 0 per query, as in `fit.fit_batch`.

    Args:
        n_items: (Q,) documents per query.
        edge_ptr: (Q + 1,) verdicts of query q are edge_ptr[q] to edge_ptr[q + 1].
        i: (E,) local index of the document shown first.
        j: (E,) local index of the document shown second.
        p_first: (E,) the verdict, P(first is more relevant), 0..1; exactly .5 is a tie in models with ties.
        judge: (E,) code of the judge, 0..G-1.
        model: thurstone, bradley_terry, thurstone_ties or davidson.
        prior_precision: precision of the Gaussian prior of the reported scores, at least 1e-12. The judges' parameters do not
            depend on it: their estimate uses a variance of theta that is estimated beside them.
        prior_mean: (sum n,) mean of the prior; 0 when absent.
        tol: largest gradient component of a query that counts as converged.
        judge_tol: largest last step of a judge's parameter, in standard errors.
        max_verdicts: the judges' parameters are estimated on whole queries, evenly spaced, with about this many verdicts, more
            where a judge would keep fewer than 1,000; None for all. Scores always use all verdicts.

    Raises:
        InputError: a verdict outside [0, 1] or not a number, a bad index, a document paired with itself, a negative judge code,
            or a setting out of range.
    """
    check_vote_settings(model, prior_precision, tol, judge_tol)
    batch, p, codes = checked_votes(n_items, edge_ptr, i, j, p_first, judge)
    mean = checked_prior(prior_mean, int(batch.offsets[-1]))
    count = int(codes.max(initial=0)) + 1
    sample = judge_sample(batch, codes, max_verdicts)
    stacks = vote_stacks(batch, p, codes, mean)
    part = stacks if sample.all() else vote_stacks(*restrict(batch, sample, p, codes, mean))
    judged = fit_judges(part, count, model, judge_tol)
    noise = link_noise(part, judged.judges, model)
    votes = np.bincount(codes, minlength=count)
    fit = assemble_votes(batch, stacks, judged, noise, votes, model, prior_precision, tol)
    return replace(fit, judged_on=sum(len(stack.p) for stack in part))


def check_vote_settings(model: str, precision: float, tol: float, judge_tol: float) -> None:
    """Refuse settings out of range."""
    if model not in VOTE_MODELS:
        raise InputError(f'vote model "{model}" does not exist.{nearest(model, VOTE_MODELS)}')
    if not SMALLEST_PRECISION <= precision < np.inf:
        raise InputError(f"prior_precision is {precision}; it must be at least {SMALLEST_PRECISION}.")
    for name, value in (("tol", tol), ("judge_tol", judge_tol)):
        if not 0 < value < np.inf:
            raise InputError(f"{name} is {value}; it must be a positive number.")


def checked_votes(
    n_items: Ints, edge_ptr: Ints, i: npt.ArrayLike, j: npt.ArrayLike, p_first: npt.ArrayLike, judge: npt.ArrayLike
) -> tuple[GraphBatch, Floats, Ints]:
    """The verdicts as a checked batch, their probabilities and judges."""
    batch = graph_batch(n_items, edge_ptr, i, j)
    p, codes = np.asarray(p_first, dtype=np.float64), np.asarray(judge, dtype=np.int64)
    if not len(p) == len(codes) == len(batch.i):
        raise InputError(f"p_first and judge have {len(p)} and {len(codes)} entries for {len(batch.i)} verdicts; give one each.")
    refuse(batch, ~((p >= 0) & (p <= 1)), "has a verdict outside 0..1", p)
    refuse(batch, codes < 0, "has a negative judge code", codes.astype(np.float64))
    if batch.n_items.max(initial=0) > MAX_DOCUMENTS:
        raise InputError(
            f"query {int(np.argmax(batch.n_items))} has {int(batch.n_items.max())} documents; fit_votes takes at most "
            f"{MAX_DOCUMENTS} per query. Fold the verdicts and use fit_batch."
        )
    if codes.max(initial=0) >= MAX_JUDGES:
        raise InputError(f"judge code {int(codes.max())} is too large: number the judges from 0, at most {MAX_JUDGES} of them.")
    return batch, p, codes


def checked_prior(prior_mean: Floats | None, total: int) -> Floats:
    """The prior mean as a flat array over documents."""
    mean = np.zeros(total) if prior_mean is None else np.asarray(prior_mean, dtype=np.float64)
    if mean.shape != (total,) or not np.isfinite(mean).all():
        raise InputError(f"prior_mean has shape {mean.shape} for {total} documents; give one finite number per document.")
    return mean


def judge_sample(batch: GraphBatch, codes: Ints, max_verdicts: int | None) -> npt.NDArray[np.bool_]:
    """(Q,) queries the judges' parameters are estimated on: evenly spaced, and enough of every judge."""
    queries, total = len(batch.n_items), len(codes)
    if max_verdicts is None or total <= max_verdicts:
        return np.ones(queries, dtype=np.bool_)
    keep = max(1, round(queries * max_verdicts / total))
    chosen = np.zeros(queries, dtype=np.bool_)
    chosen[np.linspace(0, queries - 1, keep).round().astype(np.int64)] = True
    for judge in np.unique(codes):
        own = np.bincount(batch.edge_query[codes == judge], minlength=queries)
        held = own[chosen].sum()
        rest = np.flatnonzero((own > 0) & ~chosen)
        needed = int(np.searchsorted(np.cumsum(own[rest]), FEWEST_PER_JUDGE - held)) + 1 if held < FEWEST_PER_JUDGE else 0
        chosen[rest[:needed]] = True
    return chosen


def restrict(
    batch: GraphBatch, queries: npt.NDArray[np.bool_], p: Floats, codes: Ints, mean: Floats
) -> tuple[GraphBatch, Floats, Ints, Floats]:
    """The chosen queries as a batch of their own."""
    edges, documents = queries[batch.edge_query], np.repeat(queries, batch.n_items)
    pointer = np.concatenate(([0], np.cumsum(np.diff(batch.edge_ptr)[queries]))).astype(np.int64)
    smaller = GraphBatch(batch.n_items[queries], pointer, batch.i[edges], batch.j[edges], batch.weight[edges])
    return smaller, p[edges], codes[edges], mean[documents]


@dataclass(frozen=True)
class Scores:
    """Scores of one stack: theta and error (B, n), gradient norm and log-likelihood (B,)."""

    theta: Floats
    error: Floats
    norm: Floats
    fitted: Floats


def assemble_votes(
    batch: GraphBatch,
    stacks: Sequence[VoteStack],
    judged: JudgeFit,
    noise: LinkNoise,
    votes: Ints,
    model: VoteModel,
    precision: float,
    tol: float,
) -> VotesFit:
    """Score every stack and put the pieces in their places."""
    documents, queries = int(batch.offsets[-1]), len(batch.n_items)
    theta, error, norm, fitted = np.zeros(documents), np.zeros(documents), np.zeros(queries), np.zeros(queries)
    # The dispersion serves the judges' parameters; scores count each verdict once, as `fit_batch` does.
    flat = replace(judged.judges, dispersion=np.ones_like(judged.judges.bias))
    for stack in stacks:
        piece = scores(stack, flat, model, precision, tol)
        theta[stack.block.documents], error[stack.block.documents] = piece.theta, piece.error
        norm[stack.block.queries], fitted[stack.block.queries] = piece.norm, piece.fitted
    judges = judged.judges
    tie = np.exp(judges.log_tie) if has_ties(model) else np.zeros_like(judges.bias)
    return VotesFit(
        theta=theta, std_error=error, converged=norm < tol, grad_norm=norm, log_likelihood=fitted,
        slope=judges.slope, slope_error=judged.slope_error, bias=judges.bias, bias_error=judged.bias_error,
        tie=tie, tie_error=tie * judged.log_tie_error, verdicts=votes, noise=noise,
        theta_sd=float(np.exp(-0.5 * judges.log_precision)), errors=judged.errors, judges_converged=judged.converged,
        rounds=judged.rounds, judged_on=int(votes.sum()),
    )  # fmt: skip


def scores(stack: VoteStack, judges: JudgeParameters, model: VoteModel, precision: float, tol: float) -> Scores:
    """Maximise the posterior of every query of a stack by damped Newton steps, the judges given; strictly concave."""
    theta = stack.prior_mean.copy()
    if not theta.shape[1]:
        return Scores(theta, theta, np.zeros(len(theta)), np.zeros(len(theta)))
    stuck = np.zeros(len(theta), dtype=np.bool_)
    for _ in range(MAX_STEPS):
        here = derivatives_at(stack, judges, model, theta)
        gradient = stack.incidence(here.d) - precision * (theta - stack.prior_mean)
        norm = np.abs(gradient).max(axis=1)
        open_queries = (norm >= tol) & ~stuck
        if not open_queries.any():
            break
        step = np.linalg.solve(information(stack, here, precision), gradient[:, :, None])[:, :, 0]
        length = line_search(stack, judges, model, precision, theta, step * open_queries[:, None], gradient)
        stuck |= open_queries & (length == 0)
        theta = theta + length[:, None] * step * open_queries[:, None]
    else:
        here = derivatives_at(stack, judges, model, theta)
        norm = np.abs(stack.incidence(here.d) - precision * (theta - stack.prior_mean)).max(axis=1)
    error = centred_error(stack, information(stack, here, precision), precision)
    fitted = summed(stack.slot, likelihood(stack, judges, model, theta), len(theta))
    return Scores(theta - theta.mean(axis=1, keepdims=True), error, norm, fitted)


def derivatives_at(stack: VoteStack, judges: JudgeParameters, model: VoteModel, theta: Floats) -> Expected:
    """Derivatives of every verdict at given scores."""
    d = stack.differences(theta)[None, :]
    return expected_derivatives(stack, judges, model, d, np.ones_like(d))


def likelihood(stack: VoteStack, judges: JudgeParameters, model: VoteModel, theta: Floats) -> Floats:
    """(e,) log-likelihood of each verdict."""
    eta = judges.slope[stack.judge] * stack.differences(theta) + judges.bias[stack.judge]
    return vote_log_likelihood(eta, stack, judges.log_tie, model)


def information(stack: VoteStack, here: Expected, precision: float) -> Floats:
    """(B, n, n) minus the Hessian plus the gauge of each component, which changes no difference within it."""
    count, n = stack.prior_mean.shape
    matrix = laplacians(n, count, stack.slot, stack.i, stack.j, -here.dd) + gauge(stack.labels)
    diagonal = np.arange(n)
    matrix[:, diagonal, diagonal] += precision
    return matrix


def line_search(
    stack: VoteStack,
    judges: JudgeParameters,
    model: VoteModel,
    precision: float,
    theta: Floats,
    step: Floats,
    gradient: Floats,
) -> Floats:
    """(B,) lengths, halved until the posterior rises (Armijo, c = 1e-4); 0 where rounding leaves no rise."""

    def objective(at: Floats) -> Floats:
        fitted = summed(stack.slot, likelihood(stack, judges, model, at), len(at))
        return fitted - 0.5 * precision * ((at - stack.prior_mean) ** 2).sum(axis=1)

    start, slope = objective(theta), np.maximum((gradient * step).sum(axis=1), 0.0)
    slack = 1e-13 * (1 + np.abs(start))  # near the optimum the gain drowns in the rounding of the sum
    length = np.ones(len(theta))
    while True:
        short = (objective(theta + length[:, None] * step) < start + 1e-4 * length * slope - slack) & (length > 0)
        if not short.any():
            return length
        length[short] *= 0.5
        length[length < SMALLEST_LENGTH] = 0.0


def centred_error(stack: VoteStack, matrix: Floats, precision: float) -> Floats:
    """(B, n) posterior standard errors of theta centred to sum 0 (equation: sqrt diag(P C P), C the Laplace covariance).

    Constants of a component carry no information, so C has the eigenvalue 1 / precision there; one document alone has nothing to
    be centred against and gets the prior's standard deviation.
    """
    count, n = stack.prior_mean.shape
    if n < 2:
        return np.full((count, n), precision**-0.5)
    own = np.diagonal(np.linalg.inv(matrix), axis1=1, axis2=2)
    sizes = (stack.labels[:, :, None] == stack.labels[:, None, :]).sum(axis=2)
    prior, gauged = 1 / precision, 1 / (1 + precision)
    variance = own + np.where(sizes == n, -gauged / n, (prior - gauged) / sizes - prior / n)
    return np.sqrt(np.maximum(variance, 0.0))
