"""Distillation: a pairwise model learns from the judges' verdicts, judges the whole graph, and may choose verdicts to buy.

Belongs here: the order of these steps and the table of verdicts they make. Does not: the training (`pairwise_training.py`), the
choice of the second pass (`second_pass.py`), storage and tracking (`defs/`).
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import numpy as np
import polars as pl

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.beliefs import query_beliefs
from anmi_pipeline.judging.call_keys import text_digest
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.distil_config import DISTILLED, DistilConfig
from anmi_pipeline.judging.judges import CallSettings, JudgeEvidence
from anmi_pipeline.judging.pairwise_training import PairwiseTraining, train_pairwise, triples
from anmi_pipeline.judging.plan import query_generator
from anmi_pipeline.judging.second_pass import keep_plan, kept_plan, plan_second_pass
from anmi_pipeline.judging.verdicts import OK
from anmi_pipeline.progress import Progress, silent
from anmi_pipeline.rating.comparisons import PAIR, weighted_comparisons
from anmi_pipeline.rating.config import Model
from anmi_pipeline.rating.designs import design
from anmi_pipeline.rating.prior import ScorePrior
from anmi_pipeline.retrieval.lexical import document_texts
from anmi_pipeline.tables import JUDGMENTS

JUDGED = 101
"""Round of the model's own verdicts."""
GRAPH_STREAM = JUDGED
"""Number of the generator that draws the graph it judges."""
ENDS = {"doc_i": pl.min_horizontal("first_id", "second_id"), "doc_j": pl.max_horizontal("first_id", "second_id")}

Buy = Callable[[pl.DataFrame], pl.DataFrame]
"""PLAN frame -> JUDGMENTS frame: asks the dataset's judges, through the ledger and under its caps."""


@dataclass(frozen=True)
class DistilStudy:
    """What a distillation rests on besides the verdicts.

    Attributes:
        judging: the judging configuration.
        config: settings of the distillation.
        evidence: the texts.
        documents: query_id, doc_id of every document that could have been compared, with features where there is a prior.
        seed: seed of the dataset.
        prior: frozen prior of the fit; None for a flat one.
        link: model of the fit.
    """

    judging: JudgingConfig
    config: DistilConfig
    evidence: JudgeEvidence
    documents: pl.DataFrame
    seed: int
    prior: ScorePrior | None = None
    link: Model = "thurstone"


@dataclass(frozen=True)
class Distillation:
    """What a distillation gave.

    Attributes:
        training: the model that judged, with its figures.
        first: the training before the second pass; the same where there was none.
        judgments: JUDGMENTS frame: what was bought, and the model's own verdicts.
        bought: calls of the second pass.
        pairs_per_second: pairs judged a second, both orders read.
    """

    training: PairwiseTraining
    first: PairwiseTraining
    judgments: pl.DataFrame
    bought: int
    pairs_per_second: float


@dataclass
class Judged:
    """The model's verdicts on a graph."""

    pairs: pl.DataFrame = field(default_factory=pl.DataFrame)
    speed: float = 0.0


def distil(
    judgments: pl.DataFrame,
    study: DistilStudy,
    buy: Buy | None = None,
    keep: Path | None = None,
    progress: Progress = silent,
) -> Distillation:
    """Train on verdicts, judge the graph, buy where it pays, train once more and judge again.

    Args:
        judgments: JUDGMENTS frame of the judges.
        study: settings, texts, documents, prior.
        buy: how verdicts are bought; None: no second pass.
        keep: where the plan of the second pass outlives a kill.
        progress: told pairs trained on and judged.

    Raises:
        InputError: nothing to train on, a text is absent, or a second pass of recorded judges.
    """
    config, judging = study.config, study.judging
    if config.second_pass and judging.recorded:
        raise InputError("judging.distil.second_pass asks recorded judges for verdicts that are not on record. Set it to 0.")
    queries, documents = texts_of(study)
    known = weighted_comparisons(judgments, judging.weights)
    first = train_pairwise(known, queries, documents, config, study.seed, progress=progress)
    asked = judgments.select("query_id", **ENDS).unique()
    graph = graph_pairs(study, asked)
    judged = judge_pairs(first, graph, config, progress)
    if buy is None or not config.second_pass:
        return Distillation(first, first, own_judgments(judged.pairs, judgments, first, study), 0, judged.speed)
    plan = kept_plan(keep) if keep is not None else None
    if plan is None:
        beliefs = query_beliefs(known, study.documents, prior=study.prior, model=study.link)
        plan = plan_second_pass(judged.pairs, beliefs, asked, config.second_pass, judging, study.seed)
        if keep is not None:
            keep_plan(keep, plan)
    bought = buy(plan) if plan.height else JUDGMENTS.frame()
    every = JUDGMENTS.frame(pl.concat([judgments, bought]))
    # The same held-out pairs, so that both trainings are measured by one ruler.
    ruler = first.held_out.drop("logit")
    training = train_pairwise(
        weighted_comparisons(every, judging.weights), queries, documents, config, study.seed, held_out=ruler, progress=progress
    )
    graph = graph_pairs(study, every.select("query_id", **ENDS).unique())
    judged = judge_pairs(training, graph, config, progress)
    table = pl.concat([bought, own_judgments(judged.pairs, every, training, study)])
    return Distillation(training, first, JUDGMENTS.frame(table), bought.height, judged.speed)


def texts_of(study: DistilStudy) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Texts of the queries and documents that may be judged, by id.

    Raises:
        InputError: a document or query has no text.
    """
    wanted = study.documents.select("query_id", "doc_id")
    queries = study.evidence.queries.join(wanted.select("query_id").unique(), on="query_id", how="semi")
    corpus = study.evidence.corpus.join(wanted.select("doc_id").unique(), on="doc_id", how="semi")
    for name, given in (("query_id", queries), ("doc_id", corpus)):
        lost = wanted.select(name).unique().join(given.select(name), on=name, how="anti").sort(name)
        if lost.height:
            raise InputError(f"{name} {lost.item(0, 0)} has no text in this dataset, so no model can judge it.")
    return (
        dict(queries.select("query_id", "text").iter_rows()),
        dict(zip(corpus["doc_id"].to_list(), document_texts(corpus), strict=True)),
    )


def graph_pairs(study: DistilStudy, asked: pl.DataFrame) -> pl.DataFrame:
    """Pairs that the model judges: random cycles over every query's documents, and every pair that was asked already."""
    seed = study.judging.draw_seed(study.seed)
    rows: list[tuple[str, str, str]] = []
    pool = study.documents.select("query_id", "doc_id").unique().sort("query_id", "doc_id")
    for (query,), own in pool.partition_by("query_id", as_dict=True, maintain_order=True).items():
        ids = own["doc_id"].to_list()
        drawn = design("cycles", len(ids), study.config.degree, query_generator(seed, str(query), GRAPH_STREAM))
        rows += [(str(query), ids[i], ids[j]) for i, j in drawn.tolist()]
    cycles = pl.DataFrame(rows, schema=dict.fromkeys(PAIR, pl.String()), orient="row")
    known = asked.select(PAIR)
    for end in ("doc_i", "doc_j"):
        # Recorded failures may name documents that are in no comparison and have no text here.
        known = known.join(pool, left_on=["query_id", end], right_on=["query_id", "doc_id"], how="semi")
    return pl.concat([cycles, known]).unique().sort(PAIR)


def judge_pairs(training: PairwiseTraining, graph: pl.DataFrame, config: DistilConfig, progress: Progress) -> Judged:
    """PAIR and p = P(doc_i wins) of a graph, and pairs per second."""
    started = perf_counter()
    logits = training.model.logits(training.texts, triples(graph), config.batch_tokens, progress)
    speed = graph.height / max(perf_counter() - started, 1e-9)
    return Judged(graph.with_columns(p=pl.Series(training.model.probabilities(logits), dtype=pl.Float64())), speed)


def own_judgments(judged: pl.DataFrame, judgments: pl.DataFrame, training: PairwiseTraining, study: DistilStudy) -> pl.DataFrame:
    """JUDGMENTS frame of the model's verdicts.

    A pair that a judge answered carries no weight: the model learnt that answer, and repeating it is no evidence.
    """
    answered = judgments.filter(pl.col("status") == OK).select("query_id", **ENDS).unique()
    weights = judged.join(answered.with_columns(known=pl.lit(True)), on=PAIR, how="left", maintain_order="left")
    weight = pl.when(pl.col("known").fill_null(False)).then(0.0).otherwise(study.config.weight)
    head = CallSettings(DISTILLED, "local", model_name(training)).digest()
    texts = texts_of(study)
    keys = [text_key(head, texts, pair) for pair in triples(judged)]
    return JUDGMENTS.frame(
        weights.select(
            "query_id",
            first_id="doc_i",
            second_id="doc_j",
            judge=pl.lit(DISTILLED),
            epoch=pl.lit(study.judging.epoch),
            round=pl.lit(JUDGED, dtype=pl.Int64()),
            audit=pl.lit(False),
            p_first="p",
            status=pl.lit(OK),
            call_key=pl.Series(keys, dtype=pl.String()),
            provenance=pl.lit("model"),
            input_tokens=pl.lit(0, dtype=pl.Int64()),
            output_tokens=pl.lit(0, dtype=pl.Int64()),
            cost_usd=pl.lit(0.0),
            weight=weight,
        )
    )


def model_name(training: PairwiseTraining) -> str:
    """Name of the weights by their content: sha256 over every tensor, in the model's order."""
    digest = hashlib.sha256()
    for name, tensor in training.model.encoder.model.state_dict().items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().float().numpy()).tobytes())
    numbers = training.model.temperature, float(training.model.similarity.detach())
    digest.update(np.array(numbers).tobytes())
    return f"pairwise-{digest.hexdigest()}"


def text_key(head: bytes, texts: tuple[Mapping[str, str], Mapping[str, str]], pair: tuple[str, str, str]) -> str:
    """Call key of one of the model's verdicts: model and texts."""
    queries, documents = texts
    return hashlib.sha256(head + text_digest(queries[pair[0]], documents[pair[1]], documents[pair[2]])).hexdigest()
