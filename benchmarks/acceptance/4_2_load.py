"""Issue 4: 10,000 pairs of nfcorpus through a judge behind an API that is slow, limited and faulty.

A loopback server in a process of its own answers after 50 ms, refuses 2 % of the calls with 429 and 1 % with 500, holds 1 % for
ever and answers 1 % with garbage; its token bucket of 200 requests per second is enforced, and refused calls take from it too.
The judge asks through the unmodified SDK with 64 workers at 12,000 requests per minute; it gives a call up after 2 s (SDK) or
2.5 s (whole attempt), so that held calls cost little time. Pairs are neighbours in the BM25 lists of the queries. What the bucket
allows is counted from the first call to the last answer, by the server's clock: every call that passed it, faulty ones included,
against 200 per second; and pairs with a verdict or a failure against 200 per second less the 4 % of attempts that must be made
again.

The peer asks 2,000 of the same calls by the bare SDK, 64 at a time, with the SDK's own retries: at full speed, and at 200 calls
per second by a clock. It keeps no record. About two minutes on 2 quiet cores; on a busy machine the figures are those of the
machine.
"""

import argparse
import asyncio
import importlib
import resource
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from harness import REPOSITORY, Figures, arguments, at_least, at_most, data_root, exactly, workplace

sys.path.insert(0, str(REPOSITORY))

from anmi_pipeline.judging.api_judge import ApiJudge
from anmi_pipeline.judging.budget import Spending
from anmi_pipeline.judging.collect import collect
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.endpoint import http_client, wire_body
from anmi_pipeline.judging.judge_configs import OpenAIJudge
from anmi_pipeline.judging.judges import CALLS, JudgeEvidence
from anmi_pipeline.judging.ledger import TABLE
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.judging.money import Money
from anmi_pipeline.judging.prices import cost_units, dollars, price_of
from anmi_pipeline.judging.requests import Usage
from anmi_pipeline.tables import PLAN
from anmi_pipeline_tests.judging.wire_server import WireSettings, spawned

PAIRS, PEER, WORKERS, RATE, TIMEOUT = 10_000, 2_000, 64, 200.0, 2.0
MODEL = "gpt-4o-mini"
PRICE = price_of(MODEL, "sync")
FAULTS = {"429": 0.02, "500": 0.01, "timeout": 0.01, "garbage": 0.01}
AGAIN = sum(share for kind, share in FAULTS.items() if kind != "garbage")
"""Share of attempts that have to be made again."""


def wire(seed: int) -> WireSettings:
    """The server of the issue."""
    return WireSettings(latency_s=0.05, faults=FAULTS, requests_per_s=RATE, count_refused=True, seed=seed)


def judge_settings(url: str) -> OpenAIJudge:
    """The judge of the issue."""
    pace = {"requests_per_minute": 60 * RATE}
    dispatch = {"workers": WORKERS, "pace": pace}
    return OpenAIJudge(
        name="judge", model=MODEL, base_url=url, api_key_env=None, timeout_s=TIMEOUT, dispatch=dispatch
    )  # fmt: skip


def planned(evidence: JudgeEvidence, count: int, seed: int) -> pl.DataFrame:
    """PLAN frame of pairs whose calls are all different."""
    settings = judge_settings("http://127.0.0.1:1/v1")
    judge = ApiJudge(settings, evidence, JudgingConfig(judges=(settings,)))
    drawn = importlib.import_module("4_4_estimate").pairs_of(evidence, count + count // 10, seed)
    once = drawn.with_columns(call_key=pl.Series(judge.keys(drawn, evidence))).unique("call_key", maintain_order=True)
    return PLAN.frame(once.head(count).select(*drawn.columns, audit=pl.lit(False)))


@dataclass(frozen=True)
class Load:
    """One run against the server.

    Attributes:
        judgments: JUDGMENTS frame.
        rows: verdicts on record.
        keys: different call keys of these.
        seconds: wall time of `collect`.
        cpu: processor seconds of this process in `collect`.
        booked: what the books count as spent.
        server: its counters.
    """

    judgments: pl.DataFrame
    rows: int
    keys: int
    seconds: float
    cpu: float
    booked: Spending
    server: Mapping[str, object]

    @property
    def answered(self) -> int:
        """Pairs with an answer, garbage included."""
        return self.judgments.filter(pl.col("status").is_in(["ok", "unparsed"])).height

    @property
    def span(self) -> float:
        """Seconds from the first call to the last answer, by the server's clock."""
        return self.server["last_s"] - self.server["first_s"]

    @property
    def passed(self) -> int:
        """Calls that passed the bucket."""
        return self.server["received"] - self.server["refused"]


def loaded(plan: pl.DataFrame, evidence: JudgeEvidence, folder: Path, seed: int) -> Load:
    """Collect a plan through the judge, on a ledger and a server of its own."""
    folder.mkdir(parents=True)
    with spawned(wire(seed)) as server, Books(f"sqlite:///{folder / 'ledger.db'}") as books:
        settings = judge_settings(server.openai_url)
        config = JudgingConfig(judges=(settings,), max_usd=100.0)
        money = Money(books, "load", config.max_usd)
        judge = ApiJudge(settings, evidence, config, money)
        started, used = time.monotonic(), time.process_time()
        judgments, _ = collect(plan, [judge], evidence, books, config)
        seconds, cpu = time.monotonic() - started, time.process_time() - used
        with books.transaction("read") as connection:
            keys = [row[0] for row in connection.execute(TABLE.select().with_only_columns(TABLE.c.call_key))]
        return Load(judgments, len(keys), len(set(keys)), seconds, cpu, money.budget().spending(), server.report())


def peak_mb() -> float:
    """Largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def report_record(figures: Figures, load: Load, pairs: int, seed: int) -> None:
    """What must hold of the record and the money, on any machine."""
    statuses = dict(sorted(load.judgments.group_by("status").len().iter_rows()))
    server = load.server
    decided = load.judgments.filter((pl.col("status") == "ok") == pl.col("p_first").is_not_null())
    figures.check("pairs with a verdict or a failure", decided.height, exactly(pairs), seed=seed, detail=str(statuses))
    figures.check("rows of the ledger", load.rows, exactly(pairs), seed=seed)
    figures.check("different keys of the ledger", load.keys, exactly(pairs), seed=seed)
    figures.say(f"server: {server['received']:,} calls, {server['refused']} refused by the bucket, faults {server['faults']}")
    timeouts = load.booked.calls - load.answered
    figures.check("answers paid twice, at most the calls given up", server["paid_twice"], at_most(timeouts), seed=seed)
    figures.check("calls billed and not in the books", max(server["answered"] - load.booked.calls, 0), exactly(0), seed=seed)
    billed = float(dollars(cost_units(Usage(server["input_tokens"], 0, server["output_tokens"]), PRICE)))
    figures.check(
        "USD in the books less USD billed", float(load.booked.usd) - billed, at_least(0), seed=seed,
        detail=f"books {load.booked.usd:.4f}, calls given up at their worst; ledger {load.judgments['cost_usd'].sum():.4f}",
    )  # fmt: skip


def report_pace(figures: Figures, load: Load, pairs: int, seed: int) -> None:
    """What must hold of the throughput, on a quiet machine."""
    allowed = wire(seed).burst + RATE * load.span
    figures.check(
        "calls that passed the bucket / what it allowed", load.passed / allowed, at_least(0.9), seed=seed,
        detail=f"{load.passed:,} in {load.span:.1f} s = {load.passed / load.span:.1f}/s",
    )  # fmt: skip
    rate = pairs / load.span
    figures.check(
        f"pairs per second / {RATE:g} less {AGAIN:.0%} attempts made again", rate / (RATE * (1 - AGAIN)), at_least(0.9),
        seed=seed, detail=f"{rate:.1f} pairs/s",
    )  # fmt: skip
    figures.note(f"pairs per second / {RATE:g}", rate / RATE, seed=seed)
    figures.note("wall seconds of collect, keys and ledger included", round(load.seconds, 1), seed=seed)
    figures.note("processor ms per pair", 1e3 * load.cpu / pairs, seed=seed)


@dataclass(frozen=True)
class Peer:
    """What a bare loop did."""

    answered: int
    lost: Counter[str]
    seconds: float
    cpu: float
    server: Mapping[str, object]


async def bare(bodies: Sequence[Mapping[str, object]], url: str, turn: Callable[[], Awaitable[None]]) -> tuple[int, Counter[str]]:
    """Ask by the SDK, 64 at a time, as its documentation shows; its own retries."""
    import openai

    sdk = openai.AsyncOpenAI(api_key="none", base_url=url, timeout=TIMEOUT, http_client=http_client(openai))
    places = asyncio.Semaphore(WORKERS)

    async def one(body: Mapping[str, object]) -> None:
        async with places:
            await turn()
            await sdk.chat.completions.create(**body)

    async with sdk:
        outcomes = await asyncio.gather(*(one(body) for body in bodies), return_exceptions=True)
    lost = Counter(type(outcome).__name__ for outcome in outcomes if isinstance(outcome, BaseException))
    return len(bodies) - lost.total(), lost


def clock(per_second: float) -> Callable[[], Awaitable[None]]:
    """A turn every so often, for calls as they begin; the SDK repeats when it likes."""
    due = 0.0

    async def turn() -> None:
        nonlocal due
        now = asyncio.get_running_loop().time()
        due = max(due, now) + 1 / per_second
        await asyncio.sleep(due - 1 / per_second - now)

    return turn


async def at_once() -> None:
    """No turn to wait for."""


def peer(bodies: Sequence[Mapping[str, object]], seed: int, *, paced: bool) -> Peer:
    """Run the bare loop on a server of its own."""
    with spawned(wire(seed)) as server:
        used = time.process_time()
        answered, lost = asyncio.run(bare(bodies, server.openai_url, clock(RATE) if paced else at_once))
        used, seen = time.process_time() - used, server.report()
        return Peer(answered, lost, seen["last_s"] - seen["first_s"], used, seen)


def bodies_of(plan: pl.DataFrame, evidence: JudgeEvidence) -> list[dict[str, object]]:
    """The same calls as the SDK's arguments."""
    settings = judge_settings("http://127.0.0.1:1/v1")
    judge = ApiJudge(settings, evidence, JudgingConfig(judges=(settings,)))
    calls = plan.with_columns(call_key=pl.Series(judge.keys(plan, evidence)))
    return [wire_body(request.body) for request in judge.requests(calls.select(list(CALLS)))]


def compare(figures: Figures, plan: pl.DataFrame, evidence: JudgeEvidence, folder: Path, seed: int) -> None:
    """Ours and the bare loop on the same smaller number of calls."""
    ours = loaded(plan, evidence, folder / "small", seed)
    rate = ours.answered / ours.span
    figures.note(
        f"ours, {plan.height:,} pairs: answers per second", rate, seed=seed,
        detail=f"lost {plan.height - ours.answered}, {1e3 * ours.cpu / plan.height:.1f} ms of processor per pair",
    )  # fmt: skip
    bodies = bodies_of(plan, evidence)
    for name, paced in (("at full speed", False), (f"at {RATE:g} calls per second", True)):
        found = peer(bodies, seed, paced=paced)
        own = found.answered / found.seconds
        figures.note(
            f"bare SDK loop {name}: answers per second", own, seed=seed,
            detail=f"lost {found.lost.total()} ({dict(found.lost)}), {found.server['refused']} refused by the bucket, "
            f"{found.server['received']} calls, {1e3 * found.cpu / plan.height:.1f} ms of processor per pair; "
            f"ours / peer {rate / own:.2f}",
        )  # fmt: skip


def main(count: int, fewer: int, seed: int, home: Path | None) -> int:
    """Load, report, compare."""
    figures = Figures("4.2 load")
    evidence = importlib.import_module("4_4_estimate").evidence_of(data_root())
    plan = planned(evidence, count, seed)
    before = peak_mb()
    with workplace(home) if home is None else nullcontext(home / str(time.time_ns())) as place:
        load = loaded(plan, evidence, place / "load", seed)
        figures.note("peak memory, MB", round(peak_mb()), detail=f"{before:.0f} before the first call: texts, pairs, libraries")
        report_record(figures, load, count, seed)
        report_pace(figures, load, count, seed)
        compare(figures, plan.head(fewer), evidence, place, seed)
    return figures.finish()


if __name__ == "__main__":

    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--pairs", type=int, default=PAIRS)
        parser.add_argument("--peer", type=int, default=PEER, help="pairs that ours and the bare loop are compared on")
        parser.add_argument("--seed", type=int, default=0)

    options = arguments(__doc__ or "", add=more)
    sys.exit(main(options.pairs, options.peer, options.seed, options.home))
