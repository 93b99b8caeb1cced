"""The curriculum as data: the index lists of every epoch, drawn once, hashed, and a table of them.

Belongs here: compiling a training set to arrays, drawing one list per query and epoch, which step reads which rows. Does not:
choosing negatives (`selection.py`), losses and optimisers (`training/`). Everything is a pure function of (training set,
configuration, seed, epoch), so a resumed run reads what the uninterrupted one would have read.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from anmi_pipeline.errors import InputError
from anmi_pipeline.mining.config import CurriculumStage
from anmi_pipeline.tables import CURRICULUM, TRAINING_SET

PADDING = -1


@dataclass(frozen=True)
class TrainingLists:
    """A training set as arrays: the usable queries, each with all its judged documents (ragged, `starts` cuts them).

    Attributes:
        query_ids: usable queries, sorted.
        doc_ids: documents that occur, sorted.
        starts: (n_queries + 1,) the rows of query i are starts[i]:starts[i + 1].
        query: (n_rows,) index of the row's query.
        document: (n_rows,) index of the row's document, ascending within a query.
        positive: (n_rows,) the document is a positive.
        negative: (n_rows,) the document is a negative.
        label: (n_rows,) scaled label.
        weight: (n_rows,) weight in the contrastive loss, 0..1.
        gap: (n_rows,) Elo points below the best positive.
    """

    query_ids: tuple[str, ...]
    doc_ids: tuple[str, ...]
    starts: NDArray[np.int64]
    query: NDArray[np.int64]
    document: NDArray[np.int64]
    positive: NDArray[np.bool_]
    negative: NDArray[np.bool_]
    label: NDArray[np.float32]
    weight: NDArray[np.float32]
    gap: NDArray[np.float64]

    @cached_property
    def digest(self) -> str:
        """sha256 of ids and arrays."""
        digest = hashlib.sha256("\n".join([*self.query_ids, "", *self.doc_ids]).encode())
        for array in (self.starts, self.query, self.document, self.positive, self.negative, self.label, self.weight, self.gap):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def membership(self, queries: NDArray[np.int64], documents: NDArray[np.int64], *, positives_only: bool) -> NDArray[np.bool_]:
        """Whether each document is among the query's judged documents (or its positives).

        Args:
            queries: (b,) query indices.
            documents: (m,) document indices.
            positives_only: look among the positives only.

        Returns:
            (b, m).
        """
        keys = self.query * len(self.doc_ids) + self.document
        if positives_only:
            keys = keys[self.positive]
        wanted = queries[:, None] * len(self.doc_ids) + documents[None, :]
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return keys[at] == wanted


@dataclass(frozen=True)
class EpochLists:
    """One epoch: a list of documents per query, the positive first, in the order in which queries are read.

    Attributes:
        epoch: from 1.
        stage: the curriculum stage in force.
        query: (n,) query indices of `TrainingLists`, in training order.
        document: (n, list_size) document indices; column 0 is the positive; PADDING where there are too few negatives.
        label: (n, list_size) scaled labels, 0 at padding.
        weight: (n, list_size) contrastive weights, 0 at padding.
        n_at_gap: queries that have a negative at the stage's gap.
    """

    epoch: int
    stage: CurriculumStage
    query: NDArray[np.int64]
    document: NDArray[np.int64]
    label: NDArray[np.float32]
    weight: NDArray[np.float32]
    n_at_gap: int

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(n, list_size) True where there is a document."""
        return self.document != PADDING


def compile_lists(training_set: pl.DataFrame) -> TrainingLists:
    """Turn a TRAINING_SET frame into arrays, leaving out the queries that are unused as a whole.

    Raises:
        InputError: no query is usable; the text repeats the most frequent reason.
    """
    used = training_set.filter((pl.col("role") != "unused").any().over("query_id")).sort("query_id", "doc_id")
    if used.is_empty():
        raise InputError(
            f"{TRAINING_SET.name} has no usable query ({unusable_reason(training_set)}). Nothing can be trained on it."
        )
    query_ids, query = np.unique(used["query_id"].to_numpy(), return_inverse=True)
    doc_ids, document = np.unique(used["doc_id"].to_numpy(), return_inverse=True)
    return TrainingLists(
        query_ids=tuple(query_ids.tolist()),
        doc_ids=tuple(doc_ids.tolist()),
        starts=np.searchsorted(query, np.arange(len(query_ids) + 1)).astype(np.int64),
        query=query.astype(np.int64),
        document=document.astype(np.int64),
        positive=(used["role"] == "positive").to_numpy(),
        negative=(used["role"] == "negative").to_numpy(),
        label=used["label"].to_numpy().astype(np.float32),
        weight=used["weight"].to_numpy().astype(np.float32),
        gap=used["gap"].to_numpy().astype(np.float64),
    )


def unusable_reason(training_set: pl.DataFrame) -> str:
    """Say why a training set has no usable query: its most frequent reason, or that it is empty."""
    if training_set.is_empty():
        return "it has no rows: no training query was judged"
    counts = training_set.group_by("reason").len().sort("len", "reason", descending=[True, False])
    return str(counts["reason"][0])


def stage_at(stages: Sequence[CurriculumStage], epoch: int) -> CurriculumStage:
    """The stage in force in an epoch (from 1): the last one that has begun, or the first before any has."""
    begun = [stage for stage in stages if stage.first_epoch <= epoch]
    return max(begun, key=lambda stage: stage.first_epoch) if begun else min(stages, key=lambda stage: stage.first_epoch)


def epoch_lists(lists: TrainingLists, list_size: int, stages: Sequence[CurriculumStage], epoch: int, seed: int) -> EpochLists:
    """Draw one list per query: one of its positives and up to `list_size` - 1 of its negatives at the stage's gap.

    Draws are uniform without replacement. A query with fewer negatives at that gap gives a shorter list, padded with weight 0.
    A query with none takes its negatives with the widest gaps, so every epoch reads every query once and all epochs have equal
    length: a dataset whose Elo scale is narrow trains all the same.

    Args:
        lists: compiled training set.
        list_size: documents of a list, the positive included.
        stages: the curriculum.
        epoch: from 1.
        seed: training seed.
    """
    stage = stage_at(stages, epoch)
    generator = np.random.default_rng([seed, epoch])
    n_queries = len(lists.query_ids)
    draw = generator.random(len(lists.query))
    order = generator.permutation(n_queries)

    positive_rows = first_rows(lists.query, draw, lists.positive, 1)
    at_gap = lists.negative & (lists.gap >= stage.min_gap)
    has = np.zeros(n_queries, dtype=bool)
    has[lists.query[at_gap]] = True
    # Without a negative at this gap the widest gaps come first; draws lie in [0, 1), so ties stay random.
    key = np.where(has[lists.query], draw, draw - 2 * lists.gap)
    negative_rows = first_rows(lists.query, key, np.where(has[lists.query], at_gap, lists.negative), list_size - 1)

    rows = np.full((n_queries, list_size), PADDING, dtype=np.int64)
    for chosen, offset in ((positive_rows, 0), (negative_rows, 1)):
        query, row, place = chosen
        rows[query, place + offset] = row
    rows = rows[order]
    filled = rows != PADDING
    return EpochLists(
        epoch=epoch,
        stage=stage,
        query=order.astype(np.int64),
        document=np.where(filled, lists.document[rows], PADDING),
        label=np.where(filled, lists.label[rows], np.float32(0)),
        weight=np.where(filled, lists.weight[rows], np.float32(0)),
        n_at_gap=int(has.sum()),
    )


def first_rows(
    query: NDArray[np.int64], key: NDArray[np.float64], eligible: NDArray[np.bool_], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The `count` eligible rows of each query with the smallest keys.

    Args:
        query: (n,) ascending query index of each row.
        key: (n,) sort key.
        eligible: (n,) rows that may be taken.
        count: most rows of a query.

    Returns:
        Query index, row and place within the query (from 0) of each taken row.
    """
    rows = np.flatnonzero(eligible)
    rows = rows[np.lexsort((key[rows], query[rows]))]
    owner = query[rows]
    place = np.arange(len(rows)) - np.searchsorted(owner, owner)
    kept = place < count
    return owner[kept], rows[kept], place[kept]


def steps_per_epoch(n_queries: int, batch_queries: int) -> int:
    """Steps in which one epoch is read: batches of nearly equal size, none larger than `batch_queries`."""
    return -(-n_queries // batch_queries)


def step_rows(n_queries: int, batch_queries: int, step: int) -> tuple[int, slice]:
    """Which epoch (from 1) and which of its rows a global step (from 0) reads."""
    per_epoch = steps_per_epoch(n_queries, batch_queries)
    epoch, part = divmod(step, per_epoch)
    return epoch + 1, slice(part * n_queries // per_epoch, (part + 1) * n_queries // per_epoch)


def epoch_digest(lists: TrainingLists, epoch: EpochLists) -> str:
    """sha256 of an epoch's index list and of the training set it indexes."""
    digest = hashlib.sha256(lists.digest.encode())
    for array in (epoch.query, epoch.document):
        digest.update(np.ascontiguousarray(array, dtype="<i8").tobytes())
    return digest.hexdigest()


def curriculum_table(
    lists: TrainingLists, list_size: int, stages: Sequence[CurriculumStage], epochs: int, seeds: Sequence[int]
) -> pl.DataFrame:
    """Materialise every epoch for every training seed and hash it.

    Returns:
        CURRICULUM frame, epochs 1..`epochs`; `index_digest` covers the seeds in the order given.
    """
    rows: list[dict[str, object]] = []
    for epoch in range(1, epochs + 1):
        drawn = [epoch_lists(lists, list_size, stages, epoch, seed) for seed in seeds]
        digests = "\n".join(epoch_digest(lists, one) for one in drawn)
        stage = stage_at(stages, epoch)
        rows.append(
            {
                "epoch": epoch,
                "min_gap": stage.min_gap,
                "alpha": stage.alpha,
                "n_queries": drawn[0].n_at_gap if drawn else 0,
                "index_digest": hashlib.sha256(digests.encode()).hexdigest(),
            }
        )
    return CURRICULUM.frame(rows)
