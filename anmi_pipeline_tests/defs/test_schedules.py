"""Schedules: one for every dataset with a cron, off; each tick opens an epoch named after its time."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.schedule_definition import ScheduleExecutionData

from anmi_pipeline.defs.epochs import EPOCH
from anmi_pipeline.defs.schedules import refresh_job, refresh_judgments_weekly, refresh_schedule
from anmi_pipeline.judging.refreshing import RefreshConfig
from anmi_pipeline_tests.small import write_lines, write_small

AT = datetime(2026, 10, 5, 3, 30, tzinfo=UTC)
PROGRAM = """
import json
from anmi_pipeline.definitions import defs
repository = defs.get_repository_def()
print(json.dumps({one.name: [one.cron_schedule, one.default_status.value] for one in repository.schedule_defs}))
"""


def tick(schedule: dg.ScheduleDefinition, instance: dg.DagsterInstance) -> ScheduleExecutionData:
    from anmi_pipeline.definitions import defs

    context = dg.build_schedule_context(instance=instance, scheduled_execution_time=AT, repository_def=defs.get_repository_def())
    return schedule.evaluate_tick(context)


def judged(instance: dg.DagsterInstance, dataset: str) -> None:
    instance.report_runless_asset_event(dg.AssetMaterialization(asset_key="pairwise_judgments", partition=dataset))


def test_a_tick_asks_for_a_refresh_named_after_its_date(tmp_path: Path) -> None:
    schedule = refresh_schedule("scifact", RefreshConfig(cron="30 3 * * 1", max_usd=5, max_calls=1000))
    assert (schedule.name, schedule.cron_schedule, schedule.execution_timezone) == ("refresh_scifact", "30 3 * * 1", "UTC")
    assert "for at most $5 or 1,000 calls" in (schedule.description or "")
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        early = tick(schedule, instance)
        assert not early.run_requests
        assert "never judged" in (early.skip_message or "")
        judged(instance, "scifact")
        (request,) = tick(schedule, instance).run_requests or []
    assert (request.run_key, request.partition_key, request.tags[EPOCH]) == ("2026-10-05 scifact", "scifact", "2026-10-05")


def test_several_ticks_a_day_have_the_time_in_their_names(tmp_path: Path) -> None:
    schedule = refresh_schedule("msmarco-dl19", RefreshConfig(cron="*/30 * * * *"))
    assert schedule.name == "refresh_msmarco_dl19"
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        judged(instance, "msmarco-dl19")
        (request,) = tick(schedule, instance).run_requests or []
    assert request.tags[EPOCH] == "2026-10-05T03:30"


def test_the_weekly_schedule_refreshes_what_was_judged(tmp_path: Path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        assert tick(refresh_judgments_weekly, instance).run_requests == []
        judged(instance, "scifact")
        judged(instance, "stdlib")
        requests = tick(refresh_judgments_weekly, instance).run_requests or []
    assert [(one.partition_key, one.tags[EPOCH]) for one in requests] == [("scifact", "2026-10-05"), ("stdlib", "2026-10-05")]
    assert refresh_job.name == "refresh_judgments"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The schedules of an installation of its own, loaded in a process of its own."""
    root = tmp_path_factory.mktemp("schedules")
    environment = write_small(root)
    folder: Path = root / "conf" / "datasets"
    refresh = "judging: {judges: [{kind: simulated}], refresh: {cron: '15 4 * * 2'}}"
    write_lines(folder / "own-cron.yaml", ["description: refreshed on Tuesdays", "extends: small", refresh])
    write_lines(
        folder / "silent.yaml", ["description: nobody to ask", "extends: small", refresh.replace("[{kind: simulated}]", "[]")]
    )
    write_lines(folder / "broken.yaml", ["description: a wrong field", "extends: small", "judgings: {}"])
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True, timeout=300)
    return json.loads(done.stdout.splitlines()[-1])


def test_a_dataset_with_a_cron_and_judges_has_a_schedule_that_is_off(loaded: dict[str, list[str]]) -> None:
    assert loaded == {"refresh_own_cron": ["15 4 * * 2", "STOPPED"], "refresh_judgments_weekly": ["0 3 * * 1", "STOPPED"]}
