"""The room's configuration refuses what it cannot measure."""

import pytest
from pydantic import ValidationError

from anmi_pipeline.evaluation.config import EvaluationConfig, InferenceSettings, TuningConfig


def test_defaults_are_valid_and_joined_sets_allowed():
    assert EvaluationConfig(query_sets=("dev_final", "test", "dev_final+test")).depth == 200
    assert InferenceSettings() == InferenceSettings(fusion="none", threshold=None)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"metrics": ("MAP@10", "nDCG@10")}, "unknown metric"),
        ({"metrics": ("MRR@10",)}, "must include nDCG@10"),
        ({"query_sets": ("dev+test",)}, "unknown split"),
        ({"query_sets": ("test", "dev_final+test")}, "must name dev_final by itself"),
        ({"bootstrap": 10}, "Extra inputs"),
    ],
)
def test_bad_evaluation_settings(config, message):
    with pytest.raises(ValidationError, match=message):
        EvaluationConfig.model_validate(config)


@pytest.mark.parametrize(
    ("config", "message"), [({"fusions": ("sum",)}, "unknown fusion"), ({"lexical_weights": (1.5,)}, "0..1")]
)
def test_bad_tuning_settings(config, message):
    with pytest.raises(ValidationError, match=message):
        TuningConfig.model_validate(config)
