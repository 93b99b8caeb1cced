"""MLflow runs of fits and trainings, linked to Dagster and to the artifacts they read.

Belongs here: opening a run, logging to it, healing runs whose process died. Does not: what is worth logging (the callers decide).
mlflow is imported when a run is opened: it costs a second.
"""

import json
import os
import platform
import sqlite3
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from anmi_pipeline.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

BATCH = 1000
"""Metrics that one MLflow request may carry."""
PARAMETER_BATCH = 100
"""Parameters that one MLflow request may carry."""
LONGEST_PARAMETER = 6000
"""MLflow refuses longer parameter values."""
HOST, PID, PROCESS_START = "anmi.host", "anmi.pid", "anmi.process_start"
"""Tags that say which process a run belongs to; a process id means nothing on another machine."""

QUIET = {"GIT_PYTHON_REFRESH": "quiet", "MLFLOW_LOGGING_LEVEL": "ERROR", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
"""What keeps mlflow from talking over our own progress."""

MODEL_TRAINING = {"mlflow.experimentKind": "custom_model_development"}
"""Lets the MLflow UI open an experiment with runs and metrics instead of its GenAI pages."""


class TrackedRun:
    """One open MLflow run."""

    def __init__(self, client: "MlflowClient", run_id: str, experiment_id: str, ui_url: str) -> None:
        """Keep what every log call needs."""
        self.client = client
        self.run_id = run_id
        self.url = f"{ui_url}/#/experiments/{experiment_id}/runs/{run_id}"

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log one value per metric."""
        self.log_steps([{"step": step, **metrics}])

    def log_steps(self, rows: Iterable[Mapping[str, float]], prefix: str = "") -> None:
        """Log a training history: each row holds `step` and its metrics."""
        from mlflow.entities import Metric

        entities = [
            Metric(prefix + name, float(value), int(row.get("wall_ms", 0)), int(row["step"]))
            for row in rows
            for name, value in row.items()
            if name not in ("step", "wall_ms")
        ]
        for start in range(0, len(entities), BATCH):
            self.client.log_batch(self.run_id, metrics=entities[start : start + BATCH])

    def log_figure(self, png: bytes, name: str) -> None:
        """Log a plot."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(png)
            self.client.log_artifact(self.run_id, str(path), "plots")

    def log_json(self, value: object, name: str) -> None:
        """Log a small document."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_text(json.dumps(value, indent=2, sort_keys=True))
            self.client.log_artifact(self.run_id, str(path))

    def log_folder(self, folder: Path, name: str) -> None:
        """Log the files of a model."""
        self.client.log_artifacts(self.run_id, str(folder), name)

    def log_model(self, log: Callable[[], str]) -> str:
        """Log a model with MLflow's fluent API, which logs into the active run; returns the model's URI."""
        import mlflow

        mlflow.start_run(run_id=self.run_id)
        try:
            return log()
        finally:
            mlflow.end_run()

    def log_input(self, name: str, digest: str, rows: int, source: str) -> None:
        """Name a dataset that the run read, by digest."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        profile = json.dumps({"rows": rows})
        # MLflow holds 36 characters of a dataset digest; the whole one stands in the tag.
        dataset = Dataset(name=name, digest=digest[:36], source_type="local", source=source, profile=profile)
        self.client.log_inputs(self.run_id, [DatasetInput(dataset, [InputTag("anmi.digest", digest)])])


class Tracker:
    """Opens MLflow runs in one tracking store."""

    def __init__(self, settings: Settings) -> None:
        """Use the tracking URL of the installation; a SQLite store keeps its artifacts beside it."""
        self.settings = settings
        self.url = settings.tracking_url

    def client(self) -> "MlflowClient":
        """A client of the tracking store.

        mlflow keeps its default store in a global and asks git for the version of the code; neither may reach our runs.
        """
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        import mlflow

        self.create_database()
        mlflow.set_tracking_uri(self.url)
        return mlflow.MlflowClient(tracking_uri=self.url, registry_uri=self.url)

    def create_database(self) -> None:
        """Make the SQLite database whole or not at all: killed inside its first migration, mlflow could never open it again."""
        path = Path(self.url.removeprefix("sqlite:///"))
        if not self.url.startswith("sqlite:///") or path.exists():
            return
        import mlflow

        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{uuid4().hex}.partial")
        mlflow.MlflowClient(tracking_uri=f"sqlite:///{partial}").search_experiments()
        try:
            # A link and not a rename: of two processes that start together, the second must not replace the first one's database.
            os.link(partial, path)
        except FileExistsError:
            pass
        finally:
            partial.unlink()

    def experiment(self, client: "MlflowClient", name: str) -> str:
        """Id of an experiment, made on first use with its artifacts under the state folder."""
        found = client.get_experiment_by_name(name)
        if found is not None:
            return found.experiment_id
        if not self.url.startswith("sqlite"):
            return client.create_experiment(name, tags=MODEL_TRAINING)
        folder = self.settings.home / "mlartifacts" / name
        folder.mkdir(parents=True, exist_ok=True)
        return client.create_experiment(name, artifact_location=folder.as_uri(), tags=MODEL_TRAINING)

    @contextmanager
    def run(self, experiment: str, name: str, params: Mapping[str, object], tags: Mapping[str, str]) -> Generator[TrackedRun]:
        """Open a run; it ends FINISHED, or FAILED when the body raises.

        Args:
            experiment: experiment name.
            name: run name.
            params: the resolved settings.
            tags: the Dagster run, asset and partition, and the digests it reads.
        """
        from mlflow.entities import Param

        client = self.client()
        experiment_id = self.experiment(client, experiment)
        process = {HOST: platform.node(), PID: str(os.getpid()), PROCESS_START: process_start(os.getpid())}
        created = client.create_run(experiment_id, run_name=name, tags={**tags, **process})
        run = TrackedRun(client, created.info.run_id, experiment_id, self.settings.mlflow_ui_url)
        entities = [Param(key, value[:LONGEST_PARAMETER]) for key, value in flatten(params)]
        try:
            for start in range(0, len(entities), PARAMETER_BATCH):
                client.log_batch(run.run_id, params=entities[start : start + PARAMETER_BATCH])
            yield run
        except BaseException:
            client.set_terminated(run.run_id, "FAILED")
            raise
        client.set_terminated(run.run_id, "FINISHED")

    def close_dead_runs(self) -> list[str]:
        """End runs that a killed process of this machine left RUNNING; returns their ids."""
        if self.url.startswith("sqlite:///") and not has_running(Path(self.url.removeprefix("sqlite:///"))):
            return []
        client = self.client()
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        dead = [
            run.info.run_id
            for run in client.search_runs(experiments, f"attributes.status = 'RUNNING' AND tags.`{PID}` != ''")
            if run.data.tags.get(HOST) == platform.node()
            and not is_alive(run.data.tags[PID], run.data.tags.get(PROCESS_START, ""))
        ]
        for run_id in dead:
            client.set_terminated(run_id, "KILLED")
        return dead


def has_running(database: Path) -> bool:
    """Whether MLflow's database may hold a run that is RUNNING. Asked without mlflow, whose import takes seconds."""
    if not database.exists():
        return False
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute("SELECT 1 FROM runs WHERE status = 'RUNNING' LIMIT 1").fetchone() is not None
    except sqlite3.Error:
        return True  # locked, or laid out in another way: mlflow knows


def flatten(params: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as dotted names with text values.

    >>> list(flatten({"loss": {"alpha": 0.5}, "steps": 3}))
    [('loss.alpha', '0.5'), ('steps', '3')]
    """
    for key, value in params.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            yield prefix + str(key), json.dumps(value, default=str)
        else:
            yield prefix + str(key), str(value)


def process_start(pid: int) -> str:
    """Start time of a process, so that a recycled pid is not taken for the same process; empty where /proc is absent."""
    try:
        return process_fields(pid)[19]
    except OSError:
        return ""


def is_zombie(pid: int) -> bool:
    """Whether a process has ended and only its parent has not looked yet; False where /proc is absent."""
    try:
        return process_fields(pid)[0] in ("Z", "X")
    except OSError:
        return False


def process_fields(pid: int) -> list[str]:
    """Fields of /proc/pid/stat from the third, the state, on: the command name before them may hold spaces and brackets."""
    return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()


def is_alive(pid: str, start: str) -> bool:
    """Whether the process that wrote (pid, start) still runs."""
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return (not start or process_start(int(pid)) == start) and not is_zombie(int(pid))
