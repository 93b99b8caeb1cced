"""Click logs end to end: into the graph, on top of the verdicts' scores, and alone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from anmi_pipeline import tables
from anmi_pipeline.rating.online import merge_comparisons
from anmi_pipeline.records import Record, Records
from anmi_pipeline.store import Artifact, Store
from anmi_pipeline_tests.small import anmi, write_lines, write_small

JUDGED, BOTH, ALONE = "small", "small-clicks", "small-clicks-alone"
CLICKS = "  clicks: {path: clicks/*.jsonl, evidence: 0.5}"
FAVOURITE, DISLIKED = 3, 7
"""Places in the pool of the documents that people click first and never."""

Opened = Callable[[str, str], tuple[Record, Artifact]]


def write_log(path: Path, pools: dict[str, list[str]], queries: list[str], seed: int, impressions: int = 60) -> None:
    """People look at most of what they are shown in a changing order, and click their favourite."""
    rng = np.random.default_rng(seed)
    lines: list[str] = []
    for query in queries:
        for _ in range(impressions):
            shown = [str(doc) for doc in rng.permutation([*pools[query], "elsewhere"])]
            looked = rng.random(len(shown)) < np.linspace(1, 0.5, len(shown))
            liked = {pools[query][FAVOURITE]: 0.9, pools[query][DISLIKED]: 0.0}
            clicks = [doc for doc, seen in zip(shown, looked, strict=True) if seen and rng.random() < liked.get(doc, 0.2)]
            lines.append(json.dumps({"query_id": query, "ranking": shown, "clicks": clicks}))
    write_lines(path, lines)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("clicks")
    made = write_small(root)
    datasets = root / "conf" / "datasets"
    write_lines(datasets / f"{BOTH}.yaml", ["description: verdicts and clicks", "extends: small", "judging:", CLICKS])
    alone = ["description: clicks alone", "extends: small", "judging:", "  judges: []", CLICKS, "rating: {prior: scores}"]
    write_lines(datasets / f"{ALONE}.yaml", alone)
    done = anmi(made, "run", "--dataset", JUDGED, "--until", "elo_table")
    assert done.returncode == 0, done.stderr
    folder = root / "data" / "clicks"
    folder.mkdir()
    pools = pools_of(made)
    write_log(folder / "monday.jsonl", pools, sorted(pools)[:3], 0)
    run(made, BOTH)
    return made


def pools_of(made: dict[str, str]) -> dict[str, list[str]]:
    elo = Records(Store(made["ANMI_HOME"])).require("elo_table", JUDGED)[1].table(tables.ELO)
    return {str(query): sorted(own["doc_id"]) for (query,), own in elo.partition_by("query_id", as_dict=True).items()}


def run(made: dict[str, str], dataset: str) -> str:
    done = anmi(made, "run", "--dataset", dataset, "--until", "elo_table")
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def opened(environment: dict[str, str]) -> Opened:
    records = Records(Store(environment["ANMI_HOME"]))
    return records.require


def ranks(artifact: Artifact, pools: dict[str, list[str]], place: int) -> dict[str, int]:
    elo = artifact.table(tables.ELO)
    return {query: elo.filter(query_id=query, doc_id=pool[place])["rank"].item() for query, pool in pools.items()}


def test_clicks_join_the_graph_and_are_counted(environment: dict[str, str], opened: Opened) -> None:
    record, graph = opened("comparison_graph", BOTH)
    _, plain = opened("comparison_graph", JUDGED)
    judged, clicked = graph.table(tables.JUDGED), graph.table(tables.CLICKED)
    assert judged.equals(plain.table(tables.COMPARISONS))
    assert tables.CLICKED.name not in plain.rows
    whole = tables.COMPARISONS.validate(graph.table(tables.COMPARISONS))
    assert whole.equals(merge_comparisons(judged, tables.CLICKED.validate(clicked)))
    assert set(clicked["query_id"]) == set(sorted(pools_of(environment))[:3])
    assert clicked.height == 3 * 45
    counts = {"click_files": 1, "click_impressions": 180, "click_queries": 3, "click_queries_outside": 0}
    assert {name: graph.facts[name] for name in counts} == counts
    # "elsewhere" is in no pool: one pair with each of ten documents, for three queries.
    assert (graph.facts["click_documents_outside"], graph.facts["click_comparisons_left_out"]) == (3, 30)
    examination = record.notes["examination_by_position"]
    assert examination[0] == 1
    assert 0.35 < examination[-1] < 0.75


def test_clicked_queries_move_and_others_keep_every_bit(environment: dict[str, str], opened: Opened) -> None:
    record, clicked = opened("elo_table", BOTH)
    _, judged = opened("elo_table", JUDGED)
    pools = pools_of(environment)
    moved = sorted(pools)[:3]
    others = ~pl.col("query_id").is_in(moved)
    assert clicked.table(tables.ELO).filter(others).equals(judged.table(tables.ELO).filter(others))
    assert record.notes["click_update"]["touched_queries"] == 3
    liked = {query: pools[query] for query in moved}
    assert set(ranks(clicked, liked, FAVOURITE).values()) == {1}
    assert all(rank >= 9 for rank in ranks(clicked, liked, DISLIKED).values())


def test_a_new_log_is_added_and_a_copy_is_not(environment: dict[str, str], opened: Opened) -> None:
    folder = Path(environment["ANMI_DATA"]) / "clicks"
    shutil.copy(folder / "monday.jsonl", folder / "copy.jsonl")
    pools = pools_of(environment)
    write_log(folder / "tuesday.jsonl", pools, sorted(pools)[3:4], 1)
    run(environment, BOTH)
    record, elo = opened("elo_table", BOTH)
    assert record.notes["click_update"]["touched_queries"] == 4
    assert ranks(elo, {sorted(pools)[3]: pools[sorted(pools)[3]]}, FAVOURITE) == {sorted(pools)[3]: 1}
    facts = opened("comparison_graph", BOTH)[1].facts
    assert (facts["click_files"], facts["click_files_repeated"]) == (2, 1)
    assert opened("pairwise_judgments", BOTH)[1].digest == opened("pairwise_judgments", JUDGED)[1].digest


def test_a_dataset_of_clicks_alone(environment: dict[str, str], opened: Opened) -> None:
    run(environment, ALONE)
    pools = pools_of(environment)
    clicked = set(opened("comparison_graph", ALONE)[1].table(tables.CLICKED)["query_id"])
    assert opened("pairwise_judgments", ALONE)[1].table(tables.JUDGMENTS).is_empty()
    _, elo = opened("elo_table", ALONE)
    table = tables.ELO.validate(elo.table(tables.ELO))
    assert table.filter(pl.col("query_id").is_in(clicked))["n_comparisons"].min() == 9
    assert table.filter(~pl.col("query_id").is_in(clicked))["n_comparisons"].max() == 0
    assert set(ranks(elo, {query: pools[query] for query in clicked}, FAVOURITE).values()) == {1}


def test_a_wrong_log_is_an_error_that_names_the_line(environment: dict[str, str]) -> None:
    bad = Path(environment["ANMI_DATA"]) / "clicks" / "bad.jsonl"
    write_lines(bad, ['{"query_id": "q00", "ranking": ["d00"], "clicks": []}', "{}"])
    try:
        done = anmi(environment, "run", "--dataset", BOTH, "--until", "elo_table")
    finally:
        bad.unlink()
    assert done.returncode == 2
    assert "bad.jsonl has 1 wrong line(s): line 2" in done.stderr + done.stdout
