"""The YAML, JSON and SQL of the pages are accepted by the models, the readers and DuckDB."""

import json
import re
import shutil
from pathlib import Path

import duckdb
import polars as pl
import pytest
import yaml
from pydantic import BaseModel

from anmi_pipeline import tables
from anmi_pipeline.catalog.checking import check_dataset
from anmi_pipeline.catalog.datasets import DatasetConfig, read_dataset
from anmi_pipeline.catalog.files import models_in
from anmi_pipeline.catalog.recipes import RecipeConfig, load_recipe
from anmi_pipeline.settings import Settings
from anmi_pipeline.table_specs import TableSpec
from anmi_pipeline_tests.docs.pages import REPOSITORY, Block, Command, blocks, commands

EXAMPLES = REPOSITORY / "docs" / "examples"
HEADER = re.compile(r"^# conf/(datasets|recipes|judges)/([\w-]+)\.yaml\n")
STORED = {
    "corpus": tables.CORPUS,
    "queries": tables.QUERIES,
    "qrels": tables.QRELS,
    "candidate_pool": tables.POOL,
    "comparison_plan": tables.PLAN,
    "comparison_plan_certificates": tables.CERTIFICATES,
    "pairwise_judgments": tables.JUDGMENTS,
    "judge_report": tables.REPORT,
    "comparison_graph": tables.COMPARISONS,
    "elo_table": tables.ELO,
    "training_set": tables.TRAINING_SET,
    "training_set_curriculum": tables.CURRICULUM,
    "scores": tables.SCORES,
    "tuned_system_trials": tables.TRIALS,
    "leaderboard_metrics": tables.METRICS,
    "leaderboard_contrasts": tables.CONTRASTS,
    "lineage_report": tables.LINEAGE,
}
"""Views of `anmi sql` that the pages ask."""


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration folder with every YAML block of the pages beside the example's files."""
    folder = tmp_path_factory.mktemp("pages") / "conf"
    shutil.copytree(EXAMPLES / "conf", folder)
    for block in blocks("yaml"):
        header = HEADER.match(block.text)
        assert header, f"{block.page}: a YAML block starts with its file, such as # conf/datasets/handbook.yaml"
        (folder / header[1]).mkdir(exist_ok=True)
        (folder / header[1] / f"{header[2]}.yaml").write_text(block.text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: f"{block.page} {block.text.splitlines()[0]}")
def test_yaml_blocks_are_valid(block: Block, conf: Path, tmp_path: Path) -> None:
    room, name = HEADER.match(block.text).groups()
    if room == "judges":
        asking = tmp_path / "asking.yaml"
        asking.write_text(f"description: asks it\nextends: stdlib\njudging: {{judges: [{name}]}}\n", encoding="utf-8")
        assert [judge.name for judge in read_dataset(asking, conf).judging.judges] == [name]
        return
    if room == "recipes":
        load_recipe(name, conf)
        return
    dataset = read_dataset(conf / room / f"{name}.yaml", conf)
    for recipe in dataset.recipes:
        load_recipe(recipe, conf, dataset.settings_for(recipe))


@pytest.mark.parametrize("file", sorted(path.relative_to(EXAMPLES) for path in EXAMPLES.glob("conf/*/*.yaml")), ids=str)
def test_pages_show_the_example_files_as_they_are(file: Path) -> None:
    header = f"# {file}\n"
    shown = [block.text.removeprefix(header) for block in blocks("yaml") if block.text.startswith(header)]
    assert shown
    assert set(shown) == {(EXAMPLES / file).read_text(encoding="utf-8")}


def test_the_example_dataset_passes_its_check_as_the_tutorial_shows(tmp_path: Path) -> None:
    environment = {"ANMI_HOME": str(tmp_path), "ANMI_CONF": str(EXAMPLES / "conf"), "ANMI_DATA": str(EXAMPLES)}
    rows = check_dataset(str(EXAMPLES / "conf/datasets/handbook.yaml"), Settings.from_environment(environment))
    shown = next(block.text for block in blocks("text") if block.page == "tutorial.md")
    lines = [re.split(r"\s{2,}", line) for line in shown.splitlines()[:-1]]
    assert [[str(row["what"]), str(row["value"])] for row in rows] == lines
    assert not list(tmp_path.iterdir())


def test_a_control_differs_from_its_twin_in_the_labels_alone(conf: Path) -> None:
    for control, twin in (("placebo-all", "anmi-all"), ("placebo", "short")):
        one, other = (load_recipe(name, conf).model_dump(exclude={"name", "description"}) for name in (control, twin))
        one["mining"]["labels"] = "elo"
        assert one == other


def test_json_blocks_are_json() -> None:
    lines = [line for block in blocks("json") for line in block.text.splitlines()]
    assert lines
    assert all(json.loads(line) for line in lines)


@pytest.mark.parametrize("command", [one for one in commands("anmi") if one.words[1] == "sql"], ids=lambda one: one.line)
def test_sql_of_the_pages_fits_the_tables(command: Command) -> None:
    with duckdb.connect() as connection:
        for name, spec in STORED.items():
            connection.register(name, empty(spec).to_arrow())
        connection.execute("create view tables as select '' as name, 0 as partitions")
        found = connection.execute(command.words[2])
        assert found.description, "a statement without columns shows a reader nothing"


def empty(spec: TableSpec) -> pl.DataFrame:
    """A table of `anmi sql` without rows: the partition in front of its columns."""
    return pl.DataFrame(schema={"partition": pl.String(), **spec.schema})


SETTINGS = [
    (page.name, *match)
    for page in sorted((REPOSITORY / "docs").glob("*.md"))
    for match in re.findall(r"^\| `([a-z_.0-9]+)` \| ([^|]+) \| ", page.read_text(encoding="utf-8"), re.MULTILINE)
    if page.name in ("candidates.md", "judging.md", "rating.md", "training.md", "evaluation.md")
    and ("." in match[0] or match[0] == "seeds")
]


@pytest.mark.parametrize(("page", "setting", "default"), SETTINGS, ids=str)
def test_settings_have_the_default_that_the_page_says(page: str, setting: str, default: str) -> None:
    path = setting.split(".")
    root = RecipeConfig if path[0] in ("mining", "training", "inference", "seeds") else DatasetConfig
    assert rendered(default_of(root, path)) == yaml.safe_load(default), page


def default_of(model: type[BaseModel], path: list[str]) -> object:
    """Default of a field below a model; of several models in a union the first that has it."""
    field = model.model_fields[path[0]]
    if len(path) == 1:
        return field.get_default(call_default_factory=True, validated_data={})
    inner = next(one for one in models_in(field.annotation) if path[1] in one.model_fields)
    return default_of(inner, path[1:])


def rendered(value: object) -> object:
    """A default as a page writes it: lists for tuples, the kind for a model, numbers for texts of digits."""
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, BaseModel):
        return getattr(value, "kind", None)
    return int(value) if isinstance(value, str) and value.isdigit() else value
