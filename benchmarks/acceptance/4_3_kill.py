"""Issue 4: kill -9 of the whole process at 50 random moments, 30 while it makes plain calls and 20 while it uses batches.

Judges ask a loopback server that is a process of its own and survives. Its answers are functions of a call's content, its faults
of content and attempt; it bills a call when it comes, so that a call in flight at a kill is paid. Each of the 50 lives has a
server and a ledger of its own: a process is killed, the next one finishes, and both the ledger and the server are asked what
happened. Most lives are those of a light process (`asked.py`: plan, collect, fit; both providers, one round and three adaptive
rounds, SQLite and Postgres); twelve are `anmi run --until elo_table` of a small dataset, where records, Dagster and healing are
in play. Moments are drawn uniformly over the time that the uninterrupted run takes, or, for half of the batches, over the time
between the provider's acceptance of a batch and its reply; `anmi run` is killed so long after the server's first call, while the
reply to a batch is held, or after a drawn number of collected verdicts. About half an hour on 2 cores.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np
from asked import REPOSITORY, Job, go, outcome, rows_of
from harness import Figures, Installation, arguments, at_least, at_most, exactly, half_read, workplace

from anmi_pipeline_tests.judging.databases import Postgres, postgres_folder, served_postgres
from anmi_pipeline_tests.judging.wire_answers import digest_of
from anmi_pipeline_tests.judging.wire_clients import PLANTED, VARIABLE
from anmi_pipeline_tests.judging.wire_server import SpawnedServer, WireSettings, spawned
from anmi_pipeline_tests.small import write_lines, write_small

WORKERS, REPLY = 8, 0.15
MOST = 2 * WORKERS - 1
"""Calls that may be paid and not on record at a kill: see `judging/dispatch.py`."""
MODELS = {"openai": "gpt-4o-mini", "anthropic": "claude-haiku-4-5"}
NAME, POLL, LIMIT = "killed", 0.02, 1200.0
Rows = dict[str, dict[str, object]]


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
        return Life(self.how, self.provider, self.design, self.whole)

    def wire(self) -> WireSettings:
        """Its server."""
        if self.how == "sync":
            return WireSettings(latency_s=0.1, faults={"429": 0.03, "500": 0.03, "garbage": 0.03})
        faults = {"500": 0.05, "garbage": 0.03}
        return WireSettings(faults=faults, batch_s=0.5, batch_expired=0.05, batch_reply_s=REPLY, lost_replies=1)

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
        when = ("accepted", "collected" if entire else "time")[number // 2 % 2]
        yield Life("batch", provider, "cycles" if entire else design, entire, when, postgres=not entire and number % 5 == 4)


@dataclass(frozen=True)
class Ledger:
    """What a ledger held at a time: verdicts by key, and what it says of batches."""

    verdicts: Rows
    batches: Sequence[Mapping[str, object]]
    items: Sequence[Mapping[str, object]]

    @classmethod
    def read(cls, url: str) -> "Ledger":
        """Read it from outside."""
        verdicts = {str(row["call_key"]): row for row in rows_of(url, "verdicts", "call_key, epoch")}
        return cls(verdicts, rows_of(url, "batches", "token"), rows_of(url, "batch_items", "token, call_key"))


@dataclass
class Found:
    """What 50 lives gave."""

    kills: Counter[str] = field(default_factory=Counter)
    landed: Counter[str] = field(default_factory=Counter)
    missed: int = 0
    unfiled: int = 0
    paid_again: int = 0
    most_unfiled: int = 0
    most_paid_again: int = 0
    lost: list[str] = field(default_factory=list)
    filed_paid_again: list[str] = field(default_factory=list)
    beyond: list[str] = field(default_factory=list)
    batches_twice: list[str] = field(default_factory=list)
    paid_twice_in_batches: list[str] = field(default_factory=list)
    other_elo: list[str] = field(default_factory=list)
    half: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


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
        """Start; returns when it begins to ask."""
        process = self._job.start()
        go(process)
        return process

    def finish(self) -> tuple[str, float]:
        """Run to the end: Elo digest, seconds."""
        said = outcome(self.start())
        return str(said["elo_table"]), float(str(said["seconds"]))

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

    def start(self) -> "subprocess.Popen[bytes]":
        """Start; returns when the server hears of it, or it ended."""
        process = subprocess.Popen(
            self._command, env=self.installation.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        heard = self.heard()
        while process.poll() is None and self.heard() == heard:
            time.sleep(POLL)
        return process

    def heard(self) -> int:
        """Calls and batches that the server got."""
        counts = self.server.counts()
        return counts["received"] + counts["batches"]

    def finish(self) -> tuple[str, float]:
        """Run until it is done, again while batches are on their way: Elo digest, seconds between first and last call."""
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            done = self.installation.anmi("run", "--dataset", NAME, "--until", "elo_table", timeout=LIMIT)
            if done.code == 0:
                counts = self.server.counts()
                return self.installation.current("elo_table", NAME).digest, counts["last_s"] - counts["first_s"]
            if "on their way" not in done.text:
                raise RuntimeError(f"anmi run ended with {done.code}: {done.text[-1500:]}")
        raise RuntimeError("anmi run did not come to an end")

    def half(self) -> list[str]:
        """What a reader could open although it is not complete."""
        return half_read(self.installation)


def killed(run: Light | Whole, seconds: float, rng: np.random.Generator) -> bool:
    """Start a process and kill it with all its children at a drawn moment; False when it had ended before."""
    if run.life.whole and run.life.when == "collected":
        # A run that submits and ends; the next one collects.
        subprocess.run(
            run.installation.command("run", "--dataset", NAME, "--until", "elo_table"), env=run.installation.environment(),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        time.sleep(run.life.wire().batch_s)
        process = subprocess.Popen(
            run.installation.command("run", "--dataset", NAME, "--until", "elo_table"), env=run.installation.environment(),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        wanted = int(rng.integers(1, 200))
        watch(process, lambda: len(rows_of(run.ledger, "verdicts", "id")) >= wanted, 0.002)
    else:
        process = run.start()
        if run.life.when == "accepted":
            accepted = int(rng.integers(1, 6))
            watch(process, lambda: run.server.counts()["batches"] >= accepted, 0.005)
            time.sleep(float(rng.uniform(0, REPLY)))
        else:
            time.sleep(float(rng.uniform(0, seconds)))
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def watch(process: "subprocess.Popen[bytes] | subprocess.Popen[str]", happened: Callable[[], bool], every: float) -> None:
    """Return when something happened, or the process ended."""
    while process.poll() is None and not happened():
        time.sleep(every)


def quiet(server: SpawnedServer) -> Mapping[str, object]:
    """The server's report once it has noticed that its client is gone."""
    seen = server.counts()
    while True:
        time.sleep(0.2)
        now = server.counts()
        if now == seen and not now["in_flight"]:
            return server.report()
        seen = now


def contents(report: Mapping[str, object]) -> dict[str, str]:
    """Request id -> content: ids are functions of content, and of the attempt for plain calls."""
    attempts: Mapping[str, int] = report["attempts"]
    known: dict[str, str] = {}
    for digest, most in attempts.items():
        known |= {f"{prefix}_{digest[:24]}": digest for prefix in ("req", "msg")}
        names = (digest_of({"call": digest, "attempt": attempt}) for attempt in range(1, most + 1))
        known |= {f"req_{name[:24]}": digest for name in names}
    return known


def examine(name: str, before: Ledger, at_kill: Mapping, after: Ledger, at_end: Mapping, life: Life, found: Found) -> None:
    """Compare ledger and server at the kill with both at the end."""
    found.lost += [f"{name}: {key}" for key, row in before.verdicts.items() if after.verdicts.get(key) != row]
    known = contents(at_end)
    filed = {known[str(row["request_id"])] for row in before.verdicts.values() if row["request_id"] and row["raw_answer"]}
    paid, again = Counter(at_kill["paid"]), Counter(at_end["paid"])
    if life.how == "sync":
        unfiled = paid.total() - len(filed)
        found.unfiled, found.most_unfiled = found.unfiled + unfiled, max(found.most_unfiled, unfiled)
        found.paid_again += at_end["paid_twice"]
        found.most_paid_again = max(found.most_paid_again, at_end["paid_twice"])
        if at_end["paid_twice"] > unfiled:
            found.beyond.append(f"{name}: {at_end['paid_twice']} paid twice, {unfiled} in flight")
    elif at_end["paid_twice"]:
        found.paid_twice_in_batches.append(f"{name}: {at_end['paid_twice']}")
    found.filed_paid_again += [f"{name}: {digest}" for digest in filed if again[digest] > 1]
    found.landed[landing(before, at_kill, life)] += 1
    found.batches_twice += [f"{name}: {wrong}" for wrong in doubled(after, at_end)]


def landing(before: Ledger, at_kill: Mapping, life: Life) -> str:
    """What a kill fell into."""
    if life.how == "sync":
        return "plain calls" if at_kill["received"] else "before the first call"
    confirmed = {row["batch_id"] for row in before.batches}
    if any(batch["id"] not in confirmed for batch in at_kill["batches"]):
        return "accepted and not committed"
    states = Counter(str(row["state"]) for row in before.batches)
    if states["collected"] or before.verdicts:
        return "collecting"
    return "submitting or waiting" if at_kill["batches"] else "before the first batch"


def doubled(after: Ledger, at_end: Mapping) -> list[str]:
    """Batches that the server has and the ledger has not, or has twice; calls that are in more batches than attempts."""
    ids = Counter(str(row["batch_id"]) for row in after.batches if row["batch_id"] is not None)
    created = [batch["id"] for batch in at_end["batches"]]
    wrong = [f"batch {one}" for one in created if ids[one] != 1]
    wrong += [f"token {token}" for token, times in tokens(at_end).items() if times > 1]
    submitted = Counter(key for batch in at_end["batches"] for key in batch["keys"])
    tried = Counter(str(item["call_key"]) for item in after.items)
    return wrong + [f"call {key}" for key, times in submitted.items() if times > tried[key]]


def tokens(report: Mapping) -> Counter[str]:
    """How often the server saw each token of an intent."""
    return Counter(batch["metadata"]["anmi"] for batch in report["batches"] if "anmi" in batch["metadata"])


def live(place: Place, life: Life, name: str, rng: np.random.Generator, found: Found) -> bool:
    """One life: kill, finish, examine; False when the process ended before the moment."""
    digest, seconds = place.reference(life)
    with spawned(life.wire()) as server:
        run = place.fresh(life, server)
        if not killed(run, seconds, rng):
            found.missed += 1
            return False
        at_kill = quiet(server)
        before, half = Ledger.read(run.ledger), run.half()
        try:
            elo, _ = run.finish()
        except RuntimeError as error:
            found.failed.append(f"{name}: {error}")
            return True
        after, at_end = Ledger.read(run.ledger), server.report()
    found.half += [f"{name}: {path}" for path in half]
    examine(name, before, at_kill, after, at_end, life, found)
    if elo != digest:
        found.other_elo.append(name)
    return True


def report(figures: Figures, found: Found, wanted: Mapping[str, int], seed: int) -> None:
    """The figures over all lives."""
    for how, least in wanted.items():
        figures.check(f"kills, {how}", found.kills[how], at_least(least), seed=seed)
    figures.say(f"fell into: {dict(found.landed)}; {found.missed} processes had ended before their moment")
    figures.note("calls paid and not on record at a kill, on average", found.unfiled / max(wanted["sync"], 1), seed=seed)
    figures.check(
        f"most calls paid and not on record at a kill, {WORKERS} workers", found.most_unfiled, at_most(MOST), seed=seed,
        detail=f"bound: in flight, and answers that wait for their commit; most paid twice {found.most_paid_again}, "
        f"{found.paid_again} in all",
    )  # fmt: skip
    lists = {
        "verdicts on record that were lost or changed": found.lost,
        "verdicts on record that were paid again": found.filed_paid_again,
        "lives with more paid twice than was in flight": found.beyond,
        "lives with batch calls paid twice": found.paid_twice_in_batches,
        "batches or calls in batches submitted twice": found.batches_twice,
        "other elo_table digests": found.other_elo,
        "half artifacts that a reader could open": found.half,
        "next runs that failed": found.failed,
    }
    for name, wrong in lists.items():
        figures.check(name, len(wrong), exactly(0), seed=seed, detail="; ".join(wrong[:3]))


def kill_many(figures: Figures, folder: Path, *, sync: int, batch: int, whole: int, seed: int, tries: int = 5) -> Found:
    """Live every life, again with another moment where the process had ended before."""
    found, rng = Found(), np.random.default_rng(seed)
    binaries = postgres_folder()
    with ExitStack() as stack:
        place = Place(folder, stack.enter_context(served_postgres(binaries)) if binaries is not None else None)
        for number, life in enumerate(lives(sync, batch, whole), 1):
            name, before = f"kill {number} ({life.name})", found.landed.copy()
            if any(live(place, life, name, rng, found) for _ in range(tries)):
                found.kills[life.how] += 1
                found.kills["anmi run"] += life.whole
                figures.say(f"{name}: fell into {', '.join(found.landed - before) or 'a run that failed'}")
    return found


def main() -> int:
    """50 kills."""

    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--sync", type=int, default=30, help="kills while plain calls are made")
        parser.add_argument("--batch", type=int, default=20, help="kills while batches are used")
        parser.add_argument("--whole", type=int, default=12, help="of all these, kills of `anmi run`")
        parser.add_argument("--seed", type=int, default=0)

    options = arguments(__doc__ or "", add=more)
    figures = Figures("4.3 kill")
    with workplace(options.home) as folder:
        found = kill_many(
            figures, folder / str(time.time_ns()), sync=options.sync, batch=options.batch, whole=options.whole, seed=options.seed
        )
    wanted = {"sync": options.sync, "batch": options.batch, "anmi run": options.whole}
    report(figures, found, wanted, options.seed)
    accepted = found.landed["accepted and not committed"]
    figures.check("kills between acceptance and commit", accepted, at_least(options.batch // 4), seed=options.seed)
    return figures.finish()


if __name__ == "__main__":
    sys.exit(main())
