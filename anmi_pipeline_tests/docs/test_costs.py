"""docs/costs.md says what benchmarks/costs.py prints, and the tokens behind it are those of the shipped prompts."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from anmi_pipeline_tests.docs.pages import REPOSITORY


@pytest.fixture(scope="module")
def costs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("costs", REPOSITORY / "benchmarks" / "costs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["costs"] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_holds_the_tables_of_the_script(costs: ModuleType) -> None:
    page = costs.PAGE.read_text(encoding="utf-8")
    assert costs.with_tables(page) == page, "run: python benchmarks/costs.py --write"
    assert page.count("<!-- costs: ") == len(costs.TABLES)


def test_a_published_tier_is_reproduced(costs: ModuleType) -> None:
    rows = costs.tiers().splitlines()[2:]
    assert len(rows) == 3 and all("**" in row for row in rows)


@pytest.mark.parametrize("collection", ["nfcorpus", "scifact"])
def test_tokens_are_measured(costs: ModuleType, data_root: Path, collection: str) -> None:
    found = costs.measure(data_root, collection, sizes=(2,))
    assert found[collection, 2] == pytest.approx(costs.MEASURED[collection, 2], abs=0.1)
