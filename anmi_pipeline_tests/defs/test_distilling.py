"""The pairwise judge in the pipeline: model and verdicts stored, bought verdicts in the ledger, both in the comparison graph."""

from pathlib import Path

import polars as pl
import pytest

from anmi_pipeline import tables
from anmi_pipeline.judging.distilled import distilled_judgments, distilled_source
from anmi_pipeline.judging.pairwise_model import load_pairwise_model
from anmi_pipeline.records import Records
from anmi_pipeline.store import Store
from anmi_pipeline_tests.judging.tiny_models import tiny_encoder
from anmi_pipeline_tests.small import anmi, write_lines, write_small

NAME = "small-distilled"
BOUGHT = 6


def variant(model: Path) -> list[str]:
    settings = f"model: {model}, max_tokens: 48, query_tokens: 6, epochs: 1, degree: 4, second_pass: {BOUGHT}, weight: 0.5"
    return ["extends: small", "judging:", f"  distil: {{{settings}}}"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("distilling")
    made = write_small(root)
    write_lines(root / "conf" / "datasets" / f"{NAME}.yaml", variant(tiny_encoder(root / "tiny")))
    done = anmi(made, "run", "--dataset", NAME, "--until", "comparison_graph")
    assert done.returncode == 0, done.stderr
    return made


def test_model_verdicts_and_figures_are_stored(environment: dict[str, str], tmp_path: Path) -> None:
    records = Records(Store(environment["ANMI_HOME"]))
    record, artifact = records.require("pairwise_judge", NAME)
    own = distilled_judgments(artifact)
    assert set(own["judge"]) == {"distilled", "simulated"}
    assert own.filter(pl.col("judge") == "simulated").height == artifact.facts["bought"] == BOUGHT
    assert {"held_out_agreement", "held_out_ece_scaled", "before_held_out_agreement", "held_out_retrieval_agreement"} <= set(
        record.notes
    )
    assert record.mlflow_run
    source = distilled_source(records, NAME, tmp_path)
    assert source.digest == artifact.digest
    assert load_pairwise_model(source.folder).temperature > 0
    assert {file.name for file in (source.folder / "plots").iterdir()} == {"reliability.png", "training.png"}


def test_the_comparison_graph_takes_it_as_evidence(environment: dict[str, str]) -> None:
    records = Records(Store(environment["ANMI_HOME"]))
    graph = records.require("comparison_graph", NAME)[1].table(tables.COMPARISONS)
    alone = records.require("pairwise_judgments", NAME)[1].table(tables.JUDGMENTS)
    assert 0.5 in set(graph["weight"])
    assert graph.height > alone.select("query_id", "first_id", "second_id").height


def test_made_again_it_is_reused_and_nobody_is_asked(environment: dict[str, str]) -> None:
    done = anmi(environment, "run", "--dataset", NAME, "--until", "comparison_graph")
    assert done.returncode == 0, done.stderr
    assert "0 built, " in done.stdout


def test_a_dataset_that_asks_for_none_says_so(environment: dict[str, str]) -> None:
    done = anmi(environment, "run", "--dataset", "small", "--until", "comparison_graph")
    assert done.returncode == 0, done.stderr
    _, artifact = Records(Store(environment["ANMI_HOME"])).require("pairwise_judge", "small")
    assert artifact.facts == {"empty_because": "the dataset asks for no distilled judge"}
    assert distilled_judgments(artifact).is_empty()
