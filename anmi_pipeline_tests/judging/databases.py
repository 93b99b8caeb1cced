"""A throw-away Postgres server for tests and acceptance scripts.

Belongs here: starting and ending it. Does not: fixtures (`conftest.py`) and what is stored in it.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Postgres:
    """A running server on a socket of its own."""

    folder: Path

    def url(self, database: str = "postgres") -> str:
        """SQLAlchemy URL of one of its databases."""
        return f"postgresql+psycopg://anmi@/{database}?host={self.folder}"

    def fresh(self, database: str) -> str:
        """Create an empty database; its URL."""
        import psycopg

        with psycopg.connect(f"host={self.folder} user=anmi dbname=postgres", autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{database}"')
        return self.url(database)


def postgres_folder() -> Path | None:
    """Where the server's binaries are, newest version first; None where there are none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]), reverse=True)
    on_path = shutil.which("initdb")
    return found[0].parent if found else Path(on_path).parent if on_path else None


@contextmanager
def served_postgres(binaries: Path) -> Generator[Postgres]:
    """Serve from the system's binaries; everything of it is deleted at the end."""
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
            yield Postgres(folder)
        finally:
            run(*control, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)
