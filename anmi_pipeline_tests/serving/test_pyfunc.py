"""The search model through MLflow: logged, loaded, and served over loopback HTTP."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from anmi_pipeline.errors import ArtifactError
from anmi_pipeline.serving.config import HIT_COLUMNS
from anmi_pipeline.serving.pipeline import SearchPipeline
from anmi_pipeline.serving.registration import log_search_model, search_signature
from anmi_pipeline_tests.serving.conftest import package, settings_of

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def tracking(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    experiment = mlflow.create_experiment("search", artifact_location=(tmp_path / "artifacts").as_uri())
    yield uri, experiment
    mlflow.set_tracking_uri(before)


@pytest.fixture
def logged(tracking, world, checkpoints, tmp_path):
    folder = package(tmp_path / "package", world, checkpoints, "lexical")
    with mlflow.start_run(experiment_id=tracking[1]):
        info = log_search_model(folder, registered_name="toy-search", tags={"dagster_run": "r1"})
    return info, SearchPipeline.load(folder)


def test_a_logged_model_answers_like_the_package(logged):
    info, pipeline = logged
    model = mlflow.pyfunc.load_model(info.model_uri)
    answers = model.predict(pd.DataFrame({"query": ["parse a JSON string", "zzzz", "square root"]}), params={"k": 2})
    assert list(answers.columns) == list(HIT_COLUMNS)
    expected = [hit for query in ("parse a JSON string", "square root") for hit in pipeline.search(query, 2)]
    assert answers["doc_id"].tolist() == [hit.doc_id for hit in expected]
    assert answers["rank"].tolist() == [hit.rank for hit in expected]
    assert answers["snippet"].tolist() == [hit.snippet for hit in expected]


def test_the_registered_model_carries_its_origin_and_signature(logged):
    info, _ = logged
    model = mlflow.pyfunc.load_model("models:/toy-search/1")
    assert len(model.predict(pd.DataFrame({"query": ["a JSON string"]}))) <= 10
    assert model.metadata.signature.inputs.input_names() == ["query"]
    tags = mlflow.get_logged_model(info.model_id).tags
    assert {"system": "lexical", "elo_table": "e1", "dataset": "toy", "dagster_run": "r1"}.items() <= tags.items()


def test_scope_group_asks_for_the_group():
    assert search_signature(settings_of("encoder", scope="group")).inputs.input_names() == ["query", "group"]


def test_a_folder_that_is_no_package_is_not_logged(tracking, tmp_path):
    with mlflow.start_run(experiment_id=tracking[1]), pytest.raises(ArtifactError, match="is no search package"):
        log_search_model(tmp_path)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def post(port, body, deadline):
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return json.loads(reply.read())
        except (urllib.error.URLError, ConnectionError) as error:
            if isinstance(error, urllib.error.HTTPError) or time.monotonic() > deadline:
                raise
            time.sleep(0.5)


@pytest.mark.slow
def test_mlflow_serves_the_model_over_http(logged, tracking, tmp_path):
    info, pipeline = logged
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", info.model_uri, "--env-manager", "local"]
    environment = os.environ | {"MLFLOW_TRACKING_URI": tracking[0], "PYTHONPATH": str(REPOSITORY)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    with (tmp_path / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            body = {"dataframe_records": [{"query": "parse a JSON string"}], "params": {"k": 3}}
            reply = post(port, body, time.monotonic() + 120)
        finally:
            os.killpg(server.pid, 15)
            server.wait(timeout=30)
    assert [row["doc_id"] for row in reply["predictions"]] == [hit.doc_id for hit in pipeline.search("parse a JSON string", 3)]
