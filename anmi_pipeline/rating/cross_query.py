"""Levels of queries from verdicts across them, "is (q1, d1) more relevant to q1 than (q2, d2) to q2?".

Belongs here: the offset of each query from such verdicts, by the link that rated the documents. Does not: anchors and
probabilities (`calibration.py`, which takes these offsets).
"""

import numpy as np
import polars as pl

from anmi_pipeline.errors import ConvergenceError, InputError
from anmi_pipeline.rating.config import Model
from anmi_pipeline.rating.graphs import Floats, Ints, summed
from anmi_pipeline.rating.likelihood import edge_derivatives, edge_log_likelihood

MAX_STEPS = 100
TOLERANCE = 1e-9


def cross_query_offsets(
    elo: pl.DataFrame, verdicts: pl.DataFrame, *, model: Model = "thurstone", precision: float = 0.05
) -> pl.DataFrame:
    """Estimate how much must be added to the theta of each query to make them comparable.

    Equation: P(first is more relevant) = F(o_q1 + theta_1 - o_q2 - theta_2), F = Phi or logistic, theta as rated; o maximises the
    weighted log-likelihood - precision / 2 * |o|^2 (which also holds queries that no verdict reaches at 0), then sum o = 0 over
    each connected set of queries. One level for all stays open: anchors on a few queries fix it.

    Args:
        elo: `tables.ELO`.
        verdicts: first_query, first_doc, second_query, second_doc, p_first in 0..1 and perhaps weight.
        model: the link that theta was fitted with.
        precision: precision of the prior on offsets.

    Returns:
        query_id, offset, compared (verdicts it takes part in), of every query of `elo`, sorted.

    Raises:
        InputError: a document that is not rated, a verdict within one query, or a number out of range.
        ConvergenceError: no optimum was found.
    """
    queries = elo.select("query_id").unique().sort("query_id").with_row_index("place")
    rows = placed(verdicts, elo, queries)
    weight = rows["weight"].to_numpy() if "weight" in rows.columns else np.ones(rows.height)
    head, tail = rows["first_place"].to_numpy().astype(np.int64), rows["second_place"].to_numpy().astype(np.int64)
    p, gap = rows["p_first"].to_numpy(), (rows["first_theta"] - rows["second_theta"]).to_numpy()
    check_verdicts(rows, head == tail, p, weight, precision)
    offset = centred(solve(head, tail, gap, p, weight, queries.height, model, precision), head, tail)
    compared = np.bincount(np.r_[head, tail], minlength=queries.height)
    return queries.select("query_id", offset=pl.Series(offset), compared=pl.Series(compared.astype(np.int64)))


def placed(verdicts: pl.DataFrame, elo: pl.DataFrame, queries: pl.DataFrame) -> pl.DataFrame:
    """Add place of the query and theta of the document for both sides.

    Raises:
        InputError: a document that is not rated.
    """
    known = elo.select("query_id", "doc_id", "theta").join(queries, on="query_id")
    rows = verdicts.cast({name: pl.String for name in ("first_query", "first_doc", "second_query", "second_doc")})
    for side in ("first", "second"):
        names = {"query_id": f"{side}_query", "doc_id": f"{side}_doc", "theta": f"{side}_theta", "place": f"{side}_place"}
        rows = rows.join(known.rename(names), on=[f"{side}_query", f"{side}_doc"], how="left", maintain_order="left")
        lost = rows.filter(pl.col(f"{side}_theta").is_null())
        if lost.height:
            row = lost.row(0, named=True)
            raise InputError(
                f"{lost.height} verdict(s) across queries name documents without an Elo, first {row[f'{side}_doc']} of query "
                f"{row[f'{side}_query']}. Compare rated documents only."
            )
    return rows


def check_verdicts(rows: pl.DataFrame, within: np.ndarray, p: Floats, weight: Floats, precision: float) -> None:
    """Refuse verdicts that say nothing about queries."""
    bad = within | ~((p >= 0) & (p <= 1)) | ~(np.isfinite(weight) & (weight >= 0))
    if bad.any():
        row = rows.row(int(np.argmax(bad)), named=True)
        raise InputError(
            f"verdict on {row['first_doc']} of query {row['first_query']} and {row['second_doc']} of {row['second_query']} has "
            f"p_first {row['p_first']}; it needs two different queries, a number in 0..1 and a finite weight of 0 or more. "
            f"{int(bad.sum())} verdict(s) are like this."
        )
    if not 0 < precision < np.inf:
        raise InputError(f"precision of the offsets is {precision}; it must be a positive number.")


def solve(head: Ints, tail: Ints, gap: Floats, p: Floats, weight: Floats, size: int, model: Model, precision: float) -> Floats:
    """Maximise the penalised likelihood by Newton's method with halved steps.

    Raises:
        ConvergenceError: the gradient did not vanish.
    """
    from scipy.sparse import coo_array, diags_array
    from scipy.sparse.linalg import splu

    offset = np.zeros(size)

    def objective(at: Floats) -> float:
        return float(weight @ edge_log_likelihood(gap + at[head] - at[tail], p, model)) - precision / 2 * float(at @ at)

    for _ in range(MAX_STEPS):
        slope, curvature = edge_derivatives(gap + offset[head] - offset[tail], p, model)
        pull = weight * slope
        gradient = summed(head, pull, size) - summed(tail, pull, size) - precision * offset
        if np.abs(gradient).max(initial=0.0) < TOLERANCE * max(1.0, float(weight.sum())):
            return offset
        c = weight * curvature
        index = (np.r_[head, tail, head, tail], np.r_[head, tail, tail, head])
        hessian = coo_array((np.r_[c, c, -c, -c], index), shape=(size, size)) + diags_array(np.full(size, precision))
        step, length, now = splu(hessian.tocsc()).solve(gradient), 1.0, objective(offset)
        while objective(offset + length * step) < now - 1e-12 * abs(now) and length > 2.0**-30:
            length /= 2
        offset = offset + length * step
    raise ConvergenceError(f"the offsets of {size} queries did not settle in {MAX_STEPS} steps; raise precision ({precision}).")


def centred(offset: Floats, head: Ints, tail: Ints) -> Floats:
    """Shift each connected set of queries to sum 0."""
    from anmi_pipeline.rating.graphs import graph_components

    labels = graph_components(len(offset), head, tail)
    means = np.bincount(labels, weights=offset) / np.maximum(np.bincount(labels), 1)
    return offset - means[labels]
