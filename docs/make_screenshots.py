"""Makes the pictures named in docs/screenshots.yaml from a materialised state, with the servers running.

    make demo && python docs/make_screenshots.py

Reads the same environment as `anmi` (ANMI_HOME, default ./.anmi). Needs a system Chromium and the `dev` extra (Playwright). The
servers start on the default ports; give others where those are taken.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml
from playwright.sync_api import Browser, Error, Page, sync_playwright
from pydantic import Field

from anmi_pipeline.defs.servers import Served, serving
from anmi_pipeline.errors import AnmiError, InputError
from anmi_pipeline.records import Records
from anmi_pipeline.settings import Config, Settings
from anmi_pipeline.store import Store

HERE = Path(__file__).resolve().parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
WAIT_MS = 90_000
OVERHANG = 60
"""Dagster fits a graph to a canvas that ends this many pixels below the page: it is drawn on a lower page, which then grows."""
STILL_MS, STILL_TRIES = 700, 15
"""A page is still when two pictures of it this far apart are equal."""


class Plot(Config):
    """A picture that the pipeline drew itself and keeps in an artifact."""

    asset: str = Field(description="asset")
    partition: str = Field(description="partition")
    files: tuple[str, ...] = Field(min_length=1, description="file in the artifact; the first that is there")


class Picture(Config):
    """One picture: a page of a server, a plot of an artifact, or one that a benchmark draws."""

    id: str = Field(description="file name without .png")
    shows: str = Field(description="what a reader sees, for captions")
    server: str = Field(default="dagster", description="dagster or mlflow")
    route: str = Field(default="", description="path on that server")
    texts: tuple[str, ...] = Field(default=(), description="texts that must be on the page before it is taken")
    storage: dict[str, str | bool] = Field(default={}, description="settings of the page in the browser's local storage")
    scale: float = Field(default=1, description="device pixels per CSS pixel")
    graph: bool = Field(default=False, description="the page draws a graph, which must fit into it")
    plot: Plot | None = Field(default=None, description="take this plot instead of a page")
    benchmark: str | None = Field(default=None, description="let benchmarks/<this>.py draw it instead")


class Pictures(Config):
    """The file."""

    size: tuple[int, int] = Field(description="width and height of a page, CSS pixels")
    dataset: str = Field(description="dataset shown unless another is asked for")
    recipe: str = Field(description="recipe shown unless another is asked for")
    pictures: tuple[Picture, ...] = Field(description="what to make")


def main() -> None:
    """Make every picture, or those named."""
    arguments = parse()
    specified = Pictures.model_validate(yaml.safe_load(arguments.spec.read_text(encoding="utf-8")))
    settings = Settings.from_environment(os.environ)
    records = Records(Store(settings.store_url))
    dataset, recipe = arguments.dataset or specified.dataset, arguments.recipe or specified.recipe
    known = {"dataset": dataset, "recipe": recipe, "mlflow_run": mlflow_route(records, dataset, recipe)}
    wanted = [filled(one, known) for one in specified.pictures if not arguments.only or one.id in arguments.only]
    arguments.out.mkdir(parents=True, exist_ok=True)
    pages = [one for one in wanted if one.plot is None and one.benchmark is None]
    for one in wanted:
        target = arguments.out / f"{one.id}.png"
        if one.plot is not None:
            report(arguments.out, one, copy_plot(records, one.plot, target))
        elif one.benchmark is not None:
            script = HERE.parent / "benchmarks" / f"{one.benchmark}.py"
            subprocess.run([sys.executable, str(script), "--png", str(target)], check=True)
            report(arguments.out, one, target)
    if not pages:
        return
    ports = {"dagster_port": arguments.dagster_port, "mlflow_port": arguments.mlflow_port}
    with started() as browser, serving(settings, **ports) as (served, _):
        for one in pages:
            take(browser, served, specified.size, one, arguments.out / f"{one.id}.png")
            report(arguments.out, one, arguments.out / f"{one.id}.png")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--spec", type=Path, default=HERE / "screenshots.yaml", help="what to make")
    parser.add_argument("--out", type=Path, default=HERE / "images", help="folder of the pictures")
    parser.add_argument("--only", nargs="*", default=[], help="ids of pictures; default: all")
    parser.add_argument("--dataset", help="dataset to show")
    parser.add_argument("--recipe", help="recipe whose checkpoint is shown")
    parser.add_argument("--dagster-port", type=int, default=3000)
    parser.add_argument("--mlflow-port", type=int, default=5000)
    return parser.parse_args()


def mlflow_route(records: Records, dataset: str, recipe: str) -> str:
    """Where MLflow shows the training of a checkpoint."""
    record, _ = records.require("checkpoint", f"{dataset}|{recipe}")
    if record.mlflow_run is None:
        raise InputError(f"checkpoint of {dataset}|{recipe} was not trained. Give a trained recipe (--recipe).")
    return "/#/" + str(record.notes["mlflow_url"]).partition("/#/")[2]


def filled(picture: Picture, known: Mapping[str, str]) -> Picture:
    """A picture with the names of this state in its routes and texts."""
    text = picture.model_dump_json()
    for name, value in known.items():
        text = text.replace(f"{{{name}}}", json.dumps(value)[1:-1])
    return Picture.model_validate_json(text)


def copy_plot(records: Records, plot: Plot, target: Path) -> Path:
    """Copy a plot out of the store."""
    _, artifact = records.require(plot.asset, plot.partition)
    stored = artifact.manifest["files"]
    name = next((name for name in plot.files if isinstance(stored, dict) and name in stored), None)
    if name is None:
        raise InputError(f"{plot.asset} of {plot.partition} holds none of {', '.join(plot.files)}.")
    target.write_bytes(artifact.file(name).read_bytes())
    return target


@contextmanager
def started() -> Generator[Browser]:
    """A headless browser for the length of a `with` block."""
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        raise InputError("no Chromium on the PATH. Install it (Debian: apt-get install chromium).")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


def take(browser: Browser, served: Served, size: tuple[int, int], picture: Picture, target: Path) -> None:
    """Open a page, wait for what it must show, take it."""
    base = {"dagster": served.dagster_url, "mlflow": served.mlflow_url}[picture.server]
    width, height = size
    context = browser.new_context(
        viewport={"width": width, "height": height - OVERHANG * picture.graph}, device_scale_factor=picture.scale
    )
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    for key, value in picture.storage.items():
        page.add_init_script(f"localStorage.setItem({json.dumps(key)}, {json.dumps(json.dumps(value))})")
    page.goto(base + picture.route, wait_until="domcontentloaded")
    for text in picture.texts:
        found = page.get_by_text(text, exact=True).first
        try:
            found.wait_for()
        except Error as error:
            raise InputError(f"page {picture.route} does not show {text!r}: {error.message.splitlines()[0]}") from error
    if picture.graph:
        settled(page)
        page.set_viewport_size({"width": width, "height": height})
    target.write_bytes(settled(page))
    context.close()


def settled(page: Page) -> bytes:
    """A screenshot that has stopped changing, or the last of some."""
    before = b""
    for _ in range(STILL_TRIES):
        now = page.screenshot(animations="disabled", caret="hide")
        if now == before:
            break
        before = now
        page.wait_for_timeout(STILL_MS)
    return before


def report(folder: Path, picture: Picture, path: Path) -> None:
    """Say what was made."""
    sys.stdout.write(f"{path.relative_to(folder.parent)}  {path.stat().st_size // 1024} kB  {picture.shows}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        main()
    except AnmiError as error:
        sys.exit(f"error: {error}")
