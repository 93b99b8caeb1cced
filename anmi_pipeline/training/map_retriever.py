"""Retriever `map`: one shared d x d matrix on cached embeddings of both sides, trained in seconds on a CPU.

Belongs here: its training and its checkpoint. Does not: the base encoder (`retrieval/encoding.py`). Starts from the identity, so
step 0 is the untrained encoder.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from anmi_pipeline.errors import InputError
from anmi_pipeline.mining.curriculum import TrainingLists
from anmi_pipeline.training.config import ListTraining, ListwiseKlLoss, TrainingConfig
from anmi_pipeline.training.loop import StepLists, Trained, Watch, run_steps
from anmi_pipeline.training.losses import Heads, ListBatch, loss_parts
from anmi_pipeline.training.report import TrainingReport

if TYPE_CHECKING:
    from torch import Tensor

FIRST_SLOPE = 5.0
"""Slope of the head at the start: cosines of one pool spread by about .1-.2, labels by about 1."""


@dataclass(frozen=True)
class MapCheckpoint:
    """A trained map.

    Attributes:
        weight: (d, d) float32; an embedding x becomes normalise(weight @ x).
        slope: of the head, label = slope * cosine + offset.
        offset: of the head.
        student_scale: learnt factor on cosines of the listwise loss.
    """

    weight: NDArray[np.float32]
    slope: float
    offset: float
    student_scale: float

    def apply(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map embeddings.

        Args:
            vectors: (n, d) embeddings of the base encoder.

        Returns:
            (n, d) float32 of length 1.
        """
        if vectors.ndim != 2 or vectors.shape[1] != len(self.weight):
            raise InputError(
                f"the map takes vectors of {len(self.weight)} dimensions, got shape {vectors.shape}. Use its base encoder."
            )
        mapped = vectors @ self.weight.T
        return (mapped / np.maximum(np.linalg.norm(mapped, axis=1, keepdims=True), 1e-12)).astype(np.float32)

    def save(self, folder: Path) -> None:
        """Write `model.safetensors` and `settings.json` into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        scalars = {"head.slope": self.slope, "head.offset": self.offset, "student_scale": self.student_scale}
        arrays = {"map.weight": self.weight, **{name: np.array([value], dtype=np.float32) for name, value in scalars.items()}}
        save_file(arrays, folder / "model.safetensors")
        settings = {"dimensions": len(self.weight), "kind": "map", "normalize": True}
        (folder / "settings.json").write_text(json.dumps(settings, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "MapCheckpoint":
        """Read what `save` wrote."""
        arrays = load_file(folder / "model.safetensors")
        slope, offset, scale = (float(arrays[name][0]) for name in ("head.slope", "head.offset", "student_scale"))
        return cls(arrays["map.weight"], slope, offset, scale)


def new_heads(config: ListTraining) -> Heads:
    """The scalars at the start of a training."""
    import torch

    scale = config.loss.student_scale if isinstance(config.loss, ListwiseKlLoss) else 1.0
    learnt = config.loss.learn_scale if isinstance(config.loss, ListwiseKlLoss) else False
    return Heads(
        slope=torch.tensor(FIRST_SLOPE, requires_grad=True),
        offset=torch.tensor(0.0, requires_grad=True),
        log_scale=torch.tensor(math.log(scale), requires_grad=learnt),
    )


def scalars_of(heads: Heads) -> tuple[float, float, float]:
    """Slope, offset and student scale of the heads as numbers."""
    return float(heads.slope.detach()), float(heads.offset.detach()), float(heads.log_scale.detach().exp())


def rows_of(wanted: Sequence[str], known: Sequence[str], what: str) -> NDArray[np.int64]:
    """Where each wanted id stands among the known ones.

    Raises:
        InputError: an id has no vector or text.
    """
    at = {identifier: row for row, identifier in enumerate(known)}
    absent = [identifier for identifier in wanted if identifier not in at]
    if absent:
        raise InputError(
            f"{len(absent)} {what}(s) of the training set are not among the {len(known)} that were given, first {absent[0]}. "
            f"Materialize the {what} embeddings and training_set from the same corpus and queries."
        )
    return np.array([at[identifier] for identifier in wanted], dtype=np.int64)


def train_map(
    lists: TrainingLists,
    doc_ids: Sequence[str],
    doc_vectors: NDArray[np.float32],
    query_ids: Sequence[str],
    query_vectors: NDArray[np.float32],
    config: TrainingConfig,
    seed: int,
    watch: Watch | None = None,
) -> tuple[MapCheckpoint, TrainingReport]:
    """Train a map.

    Equation: s(q, d) = cos(W e(q), W e(d)), W = I + D; AdamW moves D, so weight decay pulls towards the untrained encoder.

    Args:
        lists: compiled training set.
        doc_ids: ids of the rows of `doc_vectors`.
        doc_vectors: (n_docs, d) embeddings of the base encoder.
        query_ids: ids of the rows of `query_vectors`.
        query_vectors: (n_queries, d).
        config: loss, curriculum, steps, rates.
        seed: training seed; decides the lists, the start is the identity.
        watch: who is told.

    Returns:
        The map and the report. Same inputs, seed and thread count: same bytes.

    Raises:
        InputError: an id without a vector, or labels that are not scaled.
    """
    import torch

    documents = torch.from_numpy(np.ascontiguousarray(doc_vectors[rows_of(lists.doc_ids, doc_ids, "document")], dtype=np.float32))
    queries = torch.from_numpy(
        np.ascontiguousarray(query_vectors[rows_of(lists.query_ids, query_ids, "query")], dtype=np.float32)
    )
    identity = torch.eye(documents.shape[1])
    shift = torch.zeros_like(identity, requires_grad=True)
    trained = Trained({"map.shift": shift}, new_heads(config))

    def backward(rows: StepLists) -> dict[str, "Tensor"]:
        weight = identity + shift
        embedded_queries = normalise(queries[torch.from_numpy(rows.query)] @ weight.T)
        embedded_documents = normalise(documents[torch.from_numpy(np.maximum(rows.document, 0))] @ weight.T)
        batch = bi_encoder_batch(embedded_queries, embedded_documents, rows, lists, config)
        parts = loss_parts(config.loss, batch, trained.heads, rows.stage.alpha)
        parts["loss"].backward()
        return {name: value.detach() for name, value in parts.items()}

    report = run_steps(trained, lists, config, seed, backward, watch or Watch())
    final = (identity + shift.detach()).numpy()
    return MapCheckpoint(final, *scalars_of(trained.heads)), report


def normalise(vectors: "Tensor") -> "Tensor":
    """Scale vectors along the last axis to length 1."""
    from torch.nn.functional import normalize

    return normalize(vectors, dim=-1)


def bi_encoder_batch(
    queries: "Tensor", documents: "Tensor", rows: StepLists, lists: TrainingLists, config: ListTraining
) -> ListBatch:
    """Score the lists of a step, and every query against the other queries' positives.

    An in-batch document that is a positive of the query itself is never a negative; with `mask_own_pool` neither is any
    document that was judged for it.

    Args:
        queries: (b, d) of length 1.
        documents: (b, l, d) of length 1.
        rows: the step's lists.
        lists: the training set, for membership.
        config: the loss says whether in-batch negatives are used.
    """
    import torch

    in_batch = in_batch_mask = None
    if getattr(config.loss, "in_batch", False):
        own = lists.membership(rows.query, rows.document[:, 0], positives_only=not getattr(config.loss, "mask_own_pool", False))
        in_batch = queries @ documents[:, 0].T
        in_batch_mask = torch.from_numpy(~own).to(queries.device)
    return ListBatch(
        scores=(queries[:, None] * documents).sum(-1),
        labels=torch.from_numpy(rows.label).to(queries.device),
        weights=torch.from_numpy(rows.weight).to(queries.device),
        mask=torch.from_numpy(rows.mask).to(queries.device),
        in_batch=in_batch,
        in_batch_mask=in_batch_mask,
    )
