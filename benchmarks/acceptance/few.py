"""A few claims of scifact with judges behind a loopback server, for the journeys of a new user through the command line.

Belongs here: the collection (a part of scifact, copied), datasets over it as YAML, homes in which retrieval is done already, what
a command's JSON says. Does not: any claim.
"""

import csv
import gzip
import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
from harness import REPOSITORY, Finished, Installation, data_root

sys.path.insert(0, str(REPOSITORY))

from anmi_pipeline import tables
from anmi_pipeline_tests.judging.wire_server import SpawnedServer

BASE = "few"
KEYS = {"OPENAI_API_KEY": "sk-proj-acceptance-of-the-journeys", "ANTHROPIC_API_KEY": "sk-ant-acceptance-of-the-journeys"}
SINGLE = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS")}
SIZES = {"train": 12, "dev": 8, "test": 12}
DOCUMENTS = 160
POOL = 10
JUDGED, RATED = "pairwise_judgments", "elo_table"
QUICK = {"linger_seconds": 0.01, "backoff_seconds": 0.02}


@dataclass
class Few:
    """The collection and its datasets on disk.

    Attributes:
        folder: everything of it.
        judging: dataset -> its settings of judging, as last written.
    """

    folder: Path
    judging: dict[str, dict[str, object]] = field(default_factory=dict[str, dict[str, object]])

    @classmethod
    def make(cls, folder: Path) -> "Few":
        """Copy the part of scifact, and do what comes before judging once."""
        made = cls(folder)
        write_part(folder / "data" / BASE)
        (folder / "conf" / "datasets").mkdir(parents=True, exist_ok=True)
        made.write(BASE, {"source": {"reader": "beir", "path": BASE}, "recipes": ["bm25", "features"]})
        done = made.installation("base").anmi("run", "--dataset", BASE, "--until", "candidate_pool")
        if done.code:
            raise RuntimeError(f"the collection cannot be built: {done.text[-2000:]}")
        return made

    def write(self, name: str, lines: Mapping[str, object]) -> None:
        """Write a dataset's YAML."""
        given = {"description": "claims of scifact judged by models behind a loopback server", **lines}
        text = "\n".join(f"{key}: {json.dumps(value)}" for key, value in given.items())
        (self.folder / "conf" / "datasets" / f"{name}.yaml").write_text(text + "\n", encoding="utf-8")

    def configure(self, name: str, **judging: object) -> None:
        """Write a dataset over the collection, with other settings of judging from now on; a setting of None is left out."""
        kept = {**self.judging.get(name, {}), **judging}
        self.judging[name] = {key: value for key, value in kept.items() if value is not None}
        common = {"instruction": "A relevant abstract supports or refutes the claim.", "pool_size": POOL}
        self.write(name, {"extends": BASE, "judging": common | self.judging[name]})

    def installation(self, home: str) -> Installation:
        """An ANMI_HOME with keys in its environment."""
        return Installation(self.folder / home, self.folder / "conf", self.folder / "data", extra={**SINGLE, **KEYS})

    def journey(self, home: str, server: SpawnedServer, dataset: str) -> "Journey":
        """A home of its own that knows the candidate pool, and a dataset."""
        shutil.rmtree(self.folder / home, ignore_errors=True)
        shutil.copytree(self.folder / "base", self.folder / home, symlinks=True)
        return Journey(self, self.installation(home), server, dataset)


@dataclass
class Journey:
    """One user's way.

    Attributes:
        few: the collection.
        installation: the home.
        server: the judges.
        dataset: the dataset.
    """

    few: Few
    installation: Installation
    server: SpawnedServer
    dataset: str

    def configure(self, **judging: object) -> None:
        """Edit the dataset's YAML."""
        self.few.configure(self.dataset, **judging)

    def anmi(self, command: str, *more: str) -> Finished:
        """A command about the dataset."""
        return self.installation.anmi(command, "--dataset", self.dataset, *more)

    def told(self, command: str, *more: str) -> dict[str, object]:
        """What a command about the dataset says as JSON."""
        done = self.anmi(command, *more, "--json")
        if done.code:
            raise RuntimeError(f"anmi {command} ended with {done.code}: {done.text[-2000:]}")
        return json.loads(done.out)

    @property
    def answered(self) -> int:
        """Calls that the server has billed."""
        return int(self.server.counts()["answered"])

    @property
    def verdicts(self) -> pl.DataFrame:
        """The current verdicts."""
        return self.installation.table(JUDGED, self.dataset, tables.JUDGMENTS)

    @property
    def elo(self) -> str:
        """Digest of the current Elo table."""
        return self.installation.current(RATED, self.dataset).digest

    def money(self) -> dict[str, float]:
        """Budget -> USD that the ledger counts."""
        rows: list[dict[str, object]] = json.loads(self.installation.anmi("ledger", "stats", "--json").out)["money"]
        return {str(row["scope"]): float(str(row["spent_usd"])) for row in rows}

    def spent(self, scope: str | None = None) -> float:
        """USD that the ledger counts for the dataset, or another budget."""
        return self.money().get(scope or self.dataset, 0.0)

    def measure(self, judge: str, name: str) -> float:
        """A figure of the judge report."""
        report = self.installation.table("judge_report", self.dataset, tables.REPORT)
        return float(report.filter((pl.col("judge") == judge) & (pl.col("measure") == name))["value"].item())


def api_judge(server: SpawnedServer, name: str, model: str, **changes: object) -> dict[str, object]:
    """A judge as a dataset lists it."""
    kind = "anthropic" if model.startswith("claude") else "openai"
    url = server.url if kind == "anthropic" else server.openai_url
    return {"kind": kind, "name": name, "model": model, "base_url": url, "dispatch": QUICK, **changes}


def write_part(folder: Path) -> None:
    """Copy the first claims of scifact with their abstracts, and more abstracts."""
    source = data_root() / "scifact"
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    relevant: dict[str, dict[str, list[str]]] = {}
    for split in ("train", "test"):
        with (source / "qrels" / f"{split}.tsv").open(encoding="utf-8") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                if int(row["score"]) > 0:
                    relevant.setdefault(split, {}).setdefault(row["query-id"], []).append(row["corpus-id"])
    train, test = (sorted(relevant[split]) for split in ("train", "test"))
    parts = {
        "train": train[: SIZES["train"]],
        "dev": train[SIZES["train"] : SIZES["train"] + SIZES["dev"]],
        "test": test[: SIZES["test"]],
    }
    grades = relevant["train"] | relevant["test"]
    needed = {document for names in parts.values() for name in names for document in grades[name]}
    with gzip.open(source / "corpus.jsonl.gz", "rt", encoding="utf-8") as file:
        corpus = {json.loads(line)["_id"]: line for line in file}
    others = [name for name in sorted(corpus) if name not in needed][: DOCUMENTS - len(needed)]
    (folder / "corpus.jsonl").write_text("".join(corpus[name] for name in sorted([*needed, *others])), encoding="utf-8")
    asked = {name for names in parts.values() for name in names}
    lines = (source / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if json.loads(line)["_id"] in asked]
    (folder / "queries.jsonl").write_text("\n".join(kept) + "\n", encoding="utf-8")
    for split, names in parts.items():
        rows = [f"{name}\t{document}\t1" for name in names for document in grades[name]]
        text = "\n".join(["query-id\tcorpus-id\tscore", *rows])
        (folder / "qrels" / f"{split}.tsv").write_text(text + "\n", encoding="utf-8")
