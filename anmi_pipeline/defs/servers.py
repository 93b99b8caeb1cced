"""The Dagster and MLflow servers that `anmi ui` starts over one state folder.

Belongs here: ports, environment, processes, waiting until both answer, stopping them with everything they started. Does not:
printing (`cli.py`), running the pipeline (`launch.py`). Both servers bind to loopback only; their logs are in ANMI_HOME/logs.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import yaml
from filelock import FileLock, Timeout

from anmi_pipeline.defs.launch import heal, install_home, open_instance
from anmi_pipeline.errors import AnmiError, InputError
from anmi_pipeline.settings import Settings
from anmi_pipeline.tracking import Tracker

LOOPBACK = "127.0.0.1"
START_SECONDS = 180.0
"""Longest wait for a server; a busy machine with a cold disk needs a minute."""
STOP_SECONDS = 20.0
POLL_SECONDS = 0.2
LOG_LINES = 15


class ServerError(AnmiError):
    """A server ended or did not answer; the text holds the end of its log."""


@dataclass(frozen=True)
class Served:
    """Where the servers answer."""

    dagster_url: str
    mlflow_url: str
    logs: Path


@dataclass(frozen=True)
class Server:
    """One started server: the leader of a process group of its own."""

    name: str
    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def alive(self) -> bool:
        """Whether its first process still runs."""
        return self.process.poll() is None


def serve(
    settings: Settings,
    *,
    dagster_port: int = 3000,
    mlflow_port: int = 5000,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve the UI until Ctrl-C or SIGTERM, then stop both servers. Must be called on the main thread.

    Args:
        settings: the installation.
        dagster_port: port of the Dagster UI.
        mlflow_port: port of the MLflow UI; unused when ANMI_MLFLOW names a tracking server.
        say: receives each line that a person should read, the two URLs above all.

    Raises:
        InputError: a port is taken, or the same state is being served already.
        ServerError: a server ended by itself or did not answer in time.
    """
    stop = threading.Event()
    say(f"starting Dagster and MLflow over {settings.home}; half a minute on a small machine")
    with on_signals(stop), serving(settings, dagster_port=dagster_port, mlflow_port=mlflow_port, stop=stop) as (served, servers):
        if not stop.is_set():
            for line in (f"Dagster: {served.dagster_url}", f"MLflow:  {served.mlflow_url}", f"logs:    {served.logs}"):
                say(line)
            say("Ctrl-C stops both")
        while not stop.wait(POLL_SECONDS):
            for server in servers:
                if not server.alive():
                    raise ServerError(ended(server))
        say("stopping; runs that the UI launched are ended")
    say("stopped")


@contextmanager
def on_signals(stop: threading.Event) -> Generator[None]:
    """Let Ctrl-C, SIGTERM and a closed terminal set an event for the while."""

    def note(_signal: int, _frame: object) -> None:
        stop.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def serving(
    settings: Settings, *, dagster_port: int = 3000, mlflow_port: int = 5000, stop: threading.Event | None = None
) -> Generator[tuple[Served, list[Server]]]:
    """Both servers, up and answering, for the length of a `with` block; `stop` cuts the wait for them short.

    Raises:
        InputError: a port is taken, or the same state is being served already.
        ServerError: a server ended by itself or did not answer in time.
    """
    stop = stop or threading.Event()
    remote = settings.tracking_url.startswith(("http://", "https://"))
    mlflow_url = settings.mlflow_ui_url if remote else f"http://{LOOPBACK}:{mlflow_port}"
    served = Served(f"http://{LOOPBACK}:{dagster_port}", mlflow_url, settings.home / "logs")
    with ExitStack() as stack:
        install_home(settings)
        stack.enter_context(only_server(settings))
        for name, port in (("Dagster", dagster_port), *(() if remote else (("MLflow", mlflow_port),))):
            require_free(name, port)
        environment = server_environment(settings, served)
        end_dead_runs(settings)
        # Last in, first out: the servers stop before their dead runs are looked for.
        stack.callback(end_dead_runs, settings)
        commands = {"dagster": (dagster_command(settings, dagster_port), f"{served.dagster_url}/server_info")}
        if not remote:
            Tracker(settings).create_database()
            commands["mlflow"] = (mlflow_command(settings, mlflow_port), f"{mlflow_url}/health")
        servers: list[Server] = []
        stack.callback(stop_servers, servers)
        for name, (command, url) in commands.items():
            servers.append(start(name, command, url, environment, served.logs))
        for server in servers:
            wait_until_up(server, stop)
        yield served, servers


def only_server(settings: Settings) -> AbstractContextManager[object]:
    """The right to serve this state: two daemons on one Dagster instance would launch every queued run twice.

    Raises:
        InputError: another process serves it.
    """
    folder = settings.home / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return FileLock(folder / "ui.lock").acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"{settings.home} is being served already. Use the UI that is up, stop it, or set ANMI_HOME to another folder."
        ) from error


def require_free(name: str, port: int) -> None:
    """Make sure that a port can be bound.

    Raises:
        InputError: it cannot.
    """
    with socket.socket() as probe:
        # As the servers do: a port whose last connections are still being wound up is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except (OSError, OverflowError) as error:
            reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)
            raise InputError(
                f"port {port} of {LOOPBACK}, meant for {name}, cannot be used: {reason}. "
                f"Stop the program that uses it, or give another port (--{name.lower()}-port)."
            ) from error


def server_environment(settings: Settings, served: Served) -> dict[str, str]:
    """The environment of the servers: this installation, links to these URLs, no telemetry."""
    named = {
        "DAGSTER_HOME": str(settings.dagster_home),
        "ANMI_HOME": str(settings.home),
        "ANMI_CONF": str(settings.conf or ""),
        "ANMI_DATA": str(settings.data or ""),
        "ANMI_STORE": settings.store_url,
        "ANMI_LEDGER": settings.ledger_url,
        "ANMI_MLFLOW": settings.tracking_url,
        "ANMI_DAGSTER_UI": served.dagster_url,
        "ANMI_MLFLOW_UI": served.mlflow_url,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Background jobs of MLflow's language-model features: three more processes that nothing here uses.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PYTHONUNBUFFERED": "1",
    }
    return {**os.environ, **named}


def dagster_command(settings: Settings, port: int) -> list[str]:
    """Webserver, daemon and one code server over the installed package: no file of the repository is needed."""
    location = {"python_module": {"module_name": "anmi_pipeline.definitions", "location_name": "anmi_pipeline"}}
    workspace = settings.dagster_home / "workspace.yaml"
    workspace.write_text(yaml.safe_dump({"load_from": [location]}), encoding="utf-8")
    command = [sys.executable, "-m", "dagster", "dev", "-w", str(workspace)]
    return [*command, "-h", LOOPBACK, "-p", str(port), "--log-level", "warning"]


def mlflow_command(settings: Settings, port: int) -> list[str]:
    """MLflow's UI over the tracking store; one worker serves a laptop."""
    stored = ["--backend-store-uri", settings.tracking_url, "--artifacts-destination", str(settings.home / "mlartifacts")]
    return [sys.executable, "-m", "mlflow", "server", *stored, "--host", LOOPBACK, "--port", str(port), "--workers", "1"]


def start(name: str, command: Sequence[str], url: str, environment: Mapping[str, str], logs: Path) -> Server:
    """Start a server in a session of its own, so that Ctrl-C reaches it through us and its children can be found."""
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{name}.log"
    with log.open("wb") as sink:
        process = popen(command, environment, sink)
    return Server(name, process, url, log)


def popen(command: Sequence[str], environment: Mapping[str, str], sink: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a process that reads nothing and writes to a log."""
    return subprocess.Popen(
        command,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=sink,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def wait_until_up(server: Server, stop: threading.Event) -> None:
    """Wait until a server answers, or until `stop` is set.

    Raises:
        ServerError: it ended, or does not answer in time.
    """
    deadline = time.monotonic() + START_SECONDS
    while not stop.is_set() and not answers(server.url):
        if not server.alive():
            raise ServerError(ended(server))
        if time.monotonic() > deadline:
            raise ServerError(f"{server.name} does not answer at {server.url} after {START_SECONDS:.0f} s.{log_end(server)}")
        stop.wait(POLL_SECONDS)


def answers(url: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


def ended(server: Server) -> str:
    """What to say of a server that ended by itself."""
    return f"the {server.name} server ended with exit code {server.process.returncode}.{log_end(server)}"


def log_end(server: Server) -> str:
    """The last lines of a server's log."""
    lines = server.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
    return f" Its log {server.log} ends:\n" + "\n".join(f"  {line}" for line in lines)


def stop_servers(servers: Sequence[Server]) -> None:
    """Stop every server with all processes it started: asked first, killed when that does not help."""
    for server in servers:
        # To the first process alone: it stops its children in order.
        if server.alive():
            server.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    for server in servers:
        try:
            server.process.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            signal_group(server, signal.SIGTERM)
    for server in servers:
        # Code servers outlive `dagster dev` by up to 45 s unless they are told.
        signal_group(server, signal.SIGTERM)
        wait_until_empty(server, time.monotonic() + STOP_SECONDS / 4)
        if signal_group(server, signal.SIGKILL):
            wait_until_empty(server, time.monotonic() + 1)
        server.process.wait()


def wait_until_empty(server: Server, deadline: float) -> None:
    """Wait until no process of a server's group is left, or until a deadline."""
    while time.monotonic() < deadline:
        server.process.poll()
        if not signal_group(server, 0):
            return
        time.sleep(POLL_SECONDS)


def signal_group(server: Server, number: int) -> bool:
    """Signal every process of a server's group; False when none is left."""
    try:
        os.killpg(server.process.pid, number)
    except ProcessLookupError:
        return False
    return True


def end_dead_runs(settings: Settings) -> list[str]:
    """End runs that died with an earlier server or command; returns their ids."""
    with open_instance(settings) as instance:
        return heal(instance, settings)
