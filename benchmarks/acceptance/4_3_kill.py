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
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from asked import rows_of
from harness import Figures, arguments, at_least, at_most, exactly, workplace
from lives import REPLY, WORKERS, Life, Light, Place, Whole, lives

from anmi_pipeline_tests.judging.databases import postgres_folder, served_postgres
from anmi_pipeline_tests.judging.wire_answers import digest_of
from anmi_pipeline_tests.judging.wire_server import SpawnedServer, spawned

MOST = 2 * WORKERS - 1
"""Calls that may be paid and not on record at a kill: see `judging/dispatch.py`."""
Rows = dict[str, dict[str, object]]


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


def killed(run: Light | Whole, seconds: float, rng: np.random.Generator) -> bool:
    """Start a process and kill it with all its children at a drawn moment; False when it had ended before."""
    if isinstance(run, Whole) and run.life.when == "collected":
        run.begin().wait()  # submits, and ends
        time.sleep(run.life.wire().batch_s)
        process, wanted = run.begin(), int(rng.integers(1, 200))
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
    if sum(batch["id"] not in confirmed for batch in at_kill["batches"]) > life.lost:
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
    found, rng, wanted = Found(), np.random.default_rng(seed), list(lives(sync, batch, whole))
    binaries = postgres_folder() if any(life.postgres for life in wanted) else None
    with ExitStack() as stack:
        place = Place(folder, stack.enter_context(served_postgres(binaries)) if binaries is not None else None)
        for number, life in enumerate(wanted, 1):
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
