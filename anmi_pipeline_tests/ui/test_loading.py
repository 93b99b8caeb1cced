"""The code location loads, and the pages that a newcomer opens say what they should."""

import pytest
from playwright.sync_api import Page, expect

from anmi_pipeline_tests.ui.site import Site, wait_for

pytestmark = pytest.mark.ui

LOCATIONS = """
{ workspaceOrError { ... on Workspace { locationEntries {
  name locationOrLoadError { __typename ... on RepositoryLocation { repositories { assetNodes { assetKey { path } } } }
  ... on PythonError { message } }
} } } }"""
DAEMONS = "{ instance { daemonHealth { allDaemonStatuses { daemonType required healthy } } } }"


def test_definitions_load_without_an_error_banner(page: Page, site: Site) -> None:
    page.goto(f"{site.dagster_url}/deployment/locations", wait_until="domcontentloaded")
    row = page.get_by_text("module_name").first
    expect(row).to_be_visible()
    expect(page.get_by_text("Loaded", exact=True)).to_have_count(1)
    for banner in ("failed to load", "Failed", "An error occurred", "Error loading"):
        expect(page.get_by_text(banner)).to_have_count(0)
    entries = site.graphql(LOCATIONS)["workspaceOrError"]["locationEntries"]
    assert [entry["name"] for entry in entries] == ["anmi_pipeline"]
    location = entries[0]["locationOrLoadError"]
    assert location["__typename"] == "RepositoryLocation", location
    assert len(location["repositories"][0]["assetNodes"]) >= 24


def test_no_welcome_dialog_covers_a_fresh_instance(page: Page, site: Site) -> None:
    page.goto(f"{site.dagster_url}/asset-groups", wait_until="domcontentloaded")
    expect(page.get_by_role("button", name="Materialize all")).to_be_visible()
    page.get_by_text("judging", exact=True).first.click()
    expect(page.get_by_text("Join the Dagster community")).to_have_count(0)
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_the_daemon_that_launches_runs_is_up(site: Site) -> None:
    def healthy() -> bool:
        found = site.graphql(DAEMONS)["instance"]["daemonHealth"]["allDaemonStatuses"]
        required = [daemon for daemon in found if daemon["required"]]
        return bool(required) and all(daemon["healthy"] for daemon in required)

    assert wait_for(healthy, "daemons healthy", 90)


def test_pools_are_listed(page: Page, site: Site) -> None:
    page.goto(f"{site.dagster_url}/deployment/concurrency", wait_until="domcontentloaded")
    for pool in ("gpu", "judge_api", "cpu_heavy"):
        expect(page.get_by_role("link", name=pool, exact=True)).to_be_visible()


def test_checks_tab_shows_what_passed(page: Page, site: Site) -> None:
    page.goto(f"{site.dagster_url}/assets/checkpoint?view=checks", wait_until="domcontentloaded")
    expect(page.get_by_text("lineage_consistent").first).to_be_visible()
    page.goto(f"{site.dagster_url}/assets/elo_table?view=checks", wait_until="domcontentloaded")
    for check in ("schema", "fits_converged"):
        expect(page.get_by_text(check, exact=True).first).to_be_visible()
    expect(page.get_by_text("Passed", exact=True)).to_be_visible()
    expect(page.get_by_text("Succeeded", exact=True)).to_have_count(2)
