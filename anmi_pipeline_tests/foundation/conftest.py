"""Fixtures of the foundation's tests: a store in a folder, a tiny disk of its own, an object store on loopback."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from anmi_pipeline_tests.foundation.made import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """An empty store."""
    return Bench(tmp_path / "store")


class Disk:
    """A mounted file system of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self) -> Path:
        """Take all the free space with one file, which is returned."""
        ballast = self.path / "ballast"
        free = os.statvfs(self.path)
        with ballast.open("wb") as stream:
            stream.write(bytes(free.f_bavail * free.f_frsize))
        return ballast

    def read_only(self, yes: bool) -> None:
        """Remount it."""
        subprocess.run(["mount", "-o", f"remount,{'ro' if yes else 'rw'}", str(self.path)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A file system of 1 MB in memory; skipped only where mounting is refused."""
    path = tmp_path / "disk"
    path.mkdir()
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if mounted.returncode:
        pytest.skip(f"mounting is refused: {mounted.stderr.strip()}")
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
