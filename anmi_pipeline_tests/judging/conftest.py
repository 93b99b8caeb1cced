"""A small judged dataset, and ledgers on both databases."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.evidence import pool_documents
from anmi_pipeline.judging.judge_configs import SimulatedJudge
from anmi_pipeline.judging.judges import JudgeEvidence
from anmi_pipeline.judging.plan import plan_comparisons
from anmi_pipeline_tests.judging.databases import postgres_folder, served_postgres
from anmi_pipeline_tests.judging.made import made_evidence


@pytest.fixture
def evidence() -> JudgeEvidence:
    return made_evidence(6, 20)


@pytest.fixture
def config() -> JudgingConfig:
    return JudgingConfig(design="cycles", judges=(SimulatedJudge(),), pool_size=12, degree=4, audit_share=0.2)


@pytest.fixture
def plan(evidence: JudgeEvidence, config: JudgingConfig) -> pl.DataFrame:
    return plan_comparisons(pool_documents(evidence.pool, config), config, 0)[0]


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A throw-away server on a socket of its own."""
    binaries = postgres_folder()
    if binaries is None:
        pytest.skip("no Postgres server binaries on this machine")
    pytest.importorskip("psycopg")
    with served_postgres(binaries) as server:
        yield server.url()


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty ledger's URL on each database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'new' / 'ledger.db'}"
        return
    import sqlalchemy as sa

    url = request.getfixturevalue("postgres_url")
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE IF EXISTS verdicts"))
    engine.dispose()
    yield url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.db'}"
