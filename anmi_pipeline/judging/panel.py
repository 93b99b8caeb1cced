"""The panel: the judge objects that a configuration names.

Belongs here: building judges from their settings. Does not: the judges. A new kind of judge is added here and in
`judge_configs.py`.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from anmi_pipeline.digests import Json, digest_json
from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.api_judge import ApiJudge
from anmi_pipeline.judging.config import JudgedGrades, JudgingConfig
from anmi_pipeline.judging.cross_encoder import CrossEncoderJudge as CrossEncoderScores
from anmi_pipeline.judging.distilled import DistilledJudge as Student
from anmi_pipeline.judging.distilled import distilled_source
from anmi_pipeline.judging.ensemble import Ensemble
from anmi_pipeline.judging.judge_configs import (
    ApiJudgeConfig,
    CrossEncoderJudge,
    DistilledJudge,
    EnsembleJudge,
    JudgeConfig,
    RecordedJudge,
    SimulatedJudge,
)
from anmi_pipeline.judging.judges import Judge, JudgeEvidence
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.judging.money import Money
from anmi_pipeline.judging.recorded import Recorded
from anmi_pipeline.judging.simulated import Simulated
from anmi_pipeline.records import Records


@dataclass(frozen=True)
class Home:
    """Where judges that run a model find what they need.

    Attributes:
        records: records of the installation.
        cache: folder for local copies of remote objects.
        dataset: the dataset that is judged.
        books: the ledger, in which estimated scales are frozen; None: they are not frozen.
    """

    records: Records
    cache: Path
    dataset: str
    books: Books | None = None

    def frozen_scale(self, settings: CrossEncoderJudge, scale: float) -> float:
        """Put the scale of a reranker on record for this dataset; the first one stays."""
        if self.books is None:
            return scale
        what: dict[str, Json] = {"model": settings.model, "revision": settings.revision, "max_tokens": settings.max_tokens}
        key = digest_json({"what": "cross-encoder scale", "dataset": self.dataset, "judge": settings.name, **what})
        return float(self.books.freeze_prior(key, repr(scale)))


def build_judges(
    config: JudgingConfig,
    evidence: JudgeEvidence,
    seed: int,
    data_root: Path | None = None,
    *,
    money: Money | None = None,
    conf: Path | None = None,
    home: Home | None = None,
) -> list[Judge]:
    """Build the configured judges.

    Args:
        config: the judging configuration.
        evidence: what they may look at.
        seed: seed of the dataset; simulated outcomes are drawn from it.
        data_root: folder that the paths of recorded judges start from.
        money: caps and prices of judges behind an API; None where nobody is asked.
        conf: the user's configuration folder, whose prompts stand above the shipped ones.
        home: where models of other datasets and estimated scales are; None where nobody is asked and no judge is distilled.

    Raises:
        InputError: a judge lacks what it needs (grades, a verdict file, the model of another dataset).
    """

    def build(settings: JudgeConfig) -> Judge:
        if isinstance(settings, EnsembleJudge):
            return Ensemble(settings, evidence, config)
        if isinstance(settings, SimulatedJudge):
            return Simulated(settings, evidence, config, config.draw_seed(seed))
        if isinstance(settings, RecordedJudge):
            return Recorded(settings, data_root)
        if isinstance(settings, CrossEncoderJudge):
            freeze = (lambda scale: scale) if home is None else partial(home.frozen_scale, settings)
            return CrossEncoderScores(settings.name, settings, evidence, config, freeze=freeze)
        if isinstance(settings, DistilledJudge):
            if home is None:
                raise InputError(
                    f'judge "{settings.name}" is the model of dataset {settings.dataset}, which is not at hand here.'
                )
            source = distilled_source(home.records, settings.dataset, home.cache)
            return Student(settings.name, settings, evidence, source, home.dataset)
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
