"""Which link the verdicts themselves support: held-out log-loss and reliability of four models.

Belongs here: folds over verdicts, predictions of verdicts that were held out, the comparison of models. Does not: the models
(`judge_model.py`, `judge_fit.py`) and the fit that becomes the Elo table (`elo.py`).
"""

from dataclasses import asdict, dataclass

import numpy as np
import polars as pl
from pydantic import Field

from anmi_pipeline.errors import InputError
from anmi_pipeline.progress import Progress, silent
from anmi_pipeline.rating.comparisons import VERDICT
from anmi_pipeline.rating.graphs import Bools, Floats, GraphBatch, Ints, graph_batch, summed
from anmi_pipeline.rating.judge_fit import JudgeFit, fit_judges
from anmi_pipeline.rating.judge_model import (
    MAX_DOCUMENTS,
    VOTE_MODELS,
    JudgeParameters,
    VoteModel,
    VoteStack,
    has_ties,
    predicted_outcomes,
    vote_stacks,
)
from anmi_pipeline.rating.ties import Outcomes, outcome_masses
from anmi_pipeline.settings import Config

NEVER_HELD_OUT = -1
SMALLEST_PROBABILITY = 1e-12
BINS = 10
Z95 = 1.96

SELECTION_SCHEMA: dict[str, pl.DataType] = {
    "model": pl.String(), "log_loss": pl.Float64(), "brier": pl.Float64(), "ece": pl.Float64(), "difference": pl.Float64(),
    "difference_error": pl.Float64(), "best": pl.Boolean(), "indistinguishable": pl.Boolean(), "outcome_log_loss": pl.Float64(),
}  # fmt: skip


class SelectionConfig(Config):
    """How much evidence the choice of the model rests on."""

    folds: int = Field(
        default=5, ge=2, le=20, description="parts the pairs of each query are cut into; each is predicted from the others"
    )
    max_queries: int = Field(
        default=200, ge=1, description="queries the models are compared on, drawn by seed when there are more"
    )
    seed: int = Field(default=0, ge=0, description="seed of the sample of queries and of the folds")
    tolerance: float = Field(default=0.1, gt=0, description="largest last step of a judge's parameter, in standard errors")


@dataclass(frozen=True)
class Reliability:
    """One bin of predictions: mean prediction, mean verdict, number of verdicts."""

    predicted: float
    observed: float
    verdicts: int


@dataclass(frozen=True)
class ModelEvidence:
    """How one model predicts verdicts that it has not seen.

    Attributes:
        model: its name.
        log_loss: mean cross-entropy of the verdict with the predicted P(win) + P(tie) / 2, nats per verdict; the common scale.
        brier: mean squared error of the same prediction.
        ece: expected calibration error of it, ten bins of equal width weighted by verdicts.
        difference: log_loss minus the best model's.
        difference_error: its standard error, paired by verdict and clustered by query.
        outcome_log_loss: mean log-loss of win, tie and loss (`ties.outcome_masses`); None for models without ties.
        reliability: the bins, from low to high predictions.
    """

    model: VoteModel
    log_loss: float
    brier: float
    ece: float
    difference: float
    difference_error: float
    outcome_log_loss: float | None
    reliability: list[Reliability]


@dataclass(frozen=True)
class SelectionReport:
    """Which model the held-out verdicts support.

    Attributes:
        best: lowest held-out log-loss; None when nothing could be held out.
        indistinguishable: models, the best among them, whose log-loss is within 1.96 standard errors of the best.
        reason: what was left out or could not be done, and why; empty when nothing.
        queries: queries compared on.
        queries_available: queries with verdicts.
        verdicts: verdicts of these queries.
        held_out: verdicts that were predicted.
        tied_share: share of verdicts that are exactly .5.
        folds: parts.
        seed: seed of sample and folds.
        models: evidence per model, best first.
    """

    best: VoteModel | None
    indistinguishable: list[VoteModel]
    reason: str
    queries: int
    queries_available: int
    verdicts: int
    held_out: int
    tied_share: float
    folds: int
    seed: int
    models: list[ModelEvidence]

    def facts(self) -> dict[str, object]:
        """The report as plain values that JSON can hold."""
        return asdict(self)


@dataclass(frozen=True)
class Votes:
    """Verdicts on flat arrays, sorted by query."""

    batch: GraphBatch
    p: Floats
    judge: Ints
    n_judges: int


def select_model(
    judgments: pl.DataFrame, documents: pl.DataFrame, config: SelectionConfig, progress: Progress = silent
) -> tuple[pl.DataFrame, SelectionReport]:
    """Compare the four models by the verdicts they have not seen.

    The pairs of each query are cut into folds (`verdict_folds`). Each model is fitted without a fold, judges and ties included,
    and predicts its verdicts with what it does not know integrated out, so that no link gains from overconfident scores.
    Comparisons out of rankings are left out: one that is held out follows from those that are not. A report on at most
    `max_queries` queries with at most 2,000 documents each, drawn by seed, so that equal inputs give equal bytes.

    Args:
        judgments: `tables.JUDGMENTS`.
        documents: query_id, doc_id of every document that was or could have been compared.
        config: folds, sample, seed.
        progress: told how many fits are done.

    Returns:
        One row per model (SELECTION_SCHEMA), best first, and the report.

    Raises:
        InputError: a verdict names a document outside `documents` or is no probability.
    """
    rng = np.random.default_rng(config.seed)
    answered = judgments.filter(pl.col("status") == "ok").sort(VERDICT)
    rows = answered.filter(pl.col("list") == 0)
    rankings = answered.height - rows.height
    large = documents.group_by("query_id").agg(pl.col("doc_id").n_unique()).filter(pl.col("doc_id") > MAX_DOCUMENTS)
    rows = rows.join(large, on="query_id", how="anti", maintain_order="left")
    names = rows["query_id"].unique().sort()
    available = len(names)
    if available > config.max_queries:
        names = names.gather(np.sort(rng.choice(available, config.max_queries, replace=False)))
        rows = rows.filter(pl.col("query_id").is_in(names.to_list()))
    votes = flat_votes(rows, documents.filter(pl.col("query_id").is_in(names.to_list())))
    folds = verdict_folds(votes.batch, config.folds, rng)
    tied = float(np.mean(votes.p == 0.5)) if len(votes.p) else 0.0
    models: list[VoteModel] = [model for model in VOTE_MODELS if tied > 0 or not has_ties(model)]
    reason = "" if tied > 0 else "no verdict is a tie, so the ties models equal the models without and are left out"
    held = int((folds != NEVER_HELD_OUT).sum())
    evidence: list[ModelEvidence] = []
    if held:
        losses: dict[VoteModel, HeldOut] = {}
        for place, model in enumerate(models):
            losses[model] = held_out_losses(votes, folds, model, config, progress, (place, len(models)))
        evidence = compared(losses, votes, folds)
    else:
        reason = "no pair can be held out without leaving a document without evidence"
    if rankings:
        reason = "; ".join(filter(None, (reason, f"{rankings} comparisons out of rankings are left out")))
    report = SelectionReport(
        best=evidence[0].model if evidence else None,
        indistinguishable=[e.model for e in evidence if e.difference <= Z95 * e.difference_error],
        reason=reason, queries=len(names), queries_available=available, verdicts=len(votes.p), held_out=held,
        tied_share=tied, folds=config.folds, seed=config.seed, models=evidence,
    )  # fmt: skip
    return selection_frame(report), report


def selection_frame(report: SelectionReport) -> pl.DataFrame:
    """The report's models as a table, best first."""
    rows = [
        {
            **{name: value for name, value in asdict(e).items() if name in SELECTION_SCHEMA},
            "best": e.model == report.best,
            "indistinguishable": e.model in report.indistinguishable,
        }
        for e in report.models
    ]
    return pl.DataFrame(rows, schema=SELECTION_SCHEMA)


def flat_votes(rows: pl.DataFrame, documents: pl.DataFrame) -> Votes:
    """Lay verdicts out on flat arrays.

    Raises:
        InputError: a verdict names a document that is not among the documents, or its p_first is no probability.
    """
    known = documents.select("query_id", "doc_id").unique().sort("query_id", "doc_id")
    places = known.with_columns(place=pl.int_range(pl.len()).over("query_id"))
    for side in ("first", "second"):
        end = places.rename({"doc_id": f"{side}_id", "place": side})
        rows = rows.join(end, on=["query_id", f"{side}_id"], how="left", maintain_order="left")
    lost = rows.filter(pl.col("first").is_null() | pl.col("second").is_null() | pl.col("p_first").is_null())
    if lost.height:
        row = lost.row(0, named=True)
        raise InputError(
            f"{lost.height} verdict(s) name documents outside the query's pool or hold no probability, first: query "
            f"{row['query_id']}, {row['first_id']} and {row['second_id']}, p_first {row['p_first']}."
        )
    sizes = known.group_by("query_id", maintain_order=True).len()
    counts = sizes.join(rows.group_by("query_id").len("votes"), on="query_id", how="left", maintain_order="left")
    pointer = np.concatenate(([0], counts["votes"].fill_null(0).to_numpy().cumsum())).astype(np.int64)
    judges = rows["judge"].unique().sort().to_list()
    codes = rows["judge"].replace_strict(judges, list(range(len(judges))), return_dtype=pl.Int64)
    batch = graph_batch(sizes["len"].cast(pl.Int64).to_numpy(), pointer, rows["first"].to_numpy(), rows["second"].to_numpy())
    p = rows["p_first"].to_numpy().astype(np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise InputError(f"a verdict has p_first {p[~((p >= 0) & (p <= 1))][0]}; an answered verdict needs a number in 0..1.")
    return Votes(batch, p, codes.to_numpy(), max(1, len(judges)))


def verdict_folds(batch: GraphBatch, folds: int, rng: np.random.Generator) -> Ints:
    """(E,) fold of each verdict, -1 where it is never held out.

    All verdicts of an unordered pair share a fold: what is peculiar to the pair (texts that confuse every judge) must not leak.
    Folds are even within a query. A document whose pairs all fell into one fold keeps the first of them always, so that no
    document is ever predicted without evidence.
    """
    head, tail = np.minimum(batch.head, batch.tail), np.maximum(batch.head, batch.tail)
    pairs, member = np.unique(np.stack((head, tail)), axis=1, return_inverse=True)
    member = member.reshape(-1)
    query = np.repeat(np.arange(len(batch.n_items)), batch.n_items)[pairs[0]] if pairs.size else np.zeros(0, dtype=np.int64)
    order = np.lexsort((rng.random(len(query)), query))
    counts = np.bincount(query, minlength=len(batch.n_items))
    within = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
    shift = rng.integers(0, folds, len(batch.n_items))
    fold = np.empty(len(query), dtype=np.int64)
    fold[order] = (within + shift[query[order]]) % folds
    documents = int(batch.offsets[-1])
    lowest, highest, first = np.full(documents, folds), np.full(documents, -1), np.full(documents, len(query))
    for end in pairs:
        np.minimum.at(lowest, end, fold)
        np.maximum.at(highest, end, fold)
        np.minimum.at(first, end, np.arange(len(query)))
    fold[first[lowest == highest]] = NEVER_HELD_OUT
    return fold[member]


@dataclass(frozen=True)
class HeldOut:
    """Predictions of all verdicts (0 where never held out): P(first), ties half, and the log-loss of the three outcomes."""

    first: Floats
    outcome_loss: Floats | None


def held_out_losses(
    votes: Votes, folds: Ints, model: VoteModel, config: SelectionConfig, progress: Progress, place: tuple[int, int]
) -> HeldOut:
    """Predict every fold from the others with one model."""
    first, outcome = np.full(len(votes.p), 0.5), np.zeros(len(votes.p))
    masses = outcome_masses(votes.p)
    start: JudgeParameters | None = None
    for fold in range(config.folds):
        tested = np.flatnonzero(folds == fold)
        stacks = training_stacks(votes, folds != fold)
        fit = fit_judges(stacks, votes.n_judges, model, config.tolerance, start)
        start = start or fit.judges  # the judges differ little from fold to fold
        mean, variance = held_out_differences(votes.batch, stacks, fit, tested)
        first[tested], p = predicted_outcomes(mean, variance, votes.judge[tested], fit.judges, model)
        if p is not None:
            own = Outcomes(masses.win[tested], masses.tie[tested], masses.loss[tested])
            outcome[tested] = -(own.win * safe_log(p.win) + own.tie * safe_log(p.tie) + own.loss * safe_log(p.loss))
        progress(place[0] * config.folds + fold + 1, place[1] * config.folds, "fits")
    return HeldOut(first, outcome if has_ties(model) else None)


def safe_log(p: Floats) -> Floats:
    """Logarithm of a probability, cut at 1e-12."""
    return np.log(np.maximum(p, SMALLEST_PROBABILITY))


def training_stacks(votes: Votes, kept: Bools) -> list[VoteStack]:
    """The verdicts that are kept, as stacks."""
    batch = votes.batch
    counts = np.bincount(batch.edge_query[kept], minlength=len(batch.n_items))
    pointer = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    smaller = GraphBatch(batch.n_items, pointer, batch.i[kept], batch.j[kept], batch.weight[kept])
    return vote_stacks(smaller, votes.p[kept], votes.judge[kept], np.zeros(int(batch.offsets[-1])))


def held_out_differences(batch: GraphBatch, stacks: list[VoteStack], fit: JudgeFit, tested: Ints) -> tuple[Floats, Floats]:
    """Posterior mean and variance of the difference behind each tested verdict."""
    mean, variance = np.zeros(len(tested)), np.zeros(len(tested))
    stack_of, slot_of = np.zeros(len(batch.n_items), dtype=np.int64), np.zeros(len(batch.n_items), dtype=np.int64)
    for number, stack in enumerate(stacks):
        stack_of[stack.block.queries], slot_of[stack.block.queries] = number, np.arange(len(stack.block.queries))
    query = batch.edge_query[tested]
    for number, posterior in enumerate(fit.posteriors):
        here = stack_of[query] == number
        own = tested[here]
        mean[here], variance[here] = posterior.difference(slot_of[query[here]], batch.i[own], batch.j[own])
    return mean, variance


def compared(losses: dict[VoteModel, HeldOut], votes: Votes, folds: Ints) -> list[ModelEvidence]:
    """Losses, calibration and paired differences of every model, best first (equal losses: in the order of the models)."""
    held = folds != NEVER_HELD_OUT
    p, query = votes.p[held], votes.batch.edge_query[held]
    entropy = {m: -(p * safe_log(r.first[held]) + (1 - p) * safe_log(1 - r.first[held])) for m, r in losses.items()}
    ranking = sorted(losses, key=lambda m: float(entropy[m].mean()))
    evidence: list[ModelEvidence] = []
    for model in ranking:
        q, outcome = losses[model].first[held], losses[model].outcome_loss
        bins = reliability_bins(q, p)
        difference, error = paired_difference(entropy[model] - entropy[ranking[0]], query)
        evidence.append(
            ModelEvidence(
                model=model, log_loss=float(entropy[model].mean()), brier=float(((p - q) ** 2).mean()),
                ece=sum(b.verdicts * abs(b.predicted - b.observed) for b in bins) / len(p),
                difference=difference, difference_error=error,
                outcome_log_loss=None if outcome is None else float(outcome[held].mean()), reliability=bins,
            )
        )  # fmt: skip
    return evidence


def paired_difference(values: Floats, query: Ints) -> tuple[float, float]:
    """Mean of per-verdict differences and its standard error, verdicts of a query taken as one draw (ratio estimator)."""
    _, own = np.unique(query, return_inverse=True)
    sums, counts = summed(own, values, int(own.max()) + 1), np.bincount(own)
    mean, queries = float(values.mean()), len(counts)
    residual = sums - mean * counts
    error = np.sqrt((residual**2).sum() * queries / max(queries - 1, 1)) / len(values)
    return mean, float(error)


def reliability_bins(predicted: Floats, observed: Floats) -> list[Reliability]:
    """Ten bins of equal width over 0..1; empty ones are left out."""
    place = np.minimum((predicted * BINS).astype(np.int64), BINS - 1)
    return [
        Reliability(float(predicted[place == b].mean()), float(observed[place == b].mean()), int((place == b).sum()))
        for b in np.unique(place)
    ]
