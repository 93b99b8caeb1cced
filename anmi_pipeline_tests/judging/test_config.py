from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

import anmi_pipeline
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.judge_configs import EnsembleJudge, EnsembleWeights, JudgeConfig, RecordedJudge, SimulatedJudge

SHIPPED = Path(anmi_pipeline.__file__).parent / "conf" / "judges"


def test_no_judges_is_a_dataset_with_nothing_to_judge():
    config = JudgingConfig()
    assert config.judges == ()
    assert not config.needs_qrels
    assert config.recorded == ()


def test_kind_chooses_the_model():
    config = JudgingConfig.model_validate(
        {"judges": [{"kind": "ensemble", "name": "a"}, {"kind": "simulated", "name": "b"}], "epoch": 2}
    )
    assert isinstance(config.judges[0], EnsembleJudge)
    assert isinstance(config.judges[1], SimulatedJudge)
    assert config.epoch == "2"
    assert config.simulated


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_judge_files_are_valid_and_named_like_their_files(path: Path):
    judge = TypeAdapter(JudgeConfig).validate_python(yaml.safe_load(path.read_text()))
    assert judge.name == path.stem


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"judges": (EnsembleJudge(), EnsembleJudge())}, "used twice"),
        ({"judges": (EnsembleJudge(), RecordedJudge(path="x.csv"))}, "cannot stand beside"),
        ({"judges": (EnsembleJudge(),), "votes_per_pair": 3}, "votes_per_pair is 3 but there are 1"),
        ({"judges": ({"kind": "ensemble", "name": "a/b"},)}, "pattern"),
        ({"design": "cycle"}, "'cycles'"),
        ({"judges": ({"kind": "gpt"},)}, "ensemble"),
        ({"rounds": 0}, "greater than or equal to 1"),
        ({"cap": 0}, "greater than or equal to 1"),
        ({"replan": -1}, "greater than or equal to 0"),
        ({"anchors": {"per_query": 3}}, "source"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict, message: str):
    with pytest.raises(ValidationError, match=message):
        JudgingConfig(**settings)


def test_an_ensemble_without_weights_is_refused():
    with pytest.raises(ValidationError, match="call every pair a tie"):
        EnsembleWeights(lexical=0, dense=0, name=0)


def test_own_seed_stands_above_the_datasets():
    assert JudgingConfig().draw_seed(3) == 3
    assert JudgingConfig(seed=9).draw_seed(3) == 9


def test_recorded_verdicts_bring_their_whole_plan_whatever_the_design_says():
    assert JudgingConfig(judges=(EnsembleJudge(),)).adaptive
    assert not JudgingConfig(judges=(RecordedJudge(path="x.csv"),)).adaptive
    assert not JudgingConfig(judges=(EnsembleJudge(),), design="cycles").adaptive
    assert not JudgingConfig().adaptive
