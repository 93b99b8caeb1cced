"""`anmi ui` in a process of its own, with its daemon, and what a person does in it: launch, switch on, look.

Belongs here: starting and ending it with all its processes, Dagster's GraphQL behind the buttons. Does not: a claim. Nothing
waits without a deadline: what has not come by then is None, and the script says so.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from harness import REPOSITORY, Installation

sys.path.insert(0, str(REPOSITORY))

from anmi_pipeline_tests.defs.processes import living
from anmi_pipeline_tests.ui.site import free_port

Value = TypeVar("Value")
UP_SECONDS, STOP_SECONDS, POLL_SECONDS = 300.0, 90.0, 0.5
PLACE = {"repositoryName": "__repository__", "repositoryLocationName": "anmi_pipeline"}
ENDS = frozenset({"SUCCESS", "FAILURE", "CANCELED"})
LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  ... on RunConfigValidationInvalid { errors { message } } ... on InvalidSubsetError { message } } }"""
RUNS = """{ runsOrError(limit: 500) { ... on Runs { results {
  runId status creationTime startTime endTime tags { key value } } } } }"""
STEPS = """query($id: ID!) { logsForRun(runId: $id, limit: 1000) { ... on EventConnection { events {
  __typename ... on MessageEvent { stepKey message } ... on ExecutionStepFailureEvent {
    error { message } failureMetadata { metadataEntries { label ... on TextMetadataEntry { text } } } } } } } }"""
POOL = """query($pool: String!) { instance { concurrencyLimit(concurrencyKey: $pool) {
  limit slotCount activeSlotCount pendingStepCount } } }"""
SENSOR_ON = "mutation($one: SensorSelector!) { startSensor(sensorSelector: $one) { __typename } }"
SCHEDULE_ON = "mutation($one: ScheduleSelector!) { startSchedule(scheduleSelector: $one) { __typename } }"
SCHEDULE_ID = (
    "query($one: ScheduleSelector!) { scheduleOrError(scheduleSelector: $one) { ... on Schedule { scheduleState { id } } } }"
)
SCHEDULE_OFF = "mutation($id: String!) { stopRunningSchedule(id: $id) { __typename } }"
TICK = "status timestamp skipReason runIds error { message }"
SENSOR_TICKS = f"""query($one: SensorSelector!) {{ sensorOrError(sensorSelector: $one) {{
  ... on Sensor {{ sensorState {{ status ticks(limit: 100) {{ {TICK} }} }} }} }} }}"""
SCHEDULE_TICKS = f"""query($one: ScheduleSelector!) {{ scheduleOrError(scheduleSelector: $one) {{
  ... on Schedule {{ scheduleState {{ status ticks(limit: 100) {{ {TICK} }} }} }} }} }}"""
TEST_SENSOR = """mutation($one: SensorSelector!) { sensorDryRun(selectorData: $one, cursor: null) {
  ... on DryRunInstigationTick { evaluationResult { skipReason runRequests { runKey } error { message } } }
  ... on PythonError { message } } }"""


def until(get: Callable[[], Value], seconds: float) -> Value | None:
    """The first true value before a deadline; None when none comes."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not (value := get()):
        if time.monotonic() > deadline:
            return None
        pause.wait(POLL_SECONDS)
    return value


@dataclass(frozen=True)
class Run:
    """A Dagster run as the UI lists it.

    Attributes:
        id: its id.
        status: as Dagster writes it.
        tags: key -> value.
        started: seconds since the epoch; None before.
        ended: likewise.
    """

    id: str
    status: str
    tags: dict[str, str]
    started: float | None
    ended: float | None

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.status in ENDS

    @property
    def partition(self) -> str:
        """Its partition."""
        return self.tags.get("dagster/partition", "")

    @property
    def sensor(self) -> str:
        """The sensor that launched it, or ""."""
        return self.tags.get("dagster/sensor_name", "")

    @property
    def schedule(self) -> str:
        """The schedule that launched it, or ""."""
        return self.tags.get("dagster/schedule_name", "")


@dataclass(frozen=True)
class Steps:
    """What the log of a run says about its steps.

    Attributes:
        started: step -> how often it began.
        retried: steps that were tried again.
        failed: step -> what it said.
        kinds: step -> kind of its failure, as our steps write it.
        materialized: steps that stored something.
    """

    started: dict[str, int] = field(default_factory=dict[str, int])
    retried: list[str] = field(default_factory=list[str])
    failed: dict[str, str] = field(default_factory=dict[str, str])
    kinds: dict[str, str] = field(default_factory=dict[str, str])
    materialized: list[str] = field(default_factory=list[str])


@dataclass
class Daemon:
    """A running `anmi ui`.

    Attributes:
        url: of Dagster.
        process: of the command.
        log: what it prints.
        groups: process groups of its servers.
    """

    url: str
    process: "subprocess.Popen[bytes]"
    log: Path
    groups: list[int] = field(default_factory=list[int])

    def ask(self, query: str, **variables: object) -> Any:
        """Ask GraphQL.

        Raises:
            RuntimeError: it answers with errors.
        """
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as response:
            answer = json.load(response)
        if "errors" in answer:
            raise RuntimeError(f"GraphQL: {answer['errors']}")
        return answer["data"]

    def launch(self, assets: Sequence[str], partition: str) -> str:
        """Materialize assets of a partition; the id of the run.

        Raises:
            RuntimeError: it was not launched.
        """
        chosen = [{"path": [name]} for name in assets]
        selector = {**PLACE, "pipelineName": "__ASSET_JOB", "assetSelection": chosen, "assetCheckSelection": []}
        tags = {"tags": [{"key": "dagster/partition", "value": partition}]}
        params = {"selector": selector, "mode": "default", "runConfigData": "{}", "executionMetadata": tags}
        told = self.ask(LAUNCH, params=params)["launchRun"]
        if told["__typename"] != "LaunchRunSuccess":
            raise RuntimeError(f"{', '.join(assets)} of {partition} cannot be launched: {told}")
        return told["run"]["runId"]

    def runs(self, partition: str) -> list[Run]:
        """The runs of a partition, oldest first."""
        found = [
            Run(one["runId"], one["status"], {tag["key"]: tag["value"] for tag in one["tags"]}, one["startTime"], one["endTime"])
            for one in sorted(self.ask(RUNS)["runsOrError"]["results"], key=lambda one: one["creationTime"])
        ]
        return [run for run in found if run.partition == partition]

    def ended(self, partition: str, run_id: str, seconds: float) -> Run | None:
        """A run when it is over; None when it is not in time."""
        return until(lambda: next((run for run in self.runs(partition) if run.id == run_id and run.over), None), seconds)

    def steps(self, run_id: str) -> Steps:
        """What a run's log says about its steps."""
        found = Steps()
        for event in self.ask(STEPS, id=run_id)["logsForRun"]["events"]:
            kind, step = event["__typename"], event.get("stepKey") or ""
            if kind == "ExecutionStepStartEvent":
                found.started[step] = found.started.get(step, 0) + 1
            elif kind in ("ExecutionStepUpForRetryEvent", "ExecutionStepRestartEvent"):
                found.retried.append(step)
            elif kind == "MaterializationEvent":
                found.materialized.append(step)
            elif kind == "ExecutionStepFailureEvent":
                found.failed[step] = (event["error"] or {}).get("message", "")
                entries = (event["failureMetadata"] or {}).get("metadataEntries", [])
                found.kinds[step] = next((entry.get("text", "") for entry in entries if entry["label"] == "kind"), "")
        return found

    def pool(self, name: str) -> dict[str, int]:
        """Slots of a pool, and who holds them or waits."""
        return self.ask(POOL, pool=name)["instance"]["concurrencyLimit"]

    def switch_sensor(self, name: str) -> None:
        """Switch a sensor on, as under Automation in the UI."""
        self.ask(SENSOR_ON, one={**PLACE, "sensorName": name})

    def switch_schedule(self, name: str, *, on: bool) -> None:
        """Switch a schedule on or off, as under Automation in the UI."""
        one = {**PLACE, "scheduleName": name}
        if on:
            self.ask(SCHEDULE_ON, one=one)
        else:
            self.ask(SCHEDULE_OFF, id=self.ask(SCHEDULE_ID, one=one)["scheduleOrError"]["scheduleState"]["id"])

    def ticks(self, sensor: str) -> list[dict[str, Any]]:
        """The ticks of a sensor, oldest first."""
        return self.ask(SENSOR_TICKS, one={**PLACE, "sensorName": sensor})["sensorOrError"]["sensorState"]["ticks"][::-1]

    def schedule_ticks(self, schedule: str) -> list[dict[str, Any]]:
        """The ticks of a schedule, oldest first."""
        one = {**PLACE, "scheduleName": schedule}
        return self.ask(SCHEDULE_TICKS, one=one)["scheduleOrError"]["scheduleState"]["ticks"][::-1]

    def test_sensor(self, name: str) -> dict[str, Any]:
        """What a sensor would do now: the button "Preview tick result", which launches nothing."""
        return self.ask(TEST_SENSOR, one={**PLACE, "sensorName": name})["sensorDryRun"]["evaluationResult"]

    def kill(self) -> bool:
        """Kill it with all that it started, as a power cut does; whether nothing is left."""
        for group in {os.getpgid(pid) for pid in self.left()}:
            os.killpg(group, signal.SIGKILL)
        self.process.wait(STOP_SECONDS)
        return bool(until(lambda: not self.left(), STOP_SECONDS))

    def left(self) -> list[int]:
        """Processes that are still there."""
        return [pid for group in self.groups for pid in living(group)]


@contextmanager
def daemon(installation: Installation) -> Generator[Daemon]:
    """`anmi ui` over an installation for the length of a `with` block; no process of it stays.

    Raises:
        RuntimeError: it ends by itself, or is not up in time.
    """
    port, log = free_port(), installation.home.parent / f"ui-{time.time_ns()}.log"
    command = installation.command("ui", "--dagster-port", str(port), "--mlflow-port", str(free_port()))
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, env=installation.environment(), stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
        )
    started = Daemon(f"http://127.0.0.1:{port}", process, log)
    try:
        said = until(lambda: process.poll() is not None or "Ctrl-C" in log.read_text(encoding="utf-8"), UP_SECONDS)
        started.groups = groups_of(process.pid)
        if not said or process.poll() is not None:
            raise RuntimeError(f"anmi ui is not up: {log.read_text(encoding='utf-8')[-2000:]}")
        yield started
    finally:
        stop(started)


def groups_of(pid: int) -> list[int]:
    """Process groups that the children of a process lead, and its own."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    except OSError:
        return [pid]
    return [pid, *(int(child) for child in children if os.getpgid(int(child)) == int(child))]


def stop(started: Daemon) -> None:
    """End it as a service manager does, and kill what does not listen."""
    process = started.process
    if process.poll() is None:
        started.groups = groups_of(process.pid)
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        started.kill()
