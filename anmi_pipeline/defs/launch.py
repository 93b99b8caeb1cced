"""Running the pipeline without a UI: a fixed sequence of in-process Dagster runs on one instance.

Belongs here: the instance under ANMI_HOME, healing after a kill, the order of runs. Does not: printing (`cli.py`). A Dagster
run has one partition, so a pipeline is the dataset's assets up to the Elo table, then each recipe, then the board onward; each
run is launched over the whole asset graph with a selection, or Dagster would record wrong input versions.
"""

import os
import shutil
import sqlite3
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import dagster as dg
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES
from sqlalchemy.exc import SQLAlchemyError

from anmi_pipeline.catalog.datasets import load_dataset
from anmi_pipeline.catalog.recipes import load_recipe
from anmi_pipeline.defs.declaring import INPUT, PENDING
from anmi_pipeline.defs.reporting import LISTENER, Listener
from anmi_pipeline.defs.workspace import ASKED, RECIPE_ASSETS
from anmi_pipeline.errors import AnmiError, ArtifactError, InputError, nearest
from anmi_pipeline.settings import Settings
from anmi_pipeline.tracking import Tracker, is_alive, process_start

BEFORE = (
    *("corpus", "queries", "qrels"),
    *("lexical_run", "dense_run", "sparse_run", "late_interaction_run", "candidate_pool"),
    *("comparison_plan", "pairwise_judgments", "pairwise_judge", "judge_report"),
    *("comparison_graph", "elo_table"),
)
SYSTEM = ("training_set", "checkpoint", "student_checkpoint", "corpus_embeddings", "ann_index", "scores", "tuned_system")
AFTER = ("leaderboard", "lineage_report", "search_model")
PID, PROCESS_START = "anmi/pid", "anmi/process_start"


class StepFailedError(AnmiError):
    """A step of a launched run failed; the text is the step's own.

    Attributes:
        bad_input: True when the user's input is the cause.
        pending: True when nothing is wrong: batches of judges are on their way.
    """

    def __init__(self, message: str, *, bad_input: bool, pending: bool = False) -> None:
        """Keep whose fault it is."""
        super().__init__(message)
        self.bad_input = bad_input
        self.pending = pending


@dataclass(frozen=True)
class Stage:
    """One Dagster run of a pipeline."""

    partition: str | dg.MultiPartitionKey
    assets: tuple[str, ...]


def open_instance(settings: Settings) -> dg.DagsterInstance:
    """The Dagster instance under ANMI_HOME, its dagster.yaml installed or refreshed."""
    install_home(settings)
    os.environ["DAGSTER_HOME"] = str(settings.dagster_home)
    return dg.DagsterInstance.get()


def install_home(settings: Settings) -> Path:
    """Copy the shipped dagster.yaml into ANMI_HOME/dagster when it differs: Dagster reads it nowhere else.

    Raises:
        InputError: ANMI_HOME cannot be written.
    """
    shipped = Path(str(resources.files("anmi_pipeline"))) / "conf" / "dagster.yaml"
    installed = settings.dagster_home / "dagster.yaml"
    try:
        settings.dagster_home.mkdir(parents=True, exist_ok=True)
        if not installed.exists() or installed.read_bytes() != shipped.read_bytes():
            shutil.copyfile(shipped, installed)
    except OSError as error:
        raise InputError(
            f"ANMI_HOME {settings.home} cannot be written: {error.strerror}. Set ANMI_HOME to a folder that can be written."
        ) from error
    return settings.dagster_home


def heal(instance: dg.DagsterInstance, settings: Settings) -> list[str]:
    """End what a killed process left behind: runs that are still STARTED, their pool slots, open MLflow runs.

    Without this a dead run would hold its pool slot for ever, since no daemon watches the command line's runs.

    Returns:
        ids of the Dagster runs that were ended.
    """
    dead = [run for run in instance.get_runs(dg.RunsFilter(statuses=NOT_FINISHED_STATUSES)) if is_dead(instance, run)]
    for run in dead:
        instance.report_run_failed(run, "its process was killed; the next run takes up what it finished")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    Tracker(settings).close_dead_runs()
    return [run.run_id for run in dead]


def is_dead(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether every process of an unfinished run is gone.

    Ours carry their process in tags; those that the UI launched name it in their event log, once they have begun.
    """
    if PID in run.tags:
        return not is_alive(run.tags[PID], run.tags.get(PROCESS_START, ""))
    found = processes(instance, run.run_id)
    return bool(found) and not any(is_alive(pid, "") for pid in found)


def processes(instance: dg.DagsterInstance, run_id: str) -> set[str]:
    """Processes that said in the event log that they execute a run."""
    found: set[str] = set()
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        event = entry.dagster_event
        if event is not None and "pid" in event.engine_event_data.metadata:
            found.add(str(event.engine_event_data.metadata["pid"].value))
    return found


@contextmanager
def writable_instance(settings: Settings) -> Generator[dg.DagsterInstance]:
    """The instance for the length of a `with` block; what its database refuses becomes one sentence.

    Raises:
        ArtifactError: ANMI_HOME is full or read-only.
    """
    try:
        with open_instance(settings) as instance:
            yield instance
    except (SQLAlchemyError, sqlite3.Error) as error:
        cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise ArtifactError(
            f"Dagster's records in {settings.dagster_home} cannot be read or written: {cause}. Free space or make "
            "ANMI_HOME writable and run again; finished artifacts are kept."
        ) from error


def active_runs(settings: Settings) -> list[str]:
    """Ids of the Dagster runs that are under way on this installation, after ending the dead ones."""
    with writable_instance(settings) as instance:
        heal(instance, settings)
        return [run.run_id for run in instance.get_runs(dg.RunsFilter(statuses=NOT_FINISHED_STATUSES))]


def stages(settings: Settings, dataset: str, recipes: Sequence[str], until: str | None) -> list[Stage]:
    """The runs of a pipeline, in order.

    Args:
        settings: the installation.
        dataset: dataset name.
        recipes: recipes to build; empty = those that the dataset lists.
        until: last asset to build; None = all.

    Raises:
        InputError: an unknown dataset, recipe or asset.
    """
    config = load_dataset(dataset, settings.conf)
    chosen = tuple(recipes) or config.recipes
    for recipe in chosen:
        load_recipe(recipe, settings.conf, config.settings_for(recipe))
    if until is not None and until not in (*BEFORE, *SYSTEM, *AFTER):
        raise InputError(f'unknown asset "{until}".{nearest(until, (*BEFORE, *SYSTEM, *AFTER))}')
    planned = [Stage(dataset, upto(BEFORE, until))]
    if until not in BEFORE:
        planned += [Stage(dg.MultiPartitionKey({"dataset": dataset, "recipe": recipe}), upto(SYSTEM, until)) for recipe in chosen]
        if until not in RECIPE_ASSETS:
            planned.append(Stage(dataset, upto(AFTER, until)))
    return planned


def upto(assets: tuple[str, ...], until: str | None) -> tuple[str, ...]:
    """The assets of a stage up to and including one of them, or all."""
    return assets[: assets.index(until) + 1] if until in assets else assets


def run_waiting(
    settings: Settings,
    planned: Sequence[Stage],
    pause: Callable[[str], None],
    *,
    rebuild: bool = False,
    listener: Listener | None = None,
) -> None:
    """Run the stages, and again after a pause while batches of judges are on their way. Between two runs no run is open.

    Args:
        settings: the installation.
        planned: the stages.
        pause: told what is waited for; returns when it is time to look again.
        rebuild: compute again even where the build is known; the first time only.
        listener: watches the steps.

    Raises:
        StepFailedError: a step failed.
    """
    while True:
        try:
            return run_pipeline(settings, planned, rebuild=rebuild, listener=listener)
        except StepFailedError as error:
            if not error.pending:
                raise
            pause(str(error))
            rebuild = False


def run_pipeline(
    settings: Settings, planned: Sequence[Stage], *, rebuild: bool = False, listener: Listener | None = None
) -> None:
    """Run the stages one after another in this process.

    Raises:
        StepFailedError: a step failed; finished artifacts are kept and the next call goes on behind them.
    """
    from anmi_pipeline.definitions import defs

    with writable_instance(settings) as instance, listening(listener):
        heal(instance, settings)
        if not instance.get_runs(dg.RunsFilter(statuses=NOT_FINISHED_STATUSES), limit=1):
            shutil.rmtree(settings.scratch, ignore_errors=True)  # what killed builds left there
        job = defs.resolve_implicit_global_asset_job_def()
        tags = {PID: str(os.getpid()), PROCESS_START: process_start(os.getpid()), ASKED: "true"}
        for stage in planned:
            result = job.execute_in_process(
                run_config={
                    "resources": {"workspace": {"config": {"rebuild": rebuild}}},
                    # The listener shows the steps; Dagster's own lines stay in its event log.
                    "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                },
                instance=instance,
                partition_key=stage.partition,
                asset_selection=[dg.AssetKey(name) for name in stage.assets],
                raise_on_error=False,
                tags=tags,
            )
            if not result.success:
                if interrupted(result):
                    raise KeyboardInterrupt
                raise failure(result)


@contextmanager
def listening(listener: Listener | None) -> Generator[None]:
    """Let a listener watch the steps of this process."""
    token = LISTENER.set(listener)
    try:
        yield
    finally:
        LISTENER.reset(token)


def interrupted(result: dg.ExecuteInProcessResult) -> bool:
    """Whether a signal stopped the run: its step ended when what was in flight had come."""
    errors = [event.step_failure_data.error for event in result.all_events if event.is_step_failure]
    return any(error is not None and error.cls_name == KeyboardInterrupt.__name__ for error in errors)


def failure(result: dg.ExecuteInProcessResult) -> StepFailedError:
    """What the first failed step said, without the stack."""
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            if data.user_failure_data is not None:
                kind = data.user_failure_data.metadata.get("kind")
                text = f"{event.step_key}: {data.user_failure_data.description}"
                named = None if kind is None else kind.value
                return StepFailedError(text, bad_input=named == INPUT, pending=named == PENDING)
            error = data.error
            while error is not None and error.cause is not None:
                error = error.cause
            said = refusals(result, str(event.step_key)) or (error.message.strip() if error else "failed")
            return StepFailedError(f"{event.step_key}: {said}", bad_input=False)
    return StepFailedError(f"run {result.run_id} failed; see its log in the UI", bad_input=False)


def refusals(result: dg.ExecuteInProcessResult, step: str) -> str:
    """What the blocking checks of a step found wrong; Dagster's own error only counts them."""
    wanted = dg.DagsterEventType.ASSET_CHECK_EVALUATION
    evaluated = [event for event in result.all_events if event.event_type == wanted and event.step_key == step]
    found = [event.asset_check_evaluation_data for event in evaluated]
    return " ".join(
        f"blocking check {one.check_name} of {one.asset_key.to_user_string()} failed: {one.description or 'it does not say why.'}"
        for one in found
        if not one.passed and one.blocking and one.severity == dg.AssetCheckSeverity.ERROR
    )
