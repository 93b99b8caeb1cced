"""The README's tables say what the code says."""

import re

import dagster as dg

from anmi_pipeline.definitions import defs
from anmi_pipeline.defs.workspace import RECIPE_ASSETS
from anmi_pipeline.evaluation.config import EvaluationConfig
from anmi_pipeline.evaluation.leaderboard import SystemResult, leaderboard
from anmi_pipeline.tables import QRELS, QUERIES, RUN
from anmi_pipeline_tests.docs.board import BEGIN, END, block, replaced
from anmi_pipeline_tests.docs.pages import REPOSITORY, table

README = REPOSITORY / "README.md"
WARNINGS = {"order_consistency", "fits_converged", "above_placebo"}


def test_the_asset_table_is_that_of_the_definitions() -> None:
    graph = defs.resolve_asset_graph()
    checks: dict[str, set[str]] = {}
    for key in graph.asset_check_keys:
        checks.setdefault(key.asset_key.to_user_string(), set()).add(key.name)
    definitions = [one for one in defs.assets or () if isinstance(one, dg.AssetsDefinition)]
    pools = {key.to_user_string(): one.op.pool or "" for one in definitions for key in one.keys}
    expected = {
        key.to_user_string(): (
            graph.get(key).group_name,
            "dataset x recipe" if key.to_user_string() in RECIPE_ASSETS else "dataset",
            pools[key.to_user_string()],
            checks.get(key.to_user_string(), set()),
        )
        for key in graph.materializable_asset_keys
    }
    shown = {
        row["asset"].strip("`"): (
            row["group"],
            row["partition"],
            row["pool"],
            set(re.findall(r"[a-z_]+(?=,|$| \()", row["checks"])),
        )
        for row in table(README, "group", "asset")
    }
    assert shown == expected


def test_only_warnings_are_called_warnings() -> None:
    called = {name for row in table(README, "group", "asset") for name in re.findall(r"([a-z_]+) \(warning\)", row["checks"])}
    assert called == WARNINGS


def test_every_variable_of_the_settings_is_in_the_configuration_table() -> None:
    source = (REPOSITORY / "anmi_pipeline" / "settings.py").read_text(encoding="utf-8")
    read = set(re.findall(r'"(ANMI_[A-Z_]+)"', source))
    assert {row["variable"].strip("`") for row in table(README, "variable", "default")} == read


def test_the_leaderboard_was_pasted_from_a_demo() -> None:
    text = README.read_text(encoding="utf-8")
    pasted = text.split(BEGIN)[1].split(END)[0]
    for system in ("bm25", "minilm", "rrf", "minmax", "anmi", "default", "infonce", "features", "placebo"):
        assert pasted.count(f"\n| {system} |") == 2, f"{system}: run `python -m anmi_pipeline_tests.docs.board` after a demo"


def test_the_sentences_follow_from_the_intervals() -> None:
    splits = ("held_out", "dev_final", "dev_final+test")
    queries = QUERIES.frame([{"query_id": f"{s}{n}", "text": "?", "split": s} for s in ("held_out", "test") for n in range(12)])
    qrels = QRELS.frame([{"query_id": q, "doc_id": "right", "grade": 1} for q in queries["query_id"]])

    def system(name: str, good: set[str]) -> SystemResult:
        rows = [
            {"query_id": query, "doc_id": doc, "rank": rank, "score": -float(rank)}
            for query, split in queries.select("query_id", "split").rows()
            for rank, doc in enumerate(("right", "wrong") if split in good else ("wrong", "right"), start=1)
        ]
        return SystemResult(system=name, dataset="stdlib", recipe=name, labels="human", raw=RUN.frame(rows), seeds=(0,))

    config = EvaluationConfig(metrics=("nDCG@10",), query_sets=splits, bootstrap_samples=200)
    systems = [system("minilm", {"test"}), system("placebo", {"test"}), system("anmi", {"held_out"}), system("infonce", {"test"})]
    held_out, questions = block(leaderboard(systems, qrels, queries, config)).split("**Written questions")
    assert "Against the placebo: `anmi` is above it; `infonce` is not told apart from it." in held_out
    assert "(`minilm`): `anmi` is **below** it; `infonce` is not told apart from it." in questions
    assert replaced(f"a{BEGIN}old{END}b", "new") == f"a{BEGIN}\nnew\n{END}b"
