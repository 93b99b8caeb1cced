"""One built installation, `anmi ui` over it, and a browser, for all tests of the folder."""

import shutil
from collections.abc import Generator, Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from anmi_pipeline_tests.defs.processes import living
from anmi_pipeline_tests.ui.site import Served, Site, make_site

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
WAIT_MS = 90_000
"""Longest wait for one thing on a page; two busy cores need most of it now and then."""


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """The system's Chromium, headless."""
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium; `.ci/run` installs Debian's package chromium")
    expect.set_options(timeout=WAIT_MS)  # a context's default timeout does not reach what is expected
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="package")
def site(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Generator[Site]:
    """A built installation, served by `anmi ui`, which must end cleanly and take all its processes with it."""
    made = make_site(tmp_path_factory.mktemp("ui"))
    server = Served(made)
    groups = server.groups()
    yield made
    assert len(groups) == 2
    assert all(living(group) for group in groups)
    assert server.stop() == 0
    assert [pid for group in groups for pid in living(group)] == []


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    """A page of a fresh browser profile; the test fails when a Dagster page logs an error."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(WAIT_MS)
    opened = context.new_page()
    errors: list[str] = []

    def note(text: str) -> None:
        # MLflow's own pages ask for things that a plain server does not have.
        if opened.url.startswith(site.dagster_url):
            errors.append(text)

    opened.on("console", lambda message: note(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: note(str(error)))
    yield opened
    context.close()
    assert not errors
