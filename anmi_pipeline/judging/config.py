"""What a dataset's YAML says about judging: who judges, which pairs, how often, for how much.

Belongs here: the configuration models of the stage. Does not: those of single judges (`judge_configs.py`), the judges themselves.
Importing this module loads nothing heavy.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from anmi_pipeline.judging.click_logs import ClickLogs
from anmi_pipeline.judging.distil_config import DISTILLED, DistilConfig
from anmi_pipeline.judging.judge_configs import (
    OPERATIONAL,
    ApiJudgeConfig,
    DistilledJudge,
    JudgeConfig,
    Name,
    RecordedJudge,
    SimulatedJudge,
)
from anmi_pipeline.judging.refreshing import RefreshConfig
from anmi_pipeline.judging.tiers import RoutingConfig
from anmi_pipeline.rating.designs import DesignKind
from anmi_pipeline.settings import Config

PlanDesign = Literal[DesignKind, "adaptive"]
"""The designs that are drawn at once, and the one that looks at verdicts between its rounds."""


class RecordedGrades(Config):
    """Absolute grades of a file."""

    kind: Literal["recorded"] = Field(default="recorded", description="which grader this is")
    name: Name = "recorded-grades"
    path: str = Field(
        description="file of grades (query-id, corpus-id, score by tabs, .gz or not), relative to ANMI_DATA or absolute"
    )


class SimulatedGrades(Config):
    """Human grades with a stated error rate. Marked simulated wherever they show."""

    kind: Literal["simulated"] = Field(default="simulated", description="which grader this is")
    name: Name = "simulated-grades"
    error_rate: float = Field(
        default=0.15, ge=0, le=1, description="probability of another grade, all others of the scale being equally likely"
    )


class JudgedGrades(Config):
    """Grades of a judge behind an API, asked with the prompt `pointwise`."""

    kind: Literal["judge"] = Field(default="judge", description="which grader this is")
    name: Name = Field(description="a judge of this dataset; its endpoint, model and limits are used")


class StopRule(Config):
    """When a query has had enough verdicts."""

    k: int = Field(default=10, ge=1, description="depth of the ranking that matters")
    tolerance: float = Field(default=0.02, ge=0, lt=1, description="nDCG@k that the present ranking may still lose")
    confidence: float = Field(
        default=0.9, gt=0, lt=1, description="a query is settled when it loses no more than that with this probability"
    )
    min_gain_per_usd: float = Field(
        default=0.0, ge=0, description="a query is also left when a dollar is expected to raise its nDCG@k by less"
    )
    batch: int = Field(default=50, ge=1, description="calls of a batch whose worth is predicted")
    draws: int = Field(default=256, ge=16, description="draws from the posterior of each query")


class AnchorsConfig(Config):
    """Absolute grades of a few documents per query, from which relevance across queries is learnt."""

    per_query: int = Field(default=3, ge=1, description="documents of each query that are graded")
    strategy: Literal["bar", "spread", "top"] = Field(
        default="bar",
        description="which. bar: around the rank at which the relevant documents are expected to end; spread: along the whole "
        "ranking; top: the highest",
    )
    expected_share: float = Field(default=0.5, ge=0, le=1, description="expected share of relevant documents; strategy bar")
    source: Annotated[RecordedGrades | SimulatedGrades | JudgedGrades, Field(discriminator="kind")] = Field(
        description="who grades"
    )


class JudgingConfig(Config):
    """Which pairs are compared, by whom, in which order."""

    splits: tuple[str, ...] = Field(
        default=("train",),
        description="query splits whose pools are judged; a recorded judge judges the queries of its file instead",
    )
    generator: Literal["dense", "sparse", "recall", "rrf", "weighted"] = Field(
        default="rrf", description="candidate generator whose pool is judged"
    )
    pool_size: int = Field(default=50, ge=2, description="documents a query, from the top of the generator's pool")
    design: PlanDesign = Field(
        default="adaptive",
        description="how pairs are chosen. adaptive: one cycle, then batches of the pairs that say most about the top of the "
        "ranking; cycles, random, complete: all at once",
    )
    degree: int = Field(
        default=8,
        ge=2,
        description="comparisons per document (k): a query of n documents gets floor(n k / 2) pairs in all rounds",
    )
    rounds: int = Field(default=4, ge=1, description="adaptive design: one cycle and rounds - 1 batches of equal size")
    cap: int = Field(default=12, ge=1, description="adaptive design: most pairs of one document in one batch")
    replan: int = Field(
        default=0,
        ge=0,
        description="adaptive design: raise it to estimate the prior that chooses pairs anew; every query's later pairs may "
        "change and cost again (`anmi replan` says how many)",
    )
    list_size: int = Field(default=10, ge=3, le=20, description="design lists: documents that one call ranks")
    instruction: str = Field(
        default="", max_length=4000, description="what relevance means in this dataset; judges behind an API are told"
    )
    judges: tuple[JudgeConfig, ...] = Field(default=(), description="who judges; empty: the dataset has nothing to judge")
    votes_per_pair: int = Field(
        default=1, ge=1, description="different judges asked about each pair, each in its own random order"
    )
    audit_share: float = Field(default=0.05, ge=0, le=1, description="share of pairs asked in both orders by all judges")
    routing: RoutingConfig | None = Field(
        default=None, description="cascade: cheap judges first, dearer ones where these leave doubt; null: judges rotate"
    )
    clicks: ClickLogs | None = Field(
        default=None, description="click logs whose preferences join the verdicts; they may stand without judges; null: none"
    )
    distil: DistilConfig | None = Field(
        default=None, description="pairwise model that learns from the verdicts and judges the whole graph; null: none"
    )
    stop: StopRule | None = Field(
        default=None,
        description="adaptive design: a query whose top is settled gets no more pairs; null: it uses all",
    )
    max_usd: float | None = Field(
        default=None,
        ge=0,
        description="most that may ever be spent on this dataset's verdicts, USD, refreshes with own caps apart; null: no cap",
    )
    max_calls: int | None = Field(default=None, ge=0, description="most calls that may ever be billed for it; null: no cap")
    at_cap: Literal["fail", "finish"] = Field(
        default="fail",
        description="fail: the step fails when the cap is reached, a higher cap goes on; finish: what was not asked counts as "
        "a failure with status cap",
    )
    expire_days: float | None = Field(
        default=None,
        gt=0,
        description="days after which a refresh asks an API again; null: never",
    )
    refresh: RefreshConfig = Field(default=RefreshConfig(), description="when and for how much verdicts are refreshed")
    epoch: str = Field(default="1", min_length=1, max_length=64, description="refresh epoch under which new verdicts are written")
    seed: int | None = Field(
        default=None, ge=0, description="seed of pairs, orders, audit and simulated outcomes; null: the dataset's seed"
    )
    import_weights: dict[Name, float] = Field(
        default={}, description="judges of imported verdicts (human) -> evidence in one of theirs, in verdicts of weight 1"
    )
    coverage_floor: float = Field(
        default=0.95, ge=0, le=1, description="share of a query's planned verdicts below which it is flagged"
    )

    anchors: AnchorsConfig | None = Field(
        default=None, description="absolute grades collected after the last round; null: none, and relevance stays null"
    )

    @field_validator("epoch", mode="before")
    @classmethod
    def epoch_as_text(cls, value: object) -> object:
        """Take `epoch: 2` of a YAML file as the text "2"."""
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def consistent(self) -> Self:
        """Refuse judges that cannot work together and more votes than judges."""
        names = [judge.name for judge in self.judges]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"judge name(s) {', '.join(twice)} are used twice; give every judge its own name.")
        kinds = {judge.kind for judge in self.judges}
        if "recorded" in kinds and len(kinds) > 1:
            raise ValueError("a recorded judge brings its own pool and plan, so it cannot stand beside judges of another kind.")
        if self.judges and "recorded" not in kinds and self.votes_per_pair > len(self.judges):
            raise ValueError(
                f"votes_per_pair is {self.votes_per_pair} but there are {len(self.judges)} judge(s); each answers a pair once. "
                "List more judges or lower votes_per_pair."
            )
        self._check_names(names)
        return self

    def _check_names(self, names: list[str]) -> None:
        """Refuse tiers and graders that name no judge, and listwise judges without lists."""
        if self.distil is not None and DISTILLED in names:
            raise ValueError(f'a judge is named "{DISTILLED}", as the verdicts of the model that is distilled here. Rename it.')
        asked = [name for tier in self.routing.tiers for name in tier.judges] if self.routing is not None else []
        if self.anchors is not None and isinstance(self.anchors.source, JudgedGrades):
            asked.append(self.anchors.source.name)
        unknown = [name for name in asked if name not in names]
        if unknown:
            raise ValueError(f'judge "{unknown[0]}" is asked, but the dataset lists {", ".join(names) or "no judge"}.')
        listwise = [judge.name for judge in self.judges if isinstance(judge, ApiJudgeConfig) and judge.prompt == "listwise"]
        if listwise and (self.design != "lists" or len(listwise) < len(self.judges)):
            raise ValueError(f'judge "{listwise[0]}" ranks lists: set design: lists, and let all judges be listwise.')
        pairwise = [judge.name for judge in self.judges if isinstance(judge, ApiJudgeConfig) and judge.prompt == "pairwise"]
        if pairwise and self.design == "lists":
            raise ValueError(f'judge "{pairwise[0]}" would be asked every pair of every list: set prompt: listwise.')
        if self.routing is not None and self.design == "lists":
            raise ValueError("a cascade routes pairs; it cannot stand beside design: lists.")

    @property
    def recorded(self) -> tuple[RecordedJudge, ...]:
        """The recorded judges; when there are any, all judges are recorded."""
        return tuple(judge for judge in self.judges if isinstance(judge, RecordedJudge))

    @property
    def adaptive(self) -> bool:
        """Whether later rounds follow the first; recorded verdicts bring their whole plan, whatever the design says."""
        return self.design == "adaptive" and bool(self.judges) and not self.recorded

    @property
    def needs_qrels(self) -> bool:
        """Whether a judge or a grader looks at the human grades."""
        graded = self.anchors is not None and isinstance(self.anchors.source, SimulatedGrades)
        return graded or any(isinstance(judge, SimulatedJudge) for judge in self.judges)

    @property
    def simulated(self) -> bool:
        """Whether any verdict or grade is simulated: every board row trained on them must say so."""
        return self.needs_qrels

    @property
    def uses_api(self) -> bool:
        """Whether any judge costs money."""
        return any(isinstance(judge, ApiJudgeConfig) for judge in self.judges)

    @property
    def teachers(self) -> tuple[str, ...]:
        """Datasets whose pairwise model is a judge here."""
        return tuple(sorted({judge.dataset for judge in self.judges if isinstance(judge, DistilledJudge)}))

    @property
    def weights(self) -> dict[str, float]:
        """Judge -> evidence in one of its verdicts: that of its tier, or its own; only those that are not 1."""
        found = {judge.name: judge.weight for judge in self.judges} | self.import_weights
        found |= self.routing.weights if self.routing is not None else {}
        return {name: weight for name, weight in found.items() if weight != 1}

    @property
    def first_judges(self) -> tuple[JudgeConfig, ...]:
        """Who is asked about a pair first: the judges of the first tier, or all."""
        if self.routing is None:
            return self.judges
        return tuple(judge for judge in self.judges if judge.name in self.routing.tiers[0].judges)

    def content(self) -> dict[str, JsonValue]:
        """Every setting that verdicts depend on: all but how judges are reached."""
        found = self.model_dump(mode="json", exclude={"refresh", "clicks", "distil"})
        found["judges"] = [
            {name: value for name, value in judge.model_dump(mode="json").items() if name not in OPERATIONAL}
            for judge in self.judges
        ]
        return found

    def draw_seed(self, dataset_seed: int) -> int:
        """The seed of every random choice of this stage."""
        return dataset_seed if self.seed is None else self.seed
