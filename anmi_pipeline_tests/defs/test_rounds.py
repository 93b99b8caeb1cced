"""The adaptive design end to end: rounds, the frozen prior, anchors and relevance in the pipeline's artifacts."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from anmi_pipeline import tables
from anmi_pipeline.catalog.replanning import replan
from anmi_pipeline.errors import InputError
from anmi_pipeline.records import Record, Records
from anmi_pipeline.settings import Settings
from anmi_pipeline.store import Artifact, Store
from anmi_pipeline_tests.small import anmi, write_lines, write_small

NAME = "small-adaptive"
VARIANT = [
    "description: four rounds under an informative prior, two anchors a query",
    "extends: small",
    "judging:",
    "  design: adaptive",
    "  degree: 6",
    "  audit_share: 0",
    "  anchors: {per_query: 2, source: {kind: simulated, error_rate: 0}}",
    "rating: {prior: scores}",
]

Opened = Callable[[str], tuple[Record, Artifact]]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("rounds")
    made = write_small(root)
    write_lines(root / "conf" / "datasets" / f"{NAME}.yaml", VARIANT)
    done = anmi(made, "run", "--dataset", NAME, "--until", "elo_table")
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture
def opened(environment: dict[str, str]) -> Opened:
    records = Records(Store(environment["ANMI_HOME"]))
    return lambda asset: records.require(asset, NAME)


def test_the_plan_says_what_later_rounds_will_cost(opened: Opened) -> None:
    _, plan = opened("comparison_plan")
    assert set(plan.table(tables.PLAN)["round"]) == {1}
    queries = plan.facts["queries"]
    assert plan.facts["calls"] == 10 * queries
    assert [(row["estimate"], row["calls"]) for row in plan.facts["later_rounds"]] == [
        (name, 20 * queries) for name in ("low", "expected", "high")
    ]


def test_all_rounds_are_in_the_verdicts_and_the_frozen_prior_is_content(opened: Opened) -> None:
    record, judgments = opened("pairwise_judgments")
    table = judgments.table(tables.JUDGMENTS)
    sizes = table.filter(pl.col("query_id") == table["query_id"][0]).group_by("round").len().sort("round")
    assert sizes["len"].to_list() == [10, 7, 7, 6]
    assert record.notes["asked"] == table.height == 30 * table["query_id"].n_unique()
    frozen = judgments.facts["frozen_prior"]
    assert frozen["queries"] == table["query_id"].n_unique()
    assert set(frozen["prior"]) >= {"features", "coefficients", "precision"}


def test_anchors_are_graded_and_make_relevance(opened: Opened) -> None:
    _, judgments = opened("pairwise_judgments")
    anchors = tables.ANCHORS.validate(judgments.table(tables.ANCHORS))
    assert set(anchors.group_by("query_id").len()["len"]) == {2}
    assert set(anchors["provenance"]) == {"simulated"}
    _, elo = opened("elo_table")
    relevance = elo.table(tables.ELO)["relevance"]
    assert relevance.null_count() == 0
    assert relevance.is_between(0, 1).all()


def test_the_elo_table_has_intervals_the_priors_mean_and_a_full_report(opened: Opened) -> None:
    record, elo = opened("elo_table")
    table = tables.ELO.validate(elo.table(tables.ELO))
    assert (table["elo_low"] < table["elo"]).all()
    assert (table["elo_high"] - table["elo"]).to_numpy() == pytest.approx(1.959964 * table["std_error"].to_numpy(), rel=1e-6)
    assert table["prior_mean"].n_unique() > 50
    assert record.notes["prior"]["kind"] == "scores"
    assert record.notes["prior"]["estimated_from"] == "the first round"
    assert record.notes["selection"]["held_out"] > 0
    assert record.notes["calibration"]["anchors"] == 2 * table["query_id"].n_unique()
    files = elo.manifest["files"]
    assert {f"plots/{name}.png" for name in ("elo_histogram", "standard_errors", "models", "relevance")} <= set(files)


def test_the_fit_is_logged_to_mlflow(opened: Opened, environment: dict[str, str]) -> None:
    from mlflow import MlflowClient

    record, _ = opened("elo_table")
    assert record.mlflow_run is not None
    found = MlflowClient(f"sqlite:///{Path(environment['ANMI_HOME']) / 'mlflow.db'}").get_run(record.mlflow_run).data.metrics
    wanted = {"edges_per_second", "iterations", "log_likelihood", "std_error_quantiles.p50", "prior.gain_nats_per_verdict"}
    assert wanted <= set(found)
    assert any(name.startswith("statuses.converged") for name in found)


def test_a_replan_of_what_has_not_changed_would_ask_nothing(environment: dict[str, str]) -> None:
    report = replan(NAME, Settings.from_environment(environment))
    assert report.frozen == report.estimated
    assert (report.calls, set(report.calls_by_round)) == (0, {2, 3, 4})
    assert report.rows()[-1]["estimated anew"] == "0"
    with pytest.raises(InputError, match="nothing is frozen"):
        replan("small", Settings.from_environment(environment))


def test_computed_again_it_is_the_same_and_asks_nobody(opened: Opened, environment: dict[str, str]) -> None:
    before = {asset: opened(asset)[0].digest for asset in ("comparison_plan", "pairwise_judgments", "elo_table")}
    done = anmi(environment, "run", "--dataset", NAME, "--until", "elo_table", "--rebuild")
    assert done.returncode == 0, done.stderr
    assert {asset: opened(asset)[0].digest for asset in before} == before
    assert opened("pairwise_judgments")[0].notes["asked"] == 0
