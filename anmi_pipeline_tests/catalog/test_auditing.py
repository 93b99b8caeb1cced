"""The audit queue goes out to a person and comes back as verdicts."""

import csv
from pathlib import Path

import pytest

from anmi_pipeline.catalog.auditing import audit_export, audit_import
from anmi_pipeline.catalog.datasets import load_dataset
from anmi_pipeline.catalog.ledgering import compared, stats
from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.frozen_prior import Frozen
from anmi_pipeline.judging.imports import Filed, imported_judgments
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.rating.prior import ScorePrior
from anmi_pipeline.settings import Settings
from anmi_pipeline_tests.catalog.stored import installation
from anmi_pipeline_tests.judging.made import made_evidence

EVIDENCE = made_evidence(3, 20)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return installation(tmp_path, EVIDENCE)


def answer(path: Path, answers: list[str]) -> list[dict[str, str]]:
    """Fill in the file as a person would; its lines."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        lines = list(csv.DictReader(stream))
    for line, said in zip(lines, answers, strict=False):
        line["answer"] = said
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return lines


def test_the_queue_goes_out_and_comes_back(settings: Settings, tmp_path: Path):
    path = tmp_path / "audit.csv"
    rows = audit_export("made", settings, path, 5)
    assert len(rows) == 5
    assert all("one: 0.9; two: 0.1" in str(row["judges"]) for row in rows)  # where the judges disagree
    assert [row["value"] for row in rows] == sorted((row["value"] for row in rows), reverse=True)
    with pytest.raises(InputError, match="there already, and may hold answers"):
        audit_export("made", settings, path, 5)
    lines = answer(path, ["a", "b", "tie"])
    assert audit_import("made", settings, path, "human/anna") == Filed(3, 0, 0, 2)
    assert audit_import("made", settings, path, "human/anna") == Filed(0, 0, 3, 2)
    evidence, documents = compared(load_dataset("made", settings.conf), settings)
    with Books(settings.ledger_url) as books:
        found = imported_judgments(books, "made", documents, evidence)
    assert (found.elsewhere, found.outdated) == (0, 0)
    said = {(row["query_id"], row["first_id"], row["second_id"]): row["p_first"] for row in found.judgments.to_dicts()}
    assert said == {(line["query_id"], line["doc_a"], line["doc_b"]): p for line, p in zip(lines, (1.0, 0.0, 0.5), strict=False)}
    assert set(found.judgments["judge"]) == {"human/anna"}
    # What she answered is not asked again, although no run has read it yet.
    later = audit_export("made", settings, tmp_path / "later.csv", 100)
    pairs = {(str(row["query_id"]), frozenset((str(row["doc_i"]), str(row["doc_j"])))) for row in later}
    assert not pairs & {(line["query_id"], frozenset((line["doc_a"], line["doc_b"]))) for line in lines[:3]}
    assert pairs >= {(line["query_id"], frozenset((line["doc_a"], line["doc_b"]))) for line in lines[3:]}


def test_wrong_lines_file_nothing(settings: Settings, tmp_path: Path):
    path = tmp_path / "audit.csv"
    audit_export("made", settings, path, 3)
    answer(path, ["a", "perhaps", "b"])
    with pytest.raises(InputError, match=r'1 wrong line\(s\).*answer is "perhaps"'):
        audit_import("made", settings, path)
    assert stats(settings).imports == []


def test_the_frozen_prior_takes_part(tmp_path: Path):
    plain = audit_export("made", installation(tmp_path / "a", EVIDENCE), tmp_path / "plain.csv", 200)
    frozen = Frozen(ScorePrior(("fused",), (3.0,), 1.0), 3, 100).as_json()
    settings = installation(tmp_path / "b", EVIDENCE, {"frozen_prior": {"plan_key": "x", **frozen}})
    with_prior = audit_export("made", settings, tmp_path / "prior.csv", 200)
    assert len(plain) == len(with_prior)
    assert {str(row["fitted"]) for row in plain} != {str(row["fitted"]) for row in with_prior}
