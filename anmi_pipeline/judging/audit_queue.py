"""The audit queue: the disagreements that a human should settle first, out as a CSV and back as verdicts of a judge.

Belongs here: which pairs are worth a human's minute, the file and its reading. Does not: a page to answer on, the ledger. The
file will be opened in a spreadsheet: texts cannot become formulas, columns may be moved, renamed in case or added, and a row is
known by its key and not by its place.
"""

import csv
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.beliefs import QueryBelief, entropy
from anmi_pipeline.judging.judges import OK, JudgeEvidence, verdicts
from anmi_pipeline.rating.comparisons import PAIR
from anmi_pipeline.rating.graphs import Floats, Ints
from anmi_pipeline.rating.likelihood import inverse_mills
from anmi_pipeline.tables import JUDGMENTS

HUMAN = "human"
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
MUST = ("query_id", "doc_a", "doc_b", "answer")
ANSWERS = {"a": 1.0, "b": 0.0, "tie": 0.5, "=": 0.5}
FORMULA = ("=", "+", "-", "@", "\t", "\r")
MOST_COMPLAINTS = 20

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
    )
    done = rows.filter(pl.col("judge") == HUMAN).select(PAIR)
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


@dataclass(frozen=True)
class Audited:
    """What a human answered.

    Attributes:
        judgments: JUDGMENTS frame of judge `human`, first_id = document a.
        unanswered: rows left empty.
    """

    judgments: pl.DataFrame
    unanswered: int

    def verdicts(self) -> pl.DataFrame:
        """VERDICTS frame, for the ledger."""
        said = self.judgments["p_first"].cast(pl.String())
        return verdicts(self.judgments, self.judgments["p_first"], "recorded", said)


def read_queue(path: Path, known: pl.DataFrame, *, epoch: str = "1", judge: str = HUMAN) -> Audited:
    """Read a queue that a human filled in.

    Columns are found by name, in any order and case; others may have been added, and `key` may be gone. Commas or semicolons
    separate, as spreadsheets of different countries write.

    Args:
        path: the file.
        known: query_id, doc_id of the documents that can be compared.
        epoch: refresh epoch of the verdicts.
        judge: judge id.

    Raises:
        InputError: the file cannot be read, lacks a column, or lines are wrong: every one of them is named, up to 20, and none of
            the file is taken.
    """
    lines = read_lines(path)
    pairs = set(known.select("query_id", "doc_id").iter_rows())
    rows: list[dict[str, object]] = []
    complaints: list[str] = []
    seen: dict[tuple[str, ...], int] = {}
    empty = 0
    for number, cells in lines:
        problem, p = checked_line(cells, pairs)
        query, a, b = (cells[name] for name in MUST[:3])
        pair = (query, *sorted((a, b)))
        if problem is None and p is not None and pair in seen:
            problem = f"the pair was answered in line {seen[pair]} already"
        if problem is not None:
            complaints.append(f"line {number}: {problem}")
        elif p is None:
            empty += 1
        else:
            seen[pair] = number
            rows.append({"query_id": query, "first_id": a, "second_id": b, "p_first": p})
    if complaints:
        more = f"; and {len(complaints) - MOST_COMPLAINTS} more" if len(complaints) > MOST_COMPLAINTS else ""
        raise InputError(
            f"audit file {path} has {len(complaints)} wrong line(s): {'; '.join(complaints[:MOST_COMPLAINTS])}{more}."
        )
    return Audited(human_judgments(rows, epoch, judge), empty)


def human_judgments(rows: list[dict[str, object]], epoch: str, judge: str) -> pl.DataFrame:
    """JUDGMENTS frame of a human's answers; the call key covers judge, ids and answer, because a human has no prompt."""
    named: list[dict[str, object]] = []
    for row in rows:
        content = "\x1f".join([judge, *(str(row[name]) for name in ("query_id", "first_id", "second_id", "p_first"))])
        key = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
        named.append({
            **row, "judge": judge, "epoch": epoch, "round": 1, "audit": True, "status": OK, "call_key": key,
            "provenance": "recorded", "input_tokens": 0, "output_tokens": 0, "cost_usd": 0.0,
        })  # fmt: skip
    return JUDGMENTS.frame(named)


def read_lines(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Line number and cells by column name, lower case; empty lines are left out."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"audit file {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"audit file {path} is not UTF-8 (byte {error.start}). Save it as CSV UTF-8.") from error
    head = text.split("\n", 1)[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=";" if head.count(";") > head.count(",") else ",")
    try:
        header = [cell.strip().lower() for cell in next(reader, [])]
        absent = [name for name in MUST if header.count(name) != 1]
        if absent:
            raise InputError(
                f"audit file {path} must have column(s) {', '.join(absent)} once; its header is {', '.join(header)}."
            )
        # Short rows are filled up: spreadsheets drop empty cells at the end of a line.
        return [
            (reader.line_num, {name: bare(cell) for name, cell in zip(header, row + [""] * len(header), strict=False)})
            for row in reader
            if any(cell.strip() for cell in row)
        ]
    except csv.Error as error:
        raise InputError(f"audit file {path} line {reader.line_num} is not valid CSV: {error}.") from error


def checked_line(cells: dict[str, str], known: set[tuple[str, ...]]) -> tuple[str | None, float | None]:
    """What is wrong with a line (None: nothing), and the answer (None: not answered)."""
    query, a, b, answer = (cells[name] for name in MUST)
    if not answer:
        return None, None
    key = cells.get("key", "")
    if key and key != pair_key(query, a, b):
        return f'the ids ("{query}", "{a}", "{b}") are not those that key {key} was given for; restore them', None
    for document in (a, b):
        if (query, document) not in known:
            return f'document "{document}" is not in the pool of query "{query}"', None
    if a == b:
        return f'document "{a}" is compared with itself', None
    p = ANSWERS.get(answer.lower())
    if p is None:
        try:
            p = float(answer.replace(",", "."))
        except ValueError:
            p = float("nan")
    if not 0 <= p <= 1:
        return f'answer is "{answer}"; it must be a, b, tie, or a number 0..1 (the probability that a is more relevant)', None
    return None, p
