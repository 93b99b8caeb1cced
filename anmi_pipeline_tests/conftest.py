"""Fixtures that every room's tests share."""

import os
from pathlib import Path

import hypothesis
import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

# No test fails for the time it takes: the first example may compile a loop, and machines are busy.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


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
