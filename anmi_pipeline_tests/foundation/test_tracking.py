"""Runs in a real SQLite MLflow: what is logged is there, and no run outlives its process as RUNNING."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from anmi_pipeline.settings import Settings
from anmi_pipeline.tracking import (
    BATCH,
    HOST,
    LONGEST_PARAMETER,
    PID,
    PROCESS_START,
    Tracker,
    flatten,
    has_running,
    is_alive,
    process_start,
)
from anmi_pipeline_tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    """One tracking database for the whole module: making it takes seconds."""
    return Tracker(Settings.from_environment({"ANMI_HOME": str(tmp_path_factory.mktemp("home") / "new")}))


def test_nothing_is_made_where_nobody_tracked(tmp_path: Path) -> None:
    assert Tracker(Settings.from_environment({"ANMI_HOME": str(tmp_path / "home")})).close_dead_runs() == []
    assert list(tmp_path.iterdir()) == []


def test_a_run_holds_what_was_logged(tracker: Tracker, tmp_path: Path) -> None:
    params = {
        "loss": {"kind": "hybrid", "alpha": {"start": 0.5}},
        "seeds": (0, 1),
        "prompt": "x" * (LONGEST_PARAMETER + 500),
        "none": None,
        **{f"setting{number}": number for number in range(150)},
    }
    tags = {"dagster.run_id": "abc", "anmi.elo_table": "d" * 64}
    with tracker.run("training", "checkpoint tiny|anmi", params, tags) as run:
        run.log_metrics({"ndcg": 0.5}, step=3)
        run.log_steps(
            [{"step": step, "loss": 1 / (step + 1), "wall_ms": 1000 + step} for step in range(BATCH + 5)], prefix="train."
        )
        run.log_figure(b"\x89PNG picture", "curve.png")
        run.log_json({"b": 1, "a": [1, 2]}, "list.json")
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "weights.safetensors").write_bytes(b"weights")
        run.log_folder(tmp_path / "model", "model")
        run.log_input("elo_table#train", "e" * 64, 1200, "/store/objects/elo_table")
        assert tracker.client().get_run(run.run_id).info.status == "RUNNING"
    client = tracker.client()
    stored = client.get_run(run.run_id)
    assert stored.info.status == "FINISHED"
    assert stored.info.run_name == "checkpoint tiny|anmi"
    assert stored.data.params["loss.alpha.start"] == "0.5"
    assert stored.data.params["seeds"] == "[0, 1]"
    assert stored.data.params["none"] == "None"
    assert stored.data.params["prompt"] == "x" * LONGEST_PARAMETER
    assert len(stored.data.params) == 5 + 150
    assert tags.items() <= stored.data.tags.items()
    assert stored.data.metrics["ndcg"] == 0.5
    history = client.get_metric_history(run.run_id, "train.loss")
    assert [(point.step, point.value, point.timestamp) for point in history] == [
        (s, 1 / (s + 1), 1000 + s) for s in range(BATCH + 5)
    ]
    folder = Path(stored.info.artifact_uri.removeprefix("file://"))
    assert folder.is_relative_to(tracker.settings.home / "mlartifacts" / "training")
    assert (folder / "plots" / "curve.png").read_bytes() == b"\x89PNG picture"
    assert (folder / "list.json").read_text().index('"a"') < (folder / "list.json").read_text().index('"b"')
    assert (folder / "model" / "weights.safetensors").read_bytes() == b"weights"
    (entry,) = stored.inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == ("elo_table#train", "e" * 36)
    assert {tag.key: tag.value for tag in entry.tags} == {"anmi.digest": "e" * 64}
    assert run.url == f"{tracker.settings.mlflow_ui_url}/#/experiments/{stored.info.experiment_id}/runs/{run.run_id}"


def test_a_second_run_joins_the_experiment(tracker: Tracker) -> None:
    urls = []
    for _ in range(2):
        with tracker.run("fits", "elo_table tiny", {}, {}) as run:
            urls.append(run.url.split("/runs/")[0])
    assert urls[0] == urls[1]


@pytest.mark.parametrize("error", [ValueError("diverged"), KeyboardInterrupt()])
def test_a_run_that_raises_is_failed(tracker: Tracker, error: BaseException) -> None:
    with pytest.raises(type(error)), tracker.run("training", "broken", {"a": 1}, {}) as run:
        raise error
    assert tracker.client().get_run(run.run_id).info.status == "FAILED"


def test_a_run_whose_settings_are_refused_is_failed(tracker: Tracker) -> None:
    from mlflow.exceptions import MlflowException

    name = "refused settings"
    with pytest.raises(MlflowException), tracker.run("training", name, {"a name with § in it": 1}, {}):
        pytest.fail("the body must not run")
    client = tracker.client()
    found = client.search_runs([client.get_experiment_by_name("training").experiment_id], f"attributes.run_name = '{name}'")
    assert [run.info.status for run in found] == ["FAILED"]


OPEN = """
import sys
from anmi_pipeline.settings import Settings
from anmi_pipeline.tracking import Tracker
with Tracker(Settings.from_environment({"ANMI_HOME": sys.argv[1]})).run("training", "child", {}, {}) as run:
    print(run.run_id, flush=True)
    sys.stdin.read()
"""


LOOK = """
import sys
from anmi_pipeline.settings import Settings
from anmi_pipeline.tracking import Tracker
print(Tracker(Settings.from_environment({"ANMI_HOME": sys.argv[1]})).close_dead_runs(), "mlflow" in sys.modules)
"""


def test_a_dead_run_is_ended_and_a_living_one_is_not(tracker: Tracker) -> None:
    tracker.client()
    command = [sys.executable, "-c", OPEN, str(tracker.settings.home)]
    child = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with tracker.run("training", "mine", {}, {}) as mine:
        assert child.stdout is not None
        run_id = child.stdout.readline().strip()
        assert run_id
        assert tracker.close_dead_runs() == [], "both are alive"
        child.send_signal(signal.SIGKILL)
        # Its parent, this process, has not looked yet: a zombie is dead too.
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert tracker.close_dead_runs() == [run_id]
        child.communicate()
        assert tracker.close_dead_runs() == []
        assert tracker.client().get_run(run_id).info.status == "KILLED"
        assert tracker.client().get_run(mine.run_id).info.status == "RUNNING"
    assert tracker.client().get_run(mine.run_id).info.status == "FINISHED"


def test_where_nothing_runs_mlflow_is_not_imported(tracker: Tracker) -> None:
    with tracker.run("training", "over", {}, {}):
        pass
    command = [sys.executable, "-c", LOOK, str(tracker.settings.home)]
    assert subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.split() == ["[]", "False"]


def test_a_database_that_cannot_be_read_is_left_to_mlflow(tmp_path: Path) -> None:
    path = tmp_path / "a database?#%20.db"
    assert not has_running(path)
    path.write_bytes(b"no database")
    assert has_running(path)
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE other (status TEXT)")
    connection.close()
    assert has_running(path)


@pytest.mark.parametrize(
    ("tag", "value", "dead"), [(PID, "999999999", True), (PROCESS_START, "1", True), (HOST, "elsewhere", False)]
)
def test_process_ids_are_compared_with_start_and_host(tracker: Tracker, tag: str, value: str, dead: bool) -> None:
    with tracker.run("training", "tagged", {}, {}) as run:
        tracker.client().set_tag(run.run_id, tag, value)
        assert tracker.close_dead_runs() == ([run.run_id] if dead else [])
    with tracker.run("training", "untagged", {}, {}) as run:
        for name in (PID, PROCESS_START, HOST):
            tracker.client().delete_tag(run.run_id, name)
        assert tracker.close_dead_runs() == [], "not one of ours"


def test_whether_a_process_lives() -> None:
    own = str(os.getpid())
    assert is_alive(own, process_start(os.getpid()))
    assert is_alive(own, ""), "where /proc is absent the id alone decides"
    assert not is_alive(own, "1"), "a recycled id"
    assert is_alive("1", "")
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert not is_alive(str(child.pid), "")
    assert process_start(child.pid) == ""


def test_a_model_is_logged_into_the_open_run(tracker: Tracker) -> None:
    import mlflow

    with tracker.run("serving", "search_model tiny", {}, {}) as run:
        active = run.log_model(lambda: f"runs:/{mlflow.active_run().info.run_id}/model")
        assert active == f"runs:/{run.run_id}/model"
        assert mlflow.active_run() is None
    assert tracker.client().get_run(run.run_id).info.status == "FINISHED"


def test_flattened_names() -> None:
    nested = {"a": {"b": {"c": 1}, "empty": {}}, "list": [{"x": 1}, "y"], "text": "t", "path": Path("/p"), "yes": True}
    expected = {"a.b.c": "1", "list": '[{"x": 1}, "y"]', "text": "t", "path": "/p", "yes": "True"}
    assert dict(flatten(nested)) == expected


DIES_WHILE_MAKING_THE_DATABASE = """
import os, signal, sys
from anmi_pipeline.settings import Settings
from anmi_pipeline.tracking import Tracker
os.link = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
Tracker(Settings.from_environment({"ANMI_HOME": sys.argv[1]})).client()
"""


def test_a_kill_while_the_database_is_made_leaves_none(tmp_path: Path) -> None:
    command = [sys.executable, "-c", DIES_WHILE_MAKING_THE_DATABASE, str(tmp_path)]
    assert subprocess.run(command, check=False, capture_output=True, timeout=120).returncode == -signal.SIGKILL
    assert not (tmp_path / "mlflow.db").exists()
    tracker = Tracker(Settings.from_environment({"ANMI_HOME": str(tmp_path)}))
    with tracker.run("rating", "after the kill", {}, {}) as run:
        run.log_metrics({"edges": 1.0})
    assert (tmp_path / "mlflow.db").exists()
