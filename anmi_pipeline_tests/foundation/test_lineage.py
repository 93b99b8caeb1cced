"""The walk from a model to its corpus; every damaged byte is named and nothing else; garbage is what nobody needs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from anmi_pipeline.errors import ArtifactError, InputError
from anmi_pipeline.lineage import find_record, garbage, lineage, remove, verify
from anmi_pipeline.records import Record
from anmi_pipeline.sealing import seal
from anmi_pipeline.store import MANIFEST, Content
from anmi_pipeline.tables import ELO
from anmi_pipeline_tests.foundation.made import Bench, corpus, elo, tensors


def root(bench: Bench) -> Path:
    """Folder of a local store."""
    return Path(str(bench.store.root))


def pipeline(bench: Bench, tmp_path: Path, variants: int = 1) -> dict[str, Record]:
    """corpus -> elo_table -> two checkpoints -> leaderboard for some datasets; the records of the last."""
    made: dict[str, Record] = {}
    for number in range(variants):
        partition = f"tiny{number}"
        source = bench.build("corpus", corpus(4 + number), partition=partition)
        table = bench.build("elo_table", elo({"a": 1500.0 + number}), {"corpus": (source, None)}, partition=partition)
        made |= {"corpus": source, "elo_table": table}
        reads: dict[str, tuple[Record, str | None]] = {}
        for recipe in ("anmi", "placebo"):
            key = f"{partition}|{recipe}"
            folder = tmp_path / f"{number}-{recipe}"
            (folder / "seed0").mkdir(parents=True, exist_ok=True)
            (folder / "seed0" / "weights.safetensors").write_bytes(tensors({recipe: [float(number)] * 50}))
            (folder / "curve.png").write_text(f"{recipe} {number}")
            content = Content(folder=folder, incidental=frozenset({"curve.png"}))
            sources = {"elo_table#train": (table, "train"), "corpus": (source, None)}
            made[f"checkpoint {recipe}"] = bench.build("checkpoint", content, sources, partition=key)
            reads[f"checkpoint@{key}"] = (made[f"checkpoint {recipe}"], None)
        made["leaderboard"] = bench.build("leaderboard", elo({"a": float(number)}), reads, partition=partition)
    return made


def flip(path: Path, rng: np.random.Generator) -> None:
    """Change one byte."""
    data = bytearray(path.read_bytes())
    data[int(rng.integers(len(data)))] ^= int(rng.integers(1, 256))
    path.write_bytes(bytes(data))


def named(bench: Bench) -> set[str]:
    """Paths that `verify` names."""
    return {damage.path for damage in verify(bench.records)}


def files(bench: Bench) -> list[Path]:
    """Every file of objects, records and refs."""
    return sorted(path for room in ("objects", "records", "refs") for path in (root(bench) / room).rglob("*") if path.is_file())


# The walk


def test_the_tree_goes_down_to_the_corpus(bench: Bench, tmp_path: Path) -> None:
    made = pipeline(bench, tmp_path)
    tree = lineage(bench.records, made["leaderboard"])
    assert [node.name for node in tree.walk()] == [
        *("leaderboard", "checkpoint@tiny0|anmi", "checkpoint@tiny0|placebo", "corpus", "elo_table#train"),
    ]
    checkpoint = tree.parents[0]
    assert checkpoint.record == made["checkpoint anmi"]
    table = next(node for node in checkpoint.parents if node.name == "elo_table#train")
    assert table.record == made["elo_table"]
    assert table.digest == bench.store.get("elo_table", made["elo_table"].digest).part_digest("train")
    assert [node.record for node in table.parents] == [made["corpus"]]
    assert lineage(bench.records, made["corpus"]).parents == ()


def test_an_ancestor_that_is_gone_is_a_leaf_without_record(bench: Bench, tmp_path: Path) -> None:
    made = pipeline(bench, tmp_path)
    bench.records.path("elo_table", "tiny0", made["elo_table"].build_key).unlink()
    nodes = {node.name: node for node in lineage(bench.records, made["checkpoint anmi"]).walk()}
    assert nodes["elo_table#train"].record is None
    assert nodes["elo_table#train"].parents == ()
    assert nodes["corpus"].record == made["corpus"]


def test_a_tree_tells_two_digests_of_one_build_key_apart(bench: Bench) -> None:
    first = bench.build("checkpoint", corpus(word="one"))
    second = bench.build("checkpoint", corpus(word="two"), rebuild=True)
    assert first.build_key == second.build_key
    scores = [
        bench.build("scores", corpus(word=r.digest), {"checkpoint": (r, None)}, config={"r": r.digest}) for r in (first, second)
    ]
    board = bench.build("leaderboard", corpus(), {"scores@a": (scores[0], None), "scores@b": (scores[1], None)})
    tree = lineage(bench.records, board)
    assert [node.parents[0].record for node in tree.parents] == [first, second]


def test_shared_ancestors_are_walked_once(bench: Bench) -> None:
    record = bench.build("layer", corpus(1))
    for depth in range(2, 40):
        record = bench.build("layer", corpus(depth), {"layer@a": (record, None), "layer@b": (record, None)}, config={"d": depth})
    assert len(list(lineage(bench.records, record).walk())) == 1 + 2 * 38


# Finding


def test_a_record_is_found_by_digest_path_or_name(bench: Bench, tmp_path: Path) -> None:
    made = pipeline(bench, tmp_path, variants=2)
    wanted = made["checkpoint anmi"]
    folder = str(bench.store.object_path("checkpoint", wanted.digest))
    record = str(bench.records.path("checkpoint", "tiny1|anmi", wanted.build_key))
    ref = f"{bench.store.root}/refs/checkpoint/tiny1--anmi"
    texts = [wanted.digest, wanted.digest[:10], folder, f"{folder}/", f"{folder}/seed0/weights.safetensors", record, ref]
    texts += [folder.removeprefix(f"{tmp_path}/"), "checkpoint:tiny1|anmi", f"file://{folder}"]
    for text in texts:
        assert find_record(bench.records, text) == wanted, text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("f" * 64, "fits no object"),
        ("", "fits no object"),
        ("/", "fits no object"),
        ("/tmp/elsewhere", "fits no object"),
        ("objects/checkpoint/0123", "fits no object"),
        ("checkpoint:tiny9|anmi", r"never materialised. Did you mean \"checkpoint:tiny0\|anmi\"\?"),
        ("elo_tabel:tiny0", r"never materialised. Did you mean \"elo_table:tiny0\"\?"),
        ("zzz:yyy", r"never materialised. `anmi lineage` without an argument"),
        ("refs/corpus/tiny7", r"never materialised. Did you mean \"corpus:tiny0\""),
    ],
)
def test_what_is_not_there_is_not_found(bench: Bench, tmp_path: Path, text: str, problem: str) -> None:
    pipeline(bench, tmp_path)
    with pytest.raises(InputError, match=problem):
        find_record(bench.records, text)


def test_a_prefix_of_several_objects_is_refused(bench: Bench) -> None:
    records = [bench.build("corpus", corpus(n), config={"n": n}) for n in range(20)]
    digits = [record.digest[0] for record in records]
    shared = next(digit for digit in digits if digits.count(digit) > 1)
    with pytest.raises(InputError, match=rf'"{shared}" fits \d+ objects \(corpus {shared}.*Give a digest'):
        find_record(bench.records, shared)


def test_equal_content_of_two_assets_is_told_apart_by_its_path(bench: Bench) -> None:
    empty = Content(facts={"reason": "not configured"})
    sparse, late = bench.build("sparse_run", empty), bench.build("late_interaction_run", empty)
    assert sparse.digest == late.digest
    with pytest.raises(InputError, match=r"fits 2 objects \(late_interaction_run .*, sparse_run"):
        find_record(bench.records, sparse.digest)
    assert find_record(bench.records, f"objects/sparse_run/{sparse.digest}") == sparse


def test_of_several_histories_the_newest_is_found(bench: Bench) -> None:
    bench.build("corpus", corpus(), config={"from": "first"})
    newest = bench.build("corpus", corpus(), config={"from": "second"})
    assert find_record(bench.records, newest.digest) == newest


# Verifying


@pytest.mark.parametrize("seed", [0, 1])
def test_one_byte_changed_in_each_of_100_files_is_named_every_time(bench: Bench, tmp_path: Path, seed: int) -> None:
    pipeline(bench, tmp_path, variants=12)
    assert named(bench) == set()
    rng = np.random.default_rng(seed)
    everything = files(bench)
    assert len(everything) > 200
    changed = {everything[i] for i in rng.choice(len(everything), size=100, replace=False)}
    for path in changed:
        flip(path, rng)
    found = {Path(path) for path in named(bench)}
    assert changed <= found
    manifests = {path.parent for path in changed if path.name == MANIFEST}
    for path in found - changed:
        assert manifests & set(path.parents), f"{path} is whole and its manifest too"


def test_a_changed_file_alone_is_named_alone(bench: Bench, tmp_path: Path) -> None:
    pipeline(bench, tmp_path)
    rng = np.random.default_rng(3)
    for path in files(bench):
        before = path.read_bytes()
        flip(path, rng)
        assert named(bench) - {str(path)} == set() or path.name == MANIFEST
        assert str(path) in named(bench)
        path.write_bytes(before)
    assert named(bench) == set()


def test_whole_files_of_a_damaged_manifest_are_not_named(bench: Bench, tmp_path: Path) -> None:
    made = pipeline(bench, tmp_path)
    folder = root(bench) / "objects" / "checkpoint" / made["checkpoint anmi"].digest
    manifest = (folder / MANIFEST).read_bytes()
    place = manifest.index(b'"asset"')
    (folder / MANIFEST).write_bytes(manifest[:place] + b"'" + manifest[place + 1 :])
    assert named(bench) == {str(folder / MANIFEST)}
    flip(folder / "curve.png", np.random.default_rng(0))
    assert named(bench) == {str(folder / MANIFEST), str(folder / "curve.png")}


@pytest.mark.parametrize("harm", ["cut", "grow", "empty", "remove"])
def test_cut_grown_and_lost_files_are_named(bench: Bench, tmp_path: Path, harm: str) -> None:
    made = pipeline(bench, tmp_path)
    folder = root(bench) / "objects"
    for path in (
        folder / "elo_table" / made["elo_table"].digest / "elo_table" / "train.parquet",
        folder / "checkpoint" / made["checkpoint anmi"].digest / "seed0" / "weights.safetensors",
        folder / "checkpoint" / made["checkpoint anmi"].digest / "curve.png",
    ):
        data = path.read_bytes()
        if harm == "remove":
            path.unlink()
        else:
            path.write_bytes({"cut": data[:-1], "grow": data + b"x", "empty": b""}[harm])
        assert named(bench) == {str(path)}
        path.write_bytes(data)
    assert named(bench) == set()


def test_a_lost_object_record_or_ref_target_is_named_by_who_needs_it(bench: Bench, tmp_path: Path) -> None:
    made = pipeline(bench, tmp_path)
    table = made["elo_table"]
    record = Path(str(bench.records.path("elo_table", "tiny0", table.build_key)))
    children = {
        str(bench.records.path("checkpoint", f"tiny0|{recipe}", made[f"checkpoint {recipe}"].build_key))
        for recipe in ("anmi", "placebo")
    }
    data = record.read_bytes()
    record.unlink()
    assert named(bench) == {str(root(bench) / "refs" / "elo_table" / "tiny0"), *children}
    assert "its parent elo_table#train" in next(d.problem for d in verify(bench.records) if d.path in children)
    record.write_bytes(data)
    remove(bench.store.object_path("elo_table", table.digest))
    assert named(bench) == {str(record)}


def test_files_in_the_wrong_place_are_named(bench: Bench, tmp_path: Path) -> None:
    made = pipeline(bench, tmp_path, variants=2)
    objects = root(bench) / "objects"
    one, other = (made[f"checkpoint {recipe}"] for recipe in ("anmi", "placebo"))
    places = [
        (objects / "checkpoint" / one.digest / MANIFEST, objects / "checkpoint" / other.digest / MANIFEST),
        (root(bench) / "refs" / "corpus" / "tiny0", root(bench) / "refs" / "elo_table" / "tiny0"),
        tuple(
            Path(str(bench.records.path("checkpoint", f"tiny1|{n}", r.build_key))) for n, r in (("anmi", one), ("placebo", other))
        ),
    ]
    for source, target in places:
        before = target.read_bytes()
        target.write_bytes(source.read_bytes())
        assert str(target) in named(bench), "a whole, sealed file, but of another"
        target.write_bytes(before)
    assert named(bench) == set()


def test_a_seal_made_anew_over_changed_content_is_named(bench: Bench, tmp_path: Path) -> None:
    """Not an accident but a hand: the digests still tell."""
    made = pipeline(bench, tmp_path)
    record = made["elo_table"]
    path = Path(str(bench.records.path("elo_table", "tiny0", record.build_key)))
    before = path.read_bytes()
    path.write_bytes(seal({**record.model_dump(mode="json"), "config": {"prior": 2.0}}))
    assert [damage.problem[:9] for damage in verify(bench.records)] == ["build key"]
    path.write_bytes(before)
    artifact = bench.store.get("elo_table", record.digest)
    manifest = artifact.path / MANIFEST
    manifest.write_bytes(seal({**artifact.manifest, "facts": {"queries": 3}}))
    assert named(bench) == {str(manifest)}


def test_rows_that_do_not_give_the_digest_are_named(bench: Bench) -> None:
    record = bench.build("elo_table", elo({"a": 1600.0}))
    artifact = bench.store.get("elo_table", record.digest)
    other = bench.store.get("elo_table", bench.build("elo_table", elo({"a": 1700.0}), config={"n": 2}).digest)
    data = (other.path / "elo_table" / "train.parquet").read_bytes()
    (artifact.path / "elo_table" / "train.parquet").write_bytes(data)
    entry = other.manifest["files"]["elo_table/train.parquet"]
    forged = {**artifact.manifest, "files": {**artifact.manifest["files"], "elo_table/train.parquet": entry}}
    (artifact.path / MANIFEST).write_bytes(seal(forged))
    assert [damage.problem for damage in verify(bench.records)] == ["rows do not give the digest in the manifest"]
    assert named(bench) == {str(artifact.path / "elo_table" / "train.parquet")}
    assert other.table(ELO, "train").height == 1


def test_unfinished_work_is_not_damage(bench: Bench, tmp_path: Path) -> None:
    made = pipeline(bench, tmp_path)
    leave_unfinished(bench, made)
    assert named(bench) == set()


# Garbage


def leave_unfinished(bench: Bench, made: dict[str, Record]) -> list[Path]:
    """What killed writers leave: partial files, objects without manifest, an object without record; as `garbage` names them."""
    top = root(bench)
    partial = ".0123456789abcdef.partial"
    partials = [
        top / "objects" / "checkpoint" / made["checkpoint anmi"].digest / partial,
        top / "records" / "checkpoint" / "tiny0--anmi" / partial,
        top / "refs" / "checkpoint" / partial,
    ]
    unfinished = top / "objects" / "scores" / ("0" * 64)
    (unfinished / "scores").mkdir(parents=True)
    (unfinished / "scores" / "test.parquet").write_bytes(b"half")
    for path in partials:
        path.write_bytes(b"half")
    nameless = bench.store.put("elo_table", elo({"nobody": 1.0}))
    return [*partials, Path(str(nameless.path)), unfinished]


def test_garbage_is_exactly_what_nobody_needs(bench: Bench, tmp_path: Path) -> None:
    made = pipeline(bench, tmp_path)
    before = files(bench)
    assert list(garbage(bench.records)) == []
    left = leave_unfinished(bench, made)
    assert [Path(str(path)) for path in garbage(bench.records)] == left
    remove_all(bench)
    assert files(bench) == before
    assert not any(path.exists() for path in left)
    assert named(bench) == set()


def remove_all(bench: Bench, *, history: bool = False) -> None:
    """What `anmi gc` does."""
    for path in list(garbage(bench.records, history=history)):
        remove(path)


def rejudge(bench: Bench, made: dict[str, Record]) -> Record:
    """Another Elo table, whose dataset's models are not trained again."""
    return bench.build("elo_table", elo({"a": 99.0}), {"corpus": (made["corpus"], None)}, partition="tiny0", config={"again": 1})


def test_history_is_kept_unless_asked(bench: Bench, tmp_path: Path) -> None:
    made = pipeline(bench, tmp_path)
    middle = rejudge(bench, made)
    newest = bench.build(
        "elo_table", elo({"a": 100.0}), {"corpus": (made["corpus"], None)}, partition="tiny0", config={"again": 2}
    )
    assert list(garbage(bench.records)) == []
    found = {Path(str(path)) for path in garbage(bench.records, history=True)}
    expected = {bench.store.object_path("elo_table", middle.digest), bench.records.path("elo_table", "tiny0", middle.build_key)}
    assert found == {Path(str(path)) for path in expected}, "the first table stays: current models were trained on it"
    remove_all(bench, history=True)
    assert named(bench) == set()
    assert bench.records.current("elo_table", "tiny0") == newest
    assert {node.record is None for node in lineage(bench.records, made["leaderboard"]).walk()} == {False}
    assert list(garbage(bench.records, history=True)) == []


def test_what_is_damaged_is_never_garbage(bench: Bench, tmp_path: Path) -> None:
    made = pipeline(bench, tmp_path)
    rng = np.random.default_rng(5)
    flip(Path(str(bench.records.path("elo_table", "tiny0", made["elo_table"].build_key))), rng)
    flip(Path(str(bench.store.object_path("checkpoint", made["checkpoint anmi"].digest) / MANIFEST)), rng)
    assert list(garbage(bench.records)) == []


@pytest.mark.parametrize("harm", ["ref", "record", "ancestor"])
def test_history_is_not_removed_while_its_graph_is_damaged(bench: Bench, tmp_path: Path, harm: str) -> None:
    made = pipeline(bench, tmp_path)
    rejudge(bench, made)
    record = made["elo_table"] if harm == "ancestor" else made["leaderboard"]
    path = bench.records.path(record.asset, "tiny0", record.build_key)
    flip(root(bench) / "refs" / "leaderboard" / "tiny0" if harm == "ref" else Path(str(path)), np.random.default_rng(1))
    with pytest.raises(ArtifactError, match=r"Materialise (leaderboard|elo_table) again"):
        remove_all(bench, history=True)


def test_removing_takes_the_manifest_first(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = pipeline(bench, tmp_path)
    removed: list[str] = []
    path = bench.store.object_path("checkpoint", made["checkpoint anmi"].digest)
    unlink = type(path).unlink

    def noted(self: Path, *args: object) -> None:
        removed.append(self.name)
        unlink(self, *args)

    monkeypatch.setattr(type(path), "unlink", noted)
    remove(path)
    assert removed[0] == MANIFEST
    assert sorted(removed[1:]) == ["curve.png", "weights.safetensors"]
    assert not path.exists()


def test_an_empty_store_is_clean(bench: Bench) -> None:
    checks: Sequence[object] = [*verify(bench.records), *garbage(bench.records), *garbage(bench.records, history=True)]
    assert checks == []
