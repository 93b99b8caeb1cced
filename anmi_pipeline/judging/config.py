"""What a dataset's YAML says about judging: who judges, which pairs, how often.

Belongs here: the configuration models. Does not: the judges themselves. Importing this module loads nothing heavy.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from anmi_pipeline.rating.designs import DesignKind
from anmi_pipeline.settings import Config

PlanDesign = Literal[DesignKind, "adaptive"]
"""The designs that are drawn at once, and the one that looks at verdicts between its rounds."""

JUDGE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Judge names: no slash, because a recorded judge's ids are `name/judge of the file`."""

Name = Annotated[str, Field(pattern=JUDGE_NAME, description="name of the judge: its id in plans, verdicts, ledger and reports")]


class EnsembleWeights(Config):
    """Weights of the three z-scores that the ensemble judge adds up."""

    lexical: float = Field(default=0.4, ge=0, description="weight of the BM25 score, z within the judged pool")
    dense: float = Field(default=0.4, ge=0, description="weight of the bi-encoder score, z within the judged pool")
    name: float = Field(
        default=0.2, ge=0, description="weight of the share of query word stems in the title, z within the judged pool"
    )

    @model_validator(mode="after")
    def some_weight(self) -> Self:
        """Refuse a judge that looks at nothing."""
        if self.lexical + self.dense + self.name <= 0:
            raise ValueError("all ensemble weights are 0: the judge would call every pair a tie. Set at least one above 0.")
        return self


class EnsembleJudge(Config):
    """A judge without an API: retrieval scores and name overlap as a soft probability."""

    kind: Literal["ensemble"] = Field(default="ensemble", description="which judge this is")
    name: Name = "ensemble"
    weights: EnsembleWeights = Field(default=EnsembleWeights(), description="weights of the z-scores")
    scale: float = Field(
        default=1.0, gt=0, description="score difference that counts as one probit unit: p = Phi(difference / scale)"
    )
    known_source_bonus: float = Field(
        default=0.0,
        ge=0,
        description="added (in z units) to the document a query was taken from; such verdicts are known provenance",
    )


class SimulatedJudge(Config):
    """A judge that knows the human grades and errs at a stated rate. Marked simulated wherever it shows."""

    kind: Literal["simulated"] = Field(default="simulated", description="which judge this is")
    name: Name = "simulated"
    error_rate: float = Field(default=0.15, ge=0, le=0.5, description="probability that the lower grade wins")
    tie_slope: float = Field(
        default=0.1, ge=0, le=0.5, description="of equal grades the first wins with .5 + tie_slope * tanh(z_first - z_second)"
    )


class RecordedJudge(Config):
    """Verdicts of a file; it brings its own pool and plan: exactly the documents and pairs of the file."""

    kind: Literal["recorded"] = Field(default="recorded", description="which judge this is")
    name: Name = "recorded"
    path: str = Field(description="CSV file (.csv or .csv.gz), relative to ANMI_DATA or absolute")
    format: Literal["battles", "ordered"] = Field(
        default="battles",
        description="columns of the file. battles: query_id,left,right,winner[,judge,round,ties_visible]; "
        "ordered: query_id,first,second,verdict[,judge,round]",
    )


JudgeConfig = Annotated[EnsembleJudge | SimulatedJudge | RecordedJudge, Field(discriminator="kind")]


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


class AnchorsConfig(Config):
    """Absolute grades of a few documents per query, from which relevance across queries is learnt."""

    per_query: int = Field(default=3, ge=1, description="documents of each query that are graded")
    strategy: Literal["bar", "spread", "top"] = Field(
        default="bar",
        description="which. bar: around the rank at which the relevant documents are expected to end; spread: along the whole "
        "ranking; top: the highest",
    )
    expected_share: float = Field(default=0.5, ge=0, le=1, description="expected share of relevant documents; strategy bar")
    source: Annotated[RecordedGrades | SimulatedGrades, Field(discriminator="kind")] = Field(description="who grades")


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
    judges: tuple[JudgeConfig, ...] = Field(default=(), description="who judges; empty: the dataset has nothing to judge")
    votes_per_pair: int = Field(
        default=1, ge=1, description="different judges asked about each pair, each in its own random order"
    )
    audit_share: float = Field(default=0.05, ge=0, le=1, description="share of pairs asked in both orders by all judges")
    epoch: str = Field(default="1", min_length=1, max_length=64, description="refresh epoch under which new verdicts are written")
    seed: int | None = Field(
        default=None, ge=0, description="seed of pairs, orders, audit and simulated outcomes; null: the dataset's seed"
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
        return self

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

    def draw_seed(self, dataset_seed: int) -> int:
        """The seed of every random choice of this stage."""
        return dataset_seed if self.seed is None else self.seed
