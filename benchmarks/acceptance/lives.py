"""Lives of a process that is to be killed: what it asks, of which server, and how it is started, killed and finished.

Belongs here: the kinds of lives and their runs, the uninterrupted ones included. Does not: moments, and what must hold
(`4_3_kill.py`).
"""

import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from asked import Job, go, outcome
from harness import REPOSITORY, Installation, half_read

from anmi_pipeline_tests.judging.databases import Postgres
from anmi_pipeline_tests.judging.wire_clients import PLANTED, VARIABLE
from anmi_pipeline_tests.judging.wire_server import SpawnedServer, WireSettings, spawned
from anmi_pipeline_tests.small import write_lines, write_small

WORKERS, REPLY = 8, 0.15
MODELS = {"openai": "gpt-4o-mini", "anthropic": "claude-haiku-4-5"}
NAME, POLL, LIMIT = "killed", 0.02, 1200.0


@dataclass(frozen=True)
class Life:
    """One kind of life.

    Attributes:
        how: "sync" or "batch".
        provider: openai or anthropic.
        design: cycles or adaptive.
        whole: whether it is `anmi run`.
        when: "time", "accepted" (the reply to a batch is held) or "collected" (verdicts are being filed).
        postgres: whether its ledger is on Postgres.
    """

    how: str
    provider: str
    design: str = "cycles"
    whole: bool = False
    when: str = "time"
    postgres: bool = False

    @property
    def name(self) -> str:
        """For people."""
        parts = [self.how, self.provider, self.design, "anmi run" if self.whole else "light", "Postgres" if self.postgres else ""]
        return ", ".join(part for part in parts if part)

    @property
    def reference(self) -> "Life":
        """The uninterrupted run it is compared with."""
        return replace(self, when="time", postgres=False)

    def wire(self) -> WireSettings:
        """Its server."""
        if self.how == "sync":
            return WireSettings(latency_s=0.1, faults={"429": 0.03, "500": 0.03, "garbage": 0.03})
        faults = {"500": 0.05, "garbage": 0.03}
        return WireSettings(
            faults=faults, batch_s=0.5, batch_expired=0.05, batch_reply_s=REPLY, lost_replies=self.lost
        )  # fmt: skip

    @property
    def lost(self) -> int:
        """Batches that the server accepts while the connection breaks before its reply."""
        return int(self.how == "batch" and self.provider == "anthropic" and self.when == "time")

    def judging(self, server: SpawnedServer) -> dict[str, object]:
        """Its judging configuration."""
        url = server.openai_url if self.provider == "openai" else server.url
        batch = {"calls": 20, "settle_seconds": 0, "part": 5} if self.how == "batch" else None
        dispatch = {"workers": WORKERS, "backoff_seconds": 0.05}
        judge = {"kind": self.provider, "name": "wire", "model": MODELS[self.provider], "base_url": url, "dispatch": dispatch}
        design = {"audit_share": 0.2} if self.design == "cycles" else {"audit_share": 0.0, "rounds": 3}
        return {"judges": [judge | {"batch": batch}], "design": self.design, "degree": 6, "pool_size": 12} | design


def lives(sync: int, batch: int, whole: int) -> Iterator[Life]:
    """The kinds of lives, in turn.

    Args:
        sync: kills while plain calls are made.
        batch: kills while batches are used.
        whole: of all these, kills of `anmi run`.
    """
    of_sync = min(round(whole * sync / (sync + batch)), sync)
    kinds = [("openai", "cycles"), ("anthropic", "adaptive"), ("openai", "adaptive"), ("anthropic", "cycles")]
    for number in range(sync):
        provider, design = kinds[number % 4]
        entire = number < of_sync
        yield Life("sync", provider, "cycles" if entire else design, entire, postgres=not entire and number % 5 == 4)
    for number in range(batch):
        provider, design = kinds[number % 4]
        entire = number < whole - of_sync
        when = ("accepted", "collected" if entire else "time")[(number + number // 4) % 2]
        yield Life("batch", provider, "cycles" if entire else design, entire, when, postgres=not entire and number % 5 == 4)


class Place:
    """Where lives are lived: folders, a Postgres server, the uninterrupted runs."""

    def __init__(self, folder: Path, postgres: Postgres | None) -> None:
        """Nothing has run yet."""
        self.folder, self.postgres = folder, postgres
        self.references: dict[Life, tuple[str, float]] = {}
        self._numbers = count()

    def fresh(self, life: Life, server: SpawnedServer) -> "Light | Whole":
        """A ledger, or an installation, that holds nothing."""
        number = next(self._numbers)
        folder = self.folder / f"life-{number}"
        folder.mkdir(parents=True)
        if life.whole:
            return Whole(life, folder, server)
        on = self.postgres.fresh(f"life{number}") if life.postgres and self.postgres else f"sqlite:///{folder / 'ledger.db'}"
        return Light(life, on, server)

    def reference(self, life: Life) -> tuple[str, float]:
        """Elo digest of the uninterrupted run, and the seconds that it asked."""
        known = life.reference
        if known not in self.references:
            with spawned(known.wire()) as server:
                self.references[known] = self.fresh(known, server).finish()
        return self.references[known]


class Light:
    """The light process."""

    def __init__(self, life: Life, ledger: str, server: SpawnedServer) -> None:
        """Nothing runs yet."""
        self.life, self.ledger, self.server = life, ledger, server
        self._job = Job(ledger, life.judging(server), queries=4, documents=12)

    def start(self) -> "subprocess.Popen[str]":
        """Start; returns with the first call, or when it begins to make batches."""
        process = self._job.start()
        go(process)
        if self.life.how == "sync":
            wait_for_word(self.server, process)
        return process

    def finish(self) -> tuple[str, float]:
        """Run to the end: Elo digest, and the seconds from the first call, or from the beginning, to the last answer."""
        said = outcome(self.start())
        seconds = asking_seconds(self.server) if self.life.how == "sync" else float(str(said["seconds"]))
        return str(said["elo_table"]), seconds

    def half(self) -> list[str]:
        """It keeps nothing but the ledger."""
        return []


class Whole:
    """`anmi run --until elo_table`."""

    def __init__(self, life: Life, folder: Path, server: SpawnedServer) -> None:
        """Write a small dataset whose judge is behind the server."""
        import yaml

        self.life, self.server = life, server
        made = write_small(folder)
        judging = life.judging(server) | {"pool_size": 10, "degree": 4}
        variant = {"description": "a judge behind an API", "extends": "small", "judging": judging}
        write_lines(Path(made["ANMI_CONF"]) / "datasets" / f"{NAME}.yaml", [yaml.safe_dump(variant)])
        threads = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS")}
        extra = threads | {"PYTHONPATH": str(REPOSITORY)} | {VARIABLE[one]: PLANTED[one] for one in VARIABLE}
        home, conf, data = (Path(made[name]) for name in ("ANMI_HOME", "ANMI_CONF", "ANMI_DATA"))
        self.installation = Installation(home, conf, data, extra)
        self.ledger = f"sqlite:///{home / 'ledger.db'}"
        self._command = self.installation.command("run", "--dataset", NAME, "--until", "elo_table")

    def begin(self) -> "subprocess.Popen[bytes]":
        """Start."""
        return subprocess.Popen(
            self._command, env=self.installation.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip

    def start(self) -> "subprocess.Popen[bytes]":
        """Start; returns when the server hears of it, or it ended."""
        process = self.begin()
        wait_for_word(self.server, process)
        return process

    def finish(self) -> tuple[str, float]:
        """Run until it is done, again while batches are on their way: Elo digest, seconds between first and last call."""
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            done = self.installation.anmi("run", "--dataset", NAME, "--until", "elo_table", timeout=LIMIT)
            if done.code == 0:
                return self.installation.current("elo_table", NAME).digest, asking_seconds(self.server)
            if "on their way" not in done.text:
                raise RuntimeError(f"anmi run ended with {done.code}: {done.text[-1500:]}")
        raise RuntimeError("anmi run did not come to an end")

    def half(self) -> list[str]:
        """What a reader could open although it is not complete."""
        return half_read(self.installation)


def wait_for_word(server: SpawnedServer, process: "subprocess.Popen[str] | subprocess.Popen[bytes]") -> None:
    """Return when a fresh process made its first call or batch, or ended."""

    def heard() -> int:
        counts = server.counts()
        return counts["received"] + counts["batches"]

    before = heard()
    while process.poll() is None and heard() == before:
        time.sleep(POLL)


def asking_seconds(server: SpawnedServer) -> float:
    """Seconds between the first and the last plain call."""
    counts = server.counts()
    return counts["last_s"] - counts["first_s"]
