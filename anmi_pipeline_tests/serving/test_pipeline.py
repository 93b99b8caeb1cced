"""The served ranking is the evaluated one, for every kind of system, and bad packages and queries are refused."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from pydantic import ValidationError

from anmi_pipeline.errors import ArtifactError, InputError
from anmi_pipeline.evaluation.config import InferenceSettings
from anmi_pipeline.retrieval.ann import build_index, save_index
from anmi_pipeline.retrieval.config import IndexConfig, LexicalConfig
from anmi_pipeline.retrieval.lexical import LexicalIndex
from anmi_pipeline.serving.package import Embedded, write_search_package
from anmi_pipeline.serving.pipeline import SearchPipeline, snippet
from anmi_pipeline_tests.serving.conftest import KINDS, QUESTIONS, evaluated, package, settings_of, tuned

TUNED = {
    "plain": InferenceSettings(),
    "rrf": InferenceSettings(fusion="rrf", rrf_k=30),
    "min_max": InferenceSettings(fusion="min_max", lexical_weight=0.4),
}


def served(pipeline):
    """Each question on its own, as a user asks."""
    return pl.concat([pipeline.rank([query], [text]) for query, text in QUESTIONS.items()])


def same_run(ours, theirs, name=""):
    assert_frame_equal(
        ours.select("query_id", "rank", "doc_id"), theirs.select("query_id", "rank", "doc_id").cast({"rank": pl.Int64})
    )
    np.testing.assert_allclose(ours["score"].to_numpy(), theirs["score"].to_numpy(), atol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_served_ranking_is_the_evaluated_one(kind, world, checkpoints, tmp_path):
    run = evaluated(world, checkpoints, kind)
    loaded = SearchPipeline.load(package(tmp_path / "package", world, checkpoints, kind, TUNED["rrf"]))
    for name, settings in TUNED.items():
        pipeline = replace(loaded, settings=loaded.settings.model_copy(update={"tuned": settings}))
        same_run(served(pipeline), tuned(world, run, settings, kind), name)


@pytest.mark.parametrize("kind", ["features", "cross_encoder"])
def test_a_tuned_pool_size_is_obeyed(kind, world, checkpoints, tmp_path):
    inference = InferenceSettings(fusion="min_max", lexical_weight=0.2, pool_size=3)
    pipeline = SearchPipeline.load(package(tmp_path / "package", world, checkpoints, kind, inference))
    same_run(served(pipeline), tuned(world, evaluated(world, checkpoints, kind), inference, kind))


@pytest.mark.parametrize("kind", ["lexical", "encoder", "retriever"])
def test_a_query_below_the_threshold_gets_no_answer(kind, world, checkpoints, tmp_path):
    run = evaluated(world, checkpoints, kind)
    tops = run.group_by("query_id").agg(pl.col("score").max()).sort("score")
    inference = InferenceSettings(threshold=float(tops["score"][2]) - 1e-4)
    pipeline = SearchPipeline.load(package(tmp_path / "package", world, checkpoints, kind, inference))
    ours = served(pipeline)
    assert set(ours["query_id"]) == set(tops["query_id"][2:])
    assert pipeline.search(QUESTIONS[tops["query_id"][0]]) == []


def test_hits_carry_title_rank_and_snippet(world, checkpoints, tmp_path):
    pipeline = SearchPipeline.load(package(tmp_path / "package", world, checkpoints, "encoder"))
    hits = pipeline.search("square root", k=3)
    assert [hit.rank for hit in hits] == [1, 2, 3]
    assert hits[0].doc_id == hits[0].title == "math.sqrt"
    assert hits[0].snippet == "Return the square root of a number."
    assert hits[0].score >= hits[1].score


def test_the_package_answers_from_its_own_encoder(world, checkpoints, tmp_path):
    folder = package(tmp_path / "package", world, checkpoints, "retriever", include_encoder=True)
    assert (folder / "encoder" / "model.safetensors").is_file()
    content = json.loads((folder / "package.json").read_text())
    content["encoder"]["model"] = "not-installed-anywhere"
    (folder / "package.json").write_text(json.dumps(content))
    same_run(served(SearchPipeline.load(folder)), evaluated(world, checkpoints, "retriever"))


def test_a_retriever_trained_on_text_brings_its_encoder(world, checkpoints, tmp_path):
    from anmi_pipeline.retrieval.encoding import load_encoder

    checkpoint = tmp_path / "checkpoint"
    load_encoder(settings_of("encoder").encoder).model.save(str(checkpoint / "encoder"), create_model_card=False)
    (checkpoint / "settings.json").write_text('{"kind": "encoder"}')
    write_search_package(
        tmp_path / "package",
        settings_of("retriever"),
        world.corpus,
        embedded=Embedded(world.doc_ids, world.vectors),
        checkpoint=checkpoint,
    )
    assert not (tmp_path / "package" / "encoder").exists()
    same_run(served(SearchPipeline.load(tmp_path / "package")), world.dense)


def test_an_approximate_index_replaces_the_vectors(world, tmp_path):
    save_index(build_index(world.vectors, world.doc_ids, IndexConfig(kind="hnsw", m=8)), tmp_path / "index")
    write_search_package(
        tmp_path / "package", settings_of("encoder"), world.corpus, index=tmp_path / "index", include_encoder=False
    )
    assert not (tmp_path / "package" / "vectors.npy").exists()
    same_run(served(SearchPipeline.load(tmp_path / "package")), world.dense)


@pytest.mark.parametrize("kind", ["lexical", "encoder"])
def test_scope_group_confines_a_query_to_its_group(kind, world, checkpoints, tmp_path):
    pipeline = SearchPipeline.load(package(tmp_path / "package", world, checkpoints, kind, scope="group"))
    hits = pipeline.search("a JSON string", group="json")
    assert {hit.doc_id for hit in hits} == {"json.loads", "json.dumps"}
    with pytest.raises(InputError, match="was given"):
        pipeline.search("a JSON string")
    with pytest.raises(InputError, match="no-such-group"):
        pipeline.search("a JSON string", group="no-such-group")


def test_an_index_cannot_be_searched_by_group(world, tmp_path):
    save_index(build_index(world.vectors, world.doc_ids, IndexConfig()), tmp_path / "index")
    settings = settings_of("encoder", scope="group")
    write_search_package(tmp_path / "package", settings, world.corpus, index=tmp_path / "index", include_encoder=False)
    with pytest.raises(ArtifactError, match="cannot be searched within a group"):
        SearchPipeline.load(tmp_path / "package").search("a JSON string", group="json")


def test_a_query_without_a_match_has_no_hit(world, checkpoints, tmp_path):
    pipeline = SearchPipeline.load(package(tmp_path / "package", world, checkpoints, "lexical"))
    assert pipeline.search("zzzz qqqq") == []
    assert pipeline.rank([], []).is_empty()


@pytest.mark.parametrize(("query", "k", "message"), [("  ", 10, "query is empty"), ("json", 0, "at least one hit")])
def test_bad_queries(query, k, message, world, checkpoints, tmp_path):
    pipeline = SearchPipeline.load(package(tmp_path / "package", world, checkpoints, "lexical"))
    with pytest.raises(InputError, match=message):
        pipeline.search(query, k)


def test_equal_inputs_give_equal_bytes(world, checkpoints, tmp_path):
    first, second = (package(tmp_path / name, world, checkpoints, "features") for name in ("one", "two"))
    files = sorted(file.relative_to(first) for file in first.rglob("*") if file.is_file())
    assert files == sorted(file.relative_to(second) for file in second.rglob("*") if file.is_file())
    assert all((first / file).read_bytes() == (second / file).read_bytes() for file in files)


def test_a_part_that_is_not_given_is_named(world, tmp_path):
    with pytest.raises(InputError, match="lexical index and document vectors or index and checkpoint"):
        write_search_package(tmp_path / "package", settings_of("features"), world.corpus)
    assert not (tmp_path / "package").exists()


def test_a_folder_with_content_is_refused(world, tmp_path):
    (tmp_path / "old").write_text("x")
    index = LexicalIndex.build(world.corpus, LexicalConfig())
    with pytest.raises(InputError, match="is not empty"):
        write_search_package(tmp_path, settings_of("lexical"), world.corpus, lexical=index)


@pytest.mark.parametrize(
    ("kind", "damage", "message"),
    [
        ("lexical", "package.json", "is no search package"),
        ("lexical", "corpus.parquet", "no readable corpus"),
        ("lexical", "lexical/weights.npy", "lexical index"),
        ("encoder", "vectors.npy", "no readable vectors"),
        ("encoder", "doc_ids.json", "no readable vectors"),
    ],
)
def test_a_missing_part_is_named(kind, damage, message, world, checkpoints, tmp_path):
    folder = package(tmp_path / "package", world, checkpoints, kind)
    (folder / damage).unlink()
    with pytest.raises(ArtifactError, match=message):
        SearchPipeline.load(folder)


def test_parts_that_do_not_fit_are_refused(world, checkpoints, tmp_path):
    folder = package(tmp_path / "package", world, checkpoints, "encoder")
    (folder / "doc_ids.json").write_text('["a"]')
    with pytest.raises(ArtifactError, match="20 vectors for 1 documents"):
        SearchPipeline.load(folder)
    (folder / "package.json").write_text('{"system": "x", "kind": "encoder", "colour": 1}')
    with pytest.raises(ArtifactError, match="does not fit this version"):
        SearchPipeline.load(folder)


def test_settings_that_contradict_themselves_are_refused():
    with pytest.raises(ValidationError, match="`encoder` must be set"):
        settings_of("encoder", encoder=None)
    with pytest.raises(ValidationError, match=r"fixed\.fusion"):
        settings_of("fusion_rrf", fixed=InferenceSettings())


def test_snippets():
    text = " ".join(f"w{i}" for i in range(100))
    assert snippet("short text", "text") == "short text"
    assert snippet(text, "nothing").startswith("w0 w1")
    assert snippet(text, "nothing").endswith(" ...")
    assert "w70" in snippet(text, "W70 w72")
    assert snippet("", "x") == ""
