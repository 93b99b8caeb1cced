"""Materialising by clicking: a new partition is built, a known one is reused."""

from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from anmi_pipeline_tests.ui.site import BUILT, RUN_SECONDS, SYSTEM, UNBUILT, Site, stored, wait_for

pytestmark = pytest.mark.ui


def finished(site: Site, asset: str, partition: str, before: Any) -> Any:
    """Wait for a newer materialisation and for the end of its run, which must be a success."""

    def newer() -> Any:
        assert site.failed() == [], "a run failed; its log is in ANMI_HOME/logs/dagster.log"
        found = site.materialization(asset, partition)
        return found if found and (before is None or found["time"] != before["time"]) else None

    made = wait_for(newer, f"{asset} of {partition}", RUN_SECONDS)
    assert wait_for(lambda: site.ended(made["run"]), "end of the run", RUN_SECONDS) == "SUCCESS"
    return made


def materialize(page: Page, site: Site, asset: str, partition: str) -> Any:
    """Click Materialize on the page of one partition; its new materialisation."""
    before = site.materialization(asset, partition)
    route = f"/assets/{asset}?view=partitions&partition={quote(partition)}"
    page.goto(site.dagster_url + route, wait_until="domcontentloaded")
    page.get_by_role("button", name="Materialize").first.click()
    launch = page.get_by_role("button", name="Launch 1 run")
    expect(launch).to_be_enabled()
    launch.click()
    expect(launch).to_have_count(0)
    return finished(site, asset, partition, before)


def test_one_partition_is_materialised_by_clicking(page: Page, site: Site) -> None:
    made = materialize(page, site, "corpus", UNBUILT)
    assert made["metadata"]["reused"] is False
    assert made["tags"]["dagster/data_version"] == made["metadata"]["digest"]


@pytest.mark.parametrize(("asset", "partition"), [("elo_table", BUILT), ("checkpoint", SYSTEM)])
def test_a_built_partition_is_reused(page: Page, site: Site, asset: str, partition: str) -> None:
    before, digest = stored(site), site.materialization(asset, partition)["metadata"]["digest"]
    made = materialize(page, site, asset, partition)
    assert made["metadata"]["reused"] is True
    assert made["metadata"]["digest"] == digest
    assert stored(site) == before


def test_materialize_all_of_a_built_dataset_changes_nothing(page: Page, site: Site) -> None:
    before, elo = stored(site), site.materialization("elo_table", BUILT)
    route = "/assets/elo_table?view=lineage&lineageScope=upstream&lineageDepth=5"
    page.goto(site.dagster_url + route, wait_until="domcontentloaded")
    page.get_by_role("button", name="Materialize all").click()
    page.get_by_text("Select a partition or create one").click()
    page.get_by_role("menuitem", name=BUILT).click()
    page.keyboard.press("Escape")
    launch = page.get_by_role("button", name="Launch 1 run")
    expect(launch).to_be_enabled()
    launch.click()
    made = finished(site, "elo_table", BUILT, elo)
    corpus = site.materialization("corpus", BUILT)
    assert corpus["run"] == made["run"]
    assert corpus["metadata"]["reused"] is True
    assert stored(site) == before
