"""The audit queue: the disagreements that a human should settle first, out as a CSV.

Belongs here: which pairs are worth a human's minute, and the file. Does not: a page to answer on, reading the answers
(`answers.py`), the ledger. The file will be opened in a spreadsheet: texts cannot become formulas, and a row is known by its key
and not by its place.
"""

import csv
import hashlib
import io
from pathlib import Path

import numpy as np
import polars as pl

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.beliefs import QueryBelief, entropy
from anmi_pipeline.judging.judges import JudgeEvidence
from anmi_pipeline.judging.verdicts import OK
from anmi_pipeline.rating.comparisons import PAIR
from anmi_pipeline.rating.graphs import Floats, Ints
from anmi_pipeline.rating.likelihood import inverse_mills

HUMAN = "human"
"""Name of the judge that people are, and the provenance of their verdicts."""
TOP = 10
CANDIDATES = 20
"""Per query, how many of the largest disagreements have their effect on the top computed."""
CHARACTERS = 1_500
"""Most characters of a document in the file; a spreadsheet's cell holds 32,767."""
COLUMNS = (
    "key", "query_id", "doc_a", "doc_b", "query", "text_a", "text_b", "answer", "comment", "judges", "fit_a", "disagreement",
    "value",
)  # fmt: skip
"""Columns of the file. `answer` is for the human: a, b, tie, or a number 0..1 = P(a is more relevant); empty: not answered."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")

QUEUE = {
    "query_id": pl.String(),
    "doc_i": pl.String(),
    "doc_j": pl.String(),
    "judges": pl.String(),  # judge: P(doc_i wins), each
    "fitted": pl.Float64(),  # P(doc_i wins) of the fit
    "disagreement": pl.Float64(),  # between the judges and the fit, bits
    "discount": pl.Float64(),  # 1 / (log2(rank_i + 1) log2(rank_j + 1))
    "effect": pl.Float64(),  # share of the top 10's discounts that a contradicting answer would move
    "value": pl.Float64(),  # their product
}
"""Columns of `audit_queue`."""


def audit_queue(judgments: pl.DataFrame, beliefs: list[QueryBelief], count: int = 100, weight: float = 1.0) -> pl.DataFrame:
    """Choose the disagreements that are worth the most.

    Equation: value = disagreement * discount * effect. Disagreement: the Jensen-Shannon divergence between the judges' folded
    probabilities of the pair and the fit's, H(mean p) - mean H(p), 0..1 bit. Effect: half the sum over documents of |change of
    the discount 1 / log2(rank + 1) within the top 10| over the sum of these discounts, when one verdict against the fit moves
    the scores by one Newton step, theta + s C e, s its slope at the mode.

    Args:
        judgments: JUDGMENTS frame; pairs that a human answered are left out.
        beliefs: `beliefs.query_beliefs` of the same verdicts.
        count: most pairs.
        weight: evidence in a human's answer, in verdicts.

    Returns:
        QUEUE columns, the most valuable first.

    Raises:
        InputError: a count below 1, or a judged document without a belief.
    """
    if count < 1:
        raise InputError(f"an audit queue of {count} pairs was asked for; ask for 1 or more.")
    asked = spoken(judgments).partition_by("query_id", as_dict=True)
    parts = [pl.DataFrame(schema=QUEUE)]
    for belief in beliefs:
        own = asked.get((belief.query_id,))
        if own is not None and len(belief.documents) > 1:
            parts.append(valued(own, belief, weight))
    # Where no single answer would move the top, the larger and higher disagreement still comes first.
    order = [pl.col("value"), pl.col("disagreement") * pl.col("discount"), *(pl.col(name) for name in PAIR)]
    return pl.concat(parts).sort(order, descending=[True, True, False, False, False]).head(count)


def spoken(judgments: pl.DataFrame) -> pl.DataFrame:
    """PAIR, probabilities of the pair's judges and their text; pairs without a human's answer."""
    swapped = pl.col("first_id") > pl.col("second_id")
    rows = judgments.filter(pl.col("status") == OK).select(
        "query_id",
        "judge",
        doc_i=pl.min_horizontal("first_id", "second_id"),
        doc_j=pl.max_horizontal("first_id", "second_id"),
        p=pl.when(swapped).then(1 - pl.col("p_first")).otherwise("p_first"),
        human=(pl.col("provenance") == HUMAN) | (pl.col("judge").str.split("/").list.first() == HUMAN),
    )
    done = rows.filter(pl.col("human")).select(PAIR)
    folded = rows.join(done, on=PAIR, how="anti").group_by(*PAIR, "judge").agg(pl.col("p").mean()).sort(*PAIR, "judge")
    said = pl.format("{}: {}", "judge", pl.col("p").round(3)).str.join("; ")
    return folded.group_by(PAIR, maintain_order=True).agg(p=pl.col("p"), judges=said)


def valued(pairs: pl.DataFrame, belief: QueryBelief, weight: float) -> pl.DataFrame:
    """QUEUE rows of one query's largest disagreements."""
    place = {document: number for number, document in enumerate(belief.documents)}
    lost = [doc for end in ("doc_i", "doc_j") for doc in pairs[end] if doc not in place]
    if lost:
        raise InputError(
            f"document {lost[0]} of query {belief.query_id} was judged but has no score. Rate the pool that was judged."
        )
    ends = np.column_stack([[place[doc] for doc in pairs[end]] for end in ("doc_i", "doc_j")]).astype(np.int64)
    fitted = belief.probabilities(ends)
    voices = [np.array([*own, p]) for own, p in zip(pairs["p"].to_list(), fitted.tolist(), strict=True)]
    apart = np.array([float(entropy(p.mean()) - entropy(p).mean()) for p in voices])
    own = belief.discounts()
    discount = own[ends[:, 0]] * own[ends[:, 1]]
    first = np.argsort(-apart * discount, kind="stable")[:CANDIDATES]
    moved = effects(belief, ends[first], weight)
    table = pairs[first.tolist()].drop("p").with_columns(
        fitted=pl.Series(fitted[first]),
        disagreement=pl.Series(np.maximum(apart[first], 0.0)),
        discount=pl.Series(discount[first]),
        effect=pl.Series(moved),
    )  # fmt: skip
    return table.with_columns(value=pl.col("disagreement") * pl.col("discount") * pl.col("effect")).select(list(QUEUE))


def effects(belief: QueryBelief, pairs: Ints, weight: float) -> Floats:
    """(m,) share of the top's discounts that one answer against the fit would move."""
    i, j = pairs[:, 0], pairs[:, 1]
    gap = belief.theta[i] - belief.theta[j]
    towards = np.where(gap > 0, -1.0, 1.0)  # the answer names the document that the fit has behind
    slope = weight * towards * inverse_mills(towards * gap)
    along = belief.covariance[:, i] - belief.covariance[:, j]
    # The expected curvature of a verdict keeps the step from running past what the prior allows.
    curvature = weight * inverse_mills(gap) * inverse_mills(-gap)
    step = along * (slope / (1 + curvature * np.maximum(along[i, np.arange(len(i))] - along[j, np.arange(len(i))], 0.0)))
    before = top_discounts(belief.theta[None, :])
    after = top_discounts((belief.theta[:, None] + step).T)
    return np.asarray(np.abs(after - before).sum(axis=1) / (2 * before.sum()), dtype=np.float64)


def top_discounts(theta: Floats) -> Floats:
    """(m, n) 1 / log2(rank + 1) of the documents of the top, 0 of the others."""
    order = np.argsort(-theta, axis=1, kind="stable")[:, :TOP]
    discounts = np.zeros(theta.shape)
    np.put_along_axis(discounts, order, np.broadcast_to(1 / np.log2(np.arange(order.shape[1]) + 2), order.shape), axis=1)
    return discounts


def write_queue(queue: pl.DataFrame, evidence: JudgeEvidence, path: Path) -> None:
    """Write the queue for a human: texts beside each other, which document is `a` drawn from a hash of the pair.

    Args:
        queue: QUEUE frame.
        evidence: the texts.
        path: CSV file, UTF-8 with a byte order mark, which spreadsheets need to read it as such.

    Raises:
        InputError: the file cannot be written.
    """
    queries = dict(evidence.queries.select("query_id", "text").iter_rows())
    wanted = pl.concat([queue["doc_i"], queue["doc_j"]]).unique()
    documents = evidence.corpus.filter(pl.col("doc_id").is_in(wanted.implode())).select("doc_id", "title", "text")
    texts = {name: shortened(f"{title}\n{text}".strip()) for name, title, text in documents.iter_rows()}
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(COLUMNS)
    for row in queue.iter_rows(named=True):
        query, a, b = shown_order(row["query_id"], row["doc_i"], row["doc_j"])
        fit = row["fitted"] if a == row["doc_i"] else 1 - row["fitted"]
        cells = [
            pair_key(query, a, b), query, a, b, queries.get(query, ""), texts.get(a, ""), texts.get(b, ""), "", "",
            row["judges"], f"{fit:.3f}", f"{row['disagreement']:.3f}", f"{row['value']:.5f}",
        ]  # fmt: skip
        writer.writerow([armoured(cell) for cell in cells])
    try:
        path.write_text(stream.getvalue(), encoding="utf-8-sig", newline="")
    except OSError as error:
        raise InputError(f"audit queue {path} cannot be written: {error.strerror}.") from error


def shortened(text: str) -> str:
    """A text of at most CHARACTERS, its middle marked where it was cut."""
    if len(text) <= CHARACTERS:
        return text
    return f"{text[: CHARACTERS // 2]} [...] {text[-CHARACTERS // 2 :]}"


def shown_order(query_id: str, doc_i: str, doc_j: str) -> tuple[str, str, str]:
    """Query, document a, document b: in an order that says nothing about either."""
    swap = hashlib.sha256(pair_key(query_id, *sorted((doc_i, doc_j))).encode()).digest()[0] % 2
    return (query_id, doc_j, doc_i) if swap else (query_id, doc_i, doc_j)


def pair_key(query_id: str, doc_a: str, doc_b: str) -> str:
    """Name a row: `k` and 16 hexadecimal digits of the ids and their order, a text to every spreadsheet."""
    name = f"{len(query_id)},{len(doc_a)}:{query_id}{doc_a}{doc_b}"
    return f"k{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


def armoured(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula: documents are untrusted texts."""
    return f"'{cell}" if cell.startswith(FORMULA) else cell


def bare(cell: str) -> str:
    """A cell without the armour and without white space around it."""
    text = cell.lstrip(" ")
    return (text[1:] if text.startswith("'") and text[1:].startswith(FORMULA) else text).strip()
