"""Which tests share a worker of pytest-xdist, and in what order workers take them.

Belongs here: the schedule. Does not: anything that a run without xdist needs.
"""

from pathlib import PurePosixPath

from xdist.scheduler import LoadScopeScheduling

SHARED = ("ui",)
"""Folders whose files share an installation: all of a folder runs in one worker."""
FIRST = (
    "acceptance", "ui", "cli", "serving", "judging/test_batches", "defs", "training", "collections", "foundation", "judging",
    "rating", "evaluation",
)  # fmt: skip
"""What takes longest comes first, so that no worker is left alone with it at the end."""


class ByFile(LoadScopeScheduling):
    """A file, or a folder of SHARED, runs in one worker: fixtures of a module or a package are made once."""

    def _split_scope(self, nodeid: str) -> str:
        path = PurePosixPath(nodeid.split("::", maxsplit=1)[0])
        return str(path.parent) if path.parent.name in SHARED else str(path)


def turn(path: str) -> int:
    """Place of a test's file in the order."""
    return next((place for place, start in enumerate(FIRST) if f"anmi_pipeline_tests/{start}" in path), len(FIRST))
