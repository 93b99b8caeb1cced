"""The store keeps whole objects or none, whatever stops a writer, and says what stopped it."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from upath import UPath

from anmi_pipeline import records as records_module
from anmi_pipeline import sealing
from anmi_pipeline import store as store_module
from anmi_pipeline.errors import ArtifactError, InputError
from anmi_pipeline.lineage import garbage, verify
from anmi_pipeline.sealing import read_sealed, seal, write_bytes
from anmi_pipeline.store import MANIFEST, Content, Store, Table
from anmi_pipeline.tables import CORPUS, ELO, RUN
from anmi_pipeline_tests.conftest import REPOSITORY
from anmi_pipeline_tests.foundation.conftest import Disk
from anmi_pipeline_tests.foundation.made import Bench, corpus, elo, elo_rows, tensors
from anmi_pipeline_tests.foundation.writer import content, write


def files_in(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, locks aside."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if not name.startswith("locks/")}


def mixed(folder: Path, note: str = "note") -> Content:
    """Tables whole and in parts, weights, a plain file, an incidental file, facts."""
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / "model" / "weights.safetensors").write_bytes(tensors({"w": [1.0, 2.0]}))
    (folder / "settings.json").write_text("{}")
    (folder / "plot.png").write_text(note)
    tables = (*corpus().tables, *elo({"a": 1600.0, "b": 1400.0}).tables)
    return Content(tables=tables, folder=folder, incidental=frozenset({"plot.png"}), facts={"n": 2}, notes={"seconds": 1.5})


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
        parts = {split: ELO.frame(elo_rows(split, {"a": score, "b": 1400.0})) for split, score in (("train", train), ("test", test))}
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
    with pytest.raises(ArtifactError, match=r"cannot read .*folder: Is a directory"):
        read_sealed(UPath(tmp_path / "folder"))


# Writers that are stopped


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


@contextmanager
def killed_after(writes: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """End the process after so many writes to the store; the names of the files written are kept."""
    names: list[str] = []

    def counted(path: UPath, data: bytes) -> None:
        if len(names) == writes:
            raise Killed
        sealing.write_bytes(path, data)
        names.append(path.relative_to(path.parents[-1]).as_posix())

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "write_bytes", counted)
        patch.setattr(records_module, "write_bytes", counted)
        yield names


def test_a_crash_between_any_two_writes_leaves_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with killed_after(1000, monkeypatch) as names:
        reference = Bench(tmp_path / "reference").build("thing", mixed(tmp_path / "out"))
    kinds = [name.split("/reference/")[1] for name in names]
    assert all(name.startswith("objects/") for name in kinds[:-2])
    assert [kinds[-3].rsplit("/")[-1], kinds[-2].split("/")[0], kinds[-1].split("/")[0]] == [MANIFEST, "records", "refs"]
    for writes in range(len(names)):
        bench = Bench(tmp_path / f"store{writes}")
        with killed_after(writes, monkeypatch), pytest.raises(Killed):
            bench.build("thing", mixed(tmp_path / "out"))
        finished = writes >= len(names) - 2
        assert bench.store.has("thing", reference.digest) is finished
        found = bench.records.find("thing", "tiny", reference.build_key)
        assert (found is not None) is (writes >= len(names) - 1)
        assert bench.records.current("thing", "tiny") is None
        if not finished:
            with pytest.raises(ArtifactError, match="not complete"):
                bench.store.get("thing", reference.digest)
        assert list(verify(bench.records)) == []
        with killed_after(1000, monkeypatch) as again:
            record = bench.build("thing", mixed(tmp_path / "out"))
        assert record.digest == reference.digest
        expected = {0: len(names), len(names) - 2: 2, len(names) - 1: 1}
        assert len(again) == expected.get(writes, len(names)), "what is finished is not written again"
        assert bench.store.get("thing", record.digest).table(CORPUS).height == 3
        assert list(verify(bench.records)) == []
        assert list(garbage(bench.records)) == []


def start_writer(store: Path, folder: Path, start: int, stop: int = 0) -> subprocess.Popen[str]:
    """A process that writes to a store until it is killed; with `stop` it waits within the stop-th write."""
    command = [sys.executable, "-m", "anmi_pipeline_tests.foundation.writer", str(store), str(folder), str(start), "100", str(stop)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def kill(process: subprocess.Popen[str]) -> None:
    """kill -9, and see that it was not over before."""
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def read_everything(bench: Bench) -> int:
    """Read what every ref names; a half object would fail."""
    read = 0
    for asset, partition in list(bench.records.refs()):
        current = bench.records.current(asset, partition)
        if current is not None:
            artifact = bench.store.get(asset, current.digest)
            assert artifact.table(ELO).height == 600
            assert artifact.part_digest("train")
            assert artifact.file("model/weights.safetensors").read_bytes()
            read += 1
    return read


def test_a_writer_killed_at_any_moment_leaves_nothing_half(tmp_path: Path) -> None:
    reader, start = Bench(tmp_path / "store"), 0
    for moment in np.random.default_rng(7).integers(1, 12, size=4):
        process = start_writer(tmp_path / "store", tmp_path / "out", start)
        assert process.stdout is not None
        while (line := process.stdout.readline().strip()) != str(start + moment - 1):
            assert line, "the writer ended by itself"
            read_everything(reader)
        kill(process)
        assert read_everything(reader) == min(3, start + moment)
        assert list(verify(reader.records)) == []
        start += int(moment)
        write(reader, start, tmp_path / "mine")
        assert list(verify(reader.records)) == []
        start += 1
    assert all(path.name.endswith(".partial") for path in garbage(reader.records)), "what was unfinished has been completed"


@pytest.mark.parametrize(("stop", "where"), [(1, "objects"), (5, "objects"), (6, "records"), (7, "refs"), (12, "objects")])
def test_a_writer_killed_within_a_file_leaves_nothing_half(tmp_path: Path, stop: int, where: str) -> None:
    process = start_writer(tmp_path / "store", tmp_path / "out", 0, stop)
    assert process.stdout is not None
    while process.stdout.readline().strip() != "half":
        assert process.poll() is None
    kill(process)
    bench = Bench(tmp_path / "store")
    (partial,) = (tmp_path / "store").rglob("*.partial")
    assert partial.relative_to(tmp_path / "store").parts[0] == where
    assert read_everything(bench) == stop // 8, "each artifact takes seven writes"
    assert list(verify(bench.records)) == []
    for number in range(2):
        write(bench, number, tmp_path / "mine")
    assert read_everything(bench) == 2
    assert list(verify(bench.records)) == []
    assert [str(path) for path in garbage(bench.records)] == [str(partial)]


def race(store: str, folder: str, number: int, barrier: object) -> None:
    """Write the same objects as the other processes, at the same time, each with its own incidental note."""
    bench = Bench(store)
    for step in range(8):
        made = content(step, Path(folder) / str(number), mark=f"process {number} " * (number + 1))
        barrier.wait(60)  # type: ignore[attr-defined]
        bench.build("thing", made, config={"step": step})


def test_concurrent_writers_of_equal_content_leave_one_whole_object(tmp_path: Path) -> None:
    context = get_context("spawn")
    barrier = context.Barrier(3)
    processes = [context.Process(target=race, args=(str(tmp_path / "store"), str(tmp_path), n, barrier)) for n in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    bench = Bench(tmp_path / "store")
    assert list(verify(bench.records)) == []
    assert list(garbage(bench.records)) == []
    assert len(list(bench.store.objects())) == 8
    for step in range(8):
        (digest,) = [d for _, d, _ in bench.store.objects() if bench.store.get("thing", d).facts["number"] == step]
        assert bench.store.get("thing", digest).table(ELO).height == 600


def test_threads_of_one_process_may_write_the_same_file(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    path = UPath(tmp_path / "file")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: write_bytes(path, bytes([n]) * 50_000), range(64)))
    assert len(set(path.read_bytes())) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


# Stores that refuse


LIMITED = """
import resource, sys
from pathlib import Path
from anmi_pipeline.errors import ArtifactError
from anmi_pipeline_tests.foundation.made import Bench
from anmi_pipeline_tests.foundation.writer import content
made = content(0, Path(sys.argv[2]))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    Bench(sys.argv[1]).build("thing", made)
except ArtifactError as error:
    print(error)
"""


def test_a_file_size_limit_is_one_clear_error(tmp_path: Path) -> None:
    store = tmp_path / "store"
    command = [sys.executable, "-c", LIMITED, str(store), str(tmp_path / "out")]
    said = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"cannot write {store}/objects/thing/")
    assert "weights.safetensors: File too large. The file size limit is reached: raise it (ulimit -f) and run again" in said
    bench = Bench(store)
    assert not list(store.rglob("*.partial"))
    assert list(verify(bench.records)) == []
    record = bench.build("thing", content(0, tmp_path / "out"))
    assert bench.store.get("thing", record.digest).table(ELO).height == 600


@pytest.mark.parametrize("harm", ["full", "read_only"])
def test_a_store_that_refuses_is_one_clear_error(disk: Disk, tmp_path: Path, harm: str) -> None:
    store = disk.path / "store"
    bench = Bench(store)
    first = bench.build("thing", content(0, tmp_path / "out"))
    before = files_in(store)
    ballast = disk.fill() if harm == "full" else None
    if harm == "read_only":
        disk.read_only(True)
    remedy = "free space and run again" if harm == "full" else "The store is read-only: set ANMI_HOME or ANMI_STORE"
    with pytest.raises(ArtifactError, match=rf"cannot write {store}/.*{remedy}"):
        bench.build("thing", content(1, tmp_path / "out"), config={"number": 1})
    assert {name: data for name, data in files_in(store).items() if name in before} == before
    assert not [name for name in files_in(store) if name.endswith(".partial")]
    assert bench.records.current("thing", "tiny") == first
    assert list(verify(bench.records)) == []
    assert bench.build("thing", content(0, tmp_path / "out")) == first, "what is known is reused without a write"
    if ballast:
        ballast.unlink()
    else:
        disk.read_only(False)
    second = bench.build("thing", content(1, tmp_path / "out"), config={"number": 1})
    assert bench.store.get("thing", second.digest).table(ELO).height == 600
    assert list(verify(bench.records)) == []
    assert list(garbage(bench.records)) == []


def test_a_disk_that_fills_within_an_object_leaves_no_partial_file(disk: Disk, tmp_path: Path) -> None:
    bench = Bench(disk.path / "store")
    with pytest.raises(ArtifactError, match=r"cannot write .*: No space left on device. The disk is full"):
        for number in range(20):
            bench.build("thing", content(number, tmp_path / "out"), config={"number": number})
    assert not list(disk.path.rglob("*.partial"))
    assert list(verify(bench.records)) == []
    for path in list(garbage(bench.records)):
        assert not (path / MANIFEST).exists()


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EDQUOT, errno.EIO])
def test_other_refusals_name_the_path_and_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(self: Path, data: bytes) -> int:
        raise OSError(code, os.strerror(code), str(self))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(ArtifactError, match=rf"cannot write {tmp_path}/a/b: {os.strerror(code)}. .*(run again|can be written)"):
        write_bytes(UPath(tmp_path / "a" / "b"), b"x")


def test_a_file_in_the_way_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(ArtifactError, match=r"cannot write .*/store/"):
        Bench(tmp_path / "store").build("thing", corpus())
