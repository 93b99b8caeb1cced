"""A recipe that its dataset does not list is built when asked for by name, and stays empty under "Materialize all"."""

import os
import subprocess
import sys
from pathlib import Path

from anmi_pipeline.records import Records
from anmi_pipeline.store import Store
from anmi_pipeline_tests.small import anmi, write_small

LIKE_THE_UI = """
import dagster as dg
from anmi_pipeline.defs.launch import AFTER, SYSTEM, open_instance
from anmi_pipeline.definitions import defs
from anmi_pipeline.settings import Settings
import os
job = defs.resolve_implicit_global_asset_job_def()
with open_instance(Settings.from_environment(os.environ)) as instance:
    for key, assets in ((dg.MultiPartitionKey({"dataset": "small", "recipe": "rrf"}), SYSTEM), ("small", AFTER)):
        selection = [dg.AssetKey(name) for name in assets]
        assert job.execute_in_process(instance=instance, partition_key=key, asset_selection=selection).success
"""


def like_the_ui(environment: dict[str, str]) -> None:
    command = [sys.executable, "-c", LIKE_THE_UI]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def test_unlisted_recipes_are_empty_until_they_are_asked_for(tmp_path):
    environment = write_small(tmp_path)
    dataset = Path(environment["ANMI_CONF"]) / "datasets" / "small.yaml"
    dataset.write_text(dataset.read_text().replace("[bm25, rrf, minmax, features]", "[bm25]"))
    done = anmi(environment, "run", "--dataset", "small")
    assert done.returncode == 0, done.stderr
    records = Records(Store(environment["ANMI_HOME"]))
    board = records.require("leaderboard", "small")[1].digest

    like_the_ui(environment)
    _, scores = records.require("scores", "small|rrf")
    assert "does not list recipe rrf" in str(scores.facts["empty_because"])
    assert records.require("leaderboard", "small")[1].digest == board

    done = anmi(environment, "run", "--dataset", "small", "--recipe", "rrf")
    assert done.returncode == 0, done.stderr
    _, scores = records.require("scores", "small|rrf")
    assert sum(scores.rows.values()) > 0
    asked = records.require("leaderboard", "small")[1]
    assert asked.facts["systems"] == ["bm25", "rrf"]

    like_the_ui(environment)
    assert records.require("scores", "small|rrf")[1].digest == scores.digest
    assert records.require("leaderboard", "small")[1].digest == asked.digest
