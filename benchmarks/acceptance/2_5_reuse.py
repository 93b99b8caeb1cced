"""Issue 2: running again computes nothing, an edit reaches only what is downstream of it, and `anmi verify` finds every flip.

Works on a made-up collection that it writes itself, with recorded verdicts and real code paths (BM25, Thurstone, learned
fusion, MLflow, search model). Takes about five minutes on 2 cores.
"""

import json
import os
import random
import shutil
import sqlite3
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from harness import Figures, Installation, above, arguments, built, exactly, run, workplace
from made import Made, make

Snapshot = Mapping[tuple[str, str], tuple[str, str]]

DATASET, OWN_JUDGE = "replayed", "quick"
ROOTS = ("corpus", "queries", "qrels")
RUNS = ("lexical_run", "dense_run", "sparse_run", "late_interaction_run")
JUDGED = ("candidate_pool", "comparison_plan", "pairwise_judgments", "pairwise_judge", "judge_report", "comparison_graph")
BOUGHT = ("comparison_plan", "pairwise_judgments", "pairwise_judge", "judge_report", "comparison_graph", "elo_table")
TRAINED = ("training_set", "checkpoint", "student_checkpoint")
STORE = ("objects", "records", "refs")
FLIPS = 100


@dataclass(frozen=True)
class Work:
    """What a run may have done: it is compared before and after."""

    snapshot: Snapshot
    records: int
    objects: int
    ledger_rows: int
    mlflow_runs: int
    trainings: int

    @classmethod
    def of(cls, installation: Installation) -> "Work":
        """Count it."""
        return cls(
            installation.snapshot(),
            installation.count("records"),
            installation.count("objects"),
            database_rows(installation.home / "ledger.db", "verdicts"),
            database_rows(installation.home / "mlflow.db", "runs"),
            database_rows(
                installation.home / "mlflow.db", "runs join experiments using (experiment_id)", "experiments.name = 'training'"
            ),
        )


def database_rows(path: Path, table: str, where: str = "true") -> int:
    """Rows of a table of a SQLite file."""
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        return connection.execute(f"select count(*) from {table} where {where}").fetchone()[0]


def nothing_new(figures: Figures, how: str, before: Work, after: Work) -> None:
    """Check that a run changed no digest, trained nothing and asked nothing."""
    changed = [
        f"{asset}:{partition}"
        for (asset, partition), pair in after.snapshot.items()
        if before.snapshot.get((asset, partition)) != pair
    ]
    figures.check(f"{how}: artifacts whose digest or build changed", len(changed), exactly(0), detail=", ".join(changed[:5]))
    figures.check(f"{how}: new records", after.records - before.records, exactly(0))
    figures.check(f"{how}: new stored files", after.objects - before.objects, exactly(0))
    figures.check(f"{how}: new verdicts in the ledger (asked)", after.ledger_rows - before.ledger_rows, exactly(0))
    figures.check(f"{how}: new MLflow runs (fits and trainings)", after.mlflow_runs - before.mlflow_runs, exactly(0))


def run_again(figures: Figures, installation: Installation, how: str) -> None:
    """`anmi run` a second time."""
    before = Work.of(installation)
    done = built(installation, DATASET, figures)
    figures.claim(f"{how}: anmi run says that it built nothing", "0 built" in done.out, detail=last_line(done.out, "built"))
    nothing_new(figures, how, before, Work.of(installation))


def last_line(text: str, word: str) -> str:
    """The last line with a word in it."""
    return next((line.strip() for line in reversed(text.splitlines()) if word in line), "")


def empty_dagster(figures: Figures, installation: Installation) -> None:
    """A Dagster instance that remembers nothing, over the same store."""
    shutil.rmtree(installation.home / "dagster")
    run_again(figures, installation, "with an empty Dagster instance")


def materialize_all(figures: Figures, installation: Installation, systems: Iterable[str]) -> None:
    """What the UI's "Materialize all" launches: all assets of a partition, in a run of Dagster's own."""
    from anmi_pipeline.defs.launch import AFTER, BEFORE, SYSTEM

    before = Work.of(installation)
    launches = [(BEFORE, DATASET), *((SYSTEM, f"{DATASET}|{system}") for system in systems), (AFTER, DATASET)]
    for assets, partition in launches:
        command = [str(Path(sys.executable).with_name("dg")), "launch", "--assets", ",".join(assets), "--partition", partition]
        done = run(command, installation.environment(), folder=Path(__file__).resolve().parents[2])
        figures.check(
            f"dg launch {assets[0]}..{assets[-1]} of {partition}: exit code",
            done.code,
            exactly(0),
            detail=done.err[-300:] if done.code else "",
        )
    nothing_new(figures, "by Dagster's own launch of all assets", before, Work.of(installation))


def changes(before: Snapshot, after: Snapshot) -> dict[str, tuple[str, str, bool]]:
    """asset:partition -> (old digest, new digest, whether its record is new)."""
    return {
        f"{asset}:{partition}": (before[asset, partition][0], digest, before[asset, partition][1] != build)
        for (asset, partition), (digest, build) in after.items()
        if before.get((asset, partition)) != (digest, build)
    }


def edit_line(path: Path, number: int, old: str, new: str) -> None:
    """Replace a word in one line of a file."""
    lines = path.read_bytes().split(b"\n")
    lines[number] = lines[number].replace(old.encode(), new.encode())
    path.write_bytes(b"\n".join(lines))


def edit_verdict(figures: Figures, installation: Installation, made: Made) -> None:
    """Turn one recorded verdict of a training query round."""
    before = installation.snapshot()
    model = f"{DATASET}|features"
    old_model = installation.current("checkpoint", model)
    old_elo = before["elo_table", DATASET][0]
    number = next(
        n for n, line in enumerate(made.verdicts.read_text().splitlines()) if line.startswith("q0,") and line.endswith("left")
    )
    edit_line(made.verdicts, number, ",left", ",right")
    done = built(installation, DATASET, figures)
    after = installation.snapshot()
    changed = changes(before, after)
    for name, (old, new, _) in changed.items():
        figures.say(f"{name}: {old[:12]} -> {new[:12]}{'' if old != new else ' (equal content, new record)'}")
    upstream = [name for name in changed if name.split(":")[0] in (*ROOTS, *RUNS)]
    figures.check("edited verdict: new records upstream of it", len(upstream), exactly(0), detail=", ".join(upstream))
    for asset in ("pairwise_judgments", "comparison_graph", "elo_table"):
        old, new, _ = changed.get(f"{asset}:{DATASET}", ("", "", False))
        figures.claim(f"edited verdict: {asset} has another digest", old != new, detail=f"{old[:12]} -> {new[:12]}")
    figures.claim("edited verdict: the model has another digest", f"checkpoint:{model}" in changed)
    listed = [name for name, (old, new, _) in changed.items() if old != new and not says_change(done.out, name, old, new)]
    figures.check(
        "edited verdict: changes that anmi run does not list (old -> new)", len(listed), exactly(0), detail=", ".join(listed)
    )
    stops = [name for name, (old, new, _) in changed.items() if old == new and name.split(":")[0] == "candidate_pool"]
    figures.note("edited verdict: equal content that stopped a chain", len(stops), detail=", ".join(stops))
    kept_history(figures, installation, old_elo, old_model.digest)


def says_change(text: str, name: str, old: str, new: str) -> bool:
    """Whether the command named a change: artifact, old and new digest on one line."""
    asset, partition = name.split(":")
    return any(all(word in line for word in (asset, partition, old[:12], new[:12])) for line in text.splitlines())


def kept_history(figures: Figures, installation: Installation, old_elo: str, old_model: str) -> None:
    """The old Elo table is still there, and the old model still names it."""
    store = installation.records.store
    figures.claim("edited verdict: the old Elo table is still complete", store.has("elo_table", old_elo), detail=old_elo[:12])
    figures.claim("edited verdict: the old model is still complete", store.has("checkpoint", old_model), detail=old_model[:12])
    shown = installation.rows("lineage", old_model)
    named = [row["digest"] for row in shown if row["name"] == "elo_table"]
    figures.claim(
        "edited verdict: anmi lineage of the old model names the old Elo table", named == [old_elo], detail=str(named)[:60]
    )


def equal_content(figures: Figures, installation: Installation, made: Made) -> None:
    """Change the verdict file's bytes and not what it says: two lines of different pairs trade places."""
    before = installation.snapshot()
    lines = made.verdicts.read_text().splitlines()
    lines[1], lines[2] = lines[2], lines[1]
    made.verdicts.write_text("\n".join(lines) + "\n")
    built(installation, DATASET, figures)
    changed = changes(before, installation.snapshot())
    moved = [name for name, (old, new, _) in changed.items() if old != new]
    behind = [name for name in changed if name.split(":")[0] not in ("candidate_pool", "comparison_plan", "pairwise_judgments")]
    figures.claim("equal content: the judgments were sealed anew", f"pairwise_judgments:{DATASET}" in changed)
    figures.check("equal content: digests that moved", len(moved), exactly(0), detail=", ".join(moved))
    figures.check("equal content: new records behind it (the chain must stop)", len(behind), exactly(0), detail=", ".join(behind))


def edit_question(
    figures: Figures, installation: Installation, made: Made, datasets: Sequence[str] = (OWN_JUDGE, DATASET)
) -> None:
    """Reword one evaluation question, which no judge is asked about; with a judge of our own and with recorded verdicts."""
    if installation.records.current("checkpoint", f"{datasets[0]}|features") is None:
        built(installation, datasets[0], figures)
    before = Work.of(installation)
    query, other = [name for name, split in made.split.items() if split == "test"][:2]
    path = made.collection / "queries.jsonl"
    lines = path.read_text().splitlines()
    number = next(n for n, line in enumerate(lines) if f'"{query}"' in line)
    borrowed = json.loads(next(line for line in lines if f'"{other}"' in line))["text"]
    edit_line(path, number, '"text": "', f'"text": "{borrowed} ')
    for dataset in datasets:
        built(installation, dataset, figures)
    after = Work.of(installation)
    changed = changes(before.snapshot, after.snapshot)
    for name, (old, new, _) in changed.items():
        figures.say(f"{name}: {old[:12]} -> {new[:12]}{'' if old != new else ' (equal content, new record)'}")
    touched = {name: old != new for name, (old, new, _) in changed.items() if name.split(":")[0] in (*BOUGHT, *TRAINED)}
    own = [name for name in touched if name.endswith((f":{OWN_JUDGE}", f":{OWN_JUDGE}|features"))]
    moved = [name for name, other in touched.items() if other]
    figures.claim("edited question: the queries have another digest", f"queries:{datasets[0]}" in changed)
    figures.check(
        "edited question: judging and training artifacts with a new record", len(own), exactly(0), detail=", ".join(own)
    )
    figures.check("edited question: verdicts, Elo or models with another digest", len(moved), exactly(0), detail=", ".join(moved))
    figures.check("edited question: new verdicts in the ledger", after.ledger_rows - before.ledger_rows, exactly(0))
    figures.check("edited question: new trainings in MLflow", after.trainings - before.trainings, exactly(0))
    refits = after.mlflow_runs - before.mlflow_runs
    figures.note("edited question: other new MLflow runs (fits with equal content, packaging)", refits)


def flip_bytes(figures: Figures, installation: Installation, count: int = FLIPS, seed: int = 0) -> None:
    """Flip one byte in each of many random files of the store, all at once; `anmi verify` must name every one."""
    figures.check("before the flips: files that anmi verify names", len(installation.damaged()), exactly(0))
    draw = random.Random(seed)
    files = sorted(
        path for room in STORE for path in (installation.home / room).rglob("*") if path.is_file() and path.stat().st_size
    )
    chosen = draw.sample(files, min(count, len(files)))
    backup = {path: path.read_bytes() for path in chosen}
    for path, data in backup.items():
        place = draw.randrange(len(data))
        path.write_bytes(data[:place] + bytes([data[place] ^ (1 << draw.randrange(8))]) + data[place + 1 :])
    try:
        named = set(installation.damaged())
    finally:
        for path, data in backup.items():
            path.write_bytes(data)
    missed = [path.relative_to(installation.home) for path in chosen if not is_named(path, named)]
    figures.check("flipped files", len(chosen), exactly(count), seed=seed)
    detail = ", ".join(map(str, missed[:4]))
    figures.check("flipped files that anmi verify does not name", len(missed), exactly(0), seed=seed, detail=detail)
    figures.check("after the bytes are put back: files that anmi verify names", len(installation.damaged()), exactly(0))


def is_named(path: Path, named: set[str]) -> bool:
    """Whether a file is among the names, which may be URLs."""
    return (
        str(path) in named
        or quote(str(path)) in named
        or any(name.endswith(f"{os.sep}{path.relative_to(path.parents[2])}") for name in named)
    )


def main() -> int:
    """Run all of it."""
    options = arguments(__doc__ or "")
    figures = Figures("2.5 reuse")
    with workplace(options.home) as place:
        shutil.rmtree(place / "made", ignore_errors=True)
        made = make(place / "made")
        installation = Installation(place / "home", made.conf)
        built(installation, DATASET, figures)
        figures.check("artifacts", len(installation.snapshot()), above(0))
        run_again(figures, installation, "again")
        empty_dagster(figures, installation)
        materialize_all(figures, installation, ("bm25", "features"))
        edit_verdict(figures, installation, made)
        equal_content(figures, installation, made)
        edit_question(figures, installation, made)
        flip_bytes(figures, installation)
    return figures.finish()


if __name__ == "__main__":
    sys.exit(main())
