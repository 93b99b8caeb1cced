"""Training of the pairwise model on what judges said, and how far it then agrees with verdicts it has not seen.

Belongs here: the split by query, the loop, the temperature. Does not: the model (`pairwise_model.py`), its figures
(`pairwise_measures.py`), which pairs it judges afterwards (`distillation.py`). Equal inputs and seeds give equal weights on one
machine with one thread count.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.distil_config import DistilConfig
from anmi_pipeline.judging.pairwise_measures import PairwiseFigures, figures, fit_temperature
from anmi_pipeline.judging.pairwise_model import PairwiseModel, new_pairwise_model
from anmi_pipeline.judging.pairwise_rows import Pair, PairTexts
from anmi_pipeline.progress import Progress, silent
from anmi_pipeline.rating.comparisons import PAIR
from anmi_pipeline.rating.graphs import Floats
from anmi_pipeline.retrieval.weights import pick_device, resolve_precision

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

Metrics = Mapping[str, float]
OnMetrics = Callable[[Metrics], None]
MAX_NORM = 1.0
"""Gradients are clipped to this norm."""
BUCKET = 8
"""Batches that are drawn together and sorted by length: less padding, and still a random order."""


def unheard(metrics: Metrics) -> None:
    """Receive metrics and drop them: the default when nobody logs."""


@dataclass(frozen=True)
class PairwiseTraining:
    """A trained model and what is known about it.

    Attributes:
        model: the model, its temperature fitted.
        texts: token ids of the texts it was given.
        held_out: query_id, doc_i, doc_j, preference, weight, logit of the pairs that were not trained on.
        figures: agreement and calibration on them; None when no query could be held out.
        steps: metrics of every step.
        pairs: training pairs.
        queries: queries of them.
        pairs_per_second: throughput of the training, epochs counted.
    """

    model: PairwiseModel
    texts: PairTexts
    held_out: pl.DataFrame
    figures: PairwiseFigures | None
    steps: list[Metrics]
    pairs: int
    queries: int
    pairs_per_second: float


def train_pairwise(
    comparisons: pl.DataFrame,
    queries: Mapping[str, str],
    documents: Mapping[str, str],
    config: DistilConfig,
    seed: int,
    *,
    held_out: pl.DataFrame | None = None,
    progress: Progress = silent,
    on_metrics: OnMetrics = unheard,
) -> PairwiseTraining:
    """Train a pairwise model on folded verdicts and measure it on queries that it was not trained on.

    Equation: minimise the mean over pairs of weight * BCE(sigmoid(logit), preference), weights scaled to mean 1.

    Args:
        comparisons: query_id, doc_i, doc_j, preference, weight (`comparisons.weighted_comparisons`).
        queries: query id -> text.
        documents: document id -> text, every one that is to be judged later too.
        config: model, steps, rates, split.
        seed: seed of the dataset, unless the configuration has its own.
        held_out: the pairs to measure on, when an earlier training chose them already; None: drawn here.
        progress: told the pairs seen.
        on_metrics: told the metrics of every step.

    Raises:
        InputError: nothing to train on, or a model that cannot be loaded.
    """
    own = config.seed if config.seed is not None else seed
    training, drawn = split(comparisons, config, own)
    held_out = drawn if held_out is None else held_out
    if training.is_empty():
        raise InputError("no query has verdicts that a pairwise judge could be trained on. Judge more queries.")
    model = new_pairwise_model(
        config.model,
        config.max_tokens,
        config.query_tokens,
        revision=config.revision,
        seed=own,
        similarity=config.similarity,
        precision=resolve_precision(config.precision, pick_device()),
    )
    texts = model.read_texts(queries, documents)
    steps, speed = run(model, texts, training, config, own, progress, on_metrics)
    logits = model.logits(texts, triples(held_out), config.batch_tokens)
    measured = held_out.with_columns(logit=pl.Series(logits, dtype=pl.Float64()))
    if held_out.height:
        p, weight = (held_out[name].to_numpy() for name in ("preference", "weight"))
        model = replace(model, temperature=fit_temperature(logits, p, weight))
    found = figures(measured, model.temperature) if held_out.height else None
    return PairwiseTraining(model, texts, measured, found, steps, training.height, training["query_id"].n_unique(), speed)


def triples(pairs: pl.DataFrame) -> list[Pair]:
    """(query id, first id, second id) of a frame of pairs."""
    return [(query, i, j) for query, i, j in pairs.select(PAIR).iter_rows()]


def split(comparisons: pl.DataFrame, config: DistilConfig, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Part pairs by query and thin both parts evenly: training pairs, held-out pairs.

    A query's part is a hash of seed and id against the share, so another query moves none. Where that would leave one part empty,
    the query with the lowest (highest) hash goes there; a single query is trained on and nothing is held out.
    """
    names = sorted(comparisons["query_id"].unique().to_list())
    share = {name: uniform(f"{seed}:holdout:{name}") for name in names}
    held = {name for name in names if share[name] < config.holdout}
    if len(names) < 2:
        held = set[str]()
    elif not held:
        held = {min(names, key=lambda name: share[name])}
    elif len(held) == len(names):
        held.discard(max(names, key=lambda name: share[name]))
    inside = pl.col("query_id").is_in(sorted(held))
    return (
        thinned(comparisons.filter(~inside), config.max_pairs, seed),
        thinned(comparisons.filter(inside), config.max_held_out, seed),
    )


def thinned(pairs: pl.DataFrame, most: int, seed: int) -> pl.DataFrame:
    """At most so many pairs, taken in turns from the queries, each query's in an order drawn by hash."""
    kept = pairs.select(*PAIR, "preference", "weight").sort(PAIR)
    if kept.height <= most:
        return kept
    draws = [uniform(f"{seed}:pair:{'|'.join(row)}") for row in kept.select(PAIR).iter_rows()]
    turn = pl.col("draw").rank("ordinal").over("query_id")
    return (
        kept.with_columns(draw=pl.Series(draws))
        .with_columns(turn=turn)
        .sort("turn", "draw")
        .head(most)
        .select(kept.columns)
        .sort(PAIR)
    )


def uniform(name: str) -> float:
    """A number in [0, 1) that is a function of a name."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:7], "little") * 2.0**-56


def run(
    model: PairwiseModel,
    texts: PairTexts,
    training: pl.DataFrame,
    config: DistilConfig,
    seed: int,
    progress: Progress,
    on_metrics: OnMetrics,
) -> tuple[list[Metrics], float]:
    """The optimisation loop: metrics of every step, and pairs per second."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits
    from torch.nn.utils import clip_grad_norm_

    encoder = model.encoder
    pairs = triples(training)
    target = torch.from_numpy(training["preference"].to_numpy().astype(np.float32)).to(encoder.device)
    weight = torch.from_numpy((training["weight"] / training["weight"].mean()).to_numpy().astype(np.float32)).to(encoder.device)
    lengths = [texts.length(pair) for pair in pairs]
    groups, weights = trained_weights(model, config)
    optimiser = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    rates = [float(group["lr"]) for group in optimiser.param_groups]
    batches = [members for epoch in range(config.epochs) for members in epoch_batches(lengths, config.batch_pairs, seed, epoch)]
    steps: list[Metrics] = []
    seen, started = 0, time.perf_counter()
    encoder.model.train()
    for step, members in enumerate(batches):
        torch.manual_seed(int(np.random.SeedSequence([seed, step]).generate_state(1)[0]))
        factor = rate_factor(step, len(batches), config.warmup)
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        chosen = torch.from_numpy(members).to(encoder.device)
        logit = model.forward(texts, [pairs[member] for member in members])
        loss = binary_cross_entropy_with_logits(logit, target[chosen], weight=weight[chosen])
        optimiser.zero_grad()
        loss.backward()
        norm = float(clip_grad_norm_(weights, MAX_NORM))
        optimiser.step()
        seen += len(members)
        entry = {
            "step": step + 1.0,
            "loss": float(loss.detach()),
            "learning_rate": config.learning_rate * factor,
            "grad_norm": norm,
        }
        steps.append(entry)
        on_metrics(entry)
        progress(seen, config.epochs * len(pairs), "pairs")
    encoder.model.eval()
    return steps, seen / max(time.perf_counter() - started, 1e-9)


def trained_weights(model: PairwiseModel, config: DistilConfig) -> tuple[list[dict[str, object]], "list[Tensor]"]:
    """Optimiser groups (encoder, scoring layer) and all weights that are trained; the others are frozen.

    Raises:
        InputError: the model has fewer layers than are to be trained.
    """
    module: Module = model.encoder.model
    heads = ("classifier", "score")
    frozen = below_top(module, config.layers) if config.layers is not None else ()
    body: list[Tensor] = []
    head: list[Tensor] = [model.similarity.requires_grad_()]
    for name, weight in module.named_parameters():
        weight.requires_grad_(not (frozen and name.startswith(frozen)))
        if weight.requires_grad:
            (head if name.startswith(heads) else body).append(weight)
    return [{"params": body, "lr": config.learning_rate}, {"params": head, "lr": config.head_learning_rate}], body + head


def below_top(module: "Module", layers: int) -> tuple[str, ...]:
    """Prefixes of the parameters below the last `layers` transformer layers: embeddings and lower layers."""
    from torch.nn import ModuleList

    stacks = [(name, len(part)) for name, part in module.named_modules() if isinstance(part, ModuleList)]
    stack, depth = max(stacks, key=lambda found: (found[1], -len(found[0])), default=("", 0))
    if layers > depth:
        raise InputError(f"layers is {layers}, but {type(module).__name__} has {depth} transformer layers. Lower it or set null.")
    embeddings = tuple(f"{name}." for name, _ in module.named_modules() if name.rpartition(".")[2].startswith("embed"))
    return (*(f"{stack}.{index}." for index in range(depth - layers)), *embeddings)


def rate_factor(step: int, steps: int, warmup: float) -> float:
    """Share of the learning rate at a step: a linear rise, then a linear fall to 0."""
    warm = round(warmup * steps)
    return (step + 1) / (warm + 1) if step < warm else (steps - step) / max(steps - warm, 1)


def epoch_batches(lengths: list[int], size: int, seed: int, epoch: int) -> Iterator[NDArray[np.int64]]:
    """Batches of one epoch: drawn at random, rows of like length together within BUCKET batches."""
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    measure: Floats = np.asarray(lengths, dtype=np.float64)
    for start in range(0, len(order), BUCKET * size):
        bucket = order[start : start + BUCKET * size]
        bucket = bucket[np.argsort(-measure[bucket], kind="stable")]
        batches = [bucket[at : at + size] for at in range(0, len(bucket), size)]
        yield from (batches[place] for place in rng.permutation(len(batches)))
