"""Issue 2: a new person's first quarter of an hour: fresh clone, `make demo`, a leaderboard trained on real text.

Clones the committed state into a temporary folder, makes the environment (the downloads), then runs `make demo` with nothing
in the environment, on two cores and without a network. With --home, an ANMI_HOME in which the demo has run already is only
read. About a quarter of an hour on 2 cores.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from harness import (
    REPOSITORY,
    Board,
    Figures,
    Finished,
    Installation,
    Interval,
    above,
    arguments,
    at_least,
    at_most,
    exactly,
    run,
    workplace,
)

SYSTEMS = ("bm25", "minilm", "rrf", "minmax", "anmi", "default", "features", "placebo")
TRAINED = ("anmi", "default")
QUESTIONS, HELD_OUT = "dev_final+test", "held_out"
CORES, SECONDS, BYTES, SEEDS, GAIN = 2, 600.0, 4e9, 3, 0.03
CARRIED = ("http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
"""What the package index may need of the caller's environment, beside PIP_* and UV_*."""


def empty_environment(folder: Path) -> dict[str, str]:
    """The environment of somebody who has just logged in, with a home of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    index = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_")) or name in CARRIED}
    own = Path(sys.executable).parent
    path = os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if Path(part) != own)
    return {"PATH": path, "HOME": str(folder), "LANG": "C.UTF-8"} | index


class Memory(threading.Thread):
    """Watches the memory of a session's processes together: the largest sum of their proportional sizes."""

    def __init__(self, session: int) -> None:
        """Watch one session."""
        super().__init__(daemon=True)
        self.session, self.peak, self.over = session, 0, threading.Event()

    def run(self) -> None:
        """Look twice a second."""
        while not self.over.wait(0.5):
            self.peak = max(self.peak, sum(map(self.size, Path("/proc").glob("[0-9]*"))))

    def size(self, process: Path) -> int:
        """Bytes of one process when it belongs to the session."""
        try:
            if int((process / "stat").read_text().rpartition(")")[2].split()[3]) != self.session:
                return 0
            line = next(row for row in (process / "smaps_rollup").read_text().splitlines() if row.startswith("Pss:"))
        except (OSError, StopIteration, IndexError):
            return 0
        return int(line.split()[1]) * 1024


def timed_demo(figures: Figures, clone: Path, environment: dict[str, str]) -> int:
    """`make demo` on two cores without a network; its exit code."""
    offline = (
        ["unshare", "-rn"] if subprocess.run(["unshare", "-rn", "true"], check=False, capture_output=True).returncode == 0 else []
    )
    figures.claim("the machine lets us take the network away", bool(offline), detail=" ".join(offline))
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[:CORES]))
    started = time.monotonic()
    process = subprocess.Popen(
        ["taskset", "--cpu-list", cores, *offline, "make", "demo"],
        cwd=clone,
        env=environment,
        start_new_session=True,
    )
    memory = Memory(process.pid)
    memory.start()
    try:
        code = process.wait()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        memory.over.set()
        memory.join()
    figures.check("make demo: exit code", code, exactly(0))
    figures.check(
        "make demo: wall seconds after the downloads",
        round(time.monotonic() - started, 1),
        at_most(SECONDS),
        detail=f"cores {cores}",
    )
    figures.check("make demo: peak memory of all its processes, GB", memory.peak / 1e9, at_most(BYTES / 1e9))
    return code


def fresh_demo(figures: Figures, place: Path) -> Path:
    """Clone, install, run; the clone's ANMI_HOME."""
    clone, environment = place / "clone", empty_environment(place / "person")
    cloned = run(["git", "clone", "--quiet", str(REPOSITORY), str(clone)], dict(os.environ))
    figures.check("git clone: exit code", cloned.code, exactly(0))
    changed = run(["git", "status", "--porcelain"], dict(os.environ), folder=REPOSITORY).out.splitlines()
    figures.note("files of the checkout that are not committed, so not in the clone", len(changed))
    figures.say("make venv (the downloads)")
    made = run(["make", "venv"], environment, folder=clone)
    figures.check("make venv: exit code", made.code, exactly(0), detail=end(made) if made.code else "")
    figures.note("make venv: wall seconds", round(made.seconds))
    figures.say("make demo")
    timed_demo(figures, clone, environment)
    return clone / ".anmi"


def end(done: Finished) -> str:
    """The last of what it said."""
    return done.text[-600:]


def check_board(figures: Figures, board: Board) -> None:
    """The systems, the gain on held-out sentences, the distance from the placebo on the written questions."""
    absent = [system for system in SYSTEMS if system not in board.systems]
    figures.check("systems that the board lacks", len(absent), exactly(0), detail=", ".join(absent))
    if absent:
        return
    for system in TRAINED:
        figures.check(f"{system}: seeds averaged", board.seeds(system, HELD_OUT), exactly(SEEDS))
        held = board.difference(system, "minilm", HELD_OUT)
        figures.check(f"{system} - minilm, nDCG@10 on held-out sentences", held.mean, at_least(GAIN), seed=0, detail=str(held))
        figures.check(f"{system} - minilm on held-out sentences: lower end of the interval", held.low, above(0.0), seed=0)
        control = board.difference(system, "placebo", QUESTIONS)
        figures.check(
            f"{system} - placebo, nDCG@10 on the written questions", control.mean, above(0.0), seed=0, detail=str(control)
        )
        figures.check(f"{system} - placebo on the written questions: lower end of the interval", control.low, above(0.0), seed=0)
        printed(figures, system, board.difference(system, "minilm", QUESTIONS))
    count = board.row("anmi", QUESTIONS)["n_queries"]
    figures.note("written questions with an answer (dev_final + test)", float(count))  # type: ignore[arg-type]


def printed(figures: Figures, system: str, gain: Interval) -> None:
    """The question gain with its interval, whatever it is."""
    figures.note(f"{system} - minilm, nDCG@10 on the written questions", gain.mean, seed=0, detail=str(gain))


def main() -> int:
    """Clone and run, or read what ran."""
    options = arguments(__doc__ or "")
    figures = Figures("2.1 demo")
    with workplace(options.home) as place:
        home = place if options.home is not None else fresh_demo(figures, place)
        check_board(figures, Board.of(Installation(home), "stdlib"))
    return figures.finish()


if __name__ == "__main__":
    sys.exit(main())
