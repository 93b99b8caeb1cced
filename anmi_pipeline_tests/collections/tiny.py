"""Tiny collections on disk, written by the tests that read them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

DOCUMENTS = [
    {"_id": "d1", "title": "Cats", "text": "Cats sleep most of the day."},
    {"_id": "d2", "title": "Dogs", "text": "Dogs bark at strangers."},
    {"_id": "d3", "title": "", "text": "Füchse jagen nachts."},
]
QUERIES = [
    {"_id": "q1", "text": "sleeping cats"},
    {"_id": "q2", "text": "why do dogs bark"},
    {"_id": "q3", "text": "foxes at night"},
]
GRADES = {"train": [("q1", "d1", 2), ("q1", "d2", 0)], "test": [("q2", "d2", 1)]}


def json_lines(rows: Sequence[Mapping[str, object]], end: str = "\n") -> str:
    """One JSON object per line."""
    return "".join(json.dumps(row, ensure_ascii=False) + end for row in rows)


def grade_lines(rows: Sequence[Sequence[object]], header: bool = True, end: str = "\n") -> str:
    """BEIR grades."""
    head = [("query-id", "corpus-id", "score")] if header else []
    return "".join("\t".join(map(str, row)) + end for row in [*head, *rows])


def write_beir(
    folder: Path,
    documents: Sequence[Mapping[str, object]] = DOCUMENTS,
    queries: Sequence[Mapping[str, object]] = QUERIES,
    grades: Mapping[str, Sequence[Sequence[object]]] = GRADES,
    end: str = "\n",
) -> Path:
    """Write a BEIR folder."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    (folder / "corpus.jsonl").write_bytes(json_lines(documents, end).encode())
    (folder / "queries.jsonl").write_bytes(json_lines(queries, end).encode())
    for split, rows in grades.items():
        (folder / "qrels" / f"{split}.tsv").write_bytes(grade_lines(rows, end=end).encode())
    return folder


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file under a folder with its bytes, to show that reading writes nothing."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
