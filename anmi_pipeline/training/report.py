"""What a training tells about itself.

Belongs here: the report and the callbacks' types. Does not: logging it anywhere (`defs/` and MLflow do).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Metrics = dict[str, float]
"""Metrics of one step: step, epoch, loss and its parts, alpha, learning_rate, student_scale, grad_norm."""

OnMetrics = Callable[[Mapping[str, float]], None]


def unheard(metrics: Mapping[str, float]) -> None:
    """Receive metrics and drop them: the default when nobody logs."""


@dataclass(frozen=True)
class TrainingReport:
    """How a training went.

    Attributes:
        metrics: one entry per step, in order.
        seconds: wall time of this process's steps.
        pairs: (query, document) pairs seen by this process.
        epochs: epochs begun.
        resumed_at: step at which a killed run was taken up; 0 for a fresh one.
        facts: single figures of trainers without steps, by name.
    """

    metrics: list[Metrics]
    seconds: float
    pairs: int
    epochs: int
    resumed_at: int = 0
    facts: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def pairs_per_second(self) -> float:
        """Throughput of this process."""
        return self.pairs / self.seconds if self.seconds > 0 else 0.0
