"""The script of the documentation's pictures works on any state, here the tests' own."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from playwright.sync_api import Browser

from anmi_pipeline.defs.servers import Served
from anmi_pipeline.errors import InputError
from anmi_pipeline.records import Records
from anmi_pipeline.store import Store
from anmi_pipeline_tests.conftest import REPOSITORY
from anmi_pipeline_tests.ui.site import BUILT, RECIPE, Site

pytestmark = pytest.mark.ui


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """docs/make_screenshots.py as a module."""
    spec = importlib.util.spec_from_file_location("make_screenshots", REPOSITORY / "docs" / "make_screenshots.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_pictures_are_made(script: ModuleType, browser: Browser, site: Site, tmp_path: Path) -> None:
    specified = script.Pictures.model_validate(yaml.safe_load((REPOSITORY / "docs" / "screenshots.yaml").read_text()))
    records, served = Records(Store(str(site.home))), Served(site.dagster_url, site.mlflow_url, tmp_path)
    known = {"dataset": BUILT, "recipe": RECIPE, "mlflow_run": script.mlflow_route(records, BUILT, RECIPE)}
    for picture in (script.filled(one, known) for one in specified.pictures):
        target = tmp_path / f"{picture.id}.png"
        if picture.plot is not None:
            script.copy_plot(records, picture.plot, target)
        else:
            script.take(browser, served, specified.size, picture, target)
            width, height = (int.from_bytes(target.read_bytes()[start : start + 4]) for start in (16, 20))
            assert (width, height) == tuple(round(side * picture.scale) for side in specified.size)
        assert target.stat().st_size > 10_000


def test_an_untrained_recipe_has_no_training_to_show(script: ModuleType, site: Site) -> None:
    with pytest.raises(InputError, match="was not trained"):
        script.mlflow_route(Records(Store(str(site.home))), BUILT, "bm25")
