"""Mid-training state on disk, so that a killed run goes on where it was, to the bit.

Belongs here: what is saved (trained tensors, optimiser moments, step, metrics) and how it is written whole. Does not: lists and
schedules, which are pure functions of the seed and the step and need no state.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.numpy import load_file, save_file

from anmi_pipeline.errors import ArtifactError
from anmi_pipeline.training.report import Metrics

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class StateFile:
    """Where the state of one training is kept and whose it is.

    Attributes:
        folder: folder of its own; created when the first state is written.
        identity: digest of everything that decides the run (configuration, seed, lists, base model).
        every: steps between states.
    """

    folder: Path
    identity: str
    every: int

    def save(self, step: int, tensors: Mapping[str, "Tensor"], optimiser: "Optimizer", metrics: list[Metrics]) -> None:
        """Write the state after `step` steps; a kill in between leaves the one before.

        The tensors go to a file named by the step, then `state.json` is replaced in one move and names it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        arrays = {f"model.{name}": tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
        for name, tensor in tensors.items():
            moments = optimiser.state[tensor]
            arrays |= {f"{moment}.{name}": moments[moment].cpu().numpy() for moment in MOMENTS if moment in moments}
        file = self.folder / f"step-{step}.safetensors"
        save_file(arrays, file)
        draft = self.folder / "state.json.part"
        draft.write_text(
            json.dumps({"identity": self.identity, "step": step, "file": file.name, "metrics": metrics}), encoding="utf-8"
        )
        draft.replace(self.folder / "state.json")
        for old in self.folder.glob("step-*.safetensors"):
            if old != file:
                old.unlink()

    def load(self, tensors: Mapping[str, "Tensor"], optimiser: "Optimizer") -> tuple[int, list[Metrics]]:
        """Put a saved state into the tensors and the optimiser.

        Returns:
            Steps done and their metrics; (0, []) when there is no state.

        Raises:
            ArtifactError: the state belongs to another training, or a tensor of it is absent.
        """
        import torch

        index = self.folder / "state.json"
        if not index.exists():
            return 0, []
        saved = json.loads(index.read_text(encoding="utf-8"))
        if saved["identity"] != self.identity:
            raise ArtifactError(
                f"{index} is the state of another training ({saved['identity'][:12]}, this one is {self.identity[:12]}). "
                "Delete the folder or use another one."
            )
        arrays = load_file(self.folder / saved["file"])
        absent = [name for name in tensors if f"model.{name}" not in arrays]
        if absent:
            raise ArtifactError(
                f"{self.folder / saved['file']} lacks tensor {absent[0]}. Delete the folder to train from the start."
            )
        step = int(saved["step"])
        for name, tensor in tensors.items():
            with torch.no_grad():
                tensor.copy_(torch.from_numpy(arrays[f"model.{name}"]))
            if f"exp_avg.{name}" in arrays:
                moments = {moment: torch.from_numpy(arrays[f"{moment}.{name}"]).to(tensor.device) for moment in MOMENTS}
                optimiser.state[tensor] = {"step": torch.tensor(float(step)), **moments}
        return step, list(saved["metrics"])

    def clear(self) -> None:
        """Remove the state of a finished training."""
        if self.folder.is_dir():
            for file in [*self.folder.glob("step-*.safetensors"), *self.folder.glob("state.json*")]:
                file.unlink()
            self.folder.rmdir()
