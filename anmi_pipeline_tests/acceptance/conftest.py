"""The scripts of benchmarks/acceptance as modules, and one built installation for the tests that edit and break it."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "benchmarks" / "acceptance"
SMALL = {"documents": 60, "queries": 30}

Load = Callable[[str], ModuleType]


@pytest.fixture(scope="package")
def load() -> Load:
    """Import a script by its file name: a name that begins with a number is no module name."""
    if str(SCRIPTS) not in sys.path:
        sys.path.insert(0, str(SCRIPTS))

    def script(name: str) -> ModuleType:
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
        return sys.modules[name]

    return script


@pytest.fixture(scope="package")
def harness(load: Load) -> ModuleType:
    """What the scripts share."""
    return load("harness")


@pytest.fixture
def figures(harness: ModuleType, request: pytest.FixtureRequest):
    """Figures of one test; the test asserts that none failed."""
    return harness.Figures(request.node.name)


@pytest.fixture(scope="package")
def made(load: Load, tmp_path_factory: pytest.TempPathFactory):
    """The made-up collection; tests may edit its files."""
    return load("made").make(tmp_path_factory.mktemp("made"), **SMALL)


@pytest.fixture(scope="package")
def installation(harness: ModuleType, made, tmp_path_factory: pytest.TempPathFactory):
    """An ANMI_HOME over it."""
    return harness.Installation(tmp_path_factory.mktemp("home"), made.conf)
