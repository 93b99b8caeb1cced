"""The `anmi` command on a small installation, each call a process of its own."""

import json

import pytest

from anmi_pipeline_tests.small import anmi, write_small


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A small installation with everything materialised once."""
    environment = write_small(tmp_path_factory.mktemp("cli"))
    done = anmi(environment, "run", "--dataset", "small")
    assert done.returncode == 0, done.stderr
    assert "features" in done.stdout
    return environment


def rows(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["rows"]


def test_running_again_builds_nothing(built):
    done = anmi(built, "run", "--dataset", "small")
    assert done.returncode == 0, done.stderr
    assert "\n0 built, " in done.stdout
    assert "0 changed" in done.stdout


def test_leaderboard_json_has_the_promised_fields(built):
    board = rows(anmi(built, "leaderboard", "--dataset", "small", "--json"))
    assert {row["system"] for row in board} == {"bm25", "rrf", "minmax", "features"}
    row = next(row for row in board if row["system"] == "features" and row["split"] == "test" and row["variant"] == "raw")
    assert row["labels"] == "simulated"
    assert row["checkpoint"]
    assert row["elo_table"]
    assert 0 <= row["metrics"]["nDCG@10"]["low"] <= row["metrics"]["nDCG@10"]["value"] <= row["metrics"]["nDCG@10"]["high"] <= 1
    assert {"dataset", "recipe", "n_queries", "seeds"} <= set(row)


def test_leaderboard_of_one_query_set(built):
    done = anmi(built, "leaderboard", "--dataset", "small", "--split", "dev_final+test")
    assert done.returncode == 0, done.stderr
    assert "dev_final+test: fixed inference settings" in done.stdout
    assert "dev_select" not in done.stdout


def test_lineage_reaches_the_corpus_and_names_the_judge(built):
    done = anmi(built, "lineage", "checkpoint:small|features")
    assert done.returncode == 0, done.stderr
    for name in ("elo_table", "pairwise_judgments", "comparison_plan", "candidate_pool", "corpus", "judges simulated"):
        assert name in done.stdout
    nodes = rows(anmi(built, "lineage", "checkpoint:small|features", "--json"))
    assert nodes[0]["name"] == "checkpoint"
    by_prefix = rows(anmi(built, "lineage", nodes[0]["digest"][:16], "--json"))
    assert by_prefix == nodes
    listed = rows(anmi(built, "lineage", "--json"))
    assert {"artifact": "checkpoint:small|features", "digest": nodes[0]["digest"]} in listed


def test_sql_answers_over_the_artifacts(built):
    judged = rows(anmi(built, "sql", "select count(*) as n from pairwise_judgments", "--json"))
    planned = rows(anmi(built, "sql", "select count(*) as n from comparison_plan;", "--json"))
    assert judged == planned
    assert judged[0]["n"] > 0
    views = {row["name"] for row in rows(anmi(built, "sql", "from tables", "--json"))}
    assert {"elo_table", "leaderboard_per_query", "training_set_curriculum", "scores"} <= views
    wrong = anmi(built, "sql", "select nothing from nowhere")
    assert wrong.returncode == 2
    assert "nowhere" in wrong.stderr


def test_verify_and_gc_on_a_clean_store(built):
    verified = anmi(built, "verify")
    assert verified.returncode == 0, verified.stdout
    assert "nothing damaged" in verified.stdout
    collected = anmi(built, "gc", "--dry-run")
    assert collected.returncode == 0
    assert "0 would be removed" in collected.stdout


def test_search_says_why_there_is_no_model(built):
    done = anmi(built, "search", "--dataset", "small", "word01")
    assert done.returncode == 1
    assert "recorded runs cannot answer" in done.stderr
    assert "Traceback" not in done.stderr


def test_datasets_are_listed_and_checked(built):
    names = {row["dataset"] for row in rows(anmi(built, "dataset", "list", "--json"))}
    assert {"small", "stdlib", "scifact", "nfcorpus", "msmarco-dl19"} <= names
    facts = {row["what"]: row["value"] for row in rows(anmi(built, "dataset", "check", "small", "--json"))}
    assert facts["documents"] == "40"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "--dataset", "smal"), 'Did you mean "small"?'),
        (("run", "--dataset", "small", "--recipe", "bm52"), 'Did you mean "bm25"?'),
        (("run", "--dataset", "small", "--until", "elo_tabel"), 'Did you mean "elo_table"?'),
        (("leaderboard", "--dataset", "scfact"), 'Did you mean "scifact"?'),
        (("lineage", "ffffffffffffffff"), "fits no object"),
        (("dataset", "check", "nowhere.yaml"), "does not exist"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(built, arguments, said):
    done = anmi(built, *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr + done.stdout
