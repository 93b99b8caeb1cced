"""The distilled judge: answers from a stored model, keyed by its digest, without knowing the order."""

import asyncio
from pathlib import Path

import polars as pl
import pytest

from anmi_pipeline.errors import ArtifactError, InputError
from anmi_pipeline.judging.call_keys import call_keys
from anmi_pipeline.judging.distil_config import DistilledSettings
from anmi_pipeline.judging.distilled import DistilledJudge, DistilledSource, distilled_judgments, distilled_source
from anmi_pipeline.judging.judges import JudgeEvidence
from anmi_pipeline.judging.pairwise_model import new_pairwise_model
from anmi_pipeline.judging.verdicts import checked
from anmi_pipeline.records import Records
from anmi_pipeline.store import Content, Store, Table
from anmi_pipeline.tables import JUDGMENTS
from anmi_pipeline_tests.judging.made import made_evidence
from anmi_pipeline_tests.judging.tiny_models import tiny_encoder

SETTINGS = DistilledSettings(dataset="teacher")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> DistilledSource:
    folder = tmp_path_factory.mktemp("artifact")
    new_pairwise_model(str(tiny_encoder(tmp_path_factory.mktemp("tiny"))), 32, 6).save(folder)
    return DistilledSource(folder, "a" * 64)


def calls_of(evidence: JudgeEvidence) -> pl.DataFrame:
    rows = [
        {"query_id": "q000", "first_id": a, "second_id": b, "judge": "student", "round": 1}
        for a, b in (("d001", "d002"), ("d002", "d001"), ("d003", "d004"))
    ]
    return pl.DataFrame(rows).with_columns(call_key=pl.Series(["a", "b", "c"]))


def answers(judge: DistilledJudge, calls: pl.DataFrame) -> pl.DataFrame:
    async def gather() -> pl.DataFrame:
        return pl.concat([part async for part in judge.answer(calls)])

    return checked(asyncio.run(gather()), judge.name)


def test_it_answers_every_call_and_both_orders_agree(source: DistilledSource) -> None:
    evidence = made_evidence(2, 8)
    judge = DistilledJudge("student", SETTINGS, evidence, source, dataset="mine")
    said = answers(judge, calls_of(evidence))
    assert said["call_key"].to_list() == ["a", "b", "c"]
    assert said["p_first"][0] + said["p_first"][1] == pytest.approx(1.0, abs=2e-6)
    assert set(said["provenance"]) == {"model"}
    assert set(said["cost_usd"]) == {0.0}


def test_another_model_is_another_call(source: DistilledSource) -> None:
    evidence = made_evidence(2, 8)
    calls = calls_of(evidence)
    keys = [
        call_keys(calls, DistilledJudge("student", SETTINGS, evidence, DistilledSource(source.folder, digest)), evidence)
        for digest in ("a" * 64, "b" * 64)
    ]
    assert not set(keys[0]) & set(keys[1])


def test_a_dataset_cannot_be_judged_by_what_it_trained(source: DistilledSource) -> None:
    with pytest.raises(InputError, match="own pairwise_judge"):
        DistilledJudge("student", SETTINGS, made_evidence(2, 8), source, dataset="teacher")


def test_a_dataset_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="pairwise_judge"):
        distilled_source(Records(Store(str(tmp_path))), "teacher", tmp_path / "cache")


def test_verdicts_of_an_artifact_or_none(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    empty = store.put("pairwise_judge", Content(facts={"empty_because": "the dataset asks for no distilled judge"}))
    assert distilled_judgments(empty).equals(JUDGMENTS.frame())
    row = {
        "query_id": "q", "first_id": "a", "second_id": "b", "judge": "distilled", "epoch": "1", "round": 101, "audit": False,
        "p_first": 0.7, "status": "ok", "call_key": "k", "provenance": "model", "input_tokens": 0, "output_tokens": 0,
        "cost_usd": 0.0, "weight": 0.25,
    }  # fmt: skip
    table = JUDGMENTS.frame([row])
    made = store.put("pairwise_judge", Content((Table.whole(JUDGMENTS, table),)))
    assert distilled_judgments(made).equals(table)
