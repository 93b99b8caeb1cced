"""What a verdict counts is decided after it was given: a judge's weight changes no call, only the comparisons."""

import pytest

from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.evidence import pool_documents
from anmi_pipeline.judging.judge_configs import AnthropicJudge, EnsembleJudge, JudgeConfig, OpenAIJudge, SimulatedJudge
from anmi_pipeline.judging.panel import build_judges
from anmi_pipeline.judging.plan import plan_comparisons
from anmi_pipeline.judging.study import plan_key
from anmi_pipeline.rating.config import RatingConfig
from anmi_pipeline_tests.judging.made import made_evidence

JUDGES = [
    EnsembleJudge(),
    SimulatedJudge(),
    OpenAIJudge(name="large", model="gpt-4.1"),
    AnthropicJudge(name="other", model="claude-sonnet-4-5"),
]


@pytest.mark.parametrize("judge", JUDGES, ids=lambda judge: judge.kind)
def test_a_weight_is_in_no_call_key_and_in_no_plan(judge: JudgeConfig):
    evidence = made_evidence(2, 8)
    keys: list[list[str]] = []
    plans: set[str] = set()
    for weight in (1.0, 3.0):
        config = JudgingConfig(judges=(judge.model_copy(update={"weight": weight}),), design="cycles", degree=4)
        assert config.weights == ({} if weight == 1 else {judge.name: 3.0})
        plan, _ = plan_comparisons(pool_documents(evidence.pool, config), config, 0)
        (built,) = build_judges(config, evidence, 0)
        keys.append(built.keys(plan, evidence))
        plans.add(plan_key("made", config, RatingConfig(), 0, {}))
    assert keys[0] == keys[1]
    assert len(plans) == 1
