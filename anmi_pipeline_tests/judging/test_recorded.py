import asyncio
import gzip
import hashlib
from pathlib import Path

import polars as pl
import pytest

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.call_keys import call_keys
from anmi_pipeline.judging.collect import collect
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.judge_configs import RecordedJudge
from anmi_pipeline.judging.judges import JudgeEvidence
from anmi_pipeline.judging.ledger import Ledger
from anmi_pipeline.judging.panel import build_judges
from anmi_pipeline.judging.recorded import Recorded, judge_inputs, read_recorded, recorded_documents, recorded_plan
from anmi_pipeline.tables import CORPUS, JUDGMENTS, PLAN, POOL, QUERIES

HEADER = "query_id,left,right,winner,judge,round,ties_visible\n"
LINES = "q,a,b,left,gpt,00,0\n\nq,b,c,right,gpt,00,0\nq,a,c,tie,gpt,03,1\nq,a,c,tie,human,00,1\n"


def write(folder: Path, text: str | bytes, name: str = "battles.csv") -> JudgingConfig:
    data = text.encode() if isinstance(text, str) else text
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    kind = "ordered" if name.startswith("ordered") else "battles"
    return JudgingConfig(judges=(RecordedJudge(name="rec", path=name, format=kind),))


def evidence_for(plan: pl.DataFrame) -> JudgeEvidence:
    queries = plan["query_id"].unique().to_list()
    documents = pl.concat([plan["first_id"], plan["second_id"]]).unique().to_list()
    return JudgeEvidence(
        QUERIES.frame({"query_id": queries, "text": queries, "split": ["test"] * len(queries)}),
        CORPUS.frame({"doc_id": documents, "title": [""] * len(documents), "text": documents}),
        POOL.frame(),
    )


@pytest.mark.parametrize("name", ["battles.csv", "battles.csv.gz"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_battles_become_documents_plan_and_verdicts(tmp_path: Path, name: str, newline: str):
    config = write(tmp_path, (HEADER + LINES).replace("\n", newline), name)
    assert recorded_documents(config, tmp_path).rows() == [("q", "a"), ("q", "b"), ("q", "c")]
    plan = PLAN.validate(recorded_plan(config, tmp_path))
    assert plan.rows() == [
        ("q", "a", "b", "rec/gpt", 0, 0, False),
        ("q", "a", "c", "rec/gpt", 3, 0, False),
        ("q", "a", "c", "rec/human", 0, 0, False),
        ("q", "b", "c", "rec/gpt", 0, 0, False),
    ]
    evidence = evidence_for(plan)
    with Ledger(f"sqlite:///{tmp_path / 'ledger.db'}") as ledger:
        made, report = collect(plan, build_judges(config, evidence, 0, tmp_path), evidence, ledger, config)
    JUDGMENTS.validate(made)
    assert made["p_first"].to_list() == [1.0, 0.5, 0.5, 0.0]
    assert set(made["provenance"]) == {"recorded"}
    assert (report.asked, report.failed) == (4, 0)


def test_ordered_verdicts_and_the_audit_of_both_orders(tmp_path: Path):
    text = "query_id,first,second,verdict,round\nq,a,b,first,03\nq,b,a,first,03\nq,a,c,second,03\nq,c,a,first,04\n"
    plan = recorded_plan(write(tmp_path, text, "ordered.csv"), tmp_path)
    assert plan.select("first_id", "second_id", "judge", "round", "audit").rows() == [
        ("a", "b", "rec", 3, True),
        ("a", "c", "rec", 3, False),
        ("b", "a", "rec", 3, True),
        ("c", "a", "rec", 4, False),
    ]


def test_an_unusable_answer_is_a_failure_and_not_a_vote(tmp_path: Path):
    text = "query_id,first,second,verdict,round\nq,a,b,invalid,03\nq,b,a,tie,03\n"
    config = write(tmp_path, text, "ordered.csv")
    plan = recorded_plan(config, tmp_path)
    evidence = evidence_for(plan)
    with Ledger(f"sqlite:///{tmp_path / 'ledger.db'}") as ledger:
        made, report = collect(plan, build_judges(config, evidence, 0, tmp_path), evidence, ledger, config)
    assert JUDGMENTS.validate(made).select("p_first", "status").rows() == [(None, "no_answer"), (0.5, "ok")]
    assert report.failed == 1


def test_the_real_ordered_file_keeps_its_one_failure(data_root: Path):
    config = JudgingConfig(judges=(RecordedJudge(path="battles/dl19-gpt4o/ordered.csv.gz", format="ordered"),))
    plan = PLAN.validate(recorded_plan(config, data_root))
    assert plan.height == 4_786
    assert plan["audit"].mean() > 0.9
    assert read_recorded(config.recorded[0], data_root)["p_first"].null_count() == 1


def test_repeated_lines_are_votes_of_their_own(tmp_path: Path):
    config = write(tmp_path, HEADER + "q,a,b,left,g,0,1\nq,a,b,right,g,0,1\nq,a,b,left,g,0,1\n")
    plan = PLAN.validate(recorded_plan(config, tmp_path))
    assert plan["judge"].to_list() == ["rec/g", "rec/g/#2", "rec/g/#3"]
    evidence = evidence_for(plan)
    with Ledger(f"sqlite:///{tmp_path / 'ledger.db'}") as ledger:
        made, _ = collect(plan, build_judges(config, evidence, 0, tmp_path), evidence, ledger, config)
        assert ledger.count() == 3
    assert made["p_first"].to_list() == [1, 0, 1]


def test_an_edited_line_is_a_new_row_and_the_old_one_stays(tmp_path: Path):
    config = write(tmp_path, HEADER + LINES)
    plan = recorded_plan(config, tmp_path)
    evidence = evidence_for(plan)
    with Ledger(f"sqlite:///{tmp_path / 'ledger.db'}") as ledger:
        before, _ = collect(plan, build_judges(config, evidence, 0, tmp_path), evidence, ledger, config)
        inputs = judge_inputs(config, tmp_path)
        write(tmp_path, HEADER + LINES.replace("q,a,b,left", "q,a,b,right"))
        assert judge_inputs(config, tmp_path) != inputs
        after, report = collect(
            recorded_plan(config, tmp_path), build_judges(config, evidence, 0, tmp_path), evidence, ledger, config
        )
        assert (report.asked, report.reused, ledger.count()) == (1, 3, 5)
        assert after["p_first"].to_list() == [0, 0.5, 0.5, 0]
        write(tmp_path, HEADER + LINES)
        back, report = collect(plan, build_judges(config, evidence, 0, tmp_path), evidence, ledger, config)
        assert report.asked == 0
        assert back.equals(before)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("query_id,left,right,winer\nq,a,b,left\n", r"line 1: lacks column\(s\) winner.*Did you mean \"winner\""),
        ("query_id,left,right,winner,mood\nq,a,b,left,x\n", r"line 1: has wrong or repeated column\(s\) mood"),
        ("query_id,left,right,winner,winner\nq,a,b,left,left\n", "line 1: has wrong or repeated"),
        (HEADER + LINES + "q,a,b,lefty,gpt,1,0\n", 'line 7: winner is "lefty"; it must be one of left, right, tie'),
        (HEADER + "q,a,b,left,gpt\n", "line 2: 5 values for 7 columns"),
        (HEADER + "q,,b,left,gpt,0,0\n", "line 2: left is empty"),
        (HEADER + "q,a,a,left,gpt,0,0\n", 'line 2: document "a" is compared with itself'),
        (HEADER + "q,a,b,left,gpt,one,0\n", 'line 2: round is "one"'),
        (HEADER + 'q,"a"b,c,left,gpt,1,0\n', "line 2: not valid CSV"),
        ((HEADER + LINES).encode() + b"q,\xff,b,left,gpt,0,0\n", "line 7: byte 0xff is not valid UTF-8"),
        ("", "line 1: lacks"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, text: str | bytes, message: str):
    config = write(tmp_path, text)
    with pytest.raises(InputError, match=message) as caught:
        recorded_plan(config, tmp_path)
    assert str(tmp_path / "battles.csv") in str(caught.value)


def test_unknown_ids_are_named_with_their_line(tmp_path: Path):
    config = write(tmp_path, HEADER + LINES)
    known = evidence_for(recorded_plan(config, tmp_path))
    without_c = known.corpus.filter(pl.col("doc_id") != "c")
    with pytest.raises(InputError, match=r'line 4: document "c" is not in the dataset'):
        recorded_plan(config, tmp_path, known.queries, without_c)
    with pytest.raises(InputError, match=r'line 2: query "q" is not in the dataset \(4 line'):
        recorded_documents(config, tmp_path, known.queries[:0], known.corpus)
    assert recorded_plan(config, tmp_path, known.queries, known.corpus).height == 4


def test_a_judge_of_the_same_name_is_not_named_twice(tmp_path: Path):
    write(tmp_path, HEADER + LINES)
    config = JudgingConfig(judges=(RecordedJudge(name="gpt", path="battles.csv"),))
    assert set(recorded_plan(config, tmp_path)["judge"]) == {"gpt", "gpt/human"}


def test_files_that_cannot_be_read(tmp_path: Path):
    config = write(tmp_path, HEADER + LINES)
    with pytest.raises(InputError, match="set ANMI_DATA"):
        recorded_documents(config, None)
    with pytest.raises(InputError, match="does not exist"):
        judge_inputs(JudgingConfig(judges=(RecordedJudge(path="no/such/file.csv"),)), tmp_path)
    other = JudgingConfig(judges=(RecordedJudge(path="batles.csv"),))
    with pytest.raises(InputError, match=r'does not exist. Did you mean "battles.csv"'):
        judge_inputs(other, tmp_path)
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress((HEADER + LINES).encode())[:-12])
    with pytest.raises(InputError, match="cannot be read"):
        recorded_plan(JudgingConfig(judges=(RecordedJudge(path="cut.csv.gz"),)), tmp_path)


def test_a_plan_of_another_file_is_refused(tmp_path: Path):
    config = write(tmp_path, HEADER + LINES)
    plan = recorded_plan(config, tmp_path)
    write(tmp_path, HEADER + LINES.replace("q,b,c,right,gpt,00,0\n", ""))
    judge = Recorded(config.recorded[0], tmp_path)
    with pytest.raises(InputError, match="no answer of rec/gpt for query q, b before c, round 0"):
        call_keys(plan, judge, evidence_for(plan))


def test_nothing_recorded_is_empty(tmp_path: Path):
    assert recorded_plan(JudgingConfig(), tmp_path).equals(PLAN.frame())
    assert recorded_documents(JudgingConfig(), tmp_path).height == 0
    assert judge_inputs(JudgingConfig(), tmp_path) == {}


def test_the_real_gpt_4o_file_loses_no_row(data_root: Path, tmp_path: Path):
    path = "battles/dl19-gpt4o/battles.csv.gz"
    config = JudgingConfig(judges=(RecordedJudge(path=path),))
    plan = PLAN.validate(recorded_plan(config, data_root))
    assert plan.height == 27_463
    assert plan["query_id"].n_unique() == 43
    assert recorded_documents(config, data_root).height == 4_102
    assert judge_inputs(config, data_root) == {path: hashlib.sha256((data_root / path).read_bytes()).hexdigest()}
    evidence = evidence_for(plan)
    with Ledger(f"sqlite:///{tmp_path / 'ledger.db'}") as ledger:
        made, report = collect(plan, build_judges(config, evidence, 0, data_root), evidence, ledger, config)
    assert JUDGMENTS.validate(made).height == 27_463
    rows = read_recorded(config.recorded[0], data_root)
    assert made["p_first"].sum() == rows["p_first"].sum()
    assert report.failed == 0
    assert set(made["judge"]) == {"recorded/gpt-4o"}


def test_answers_are_async(tmp_path: Path):
    config = write(tmp_path, HEADER + LINES)
    plan = recorded_plan(config, tmp_path)
    judge = Recorded(config.recorded[0], tmp_path)

    async def gather() -> pl.DataFrame:
        return pl.concat([part async for part in judge.answer(plan.with_columns(call_key=pl.lit("k")))])

    assert asyncio.run(gather())["raw_answer"].to_list() == ["left", "tie", "tie", "right"]
