"""Fixtures that every room's tests share, and how pytest-xdist divides the tests (`parallel.py`)."""

import importlib
import os
from pathlib import Path
from types import ModuleType

import hypothesis
import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

# No test fails for the time it takes: the first example may compile a loop, and machines are busy.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """Under `--dist loadfile` our own division."""
    if config.getvalue("dist") != "loadfile":
        return None
    from anmi_pipeline_tests.parallel import ByFile

    config.option.loadscopereorder = False
    return ByFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the long ones first, in a worker."""
    if hasattr(config, "workerinput"):
        from anmi_pipeline_tests.parallel import turn

        items.sort(key=lambda item: turn(item.path.as_posix()))


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real test collections: ANMI_DATA, else the folder beside the checkout."""
    root = Path(os.environ.get("ANMI_DATA", REPOSITORY.parent / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"no test collections at {root}; set ANMI_DATA")
    return root


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed."""
    return np.random.default_rng(0)


@pytest.fixture
def ranx(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The package ranx as plain Python: compiling its loops takes much longer than running them on what tests compare."""
    from numba.core import config

    monkeypatch.setattr(config, "DISABLE_JIT", True)
    return importlib.import_module("ranx")
