"""The store keeps whole objects or none, whatever stops a writer, and says what stopped it."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from upath import UPath

from anmi_pipeline import records as records_module
from anmi_pipeline import sealing
from anmi_pipeline import store as store_module
from anmi_pipeline.errors import ArtifactError
from anmi_pipeline.lineage import garbage, verify
from anmi_pipeline.sealing import write_bytes
from anmi_pipeline.store import MANIFEST
from anmi_pipeline.tables import CORPUS, ELO
from anmi_pipeline_tests.conftest import REPOSITORY
from anmi_pipeline_tests.foundation.conftest import Disk
from anmi_pipeline_tests.foundation.made import Bench, corpus, files_in, mixed
from anmi_pipeline_tests.foundation.writer import content, write

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
    command = [
        sys.executable,
        "-m",
        "anmi_pipeline_tests.foundation.writer",
        str(store),
        str(folder),
        str(start),
        "100",
        str(stop),
    ]
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


def test_a_second_writer_waits_for_the_first(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the files of one could end beside the manifest of the other."""
    second = Thread(target=lambda: bench.store.put("thing", mixed(tmp_path / "b", note="second")))

    def interrupted(path: UPath, data: bytes) -> None:
        if path.name == MANIFEST and not second.ident:
            second.start()
            second.join(0.5)
        sealing.write_bytes(path, data)

    monkeypatch.setattr(store_module, "write_bytes", interrupted)
    artifact = bench.store.put("thing", mixed(tmp_path / "a", note="first"))
    second.join(60)
    assert not second.is_alive()
    assert artifact.file("plot.png").read_text() == "first"
    assert bench.store.intact("thing", artifact.digest)


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
