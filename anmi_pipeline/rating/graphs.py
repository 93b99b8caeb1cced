"""Many comparison graphs on flat arrays: checking, grouping by size, components, effective resistance.

Belongs here: the array layout that certificates and fits share. Does not: likelihoods (`likelihood.py`) and frames (`elo.py`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from anmi_pipeline.errors import InputError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

MAX_ITEMS = 5_000
"""Most documents of one graph that is certified: a certificate holds n x n numbers (200 MB each at this size)."""

BLOCK_NUMBERS = 1 << 20
"""Numbers in one stack of n x n matrices: 8 MB, so that a stack stays near the caches."""


@dataclass(frozen=True)
class GraphBatch:
    """The comparison graphs of Q queries with E edges.

    Attributes:
        n_items: (Q,) documents per query.
        edge_ptr: (Q + 1,) edges of query q are edge_ptr[q] to edge_ptr[q + 1].
        i: (E,) local index of the first document.
        j: (E,) local index of the second document.
        weight: (E,) evidence of the edge, in verdicts; an edge of weight 0 connects nothing.
    """

    n_items: Ints
    edge_ptr: Ints
    i: Ints
    j: Ints
    weight: Floats

    @cached_property
    def offsets(self) -> Ints:
        """(Q + 1,) position of each query's first document in flat arrays over documents."""
        return np.concatenate(([0], np.cumsum(self.n_items))).astype(np.int64)

    @cached_property
    def edge_query(self) -> Ints:
        """(E,) query of each edge."""
        return np.repeat(np.arange(len(self.n_items)), np.diff(self.edge_ptr)).astype(np.int64)

    @cached_property
    def head(self) -> Ints:
        """(E,) flat index of the first document."""
        return self.offsets[self.edge_query] + self.i

    @cached_property
    def tail(self) -> Ints:
        """(E,) flat index of the second document."""
        return self.offsets[self.edge_query] + self.j

    @cached_property
    def labels(self) -> Ints:
        """(sum n,) connected component of each document within its query, from 0 in the order of documents."""
        return local_labels(self.global_labels, self.offsets)

    @cached_property
    def global_labels(self) -> Ints:
        """(sum n,) connected component of each document over the whole batch."""
        live = self.weight > 0
        return graph_components(int(self.offsets[-1]), self.head[live], self.tail[live])

    @cached_property
    def components(self) -> Ints:
        """(Q,) connected components per query."""
        return labels_per_query(self.global_labels, self.offsets)

    def degrees(self) -> Ints:
        """(sum n,) edges with evidence of each document."""
        live = self.weight > 0
        size = int(self.offsets[-1])
        return np.bincount(self.head[live], minlength=size) + np.bincount(self.tail[live], minlength=size)

    def blocks(self) -> "Iterator[Block]":
        """Cut the batch into stacks of queries with equally many documents; the cut depends on the sizes alone.

        Raises:
            InputError: a query too large for dense matrices.
        """
        if len(self.n_items) and self.n_items.max() > MAX_ITEMS:
            raise InputError(
                f"query {int(np.argmax(self.n_items))} has {int(self.n_items.max())} documents; certificates and effective "
                f"resistances take at most {MAX_ITEMS} per query. Compare a smaller pool."
            )
        for n in np.unique(self.n_items):
            queries = np.flatnonzero(self.n_items == n)
            step = max(1, BLOCK_NUMBERS // max(1, int(n) ** 2))
            for start in range(0, len(queries), step):
                yield self.block(queries[start : start + step], int(n))

    def block(self, queries: Ints, n: int) -> "Block":
        """Gather the edges of some equally large queries."""
        counts = self.edge_ptr[queries + 1] - self.edge_ptr[queries]
        slot = np.repeat(np.arange(len(queries)), counts)
        within = np.arange(len(slot)) - np.repeat(np.cumsum(counts) - counts, counts)
        edges = (np.repeat(self.edge_ptr[queries], counts) + within).astype(np.int64)
        documents = self.offsets[queries][:, None] + np.arange(n)
        return Block(queries, documents, edges, slot.astype(np.int64), n)


@dataclass(frozen=True)
class Block:
    """A stack of B queries with n documents each.

    Attributes:
        queries: (B,) positions in the batch.
        documents: (B, n) flat document indices.
        edges: (e,) edges of these queries.
        slot: (e,) position of each edge's query in the stack.
        n: documents per query.
    """

    queries: Ints
    documents: Ints
    edges: Ints
    slot: Ints
    n: int


def graph_batch(n_items: Ints, edge_ptr: Ints, i: npt.ArrayLike, j: npt.ArrayLike, weight: Floats | None = None) -> GraphBatch:
    """Check flat arrays and wrap them.

    Raises:
        InputError: arrays that do not fit together, an index out of range, a self-loop or a weight that is negative or not
            finite; names query and edge.
    """
    sizes, pointer = np.asarray(n_items, dtype=np.int64), np.asarray(edge_ptr, dtype=np.int64)
    head, tail = np.asarray(i, dtype=np.int64), np.asarray(j, dtype=np.int64)
    weights = np.ones(len(head)) if weight is None else np.asarray(weight, dtype=np.float64)
    check_shapes(sizes, pointer, len(head), len(tail), len(weights))
    batch = GraphBatch(sizes, pointer, head, tail, weights)
    bound = sizes[batch.edge_query]
    refuse(batch, (head < 0) | (head >= bound) | (tail < 0) | (tail >= bound), "names a document outside its query")
    refuse(batch, head == tail, "compares a document with itself")
    refuse(batch, ~(np.isfinite(weights) & (weights >= 0)), "has a weight that is negative or not finite", weights)
    return batch


def check_shapes(sizes: Ints, pointer: Ints, heads: int, tails: int, weights: int) -> None:
    """Refuse arrays whose lengths contradict each other."""
    if len(pointer) != len(sizes) + 1 or pointer[0] != 0 or (np.diff(pointer) < 0).any() or pointer[-1] != heads:
        raise InputError(
            f"edge_ptr has {len(pointer)} entries for {len(sizes)} queries and {heads} edges; it must have one entry more "
            "than queries, start at 0, never fall and end at the number of edges."
        )
    if not heads == tails == weights:
        raise InputError(f"i, j and weight have {heads}, {tails} and {weights} entries; they must be equally long.")
    if (sizes < 0).any():
        raise InputError(f"query {int(np.argmax(sizes < 0))} has {int(sizes.min())} documents; the number must be 0 or more.")


def refuse(batch: GraphBatch, bad: Bools, complaint: str, values: Floats | None = None) -> None:
    """Raise an InputError that names the first bad edge."""
    if not bad.any():
        return
    edge = int(np.argmax(bad))
    query = int(batch.edge_query[edge])
    value = "" if values is None else f": {values[edge]}"
    raise InputError(
        f"query {query} ({int(batch.n_items[query])} documents), edge {edge - int(batch.edge_ptr[query])} "
        f"(i={int(batch.i[edge])}, j={int(batch.j[edge])}) {complaint}{value}. {int(bad.sum())} edge(s) are like this; "
        "correct the comparisons."
    )


def graph_components(size: int, head: Ints, tail: Ints, *, strong: bool = False) -> Ints:
    """Label the connected (strong: strongly connected) components of a graph over `size` nodes."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not size:
        return np.zeros(0, dtype=np.int64)
    links = coo_array((np.ones(len(head), dtype=np.int8), (head, tail)), shape=(size, size)).tocsr()
    _, labels = connected_components(links, directed=strong, connection="strong" if strong else "weak")
    return np.asarray(labels, dtype=np.int64)


def labels_per_query(labels: Ints, offsets: Ints) -> Ints:
    """(Q,) distinct labels among each query's documents; components never cross queries."""
    first = np.zeros(len(labels), dtype=np.int64)
    first[np.unique(labels, return_index=True)[1]] = 1
    running = np.concatenate(([0], np.cumsum(first)))
    return running[offsets[1:]] - running[offsets[:-1]]


def local_labels(labels: Ints, offsets: Ints) -> Ints:
    """Renumber batch-wide component labels from 0 within each query, in the order of their first document."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))[inverse]
    sizes = np.diff(offsets)
    starts = (
        np.where(sizes > 0, order[np.minimum(offsets[:-1], len(order) - 1)], 0)
        if len(order)
        else np.zeros(len(sizes), dtype=np.int64)
    )
    return (order - np.repeat(starts, sizes)).astype(np.int64)


def summed(index: Ints, values: Floats, size: int) -> Floats:
    """(size,) sum of the values at each index, in their order."""
    return np.asarray(np.bincount(index, weights=values, minlength=size), dtype=np.float64)


def gauge(labels: Ints) -> Floats:
    """Project on the constants of each component: (B, n, n) with 1 / n_c where two documents share component c.

    Adding it to a Laplacian makes the matrix regular without touching differences inside a component.
    """
    same = (labels[:, :, None] == labels[:, None, :]).astype(np.float64)
    return same / np.maximum(same.sum(axis=2, keepdims=True), 1.0)


def laplacians(n: int, count: int, slot: Ints, i: Ints, j: Ints, weight: Floats) -> Floats:
    """Stack the weighted Laplacians of `count` graphs with n nodes: (count, n, n)."""
    base, size = slot * (n * n), count * n * n
    stack = -(summed(base + i * n + j, weight, size) + summed(base + j * n + i, weight, size)).reshape(count, n, n)
    diagonal = np.arange(n)
    stack[:, diagonal, diagonal] -= stack.sum(axis=2)
    return stack


def effective_resistance(batch: GraphBatch) -> Floats:
    """Effective resistance between the ends of each edge, in 1/weight: the variance of their estimated difference up to a factor.

    Equation: R_ij = M_ii + M_jj - 2 M_ij with M the pseudo-inverse of the weighted Laplacian. Source: Klein and Randic, J. Math.
    Chem. 12 (1993). An edge of weight 0 between two components gets infinity.

    Returns:
        (E,) resistances.
    """
    result = np.zeros(len(batch.i))
    for block in batch.blocks():
        if not len(block.edges):
            continue
        i, j = batch.i[block.edges], batch.j[block.edges]
        labels = batch.labels[block.documents]
        stack = laplacians(block.n, len(block.queries), block.slot, i, j, batch.weight[block.edges])
        inverse = np.linalg.inv(stack + gauge(labels))
        value = inverse[block.slot, i, i] + inverse[block.slot, j, j] - 2 * inverse[block.slot, i, j]
        result[block.edges] = np.where(labels[block.slot, i] == labels[block.slot, j], value, np.inf)
    return result
