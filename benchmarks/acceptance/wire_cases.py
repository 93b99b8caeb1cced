"""A judge behind an API against the loopback server: one case from the plan to the ledger, and what the server saw.

Belongs here: playing a case. Does not: any claim.
"""

import asyncio
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import polars as pl
from aiohttp import web
from harness import REPOSITORY

sys.path.insert(0, str(REPOSITORY))

from anmi_pipeline.errors import AnmiError
from anmi_pipeline.judging.collect import collect_async
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.evidence import pool_documents
from anmi_pipeline.judging.judges import JudgeEvidence
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.judging.money import Money
from anmi_pipeline.judging.panel import build_grader, build_judges
from anmi_pipeline.judging.plan import plan_comparisons
from anmi_pipeline.tables import PLAN
from anmi_pipeline_tests.judging.made import made_evidence
from anmi_pipeline_tests.judging.wire_answers import WireSettings
from anmi_pipeline_tests.judging.wire_server import WireServer

PROVIDERS = ("openai", "anthropic")
KEYS = {"OPENAI_API_KEY": "sk-proj-acceptance-of-the-wire", "ANTHROPIC_API_KEY": "sk-ant-acceptance-of-the-wire"}
VARIABLE = dict(zip(PROVIDERS, KEYS, strict=True))
MODELS = {"openai": "gpt-4o-mini", "anthropic": "claude-haiku-4-5"}
UNBROKEN = 1_000_000
QUICK = {"linger_seconds": 0.005, "backoff_seconds": 0.005, "breaker_failures": UNBROKEN}


@dataclass(frozen=True)
class Case:
    """A judge and the server that it meets.

    Attributes:
        provider: openai or anthropic.
        judge: settings that are not the usual ones.
        wire: settings of the server.
        judging: settings of the dataset.
        grades: ask for grades instead of comparisons.
    """

    provider: str
    judge: Mapping[str, object] = field(default_factory=dict[str, object])
    wire: WireSettings = field(default_factory=WireSettings)
    judging: Mapping[str, object] = field(default_factory=dict[str, object])
    grades: bool = False


@dataclass(frozen=True)
class Seen:
    """What became of a case.

    Attributes:
        rows: verdicts; empty after an error.
        error: what ended it, None for nothing.
        filed: rows of the ledger.
        received: calls that the server saw.
        paid_twice: answers billed beyond the first of each content.
        bodies: what was sent.
        headers: with which headers.
        gaps: seconds between two attempts of one call.
        evidence: the texts.
    """

    rows: pl.DataFrame
    error: AnmiError | None
    filed: int
    received: int
    paid_twice: int
    bodies: Sequence[Mapping[str, object]]
    headers: Sequence[Mapping[str, str]]
    gaps: Sequence[float]
    evidence: JudgeEvidence

    @property
    def statuses(self) -> dict[str, int]:
        """Status -> verdicts."""
        return dict(self.rows.group_by("status").len().sort("status").iter_rows())


class Listening(WireServer):
    """The server, remembering what it was sent and when."""

    def __init__(self, settings: WireSettings) -> None:
        """Remember nothing yet."""
        super().__init__(settings)
        self.bodies: list[Mapping[str, object]] = []
        self.headers_seen: list[Mapping[str, str]] = []
        self.times: dict[str, list[float]] = defaultdict(list)

    async def read(self, request: web.Request, provider: str) -> tuple[dict, web.StreamResponse | None]:
        """Read a call, and remember it."""
        body, refused = await super().read(request, provider)
        self.bodies.append(body)
        self.headers_seen.append({name.lower(): value for name, value in request.headers.items()})
        self.times[json.dumps(body, sort_keys=True)].append(time.monotonic())
        return body, refused

    @property
    def gaps(self) -> list[float]:
        """Seconds between two attempts of one call."""
        return [later - sooner for times in self.times.values() for sooner, later in pairwise(times)]


def judging_of(case: Case, server: WireServer) -> JudgingConfig:
    """The configuration of a case."""
    url = server.openai_url if case.provider == "openai" else server.url
    dispatch = QUICK | dict(case.judge.get("dispatch", {}))  # type: ignore[call-overload]
    judge = {"kind": case.provider, "name": case.provider, "model": MODELS[case.provider], "base_url": url} | dict(case.judge)
    anchors = {"anchors": {"source": {"kind": "judge", "name": case.provider}}} if case.grades else {}
    given = {"judges": [judge | {"dispatch": dispatch}], "pool_size": 6, "design": "cycles", "degree": 4, "audit_share": 0.1}
    return JudgingConfig.model_validate(given | anchors | dict(case.judging))


async def play(case: Case, turns: int = 1, server: Listening | None = None) -> Seen:
    """Ask a judge about three queries of six documents, with a new ledger.

    Args:
        case: the judge and the server.
        turns: how often, as a person who starts it again; batches end between two of them.
        server: server to go on with; default a new one.
    """
    evidence = made_evidence(3, 6)
    with tempfile.TemporaryDirectory() as folder, Books(f"sqlite:///{folder}/ledger.db") as books:
        async with server or Listening(case.wire) as wire:
            config = judging_of(case, wire)
            rows, error = pl.DataFrame(), None
            for _ in range(turns):
                try:
                    rows, error = await ask(config, case, evidence, books), None
                except AnmiError as raised:
                    error = raised
                wire.finish()
            stats = wire.stats
            return Seen(
                rows, error, books.count(), stats.received, stats.paid_twice, wire.bodies, wire.headers_seen, wire.gaps, evidence
            )


async def ask(config: JudgingConfig, case: Case, evidence: JudgeEvidence, books: Books) -> pl.DataFrame:
    """Collect the verdicts or the grades of a case."""
    money = Money(books, "wire")
    documents = pool_documents(evidence.pool, config)
    if case.grades:
        grader = build_grader(config, evidence, money=money, conf=None)
        judges = [grader] if grader is not None else []
        asked = documents.select("query_id", first_id="doc_id", second_id="doc_id", judge=pl.lit(case.provider))
        plan = PLAN.frame(asked.with_columns(round=pl.lit(1), audit=pl.lit(False)))
    else:
        judges = build_judges(config, evidence, 0, money=money)
        plan, _ = plan_comparisons(documents, config, 0)
    try:
        rows, _ = await collect_async(plan, judges, evidence, books, config)
    finally:
        for judge in judges:
            await judge.close()
    return rows


def run(case: Case, turns: int = 1, server: Listening | None = None) -> Seen:
    """`play` to its end."""
    return asyncio.run(play(case, turns, server))
