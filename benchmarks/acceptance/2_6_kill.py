"""Issue 2: a run that is killed at any moment leaves nothing half-done, and the next `anmi run` finishes it without a daemon.

A reference run of a made-up collection gives the time line: when every step and every store write began and ended. Moments
are drawn uniformly between the first and the last step; draws are thrown away only to have two each in judging, fit, training
and store writes. The whole process group is killed with SIGKILL. A moment in a step is timed from that step's start in the
live run; one in a store write is hit by the writing process itself, half-way through the file or before it gets its name.
About 25 minutes on 2 cores.
"""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from harness import Figures, Installation, arguments, at_least, at_most, exactly, half_read, unfinished, workplace
from made import make

KILLS, EACH, LATER = 20, 2, 60.0
MOST_DRAWS = 100_000
TRAINED = ("brief", "shuffled", "features")
STEP_KINDS = {"pairwise_judgments": "judging", "elo_table": "fit"}
KINDS = ("judging", "fit", "training", "store write")
POLL = 0.01

HOOK = '''
"""Times every store write; kills its process group inside the one that ANMI_TEST_KILL names (number:fraction)."""
import os, pathlib, signal, time
LOG, KILL = os.environ.get("ANMI_TEST_WRITES"), os.environ.get("ANMI_TEST_KILL", "0:0").split(":")
WRITE, REPLACE, BEGAN = pathlib.Path.write_bytes, pathlib.Path.replace, []

def write_bytes(self, data):
    if not self.name.endswith(".partial"):
        return WRITE(self, data)
    BEGAN.append(time.time())
    if len(BEGAN) == int(KILL[0]):
        WRITE(self, data[: len(data) // 2] if float(KILL[1]) < 0.5 else data)
        os.killpg(0, signal.SIGKILL)
        time.sleep(60)
    return WRITE(self, data)

def replace(self, target):
    result = REPLACE(self, target)
    if LOG and self.name.endswith(".partial"):
        with open(LOG, "a") as stream:
            stream.write(f"{BEGAN[-1]} {time.time()}\\n")
    return result

pathlib.Path.write_bytes, pathlib.Path.replace = write_bytes, replace
'''


@dataclass(frozen=True)
class Span:
    """A step, or a store write, of the reference run: its place in the sequence and its time."""

    name: str
    kind: str
    number: int
    begin: float
    end: float


@dataclass(frozen=True)
class Moment:
    """When to kill: inside a store write, or so long after a step began."""

    at: float
    span: Span

    @property
    def offset(self) -> float:
        """Seconds after the span began."""
        return self.at - self.span.begin


@dataclass(frozen=True)
class Reference:
    """The uninterrupted run."""

    seconds: float
    leaderboard: str
    steps: Sequence[Span]
    writes: Sequence[Span]

    def moment(self, at: float) -> Moment:
        """What is going on at a time: a store write, else the step that began last."""
        inside = [write for write in self.writes if write.begin <= at <= write.end]
        return Moment(at, inside[0] if inside else [step for step in self.steps if step.begin <= at][-1])


@dataclass
class Outcome:
    """What 20 kills left behind, over all of them."""

    landed: Counter[str] = field(default_factory=Counter)
    longest: float = 0.0
    failed: list[str] = field(default_factory=list)
    half: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    slots: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    unfinished: int = 0


def query(path: Path, statement: str) -> list[tuple[object, ...]]:
    """Rows of a SQLite file that another process may be writing; none while it is not there or has no such table."""
    if not path.exists():
        return []
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5) as connection:
            return connection.execute(statement).fetchall()
    except sqlite3.OperationalError:
        return []


def events(home: Path) -> list[tuple[float, str, str, str]]:
    """(time, step, event, run id) of every step start and end in Dagster's event log, in order."""
    found: list[tuple[float, str, str, str]] = []
    for path in (home / "dagster" / "history" / "runs").glob("*-*.db"):
        rows = query(
            path, "select timestamp, step_key, dagster_event_type from event_logs where dagster_event_type like 'STEP_%'"
        )
        for stamp, step, kind in rows:
            if kind in ("STEP_START", "STEP_SUCCESS", "STEP_FAILURE"):
                moment = datetime.fromisoformat(str(stamp)).replace(tzinfo=UTC).timestamp()
                found.append((moment, str(step), str(kind), path.stem))
    return sorted(found)


def partitions(home: Path) -> dict[str, str]:
    """Dagster run id -> partition."""
    rows = query(home / "dagster" / "history" / "runs.db", "select run_id, value from run_tags where key = 'dagster/partition'")
    return {str(run): str(value) for run, value in rows}


def kind_of(step: str, partition: str) -> str:
    """What kind of work a step is; empty for the others."""
    if step == "checkpoint":
        return "training" if any(recipe in partition for recipe in TRAINED) else ""
    return STEP_KINDS.get(step, "")


def spans(home: Path) -> list[Span]:
    """Every step of a run that ended, in order; checks count as the step they belong to only by their own name."""
    of_run, found = partitions(home), []
    log = events(home)
    starts = [event for event in log if event[2] == "STEP_START"]
    for number, (begin, step, _, run) in enumerate(starts):
        end = next((moment for moment, name, kind, other in log if (name, kind, other) == (step, "STEP_SUCCESS", run)), begin)
        found.append(Span(f"{step} {of_run.get(run, '')}", kind_of(step, of_run.get(run, "")), number, begin, end))
    return found


def refer(installation: Installation, dataset: str, hook: Path) -> Reference:
    """Run it once without interruption, with a log of its store writes."""
    hook.mkdir(parents=True, exist_ok=True)
    (hook / "sitecustomize.py").write_text(HOOK)
    log = hook / "writes.txt"
    log.unlink(missing_ok=True)
    watched = replace(installation, extra={"PYTHONPATH": str(hook), "ANMI_TEST_WRITES": str(log)})
    done = watched.anmi("run", "--dataset", dataset)
    if done.code != 0:
        raise RuntimeError(f"the reference run ended with {done.code}: {done.text[-2000:]}")
    times = [tuple(map(float, line.split())) for line in log.read_text().splitlines()]
    writes = [Span(f"store write {number}", "store write", number, begin, end) for number, (begin, end) in enumerate(times, 1)]
    digest = installation.snapshot()["leaderboard", dataset][0]
    return Reference(done.seconds, digest, spans(installation.home), writes)


def draw(reference: Reference, outcome: Outcome, count: int, each: int, rng: np.random.Generator) -> Moment:
    """Draw the next moment uniformly over the run, keeping room for what is still missing of every kind."""
    first, last = reference.steps[0].begin, max(step.end for step in reference.steps)
    missing = {kind: max(each - outcome.landed[kind], 0) for kind in KINDS}
    room = count - outcome.landed.total() - sum(missing.values())
    for _ in range(MOST_DRAWS):
        moment = reference.moment(float(rng.uniform(first, last)))
        if missing.get(moment.span.kind, 0) > 0 or room > 0:
            return moment
    raise RuntimeError(f"no moment of {[kind for kind, lack in missing.items() if lack]} in {MOST_DRAWS} draws")


def kill_at(installation: Installation, dataset: str, moment: Moment, hook: Path) -> str:
    """Start a run and kill its process group at the moment; say what it was doing, "" when it had ended before."""
    environment = installation.environment()
    command = installation.command("run", "--dataset", dataset)
    if moment.span.kind == "store write":
        fraction = moment.offset / max(moment.span.end - moment.span.begin, 1e-9)
        environment |= {"PYTHONPATH": str(hook), "ANMI_TEST_KILL": f"{moment.span.number}:{fraction}"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        if moment.span.kind != "store write" and wait_for(installation.home, moment.span.number, process):
            begin = [event for event in events(installation.home) if event[2] == "STEP_START"][moment.span.number][0]
            time.sleep(max(begin + moment.offset - time.time(), 0))
        elif moment.span.kind == "store write":
            process.wait()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    if process.wait() != -signal.SIGKILL:
        return ""
    return "store write" if moment.span.kind == "store write" else doing(installation.home)


def wait_for(home: Path, number: int, process: subprocess.Popen[bytes]) -> bool:
    """Wait until the step with this number began; False when the process ended before."""
    while process.poll() is None:
        if sum(event[2] == "STEP_START" for event in events(home)) > number:
            return True
        time.sleep(POLL)
    return False


def doing(home: Path) -> str:
    """The step that was under way when the log stopped, by kind or else by name."""
    of_run, open_steps = partitions(home), {}
    for _, step, kind, run in events(home):
        if kind == "STEP_START":
            open_steps[step, run] = kind_of(step, of_run.get(run, "")) or step
        else:
            open_steps.pop((step, run), None)
    return next(iter(open_steps.values()), "between steps")


def examine(installation: Installation, dataset: str, reference: Reference, name: str, outcome: Outcome) -> float:
    """Run again after a kill and note everything that is not as it should be."""
    outcome.half += [f"{name}: {path}" for path in half_read(installation)]
    outcome.unfinished += len(unfinished(installation))
    done = installation.anmi("run", "--dataset", dataset, timeout=reference.seconds + 10 * LATER)
    outcome.longest = max(outcome.longest, done.seconds)
    if done.code != 0:
        outcome.failed.append(f"{name}: exit code {done.code}: {done.text[-300:]}")
        return done.seconds
    outcome.damaged += [f"{name}: {path}" for path in installation.damaged()]
    if installation.snapshot()["leaderboard", dataset][0] != reference.leaderboard:
        outcome.other.append(name)
    runs = query(installation.home / "dagster" / "history" / "runs.db", "select run_id, status from runs")
    outcome.started += [f"{name}: {run} {status}" for run, status in runs if status not in ("SUCCESS", "FAILURE", "CANCELED")]
    index = installation.home / "dagster" / "history" / "runs" / "index.db"
    held = query(index, "select concurrency_key, run_id from concurrency_slots where run_id is not null")
    held += query(index, "select concurrency_key, run_id from pending_steps")
    outcome.slots += [f"{name}: {pool} by {run}" for pool, run in held]
    open_runs = query(installation.home / "mlflow.db", "select run_uuid, status from runs where status = 'RUNNING'")
    outcome.running += [f"{name}: {run}" for run, _ in open_runs]
    return done.seconds


def report(figures: Figures, outcome: Outcome, reference: Reference, count: int, each: int, seed: int) -> None:
    """The figures over all kills."""
    figures.check("kills", outcome.landed.total(), at_least(count), seed=seed, detail=str(dict(outcome.landed)))
    for kind in KINDS:
        figures.check(f"kills in {kind}", outcome.landed[kind], at_least(each), seed=seed)
    figures.note("objects that the kills left unfinished", outcome.unfinished, seed=seed)
    figures.note("normal run: wall seconds", round(reference.seconds, 1))
    figures.check(
        "longest next run: wall seconds", round(outcome.longest, 1), at_most(round(reference.seconds + LATER, 1)), seed=seed
    )
    lists = {
        "next runs that failed": outcome.failed,
        "half artifacts that a reader could open": outcome.half,
        "damaged files that anmi verify names": outcome.damaged,
        "other leaderboard digests": outcome.other,
        "Dagster runs left unfinished": outcome.started,
        "pool slots held": outcome.slots,
        "MLflow runs left RUNNING": outcome.running,
    }
    for name, found in lists.items():
        figures.check(name, len(found), exactly(0), seed=seed, detail="; ".join(found[:3]))


def kill_many(
    figures: Figures, installation: Installation, dataset: str, *, count: int = KILLS, each: int = EACH, seed: int = 0
) -> None:
    """Refer, draw, kill, run again, report."""
    hook = installation.home / "hook"
    reference = refer(replace(installation, home=installation.home / "reference"), dataset, hook)
    outcome, rng = Outcome(), np.random.default_rng(seed)
    for number in range(1, 3 * count + 1):
        moment = draw(reference, outcome, count, each, rng)
        killed = replace(installation, home=installation.home / f"kill-{number}")
        landed = kill_at(killed, dataset, moment, hook)
        name = f"kill {number} ({moment.span.name} + {moment.offset:.2f} s, landed in {landed or 'nothing: it had ended'})"
        if landed:
            outcome.landed[landed if landed in KINDS else "other"] += 1
            figures.say(f"{name}: next run {examine(killed, dataset, reference, name, outcome):.1f} s")
        shutil.rmtree(killed.home, ignore_errors=True)
        if outcome.landed.total() >= count and all(outcome.landed[kind] >= each for kind in KINDS):
            break
    report(figures, outcome, reference, count, each, seed)


def main() -> int:
    """20 kills."""
    options = arguments(__doc__ or "", add=lambda parser: parser.add_argument("--kills", type=int, default=KILLS))
    figures = Figures("2.6 kill")
    with workplace(options.home) as place:
        made = make(place / f"made-{time.time_ns()}", documents=600, queries=150)
        kill_many(figures, Installation(place / "homes", made.conf), "made", count=options.kills)
    return figures.finish()


if __name__ == "__main__":
    sys.exit(main())
