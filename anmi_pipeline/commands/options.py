"""What commands have in common: the installation, the console, options that mean the same everywhere."""

import os
import sys
from typing import Annotated

import typer
from rich.console import Console

from anmi_pipeline.settings import Settings

Dataset = Annotated[str, typer.Option("--dataset", "-d", help="dataset name")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]

PIPED_WIDTH = 180
"""Columns of tables and trees that go into a file or a pipe."""


def settings() -> Settings:
    """The installation that the environment names."""
    return Settings.from_environment(os.environ)


def console(*, stderr: bool = False) -> Console:
    """Standard output, or standard error where that is kept for JSON."""
    written = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr) if written.isatty() else Console(stderr=stderr, width=PIPED_WIDTH)
