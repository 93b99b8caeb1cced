"""Schedules and sensors are off until a person switches them on, with a click."""

import pytest
from playwright.sync_api import Page

from anmi_pipeline_tests.ui.site import Site, wait_for

pytestmark = pytest.mark.ui

STATES = """
{ repositoriesOrError { ... on RepositoryConnection { nodes {
  schedules { name scheduleState { status } } sensors { name sensorState { status } } } } } }"""


def states(site: Site) -> dict[str, str]:
    """Status of every schedule and sensor."""
    (repository,) = site.graphql(STATES)["repositoriesOrError"]["nodes"]
    found = {one["name"]: one["scheduleState"]["status"] for one in repository["schedules"]}
    return found | {one["name"]: one["sensorState"]["status"] for one in repository["sensors"]}


def test_schedule_toggles(page: Page, site: Site) -> None:
    before = states(site)
    assert "refresh_judgments_weekly" in before
    assert set(before.values()) == {"STOPPED"}
    page.goto(f"{site.dagster_url}/automation", wait_until="domcontentloaded")
    link = page.locator("a[href$='/schedules/refresh_judgments_weekly']")
    # The row's first box selects it; the switch comes second, once its state is known.
    switch = page.locator("[data-index]", has=link).locator("label").nth(1)
    switch.click()
    wait_for(lambda: states(site)["refresh_judgments_weekly"] == "RUNNING", "schedule on", 60)
    switch.click()
    wait_for(lambda: states(site)["refresh_judgments_weekly"] == "STOPPED", "schedule off", 60)
    assert states(site) == before
