"""A made-up collection that models behind a loopback server judge, through `anmi run`, for the scripts about paid verdicts.

Belongs here: writing the collection (BEIR layout), its recorded run and its YAML, so that what belongs to one query depends on
that query alone. Does not: any claim. Texts are invented words; what the server's model thinks of them is `hashed_truth`.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from harness import REPOSITORY, Installation
from made import vocabulary

sys.path.insert(0, str(REPOSITORY))

NAME = "asked"
KEYS = {"OPENAI_API_KEY": "sk-proj-acceptance-of-the-pipeline", "ANTHROPIC_API_KEY": "sk-ant-acceptance-of-the-pipeline"}
DISPATCH = {"linger_seconds": 0.01, "backoff_seconds": 0.02}
EVALUATED = 4
"""Queries of dev and of test: without them a share of the training queries would be taken for them."""
WORDS = 300


@dataclass
class ApiDataset:
    """A collection and its configuration on disk.

    Attributes:
        folder: everything of it.
        pool: documents of each query.
        judging: the dataset's settings of judging.
        rating: those of rating.
        more: further lines of the dataset.
        documents: document id -> text.
        queries: query id -> text, training queries first.
        candidates: query id -> documents, best first.
    """

    folder: Path
    pool: int
    judging: Mapping[str, object]
    rating: Mapping[str, object] = field(default_factory=lambda: {"prior": "scores"})
    more: Mapping[str, object] = field(default_factory=dict[str, object])
    documents: dict[str, str] = field(default_factory=dict[str, str])
    queries: dict[str, str] = field(default_factory=dict[str, str])
    candidates: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    @classmethod
    def make(
        cls, folder: Path, queries: int, documents: int, pool: int, judging: Mapping[str, object], seed: int = 0, **more: object
    ) -> "ApiDataset":
        """Write a collection.

        Args:
            folder: where to.
            queries: training queries; few more are written for dev and test.
            documents: documents in all.
            pool: documents of each query.
            judging: settings of judging.
            seed: seed of every draw.
            more: `rating`, and further settings of the dataset.
        """
        made = cls(folder, pool, judging, **({"rating": more.pop("rating")} if "rating" in more else {}), more=more)
        rng = np.random.default_rng(seed)
        words = vocabulary(rng, WORDS)
        made.documents = {f"d{number:04d}": " ".join(rng.choice(words, 14)) for number in range(documents)}
        for number in range(queries + 2 * EVALUATED):
            made.add_query(f"q{number:04d}", seed)
        made.write(train=queries)
        return made

    def add_query(self, name: str, seed: int = 0) -> None:
        """Make one query: its text and its candidates are drawn from a generator of its own."""
        rng = np.random.default_rng([seed, *name.encode()])
        chosen = rng.choice(list(self.documents), self.pool, replace=False).tolist()
        own = self.documents[chosen[0]].split()
        self.queries[name] = " ".join([*rng.choice(own, 4, replace=False), name])
        self.candidates[name] = chosen

    def write(self, train: int) -> None:
        """Write collection, run and YAML.

        Args:
            train: how many of the first queries are training queries, beside those that were added since.
        """
        (self.data / "made" / "qrels").mkdir(parents=True, exist_ok=True)
        (self.conf / "datasets").mkdir(parents=True, exist_ok=True)
        rows = [{"_id": name, "title": "", "text": text} for name, text in self.documents.items()]
        write_lines(self.data / "made" / "corpus.jsonl", [json.dumps(row) for row in rows])
        asked = [{"_id": name, "text": text} for name, text in self.queries.items()]
        write_lines(self.data / "made" / "queries.jsonl", [json.dumps(row) for row in asked])
        names = list(self.queries)
        dev, test = names[train : train + EVALUATED], names[train + EVALUATED : train + 2 * EVALUATED]
        splits = {"dev": dev, "test": test, "train": [name for name in names if name not in {*dev, *test}]}
        for split, own in splits.items():
            lines = [f"{name}\t{self.candidates[name][0]}\t1" for name in own]
            write_lines(self.data / "made" / "qrels" / f"{split}.tsv", ["query-id\tcorpus-id\tscore", *lines])
        ranked = [(name, doc, rank) for name in names for rank, doc in enumerate(self.candidates[name], 1)]
        lines = [f"{name} Q0 {doc} {rank} {1 / rank:.6f} made" for name, doc, rank in ranked]
        write_lines(self.data / "made" / "dense.trec", lines)
        self.configure()

    def configure(self, **judging: object) -> None:
        """Write the YAML, with other settings of judging from now on."""
        self.judging = {**self.judging, **judging}
        lines = {
            "description": "made-up words, judged by models behind a loopback server",
            "source": {"reader": "beir", "path": "made"},
            "retrieval": {"dense": {"recorded": "made/dense.trec"}},
            "judging": {"generator": "dense", "pool_size": self.pool, **self.judging},
            "rating": self.rating,
            "recipes": ["bm25", "features"],
            **self.more,
        }
        write_lines(self.conf / "datasets" / f"{NAME}.yaml", [f"{name}: {json.dumps(value)}" for name, value in lines.items()])

    @property
    def data(self) -> Path:
        """ANMI_DATA."""
        return self.folder / "data"

    @property
    def conf(self) -> Path:
        """ANMI_CONF."""
        return self.folder / "conf"

    def installation(self, home: str = "home", keys: Mapping[str, str] = KEYS) -> Installation:
        """An ANMI_HOME over it, with keys in its environment."""
        single = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS")}
        return Installation(self.folder / home, self.conf, self.data, extra={**single, **keys})


def api_judge(provider: str, url: str, name: str, model: str, **changes: object) -> dict[str, object]:
    """A judge as a YAML file describes it.

    Args:
        provider: openai or anthropic.
        url: of the server.
        name: of the judge.
        model: its model.
        changes: other settings; those of `dispatch` are added to the usual ones.
    """
    dispatch = {"dispatch": DISPATCH | dict(changes.pop("dispatch", {}))}  # type: ignore[call-overload]
    address = {"base_url": f"{url}/v1" if provider == "openai" else url}
    return {"kind": provider, "name": name, "model": model} | address | dispatch | changes


def write_lines(path: Path, lines: Sequence[str]) -> None:
    """Write lines of text."""
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def arguments_of(until: str) -> tuple[str, ...]:
    """Arguments of `anmi` that build the dataset up to an asset."""
    return ("run", "--dataset", NAME, "--until", until)
