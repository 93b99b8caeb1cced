"""The same store on an object store: moto's S3 server on loopback."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from anmi_pipeline.errors import ArtifactError, InputError
from anmi_pipeline.lineage import find_record, garbage, lineage, remove, verify
from anmi_pipeline.store import MANIFEST, Content, Store
from anmi_pipeline.tables import CORPUS, ELO
from anmi_pipeline_tests.foundation.made import Bench, corpus, elo, tensors

BUCKET = "anmi-tests"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Address of an S3 server in this process."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[object]:
    """A boto3 client of the server; the environment points s3fs to it."""
    import boto3
    import s3fs

    values = {"ENDPOINT_URL": server, "ACCESS_KEY_ID": "fake", "SECRET_ACCESS_KEY": "fake", "DEFAULT_REGION": "us-east-1"}
    for name, value in values.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    s3fs.S3FileSystem.clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    yield client
    for key in keys(client, ""):
        client.delete_object(Bucket=BUCKET, Key=key)
    s3fs.S3FileSystem.clear_instance_cache()


def keys(client: object, prefix: str) -> list[str]:
    """Keys in the bucket."""
    return [entry["Key"] for entry in client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])]


def flip(client: object, key: str) -> None:
    """Change one byte of a key."""
    data = bytearray(client.get_object(Bucket=BUCKET, Key=key)["Body"].read())
    data[len(data) // 2] ^= 1
    client.put_object(Bucket=BUCKET, Key=key, Body=bytes(data))


def weights(tmp_path: Path) -> Content:
    """Content with tables and a folder within a folder."""
    (tmp_path / "out" / "seed0").mkdir(parents=True, exist_ok=True)
    (tmp_path / "out" / "seed0" / "weights.safetensors").write_bytes(tensors({"w": [1.0]}))
    return Content(tables=elo({"a": 1600.0}).tables, folder=tmp_path / "out")


def test_put_get_record_ref_and_verify(s3: object, tmp_path: Path) -> None:
    bench = Bench(f"s3://{BUCKET}/home/one")
    source = bench.build("corpus", corpus())
    record = bench.build("checkpoint", weights(tmp_path), {"corpus": (source, None)}, partition="tiny|anmi")
    again = Bench(f"s3://{BUCKET}/home/one")
    assert again.build("corpus", corpus()) == source, "reused"
    current, artifact = again.records.require("checkpoint", "tiny|anmi")
    assert current == record
    assert artifact.table(ELO, "train").height == 1
    assert again.store.get("corpus", source.digest).table(CORPUS).height == 3
    assert list(again.records.refs()) == [("checkpoint", "tiny|anmi"), ("corpus", "tiny")]
    assert [node.name for node in lineage(again.records, record).walk()] == ["checkpoint", "corpus"]
    assert all(key.startswith("home/one/") for key in keys(s3, ""))
    assert list(verify(again.records)) == []
    assert list(garbage(again.records)) == []
    wanted = f"s3://{BUCKET}/home/one/objects/checkpoint/{record.digest}"
    assert find_record(again.records, wanted) == find_record(again.records, "checkpoint:tiny|anmi") == record
    with pytest.raises(InputError, match=r"corpus of tinny was never materialised. Did you mean \"corpus:tiny\""):
        find_record(again.records, "corpus:tinny")


def test_digests_are_those_of_a_local_store(s3: object, tmp_path: Path) -> None:
    remote, local = Bench(f"s3://{BUCKET}/store"), Bench(tmp_path / "store")
    assert remote.build("thing", weights(tmp_path)).build_key == local.build("thing", weights(tmp_path)).build_key
    (record,) = [record for _, record in remote.records.all()]
    assert record is not None
    artifact, twin = remote.store.get("thing", record.digest), local.store.get("thing", record.digest)
    assert artifact.manifest == twin.manifest


def test_a_remote_object_as_a_local_folder(s3: object, tmp_path: Path) -> None:
    artifact = Store(f"s3://{BUCKET}/store").put("checkpoint", weights(tmp_path))
    folder = artifact.local_folder(tmp_path / "cache")
    assert (folder / "seed0" / "weights.safetensors").read_bytes() == tensors({"w": [1.0]})
    for key in keys(s3, "store/objects"):
        s3.delete_object(Bucket=BUCKET, Key=key)
    assert artifact.local_folder(tmp_path / "cache") == folder, "files that are there are not fetched again"


def test_what_another_process_writes_is_seen_at_once(s3: object) -> None:
    """A listing that s3fs kept would hide it."""
    source = Bench(f"s3://{BUCKET}/a").build("corpus", corpus())
    watcher = Bench(f"s3://{BUCKET}/b")
    watcher.build("corpus", corpus(9), config={"older": True})
    assert len(list(watcher.store.objects())) == len(list(watcher.records.all())) == 1
    assert watcher.records.find("corpus", "tiny", source.build_key) is None
    for key in keys(s3, "a/"):
        s3.copy_object(Bucket=BUCKET, Key=f"b/{key.removeprefix('a/')}", CopySource={"Bucket": BUCKET, "Key": key})
    assert watcher.store.has("corpus", source.digest)
    assert watcher.records.find("corpus", "tiny", source.build_key) == source
    assert watcher.records.current("corpus", "tiny") == source
    assert len(list(watcher.store.objects())) == len(list(watcher.records.all())) == 2
    for key in keys(s3, "b/objects"):
        s3.delete_object(Bucket=BUCKET, Key=key)
    assert not watcher.store.has("corpus", source.digest)


def test_verify_names_every_changed_key(s3: object, tmp_path: Path) -> None:
    bench = Bench(f"s3://{BUCKET}/store")
    record = bench.build("corpus", corpus())
    bench.build("checkpoint", weights(tmp_path), {"corpus": (record, None)})
    assert list(verify(bench.records)) == []
    changed = keys(s3, "store/")[::2]
    for key in changed:
        flip(s3, key)
    assert {f"s3://{BUCKET}/{key}" for key in changed} <= {damage.path for damage in verify(bench.records)}


def test_garbage_is_named_and_removed(s3: object, tmp_path: Path) -> None:
    bench = Bench(f"s3://{BUCKET}/store")
    kept = bench.build("corpus", corpus())
    before = keys(s3, "")
    nobody = bench.store.put("checkpoint", weights(tmp_path))
    unfinished = bench.store.put("thing", weights(tmp_path))
    (unfinished.path / MANIFEST).unlink()
    found = list(garbage(bench.records))
    assert found == [nobody.path, unfinished.path]
    for path in found:
        remove(path)
    assert keys(s3, "") == before
    assert bench.store.get("corpus", kept.digest).table(CORPUS).height == 3
    with pytest.raises(ArtifactError, match="not complete"):
        bench.store.get("checkpoint", nobody.digest)


def test_a_bucket_that_is_not_there_is_one_clear_error(s3: object) -> None:
    with pytest.raises(ArtifactError, match=r"cannot write s3://no-such-bucket/store/objects/corpus/.*run again"):
        Bench("s3://no-such-bucket/store").build("corpus", corpus())


def test_a_store_that_cannot_be_reached_is_one_clear_error(s3: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import s3fs

    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.delenv(f"AWS_{name}")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    s3fs.S3FileSystem.clear_instance_cache()
    bench = Bench(f"s3://{BUCKET}/store")
    problem = r"cannot read s3://anmi-tests/store/\S+: Unable to locate credentials. Check ANMI_STORE, the credentials"
    with pytest.raises(ArtifactError, match=problem):
        bench.build("corpus", corpus())
    with pytest.raises(ArtifactError, match=problem):
        list(verify(bench.records))
