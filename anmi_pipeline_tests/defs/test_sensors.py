"""Sensors, evaluated without a daemon: they launch once when it is time, and say why when it is not."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from dagster._core.definitions.sensor_definition import SensorExecutionData

from anmi_pipeline import tables
from anmi_pipeline.defs.declaring import PENDING
from anmi_pipeline.defs.launch import AFTER, SYSTEM
from anmi_pipeline.defs.sensors import FROM_CLICKS, FROM_JUDGMENTS, RELAUNCHES, batch_ready, click_logs, elo_moved
from anmi_pipeline.judging.budget import Budget
from anmi_pipeline.judging.intents import IntentBook
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.records import Record, Records, Upstream
from anmi_pipeline.settings import Settings
from anmi_pipeline.store import Content, Store, Table
from anmi_pipeline_tests.judging.wire_answers import WireSettings
from anmi_pipeline_tests.judging.wire_clients import PLANTED, call, client_of
from anmi_pipeline_tests.judging.wire_server import WireServer, serving
from anmi_pipeline_tests.rating.test_drift import elo
from anmi_pipeline_tests.small import write_lines, write_small

NAME = "stdlib"
"""Of a shipped dataset, which this installation's own file stands above: partitions are read when the definitions load."""
AT = datetime(2026, 10, 5, tzinfo=UTC)
LAUNCHED = {"dagster/sensor_name": "batch_ready"}
"""Tag that the daemon gives to what the sensor launches."""


@pytest.fixture(scope="module")
def repository() -> dg.RepositoryDefinition:
    from anmi_pipeline.definitions import defs

    return defs.get_repository_def()


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    environment = write_small(tmp_path, NAME)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OPENAI_API_KEY", PLANTED["openai"])
    return Settings.from_environment(environment)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def describe(settings: Settings, *judging: str) -> None:
    """Write the dataset's file anew."""
    assert settings.conf is not None
    lines = ["description: made", "source: {reader: beir, path: small}", "recipes: [bm25, minilm, anmi]", "judging:"]
    write_lines(settings.conf / "datasets" / f"{NAME}.yaml", [*lines, *(f"  {line}" for line in judging)])


def tick(
    sensor: dg.SensorDefinition, instance: dg.DagsterInstance, repository: dg.RepositoryDefinition, cursor: str | None = None
) -> SensorExecutionData:
    context = dg.build_sensor_context(instance=instance, repository_def=repository, cursor=cursor)
    return sensor.evaluate_tick(context)


def assets(request: dg.RunRequest) -> list[str]:
    return [key.to_user_string() for key in request.asset_selection or ()]


def file(records: Records, asset: str, partition: str, content: Content, upstream: Mapping[str, Record] | None = None) -> Record:
    """Store content, record what it was made of, and make it current."""
    artifact = records.store.put(asset, content)
    parents = {
        name: Upstream(digest=one.digest, object=one.digest, build_key=one.build_key, partition=one.partition)
        for name, one in (upstream or {}).items()
    }
    key = artifact.digest[:32] + "".join(sorted(one.digest[:8] for one in parents.values()))
    record = Record(
        asset=asset, partition=partition, build_key=key, digest=artifact.digest, code_version=1,
        config={"judging": {"epoch": "1"}}, seeds=(), upstream=parents, rows=artifact.rows, notes={}, environment={},
        dagster_run=None, mlflow_run=None, seconds=0.0, created_at="2026-01-01T00:00:00Z",
    )  # fmt: skip
    records.write(record)
    records.point(partition, record)
    return record


# -- batch_ready


def run_that_waits(instance: dg.DagsterInstance, kind: str | None = PENDING, tags: Mapping[str, str] | None = None) -> None:
    """A run that ends as one does whose batches are on their way; None: it ends well; "signal": it is stopped."""

    @dg.asset(partitions_def=dg.StaticPartitionsDefinition([NAME]))
    def pairwise_judgments() -> None:
        if kind == "signal":
            raise KeyboardInterrupt("stopped; every answer that came is kept")
        if kind is not None:
            raise dg.Failure("batch pending: 1 batch", metadata={"kind": kind}, allow_retries=False)

    dg.materialize([pairwise_judgments], instance=instance, partition_key=NAME, raise_on_error=False, tags=dict(tags or {}))


def killed_run(instance: dg.DagsterInstance, repository: dg.RepositoryDefinition, tags: Mapping[str, str] = LAUNCHED) -> None:
    """A run that died with its process and was ended by the next start, as `heal` does."""
    job = repository.get_implicit_global_asset_job_def()
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags={"dagster/partition": NAME, **tags})
    instance.report_run_failed(run, "its process was killed")


def leave_batch(settings: Settings, server: WireServer, scope: str = NAME) -> None:
    """Submit a batch and note it, as a run does."""

    async def submit() -> str:
        client = client_of("openai", server)
        try:
            return (await client.submit([call(client)], "token")).id
        finally:
            await client.close()

    with Books(settings.ledger_url) as books:
        book = IntentBook(Budget(books, scope), f"gpt: gpt-4o-mini at {server.openai_url} (pairwise)")
        intent = book.write([("key", 1)], 0, AT)
        assert intent is not None
        book.accepted(intent, asyncio.run(submit()), AT)


def judged_by_batches(settings: Settings, server: WireServer) -> None:
    judge = {"kind": "openai", "name": "gpt", "model": "gpt-4o-mini", "base_url": server.openai_url, "batch": {}}
    describe(settings, f"judges: [{json.dumps(judge)}]")


def test_batches_that_have_ended_launch_the_judgments_once(installation, instance, repository):
    with serving(WireSettings(batch_s=3600)) as server:
        judged_by_batches(installation, server)
        assert tick(batch_ready, instance, repository).skip_message == "no batch is open"
        leave_batch(installation, server)
        run_that_waits(instance)
        waits = tick(batch_ready, instance, repository)
        assert not waits.run_requests
        assert waits.skip_message == f"{NAME}: 0 over, 1 running, 0 not confirmed"
        server.finish()
        (request,) = tick(batch_ready, instance, repository).run_requests
        assert (request.partition_key, assets(request)) == (NAME, list(FROM_JUDGMENTS))
        assert tick(batch_ready, instance, repository).run_requests[0].run_key == request.run_key
        assert request.job_name == "__ASSET_JOB"


@pytest.mark.parametrize("kind", ["input", None])
def test_a_run_that_did_not_wait_for_batches_is_not_launched_again(installation, instance, repository, kind):
    with serving() as server:
        judged_by_batches(installation, server)
        leave_batch(installation, server)
        run_that_waits(instance)
        run_that_waits(instance, kind)
        assert "does not wait" in tick(batch_ready, instance, repository).skip_message


def test_a_run_under_way_is_left_alone(installation, instance, repository):
    with serving() as server:
        judged_by_batches(installation, server)
        leave_batch(installation, server)
        run_that_waits(instance)
        assert tick(batch_ready, instance, repository).run_requests
        job = repository.get_implicit_global_asset_job_def()
        instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags={"dagster/partition": NAME})
        assert "under way" in tick(batch_ready, instance, repository).skip_message


@pytest.fixture
def waiting(installation, instance) -> Iterator[dg.DagsterInstance]:
    """The instance of a dataset whose batches have ended and are not collected."""
    with serving() as server:
        judged_by_batches(installation, server)
        leave_batch(installation, server)
        run_that_waits(instance)
        yield instance


def test_a_launch_that_died_with_its_process_is_not_the_last(waiting, repository):
    keys = [tick(batch_ready, waiting, repository).run_requests[0].run_key]
    for _ in range(RELAUNCHES - 1):
        killed_run(waiting, repository)
        keys.append(tick(batch_ready, waiting, repository).run_requests[0].run_key)
    assert len(set(keys)) == RELAUNCHES, "the daemon launches each key once"
    killed_run(waiting, repository)
    assert f"{RELAUNCHES} runs for these batches ended" in tick(batch_ready, waiting, repository).skip_message


def test_a_launch_that_a_stopping_ui_ended_is_repeated_and_one_that_a_person_terminated_is_not(waiting, repository):
    run_that_waits(waiting, "signal", LAUNCHED)
    assert tick(batch_ready, waiting, repository).run_requests
    (run,) = waiting.get_runs(dg.RunsFilter(tags=LAUNCHED))
    waiting.report_run_canceling(run)
    waiting.report_run_canceled(run)
    assert "does not wait" in tick(batch_ready, waiting, repository).skip_message


def test_a_persons_run_that_was_stopped_is_left_to_that_person(waiting, repository):
    run_that_waits(waiting, "signal")
    assert "does not wait" in tick(batch_ready, waiting, repository).skip_message


def test_without_a_key_nothing_is_launched_and_the_variable_is_named(installation, instance, repository, monkeypatch):
    with serving() as server:
        judged_by_batches(installation, server)
        leave_batch(installation, server)
        run_that_waits(instance)
        monkeypatch.delenv("OPENAI_API_KEY")
        said = tick(batch_ready, instance, repository).skip_message
        assert "OPENAI_API_KEY" in said
        assert PLANTED["openai"] not in said


def test_without_judges_behind_apis_no_ledger_is_made(installation, instance, repository):
    tick(batch_ready, instance, repository)
    assert not (installation.home / "ledger.db").exists()


# -- elo_moved


def scores(top: float) -> pl.DataFrame:
    """An Elo table of ten documents, the last of which may rise to the top."""
    return elo({f"d{place}": 1900.0 - 80 * place for place in range(9)} | {"d9": top})


def trained(records: Records, recipe: str, table: Record, last: str = SYSTEM[-1]) -> None:
    """A system that was trained on a table."""
    system = f"{NAME}|{recipe}"
    before = table
    for asset in ("training_set", "checkpoint", last):
        name = before.asset
        before = file(records, asset, system, Content(facts={"recipe": recipe, "elo": table.digest}), {name: before})


def rated(records: Records, top: float) -> Record:
    return file(records, "elo_table", NAME, Content((Table.whole(tables.ELO, scores(top)),)))


def moved(installation: Settings, above: float = 0.05) -> Records:
    describe(installation, "judges: [{kind: simulated}]", f"refresh: {{retrain_above: {above}}}")
    records = Records(Store(installation.store_url))
    trained(records, "minilm", rated(records, 1100.0))
    file(records, "checkpoint", f"{NAME}|bm25", Content(facts={"kind": "untrained"}))
    return records


def test_a_table_that_moved_trains_its_systems_and_then_makes_the_board(installation, instance, repository):
    records = moved(installation)
    first = tick(elo_moved, instance, repository)
    assert (first.run_requests or [], first.skip_message) == ([], "no Elo table has changed under a trained system")
    table = rated(records, 2400.0)
    second = tick(elo_moved, instance, repository, first.cursor)
    (request,) = second.run_requests
    assert request.partition_key == f"{NAME}|minilm"
    assert assets(request) == list(SYSTEM)
    assert "above 0.05" in request.tags["anmi/reason"]
    third = tick(elo_moved, instance, repository, second.cursor)
    assert not third.run_requests
    trained(records, "minilm", table)
    (board,) = tick(elo_moved, instance, repository, third.cursor).run_requests
    assert (board.partition_key, assets(board)) == (NAME, list(AFTER))


def test_a_table_that_hardly_moved_trains_nothing_and_says_by_how_much(installation, instance, repository):
    records = moved(installation)
    first = tick(elo_moved, instance, repository)
    rated(records, 1120.0)
    second = tick(elo_moved, instance, repository, first.cursor)
    assert not second.run_requests
    assert second.skip_message.startswith(f"{NAME}|minilm: the Elo table moved by 0.0")
    assert "not above 0.05" in second.skip_message
    assert "has changed" in tick(elo_moved, instance, repository, second.cursor).skip_message


def test_small_moves_add_up_because_each_is_measured_from_what_was_trained_on(installation, instance, repository):
    records, cursor, launched = moved(installation, above=0.1), None, []
    for top in range(1100, 2500, 100):
        rated(records, float(top))
        result = tick(elo_moved, instance, repository, cursor)
        cursor = result.cursor
        launched += [top] if result.run_requests else []
    assert launched
    assert launched[0] > 1200


def test_new_queries_train_too(installation, instance, repository):
    records = moved(installation)
    first = tick(elo_moved, instance, repository)
    more = pl.concat([scores(1100.0), elo({"a": 1600.0, "b": 1400.0}, "new")])
    file(records, "elo_table", NAME, Content((Table.whole(tables.ELO, tables.ELO.frame(more)),)))
    (request,) = tick(elo_moved, instance, repository, first.cursor).run_requests
    assert "50.0% of the queries are new" in request.tags["anmi/reason"]


# -- click_logs


def test_new_click_logs_rate_the_dataset_again_once(installation, instance, repository):
    assert installation.data is not None
    folder = installation.data / "clicks"
    folder.mkdir()
    describe(installation, "judges: [{kind: simulated}]", "clicks: {path: clicks/*.jsonl}")
    records = Records(Store(installation.store_url))
    write_lines(folder / "one.jsonl", ["{}"])
    early = tick(click_logs, instance, repository)
    assert not early.run_requests, "nothing is judged yet"
    file(records, "pairwise_judgments", NAME, Content(facts={"judged": True}))
    first = tick(click_logs, instance, repository, early.cursor)
    (request,) = first.run_requests
    assert (request.partition_key, assets(request)) == (NAME, list(FROM_CLICKS))
    second = tick(click_logs, instance, repository, first.cursor)
    assert (second.run_requests or [], second.skip_message) == ([], "no new click logs")
    write_lines(folder / "two.jsonl", ["{}", "{}"])
    (again,) = tick(click_logs, instance, repository, second.cursor).run_requests
    assert again.run_key != request.run_key


def test_a_folder_of_logs_that_is_not_there_is_said(installation, instance, repository):
    describe(installation, "judges: [{kind: simulated}]", "clicks: {path: nowhere/*.jsonl}")
    file(Records(Store(installation.store_url)), "pairwise_judgments", NAME, Content(facts={"judged": True}))
    assert "nowhere" in tick(click_logs, instance, repository).skip_message


def test_all_sensors_are_off_until_a_person_switches_them_on(repository):
    found = {one.name: one.default_status for one in repository.sensor_defs}
    assert set(found) == {"batch_ready", "build_on_changed_content", "click_logs", "elo_moved"}
    assert set(found.values()) == {dg.DefaultSensorStatus.STOPPED}
