"""Every shipped dataset and recipe loads, and differs from its twins in what its name says alone."""

import subprocess
import sys
from collections.abc import Iterator, Mapping

import pytest

from anmi_pipeline.catalog.datasets import DatasetConfig, load_dataset
from anmi_pipeline.catalog.files import models_in, names, read_yaml, shipped
from anmi_pipeline.catalog.recipes import RecipeConfig, load_recipe
from anmi_pipeline.settings import Config
from anmi_pipeline_tests.conftest import REPOSITORY

DATASETS, RECIPES = names("datasets", None), names("recipes", None)


def differences(left: object, right: object, place: str = "") -> Iterator[str]:
    """Dotted places at which two resolved configurations differ."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        for key in sorted({*left, *right}, key=str):
            yield from differences(left.get(key), right.get(key), f"{place}.{key}".removeprefix("."))
    elif left != right:
        yield f"{place}: {left} -> {right}"


def recipe_differences(left: str, right: str, dataset: str | None = None) -> list[str]:
    """Where two recipes differ, names and descriptions aside, as a dataset runs them."""
    run_by = load_dataset(dataset, None) if dataset else None
    settings = [run_by.settings_for(name) if run_by else {} for name in (left, right)]
    one, other = (load_recipe(name, None, own).model_dump(mode="json") for name, own in zip((left, right), settings, strict=True))
    return list(
        differences(*({key: value for key, value in node.items() if key not in ("name", "description")} for node in (one, other)))
    )


@pytest.mark.parametrize("name", DATASETS)
def test_every_shipped_dataset_loads(name: str) -> None:
    config = load_dataset(name, None)
    assert config.name == name
    assert config.description
    assert len(config.description) < 200
    for recipe in config.recipes:
        assert load_recipe(recipe, None, config.settings_for(recipe)).name == recipe
    assert DatasetConfig.model_validate(config.model_dump(mode="json")) == config, "it survives being written to a record"


@pytest.mark.parametrize("name", RECIPES)
def test_every_shipped_recipe_loads(name: str) -> None:
    config = load_recipe(name, None)
    assert config.name == name
    assert config.description
    assert config.trained is (config.training is not None) is (config.method is None)
    assert RecipeConfig.model_validate(config.model_dump(mode="json")) == config


def test_what_the_issue_names_is_shipped() -> None:
    assert {"stdlib", "nfcorpus", "scifact", "msmarco-dl19", "scifact-simulated", "nfcorpus-simulated"} <= set(DATASETS)
    assert {"bm25", "minilm", "rrf", "minmax", "anmi", "default", "infonce", "features", "placebo"} <= set(RECIPES)
    board = {"bm25", "minilm", "rrf", "minmax", "anmi", "default", "features", "placebo"}
    assert board <= set(load_dataset("stdlib", None).recipes)
    for name in DATASETS:
        config = load_dataset(name, None)
        if "anmi" in config.recipes and config.rating.source != "qrels":
            assert "placebo" in config.recipes, f"{name}: the control belongs on every board"


@pytest.mark.parametrize("dataset", [None, *DATASETS])
def test_the_placebo_differs_from_its_twin_in_shuffled_labels_alone(dataset: str | None) -> None:
    assert recipe_differences("anmi", "placebo", dataset) == ["mining.labels: elo -> shuffled"]


def test_variants_share_their_family_and_differ_in_labelling_alone() -> None:
    for root in ("scifact", "nfcorpus"):
        plain, simulated = load_dataset(root, None), load_dataset(f"{root}-simulated", None)
        assert plain.family == simulated.family == root
        assert plain.labels == "human"
        assert simulated.labels == "simulated"
        places = {
            place.split(":")[0].split(".")[0]
            for place in differences(plain.model_dump(mode="json"), simulated.model_dump(mode="json"))
        }
        assert places <= {"name", "description", "judging", "recipe_settings", "recipes"}
        (judge,) = simulated.judging.judges
        assert (judge.kind, judge.error_rate) == ("simulated", 0.15)
    assert load_dataset("scifact-true", None).labels == "simulated"
    assert load_dataset("stdlib", None).labels == "human"
    assert load_dataset("msmarco-dl19", None).labels == "recorded"


def test_adaptive_variants_differ_in_design_budget_prior_and_what_shrunk_elo_asks_for() -> None:
    sharper = "{'mining': {'positive_window': 50, 'max_positives': 1}}"
    changed = {"judging.design: cycles -> adaptive", "rating.prior: zero -> scores"}
    changed |= {f"recipe_settings.{recipe}: None -> {sharper}" for recipe in ("anmi", "infonce", "placebo")}
    changed.add("recipe_settings.default: None -> {'training': {'loss': {'kind': 'listwise_kl', 'temperature': 8.0}}}")
    for root in ("scifact", "nfcorpus"):
        simulated, adaptive = (load_dataset(f"{root}-{kind}", None).model_dump(mode="json") for kind in ("simulated", "adaptive"))
        found = {place for place in differences(simulated, adaptive) if not place.startswith(("name:", "description:"))}
        assert found == changed
    full, half = (load_dataset(f"scifact-adaptive{more}", None).model_dump(mode="json") for more in ("", "-100"))
    assert [place for place in differences(full, half) if not place.startswith(("name:", "description:"))] == [
        "judging.degree: 8 -> 4"
    ]


def test_what_was_shipped_before_the_informative_prior_says_that_it_goes_without() -> None:
    older = ("stdlib", "scifact", "nfcorpus", "scifact-simulated", "nfcorpus-simulated", "scifact-true", "msmarco-dl19")
    for config in (load_dataset(name, None) for name in older):
        assert (config.judging.design, config.rating.prior, config.judging.anchors) == ("cycles", "zero", None), config.name
    new = DatasetConfig.model_validate({"description": "d", "source": {"reader": "stdlib"}, "name": "n", "family": "n"})
    assert (new.judging.design, new.rating.prior, new.rating.std_error) == ("adaptive", "scores", "hc3")


def test_the_settings_of_all_recipes_reach_every_recipe() -> None:
    dataset = load_dataset("scifact-simulated", None)
    for name in dataset.recipes:
        config = load_recipe(name, None, dataset.settings_for(name))
        assert config.encoder is not None
        assert config.encoder.max_tokens == 96


def test_the_systems_are_the_ones_their_names_say() -> None:
    methods = {name: load_recipe(name, None).method for name in ("bm25", "minilm", "rrf", "minmax")}
    assert methods == {"bm25": "lexical", "minilm": "encoder", "rrf": "rrf", "minmax": "min_max"}
    losses = {name: load_recipe(name, None).training.loss.kind for name in ("anmi", "default", "infonce", "zelo")}
    assert losses == {"anmi": "hybrid", "default": "listwise_kl", "infonce": "infonce", "zelo": "mse"}
    assert {len(load_recipe(name, None).seeds) for name in ("anmi", "default", "infonce", "placebo")} == {3}


@pytest.mark.parametrize("path", sorted(shipped("judges").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_judge_is_a_judge_of_a_dataset(path: object) -> None:
    node = {
        "description": "d",
        "source": {"reader": "stdlib"},
        "judging": {"judges": [read_yaml(path)]},
        "name": "n",
        "family": "n",
    }
    assert DatasetConfig.model_validate(node).judging.judges[0].name


def described(model: type[Config], seen: set[type[Config]]) -> Iterator[str]:
    """Fields without a description, in a model and all below it."""
    seen.add(model)
    for name, field in model.model_fields.items():
        tag = len(getattr(field.annotation, "__args__", ())) == 1 and name in ("kind", "reader")
        if not field.description and not tag:
            yield f"{model.__name__}.{name}"
        for below in models_in(field.annotation):
            if below not in seen:
                yield from described(below, seen)


@pytest.mark.parametrize("model", [DatasetConfig, RecipeConfig])
def test_every_field_is_described_frozen_and_closed(model: type[Config]) -> None:
    seen: set[type[Config]] = set()
    assert list(described(model, seen)) == []
    assert len(seen) > 8
    assert all(one.model_config.get("frozen") and one.model_config.get("extra") == "forbid" for one in seen)


HEAVY = {
    *("torch", "transformers", "sentence_transformers", "mlflow", "faiss", "sklearn", "scipy", "matplotlib", "numba", "duckdb"),
    *("dagster", "openai", "anthropic", "optuna"),
}
LOAD = """
import sys
from anmi_pipeline.catalog.datasets import load_dataset
from anmi_pipeline.catalog.recipes import load_recipe
load_dataset("stdlib", None), load_recipe("anmi", None)
print(*sys.modules)
"""


def test_reading_the_catalog_loads_nothing_heavy() -> None:
    said = subprocess.run([sys.executable, "-c", LOAD], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert "anmi_pipeline.catalog.recipes" in said.split()
    assert HEAVY & set(said.split()) == set()
