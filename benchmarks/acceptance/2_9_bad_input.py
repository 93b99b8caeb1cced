"""Issue 2: every bad input gives one clear error and leaves nothing half-written, by `anmi dataset check` and by `anmi run`.

Each case damages a made-up collection of its own and starts from an empty ANMI_HOME. The last cases need mounts: the script
starts itself again in a mount namespace (unshare -rm), where a tmpfs is filled up or made read-only. About six minutes on 2
cores.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness import Bound, Figures, Finished, Installation, arguments, exactly, half_read, unfinished, workplace
from made import Made, make

BAD_INPUT, FAILED = 2, 1
DATASET = "quick"
TECHNICAL = ("Traceback", "NameError", "KeyError", "ValidationError", "OperationalError", "sqlalchemy", 'File "/')
"""What no person should see."""


@dataclass(frozen=True)
class Case:
    """One bad input.

    Attributes:
        name: what is wrong.
        damage: makes it wrong.
        names: what the error must name: the value, the place, the nearest valid name.
        arguments: of `anmi run`.
        checkable: whether `anmi dataset check` can see it.
    """

    name: str
    damage: Callable[[Made], None]
    names: tuple[str, ...]
    arguments: tuple[str, ...] = ("--dataset", DATASET)
    checkable: bool = True


def rewrite(path: Path, change: Callable[[list[bytes]], Sequence[bytes]]) -> None:
    """Change the lines of a file."""
    path.write_bytes(b"\n".join(change(path.read_bytes().split(b"\n"))))


def append(path: Path, line: str) -> None:
    """Add a last line."""
    path.write_bytes(path.read_bytes() + line.encode() + b"\n")


def document(made: Made, number: int, **fields: str) -> None:
    """Change fields of one document."""
    path = made.collection / "corpus.jsonl"
    lines = path.read_text().splitlines()
    lines[number] = json.dumps(json.loads(lines[number]) | fields)
    path.write_text("\n".join(lines) + "\n")


def twice(made: Made, name: str, number: int) -> None:
    """Repeat one row."""
    path = made.collection / name
    append(path, path.read_text().splitlines()[number])


def substitute(path: Path, old: str, new: str, count: int = -1) -> None:
    """Replace text in a file; it must be there."""
    text = path.read_text()
    if old not in text:
        raise RuntimeError(f"{path} has no {old!r}")
    path.write_text(text.replace(old, new, count))


def bad_byte(lines: list[bytes]) -> list[bytes]:
    """Put a byte that is not UTF-8 into line 5."""
    return [*lines[:4], lines[4][:20] + b"\xff" + lines[4][20:], *lines[5:]]


def yaml_of(made: Made, name: str = DATASET) -> Path:
    """The dataset's file."""
    return made.conf / "datasets" / f"{name}.yaml"


CASES = (
    Case("duplicate document id", lambda made: twice(made, "corpus.jsonl", 2), ("corpus.jsonl", '"d2"')),
    Case("duplicate query id", lambda made: twice(made, "queries.jsonl", 3), ("queries.jsonl", '"q3"')),
    Case(
        "qrels name an absent document",
        lambda made: append(made.collection / "qrels/train.tsv", "q0\tghost\t1"),
        ("ghost", "qrels"),
    ),
    Case(
        "qrels name an absent query", lambda made: append(made.collection / "qrels/test.tsv", "ghost\td1\t1"), ("ghost", "qrels")
    ),
    Case("empty document", lambda made: document(made, 3, title="", text=" "), ("corpus.jsonl", '"d3"')),
    Case("a 100 kB document", lambda made: document(made, 4, text="word " * 20_000), ("corpus.jsonl", "d4", "100,0")),
    Case(
        "wrong column in the corpus",
        lambda made: substitute(made.collection / "corpus.jsonl", '"text":', '"body":'),
        ("corpus.jsonl line 1", '"text"'),
    ),
    Case(
        "wrong column in the queries",
        lambda made: substitute(made.collection / "queries.jsonl", '"_id":', '"id":'),
        ("queries.jsonl line 1", '"_id"'),
    ),
    Case(
        "wrong columns in the qrels",
        lambda made: substitute(made.collection / "qrels/dev.tsv", "corpus-id", "document"),
        ("dev.tsv line 1", "corpus-id"),
    ),
    Case(
        "invalid UTF-8 in the corpus",
        lambda made: rewrite(made.collection / "corpus.jsonl", bad_byte),
        ("corpus.jsonl line 5", "UTF-8"),
    ),
    Case(
        "invalid UTF-8 in the YAML",
        lambda made: rewrite(yaml_of(made), lambda lines: [*lines, b"# \xff"]),
        (f"{DATASET}.yaml", "UTF-8"),
    ),
    Case("not YAML", lambda made: append(yaml_of(made), "judging: [a"), (f"{DATASET}.yaml",)),
    Case(
        "a YAML typo", lambda made: substitute(yaml_of(made), "judging:", "judgin:"), (f"{DATASET}.yaml", '"judgin"', '"judging"')
    ),
    Case("a YAML typo inside a block", lambda made: substitute(yaml_of(made), "degree:", "degre:"), ('degre"', '"degree"')),
    Case(
        "a typo in a recipe",
        lambda made: append(made.conf / "recipes/brief.yaml", "minning: {}"),
        ("brief", '"minning"', '"mining"'),
        ("--dataset", DATASET, "--recipe", "brief"),
        checkable=False,
    ),
    Case("unknown dataset", lambda made: None, ('"quikc"', f'"{DATASET}"'), ("--dataset", "quikc"), checkable=False),
    Case(
        "unknown recipe",
        lambda made: None,
        ('"featurse"', '"features"'),
        ("--dataset", DATASET, "--recipe", "featurse"),
        checkable=False,
    ),
    Case(
        "unknown recipe in the YAML",
        lambda made: substitute(yaml_of(made), "features]", "featurse]"),
        ('"featurse"', '"features"'),
    ),
    Case("a collection that is not there", lambda made: shutil.rmtree(made.collection), ("collection",)),
    Case(
        "a verdict about an absent document",
        lambda made: append(made.verdicts, "q0,d1,ghost,left"),
        ("battles.csv", "ghost"),
        ("--dataset", "replayed"),
    ),
    Case(
        "an unknown verdict",
        lambda made: append(made.verdicts, "q0,d1,d2,leftish"),
        ("battles.csv", "leftish"),
        ("--dataset", "replayed"),
    ),
)


def one_clear_error(figures: Figures, name: str, done: Finished, names: Sequence[str], *, code: int = BAD_INPUT) -> None:
    """Check the exit code, that there is one error, that it names what it must, and that nothing technical shows."""
    said = done.errors[0].removeprefix("error: ") if done.errors else done.text[-300:]
    figures.check(f"{name}: exit code", done.code, exactly(code), detail=said)
    figures.check(f"{name}: errors on standard error", len(done.errors), exactly(1))
    absent = [word for word in names if word not in said]
    figures.check(f"{name}: what the error fails to name", len(absent), exactly(0), detail=", ".join(absent))
    technical = [word for word in TECHNICAL if word in f"{done.out}\n{done.err}"]
    figures.check(f"{name}: technical words shown", len(technical), exactly(0), detail=", ".join(technical))


def nothing_half_written(figures: Figures, name: str, installation: Installation, *, stopped: bool = False) -> None:
    """Check the store after an error; `stopped`: the disk stopped the writer, so unreadable beginnings may lie there."""
    figures.check(f"{name}: files that anmi verify names", len(installation.damaged()), exactly(0))
    figures.check(f"{name}: incomplete artifacts that a reader could open", len(half_read(installation)), exactly(0))
    left = [*unfinished(installation), *map(str, installation.home.glob("*/**/.*.partial"))]
    allowed = Bound("no bound: unreadable", lambda _: True) if stopped else exactly(0)
    figures.check(f"{name}: unfinished objects and files", len(left), allowed, detail=", ".join(left[:2]))


def bad_case(figures: Figures, place: Path, case: Case) -> None:
    """One bad input, by both commands."""
    made = make(place / re.sub(r"\W+", "-", case.name))
    case.damage(made)
    installation = Installation(made.folder / "home", made.conf)
    dataset = case.arguments[1]
    if case.checkable:
        done = installation.anmi("dataset", "check", str(yaml_of(made, dataset)))
        one_clear_error(figures, f"{case.name}, dataset check", done, case.names)
    done = installation.anmi("run", *case.arguments)
    one_clear_error(figures, f"{case.name}, run", done, case.names)
    nothing_half_written(figures, case.name, installation)
    shutil.rmtree(made.folder)


def crlf(figures: Figures, place: Path) -> None:
    """Windows line ends change nothing: every file is read as if it had Unix ones."""
    made = make(place / "crlf")
    installation = Installation(made.folder / "home", made.conf)
    until = ("run", "--dataset", "replayed", "--until", "pairwise_judgments")
    figures.check("CRLF: run with Unix line ends: exit code", installation.anmi(*until).code, exactly(0))
    before = installation.snapshot()
    for path in (*made.collection.rglob("*.*"), made.run, made.verdicts, *made.conf.rglob("*.yaml")):
        if path.is_file():
            path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    for arguments_ in (("dataset", "check", str(yaml_of(made, "replayed"))), until):
        done = installation.anmi(*arguments_)
        figures.check(f"CRLF: anmi {' '.join(arguments_[:2])}: exit code", done.code, exactly(0), detail=" ".join(done.errors))
    after = installation.snapshot()
    moved = [asset for (asset, _), (digest, _) in after.items() if before[asset, "replayed"][0] != digest]
    figures.check("CRLF: digests that differ from those with Unix line ends", len(moved), exactly(0), detail=", ".join(moved))


def few_candidates(figures: Figures, place: Path, name: str, kept: int) -> None:
    """A training query that only `kept` documents are candidates of: said once and by name, and the rest is built."""
    made = make(place / f"candidates-{kept}")
    query = next(query for query, split in made.split.items() if split == "train")
    rewrite(made.run, lambda lines: without(lines, query, kept))
    path = made.collection / "queries.jsonl"
    rewrite(
        path,
        lambda lines: [
            json.dumps({"_id": query, "text": "xylophone"}).encode() if f'"{query}"'.encode() in line else line for line in lines
        ],
    )
    installation = Installation(made.folder / "home", made.conf)
    done = installation.anmi("run", "--dataset", DATASET)
    lines = [line for line in f"{done.out}\n{done.err}".splitlines() if re.search(rf"\b{query}\b", line)]
    said = " ".join(lines)[:300] or "it says nothing of it"
    figures.check(
        f"{name}: exit code",
        done.code,
        Bound("0 with a warning, or 2", lambda code: code in (0, BAD_INPUT)),
        detail=done.text[-200:] if done.code else "",
    )
    figures.check(f"{name}: lines that name the query", len(lines), exactly(1), detail=said)
    figures.claim(f"{name}: no technical words", not any(word in f"{done.out}{done.err}" for word in TECHNICAL))
    nothing_half_written(figures, name, installation)


def without(lines: list[bytes], query: str, kept: int) -> list[bytes]:
    """A run with only the first few lines of one query."""
    own = [line for line in lines if line.startswith(f"{query} ".encode())]
    return [line for line in lines if line not in own[kept:]]


def one_document(figures: Figures, place: Path) -> None:
    """A corpus of one document: there is nothing to compare, and that is said."""
    made = make(place / "one-document")
    for path, wanted in ((made.collection / "corpus.jsonl", '"d0"'), (made.run, " d0 ")):
        rewrite(path, lambda lines, wanted=wanted: [line for line in lines if wanted.encode() in line or not line])
    for path in (made.collection / "qrels").iterdir():
        rewrite(path, lambda lines: [line for line in lines if b"\td0\t" in line or b"query-id" in line or not line])
    installation = Installation(made.folder / "home", made.conf)
    done = installation.anmi("run", "--dataset", DATASET)
    figures.check(
        "a corpus of one document: exit code",
        done.code,
        Bound("0 or 2", lambda code: code in (0, BAD_INPUT)),
        detail=" ".join(done.errors),
    )
    figures.claim("a corpus of one document: no technical words", not any(word in f"{done.out}{done.err}" for word in TECHNICAL))
    nothing_half_written(figures, "a corpus of one document", installation)


def file_limit(figures: Figures, place: Path) -> None:
    """A disk that takes no more, as far as one file can tell; and the same command when there is room again."""
    made = make(place / "limit", documents=8000, queries=30)
    installation = Installation(made.folder / "home", made.conf)
    done = installation.anmi("run", "--dataset", DATASET, "--until", "corpus", limit_file_bytes=640_000)
    one_clear_error(figures, "full disk (file size limit)", done, ("objects/corpus", "limit"), code=FAILED)
    nothing_half_written(figures, "full disk (file size limit)", installation, stopped=True)
    done = installation.anmi("run", "--dataset", DATASET, "--until", "corpus")
    figures.check(
        "full disk (file size limit): exit code when there is room again",
        done.code,
        exactly(0),
        detail=done.text[-200:] if done.code else "",
    )


def mounted(size: str, place: Path) -> Path:
    """A tmpfs of a size; it goes away with the mount namespace."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)
    return place


def full_disk(figures: Figures, place: Path) -> None:
    """A disk with next to nothing left, for the store alone and for all of ANMI_HOME."""
    for name, whole in (("full disk, store", False), ("full disk, ANMI_HOME", True)):
        made = make(place / f"disk-{whole}", documents=2000)
        disk = mounted("24m", made.folder / "disk")
        home = disk / "home" if whole else made.folder / "home"
        installation = Installation(home, made.conf, extra={} if whole else {"ANMI_STORE": str(disk)})
        store = replace(installation, home=home if whole else disk)
        done = installation.anmi("run", "--dataset", DATASET, "--until", "qrels")
        figures.check(f"{name}: run with room: exit code", done.code, exactly(0), detail=done.text[-200:] if done.code else "")
        filler = disk / "filler"
        filler.write_bytes(b"\0" * max(shutil.disk_usage(disk).free - 40_000, 0))
        done = installation.anmi("run", "--dataset", DATASET)
        one_clear_error(figures, name, done, ("full",), code=FAILED)
        filler.unlink()
        nothing_half_written(figures, name, replace(store, extra=installation.extra), stopped=True)
        done = installation.anmi("run", "--dataset", DATASET, "--until", "elo_table")
        figures.check(
            f"{name}: exit code when there is room again", done.code, exactly(0), detail=done.text[-200:] if done.code else ""
        )


def read_only(figures: Figures, place: Path) -> None:
    """A store, and an ANMI_HOME, that cannot be written; what only reads still works."""
    for name, whole, empty in (
        ("read-only store", False, True),
        ("read-only ANMI_HOME", True, False),
        ("read-only empty ANMI_HOME", True, True),
    ):
        made = make(place / f"read-only-{whole}-{empty}")
        disk = mounted("64m", made.folder / "disk")
        home = disk if whole else made.folder / "home"
        installation = Installation(home, made.conf, extra={} if whole else {"ANMI_STORE": str(disk)})
        if not empty:
            done = installation.anmi("run", "--dataset", DATASET, "--recipe", "bm25")
            figures.check(f"{name}: run while it could be written: exit code", done.code, exactly(0))
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        done = installation.anmi("run", "--dataset", DATASET, "--recipe", "features")
        one_clear_error(figures, name, done, ("ANMI_HOME",), code=FAILED if done.code == FAILED else BAD_INPUT)
        nothing_half_written(figures, name, replace(installation, home=disk))
        if not empty:
            done = installation.anmi("leaderboard", "--dataset", DATASET)
            figures.check(
                f"{name}: anmi leaderboard still answers: exit code",
                done.code,
                exactly(0),
                detail=done.text[-200:] if done.code else "",
            )


def with_mounts(figures: Figures, place: Path) -> None:
    """Start this script again where it may mount."""
    command = ["unshare", "-rm", sys.executable, str(Path(__file__).resolve()), "--mounts", "--home", str(place / "mounts")]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), check=False)
    sys.stdout.write(done.stdout)
    figures.check(
        "full disk and read-only store, in a mount namespace: exit code", done.returncode, exactly(0), detail=done.stderr[-500:]
    )


def main() -> int:
    """All cases."""
    options = arguments(
        __doc__ or "", add=lambda parser: parser.add_argument("--mounts", action="store_true", help="only the mounts")
    )
    figures = Figures("2.9 bad input" + (", mounts" if options.mounts else ""))
    with workplace(options.home) as place:
        work = place / f"cases-{os.getpid()}"
        if options.mounts:
            full_disk(figures, work)
            read_only(figures, work)
            return figures.finish()
        for case in CASES:
            bad_case(figures, work, case)
        crlf(figures, work)
        few_candidates(figures, work, "a query without candidates", 0)
        few_candidates(figures, work, "a query with one candidate", 1)
        one_document(figures, work)
        file_limit(figures, work)
        with_mounts(figures, work)
    return figures.finish()


if __name__ == "__main__":
    sys.exit(main())
