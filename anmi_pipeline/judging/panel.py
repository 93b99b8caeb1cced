"""The panel: the judge objects that a configuration names.

Belongs here: building judges from their settings. Does not: the judges. A new kind of judge is added here and in
`judge_configs.py`.
"""

from pathlib import Path

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.api_judge import ApiJudge
from anmi_pipeline.judging.config import JudgedGrades, JudgingConfig
from anmi_pipeline.judging.ensemble import Ensemble
from anmi_pipeline.judging.judge_configs import ApiJudgeConfig, EnsembleJudge, JudgeConfig, RecordedJudge, SimulatedJudge
from anmi_pipeline.judging.judges import Judge, JudgeEvidence
from anmi_pipeline.judging.money import Money
from anmi_pipeline.judging.recorded import Recorded
from anmi_pipeline.judging.simulated import Simulated


def build_judges(
    config: JudgingConfig,
    evidence: JudgeEvidence,
    seed: int,
    data_root: Path | None = None,
    *,
    money: Money | None = None,
    conf: Path | None = None,
) -> list[Judge]:
    """Build the configured judges.

    Args:
        config: the judging configuration.
        evidence: what they may look at.
        seed: seed of the dataset; simulated outcomes are drawn from it.
        data_root: folder that the paths of recorded judges start from.
        money: caps and prices of judges behind an API; None where nobody is asked.
        conf: the user's configuration folder, whose prompts stand above the shipped ones.

    Raises:
        InputError: a judge lacks what it needs (grades, a verdict file).
    """

    def build(settings: JudgeConfig) -> Judge:
        if isinstance(settings, EnsembleJudge):
            return Ensemble(settings, evidence, config)
        if isinstance(settings, SimulatedJudge):
            return Simulated(settings, evidence, config, config.draw_seed(seed))
        if isinstance(settings, RecordedJudge):
            return Recorded(settings, data_root)
        return ApiJudge(settings, evidence, config, money, conf=conf)

    return [build(settings) for settings in config.judges]


def build_grader(config: JudgingConfig, evidence: JudgeEvidence, *, money: Money | None, conf: Path | None) -> Judge | None:
    """The judge that grades the anchors; None where they are recorded, simulated or absent.

    Raises:
        InputError: the judge that is named has no API.
    """
    source = config.anchors.source if config.anchors is not None else None
    if not isinstance(source, JudgedGrades):
        return None
    settings = next(judge for judge in config.judges if judge.name == source.name)
    if not isinstance(settings, ApiJudgeConfig):
        raise InputError(
            f'judge "{source.name}" is to grade anchors, but it has no API. Name a judge of kind openai or anthropic.'
        )
    return ApiJudge(settings, evidence, config, money, prompt="pointwise", conf=conf)
