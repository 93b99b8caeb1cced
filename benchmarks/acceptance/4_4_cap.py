"""Issue 4: the cap is never exceeded, not by one call, while two processes with 32 workers each race for what is left of it.

Both processes (`asked.py`) ask their half of a plan, which costs several times the cap, through the unmodified SDK from a
loopback server: under `max_usd` and under `max_calls`, on SQLite and on Postgres, and each of these again with a process that is
killed (SIGKILL) when half of the cap is billed. The server writes log-normal numbers of output tokens, so that most calls cost
less than the most they may, refuses some, and breaks the connection of some that it has billed. It bills a call when it comes.
While they race, what it has billed is compared with what the books hold as spent or reserved, and that with the cap; afterwards
the books are added up anew from the reservations. About three minutes on 2 cores.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from asked import Job, go, outcome, rows_of
from harness import Figures, arguments, at_least, at_most, exactly, workplace

from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.judging.money import Money
from anmi_pipeline.judging.prices import cost_units, dollars, price_of
from anmi_pipeline.judging.requests import Usage
from anmi_pipeline_tests.judging.databases import Postgres, postgres_folder, served_postgres
from anmi_pipeline_tests.judging.wire_server import SpawnedServer, WireSettings, spawned

WORKERS, PROCESSES = 32, 2
MODEL = "gpt-4o-mini"
PRICE = price_of(MODEL, "sync")
USD, CALLS = 0.05, 600
QUERIES, DOCUMENTS, DEGREE = 12, 40, 8
EVERY = 0.01
"""Seconds between two samples of server and books, at least."""


@dataclass(frozen=True)
class Race:
    """One race.

    Attributes:
        cap: "max_usd" or "max_calls".
        most: the cap.
        postgres: whether the ledger is on Postgres.
        kill: whether a process is killed half-way.
    """

    cap: str
    most: float
    postgres: bool
    kill: bool

    @property
    def name(self) -> str:
        """For people."""
        shown = f"${self.most:g}" if self.cap == "max_usd" else f"{self.most:g} calls"
        return f"{shown}, {'Postgres' if self.postgres else 'SQLite'}{', one process killed' if self.kill else ''}"

    def judging(self, server: SpawnedServer) -> dict[str, object]:
        """The judging configuration of both processes."""
        dispatch = {"workers": WORKERS, "backoff_seconds": 0.05, "breaker_failures": 1000}
        judge = {
            "kind": "openai", "name": "wire", "model": MODEL, "base_url": server.openai_url, "form": "json",
            "max_output_tokens": 200, "timeout_s": 60, "dispatch": dispatch,
        }  # fmt: skip
        plan = {"design": "cycles", "degree": DEGREE, "pool_size": DOCUMENTS, "audit_share": 0.0}
        return {"judges": [judge], self.cap: self.most} | plan


def wire(seed: int) -> WireSettings:
    """The server of a race."""
    faults = {"429": 0.03, "500": 0.03, "disconnect": 0.01, "broken": 0.01}
    return WireSettings(latency_s=0.05, faults=faults, output_median=25, output_sigma=1.0, seed=seed)


@dataclass(frozen=True)
class Sample:
    """Server and books at one moment, the server a little earlier: USD and calls."""

    billed: Decimal
    answered: int
    counted: Decimal
    calls: int


@dataclass
class Seen:
    """What a race showed."""

    samples: list[Sample] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    reservations: Sequence[Mapping[str, object]] = ()

    @property
    def last(self) -> Sample:
        """The end."""
        return self.samples[-1]

    def units(self, *, opened: bool | None = None) -> int:
        """Sum of the reservations, true cost or else the worst; of those that were never settled, or of all."""
        rows = [row for row in self.reservations if opened is None or (row["cost"] is None) == opened]
        return sum(int(str(row["worst"] if row["cost"] is None else row["cost"])) for row in rows)


def sampled(server: SpawnedServer, money: Money) -> Sample:
    """Ask the server first: what it billed may only grow until the books are asked."""
    counts = server.counts()
    spending = money.budget().spending()
    billed = dollars(cost_units(Usage(counts["input_tokens"], 0, counts["output_tokens"]), PRICE))
    return Sample(billed, counts["answered"], spending.usd, spending.calls)


def raced(race: Race, ledger: str, seed: int) -> Seen:
    """Let two processes race for the cap."""
    seen = Seen()
    with spawned(wire(seed)) as server, Books(ledger) as books:
        money = Money(books, "made")
        half = [Job(ledger, race.judging(server), QUERIES, DOCUMENTS, part, PROCESSES) for part in range(PROCESSES)]
        running = [job.start() for job in half]
        doomed = running[0] if race.kill else None
        for process in running:
            go(process)
        while any(process.poll() is None for process in running):
            seen.samples.append(sampled(server, money))
            spent = seen.last.billed if race.cap == "max_usd" else seen.last.answered
            if doomed is not None and spent >= Decimal(str(race.most)) / 2:
                os.killpg(doomed.pid, signal.SIGKILL)
                doomed.communicate()
                running.remove(doomed)
                doomed = None
            time.sleep(EVERY)
        seen.ended = [str(outcome(process)["ended"]) for process in running]
        seen.samples.append(sampled(server, money))
        seen.reservations = rows_of(ledger, "reservations", "id")
    return seen


def report(figures: Figures, race: Race, seen: Seen, seed: int) -> None:
    """What must hold of a race."""
    name, last, most = race.name, seen.last, Decimal(str(race.most))
    wanted = PROCESSES - race.kill
    figures.check(f"{name}: processes that ended at the cap", seen.ended.count("cap"), exactly(wanted), seed=seed)
    if race.cap == "max_usd":
        billed, counted = [one.billed for one in seen.samples], [one.counted for one in seen.samples]
        worst = dollars(max(int(str(row["worst"])) for row in seen.reservations))
    else:
        billed, counted = [Decimal(one.answered) for one in seen.samples], [Decimal(one.calls) for one in seen.samples]
        worst = Decimal(1)
    over = max(have - held for have, held in zip(billed, counted, strict=True))
    figures.check(f"{name}: billed at the end / cap", float(billed[-1] / most), at_most(1), seed=seed, detail=f"{billed[-1]}")
    figures.check(f"{name}: spent or reserved / cap, at most", float(max(counted) / most), at_most(1), seed=seed)
    figures.check(
        f"{name}: billed beyond what was reserved, at most", float(over), at_most(0), seed=seed,
        detail=f"{len(seen.samples)} moments",
    )  # fmt: skip
    dearer = sum(int(str(row["cost"])) > int(str(row["worst"])) for row in seen.reservations if row["cost"] is not None)
    figures.check(f"{name}: calls that cost more than was reserved", dearer, exactly(0), seed=seed)
    room = most - counted[-1]
    figures.check(f"{name}: room left / most that one call may cost", float(room / worst), at_most(1), seed=seed)
    figures.check(f"{name}: books less their reservations", float(last.counted - dollars(seen.units())), exactly(0), seed=seed)
    lost = [row for row in seen.reservations if row["cost"] is None]
    detail = f"${dollars(seen.units(opened=True)):.5f} of ${last.counted:.5f}; billed ${last.billed:.5f}, {last.answered} calls"
    if race.kill:
        figures.check(f"{name}: calls in flight at the kill, counted as spent", len(lost), at_least(1), seed=seed, detail=detail)
    else:
        figures.check(f"{name}: reservations left open", len(lost), exactly(0), seed=seed, detail=detail)


def races(postgres: Postgres | None, *, usd: float, calls: int) -> Iterator[Race]:
    """Every race, those on Postgres where there is one."""
    for on_postgres in (False, True) if postgres is not None else (False,):
        for kill in (False, True):
            yield Race("max_usd", usd, on_postgres, kill)
            yield Race("max_calls", calls, on_postgres, kill)


def race_all(figures: Figures, folder: Path, *, usd: float, calls: int, seed: int) -> None:
    """Run and report every race."""
    folder.mkdir(parents=True)
    binaries = postgres_folder()
    with ExitStack() as stack:
        postgres = stack.enter_context(served_postgres(binaries)) if binaries is not None else None
        if postgres is None:
            figures.say("no Postgres server binaries on this machine: SQLite alone")
        for number, race in enumerate(races(postgres, usd=usd, calls=calls)):
            fresh = postgres.fresh(f"race{number}") if postgres is not None and race.postgres else None
            seen = raced(race, fresh or f"sqlite:///{folder / f'ledger-{number}.db'}", seed)
            report(figures, race, seen, seed)


def main() -> int:
    """Every race."""

    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--usd", type=float, default=USD)
        parser.add_argument("--calls", type=int, default=CALLS)
        parser.add_argument("--seed", type=int, default=0)

    options = arguments(__doc__ or "", add=more)
    figures = Figures("4.4 cap")
    with workplace(options.home) as place:
        race_all(figures, place / str(time.time_ns()), usd=options.usd, calls=options.calls, seed=options.seed)
    return figures.finish()


if __name__ == "__main__":
    sys.exit(main())
