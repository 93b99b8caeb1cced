"""A small made-up installation without any encoder: seconds to run, the same on every machine.

Words are drawn from a seeded generator; the dense run is a recorded file. Used by the command line's and the golden tests.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

DOCUMENTS, QUERIES, WORDS = 40, 30, 60


def write_small(root: Path, name: str = "small") -> dict[str, str]:
    """Write collection, recorded run, dataset and recipe; returns the environment of the installation."""
    rng = np.random.default_rng(7)
    vocabulary = [f"word{number:02d}" for number in range(WORDS)]
    data, conf = root / "data", root / "conf"
    (data / "small" / "qrels").mkdir(parents=True)
    (conf / "datasets").mkdir(parents=True)
    documents = [" ".join(rng.choice(vocabulary, size=12)) for _ in range(DOCUMENTS)]
    rows = [{"_id": f"d{n:02d}", "title": text.split()[0], "text": text} for n, text in enumerate(documents)]
    write_lines(data / "small" / "corpus.jsonl", [json.dumps(row) for row in rows])
    queries, grades, run = [], {"train": [], "dev": [], "test": []}, []
    for number in range(QUERIES):
        source = int(rng.integers(DOCUMENTS))
        words = rng.choice(documents[source].split(), size=4, replace=False)
        queries.append(json.dumps({"_id": f"q{number:02d}", "text": " ".join(words)}))
        grades["train" if number < 15 else "dev" if number < 22 else "test"].append(f"q{number:02d}\td{source:02d}\t1")
        order = rng.permutation(DOCUMENTS)[:20]
        run += [f"q{number:02d} Q0 d{doc:02d} {rank} {1 / rank:.6f} made" for rank, doc in enumerate(order, start=1)]
    write_lines(data / "small" / "queries.jsonl", queries)
    write_lines(data / "small" / "dense.trec", run)
    for split, lines in grades.items():
        write_lines(data / "small" / "qrels" / f"{split}.tsv", ["query-id\tcorpus-id\tscore", *lines])
    write_lines(conf / "datasets" / f"{name}.yaml", dataset_lines())
    return {"ANMI_HOME": str(root / "home"), "ANMI_CONF": str(conf), "ANMI_DATA": str(data)}


def dataset_lines() -> list[str]:
    """The dataset's YAML."""
    return [
        "description: made-up words, a recorded dense run, a simulated judge",
        "source: {reader: beir, path: small}",
        "retrieval: {dense: {recorded: small/dense.trec}}",
        "judging: {design: cycles, pool_size: 10, degree: 4, judges: [{kind: simulated, name: simulated}]}",
        "rating: {prior: zero}",
        "evaluation: {query_sets: [dev_select, dev_final, test, dev_final+test], bootstrap_samples: 500}",
        "recipes: [bm25, rrf, minmax, features]",
    ]


def write_lines(path: Path, lines: list[str]) -> None:
    """Write lines of text."""
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def anmi(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user would, in a process of its own: partitions are read when definitions load."""
    command = [sys.executable, "-m", "anmi_pipeline.cli", *arguments]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=600)
