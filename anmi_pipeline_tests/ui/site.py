"""One installation under test: its folders, its servers, what they say over GraphQL."""

import json
import os
import queue
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from anmi_pipeline_tests.ui.collection import write_collection

Value = TypeVar("Value")

BUILT, UNBUILT = "pebbles", "gravel"
"""The dataset whose pipeline has run, and one that nobody has touched."""
RECIPE = "quick"
SYSTEM = f"{BUILT}|{RECIPE}"
COMMAND = (sys.executable, "-c", "from anmi_pipeline.cli import main; main()")
DATASET = """
description: made-up words
source: {{reader: beir, path: {name}}}
retrieval: {{dense: {{encoder: {{max_tokens: 32}}}}, pool: {{depth: 40}}, lexical: {{depth: 40}}}}
rating: {{prior: zero}}
judging: {{design: cycles, pool_size: 10, degree: 4, audit_share: 0.2, judges: [{{kind: simulated, name: simulated}}]}}
evaluation: {{query_sets: [dev_final, test, dev_final+test], depth: 40, bootstrap_samples: 200}}
tuning: {{fusions: [none], pool_sizes: [10]}}
recipes: [bm25, {recipe}]
"""
RECIPE_FILE = """
description: a few steps of ANMI
extends: anmi
training: {steps: 6, batch_queries: 8, list_size: 4}
seeds: [0]
"""
UP_SECONDS, RUN_SECONDS, STOP_SECONDS = 240.0, 240.0, 60.0


@dataclass
class Site:
    """Folders, environment and addresses of the installation."""

    home: Path
    environment: dict[str, str]
    dagster_url: str
    mlflow_url: str

    def graphql(self, query: str, **variables: object) -> Any:
        """Ask Dagster's GraphQL."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.dagster_url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    def materialization(self, asset: str, partition: str) -> Any:
        """The newest materialisation of a partition: run id, time, metadata by label, tags by key; None without one."""
        query = """
        query($key: AssetKeyInput!, $partitions: [String!]) {
          assetOrError(assetKey: $key) { ... on Asset { assetMaterializations(partitions: $partitions, limit: 1) {
            runId timestamp tags { key value } metadataEntries {
              label ... on TextMetadataEntry { text } ... on UrlMetadataEntry { url } ... on BoolMetadataEntry { boolValue }
              ... on MarkdownMetadataEntry { mdStr } ... on PipelineRunMetadataEntry { linkedRunId: runId }
          } } } } }"""
        found = self.graphql(query, key={"path": [asset]}, partitions=[partition])["assetOrError"].get("assetMaterializations")
        if not found:
            return None
        event = found[0]
        entries = {
            entry["label"]: next((value for name, value in entry.items() if name not in ("label", "__typename")), None)
            for entry in event["metadataEntries"]
        }
        return {
            "run": event["runId"],
            "time": event["timestamp"],
            "metadata": entries,
            "tags": {tag["key"]: tag["value"] for tag in event["tags"]},
        }

    def ended(self, run_id: str) -> str:
        """How a run ended; "" while it has not."""
        query = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
        status = self.graphql(query, id=run_id)["runOrError"]["status"]
        return status if status in ("SUCCESS", "FAILURE", "CANCELED") else ""

    def failed(self) -> list[str]:
        """Ids of the runs that failed: none ever should."""
        query = "{ runsOrError(filter: {statuses: [FAILURE]}) { ... on Runs { results { runId } } } }"
        return [run["runId"] for run in self.graphql(query)["runsOrError"]["results"]]


def wait_for(get: Callable[[], Value], what: str, seconds: float) -> Value:
    """The first true value of `get` before a deadline."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not (value := get()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        pause.wait(0.3)
    return value


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def make_site(root: Path) -> Site:
    """Write the two datasets and the recipe, and build one dataset with the command line."""
    conf, data = root / "conf", root / "data"
    for number, name in enumerate((BUILT, UNBUILT)):
        write_collection(data / name, seed=number)
        write(conf / "datasets" / f"{name}.yaml", DATASET.format(name=name, recipe=RECIPE))
    write(conf / "recipes" / f"{RECIPE}.yaml", RECIPE_FILE)
    dagster, mlflow = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    own = {"ANMI_HOME": str(root / "home"), "ANMI_CONF": str(conf), "ANMI_DATA": str(data)}
    own |= {"ANMI_DAGSTER_UI": dagster, "ANMI_MLFLOW_UI": mlflow, "PYTHONUNBUFFERED": "1"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANMI_", "DAGSTER", "MLFLOW"))}
    site = Site(root / "home", {**kept, **own}, dagster, mlflow)
    made = subprocess.run(
        [*COMMAND, "run", "--dataset", BUILT], env=site.environment, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stdout[-2000:] + made.stderr[-4000:]
    return site


def write(path: Path, text: str) -> None:
    """Write a file and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def port(url: str) -> str:
    """Port of a URL."""
    return url.rsplit(":", maxsplit=1)[1]


class Served:
    """`anmi ui` as a person starts it."""

    def __init__(self, site: Site) -> None:
        """Start it and wait until it says that both servers are up."""
        command = [*COMMAND, "ui", "--dagster-port", port(site.dagster_url), "--mlflow-port", port(site.mlflow_url)]
        self.process = subprocess.Popen(
            command, env=site.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        self.said: list[str] = []
        self.lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self.listen, daemon=True).start()
        wait_for(self.ready, "anmi ui", UP_SECONDS)

    def listen(self) -> None:
        """Take over its output, line by line."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line.rstrip())

    def ready(self) -> bool:
        """Whether it said how to stop it, which it says last."""
        while not self.lines.empty():
            self.said.append(self.lines.get())
        assert self.process.poll() is None, "\n".join(self.said)
        return any("Ctrl-C" in line for line in self.said)

    def stop(self) -> int:
        """Ask it to stop as a service manager does; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=STOP_SECONDS)

    def groups(self) -> list[int]:
        """Process groups of its servers: each server is the leader of one."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text(encoding="utf-8").split()
        return [int(pid) for pid in children if os.getpgid(int(pid)) == int(pid)]


def stored(site: Site) -> dict[str, object]:
    """Everything that a rebuild would add to: objects, records, MLflow runs, verdicts."""
    found = {room: {str(path) for path in (site.home / room).rglob("*") if path.is_file()} for room in ("objects", "records")}
    runs = rows(site.home / "mlflow.db", "runs")
    return {**found, "refs": refs(site), "mlflow_runs": runs, "verdicts": rows(site.home / "ledger.db", "verdicts")}


def refs(site: Site) -> dict[str, str]:
    """What every ref of the store says."""
    return {str(path): path.read_text(encoding="utf-8") for path in (site.home / "refs").rglob("*") if path.is_file()}


def rows(database: Path, table: str) -> int:
    """Rows of a SQLite table."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        return int(connection.execute(f"select count(*) from {table}").fetchone()[0])
