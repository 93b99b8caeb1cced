"""A dataset is checked as a whole before anything runs: file, recipes, collection."""

from pathlib import Path

import pytest

from anmi_pipeline.catalog.checking import check_dataset
from anmi_pipeline.errors import InputError
from anmi_pipeline.settings import Settings
from anmi_pipeline_tests.small import write_small


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """An installation with one small dataset."""
    return Settings.from_environment(write_small(tmp_path))


def test_a_dataset_is_summed_up_by_name_or_by_file(settings: Settings) -> None:
    assert settings.conf is not None
    rows = check_dataset("small", settings)
    assert rows == check_dataset(str(settings.conf / "datasets" / "small.yaml"), settings)
    told = {row["what"]: row["value"] for row in rows}
    assert told["documents"] == "40"
    assert told["queries in train"] == "15, 15 with a relevant document, 15 grades"
    assert told["queries in test"] == "8, 8 with a relevant document, 8 grades"
    assert not settings.home.exists(), "checking builds nothing"


def test_a_mistake_in_a_recipe_of_the_dataset_is_found(settings: Settings) -> None:
    assert settings.conf is not None
    path = settings.conf / "datasets" / "small.yaml"
    path.write_text(path.read_text() + "recipe_settings: {features: {training: {rigde: 2}}}\n")
    with pytest.raises(InputError, match=r'unknown field "training.features.rigde". Did you mean "ridge"\?'):
        check_dataset("small", settings)


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        ("smal", r'unknown dataset "smal". Did you mean "small"\?'),
        ("smal.yaml", r"smal.yaml does not exist. Give a dataset's YAML file, or a name"),
    ],
)
def test_a_dataset_that_is_not_there_is_named(settings: Settings, file: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        check_dataset(file, settings)


def test_a_collection_without_documents_is_refused(settings: Settings) -> None:
    assert settings.data is not None
    (settings.data / "small" / "corpus.jsonl").write_text("")
    with pytest.raises(InputError):
        check_dataset("small", settings)
