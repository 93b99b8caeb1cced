"""What the acceptance scripts share: figures with bounds, a private installation, the `anmi` command, the board.

Belongs here: printing `figure, seed, bound`, running `anmi` in a process of its own with an ANMI_HOME of its own, reading what
it left. Does not: a claim (one script each) and made-up collections (`made.py`).
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl

from anmi_pipeline import tables
from anmi_pipeline.errors import ArtifactError
from anmi_pipeline.records import Record, Records
from anmi_pipeline.store import MANIFEST, Store, read_sealed
from anmi_pipeline.table_specs import TableSpec

REPOSITORY = Path(__file__).resolve().parents[2]
PRIMARY = "nDCG@10"
KEPT = ("PATH", "HOME", "TMPDIR", "LANG", "OMP_NUM_THREADS")
"""Variables that reach a command of ours; everything else of the caller's environment stays out."""

warnings.filterwarnings("ignore", module=r"dagster.*|anmi_pipeline.*")


@dataclass(frozen=True)
class Bound:
    """What a figure must keep."""

    text: str
    holds: Callable[[float], bool]


def at_least(limit: float) -> Bound:
    """The figure must not be below the limit."""
    return Bound(f">= {limit:g}", lambda value: value >= limit)


def above(limit: float) -> Bound:
    """The figure must be above the limit."""
    return Bound(f"> {limit:g}", lambda value: value > limit)


def at_most(limit: float) -> Bound:
    """The figure must not be above the limit."""
    return Bound(f"<= {limit:g}", lambda value: value <= limit)


def within(centre: float, tolerance: float) -> Bound:
    """The figure must be within a tolerance of the centre."""
    return Bound(f"{centre:g} +- {tolerance:g}", lambda value: abs(value - centre) <= tolerance)


def exactly(wanted: float) -> Bound:
    """The figure must be this one."""
    return Bound(f"= {wanted:g}", lambda value: value == wanted)


@dataclass
class Figures:
    """The figures of one script: printed as they come, counted at the end."""

    title: str
    failed: list[str] = field(default_factory=list)
    checked: int = 0

    def check(self, name: str, value: float, bound: Bound, *, seed: object = "-", detail: str = "") -> bool:
        """Print a figure with its seed and bound; remember it when the bound does not hold."""
        holds = bool(bound.holds(value))
        self.checked += 1
        if not holds:
            self.failed.append(name)
        self.line("ok" if holds else "FAIL", name, value, seed, bound.text, detail)
        return holds

    def claim(self, name: str, holds: bool, *, seed: object = "-", detail: str = "") -> bool:
        """Print something that is true or not."""
        return self.check(name, float(holds), Bound("holds", lambda value: value == 1.0), seed=seed, detail=detail)

    def note(self, name: str, value: float, *, seed: object = "-", detail: str = "") -> None:
        """Print a figure that nothing is demanded of."""
        self.line("-", name, value, seed, "no bound", detail)

    def line(self, mark: str, name: str, value: float, seed: object, bound: str, detail: str) -> None:
        """Print one line."""
        shown = f"{value:.4f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
        more = f" | {detail}" if detail else ""
        print(f"{mark:4} | {name} | {shown} | seed {seed} | bound {bound}{more}", flush=True)

    def say(self, text: str) -> None:
        """Print what is going on."""
        print(f"     {text}", flush=True)

    def finish(self) -> int:
        """Print the outcome; the exit code of the script."""
        outcome = f"{len(self.failed)} of {self.checked} FAILED: {'; '.join(self.failed)}" if self.failed else "all hold"
        print(f"{self.title}: {self.checked} checked, {outcome}", flush=True)
        return 1 if self.failed or not self.checked else 0


@dataclass(frozen=True)
class Finished:
    """A command that ended.

    Attributes:
        code: exit code; negative = killed by that signal.
        out: standard output.
        err: standard error.
        seconds: wall time.
        peak_bytes: largest resident size of one process of the command.
    """

    code: int
    out: str
    err: str
    seconds: float
    peak_bytes: int

    @property
    def errors(self) -> list[str]:
        """The lines in which the command says what is wrong."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]

    @property
    def text(self) -> str:
        """All it said, white space made single: a terminal's line breaks do not matter."""
        return " ".join(f"{self.out}\n{self.err}".split())


def data_root() -> Path:
    """Folder of the collections: ANMI_DATA, else the one beside the checkout."""
    return Path(os.environ.get("ANMI_DATA", REPOSITORY.parent / "shared" / "data")).resolve()


@dataclass(frozen=True)
class Installation:
    """One ANMI_HOME with its configuration, as a person has it."""

    home: Path
    conf: Path | None = None
    data: Path | None = None
    extra: Mapping[str, str] = field(default_factory=dict[str, str])
    prefix: tuple[str, ...] = ()

    def environment(self) -> dict[str, str]:
        """The environment of its commands: little of the caller's, all of its own."""
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        own = {"ANMI_HOME": str(self.home), "DAGSTER_HOME": str(self.home / "dagster"), "COLUMNS": "300"}
        places = {"ANMI_CONF": self.conf, "ANMI_DATA": self.data}
        return kept | own | {name: str(path) for name, path in places.items() if path is not None} | dict(self.extra)

    def command(self, *arguments: str) -> list[str]:
        """The `anmi` of the running interpreter's environment."""
        script = Path(sys.executable).with_name("anmi")
        start = [str(script)] if script.exists() else [sys.executable, "-m", "anmi_pipeline.cli"]
        return [*self.prefix, *start, *arguments]

    def anmi(self, *arguments: str, limit_file_bytes: int | None = None, timeout: float | None = None) -> Finished:
        """Run `anmi` to its end.

        Args:
            arguments: after `anmi`.
            limit_file_bytes: no file may grow beyond this: a full disk as far as the store can tell.
            timeout: seconds after which it is killed.
        """
        limits = [] if limit_file_bytes is None else ["prlimit", f"--fsize={limit_file_bytes}"]
        return run([*limits, *self.command(*arguments)], self.environment(), timeout=timeout)

    def rows(self, *arguments: str) -> list[dict[str, object]]:
        """The rows of a listing command."""
        done = self.anmi(*arguments, "--json")
        if done.code != 0:
            raise RuntimeError(f"anmi {' '.join(arguments)} ended with {done.code}: {done.text[-2000:]}")
        return json.loads(done.out)["rows"]

    def damaged(self) -> list[str]:
        """Paths that `anmi verify` names."""
        done = self.anmi("verify", "--json")
        if done.code not in (0, 1) or not done.out.strip():
            raise RuntimeError(f"anmi verify ended with {done.code}: {done.text[-2000:]}")
        return [row["path"] for row in json.loads(done.out)["rows"]]

    @property
    def records(self) -> Records:
        """Records and refs of its store."""
        return Records(Store(str(self.home)))

    def current(self, asset: str, partition: str) -> Record:
        """The record that a ref names."""
        record = self.records.current(asset, partition)
        if record is None:
            raise RuntimeError(f"{asset} of {partition} is not in {self.home}; run the dataset first")
        return record

    def table(self, asset: str, partition: str, spec: TableSpec, *parts: str) -> pl.DataFrame:
        """A table of a current artifact."""
        return self.records.require(asset, partition)[1].table(spec, *parts)

    def snapshot(self) -> dict[tuple[str, str], tuple[str, str]]:
        """(asset, partition) -> (digest, build key) of every current artifact."""
        found = {(asset, partition): self.current(asset, partition) for asset, partition in self.records.refs()}
        return {key: (record.digest, record.build_key) for key, record in found.items()}

    def count(self, room: str) -> int:
        """Files in one room of the store."""
        return sum(path.is_file() for path in (self.home / room).rglob("*"))


def run(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    folder: Path | None = None,
    timeout: float | None = None,
) -> Finished:
    """Run a command in a process group of its own and measure it."""
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, env=dict(environment), cwd=folder, stdout=out, stderr=err, start_new_session=True)
        try:
            _, status, used = wait(process.pid, timeout)
        except TimeoutError:
            os.killpg(process.pid, 9)
            _, status, used = os.wait4(process.pid, 0)
        except BaseException:
            # Its group is its own: Ctrl-C does not reach it.
            os.killpg(process.pid, 9)
            process.wait()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        seconds = time.monotonic() - started
        return Finished(process.returncode, out.read(), err.read(), seconds, used.ru_maxrss * 1024)


def wait(pid: int, timeout: float | None) -> tuple[int, int, resource.struct_rusage]:
    """Wait for a process and take its resource usage."""
    if timeout is None:
        return os.wait4(pid, 0)
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        ended, status, used = os.wait4(pid, os.WNOHANG)
        if ended:
            return ended, status, used
        time.sleep(0.05)
    raise TimeoutError


@dataclass(frozen=True)
class Interval:
    """A mean with the ends of its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """As people write it."""
        return f"{self.mean:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


def bootstrap(values: np.ndarray, seed: int = 0, draws: int = 10_000) -> Interval:
    """Percentile bootstrap of a mean over queries; written here anew, so that it checks the board's own.

    Args:
        values: (n_queries,) figures or paired differences.
        seed: seed of the resampling.
        draws: resamples.
    """
    rng = np.random.default_rng(seed)
    means = np.concatenate([values[rng.integers(0, len(values), (500, len(values)))].mean(axis=1) for _ in range(draws // 500)])
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high))


@dataclass(frozen=True)
class Board:
    """A leaderboard as `anmi leaderboard --json` prints it, and the per-query values behind it."""

    dataset: str
    rows: list[dict[str, object]]
    per_query: pl.DataFrame

    @classmethod
    def of(cls, installation: Installation, dataset: str) -> "Board":
        """Read the board of a dataset."""
        rows = installation.rows("leaderboard", "--dataset", dataset)
        return cls(dataset, rows, installation.table("leaderboard", dataset, tables.PER_QUERY))

    @property
    def systems(self) -> set[str]:
        """Names on the board."""
        return {str(row["system"]) for row in self.rows}

    def row(self, system: str, split: str, variant: str = "raw") -> dict[str, object]:
        """One row."""
        for row in self.rows:
            if (row["system"], row["split"], row["variant"]) == (system, split, variant):
                return row
        raise RuntimeError(f"no row of {system} on {split} ({variant}) on the board of {self.dataset}")

    def value(self, system: str, split: str = "test", metric: str = PRIMARY) -> float:
        """Mean of a metric at fixed inference settings."""
        metrics: dict[str, dict[str, float]] = self.row(system, split)["metrics"]  # type: ignore[assignment]
        return metrics[metric]["value"]

    def seeds(self, system: str, split: str = "test") -> int:
        """Training seeds that the mean is over."""
        return int(self.row(system, split)["seeds"])  # type: ignore[call-overload]

    def difference(self, system: str, baseline: str, split: str = "test", metric: str = PRIMARY, seed: int = 0) -> Interval:
        """Paired difference over the queries of a set, from the per-query values."""
        chosen = self.per_query.filter(
            (pl.col("variant") == "raw") & (pl.col("metric") == metric) & pl.col("split").is_in(split.split("+"))
        )
        sides = [
            chosen.filter(pl.col("system") == name).select("query_id", pl.col("value").alias(name)) for name in (system, baseline)
        ]
        both = sides[0].join(sides[1], on="query_id", how="inner").sort("query_id")
        if both.is_empty() or both.height != sides[0].height or both.height != sides[1].height:
            raise RuntimeError(f"{system} and {baseline} do not have the same queries on {split} of {self.dataset}")
        return bootstrap((both[system] - both[baseline]).to_numpy(), seed)


def unfinished(installation: Installation) -> list[str]:
    """Object folders without a valid manifest: what a stopped writer left, which no reader may open."""
    store = installation.records.store
    return [f"{asset}/{digest}" for asset, digest, path in store.objects() if read_sealed(path / MANIFEST) is None]


def half_read(installation: Installation) -> list[str]:
    """What a reader could open although it is not complete: must be empty."""
    store, wrong = installation.records.store, []
    for name in unfinished(installation):
        asset, digest = name.split("/")
        try:
            store.get(asset, digest)
        except ArtifactError:
            continue
        wrong.append(name)
    for asset, partition in installation.records.refs():
        try:
            record, _ = installation.records.require(asset, partition)
            complete = store.has(asset, record.digest)
        except ArtifactError:
            complete = False
        if not complete:
            wrong.append(f"refs/{asset}/{partition}")
    return wrong


def arguments(description: str, *, add: Callable[[argparse.ArgumentParser], None] | None = None) -> argparse.Namespace:
    """The arguments that every script has; from here on SIGTERM ends a script like Ctrl-C, so that it ends what it started."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, help="ANMI_HOME that may hold the runs already; default: a temporary folder")
    if add is not None:
        add(parser)
    return parser.parse_args()


@contextmanager
def workplace(home: Path | None) -> Iterator[Path]:
    """The folder to work in: the given one, which stays, or a temporary one."""
    if home is not None:
        home.mkdir(parents=True, exist_ok=True)
        yield home.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="anmi-acceptance-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def built(installation: Installation, dataset: str, figures: Figures, *more: str) -> Finished:
    """Run a dataset; what the home holds already is not computed again."""
    figures.say(f"anmi run --dataset {dataset} {' '.join(more)} (ANMI_HOME {installation.home})")
    done = installation.anmi("run", "--dataset", dataset, *more)
    if not figures.check(f"anmi run --dataset {dataset}: exit code", done.code, exactly(0)):
        figures.say(done.err[-3000:])
    figures.note(f"anmi run --dataset {dataset}: wall seconds", round(done.seconds, 1))
    return done


def moved(installation: Installation, home: Path) -> Installation:
    """The same installation with another home."""
    return replace(installation, home=home)
