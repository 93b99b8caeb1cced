"""A small judged dataset, and ledgers on both databases."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from anmi_pipeline.judging.config import JudgingConfig, SimulatedJudge
from anmi_pipeline.judging.evidence import pool_documents
from anmi_pipeline.judging.judges import JudgeEvidence
from anmi_pipeline.judging.plan import plan_comparisons
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


def postgres_folder() -> Path | None:
    """Where the server's binaries are, newest version first."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]), reverse=True)
    on_path = shutil.which("initdb")
    return found[0].parent if found else Path(on_path).parent if on_path else None


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A throw-away server on a socket of its own."""
    binaries = postgres_folder()
    if binaries is None:
        pytest.skip("no Postgres server binaries on this machine")
    pytest.importorskip("psycopg")
    # Not pytest's folder: the server refuses to run as root, and another user cannot enter that.
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    user = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}
    if user:
        shutil.chown(folder, "postgres", "postgres")

    def run(*command: str) -> None:
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, **user)

    try:
        run(str(binaries / "initdb"), "-D", str(folder / "data"), "-U", "anmi", "-A", "trust", "--no-sync")
        options = f"-c listen_addresses='' -c unix_socket_directories={folder}"
        control = [str(binaries / "pg_ctl"), "-D", str(folder / "data"), "-w", "-l", str(folder / "log")]
        run(*control, "-o", options, "start")
        try:
            yield f"postgresql+psycopg://anmi@/postgres?host={folder}"
        finally:
            run(*control, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


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
