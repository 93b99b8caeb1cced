"""Certificates of comparison graphs: what a design can and cannot tell, known before a cent is spent.

Belongs here: components, degrees, diameter, algebraic connectivity, effective resistance. Does not: drawing designs
(`designs.py`) and uncertainty after the verdicts (`fit.py`).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import polars as pl

from anmi_pipeline.errors import InputError
from anmi_pipeline.rating.graphs import Bools, Floats, GraphBatch, Ints, graph_batch, laplacians
from anmi_pipeline.tables import CERTIFICATES


@dataclass(frozen=True)
class Certificate:
    """What one comparison graph is worth; columns of `tables.CERTIFICATES`. -1 stands for what a disconnected graph lacks."""

    n_documents: int
    n_pairs: int
    components: int
    min_degree: int
    max_degree: int
    diameter: int
    algebraic_connectivity: float
    mean_resistance: float
    max_resistance: float
    resistance_bound: float

    def row(self, query_id: str) -> dict[str, object]:
        """One row of `tables.CERTIFICATES`."""
        return {"query_id": query_id, **asdict(self)}


def certificate(n: int, edges: Ints) -> Certificate:
    """Certify one graph.

    Args:
        n: documents.
        edges: (E, 2) pairs of local document indices; a repeated pair counts once.

    Raises:
        InputError: an index out of range or a pair of a document with itself.
    """
    pairs = np.asarray(edges, dtype=np.int64).reshape(-1, 2)
    return certify(graph_batch(np.array([n]), np.array([0, len(pairs)]), pairs[:, 0], pairs[:, 1]))[0]


def certificates(query_ids: Sequence[str], n_items: Sequence[int], edges: Sequence[Ints]) -> pl.DataFrame:
    """Certify the graphs of many queries: one row of `tables.CERTIFICATES` each.

    Args:
        query_ids: Q names.
        n_items: Q numbers of documents.
        edges: Q arrays (E_q, 2).
    """
    if not len(query_ids) == len(n_items) == len(edges):
        raise InputError(
            f"{len(query_ids)} queries, {len(n_items)} sizes and {len(edges)} graphs were given; one each is needed."
        )
    pairs = np.concatenate([np.zeros((0, 2), dtype=np.int64), *edges])
    pointer = np.cumsum([0, *(len(graph) for graph in edges)])
    found = certify(graph_batch(np.array(n_items, dtype=np.int64), pointer, pairs[:, 0], pairs[:, 1]))
    return CERTIFICATES.frame([made.row(query_id) for query_id, made in zip(query_ids, found, strict=True)])


def certify(batch: GraphBatch) -> list[Certificate]:
    """Certify every graph of a batch, in stacks of equal size."""
    found: list[Certificate | None] = [None] * len(batch.n_items)
    for block in batch.blocks():
        shape = (len(block.queries), block.n, block.n)
        linked = np.zeros(shape, dtype=np.bool_)
        i, j = batch.i[block.edges], batch.j[block.edges]
        linked[block.slot, i, j] = linked[block.slot, j, i] = True
        for query, made in zip(block.queries, certify_stack(linked, batch.components[block.queries]), strict=True):
            found[int(query)] = made
    return [made for made in found if made is not None]


def certify_stack(linked: Bools, components: Ints) -> list[Certificate]:
    """Certify a stack of adjacency matrices (B, n, n).

    Equation: mean effective resistance over pairs = 2 / (n - 1) * sum of 1 / lambda over the non-zero Laplacian eigenvalues; no
    graph with m edges has a mean below (n - 1) / m (Foster's theorem and convexity).
    """
    count, n, _ = linked.shape
    if n == 0:
        return [Certificate(0, 0, 0, 0, 0, 0, 0.0, 0.0, 0.0, 0.0)] * count
    degrees = linked.sum(axis=2)
    pairs = degrees.sum(axis=1) // 2
    connected = components == 1
    slot, i, j = np.nonzero(np.triu(linked))
    stack = laplacians(n, count, slot.astype(np.int64), i.astype(np.int64), j.astype(np.int64), np.ones(len(slot)))
    second = np.where(connected, np.linalg.eigvalsh(stack)[:, min(1, n - 1)], 0.0)
    far = np.where(connected, diameters(linked), -1)
    mean, largest = resistances(stack, connected)
    bound = np.where(pairs > 0, (n - 1) / np.maximum(pairs, 1), 0.0 if n == 1 else -1.0)
    return [
        Certificate(
            n, int(pairs[b]), int(components[b]), int(degrees[b].min()), int(degrees[b].max()), int(far[b]),
            float(second[b]), float(mean[b]), float(largest[b]), float(bound[b]),
        )
        for b in range(count)
    ]  # fmt: skip


def diameters(linked: Bools) -> Ints:
    """(B,) longest shortest path of each connected graph: the power at which (I + A)^d stops reaching new pairs."""
    count, n, _ = linked.shape
    step = linked.astype(np.float32) + np.eye(n, dtype=np.float32)
    reached = np.broadcast_to(np.eye(n, dtype=np.bool_), linked.shape)
    far = np.zeros(count, dtype=np.int64)
    active = np.arange(count)
    while len(active):
        grown = (reached.astype(np.float32) @ step[active]) > 0
        moved = (grown != reached).any(axis=(1, 2))
        far[active[moved]] += 1
        active, reached = active[moved], grown[moved]
    return far


def resistances(stack: Floats, connected: Bools) -> tuple[Floats, Floats]:
    """(B,) mean and largest effective resistance over all pairs; -1 for disconnected graphs, 0 for a single document."""
    count, n, _ = stack.shape
    mean, largest = np.full(count, -1.0), np.full(count, -1.0)
    if n == 1:
        return np.zeros(count), np.zeros(count)
    if connected.any():
        inverse = np.linalg.inv(stack[connected] + 1.0 / n)
        own = np.diagonal(inverse, axis1=1, axis2=2)
        between = own[:, :, None] + own[:, None, :] - 2 * inverse
        mean[connected] = between.sum(axis=(1, 2)) / (n * (n - 1))
        largest[connected] = between.max(axis=(1, 2))
    return mean, largest
