"""A dataset: one collection under study and how it is retrieved, judged, rated and evaluated.

Belongs here: `DatasetConfig` and its loading with `extends`. Does not: reading the collection itself (`collections/`).
"""

from pathlib import Path
from typing import Literal, cast

from pydantic import Field

from anmi_pipeline.catalog.files import Node, locate, merge, parse, read_yaml, resolve
from anmi_pipeline.collections.sources import SourceConfig
from anmi_pipeline.evaluation.config import EvaluationConfig, TuningConfig
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.rating.calibration import CalibrationConfig
from anmi_pipeline.rating.config import RatingConfig
from anmi_pipeline.rating.selection import SelectionConfig
from anmi_pipeline.retrieval.config import RetrievalConfig
from anmi_pipeline.settings import Config


class DatasetConfig(Config):
    """One dataset, or a labelling variant of one."""

    name: str = Field(description="dataset = partition key")
    description: str = Field(description="one line for people")
    family: str = Field(description="root of the extends chain; stages with equal settings are shared within it")
    source: SourceConfig = Field(description="where the collection comes from")
    scope: Literal["corpus", "group"] = Field(
        default="corpus", description="group: a query's candidates are the documents of its own group"
    )
    seed: int = Field(default=0, description="seed of every draw about this dataset")
    retrieval: RetrievalConfig = Field(default_factory=RetrievalConfig, description="retrievers and candidate pool")
    judging: JudgingConfig = Field(default_factory=JudgingConfig, description="who is asked which pairs")
    rating: RatingConfig = Field(default_factory=RatingConfig, description="how preferences become Elo")
    calibration: CalibrationConfig = Field(
        default_factory=CalibrationConfig, description="how the anchors' grades turn Elo into relevance"
    )
    selection: SelectionConfig = Field(
        default_factory=SelectionConfig, description="how the rating models are compared by held-out verdicts"
    )
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig, description="metrics, query sets, intervals")
    tuning: TuningConfig = Field(default_factory=TuningConfig, description="grid of inference settings tried on dev_select")
    recipes: tuple[str, ...] = Field(default=("bm25", "minilm"), description="recipes that `anmi run` builds by default")
    recipe_settings: dict[str, dict[str, object]] = Field(
        default_factory=dict, description="settings merged over recipes of this dataset, by recipe name; `all` for every recipe"
    )
    compare_with: tuple[str, ...] = Field(default=(), description="datasets whose systems join this leaderboard")

    def settings_for(self, recipe: str) -> Node:
        """This dataset's settings of a recipe: those of `all`, then its own on top."""
        return merge(self.recipe_settings.get("all", {}), self.recipe_settings.get(recipe, {}))

    @property
    def labels(self) -> str:
        """What the training labels of this dataset rest on, the weakest part of it.

        simulated (a simulated judge, or qrels), judged (an LLM, a reranker, a distilled judge), recorded (verdicts of a file),
        human (known sources), clicks.
        """
        kinds = {judge.kind for judge in self.judging.judges}
        if self.rating.source == "qrels" or "simulated" in kinds:
            return "simulated"
        if self.judging.distil is not None or kinds & {"openai", "anthropic", "cross_encoder", "distilled"}:
            return "judged"
        if "recorded" in kinds:
            return "recorded"
        return "human" if kinds else "clicks"


def load_dataset(name: str, conf: Path | None) -> DatasetConfig:
    """Read a dataset by name.

    Raises:
        InputError: unknown dataset, or a wrong field.
    """
    return read_dataset(locate("datasets", name, conf), conf)


def read_dataset(path: Path, conf: Path | None) -> DatasetConfig:
    """Read a dataset file, merged over what it extends.

    Raises:
        InputError: the file is not there, a field is wrong, or it names a recipe or dataset that does not exist.
    """
    node, chain = resolve("datasets", path, conf)
    name_judges(node, conf)
    settings: Node = {**node, "name": path.stem, "family": chain[-1]}
    config = parse(DatasetConfig, settings, str(path))
    for recipe in (*config.recipes, *(name for name in config.recipe_settings if name != "all")):
        locate("recipes", recipe, conf, where=path)
    for other in config.compare_with:
        locate("datasets", other, conf, where=path)
    return config


def name_judges(node: Node, conf: Path | None) -> None:
    """Put the settings of `judges/<name>.yaml` where a dataset names a judge instead of describing it.

    `{use: NAME, ...}` takes those of the file and changes some.

    Raises:
        InputError: no such judge file.
    """
    judging = node.get("judging")
    judges = judging.get("judges") if isinstance(judging, dict) else None
    if isinstance(judging, dict) and isinstance(judges, list):
        judging["judges"] = [named_judge(one, conf) for one in judges]


def named_judge(entry: object, conf: Path | None) -> object:
    """A judge as its file describes it, with the entry's own settings on top; an entry that names no file is itself.

    Raises:
        InputError: no such judge file.
    """
    if isinstance(entry, str):
        return read_yaml(locate("judges", entry, conf))
    used = cast("Node", entry).get("use") if isinstance(entry, dict) else None
    if not isinstance(used, str):
        return entry
    return merge(
        read_yaml(locate("judges", used, conf)), {name: value for name, value in cast("Node", entry).items() if name != "use"}
    )
