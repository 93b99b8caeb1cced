"""The one optimisation loop of every trainer that learns from lists.

Belongs here: steps, rates, clipping, metrics, saving and taking up state. Does not: models (they come as named tensors and a
function that fills their gradients) and losses. Rate, alpha, epoch and rows are pure functions of the global step.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from anmi_pipeline.mining.curriculum import (
    CurriculumStage,
    EpochLists,
    TrainingLists,
    epoch_lists,
    step_rows,
    steps_per_epoch,
)
from anmi_pipeline.progress import Progress, silent
from anmi_pipeline.training.config import ListTraining
from anmi_pipeline.training.losses import Heads
from anmi_pipeline.training.report import Metrics, OnMetrics, TrainingReport, unheard
from anmi_pipeline.training.state import StateFile

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import AdamW


@dataclass(frozen=True)
class StepLists:
    """The lists of one step.

    Attributes:
        step: global step, from 0.
        stage: the curriculum stage in force.
        query: (b,) query indices of the training lists.
        document: (b, l) document indices, PADDING where there is none; column 0 is the positive.
        label: (b, l) scaled labels.
        weight: (b, l) contrastive weights.
        mask: (b, l) True where there is a document.
    """

    step: int
    stage: CurriculumStage
    query: NDArray[np.int64]
    document: NDArray[np.int64]
    label: NDArray[np.float32]
    weight: NDArray[np.float32]
    mask: NDArray[np.bool_]


Backward = Callable[[StepLists], dict[str, "Tensor"]]
"""Computes a step's loss, adds its gradient to the tensors and returns the loss and its parts, detached."""


@dataclass(frozen=True)
class Watch:
    """Who is told how a training goes."""

    progress: Progress = silent
    on_metrics: OnMetrics = unheard


@dataclass(frozen=True)
class Trained:
    """What the loop changes: the model's trainable tensors by name, and the scalars that live with it."""

    weights: Mapping[str, "Tensor"]
    heads: Heads

    @property
    def tensors(self) -> dict[str, "Tensor"]:
        """All of them by name."""
        heads = {"slope": self.heads.slope, "offset": self.heads.offset, "log_scale": self.heads.log_scale}
        return {**self.weights, **{f"head.{name}": tensor for name, tensor in heads.items()}}


def rate_factor(config: ListTraining, step: int) -> float:
    """Learning rate at a step as a share of the configured one: linear warm-up, then constant or linear decay."""
    warm = round(config.warmup * config.steps)
    if step < warm:
        return (step + 1) / (warm + 1)
    return 1.0 if config.decay == "constant" else (config.steps - step) / max(config.steps - warm, 1)


def epochs_needed(lists: TrainingLists, config: ListTraining) -> int:
    """Epochs that `config.steps` steps begin."""
    return -(-config.steps // steps_per_epoch(len(lists.query_ids), config.batch_queries))


class ListReader:
    """Reads the lists of a step, keeping the epoch it drew last."""

    def __init__(self, lists: TrainingLists, config: ListTraining, seed: int) -> None:
        """Start without an epoch."""
        self.lists, self.config, self.seed = lists, config, seed
        self.drawn: EpochLists | None = None

    def at(self, step: int) -> StepLists:
        """The lists of a global step (from 0)."""
        epoch, rows = step_rows(len(self.lists.query_ids), self.config.batch_queries, step)
        if self.drawn is None or self.drawn.epoch != epoch:
            self.drawn = epoch_lists(self.lists, self.config.list_size, self.config.curriculum, epoch, self.seed)
        drawn = self.drawn
        return StepLists(
            step, drawn.stage, drawn.query[rows], drawn.document[rows], drawn.label[rows], drawn.weight[rows], drawn.mask[rows]
        )


def new_optimiser(trained: Trained, config: ListTraining) -> "AdamW":
    """AdamW with one rate for the model and one, without decay, for the scalars."""
    from torch.optim import AdamW

    heads = [trained.heads.slope, trained.heads.offset, trained.heads.log_scale]
    return AdamW(
        [
            {"params": list(trained.weights.values()), "lr": config.learning_rate, "weight_decay": config.weight_decay},
            {"params": heads, "lr": config.head_learning_rate, "weight_decay": 0.0},
        ]
    )


def run_steps(
    trained: Trained,
    lists: TrainingLists,
    config: ListTraining,
    seed: int,
    backward: Backward,
    watch: Watch,
    state: StateFile | None = None,
) -> TrainingReport:
    """Train `config.steps` steps, from a saved state when there is one.

    Returns:
        The report; its metrics cover all steps, its seconds and pairs those of this process.

    Raises:
        InputError: the labels are not scaled.
        ArtifactError: the state belongs to another training.
    """
    optimiser = new_optimiser(trained, config)
    rates = [group["lr"] for group in optimiser.param_groups]
    begin, metrics = state.load(trained.tensors, optimiser) if state else (0, [])
    reader = ListReader(lists, config, seed)
    started, pairs = time.perf_counter(), 0
    for step in range(begin, config.steps):
        factor = rate_factor(config, step)
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        rows = reader.at(step)
        optimiser.zero_grad()
        parts = backward(rows)
        norm = clip(trained.weights, config.max_grad_norm)
        optimiser.step()
        pairs += int(rows.mask.sum())
        entry = step_metrics(rows, parts, trained.heads, lr=config.learning_rate * factor, norm=norm, config=config, lists=lists)
        metrics.append(entry)
        watch.on_metrics(entry)
        watch.progress(step + 1, config.steps, "steps")
        if state and (step + 1) % state.every == 0 and step + 1 < config.steps:
            state.save(step + 1, trained.tensors, optimiser, metrics)
    return TrainingReport(metrics, time.perf_counter() - started, pairs, epochs_needed(lists, config), resumed_at=begin)


def clip(weights: Mapping[str, "Tensor"], max_norm: float) -> float:
    """Clip the model's gradients to a norm and return what it was."""
    from torch.nn.utils import clip_grad_norm_

    return float(clip_grad_norm_(list(weights.values()), max_norm))


def step_metrics(
    rows: StepLists,
    parts: Mapping[str, "Tensor"],
    heads: Heads,
    *,
    lr: float,
    norm: float,
    config: ListTraining,
    lists: TrainingLists,
) -> Metrics:
    """The metrics of one step."""
    epoch, _ = step_rows(len(lists.query_ids), config.batch_queries, rows.step)
    return {
        "step": float(rows.step + 1),
        "epoch": float(epoch),
        **{name: float(value) for name, value in parts.items()},
        "alpha": rows.stage.alpha,
        "min_gap": rows.stage.min_gap,
        "learning_rate": lr,
        "student_scale": float(heads.log_scale.detach().exp()),
        "grad_norm": norm,
    }
