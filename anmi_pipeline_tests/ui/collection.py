"""A tiny made-up collection as a BEIR folder: made words, known topics, the same bytes every time."""

import json
from pathlib import Path

import numpy as np

TOPICS, DOCUMENTS_PER_TOPIC, QUERIES_PER_TOPIC = 10, 6, 4
SPLITS = ("train", "train", "dev", "test")
"""Split of each of a topic's queries."""
SYLLABLES = ("ba", "ke", "li", "mo", "nu", "ra", "se", "ti", "vo", "zu")


def words(rng: np.random.Generator, count: int) -> list[str]:
    """Made-up words."""
    return ["".join(rng.choice(SYLLABLES, size=3)) for _ in range(count)]


def write_collection(folder: Path, seed: int = 0) -> None:
    """Write corpus.jsonl, queries.jsonl and qrels/{train,dev,test}.tsv."""
    rng = np.random.default_rng(seed)
    common = words(rng, 40)
    documents, queries = [], []
    qrels: dict[str, list[str]] = {split: [] for split in SPLITS}
    for topic in range(TOPICS):
        vocabulary = words(rng, 8)
        own = [f"d{topic}{number}" for number in range(DOCUMENTS_PER_TOPIC)]
        for number, doc_id in enumerate(own):
            # The later a document of a topic, the less it is about it.
            about = list(rng.choice(vocabulary, size=12 - 2 * number))
            text = [*about, *rng.choice(common, size=8 + 2 * number)]
            documents.append({"_id": doc_id, "title": " ".join(about[:2]), "text": " ".join(rng.permutation(text))})
        for number, split in enumerate(SPLITS):
            query_id = f"q{topic}{number}"
            queries.append({"_id": query_id, "text": " ".join(rng.choice(vocabulary, size=3, replace=False))})
            qrels[split] += [f"{query_id}\t{doc_id}\t{2 if place < 2 else 1}" for place, doc_id in enumerate(own[:4])]
    (folder / "qrels").mkdir(parents=True)
    for name, rows in (("corpus", documents), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for split, rows in qrels.items():
        text = "\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n"
        (folder / "qrels" / f"{split}.tsv").write_text(text, encoding="utf-8")
