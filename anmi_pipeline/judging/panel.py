"""The panel: the judge objects that a configuration names.

Belongs here: building judges from their settings. Does not: the judges. A new kind of judge is added here and in `config.py`.
"""

from pathlib import Path

from anmi_pipeline.judging.config import EnsembleJudge, JudgingConfig, SimulatedJudge
from anmi_pipeline.judging.ensemble import Ensemble
from anmi_pipeline.judging.judges import Judge, JudgeEvidence
from anmi_pipeline.judging.recorded import Recorded
from anmi_pipeline.judging.simulated import Simulated


def build_judges(config: JudgingConfig, evidence: JudgeEvidence, seed: int, data_root: Path | None = None) -> list[Judge]:
    """Build the configured judges.

    Args:
        config: the judging configuration.
        evidence: what they may look at.
        seed: seed of the dataset; simulated outcomes are drawn from it.
        data_root: folder that the paths of recorded judges start from.

    Raises:
        InputError: a judge lacks what it needs (grades, a verdict file).
    """
    judges: list[Judge] = []
    for settings in config.judges:
        if isinstance(settings, EnsembleJudge):
            judges.append(Ensemble(settings, evidence, config))
        elif isinstance(settings, SimulatedJudge):
            judges.append(Simulated(settings, evidence, config, config.draw_seed(seed)))
        else:
            judges.append(Recorded(settings, data_root))
    return judges
