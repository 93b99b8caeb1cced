"""What a person sees of an artifact: results first, one Elo table named only when there is one, links to today's servers."""

from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from anmi_pipeline import tables
from anmi_pipeline.defs.presentation import boards_metadata, chain_table, present, report_table, value_of
from anmi_pipeline.defs.workspace import Workspace
from anmi_pipeline.records import Build, Record, Upstream, now, upstream_of
from anmi_pipeline.settings import Settings
from anmi_pipeline.store import Artifact, Content, Table

PNG = b"\x89PNG made up"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    environment = {"ANMI_HOME": str(tmp_path / "home"), "ANMI_MLFLOW_UI": "http://127.0.0.1:5999"}
    return Workspace(Settings.from_environment(environment))


def store(
    workspace: Workspace, asset: str, content: Content, partition: str = "d", upstream: dict[str, Upstream] | None = None
) -> tuple[Artifact, Record]:
    """Store content with a record that names an MLflow run on a port of the past."""
    artifact = workspace.store.put(asset, content)
    build = Build(asset, partition, 1, {}, (), upstream or {})
    record = Record(
        asset=asset,
        partition=partition,
        build_key=build.key,
        digest=artifact.digest,
        code_version=1,
        config={},
        seeds=(),
        upstream=dict(build.upstream),
        rows=artifact.rows,
        notes={**content.notes, "mlflow_url": "http://127.0.0.1:5000/#/experiments/1/runs/abc"},
        environment={},
        dagster_run=f"run-of-{asset}",
        mlflow_run="abc",
        seconds=1.5,
        created_at=now(),
    )
    workspace.records.write(record)
    return artifact, record


def elo_frame(theta: float = 1.0) -> pl.DataFrame:
    """Two documents of one query."""
    return tables.ELO.frame(
        pl.DataFrame(
            {
                "query_id": ["q", "q"],
                "doc_id": ["<script>", "b|c"],
                "theta": [theta, -theta],
                "elo": [1500 + theta, 1500 - theta],
                "std_error": [1.0, 1.0],
                "relevance": [None, None],
                "rank": [1, 2],
                "n_comparisons": [1, 1],
                "status": ["converged", "converged"],
            },
            schema_overrides={"relevance": pl.Float64},
        )
    )


def elo_table(workspace: Workspace, theta: float = 1.0) -> tuple[Artifact, Record]:
    """An Elo table with a plot."""
    folder = workspace.settings.home / f"made-{theta}" / "plots"
    folder.mkdir(parents=True)
    (folder / "elo_histogram.png").write_bytes(PNG)
    content = Content(
        (Table.whole(tables.ELO, elo_frame(theta)),),
        folder.parent,
        frozenset({"elo_histogram.png"}),
        facts={"queries": 1, "labels": "human"},
        notes={"log_likelihood": -792.8019949530317},
    )
    return store(workspace, "elo_table", content)


def text(shown: dict[str, dg.MetadataValue], name: str) -> str:
    """A metadata value as text."""
    return str(shown[name].value)


def test_results_first_identity_last(workspace: Workspace) -> None:
    artifact, record = elo_table(workspace)
    shown = present(artifact, record, workspace, reused=False)
    names = list(shown)
    assert names[0] == "elo_distribution"
    assert names[-1] == "path"
    assert names.index("log_likelihood") < names.index("digest")
    assert text(shown, "digest") == artifact.digest
    assert shown["log_likelihood"].value == pytest.approx(-792.802)
    assert shown["dagster/row_count"].value == 2
    assert "data:image/png;base64," in text(shown, "plot_elo_histogram")


def test_documents_cannot_act_in_the_sample(workspace: Workspace) -> None:
    shown = present(*elo_table(workspace), workspace, reused=True)
    sample = text(shown, "sample")
    assert "<script>" not in sample
    assert "&lt;script&gt;" in sample
    assert "b\\|c" in sample


def test_links_lead_to_the_server_of_today(workspace: Workspace) -> None:
    shown = present(*elo_table(workspace), workspace, reused=True)
    assert text(shown, "mlflow_run") == "http://127.0.0.1:5999/#/experiments/1/runs/abc"


def training_set(workspace: Workspace, theta: float, recipe: str) -> tuple[Artifact, Record]:
    """An empty training set made from an Elo table."""
    artifact, record = elo_table(workspace, theta)
    content = Content((Table.whole(tables.TRAINING_SET, tables.TRAINING_SET.frame()),), facts={"recipe": recipe})
    return store(workspace, "training_set", content, f"d|{recipe}", {"elo_table": upstream_of(record, artifact)})


def test_a_checkpoint_names_its_elo_table_first(workspace: Workspace) -> None:
    artifact, record = training_set(workspace, 1.0, "anmi")
    notes = {"seed_0": {"seconds": 1.25, "loss": 0.5}, "seed_1": {"seconds": 1.5, "loss": 0.25}}
    content = Content(facts={"made": "up"}, notes=notes)
    made = store(workspace, "checkpoint", content, "d|anmi", {"training_set": upstream_of(record, artifact)})
    shown = present(*made, workspace, reused=False)
    elo = record.upstream["elo_table"].digest
    assert next(iter(shown)) == "elo_table_version"
    assert text(shown, "elo_table_version") == elo
    assert shown["elo_table_run"] == dg.MetadataValue.dagster_run("run-of-elo_table")
    assert text(shown, "training_set_version") == artifact.digest
    assert "| loss | 0.5 | 0.25 |" in text(shown, "training")


def test_several_elo_tables_are_all_named(workspace: Workspace) -> None:
    upstream: dict[str, Upstream] = {}
    for recipe, theta in (("anmi", 1.0), ("default", 2.0)):
        artifact, record = training_set(workspace, theta, recipe)
        upstream[f"training_set@d|{recipe}"] = upstream_of(record, artifact)
    made = store(workspace, "search_model", Content(facts={"made": "up"}), "d", upstream)
    shown = present(*made, workspace, reused=False)
    assert "elo_table_version" not in shown
    digests = [
        entry.upstream["elo_table"].digest for _, entry in workspace.records.all() if entry and "elo_table" in entry.upstream
    ]
    assert len(set(digests)) == 2
    assert all(digest[:16] in text(shown, "elo_table_versions") for digest in digests)


def test_a_lineage_line_goes_from_model_to_corpus() -> None:
    rows = [("anmi", "corpus", "cc" * 32), ("anmi", "candidate_pool#train", "bb" * 32), ("anmi", "checkpoint", "aa" * 32)]
    table = chain_table(pl.DataFrame(rows, schema=["system", "artifact", "digest"], orient="row"))
    assert table.split("\n")[0] == "| model | checkpoint | training set | Elo table | verdicts | candidates | corpus |"
    assert table.split("\n")[2] == "| anmi | aaaaaaaa |  |  |  | bbbbbbbb | cccccccc |"


def test_a_judge_report_has_a_column_per_judge() -> None:
    rows = [("a", "flip_rate", 0.125), ("a", "calls", 40.0), ("b", "flip_rate", 0.25)]
    table = report_table(pl.DataFrame(rows, schema=["judge", "measure", "value"], orient="row"))
    assert table == "| measure | a | b |\n| --- | --- | --- |\n| flip\\_rate | 0.125 | 0.25 |\n| calls | 40 |  |"


def test_the_board_of_the_written_questions_comes_first(workspace: Workspace) -> None:
    shared: dict[str, object] = {
        "dataset": "d",
        "recipe": "bm25",
        "variant": "raw",
        "labels": "human",
        "metric": "nDCG@10",
        "n_queries": 40,
    }
    shared |= {"seeds": 1, "rank": 1}
    rows = [
        {
            "system": system,
            "split": split,
            "value": value,
            "low": value - 0.1,
            "high": value + 0.1,
            "seeds": 1,
            "rank": 1,
            **shared,
        }
        for split in ("dev_select", "test", "dev_final+test")
        for system, value in (("bm25", 0.3), ("minilm", 0.4))
    ]
    absent = pl.lit(None, dtype=pl.String)
    metrics = tables.METRICS.frame(pl.DataFrame(rows).with_columns(checkpoint=absent, elo_table=absent))
    content = Content((Table.whole(tables.METRICS, metrics),), facts={"winner": "minilm", "variant": "raw", "why": "best"})
    shown = boards_metadata(store(workspace, "leaderboard", content)[0])
    assert list(shown) == ["winner", "variant", "why", "board_dev_final+test", "board_test", "board_dev_select"]
    assert text(shown, "board_test").split("\n")[2].startswith("| 1 | minilm | human | .400 \\[.300, .500\\] |")


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (True, dg.BoolMetadataValue),
        (3, dg.IntMetadataValue),
        (0.1, dg.FloatMetadataValue),
        ("x", dg.TextMetadataValue),
        (None, dg.NullMetadataValue),
        ([{"judge": "a", "usd": 1.0}], dg.MarkdownMetadataValue),
        ({"a": 1}, dg.JsonMetadataValue),
        (["a"], dg.JsonMetadataValue),
    ],
)
def test_json_values_have_a_fitting_kind(value: object, kind: type) -> None:
    assert isinstance(value_of(value), kind)  # pyright: ignore[reportArgumentType]
