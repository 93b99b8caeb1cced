"""From the leaderboard back to the corpus, and from a checkpoint to its Elo table and its MLflow run."""

import urllib.request
from itertools import pairwise

import pytest
from playwright.sync_api import Page, expect

from anmi_pipeline_tests.ui.site import BUILT, RECIPE, SYSTEM, Site

pytestmark = pytest.mark.ui

PATH = (
    *("corpus", "lexical_run", "candidate_pool", "comparison_plan", "pairwise_judgments", "comparison_graph"),
    *("elo_table", "training_set", "checkpoint", "scores", "leaderboard"),
)
NODES = "{ assetNodes { assetKey { path } dependencyKeys { path } } }"


def test_lineage_from_corpus_to_leaderboard_is_drawn(page: Page, site: Site) -> None:
    route = "/assets/leaderboard?view=lineage&lineageScope=upstream&lineageDepth=5"
    page.goto(site.dagster_url + route, wait_until="domcontentloaded")
    for asset in PATH:
        expect(page.locator("foreignObject").get_by_text(asset, exact=True).first).to_be_attached()
    nodes = site.graphql(NODES)["assetNodes"]
    upstream = {node["assetKey"]["path"][0]: {key["path"][0] for key in node["dependencyKeys"]} for node in nodes}
    for parent, child in pairwise(PATH):
        assert parent in upstream[child], f"{child} does not read {parent}"
    drawn = page.locator("svg path[d*='C']")
    assert drawn.count() >= sum(len(parents) for parents in upstream.values()) // 2


def test_checkpoint_page_shows_the_elo_table_and_a_working_mlflow_link(page: Page, site: Site) -> None:
    elo = site.materialization("elo_table", BUILT)
    checkpoint = site.materialization("checkpoint", SYSTEM)
    digest, link = elo["tags"]["dagster/data_version"], checkpoint["metadata"]["mlflow_run"]
    assert checkpoint["metadata"]["elo_table_version"] == digest
    page.goto(
        f"{site.dagster_url}/assets/checkpoint?view=events&partition={SYSTEM.replace('|', '%7C')}", wait_until="domcontentloaded"
    )
    expect(page.get_by_text(digest, exact=True)).to_be_visible()
    expect(page.get_by_text("elo_table_version", exact=True)).to_be_visible()
    shown = page.get_by_role("link", name=link)
    expect(shown).to_be_visible()
    assert shown.get_attribute("href") == link
    with urllib.request.urlopen(link, timeout=30) as response:
        assert response.status == 200
    page.get_by_role("link", name=elo["run"]).click()
    expect(page).to_have_url(f"{site.dagster_url}/runs/{elo['run']}")


def test_mlflow_names_the_run_and_its_elo_table(page: Page, site: Site) -> None:
    checkpoint = site.materialization("checkpoint", SYSTEM)
    page.goto(checkpoint["metadata"]["mlflow_run"], wait_until="domcontentloaded")
    expect(page.get_by_text(f"checkpoint {SYSTEM}").first).to_be_visible()
    expect(page.get_by_text(checkpoint["metadata"]["elo_table_version"]).first).to_be_visible()


def test_leaderboard_page_shows_the_board_and_its_plot(page: Page, site: Site) -> None:
    page.goto(f"{site.dagster_url}/assets/leaderboard?view=events&partition={BUILT}", wait_until="domcontentloaded")
    row = page.locator("tr", has=page.get_by_text("board_dev_final+test", exact=True)).first
    for system in ("bm25", RECIPE):
        expect(row.get_by_text(system, exact=True)).to_be_visible()
    page.locator("tr", has=page.get_by_text("plot_leaderboard_test", exact=True)).get_by_text("[Show Markdown]").click()
    picture = page.get_by_role("dialog").locator("img")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.naturalWidth") > 300


def test_elo_page_draws_the_histogram_in_place(page: Page, site: Site) -> None:
    page.goto(f"{site.dagster_url}/assets/elo_table?view=events&partition={BUILT}", wait_until="domcontentloaded")
    picture = page.get_by_role("img", name="Elo of all documents")
    expect(picture).to_be_visible()
    page.wait_for_function("name => document.querySelector(`img[alt='${name}']`).naturalWidth > 100", arg="Elo of all documents")
