"""Distillation end to end on a tiny model: the graph is judged, answered pairs are no evidence, what pays is bought once."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.distil_config import DISTILLED, DistilConfig
from anmi_pipeline.judging.distillation import ENDS, JUDGED, DistilStudy, distil
from anmi_pipeline.judging.evidence import pool_documents
from anmi_pipeline.judging.judge_configs import RecordedJudge, SimulatedJudge
from anmi_pipeline.judging.judges import JudgeEvidence
from anmi_pipeline.judging.plan import plan_comparisons
from anmi_pipeline.judging.second_pass import BOUGHT
from anmi_pipeline.judging.simulated import Simulated
from anmi_pipeline.judging.verdicts import verdicts
from anmi_pipeline.rating.comparisons import PAIR, weighted_comparisons
from anmi_pipeline.tables import JUDGMENTS
from anmi_pipeline_tests.judging.made import made_evidence
from anmi_pipeline_tests.judging.tiny_models import tiny_encoder


def answered(plan: pl.DataFrame, evidence: JudgeEvidence, config: JudgingConfig) -> pl.DataFrame:
    """What the simulated judge says, without a ledger."""
    judge = Simulated(SimulatedJudge(), evidence, config, 0)
    said = verdicts(plan.with_columns(call_key=pl.lit("k")), (judge.probability(plan) > 0.5).astype(float), "simulated")
    rows = pl.concat([plan, said.drop("call_key")], how="horizontal").with_columns(call_key=pl.lit("k"), epoch=pl.lit("1"))
    return JUDGMENTS.frame(rows)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> DistilStudy:
    evidence = made_evidence(6, 20)
    judging = JudgingConfig(design="cycles", judges=(SimulatedJudge(),), pool_size=10, degree=4, audit_share=0.2)
    folder = tiny_encoder(tmp_path_factory.mktemp("tiny"))
    config = DistilConfig(model=str(folder), max_tokens=32, query_tokens=6, epochs=1, degree=4, precision="float32")
    return DistilStudy(judging, config, evidence, pool_documents(evidence.pool, judging), 0)


@pytest.fixture(scope="module")
def judgments(study: DistilStudy) -> pl.DataFrame:
    plan, _ = plan_comparisons(study.documents, study.judging, 0)
    said = answered(plan, study.evidence, study.judging)
    # One pair that failed: it was asked, and nobody knows the answer.
    return said.with_columns(
        pl.when(pl.int_range(pl.len()) == 3).then(pl.lit("timeout")).otherwise("status").alias("status"),
        pl.when(pl.int_range(pl.len()) == 3).then(None).otherwise("p_first").alias("p_first"),
    )


def test_the_graph_and_every_asked_pair_are_judged(study: DistilStudy, judgments: pl.DataFrame) -> None:
    made = distil(judgments, study)
    own = made.judgments
    assert (made.bought, own["judge"].unique().to_list(), own["round"].unique().to_list()) == (0, [DISTILLED], [JUDGED])
    pairs = own.select("query_id", **ENDS)
    assert pairs.unique().height == own.height
    assert judgments.select("query_id", **ENDS).unique().join(pairs, on=PAIR, how="anti").is_empty()
    ends = pl.concat([pairs.select("query_id", doc_id=end) for end in ("doc_i", "doc_j")])
    assert (ends.group_by("query_id", "doc_id").len()["len"] >= 4).all()
    assert made.training.figures is not None
    assert own["call_key"].n_unique() == own.height


def test_a_pair_that_a_judge_answered_is_no_new_evidence(study: DistilStudy, judgments: pl.DataFrame) -> None:
    own = distil(judgments, study).judgments.with_columns(**ENDS)
    known = judgments.filter(pl.col("status") == "ok").select("query_id", **ENDS).unique()
    assert set(own.join(known, on=PAIR, how="semi")["weight"]) == {0.0}
    assert set(own.join(known, on=PAIR, how="anti")["weight"]) == {study.config.weight}
    folded = weighted_comparisons(JUDGMENTS.frame(pl.concat([judgments, own.select(judgments.columns)])))
    alone = weighted_comparisons(judgments)
    assert folded.join(known, on=PAIR, how="semi").equals(alone)


def test_the_second_pass_buys_new_pairs_within_its_limit_and_trains_once_more(
    study: DistilStudy, judgments: pl.DataFrame, tmp_path: Path
) -> None:
    asked: list[pl.DataFrame] = []

    def buy(plan: pl.DataFrame) -> pl.DataFrame:
        asked.append(plan)
        return answered(plan, study.evidence, study.judging)

    second = replace(study, config=study.config.model_copy(update={"second_pass": 12}))
    made = distil(judgments, second, buy, tmp_path / "plan.parquet")
    assert (made.bought, len(asked), asked[0].height) == (12, 1, 12)
    before = judgments.select("query_id", **ENDS)
    assert asked[0].select("query_id", **ENDS).join(before, on=PAIR, how="semi").is_empty()
    assert made.training.pairs >= made.first.pairs
    assert made.training.held_out.drop("logit").equals(made.first.held_out.drop("logit"))
    assert made.judgments.filter(pl.col("round") == BOUGHT).height == 12
    # Killed and begun again, it takes up the kept plan, whatever the model would choose now.
    again = distil(judgments, replace(second, seed=5), buy, tmp_path / "plan.parquet")
    assert asked[1].equals(asked[0])
    assert again.bought == 12


def test_recorded_judges_cannot_be_asked_again(study: DistilStudy, judgments: pl.DataFrame) -> None:
    recorded = JudgingConfig(judges=(RecordedJudge(path="file.csv"),))
    wanted = replace(study, judging=recorded, config=study.config.model_copy(update={"second_pass": 5}))
    with pytest.raises(InputError, match="recorded judges"):
        distil(judgments, wanted)


def test_a_document_without_a_text_is_named(study: DistilStudy, judgments: pl.DataFrame) -> None:
    lost = pl.concat([study.documents.select("query_id", "doc_id"), pl.DataFrame({"query_id": ["q000"], "doc_id": ["nowhere"]})])
    with pytest.raises(InputError, match="nowhere"):
        distil(judgments, replace(study, documents=lost))
