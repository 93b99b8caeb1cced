"""Neighbour lists, components and separation of many comparison graphs.

Belongs here: what the solver needs to know of a graph, in one pass per query. Does not: certificates (`certificates.py`).
"""

import numpy as np

from anmi_pipeline.rating.graphs import Bools, Floats, Ints
from anmi_pipeline.rating.kernels.compiling import Labels, Signed, Unsigned, compiled

GOOD, BAD_INDEX, SELF_LOOP, BAD_WEIGHT, BAD_PREFERENCE = 0, 1, 2, 3, 4
"""What is wrong with an edge."""


@compiled
def first_bad_edge(
    first: int, last: int, n_items: Ints, edge_ptr: Ints, i: Signed, j: Signed, w: Floats, weight: Floats, weighted: bool
) -> tuple[int, int]:
    """Find the first edge that no fit can use among those of queries first..last - 1: (edge, what is wrong) or (-1, GOOD)."""
    for query in range(first, last):
        n = n_items[query]
        for e in range(edge_ptr[query], edge_ptr[query + 1]):
            if i[e] < 0 or i[e] >= n or j[e] < 0 or j[e] >= n:
                return e, BAD_INDEX
            if i[e] == j[e]:
                return e, SELF_LOOP
            if weighted and not (weight[e] >= 0.0 and weight[e] < np.inf):
                return e, BAD_WEIGHT
            if not (w[e] >= 0.0 and w[e] <= 1.0):
                return e, BAD_PREFERENCE
    return -1, GOOD


@compiled
def neighbours(
    n: int, start: int, stop: int, i: Unsigned, j: Unsigned, row: Unsigned, column: Unsigned, edge: Unsigned, cursor: Ints
) -> None:
    """Write the neighbour lists of one graph: those of node u are column[row[u]:row[u + 1]], by the edges of the same places."""
    for u in range(n + 1):
        row[u] = 0
    for e in range(start, stop):
        row[i[e] + 1] += 1
        row[j[e] + 1] += 1
    for u in range(n):
        row[u + 1] += row[u]
        cursor[u] = row[u]
    for e in range(start, stop):
        a, b = i[e], j[e]
        column[cursor[a]] = b
        edge[cursor[a]] = e - start
        cursor[a] += 1
        column[cursor[b]] = a
        edge[cursor[b]] = e - start
        cursor[b] += 1


@compiled
def reach(root: int, row: Unsigned, column: Unsigned, edge: Unsigned, live: Bools, label: Labels, mark: int, queue: Ints) -> int:
    """Label all nodes that live edges connect to root; returns their number."""
    label[root] = mark
    queue[0] = root
    head, tail = 0, 1
    while head < tail:
        u = queue[head]
        head += 1
        for k in range(row[u], row[u + 1]):
            v = column[k]
            if label[v] < 0 and live[edge[k]]:
                label[v] = mark
                queue[tail] = v
                tail += 1
    return tail


@compiled
def wins(
    root: int,
    start: int,
    row: Unsigned,
    column: Unsigned,
    edge: Unsigned,
    i: Unsigned,
    w: Floats,
    live: Bools,
    upward: bool,
    seen: Ints,
    stamp: int,
    queue: Ints,
) -> int:
    """Count the nodes that root reaches over live edges by beating with positive weight (upward: by being beaten)."""
    seen[root] = stamp
    queue[0] = root
    head, tail = 0, 1
    while head < tail:
        u = queue[head]
        head += 1
        for k in range(row[u], row[u + 1]):
            v, e = column[k], edge[k]
            if seen[v] == stamp or not live[e]:
                continue
            share = w[start + e] if i[start + e] == u else 1.0 - w[start + e]
            if upward:
                share = 1.0 - share
            if share > 0.0:
                seen[v] = stamp
                queue[tail] = v
                tail += 1
    return tail


@compiled
def survey(
    first: int,
    last: int,
    n_items: Ints,
    edge_ptr: Ints,
    i: Unsigned,
    j: Unsigned,
    w: Floats,
    weight: Floats,
    weighted: bool,
    rows: Unsigned,
    columns: Unsigned,
    edges: Unsigned,
    labels: Labels,
    components: Ints,
    separable: Bools,
) -> None:
    """Describe the graphs of queries first..last - 1.

    Writes neighbour lists (rows, columns, edges), the component of each document (labels, from 0 in document order), components
    per query, and whether no finite maximum-likelihood score exists: whether "beats with positive weight" fails to be strongly
    connected within a component (Ford, 1957). An edge of weight 0 connects nothing, but stays in the lists.
    """
    widest, longest = 0, 0
    for query in range(first, last):
        widest = max(widest, n_items[query])
        longest = max(longest, edge_ptr[query + 1] - edge_ptr[query])
    cursor, queue = np.empty(widest + 1, np.int64), np.empty(widest + 1, np.int64)
    seen, live = np.empty(widest, np.int64), np.empty(longest, np.bool_)
    document, entry = 0, 0
    for query in range(first, last):
        n, start, stop = n_items[query], edge_ptr[query], edge_ptr[query + 1]
        row = rows[document + query - first : document + query - first + n + 1]
        column, edge = columns[entry : entry + 2 * (stop - start)], edges[entry : entry + 2 * (stop - start)]
        neighbours(n, start, stop, i, j, row, column, edge, cursor)
        hard = False
        for e in range(start, stop):
            live[e - start] = not weighted or weight[e] > 0.0
            hard = hard or (live[e - start] and (w[e] <= 0.0 or w[e] >= 1.0))
        label = labels[document : document + n]
        label[:] = -1
        found, apart, stamp = 0, False, 0
        seen[:n] = -1
        for u in range(n):
            if label[u] >= 0:
                continue
            size = reach(u, row, column, edge, live, label, found, queue)
            found += 1
            if hard and size > 1 and not apart:
                down = wins(u, start, row, column, edge, i, w, live, False, seen, 2 * stamp, queue)
                up = wins(u, start, row, column, edge, i, w, live, True, seen, 2 * stamp + 1, queue)
                apart = down < size or up < size
                stamp += 1
        components[query], separable[query] = found, apart
        document += n
        entry += 2 * (stop - start)
