"""A made-up dataset asked through judges behind an API: the process that scripts kill and race, and what its ledger holds.

Belongs here: the job of such a process, starting it, reading a ledger from outside. Does not: a claim. Run as a script it does
one job (JSON, its only argument): it says `ready`, waits for a line, collects every verdict - looking again while batches are on
their way - and says what came of it as one line of JSON.
"""

import dataclasses
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import sqlalchemy as sa
from harness import REPOSITORY

sys.path.insert(0, str(REPOSITORY))

from anmi_pipeline.digests import digest_table
from anmi_pipeline.judging.batches import BatchPending
from anmi_pipeline.judging.budget import CapReached
from anmi_pipeline.judging.cascade import Desk
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.evidence import pool_documents
from anmi_pipeline.judging.judges import JudgeEvidence
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.judging.money import Money
from anmi_pipeline.judging.panel import build_judges
from anmi_pipeline.judging.plan import plan_comparisons
from anmi_pipeline.judging.round_plans import plan_first
from anmi_pipeline.judging.rounds import Rounds, collect_plan, collect_rounds
from anmi_pipeline.judging.study import open_study
from anmi_pipeline.rating.comparisons import fold_judgments
from anmi_pipeline.rating.config import RatingConfig
from anmi_pipeline.rating.elo import rate
from anmi_pipeline.tables import ELO, JUDGMENTS
from anmi_pipeline_tests.judging.made import made_evidence
from anmi_pipeline_tests.judging.wire_clients import PLANTED, VARIABLE

LOOK_AGAIN = 0.05
Row = tuple[object, ...]


@dataclass(frozen=True)
class Job:
    """What one process asks.

    Attributes:
        ledger: URL of the ledger.
        judging: the judging configuration.
        queries: of the made-up dataset.
        documents: of each query's pool, and of the corpus.
        part: of the calls of a plan this process asks those whose number leaves this rest ...
        parts: ... when divided by this; 1 for all. Not for an adaptive design.
    """

    ledger: str
    judging: Mapping[str, object]
    queries: int = 6
    documents: int = 12
    part: int = 0
    parts: int = 1

    def start(self) -> "subprocess.Popen[str]":
        """Start a process that does it, and wait until it is ready; `go` lets it begin."""
        command = [sys.executable, str(Path(__file__).resolve()), json.dumps(dataclasses.asdict(self))]
        keys = {VARIABLE[provider]: PLANTED[provider] for provider in VARIABLE}
        process = subprocess.Popen(
            command, env=os.environ | keys, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"the process ended with {process.wait()} before it was ready")
        return process


def go(process: "subprocess.Popen[str]") -> None:
    """Let a process that is ready begin."""
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def outcome(process: "subprocess.Popen[str]") -> dict[str, object]:
    """What a process says at its end."""
    said, _ = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"the process ended with {process.returncode}: {said[-2000:]}")
    return json.loads(said.splitlines()[-1])


def do(job: Job) -> dict[str, object]:
    """Collect, rate, say what came of it."""
    config, rating = JudgingConfig.model_validate(job.judging), RatingConfig(prior="zero")
    evidence = made_evidence(job.queries, job.documents)
    for kind in {judge.kind for judge in config.judges}:
        importlib.import_module(kind)  # takes a second, in which nothing happens that a kill could spoil
    with Books(job.ledger) as books:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        started = time.monotonic()
        while True:
            try:
                done = collected(job, config, rating, evidence, books)
            except BatchPending:
                time.sleep(LOOK_AGAIN)
                continue
            except CapReached as error:
                return {"ended": "cap", "said": str(error)}
            finally:
                seconds = time.monotonic() - started
            documents = pool_documents(evidence.pool, config).select("query_id", "doc_id")
            elo, _ = rate(fold_judgments(done.judgments, config.weights), documents, rating)
            return {
                "ended": "done", "elo_table": digest_table(elo, ELO), "judgments": digest_table(done.judgments, JUDGMENTS),
                "asked": done.report.asked, "failed": done.report.failed, "rows": done.judgments.height, "seconds": seconds,
            }  # fmt: skip


def collected(job: Job, config: JudgingConfig, rating: RatingConfig, evidence: JudgeEvidence, books: Books) -> Rounds:
    """Ask, as the pipeline does; judges are built anew each time, as by another run."""
    money = Money(books, "made", config.max_usd, config.max_calls)
    judges = build_judges(config, evidence, 0, money=money)
    desk = Desk(judges, evidence, books, config, rating, 0, money=money)
    if config.adaptive:
        study = open_study("made", config, rating, 0, evidence.pool, {})
        return collect_rounds(plan_first(study)[0], desk, study)
    plan, _ = plan_comparisons(pool_documents(evidence.pool, config), config, 0)
    mine = plan.with_row_index("number").filter(pl.col("number") % job.parts == job.part).drop("number")
    return collect_plan(mine, desk, pl.DataFrame())


def rows_of(ledger: str, table: str, order: str) -> list[dict[str, object]]:
    """Rows of a table of a ledger that another process may be writing, or have died writing."""
    engine = sa.create_engine(ledger)
    try:
        with engine.connect() as connection:
            return [dict(row) for row in connection.execute(sa.text(f"SELECT * FROM {table} ORDER BY {order}")).mappings()]
    finally:
        engine.dispose()


def main(argument: str) -> None:
    """Do one job."""
    sys.stdout.write(json.dumps(do(Job(**json.loads(argument)))) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
