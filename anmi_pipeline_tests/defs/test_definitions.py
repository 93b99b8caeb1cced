"""The code location: it loads lightly, every asset is declared in full, the checks that must stop a run are there."""

import json
import subprocess
import sys

import dagster as dg
import pytest

from anmi_pipeline.catalog.files import names
from anmi_pipeline.definitions import defs
from anmi_pipeline.defs.launch import AFTER, BEFORE, SYSTEM
from anmi_pipeline.defs.op_tags import CPU_POOL, GPU_POOL, JUDGE_POOL
from anmi_pipeline.defs.workspace import RECIPE_ASSETS

GROUPS = {
    "collection": {"corpus", "queries", "qrels"},
    "candidates": {"lexical_run", "dense_run", "sparse_run", "late_interaction_run", "candidate_pool"},
    "judging": {"comparison_plan", "pairwise_judgments", "pairwise_judge", "judge_report"},
    "rating": {"comparison_graph", "elo_table"},
    "training": {"training_set", "checkpoint", "student_checkpoint"},
    "index": {"corpus_embeddings", "ann_index"},
    "evaluation": {"scores", "tuned_system", "leaderboard", "lineage_report"},
    "serving": {"search_model"},
}
"""design.md section 3."""
POOLS = {
    "elo_table": CPU_POOL,
    "pairwise_judgments": JUDGE_POOL,
    "checkpoint": GPU_POOL,
    "dense_run": GPU_POOL,
    "scores": GPU_POOL,
}
BLOCKING = {
    ("pairwise_judgments", "coverage"),
    ("comparison_graph", "connectivity"),
    ("checkpoint", "lineage_consistent"),
    *((asset, "schema") for asset in ("corpus", "queries", "qrels", "candidate_pool", "pairwise_judgments", "elo_table")),
    *((asset, "schema") for asset in ("comparison_graph", "training_set", "scores", "leaderboard")),
}
WARNING = {("judge_report", "order_consistency"), ("elo_table", "fits_converged"), ("leaderboard", "above_placebo")}
HEAVY = ("torch", "transformers", "sentence_transformers", "mlflow", "faiss", "sklearn", "scipy", "matplotlib", "numba", "duckdb")


@pytest.fixture(scope="module")
def graph():
    return defs.resolve_asset_graph()


@pytest.fixture(scope="module")
def specs() -> dict[str, dg.AssetSpec]:
    return {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}


def test_every_asset_of_the_design_exists_in_its_group(specs):
    found = {group: {name for name, spec in specs.items() if spec.group_name == group} for group in GROUPS}
    assert found == GROUPS
    assert set(specs) == set().union(*GROUPS.values())


def test_launch_builds_every_asset_once(specs):
    order = [*BEFORE, *SYSTEM, *AFTER]
    assert sorted(order) == sorted(specs)


def test_launch_order_follows_the_dependencies(specs):
    order = [*BEFORE, *SYSTEM, *AFTER]
    for name, spec in specs.items():
        for dependency in spec.deps:
            assert order.index(dependency.asset_key.to_user_string()) < order.index(name)


def test_every_asset_is_declared_in_full(specs):
    for name, spec in specs.items():
        assert spec.owners, name
        assert spec.kinds, name
        assert spec.code_version is not None and int(spec.code_version) >= 1, name
        assert spec.description and spec.description.endswith("."), name
        assert spec.partitions_def is not None, name


def test_partitions_are_the_files_of_datasets_and_recipes(specs):
    for name, spec in specs.items():
        keys = spec.partitions_def
        if name in RECIPE_ASSETS:
            assert isinstance(keys, dg.MultiPartitionsDefinition), name
            assert {dimension.name for dimension in keys.partitions_defs} == {"dataset", "recipe"}
        else:
            assert isinstance(keys, dg.StaticPartitionsDefinition), name
            assert set(names("datasets", None)) <= set(keys.get_partition_keys())


@pytest.mark.parametrize(("asset", "pool"), POOLS.items())
def test_costly_steps_wait_in_a_pool_and_carry_resource_tags(graph, asset, pool):
    definition = graph.get(dg.AssetKey(asset)).assets_def
    assert definition.op.pool == pool
    assert definition.op.tags["anmi/resource"]


def test_only_roots_have_no_dependency(specs):
    assert {name for name, spec in specs.items() if not spec.deps} == GROUPS["collection"]


def test_from_corpus_to_leaderboard_everything_is_connected(graph):
    reached, queue = set(), [dg.AssetKey("leaderboard")]
    while queue:
        key = queue.pop()
        if key not in reached:
            reached.add(key)
            queue.extend(graph.get(key).parent_keys)
    expected = {"corpus", "queries", "qrels", "candidate_pool", "pairwise_judgments", "elo_table", "checkpoint", "scores"}
    assert {dg.AssetKey(name) for name in expected} <= reached


def test_blocking_and_warning_checks(graph):
    nodes = {(key.asset_key.to_user_string(), key.name): graph.get(key) for key in graph.asset_check_keys}
    assert set(nodes) >= BLOCKING | WARNING
    assert all(nodes[key].blocking for key in BLOCKING)
    assert not any(nodes[key].blocking for key in WARNING)


def test_every_check_says_what_it_looks_at(graph):
    for key in graph.asset_check_keys:
        assert graph.get(key).description, key


def test_loading_imports_nothing_heavy():
    program = (
        "import json, sys; from anmi_pipeline.definitions import defs; defs.get_repository_def(); "
        f"print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_definitions_validate():
    dg.Definitions.validate_loadable(defs)
