import csv
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.answers import ANSWERS, read_answers
from anmi_pipeline.judging.audit_queue import (
    COLUMNS,
    HUMAN,
    QUEUE,
    armoured,
    audit_queue,
    bare,
    effects,
    pair_key,
    shortened,
    write_queue,
)
from anmi_pipeline.judging.beliefs import query_beliefs
from anmi_pipeline.judging.judges import JudgeEvidence
from anmi_pipeline.rating.comparisons import weighted_comparisons
from anmi_pipeline.tables import CORPUS, JUDGMENTS, POOL, QUERIES

DOCUMENTS = [f"d{number:02}" for number in range(14)]


def judged(wrong: tuple[str, str] | None = None) -> pl.DataFrame:
    """Two judges on two queries; every document beats the six below it, but for the pair `wrong` of q1 with judge y."""
    rows = [
        (
            query,
            DOCUMENTS[i],
            DOCUMENTS[j],
            judge,
            0.02 if (query, judge, (DOCUMENTS[i], DOCUMENTS[j])) == ("q1", "y", wrong) else 0.95,
        )
        for query in ("q0", "q1")
        for i in range(14)
        for j in range(i + 1, min(i + 7, 14))
        for judge in ("x", "y")
    ]
    made = pl.DataFrame(rows, schema=["query_id", "first_id", "second_id", "judge", "p_first"], orient="row")
    rest = {"epoch": "1", "round": 1, "audit": False, "status": "ok", "call_key": "k", "provenance": "model"}
    numbers = {"input_tokens": 0, "output_tokens": 0, "cost_usd": 0.0}
    return JUDGMENTS.frame(made.with_columns(**{name: pl.lit(value) for name, value in (rest | numbers).items()}))


def beliefs(judgments: pl.DataFrame) -> list:
    documents = pl.DataFrame({"query_id": ["q0"] * 14 + ["q1"] * 14, "doc_id": DOCUMENTS * 2})
    return list(query_beliefs(weighted_comparisons(judgments, {}), documents))


def queue_of(judgments: pl.DataFrame, count: int = 100) -> pl.DataFrame:
    return audit_queue(judgments, beliefs(judgments), count)


KNOWN = pl.DataFrame({"query_id": ["q0"] * 14 + ["q1"] * 14, "doc_id": DOCUMENTS * 2})


@pytest.fixture
def evidence() -> JudgeEvidence:
    texts = ["=HYPERLINK(1)", "plain", 'quotes " and, commas\nand lines', *["x" * 5000] * 11]
    return JudgeEvidence(
        QUERIES.frame({"query_id": ["q0", "q1"], "text": ["+1 what", "how; so"], "split": ["train"] * 2, "source_ids": [[], []]}),
        CORPUS.frame({"doc_id": DOCUMENTS, "title": [""] * 14, "text": texts}),
        POOL.frame(),
    )


@pytest.fixture
def written(tmp_path: Path, evidence: JudgeEvidence) -> Path:
    path = tmp_path / "audit.csv"
    write_queue(queue_of(judged(("d00", "d01")), 6), evidence, path)
    return path


def cells(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream))


def rewrite(path: Path, rows: list[dict[str, str]], delimiter: str = ",") -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def test_a_contradiction_at_the_top_comes_first_and_one_at_the_bottom_does_not():
    top = queue_of(judged(("d00", "d01")))
    assert top.select("query_id", "doc_i", "doc_j").row(0) == ("q1", "d00", "d01")
    assert top.schema == QUEUE
    assert top["value"].is_sorted(descending=True)
    assert top["judges"][0] == "x: 0.95; y: 0.02"
    bottom = queue_of(judged(("d12", "d13"))).filter((pl.col("query_id") == "q1") & (pl.col("doc_j") == "d13"))
    assert bottom.filter(pl.col("doc_i") == "d12")["disagreement"][0] == bottom["disagreement"].max() > 0.4
    assert bottom.filter(pl.col("doc_i") == "d12")["value"][0] == 0  # both are below the top 10: nothing of value can move
    assert queue_of(judged(), 3).height == 3


def test_the_effect_is_what_a_refit_shows():
    """The predicted move of the scores has the direction and about the size of a fit with one verdict more."""
    judgments = judged(("d00", "d01"))
    (_, belief) = beliefs(judgments)
    pairs = np.array([[0, 1], [0, 2], [9, 10], [12, 13]])
    predicted = effects(belief, pairs, 1.0)
    found = []
    for i, j in pairs:
        contrary = judgments.row(0, named=True) | {
            "query_id": "q1", "first_id": DOCUMENTS[i], "second_id": DOCUMENTS[j], "judge": "z", "p_first": 0.0,
        }  # fmt: skip
        after = beliefs(JUDGMENTS.frame(pl.concat([judgments, JUDGMENTS.frame([contrary])])))[1].theta
        before, new = (np.zeros(14), np.zeros(14))
        for theta, discount in ((belief.theta, before), (after, new)):
            discount[np.argsort(-theta)[:10]] = 1 / np.log2(np.arange(10) + 2)
        found.append(np.abs(before - new).sum() / (2 * before.sum()))
    assert predicted == pytest.approx(found, abs=0.03)
    assert predicted[0] > 0.05
    assert predicted[3] == 0


def test_the_file_goes_out_and_comes_back(written: Path):
    rows = cells(written)
    assert tuple(rows[0]) == COLUMNS
    assert all(not row["text_a"].startswith(("=", "+", "-", "@")) for row in rows)
    for row, answer in zip(rows, ("a", "B", " tie ", "0.25", "0,75", ""), strict=True):
        row["answer"] = answer
    rewrite(written, rows)
    done = read_answers(written, KNOWN)
    assert dict(done.answers.schema) == ANSWERS
    assert done.unanswered == 1
    assert set(done.answers["judge"]) == {HUMAN}
    assert done.answers["line"].to_list()[0] == 1 + (1 + rows[0]["text_a"].count("\n") + rows[0]["text_b"].count("\n"))
    by_pair = {(r["query_id"], r["first_id"], r["second_id"]): r["p_first"] for r in done.answers.iter_rows(named=True)}
    expected = {(r["query_id"], r["doc_a"], r["doc_b"]): p for r, p in zip(rows, (1.0, 0.0, 0.5, 0.25, 0.75), strict=False)}
    assert by_pair == expected


def test_edited_columns_do_no_harm(written: Path):
    """Moved, added and removed columns, other case, semicolons, empty lines, a byte order mark: as spreadsheets leave them."""
    rows = cells(written)
    kept = [{"Remarks": "hm", "ANSWER": "a", "Doc_B": r["doc_b"], "Doc_A": r["doc_a"], " query_id ": r["query_id"]} for r in rows]
    rewrite(written, kept, ";")
    written.write_text("\ufeff" + written.read_text() + "\n;;;;\n", encoding="utf-8")
    assert read_answers(written, KNOWN).answers.height == 6


def test_every_wrong_line_is_named_and_nothing_is_taken(written: Path):
    rows = cells(written)
    for row in rows:
        row["answer"] = "a"
    rows[0]["answer"] = "maybe"
    rows[1]["doc_a"] = "d99"
    rows[2]["key"], rows[2]["doc_b"] = "", "d98"
    rows[3]["answer"] = "1.5"
    rows.append(dict(rows[4]))
    rewrite(written, rows)
    with pytest.raises(InputError) as caught:
        read_answers(written, KNOWN)
    text = str(caught.value)
    assert "5 wrong line(s)" in text
    for part in ('answer is "maybe"', "restore them", '"d98" is not in the pool', 'answer is "1.5"', "already"):
        assert part in text


def test_a_file_that_is_no_queue_is_refused(tmp_path: Path):
    path = tmp_path / "audit.csv"
    with pytest.raises(InputError, match="cannot be read"):
        read_answers(path, KNOWN)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="must have column"):
        read_answers(path, KNOWN)
    path.write_bytes(b"query_id,doc_a,doc_b,answer\nq\xff,a,b,a\n")
    with pytest.raises(InputError, match="not UTF-8"):
        read_answers(path, KNOWN)
    with pytest.raises(InputError, match="audit queue of 0 pairs"):
        audit_queue(judged(), [], 0)


def as_judgments(answers: pl.DataFrame) -> pl.DataFrame:
    rest = {"epoch": "1", "round": 0, "audit": False, "status": "ok", "call_key": "k", "provenance": "human"}
    numbers = {"input_tokens": 0, "output_tokens": 0, "cost_usd": 0.0}
    return JUDGMENTS.frame(answers.with_columns(**{name: pl.lit(value) for name, value in (rest | numbers).items()}))


@pytest.mark.parametrize("judge", ["human", "human/anna", "anna"])
def test_a_human_is_one_more_judge_and_is_not_asked_again(written: Path, judge: str):
    judgments = judged(("d00", "d01"))
    rows = cells(written)
    for row in rows:
        row["answer"] = "a" if row["doc_a"] < row["doc_b"] else "b"  # the truth
    rewrite(written, rows)
    both = JUDGMENTS.frame(pl.concat([judgments, as_judgments(read_answers(written, KNOWN, judge=judge).answers)]))
    again = queue_of(both)
    assert again.join(queue_of(judgments, 6), on=["query_id", "doc_i", "doc_j"], how="inner").is_empty()
    gap = [next(b.theta[0] - b.theta[1] for b in beliefs(table) if b.query_id == "q1") for table in (judgments, both)]
    assert gap[1] > gap[0]


@given(st.text(max_size=30))
def test_armour_comes_off_again(cell: str):
    assert bare(armoured(cell)) in (cell.strip(), bare(cell))
    assert not armoured(cell).startswith(("=", "+", "-", "@"))


def test_texts_are_cut_in_the_middle_and_keys_are_texts():
    assert len(shortened("x" * 5000)) == 1507
    assert " [...] " in shortened("x" * 5000)
    assert shortened("x") == "x"
    assert pair_key("q", "a", "b") != pair_key("q", "b", "a")
    assert pair_key("q", "a", "b")[0] == "k"
