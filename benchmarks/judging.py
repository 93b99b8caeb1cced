"""What asking costs beside the bare SDK: `make benchmark NAME=judging`.

Belongs here: calls per second and processor time of a judge against the official SDK in a plain loop, in the same process and
run, on the same made-up calls and a server without limits; memory. Does not: limits and faults
(`acceptance/4_2_load.py`), quality. The server has a process of its own and answers after 50 ms. Turns alternate, medians of them
are printed. Seed 0; a minute or two.
"""

import asyncio
import os
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import polars as pl

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from anmi_pipeline.judging.api_judge import ApiJudge
from anmi_pipeline.judging.collect import collect
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.endpoint import wire_body
from anmi_pipeline.judging.evidence import pool_documents
from anmi_pipeline.judging.judge_configs import OpenAIJudge
from anmi_pipeline.judging.judges import CALLS, JudgeEvidence
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.judging.money import Money
from anmi_pipeline.judging.plan import plan_comparisons
from anmi_pipeline_tests.judging.made import made_evidence
from anmi_pipeline_tests.judging.wire_server import WireSettings, spawned

WORKERS, TURNS, LATENCY = 64, 3, 0.05
QUERIES, DOCUMENTS, DEGREE = 50, 20, 8


@dataclass(frozen=True)
class Turn:
    """One run of all calls."""

    seconds: float
    cpu: float


def configured(url: str) -> JudgingConfig:
    """A judge under a cap, as people run it."""
    judge = OpenAIJudge(name="judge", model="gpt-4o-mini", base_url=url, api_key_env=None, dispatch={"workers": WORKERS})
    return JudgingConfig(judges=(judge,), design="cycles", degree=DEGREE, pool_size=DOCUMENTS, audit_share=0.0, max_usd=100.0)


def ours(plan: pl.DataFrame, evidence: JudgeEvidence, url: str, folder: Path) -> Turn:
    """Through keys, ledger, cap and parser."""
    config = configured(url)
    with Books(f"sqlite:///{folder / f'{time.time_ns()}.db'}") as books:
        judge = ApiJudge(config.judges[0], evidence, config, Money(books, "benchmark", config.max_usd))
        started, used = time.monotonic(), time.process_time()
        made, report = collect(plan, [judge], evidence, books, config)
        spent = Turn(time.monotonic() - started, time.process_time() - used)
    if report.failed or made.height != plan.height:
        raise SystemExit(f"{report.failed} of {plan.height} calls failed")
    return spent


def bare(bodies: list[dict[str, object]], url: str, *, aiohttp: bool) -> Turn:
    """The SDK in a plain loop, 64 at a time: no record, no cap, nothing read."""

    async def run() -> None:
        import openai

        client = openai.DefaultAioHttpClient() if aiohttp else None
        places = asyncio.Semaphore(WORKERS)
        async with openai.AsyncOpenAI(api_key="none", base_url=url, http_client=client) as sdk:

            async def one(body: dict[str, object]) -> None:
                async with places:
                    await sdk.chat.completions.create(**body)

            await asyncio.gather(*(one(body) for body in bodies))

    started, used = time.monotonic(), time.process_time()
    asyncio.run(run())
    return Turn(time.monotonic() - started, time.process_time() - used)


def main() -> None:
    """Alternate and print."""
    os.environ.setdefault("OPENAI_API_KEY", "none")
    evidence = made_evidence(QUERIES, DOCUMENTS)
    config = configured("http://127.0.0.1:1/v1")
    plan, _ = plan_comparisons(pool_documents(evidence.pool, config), config, 0)
    judge = ApiJudge(config.judges[0], evidence, config)
    calls = plan.with_columns(call_key=pl.Series(judge.keys(plan, evidence)))
    bodies = [wire_body(request.body) for request in judge.requests(calls.select(list(CALLS)))]
    print(f"{plan.height:,} calls, {WORKERS} at a time, {LATENCY * 1e3:.0f} ms each, medians of {TURNS} turns, seed 0")
    turns: dict[str, list[Turn]] = {"judge": [], "SDK over aiohttp": [], "SDK over httpx": []}
    with tempfile.TemporaryDirectory() as place, spawned(WireSettings(latency_s=LATENCY)) as server:
        for _ in range(TURNS):
            turns["judge"].append(ours(plan, evidence, server.openai_url, Path(place)))
            turns["SDK over aiohttp"].append(bare(bodies, server.openai_url, aiohttp=True))
            turns["SDK over httpx"].append(bare(bodies, server.openai_url, aiohttp=False))
    own = median(turn.seconds for turn in turns["judge"])
    for name, done in turns.items():
        seconds, cpu = median(turn.seconds for turn in done), median(turn.cpu for turn in done)
        print(
            f"{name:18s} {plan.height / seconds:7.0f} calls/s   {1e3 * cpu / plan.height:5.2f} ms of processor per call   "
            f"ours / it {seconds / own:.2f}"
        )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
