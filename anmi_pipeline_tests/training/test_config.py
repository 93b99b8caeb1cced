"""Training settings: defaults that depend on the loss, discriminators, refusals."""

import subprocess
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

from anmi_pipeline.mining.config import ANMI_CURRICULUM, NO_CURRICULUM
from anmi_pipeline.training.config import CrossEncoderConfig, FeaturesConfig, SystemTraining, TrainingConfig

SYSTEM = TypeAdapter[object](SystemTraining)


def test_the_hybrid_loss_brings_its_curriculum_and_others_none():
    assert TrainingConfig.model_validate({"loss": {"kind": "hybrid"}}).curriculum == ANMI_CURRICULUM
    assert TrainingConfig.model_validate({"loss": {"kind": "infonce"}}).curriculum == NO_CURRICULUM
    assert TrainingConfig().curriculum == NO_CURRICULUM


def test_a_written_curriculum_wins():
    stages = [{"first_epoch": 1, "min_gap": 50, "alpha": 0.9}]
    config = TrainingConfig.model_validate({"loss": {"kind": "hybrid"}, "curriculum": stages})
    assert config.curriculum[0].min_gap == 50
    assert len(config.curriculum) == 1


def test_resolved_settings_are_a_fixed_point():
    config = TrainingConfig.model_validate({"loss": {"kind": "hybrid", "scale": 10}})
    assert TrainingConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("kind", "model"), [("retriever", TrainingConfig), ("cross_encoder", CrossEncoderConfig), ("features", FeaturesConfig)]
)
def test_kind_decides_the_trainer(kind: str, model: type):
    assert isinstance(SYSTEM.validate_python({"kind": kind}), model)


@pytest.mark.parametrize(
    "wrong", [{"loss": {"kind": "hybird"}}, {"stpes": 10}, {"steps": 0}, {"list_size": 1}, {"loss": {"kind": "mse", "scale": 3}}]
)
def test_wrong_settings_are_refused(wrong: dict[str, object]):
    with pytest.raises(ValidationError):
        TrainingConfig.model_validate(wrong)


def test_every_field_is_described():
    for model in (TrainingConfig, CrossEncoderConfig, FeaturesConfig):
        bare = [name for name, field in model.model_fields.items() if not field.description and name != "kind"]
        assert not bare


def test_settings_and_trainers_import_nothing_heavy():
    code = (
        "import sys, anmi_pipeline.training.trainers, anmi_pipeline.mining.selection; "
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'scipy', 'sklearn', 'peft'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
