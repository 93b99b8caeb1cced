from pathlib import Path

import numpy as np
import polars as pl
import pytest

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.config import AnchorsConfig, JudgingConfig, RecordedGrades, SimulatedGrades
from anmi_pipeline.judging.grades import choose, grade_anchors
from anmi_pipeline.judging.judge_configs import SimulatedJudge
from anmi_pipeline.judging.recorded import judge_inputs
from anmi_pipeline.rating.comparisons import fold_judgments
from anmi_pipeline.rating.config import RatingConfig
from anmi_pipeline.rating.prior import starting_prior
from anmi_pipeline.tables import ANCHORS, QRELS
from anmi_pipeline_tests.judging.made import made_evidence
from anmi_pipeline_tests.judging.test_rounds import adaptive, run, study_of, without


def simulated(error_rate: float = 0.0, **settings: object) -> AnchorsConfig:
    return AnchorsConfig(source=SimulatedGrades(error_rate=error_rate), **settings)


@pytest.fixture(scope="module")
def everything() -> pl.DataFrame:
    return made_evidence(40, 30).pool.select("query_id", "doc_id")


@pytest.fixture(scope="module")
def qrels() -> pl.DataFrame:
    return made_evidence(40, 30).qrels


def test_without_errors_simulated_grades_are_the_human_ones(everything, qrels):
    graded = ANCHORS.validate(grade_anchors(everything, simulated(), qrels, 0))
    human = everything.join(qrels, on=["query_id", "doc_id"], how="left").with_columns(pl.col("grade").fill_null(0))
    assert graded.select("query_id", "doc_id", "grade").equals(human.sort("query_id", "doc_id"))
    assert set(graded["provenance"]) == {"simulated"}


def test_simulated_grades_err_at_the_stated_rate_and_evenly(everything, qrels):
    right = grade_anchors(everything, simulated(), qrels, 0)["grade"].to_numpy()
    drawn = grade_anchors(everything, simulated(0.3), qrels, 0)["grade"].to_numpy()
    wrong = right != drawn
    assert wrong.mean() == pytest.approx(0.3, abs=0.04)
    for grade in range(3):
        others = np.bincount(drawn[wrong & (right == grade)], minlength=3)
        assert others[grade] == 0
        assert others.sum() > 50
        assert max(others) < 2 * sorted(others)[1]


def test_a_grade_depends_on_its_own_document_and_the_seed_alone(everything, qrels):
    whole = grade_anchors(everything, simulated(0.5), qrels, 0)
    part = grade_anchors(everything.filter(pl.col("query_id") == "q007"), simulated(0.5), qrels, 0)
    assert part.equals(whole.filter(pl.col("query_id") == "q007"))
    assert not grade_anchors(everything, simulated(0.5), qrels, 1).equals(whole)


@pytest.mark.parametrize("qrels_given", [None, QRELS.frame()])
def test_simulated_grades_need_human_ones(everything, qrels_given):
    with pytest.raises(InputError, match="no qrels"):
        grade_anchors(everything, simulated(), qrels_given, 0)


def recorded(tmp_path: Path, lines: list[str]) -> AnchorsConfig:
    (tmp_path / "grades.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n")
    return AnchorsConfig(source=RecordedGrades(path="grades.tsv"))


def test_recorded_grades_are_read_and_a_document_without_one_is_a_failure(tmp_path):
    config = recorded(tmp_path, ["q\ta\t3", "q\tb\t0", "r\ta\t1"])
    wanted = pl.DataFrame({"query_id": ["q", "q"], "doc_id": ["a", "z"]})
    graded = ANCHORS.validate(grade_anchors(wanted, config, None, 0, tmp_path))
    assert graded.select("doc_id", "grade", "status").rows() == [("a", 3, "ok"), ("z", None, "no_answer")]
    assert set(graded["judge"]) == {"recorded-grades"}
    assert list(judge_inputs(JudgingConfig(anchors=config), tmp_path)) == ["grades.tsv"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [(["q\ta\t3", "q\ta\t2"], "grades document a of query q twice"), (["q\ta\tx"], "line 2"), (["q\ta"], "2 column")],
)
def test_a_damaged_file_of_grades_is_named(tmp_path, lines, message):
    with pytest.raises(InputError, match=message):
        grade_anchors(pl.DataFrame({"query_id": ["q"], "doc_id": ["a"]}), recorded(tmp_path, lines), None, 0, tmp_path)


def test_an_absent_file_of_grades_is_named(tmp_path):
    (tmp_path / "grades.tsv").touch()
    config = AnchorsConfig(source=RecordedGrades(path="grade.tsv"))
    with pytest.raises(InputError, match=r'grader "recorded-grades" does not exist. Did you mean "grades.tsv"'):
        grade_anchors(pl.DataFrame({"query_id": ["q"], "doc_id": ["a"]}), config, None, 0, tmp_path)


@pytest.mark.parametrize("prior", ["scores", "zero"])
def test_the_choice_of_one_query_is_its_own_affair(sqlite_url, prior):
    more = made_evidence(6, 20)
    config = adaptive()
    few = run(without(more, "q003"), config, sqlite_url, prior=prior)
    chosen = []
    for evidence, done in ((without(more, "q003"), few), (more, run(more, config, sqlite_url, prior=prior))):
        study = study_of(evidence, config, prior=prior)
        frozen = done.frozen.prior if done.frozen else None
        graph = fold_judgments(done.judgments)
        chosen.append(choose(graph, study.features, simulated(), RatingConfig(prior=prior), study.features, frozen))
    assert chosen[1].filter(pl.col("query_id") != "q003").equals(chosen[0])
    assert set(chosen[1].group_by("query_id").len()["len"]) == {3}


def test_the_prior_moves_where_anchors_stand(evidence, sqlite_url):
    done = run(evidence, adaptive(degree=2), sqlite_url)
    features = study_of(evidence, adaptive()).features
    graph = fold_judgments(done.judgments)
    top = AnchorsConfig(source=SimulatedGrades(), strategy="top")
    flat = choose(graph, features, top, RatingConfig(), features, None)
    assert not flat.equals(choose(graph, features, top, RatingConfig(), features, starting_prior(slope=3.0, precision=10.0)))


def test_simulated_anchors_need_qrels_and_say_so():
    config = JudgingConfig(anchors=simulated())
    assert config.needs_qrels
    assert config.simulated
    assert not JudgingConfig(anchors=AnchorsConfig(source=RecordedGrades(path="x"))).needs_qrels
    assert JudgingConfig(judges=(SimulatedJudge(),)).needs_qrels


def test_recorded_umbrela_grades_cover_the_compared_passages(data_root: Path):
    config = AnchorsConfig(source=RecordedGrades(path="msmarco-dl19/llm_judgments/umbrela_gpt-4o.tsv"))
    battles = pl.read_csv(data_root / "battles" / "dl19-gpt4o" / "battles.csv.gz", infer_schema=False)
    compared = pl.concat([battles.select("query_id", doc_id=side) for side in ("left", "right")]).unique()
    graded = grade_anchors(compared, config, None, 0, data_root)
    assert (graded.height, set(graded["status"])) == (4102, {"ok"})
    assert set(graded["grade"]) == {0, 1, 2, 3}
