"""An object reads back as it was stored; its digest is of content alone; nothing damaged is read."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from upath import UPath

from anmi_pipeline import store as store_module
from anmi_pipeline.errors import ArtifactError, InputError
from anmi_pipeline.sealing import read_sealed, seal
from anmi_pipeline.store import MANIFEST, Content, Store, Table
from anmi_pipeline.tables import CORPUS, ELO, RUN
from anmi_pipeline_tests.foundation.made import Bench, corpus, elo, elo_rows, files_in, mixed, tensors


def test_an_object_reads_back(bench: Bench, tmp_path: Path) -> None:
    artifact = bench.store.put("thing", mixed(tmp_path / "out"))
    assert artifact == bench.store.get("thing", artifact.digest)
    assert bench.store.has("thing", artifact.digest)
    assert artifact.rows == {"corpus": 3, "elo_table": 4}
    assert artifact.facts == {"n": 2}
    assert artifact.table(CORPUS).equals(corpus().tables[0].parts["*"])
    whole = artifact.table(ELO)
    assert whole["query_id"].to_list() == ["test-q", "test-q", "train-q", "train-q"]
    assert artifact.table(ELO, "train").equals(whole.filter(pl.col("query_id") == "train-q"))
    assert artifact.table(ELO, "train", "test").equals(whole)
    assert artifact.file("model/weights.safetensors").read_bytes() == tensors({"w": [1.0, 2.0]})
    assert artifact.local_folder(tmp_path / "cache") == Path(str(artifact.path))
    assert not (tmp_path / "cache").exists()
    assert set(files_in(Path(str(artifact.path)))) == {
        *("corpus.parquet", "elo_table/test.parquet", "elo_table/train.parquet"),
        *("model/weights.safetensors", "settings.json", "plot.png", MANIFEST),
    }


def test_asking_for_what_is_not_there_says_what_is(bench: Bench, tmp_path: Path) -> None:
    artifact = bench.store.put("thing", mixed(tmp_path / "out"))
    with pytest.raises(ArtifactError, match=r"holds no table run; it holds corpus, elo_table"):
        artifact.table(RUN)
    with pytest.raises(ArtifactError, match=r"has no part 'dev'; it has test, train"):
        artifact.table(ELO, "dev")
    with pytest.raises(ArtifactError, match=r"has no part 'dev'; it has test, train"):
        artifact.part_digest("dev")
    with pytest.raises(ArtifactError, match=r"has no file 'x'; it has .*settings.json"):
        artifact.file("x")
    with pytest.raises(ArtifactError, match=r"thing 0000 is not complete at .*/objects/thing/0000. Materialise thing again"):
        bench.store.get("thing", "0000")


def test_a_table_that_breaks_its_declaration_is_not_stored(bench: Bench) -> None:
    twice = pl.concat([CORPUS.frame([{"doc_id": "a", "title": "", "text": "x"}])] * 2)
    with pytest.raises(InputError, match="2 rows share a key"):
        bench.store.put("corpus", Content(tables=(Table.whole(CORPUS, twice),)))
    assert not Path(str(bench.store.root)).exists()


def test_equal_content_gives_equal_bytes_whatever_the_order(bench: Bench, tmp_path: Path) -> None:
    rows = CORPUS.frame([{"doc_id": f"d{i}", "title": "", "text": str(i)} for i in range(50)])
    shuffled = rows.sample(fraction=1.0, shuffle=True, seed=3).select("text", "group_id", "doc_id", "title")
    other = Store(str(tmp_path / "other"))
    first = bench.store.put("corpus", Content(tables=(Table.whole(CORPUS, rows),)))
    second = other.put("corpus", Content(tables=(Table.whole(CORPUS, shuffled),)))
    assert first.digest == second.digest
    assert second.table(CORPUS).equals(rows), "rows come sorted by key, also from one part"
    assert files_in(Path(str(first.path))) == files_in(Path(str(second.path)))


def test_the_digest_is_of_content_alone(bench: Bench, tmp_path: Path) -> None:
    def put(made: Content) -> str:
        return bench.store.put("thing", made).digest

    first = put(mixed(tmp_path / "a", note="plot of Monday"))
    assert put(mixed(tmp_path / "b", note="plot of Tuesday")) == first, "incidental files do not count"
    changed = mixed(tmp_path / "c")
    (tmp_path / "c" / "settings.json").write_text("{ }")
    assert put(changed) != first, "files count"
    weights = mixed(tmp_path / "d")
    (tmp_path / "d" / "model" / "weights.safetensors").write_bytes(tensors({"w": [1.0, 2.0]}, {"saved": "today"}))
    assert put(weights) == first, "the weights' metadata does not"
    (tmp_path / "d" / "model" / "weights.safetensors").write_bytes(tensors({"w": [1.0, 2.5]}))
    assert put(weights) != first, "weights do"
    base = corpus().tables
    assert put(Content(tables=base, facts={"a": 1})) != put(Content(tables=base)), "facts count"
    assert put(Content(tables=base, notes={"a": 1})) == put(Content(tables=base)), "notes do not"


def test_a_parts_digest_does_not_depend_on_other_parts(bench: Bench) -> None:
    def put(train: float, test: float) -> tuple[str, str, str]:
        parts = {
            split: ELO.frame(elo_rows(split, {"a": score, "b": 1400.0})) for split, score in (("train", train), ("test", test))
        }
        artifact = bench.store.put("elo_table", Content(tables=(Table(ELO, parts),)))
        assert artifact.part_digest(None) == artifact.digest
        return artifact.digest, artifact.part_digest("train"), artifact.part_digest("test")

    first, other = put(1600.0, 1600.0), put(1600.0, 1700.0)
    assert first[0] != other[0]
    assert first[1] == other[1]
    assert first[2] != other[2]


def test_a_part_covers_every_split_table(bench: Bench) -> None:
    def part(elo_score: float) -> str:
        runs = {s: RUN.frame([{"query_id": s, "doc_id": "a", "rank": 1, "score": 1.0}]) for s in ("train", "test")}
        artifact = bench.store.put("thing", Content(tables=(Table(RUN, runs), *elo({"a": elo_score}).tables, *corpus().tables)))
        assert sorted(artifact.parts) == ["test", "train"]
        return artifact.part_digest("train")

    assert part(1600.0) != part(1700.0)


def test_a_second_writer_of_equal_content_writes_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bench.store.put("thing", mixed(tmp_path / "out", note="first"))
    before = files_in(tmp_path / "store")
    monkeypatch.setattr(store_module, "write_bytes", lambda path, data: pytest.fail(f"wrote {path}"))
    bench.store.put("thing", mixed(tmp_path / "out", note="second"))
    assert files_in(tmp_path / "store") == before


@pytest.mark.parametrize("name", ["elo_table/train.parquet", "model/weights.safetensors", "plot.png", MANIFEST])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_new_writer_mends_a_damaged_object(bench: Bench, tmp_path: Path, name: str, harm: str) -> None:
    artifact = bench.store.put("thing", mixed(tmp_path / "out"))
    before = files_in(Path(str(artifact.path)))
    path = Path(str(artifact.path)) / name
    data = path.read_bytes()
    harms: dict[str, Callable[[], object]] = {
        "flip": lambda: path.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]),
        "cut": lambda: path.write_bytes(data[:-1]),
        "remove": path.unlink,
    }
    harms[harm]()
    assert bench.store.put("thing", mixed(tmp_path / "out")).digest == artifact.digest
    assert files_in(Path(str(artifact.path))) == before


@pytest.mark.parametrize("harm", ["flip", "remove"])
def test_a_damaged_table_is_never_read(bench: Bench, tmp_path: Path, harm: str) -> None:
    artifact = bench.store.put("thing", mixed(tmp_path / "out"))
    path = Path(str(artifact.path)) / "corpus.parquet"
    data = path.read_bytes()
    for place in range(0, len(data), 97):
        path.unlink() if harm == "remove" else path.write_bytes(data[:place] + bytes([data[place] ^ 8]) + data[place + 1 :])
        with pytest.raises(ArtifactError, match=r"corpus.parquet.*anmi verify"):
            artifact.table(CORPUS)
        path.write_bytes(data)
    assert artifact.table(CORPUS).height == 3


def test_a_folder_may_not_hold_the_objects_own_names(bench: Bench, tmp_path: Path) -> None:
    for name in (MANIFEST, "corpus.parquet"):
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        (folder / name).write_text("mine")
        with pytest.raises(ArtifactError, match=f"holds {name}"):
            bench.store.put("corpus", Content(tables=corpus().tables, folder=folder))
    assert not list(bench.store.objects())


def test_empty_content_is_an_object_too(bench: Bench) -> None:
    artifact = bench.store.put("pairwise_judge", Content(facts={"reason": "the dataset asks for none"}))
    assert bench.store.get("pairwise_judge", artifact.digest).facts == {"reason": "the dataset asks for none"}
    assert list(bench.store.objects()) == [("pairwise_judge", artifact.digest, artifact.path)]


# Sealed files


def test_any_changed_or_missing_byte_breaks_a_seal(tmp_path: Path) -> None:
    value = {"asset": "corpus", "rows": {"corpus": 3}, "notes": [1.5, None, "é"]}
    path = UPath(tmp_path / "sealed")
    data = seal(value)
    path.write_bytes(data)
    assert read_sealed(path) == value
    for place in range(len(data)):
        for bit in (1, 32, 128):
            path.write_bytes(data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :])
            assert read_sealed(path) is None
    for length in range(len(data)):
        path.write_bytes(data[:length])
        assert read_sealed(path) is None
    path.write_bytes(data + b"\n")
    assert read_sealed(path) is None
    assert read_sealed(UPath(tmp_path / "absent")) is None
    assert read_sealed(UPath(tmp_path / "sealed" / "below a file")) is None


def test_a_sealed_file_that_cannot_be_read_is_not_taken_for_absent(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ArtifactError, match=r"cannot read .*folder: Is a directory. Check its permissions"):
        read_sealed(UPath(tmp_path / "folder"))
