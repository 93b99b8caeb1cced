"""DuckDB over the current artifacts: one view per stored table.

Belongs here: naming and making the views. Does not: printing. A view unites the partitions of an asset's current refs, with the
partition as a column: `elo_table` for a table named like its asset or alone in it, `leaderboard_per_query` for the others.
"""

from typing import TYPE_CHECKING, cast

import polars as pl

from anmi_pipeline.errors import InputError
from anmi_pipeline.records import Records
from anmi_pipeline.store import Artifact, is_local

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


def query(records: Records, statement: str) -> pl.DataFrame:
    """Answer one SQL statement over the current artifacts.

    Raises:
        InputError: DuckDB refuses the statement; its message says where.
    """
    import duckdb

    with duckdb.connect() as connection:
        create_views(connection, records)
        try:
            return cast("pl.DataFrame", pl.from_arrow(connection.sql(f"from ({statement.strip().rstrip(';')})").to_arrow_table()))
        except (duckdb.Error, pl.exceptions.DuplicateError) as error:
            raise InputError(f"the statement fails: {str(error).strip()}. `select * from tables` lists the views.") from error


def create_views(connection: "DuckDBPyConnection", records: Records) -> None:
    """Make one view per table, and `tables`, which lists them."""
    files = table_files(records)
    for name, places in sorted(files.items()):
        parts = [
            f"select {quoted(partition)} as partition, * from read_parquet([{', '.join(quoted(path) for path in paths)}])"
            for partition, paths in places
        ]
        connection.execute(f'create view "{name}" as {" union all by name ".join(parts)}')
    listed = [f"({quoted(name)}, {len(places)})" for name, places in sorted(files.items())] or ["('', 0)"]
    connection.execute(f"create view tables as select * from (values {', '.join(listed)}) as t(name, partitions)")
    if not is_local(records.root):
        connection.register_filesystem(records.root.fs)


def table_files(records: Records) -> dict[str, list[tuple[str, list[str]]]]:
    """View name -> (partition, parquet files) of every current artifact with rows of that table."""
    files: dict[str, list[tuple[str, list[str]]]] = {}
    for asset, partition in records.refs():
        record = records.current(asset, partition)
        if record is None:
            continue
        artifact = records.store.get(asset, record.digest)
        for table in artifact.rows:
            name = asset if table == asset or len(artifact.rows) == 1 else f"{asset}_{table}"
            files.setdefault(name, []).append((partition, part_paths(artifact, table)))
    return files


def part_paths(artifact: Artifact, table: str) -> list[str]:
    """Files of one stored table."""
    stored = cast("dict[str, dict[str, dict[str, str]]]", artifact.manifest["tables"])
    return [str(artifact.path / part["file"]) for part in stored[table].values()]


def quoted(text: str) -> str:
    """A SQL text literal."""
    return "'" + text.replace("'", "''") + "'"
