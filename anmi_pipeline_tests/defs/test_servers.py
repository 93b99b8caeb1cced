"""Ports, processes and leftovers of the UI's servers; the servers themselves are started in `ui/`."""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import dagster as dg
import pytest

from anmi_pipeline.defs.launch import PID, open_instance
from anmi_pipeline.defs.servers import (
    Served,
    ServerError,
    dagster_command,
    end_dead_runs,
    mlflow_command,
    on_signals,
    only_server,
    require_free,
    serve,
    server_environment,
    serving,
    start,
    stop_servers,
    wait_until_up,
)
from anmi_pipeline.errors import InputError
from anmi_pipeline.settings import Settings
from anmi_pipeline_tests.defs.processes import living

URL = "http://127.0.0.1:1/health"
PARENT = """
import subprocess, sys, time
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", deaf])
time.sleep(600)
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    # `open_instance` sets DAGSTER_HOME; this takes it back after the test.
    monkeypatch.setenv("DAGSTER_HOME", "")
    return Settings.from_environment({"ANMI_HOME": str(tmp_path / "home")})


def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"port {port} .*MLflow.*--mlflow-port"):
            require_free("MLflow", port)
    require_free("MLflow", port)


@pytest.mark.parametrize("port", [-1, 70000])
def test_an_impossible_port_is_named(port: int) -> None:
    with pytest.raises(InputError, match=str(port)):
        require_free("Dagster", port)


def test_a_taken_port_starts_nothing(settings: Settings) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="port"), serving(settings, dagster_port=taken.getsockname()[1]):
            pass
    assert not (settings.home / "logs").exists()


def test_one_state_is_served_once(settings: Settings) -> None:
    with only_server(settings), pytest.raises(InputError, match="served already"), only_server(settings):
        pass
    with only_server(settings):
        pass


def test_a_server_that_ends_says_why(tmp_path: Path) -> None:
    server = start("broken", [sys.executable, "-c", "raise SystemExit('no such database')"], URL, os.environ, tmp_path)
    with pytest.raises(ServerError, match=r"(?s)exit code 1.*no such database"):
        wait_until_up(server, threading.Event())


def test_waiting_ends_when_a_person_stops_it(tmp_path: Path) -> None:
    server = start("slow", [sys.executable, "-c", "import time; time.sleep(600)"], URL, os.environ, tmp_path)
    stop = threading.Event()
    stop.set()
    wait_until_up(server, stop)
    stop_servers([server])
    assert not server.alive()


def test_stopping_ends_children_that_ignore_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anmi_pipeline.defs.servers.STOP_SECONDS", 4.0)
    server = start("family", [sys.executable, "-c", PARENT], URL, os.environ, tmp_path)
    pause = threading.Event()
    for _ in range(200):
        if "up" in server.log.read_text():
            break
        pause.wait(0.1)
    assert len(living(server.process.pid)) == 2
    stop_servers([server])
    assert living(server.process.pid) == []


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Two small web servers in place of Dagster and MLflow, and their ports."""
    for name in ("server_info", "health"):
        (tmp_path / name).write_text("ok")

    def command(_: Settings, port: int) -> list[str]:
        return [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(tmp_path)]

    for name in ("dagster_command", "mlflow_command"):
        monkeypatch.setattr(f"anmi_pipeline.defs.servers.{name}", command)
    return free_port(), free_port()


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_serving_says_where_and_ends_on_a_signal(settings: Settings, stand_ins: tuple[int, int]) -> None:
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if "Ctrl-C" in text:
            os.kill(os.getpid(), signal.SIGTERM)

    serve(settings, dagster_port=stand_ins[0], mlflow_port=stand_ins[1], say=say)
    assert f"Dagster: http://127.0.0.1:{stand_ins[0]}" in said
    assert f"MLflow:  http://127.0.0.1:{stand_ins[1]}" in said
    assert said[-1] == "stopped"
    for port in stand_ins:
        require_free("Dagster", port)
    with only_server(settings):
        pass


def test_serving_ends_when_a_server_does(settings: Settings, stand_ins: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    # It answers as long as it is asked only once, then it ends.
    monkeypatch.setattr("anmi_pipeline.defs.servers.answers", lambda _: True)
    gone = [sys.executable, "-c", "raise SystemExit('gone')"]
    monkeypatch.setattr("anmi_pipeline.defs.servers.mlflow_command", lambda *_: gone)
    with pytest.raises(ServerError, match=r"(?s)mlflow server ended with exit code 1.*gone"):
        serve(settings, dagster_port=stand_ins[0], mlflow_port=stand_ins[1])
    require_free("Dagster", stand_ins[0])


def test_a_tracking_server_elsewhere_is_not_started_again(settings: Settings, stand_ins: tuple[int, int]) -> None:
    update = {"tracking_url": "http://mlflow.example", "mlflow_ui_url": "http://mlflow.example/ui"}
    elsewhere = settings.model_copy(update=update)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anmi_pipeline.defs.servers.end_dead_runs", lambda _: [])
        with serving(elsewhere, dagster_port=stand_ins[0]) as (served, servers):
            assert served.mlflow_url == "http://mlflow.example/ui"
            assert [server.name for server in servers] == ["dagster"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_stop_and_are_given_back(number: int) -> None:
    stop, before = threading.Event(), signal.getsignal(number)
    with on_signals(stop):
        os.kill(os.getpid(), number)
        assert stop.wait(5)
    assert signal.getsignal(number) is before


def test_servers_see_this_installation_and_bind_to_loopback(settings: Settings) -> None:
    served = Served("http://127.0.0.1:3333", "http://127.0.0.1:5555", settings.home / "logs")
    environment = server_environment(settings, served)
    assert Settings.from_environment(environment) == settings.model_copy(
        update={"dagster_url": served.dagster_url, "mlflow_ui_url": served.mlflow_url}
    )
    settings.dagster_home.mkdir(parents=True)
    for command in (dagster_command(settings, 3333), mlflow_command(settings, 5555)):
        assert "127.0.0.1" in command
        assert command[0] == sys.executable


def test_runs_of_dead_processes_are_ended(settings: Settings) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with open_instance(settings) as instance:
        dead = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
        alive = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
        waiting = instance.create_run_for_job(job, status=dg.DagsterRunStatus.NOT_STARTED)
        ours = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags={PID: str(gone.pid)})
        for run, pid in ((dead, gone.pid), (alive, os.getpid())):
            instance.report_engine_event("executing", run, engine_event_data=event_data(pid))
    assert set(end_dead_runs(settings)) == {dead.run_id, ours.run_id}
    with open_instance(settings) as instance:
        statuses = {run.run_id: run.status for run in instance.get_runs()}
    assert statuses[dead.run_id] == statuses[ours.run_id] == dg.DagsterRunStatus.FAILURE
    assert statuses[alive.run_id] == dg.DagsterRunStatus.STARTED
    assert statuses[waiting.run_id] == dg.DagsterRunStatus.NOT_STARTED


def event_data(pid: int) -> object:
    """What a run's process writes to the event log when it starts."""
    from dagster._core.events import EngineEventData

    return EngineEventData(metadata={"pid": dg.MetadataValue.text(str(pid))})


@dg.job
def job() -> None:
    """Nothing."""
