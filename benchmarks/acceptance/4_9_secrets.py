"""Issue 4: no key, no document text and no answer of a judge in logs at INFO; the key nowhere at all.

Keys, documents, queries and answers that can be recognised are planted, and `anmi run` meets everything that makes programs
talk: a run that succeeds and trains, answers that are garbage, both batch APIs, a refused key, a refused request whose error
quotes the key and the documents, a provider that is down and quotes them too, a ledger that cannot be written, a parser that
crashes, a kill -9. Afterwards everything that was written or printed is searched, compressed columns, parquet files and archives
included: the key must be in none of it; texts and answers only in the objects and in the ledger, neither printed nor in Dagster's
events, compute logs, MLflow and records. One thing shows texts and is no log: the metadata of a built asset hold the beginning
(60 characters) of five of its rows, for the UI. About four minutes on 2 cores.
"""

import base64
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl
from api_dataset import NAME, ApiDataset, api_judge, arguments_of
from harness import Figures, Finished, Installation, above, arguments, exactly, run, workplace

from anmi_pipeline_tests.judging.wire_answers import GARBAGE, WireSettings
from anmi_pipeline_tests.judging.wire_server import SpawnedServer, spawned

KEYS = {"OPENAI_API_KEY": "sk-proj-PLANTED0123456789abcdefOPENAI", "ANTHROPIC_API_KEY": "sk-ant-api03-PLANTED0123456789ANTHROPIC"}
SECRETS = [form for key in KEYS.values() for form in (key, key[3:], base64.b64encode(key.encode()).decode().rstrip("="))]
"""The keys, without their usual beginning too, and as base64."""
BODY, HEAD, QUERY = "plantedbody", "plantedhead", "plantedquery"
"""Words in the middle of every document, at the beginning of every document, in every query."""
ANSWERS = [text for text in GARBAGE if len(text) > 12]
JUDGED = "pairwise_judgments"
MOST_TURNS = 10
CRASHING_PARSER = """
from anmi_pipeline.judging import parsing
def crash(answer):
    raise RuntimeError("the parser crashed")
parsing.p_first = crash
from anmi_pipeline.cli import main
main()
"""
FULL = """
create trigger full before insert on verdicts when (select count(*) from verdicts) > 20
begin select raise(abort, 'database or disk is full'); end
"""
Play = Callable[["Scene"], None]


@dataclass
class Scene:
    """One thing that happens.

    Attributes:
        made: the collection.
        installation: its ANMI_HOME, keys planted.
        server: the loopback server.
        said: what commands printed.
    """

    made: ApiDataset
    installation: Installation
    server: SpawnedServer
    said: list[Finished] = field(default_factory=list[Finished])

    def anmi(self, *words: str) -> Finished:
        """Run a command and keep what it said."""
        self.said.append(self.installation.anmi(*words))
        return self.said[-1]


@dataclass(frozen=True)
class Case:
    """A scene's settings.

    Attributes:
        name: for people.
        play: what is done.
        code: exit code of the last command.
        error: what its error says, "" where it ends well.
        wire: settings of the server.
        judge: further settings of both judges.
    """

    name: str
    play: Play
    code: int = 1
    error: str = ""
    wire: WireSettings = field(default_factory=WireSettings)
    judge: dict[str, object] = field(default_factory=dict[str, object])


def judge_all(scene: Scene) -> None:
    """Up to the verdicts."""
    scene.anmi(*arguments_of(JUDGED))


def everything(scene: Scene) -> None:
    """The whole pipeline: training, board, the packaged search system."""
    scene.anmi("run", "--dataset", NAME)


def by_batches(scene: Scene) -> None:
    """Submit, come back too early, come back in time: each round is a batch."""
    scene.anmi(*arguments_of(JUDGED))
    while scene.anmi(*arguments_of(JUDGED)).code and len(scene.said) < MOST_TURNS:
        scene.server.finish()


def full_ledger(scene: Scene) -> None:
    """The database refuses a row with an answer in it."""
    scene.anmi(*arguments_of("comparison_plan"))
    with sqlite3.connect(scene.installation.home / "ledger.db") as connection:
        connection.execute(FULL)
    scene.anmi(*arguments_of(JUDGED))


def crash(scene: Scene) -> None:
    """An error that nobody foresaw, with answers in hand."""
    command = [sys.executable, "-c", CRASHING_PARSER, *arguments_of(JUDGED)]
    scene.said.append(run(command, scene.installation.environment()))


def kill(scene: Scene) -> None:
    """A kill -9 while calls are in flight, and again to the end."""
    command, environment = scene.installation.command(*arguments_of(JUDGED)), scene.installation.environment()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 300
        while scene.server.counts()["answered"] < 30 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        out, err = process.communicate()
    scene.said.append(Finished(process.returncode, out, err, 0.0, 0))
    scene.anmi(*arguments_of(JUDGED))


DOWN = {"dispatch": {"attempts": 2, "breaker_failures": 5, "breaker_seconds": 0.05, "breaker_trials": 2}}
WAITING = {"batch": {"settle_seconds": 0}}
SAID = WireSettings(quotes=True)
PASSING = {"timeout": 0.1, "broken": 0.1, "disconnect": 0.1, "429": 0.1, "garbage": 0.1}
CASES = (
    Case("success, a fifth of the answers garbage", everything, 0, wire=WireSettings(faults={"garbage": 0.2})),
    Case("batches", by_batches, 0, wire=WireSettings(faults={"garbage": 0.1}, batch_s=3600.0), judge=WAITING),
    Case("a refused key", judge_all, error="was refused", wire=WireSettings(key="another")),
    Case("a refused key, batches", judge_all, error="was refused", wire=WireSettings(key="another"), judge=WAITING),
    Case("a refused request", judge_all, error="refused the request (400)", wire=replace(SAID, faults={"400": 1.0})),
    Case("a forbidden model", judge_all, error="may not use", wire=replace(SAID, faults={"403": 1.0})),
    Case("a provider that is down", judge_all, error="does not answer", wire=replace(SAID, faults={"500": 1.0}), judge=DOWN),
    Case("time-outs, broken bodies and connections", judge_all, 0, wire=replace(SAID, faults=PASSING), judge={"timeout_s": 2.0}),
    Case("a ledger that cannot be written", full_ledger, error="disk is full", wire=WireSettings(faults={"garbage": 0.5})),
    Case("a parser that crashes", crash, error="crashed", wire=WireSettings(faults={"garbage": 0.5})),
    Case("kill -9", kill, 0, wire=WireSettings(latency_s=0.2, faults={"garbage": 0.2})),
)  # fmt: skip


def planted(place: Path, url: str, case: Case, queries: int) -> ApiDataset:
    """A collection whose every text can be recognised."""
    judges = [
        api_judge("openai", url, "grades", "gpt-4.1-mini", form="json", **case.judge),
        api_judge("anthropic", url, "tools", "claude-haiku-4-5", **case.judge),
    ]
    settings = {"design": "adaptive", "degree": 4, "rounds": 2, "coverage_floor": 0.3, "judges": judges}
    made = ApiDataset.make(place, queries, 60, 8, settings)
    for name, text in made.documents.items():
        words = text.split()
        made.documents[name] = " ".join([f"{HEAD}{name}", *words[:9], f"{BODY}{name}", *words[9:]])
    made.queries = {name: f"{text} {QUERY}{name}" for name, text in made.queries.items()}
    made.write(queries)
    return made


# Where things may hide


def contents(name: str, data: bytes, depth: int = 0) -> Iterator[tuple[str, bytes]]:
    """A file and everything packed into it, as plain bytes."""
    yield name, data
    if depth > 3:
        return
    if data[:4] == b"PAR1":
        yield name, pl.read_parquet(io.BytesIO(data)).write_ndjson().encode()
    elif data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.namelist():
                yield from contents(f"{name}/{member}", archive.read(member), depth + 1)
    elif data[:2] == b"\x1f\x8b" or name.endswith((".tar", ".tgz")):
        unpacked = zlib.decompress(data, wbits=31) if data[:2] == b"\x1f\x8b" else data
        if tarfile.is_tarfile(io.BytesIO(unpacked)):
            with tarfile.open(fileobj=io.BytesIO(unpacked)) as archive:
                for member in archive.getmembers():
                    file = archive.extractfile(member)
                    if file is not None:
                        yield from contents(f"{name}/{member.name}", file.read(), depth + 1)
        else:
            yield name, unpacked


def database(path: Path) -> Iterator[tuple[str, bytes]]:
    """Every value of a SQLite file as plain bytes, under the name of its table and column."""
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        connection.text_factory = bytes
        tables = [name.decode() for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
        for table in tables:
            rows = connection.execute(f'select * from "{table}"')
            columns = [column[0] for column in rows.description]
            for row in rows:
                for column, value in zip(columns, row, strict=True):
                    if isinstance(value, bytes):
                        yield f"{table}.{column}", value
                        if value[:1] == b"x":
                            try:
                                yield f"{table}.{column}", zlib.decompress(value)
                            except zlib.error:
                                continue


def written(home: Path) -> Iterator[tuple[str, bytes]]:
    """Everything below ANMI_HOME: (place, plain bytes)."""
    for path in sorted(home.rglob("*")):
        if not path.is_file():
            continue
        name, data = str(path.relative_to(home)), path.read_bytes()
        yield from contents(name, data)
        if data[:15] == b"SQLite format 3":
            yield from ((f"{name}:{place}", value) for place, value in database(path))


def holding(
    places: Sequence[tuple[str, bytes]], needles: Sequence[str], *, but: Callable[[str], bool] | None = None
) -> list[str]:
    """Places that hold any of the needles, as they are or escaped in JSON."""
    wanted = {form for needle in needles for form in (needle.encode(), json.dumps(needle)[1:-1].encode())}
    found = (place for place, data in places if (but is None or not but(place)) and any(one in data for one in wanted))
    return sorted(set(found))


def is_content(place: str) -> bool:
    """Whether a place is there to hold documents or answers."""
    return place.startswith(("objects/", "ledger.db"))


def is_database_file(place: str) -> bool:
    """Whether a place is a database's file and not a value in it, which is searched by itself."""
    return ".db" in place and ":" not in place


def sampled(place: str, data: bytes) -> bool:
    """Whether a value is the metadata of an asset that was built, where the UI shows the beginning of five of its rows."""
    event = place.endswith("event_logs.event") and (b"StepMaterializationData" in data or b"StepOutputData" in data)
    return event or place.endswith("asset_keys.last_materialization")


# The claims


def examine(figures: Figures, scene: Scene, case: Case) -> None:
    """Search all of it."""
    last = scene.said[-1]
    figures.check(
        f"{case.name}: exit code", last.code, exactly(case.code), detail="" if last.code == case.code else last.text[-500:]
    )
    if case.error:
        figures.claim(
            f"{case.name}: the error says what is wrong", case.error in last.text, detail=(last.errors or [""])[-1][:200]
        )
    printed = [(f"output of command {number}", f"{one.out}\n{one.err}".encode()) for number, one in enumerate(scene.said, 1)]
    places = [*written(scene.installation.home), *printed]
    nowhere(figures, f"{case.name}: places with a key", holding(places, SECRETS))
    texts = [BODY, HEAD, QUERY, *ANSWERS]
    nowhere(figures, f"{case.name}: printed texts and answers", holding(printed, texts))
    told = [(place, data) for place, data in places if not is_content(place) and not is_database_file(place)]
    logged = [(place, data) for place, data in told if not sampled(place, data)]
    nowhere(figures, f"{case.name}: logs, events, records, MLflow with texts or answers", holding(logged, texts))
    nowhere(figures, f"{case.name}: the same with a built asset's sample of rows", holding(told, [BODY, *ANSWERS]))
    figures.note(f"{case.name}: places searched", len(places), detail=f"{len(told):,} of them must not hold a text")


def nowhere(figures: Figures, name: str, places: list[str]) -> None:
    """Nothing may be among the places."""
    figures.check(name, len(places), exactly(0), detail=", ".join(places[:4]))


def can_find(figures: Figures, scene: Scene) -> None:
    """The search finds what is there: documents in the corpus, answers in the ledger and in its file."""
    places = list(written(scene.installation.home))
    for name, needle, start in (("documents", BODY, "objects/corpus"), ("answers", ANSWERS[0], "ledger.db:verdicts.raw_answer")):
        found = [place for place in holding(places, [needle]) if place.startswith(start)]
        figures.check(f"the search finds {name} where they belong", len(found), above(0), detail=", ".join(found[:2]))


def secrets(figures: Figures, place: Path, cases: Sequence[Case] = CASES, queries: int = 12) -> None:
    """Every case in a folder of its own."""
    for number, case in enumerate(cases):
        with spawned(case.wire) as server:
            made = planted(place / str(number), server.url, case, queries)
            scene = Scene(made, made.installation(keys=KEYS), server)
            figures.say(case.name)
            case.play(scene)
            examine(figures, scene, case)
            if case.play is everything:
                can_find(figures, scene)


def main() -> int:
    """All cases."""
    options = arguments(__doc__ or "")
    figures = Figures("4.9 secrets")
    with workplace(options.home) as place:
        secrets(figures, place)
    return figures.finish()


if __name__ == "__main__":
    sys.exit(main())
