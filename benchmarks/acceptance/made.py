"""A made-up collection for the scripts that break, kill and edit things: topics of invented words, exact grades, no download.

Belongs here: writing the collection (BEIR layout), a recorded run, a verdict file and the YAML files that name them. Does not:
any claim. Equal seeds write equal bytes.
"""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SYLLABLES = ("ba", "de", "fi", "go", "hu", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo", "zu")
TOPIC_WORDS, FILLER_WORDS = 24, 120
SPLIT_OF_TEN = ("train",) * 6 + ("dev",) * 2 + ("test",) * 2
QUICK_RECIPES = "recipes: [bm25, features]"


@dataclass(frozen=True)
class Made:
    """What was written.

    Attributes:
        folder: everything of it.
        documents: document ids.
        split: query id -> train, dev or test.
        grades: query id -> document id -> grade, from 1.
    """

    folder: Path
    documents: list[str]
    split: dict[str, str]
    grades: dict[str, dict[str, int]]

    @property
    def collection(self) -> Path:
        """Folder in BEIR's layout."""
        return self.folder / "collection"

    @property
    def conf(self) -> Path:
        """ANMI_CONF."""
        return self.folder / "conf"

    @property
    def run(self) -> Path:
        """TREC run that stands in for an encoder."""
        return self.folder / "dense.trec"

    @property
    def verdicts(self) -> Path:
        """Verdict file of the recorded judge."""
        return self.folder / "battles.csv"


def make(folder: Path, *, documents: int = 120, queries: int = 60, words: int = 40, seed: int = 0) -> Made:
    """Write the collection, the run, the verdicts and the configuration.

    Args:
        folder: where to.
        documents: how many; each is about one topic of about ten documents.
        queries: how many, 60 % train, 20 % dev, 20 % test.
        words: words of a document.
        seed: seed of every draw.
    """
    rng = np.random.default_rng(seed)
    filler = vocabulary(rng, FILLER_WORDS)
    topics = [vocabulary(rng, TOPIC_WORDS) for _ in range(max(documents // 10, 2))]
    ids = [f"d{number}" for number in range(documents)]
    texts = [text(rng, topics[number % len(topics)], filler, words) for number in range(documents)]
    split = {f"q{number}": SPLIT_OF_TEN[number % 10] for number in range(queries)}
    asked: dict[str, str] = {}
    grades: dict[str, dict[str, int]] = {}
    for number, query in enumerate(split):
        topic = number % len(topics)
        own = rng.choice(topics[topic], 5, replace=False)
        asked[query] = " ".join(own)
        about = [place for place in range(documents) if place % len(topics) == topic]
        overlap = {ids[place]: len(set(own) & set(texts[place].split())) for place in about}
        best = sorted(overlap, key=lambda doc: (-overlap[doc], doc))
        grades[query] = {best[0]: 2} | {doc: 1 for doc in best[1:4] if overlap[doc] > 0}
    made = Made(folder, ids, split, grades)
    write_collection(made, texts, asked)
    write_run(made, rng)
    write_verdicts(made, rng)
    write_conf(made)
    return made


def vocabulary(rng: np.random.Generator, size: int) -> list[str]:
    """Invented words, each once."""
    words: dict[str, None] = {}
    while len(words) < size:
        words["".join(rng.choice(SYLLABLES, int(rng.integers(2, 5))))] = None
    return list(words)


def text(rng: np.random.Generator, topic: Sequence[str], filler: Sequence[str], words: int) -> str:
    """A document: half of its words from its topic."""
    return " ".join(rng.choice(topic if rng.random() < 0.5 else filler) for _ in range(words))


def write_collection(made: Made, texts: Sequence[str], asked: dict[str, str]) -> None:
    """Write corpus.jsonl, queries.jsonl and qrels/."""
    (made.collection / "qrels").mkdir(parents=True)
    rows = [
        {"_id": doc, "title": " ".join(body.split()[:3]), "text": body} for doc, body in zip(made.documents, texts, strict=True)
    ]
    write_lines(made.collection / "corpus.jsonl", [json.dumps(row) for row in rows])
    write_lines(made.collection / "queries.jsonl", [json.dumps({"_id": query, "text": asked[query]}) for query in made.split])
    for name in ("train", "dev", "test"):
        own = [query for query, split in made.split.items() if split == name]
        lines = [f"{query}\t{doc}\t{grade}" for query in own for doc, grade in made.grades[query].items()]
        write_lines(made.collection / "qrels" / f"{name}.tsv", ["query-id\tcorpus-id\tscore", *lines])


def write_run(made: Made, rng: np.random.Generator) -> None:
    """Write a noisy ranking of up to 40 documents per query."""
    lines: list[str] = []
    for query, grades in made.grades.items():
        score = {doc: 3.0 * grades.get(doc, 0) + float(rng.normal(0, 1.5)) for doc in made.documents}
        best = sorted(score, key=lambda doc: (-score[doc], doc))[:40]
        lines += [f"{query} Q0 {doc} {rank} {score[doc]:.6f} made" for rank, doc in enumerate(best, 1)]
    write_lines(made.run, lines)


def write_verdicts(made: Made, rng: np.random.Generator) -> None:
    """Write one cycle and its chords over twelve documents of every training query: 24 verdicts a query, one in ten wrong."""
    rows: list[list[str]] = [["query_id", "left", "right", "winner"]]
    for query in (name for name, split in made.split.items() if split == "train"):
        grades = made.grades[query]
        others = [doc for doc in made.documents if doc not in grades]
        drawn = [*grades, *rng.choice(others, 12 - len(grades), replace=False)]
        order = [drawn[place] for place in rng.permutation(12)]
        for step in (1, 2):
            for place, left in enumerate(order):
                right = order[(place + step) % 12]
                gain = grades.get(left, 0) - grades.get(right, 0)
                wrong = rng.random() < 0.1
                word = "tie" if gain == 0 else "left" if (gain > 0) != wrong else "right"
                rows.append([query, left, right, word])
    with made.verdicts.open("w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)


def write_conf(made: Made) -> None:
    """Write ANMI_CONF: `made` trains encoders' maps, `quick` and `replayed` need no encoder."""
    source = f"source: {{reader: beir, path: {made.collection}}}"
    sets = "evaluation: {query_sets: [dev_select, dev_final, test], bootstrap_samples: 500}"
    simulated = "judging: {pool_size: 20, degree: 4, judges: [{kind: simulated, name: simulated}]}"
    dense = f"retrieval: {{dense: {{recorded: {made.run}}}}}"
    replayed = f"judging: {{judges: [{{kind: recorded, name: recorded, path: {made.verdicts}}}]}}"
    small = "retrieval: {dense: {encoder: {max_tokens: 48}}}"
    many = "judging: {pool_size: 50, degree: 8, judges: [{kind: simulated, name: simulated}]}"
    files = {
        "datasets/made.yaml": ["description: made up", source, small, many, sets, "recipes: [bm25, minilm, brief, shuffled]"],
        "datasets/quick.yaml": ["description: made up, without an encoder", source, dense, simulated, sets, QUICK_RECIPES],
        "datasets/replayed.yaml": ["description: made up, recorded verdicts", source, dense, replayed, sets, QUICK_RECIPES],
        "recipes/brief.yaml": ["description: ANMI, briefly", "extends: anmi", "training: {steps: 60}", "seeds: [0, 1]"],
        "recipes/shuffled.yaml": ["description: its placebo", "extends: brief", "mining: {labels: shuffled}"],
    }
    for name, lines in files.items():
        path = made.conf / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_lines(path, lines)


def write_lines(path: Path, lines: Sequence[str]) -> None:
    """Write a text file with Unix line ends."""
    path.write_bytes(("\n".join(lines) + "\n").encode())
