"""A process that writes to a store, for the tests that kill it, race it or limit it. Run as a module."""

import sys
from pathlib import Path

import numpy as np

from anmi_pipeline.store import Content, Table
from anmi_pipeline.tables import ELO
from anmi_pipeline_tests.foundation.made import Bench, elo_rows, tensors

ASSETS = 3


def content(number: int, folder: Path, mark: str = "") -> Content:
    """The same content for the same number: a table in parts, weights, and a note that only `mark` decides."""
    draws = np.random.default_rng(number)
    parts = {
        split: ELO.frame(elo_rows(f"{split}-{number}", {f"d{i}": float(draws.normal(1500, 100)) for i in range(300)}))
        for split in ("train", "test")
    }
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / "model" / "weights.safetensors").write_bytes(tensors({"w": list(draws.normal(size=30_000))}))
    (folder / "note.txt").write_text(mark or "note")
    return Content(tables=(Table(ELO, parts),), folder=folder, incidental=frozenset({"note.txt"}), facts={"number": number})


def write(bench: Bench, number: int, folder: Path, mark: str = "") -> None:
    """Build the artifact of a number, which reads that of the number before."""
    asset = f"asset{number % ASSETS}"
    before = bench.records.current(f"asset{(number - 1) % ASSETS}", "tiny")
    reads = {f"{before.asset}#train": (before, "train")} if before else {}
    bench.build(asset, content(number, folder, mark), reads, config={"number": number})


def stop_within_write(number: int) -> None:
    """Wait for the end within the number-th write to the store, when only half of the file is there."""
    whole = Path.write_bytes
    done = 0

    def halved(self: Path, data: bytes) -> int:
        nonlocal done
        done += self.name.endswith(".partial")
        if done != number:
            return whole(self, data)
        whole(self, data[: len(data) // 2])
        print("half", flush=True)
        sys.stdin.read()
        return 0

    Path.write_bytes = halved


def main(store: str, folder: str, start: int, count: int, stop: int) -> None:
    """Write `count` artifacts, a line on stdout after each."""
    if stop:
        stop_within_write(stop)
    bench = Bench(store)
    print("ready", flush=True)
    for number in range(start, start + count):
        write(bench, number, Path(folder))
        print(number, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
