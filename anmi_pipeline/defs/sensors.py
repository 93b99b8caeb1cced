"""What runs because something happened elsewhere: batches have ended, the Elo table has moved, click logs have come.

Belongs here: the sensors, all off until somebody switches them on. Does not: what they look at (`judging/pending.py`,
`catalog/refreshing.py`, `judging/click_logs.py`). Each launches over the whole asset graph with a selection: a run built from a
part of it would record wrong input versions.
"""

import asyncio
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import cast

import dagster as dg
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from anmi_pipeline.catalog.datasets import DatasetConfig, load_dataset
from anmi_pipeline.catalog.refreshing import Movement, movements, trained_table
from anmi_pipeline.defs.declaring import PENDING
from anmi_pipeline.defs.launch import AFTER, SYSTEM
from anmi_pipeline.defs.partitions import DATASETS
from anmi_pipeline.digests import digest_bytes
from anmi_pipeline.errors import AnmiError, InputError
from anmi_pipeline.judging.click_logs import new_logs
from anmi_pipeline.judging.epochs import JUDGED, RATED, EpochBook
from anmi_pipeline.judging.judge_configs import ApiJudgeConfig
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.judging.pending import OpenBatch, open_batches, waiting
from anmi_pipeline.records import Records
from anmi_pipeline.settings import Settings
from anmi_pipeline.store import Store

FROM_JUDGMENTS = (JUDGED, "pairwise_judge", "judge_report", "comparison_graph", RATED)
FROM_CLICKS = ("comparison_graph", RATED)
RUNS_LOOKED_AT = 50
"""Newest runs of a dataset among which the last one that judged is looked for."""
MINUTES_5 = 300
RELAUNCHES = 3
"""Runs for the same batches that may be lost to kills before a person is asked to look."""
SIGNALLED = frozenset({KeyboardInterrupt.__name__, DagsterExecutionInterruptedError.__name__})
PARTITION_TAG, SENSOR_TAG = "dagster/partition", "dagster/sensor_name"
Requests = list[dg.RunRequest]


def here() -> tuple[Settings, Records]:
    """The installation, read anew at every tick."""
    settings = Settings.from_environment(os.environ)
    return settings, Records(Store(settings.store_url))


def datasets(settings: Settings, context: dg.SensorEvaluationContext) -> Iterator[DatasetConfig]:
    """Every dataset whose YAML can be read; of the others the log says why not."""
    for name in DATASETS.get_partition_keys():
        try:
            yield load_dataset(name, settings.conf)
        except AnmiError as error:
            context.log.warning(f"dataset {name} is left out: {error}")


def keys(assets: Sequence[str]) -> list[dg.AssetKey]:
    """Asset keys of names."""
    return [dg.AssetKey(name) for name in assets]


@dg.sensor(asset_selection=dg.AssetSelection.all(), minimum_interval_seconds=MINUTES_5)
def batch_ready(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Judges a dataset on when all batches that its last run left at a provider have ended."""
    settings, _ = here()
    requests: Requests = []
    reasons: list[str] = []
    paid = [dataset for dataset in datasets(settings, context) if dataset.judging.uses_api]
    for dataset, batches in left_open(paid, settings):
        request, reason = relaunch(context.instance, dataset, batches)
        requests += [request] if request is not None else []
        reasons.append(f"{dataset.name}: {reason}")
    skip = dg.SkipReason("; ".join(reasons) or "no batch is open") if not requests else None
    return dg.SensorResult(run_requests=requests, skip_reason=skip)


def left_open(paid: Sequence[DatasetConfig], settings: Settings) -> list[tuple[DatasetConfig, list[OpenBatch]]]:
    """The datasets that have open batches, with these."""
    if not paid:
        return []
    with Books(settings.ledger_url) as books:
        scopes = {one.name: [one.name, *(epoch.scope for epoch in EpochBook(books, one.name).all())] for one in paid}
        found = [(one, open_batches(books, scopes[one.name])) for one in paid]
    return [(dataset, batches) for dataset, batches in found if batches]


def relaunch(
    instance: dg.DagsterInstance, dataset: DatasetConfig, batches: Sequence[OpenBatch]
) -> tuple[dg.RunRequest | None, str]:
    """The run that collects a dataset's batches, when it is time; and in words why, or why not."""
    pending = pending_run(instance, dataset.name)
    if pending is None:
        return None, "its last run does not wait for batches, or is under way"
    if pending.lost >= RELAUNCHES:
        return (
            None,
            f"{pending.lost} runs for these batches ended before they had judged; look why, and start the next one yourself",
        )
    judges = [judge for judge in dataset.judging.judges if isinstance(judge, ApiJudgeConfig)]
    state = asyncio.run(waiting(batches, judges))
    if not state.ready:
        return None, state.said()
    # One launch after each run: two ticks, or two daemons, ask for the same. Named after the last run, not after the one that
    # waits: a launch that died with its machine must not be the last.
    key = f"{dataset.name} {state.name} {pending.last.run_id[:8]}"
    return dg.RunRequest(run_key=key, partition_key=dataset.name, asset_selection=keys(FROM_JUDGMENTS)), state.said()


@dataclass(frozen=True)
class Pending:
    """A dataset that waits for batches.

    Attributes:
        last: its last run, of whatever assets.
        lost: runs that were launched for these batches and ended before they had judged: a kill, the UI stopped.
    """

    last: dg.DagsterRun
    lost: int


def pending_run(instance: dg.DagsterInstance, dataset: str) -> Pending | None:
    """Whether the last run that judged a dataset ended because batches are on their way; None while another is under way."""
    runs = instance.get_runs(dg.RunsFilter(tags={PARTITION_TAG: dataset}), limit=RUNS_LOOKED_AT)
    lost = 0
    for run in runs:
        if run.status in NOT_FINISHED_STATUSES:
            return None
        event, own = judging_end(instance, run), run.tags.get(SENSOR_TAG) == batch_ready.name
        if own and (event is None or was_interrupted(event)):
            if was_terminated(instance, run):
                return None
            lost += 1
        elif event is not None:
            return Pending(runs[0], lost) if event.is_step_failure and kind_of(event) == PENDING else None
    return None


def judging_end(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterEvent | None:
    """How the judging of a run ended; None where it did not come to that."""
    step = dg.AssetKey(JUDGED).to_python_identifier()
    ends = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.STEP_SUCCESS}
    events = (entry.dagster_event for entry in instance.all_logs(run.run_id, of_type=ends))
    return next((event for event in events if event is not None and event.step_key == step), None)


def was_interrupted(event: dg.DagsterEvent) -> bool:
    """Whether a signal ended a step."""
    error = event.step_failure_data.error if event.is_step_failure else None
    return error is not None and error.cls_name in SIGNALLED


def was_terminated(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether a person terminated a run: stopping the UI, which also ends its runs, leaves no such request."""
    return bool(instance.all_logs(run.run_id, of_type=dg.DagsterEventType.PIPELINE_CANCELING))


def kind_of(event: dg.DagsterEvent) -> str | None:
    """Kind of a step's failure, as our steps write it into its metadata."""
    data = event.step_failure_data.user_failure_data
    kind = data.metadata.get("kind") if data is not None else None
    return None if kind is None else str(kind.value)


@dataclass(frozen=True)
class Seen:
    """What `elo_moved` remembers of a dataset.

    Attributes:
        elo: digest of the Elo table that it last decided about.
        training: recipes that it launched and that are not through yet.
    """

    elo: str
    training: tuple[str, ...] = ()


@dg.sensor(asset_selection=dg.AssetSelection.all(), minimum_interval_seconds=60)
def elo_moved(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Trains a dataset's recipes again when its Elo table has moved enough from the one they were trained on, then its board."""
    settings, records = here()
    seen = read_cursor(context.cursor)
    requests: Requests = []
    reasons: list[str] = []
    for dataset in datasets(settings, context):
        elo = records.current(RATED, dataset.name)
        if elo is None:
            continue
        known = seen.get(dataset.name, Seen(""))
        if known.elo != elo.digest:
            found = movements(dataset, records)
            launched = [one for one in found if one.retrain]
            requests += [training(dataset.name, one) for one in launched]
            reasons += [f"{dataset.name}|{one.recipe}: {one.reason}" for one in found if not one.retrain]
            seen[dataset.name] = Seen(elo.digest, tuple(one.recipe for one in launched))
        elif known.training and through(records, dataset.name, known):
            requests.append(board(dataset.name, elo.digest))
            seen[dataset.name] = Seen(elo.digest)
    skip = dg.SkipReason("; ".join(reasons) or "no Elo table has changed under a trained system") if not requests else None
    cursor = json.dumps({name: asdict(one) for name, one in sorted(seen.items())})
    return dg.SensorResult(run_requests=requests, skip_reason=skip, cursor=cursor)


def read_cursor(cursor: str | None) -> dict[str, Seen]:
    """What a cursor remembers."""
    stored = cast("dict[str, dict[str, object]]", json.loads(cursor or "{}"))
    return {name: Seen(str(one["elo"]), tuple(cast("list[str]", one["training"]))) for name, one in stored.items()}


def training(dataset: str, moved: Movement) -> dg.RunRequest:
    """The run that trains and scores a system again."""
    return dg.RunRequest(
        run_key=f"{dataset}|{moved.recipe} {moved.trained_on[:16]} -> {moved.now[:16]}",
        partition_key=dg.MultiPartitionKey({"dataset": dataset, "recipe": moved.recipe}),
        asset_selection=keys(SYSTEM),
        tags={"anmi/reason": moved.reason[:200]},
    )


def through(records: Records, dataset: str, seen: Seen) -> bool:
    """Whether the systems that were launched have come to their last asset on the new Elo table."""
    return all(trained_table(records, f"{dataset}|{recipe}", SYSTEM[-1]) == seen.elo for recipe in seen.training)


def board(dataset: str, elo: str) -> dg.RunRequest:
    """The run that compares the systems anew."""
    return dg.RunRequest(run_key=f"{dataset} board {elo[:32]}", partition_key=dataset, asset_selection=keys(AFTER))


@dg.sensor(asset_selection=dg.AssetSelection.all(), minimum_interval_seconds=60)
def click_logs(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Rates a dataset again when click log files have come or grown. No judge is asked."""
    settings, records = here()
    seen = cast("dict[str, str]", json.loads(context.cursor or "{}"))
    requests: Requests = []
    reasons: list[str] = []
    for dataset in datasets(settings, context):
        # What comes before the first verdict is found by the first run.
        if dataset.judging.clicks is None or records.current(JUDGED, dataset.name) is None:
            continue
        try:
            files, cursor = new_logs(dataset.judging.clicks, settings.data, seen.get(dataset.name))
        except InputError as error:
            reasons.append(f"{dataset.name}: {error}")
            continue
        seen[dataset.name] = cursor
        if files:
            key = f"{dataset.name} {digest_bytes(cursor.encode())[:32]}"
            requests.append(dg.RunRequest(run_key=key, partition_key=dataset.name, asset_selection=keys(FROM_CLICKS)))
    skip = dg.SkipReason("; ".join(reasons) or "no new click logs") if not requests else None
    return dg.SensorResult(run_requests=requests, skip_reason=skip, cursor=json.dumps(seen, sort_keys=True))
