"""Records say who built what from what; a known build is reused; refs name the current one."""

from pathlib import Path

import polars as pl
import pytest

from anmi_pipeline.digests import build_key
from anmi_pipeline.errors import ArtifactError
from anmi_pipeline.lineage import lineage, verify
from anmi_pipeline.records import Build, Record, Upstream, asset_of, environment, file_name, now, parts_read, upstream_of
from anmi_pipeline.sealing import seal, write_bytes
from anmi_pipeline.store import MANIFEST, Content, Table
from anmi_pipeline.tables import QUERIES
from anmi_pipeline_tests.foundation.made import Bench, corpus, elo, record_of


def queries(train: str = "how", test: str = "why") -> Content:
    """Queries in parts by split."""
    parts = {
        split: QUERIES.frame([{"query_id": split, "text": text, "split": split}])
        for split, text in (("train", train), ("test", test))
    }
    return Content(tables=(Table(QUERIES, parts),))


def test_a_build_key_is_what_decides_the_content() -> None:
    upstream = {"corpus": Upstream(digest="part", object="whole", build_key="key", partition="tiny")}
    build = Build("elo_table", "tiny", 3, {"model": "thurstone"}, (0, 1), upstream)
    assert build.key == build_key("elo_table", "tiny", 3, {"model": "thurstone"}, [0, 1], {"corpus": "part"})
    other = {"corpus": Upstream(digest="part", object="another whole", build_key="another key", partition="other")}
    assert Build("elo_table", "tiny", 3, {"model": "thurstone"}, (0, 1), other).key == build.key, "only what was read counts"


def test_a_record_survives_its_file(bench: Bench) -> None:
    source = bench.build("corpus", corpus())
    config = {"weights": [0.5, 1], "nested": {"none": None, "text": "é"}, "rate": 1.0}
    record = bench.build("elo_table", elo({"a": 1.0}), {"corpus": (source, None)}, config=config)
    assert bench.records.find("elo_table", "tiny", record.build_key) == record
    assert bench.records.current("elo_table", "tiny") == record
    assert bench.records.require("elo_table", "tiny") == (record, bench.store.get("elo_table", record.digest))
    assert list(verify(bench.records)) == [], "the build key follows from what was read back"


@pytest.mark.parametrize("lost", [MANIFEST, "corpus.parquet", "cut"])
def test_a_record_counts_only_while_its_object_is_complete(bench: Bench, lost: str) -> None:
    record = bench.build("corpus", corpus())
    folder = Path(str(bench.store.object_path("corpus", record.digest)))
    if lost == "cut":
        (folder / "corpus.parquet").write_bytes((folder / "corpus.parquet").read_bytes()[:-1])
    else:
        (folder / lost).unlink()
    assert bench.records.find("corpus", "tiny", record.build_key) is None
    again = bench.build("corpus", corpus())
    assert again.digest == record.digest
    assert bench.records.find("corpus", "tiny", record.build_key) == again
    assert list(verify(bench.records)) == []


def test_nothing_is_found_before_it_is_built(bench: Bench) -> None:
    assert bench.records.find("corpus", "tiny", "0" * 64) is None
    assert bench.records.current("corpus", "tiny") is None
    assert list(bench.records.refs()) == list(bench.records.all()) == list(bench.store.objects()) == []
    with pytest.raises(ArtifactError, match=r"corpus of tiny is not there yet. Materialise corpus for tiny first"):
        bench.records.require("corpus", "tiny")


def test_a_known_build_writes_only_the_ref(bench: Bench) -> None:
    record = bench.build("corpus", corpus(), partition="scifact-simulated", family="scifact")
    again = bench.build("corpus", corpus(), partition="scifact", family="scifact")
    assert again == record, "variants share the builds in which they do not differ"
    assert [path.name for path, _ in bench.records.all()] == [f"{record.build_key}.json"]
    assert list(bench.records.refs()) == [("corpus", "scifact"), ("corpus", "scifact-simulated")]


def test_another_digest_for_one_build_key_is_filed_beside(bench: Bench) -> None:
    first = bench.build("checkpoint", corpus(word="weights"), partition="tiny|anmi")
    build = Build("checkpoint", "tiny|anmi", 1, {}, (0,), {})
    artifact = bench.store.put("checkpoint", corpus(word="other weights"))
    second = record_of(build, artifact.digest, artifact.rows)
    assert second.build_key == first.build_key
    assert bench.records.write(second) is True, "nondeterminism is reported"
    names = sorted(path.name for path, _ in bench.records.all())
    assert names == sorted([f"{first.build_key}.json", f"{first.build_key}.{second.digest[:12]}.json"])
    assert {record.digest for _, record in bench.records.all() if record} == {first.digest, second.digest}
    bench.records.point("tiny|anmi", second)
    assert bench.records.current("checkpoint", "tiny|anmi") == second
    reused = bench.build("checkpoint", corpus(word="never built"), partition="tiny|anmi")
    assert reused == second, "running again does not go back to the first digest"
    assert bench.records.current("checkpoint", "tiny|anmi") == second
    for record in (first, second):
        child = bench.build("scores", elo({"a": 1.0}), {"checkpoint": (record, None)}, config={"of": record.digest})
        assert bench.records.parent("checkpoint", child.upstream["checkpoint"]) == record
    assert list(verify(bench.records)) == []


def test_equal_content_again_is_not_nondeterminism(bench: Bench) -> None:
    first = bench.build("corpus", corpus())
    second = bench.build("corpus", corpus(), rebuild=True)
    assert second.digest == first.digest
    assert bench.records.write(second) is False
    assert [record for _, record in bench.records.all()] == [second]


def test_a_damaged_record_is_replaced(bench: Bench) -> None:
    record = bench.build("corpus", corpus())
    path = bench.records.path("corpus", "tiny", record.build_key)
    path.write_bytes(path.read_bytes()[:-9])
    assert bench.records.find("corpus", "tiny", record.build_key) is None
    with pytest.raises(ArtifactError, match=r"the record of corpus for tiny .* is absent or damaged. Materialise corpus again"):
        bench.records.current("corpus", "tiny")
    again = bench.build("corpus", corpus())
    assert bench.records.current("corpus", "tiny") == again
    assert list(verify(bench.records)) == []


def test_a_torn_ref_heals_on_the_next_run(bench: Bench) -> None:
    record = bench.build("corpus", corpus())
    ref = Path(str(bench.store.root)) / "refs" / "corpus" / "tiny"
    ref.write_bytes(ref.read_bytes()[:40])
    assert bench.records.current("corpus", "tiny") is None
    assert bench.build("corpus", corpus()) == record
    assert bench.records.current("corpus", "tiny") == record


def test_a_record_of_another_versions_form_is_not_reused(bench: Bench) -> None:
    record = bench.build("corpus", corpus())
    value = record.model_dump(mode="json")
    write_bytes(bench.records.path("corpus", "tiny", record.build_key), seal({**value, "field_of_tomorrow": 1}))
    assert bench.records.find("corpus", "tiny", record.build_key) is None
    assert [found for _, found in bench.records.all()] == [None]
    assert bench.build("corpus", corpus()).digest == record.digest


def test_only_the_part_that_was_read_decides(bench: Bench) -> None:
    source = bench.build("queries", queries())
    read = {"queries#train": (source, "train")}
    trained = bench.build("checkpoint", elo({"a": 1.0}), read, partition="tiny|anmi")
    edited = bench.build("queries", queries(test="why, really"), config={"raw": "edited"})
    assert edited.digest != source.digest
    again = bench.build("checkpoint", elo({"a": 2.0}), {"queries#train": (edited, "train")}, partition="tiny|anmi")
    assert again == trained, "editing an evaluation question retrains nothing"
    changed = bench.build("queries", queries(train="how so"), config={"raw": "changed"})
    assert bench.build("checkpoint", elo({"a": 2.0}), {"queries#train": (changed, "train")}, partition="tiny|anmi") != trained
    assert bench.records.parent("queries#train", trained.upstream["queries#train"]) == source
    assert bench.records.parent("queries#train", again.upstream["queries#train"]) == source


def test_a_parent_of_another_partition_is_found(bench: Bench) -> None:
    record = bench.build("scores", elo({"a": 1.0}), partition="scifact-true|anmi", family="scifact|anmi")
    upstream = upstream_of(record, bench.store.get("scores", record.digest), "test")
    for name in ("scores#test", "scores@scifact-true|anmi", "scores#test@scifact-true|anmi"):
        assert bench.records.parent(name, upstream) == record
    assert bench.records.parent("corpus", upstream) is None
    assert bench.records.parent("scores", upstream.model_copy(update={"object": "0" * 64})) is None


def test_after_a_rejudgment_the_old_elo_table_is_there_and_the_old_model_names_it(bench: Bench) -> None:
    def judged(verdicts: str, score: float) -> tuple[Record, Record, Record]:
        judgments = bench.build("pairwise_judgments", corpus(word=verdicts), config={"file": verdicts})
        table = bench.build("elo_table", elo({"a": score, "b": 1400.0}), {"pairwise_judgments": (judgments, None)})
        reads = {"elo_table#train": (table, "train")}
        return judgments, table, bench.build("checkpoint", corpus(word=f"weights {score}"), reads, partition="tiny|anmi")

    old, new = judged("first", 1600.0), judged("second", 1700.0)
    assert all(before.digest != after.digest for before, after in zip(old, new, strict=True))
    assert bench.records.current("elo_table", "tiny") == new[1]
    assert bench.records.current("checkpoint", "tiny|anmi") == new[2]
    nodes = {node.name: node for node in lineage(bench.records, old[2]).walk()}
    assert nodes["elo_table#train"].record == old[1]
    assert nodes["pairwise_judgments"].record == old[0]
    stored = bench.store.get("elo_table", old[1].digest)
    assert stored.part_digest("train") == nodes["elo_table#train"].digest
    from anmi_pipeline.tables import ELO

    assert stored.table(ELO, "train").filter(pl.col("doc_id") == "a")["elo"].to_list() == [1600.0]
    assert list(verify(bench.records)) == []


def test_equal_content_from_another_history_stops_the_chain(bench: Bench) -> None:
    one = bench.build("pairwise_judgments", corpus(word="one"), config={"file": 1})
    two = bench.build("pairwise_judgments", corpus(word="two"), config={"file": 2})
    first = bench.build("elo_table", elo({"a": 1.0}), {"pairwise_judgments": (one, None)})
    second = bench.build("elo_table", elo({"a": 1.0}), {"pairwise_judgments": (two, None)})
    assert first.digest == second.digest
    assert first.build_key != second.build_key, "one digest, two histories"
    trained = bench.build("checkpoint", corpus(), {"elo_table": (first, None)})
    assert bench.build("checkpoint", corpus(word="never built"), {"elo_table": (second, None)}) == trained


def test_refs_move_only_when_they_change(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    record = bench.build("corpus", corpus())
    monkeypatch.setattr("anmi_pipeline.records.write_bytes", lambda path, data: pytest.fail(f"wrote {path}"))
    bench.records.point("tiny", record)


def test_what_a_killed_writer_left_is_no_ref_and_no_record(bench: Bench) -> None:
    bench.build("corpus", corpus())
    root = Path(str(bench.store.root))
    for folder in (root / "refs" / "corpus", root / "records" / "corpus" / "tiny", root / "objects" / "corpus"):
        (folder / ".0123456789abcdef.partial").write_bytes(b"half")
    assert list(bench.records.refs()) == [("corpus", "tiny")]
    assert len(list(bench.records.all())) == len(list(bench.store.objects())) == 1


def test_names() -> None:
    assert file_name("stdlib|anmi") == "stdlib--anmi"
    assert parts_read("queries", ("train", "test")) == [("queries#train", "train"), ("queries#test", "test")]
    assert parts_read("queries", None) == [("queries", None)]
    assert parts_read("queries", ()) == []
    assert {asset_of(name) for name in ("scores", "scores#test", "scores@a|b", "scores#test@a|b")} == {"scores"}


def test_what_the_record_says_of_the_machine() -> None:
    found = environment("cuda", 4)
    assert found["device"] == "cuda"
    assert found["threads"] == "4"
    assert {"python", "platform", "numpy", "polars", "pyarrow"} <= set(found)
    earlier = now()
    assert earlier < now()
    assert now().endswith("+00:00")
