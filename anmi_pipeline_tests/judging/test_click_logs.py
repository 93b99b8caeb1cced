import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.click_logs import ClickLogs, click_graph, log_files, new_logs
from anmi_pipeline.judging.clicks import ClickConfig, click_comparisons
from anmi_pipeline_tests.judging.clicklogs import clicked

ALL = ClickLogs(path="clicks/*.csv")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three files that together hold one log; each numbers its impressions anew."""
    (tmp_path / "clicks").mkdir()
    for number, part in enumerate(parts()):
        part.write_csv(tmp_path / "clicks" / f"{number}.csv")
    return tmp_path


def parts() -> list[pl.DataFrame]:
    made = clicked(6, 300, 0).log.with_columns(number=pl.col("impression").cast(pl.Int64))
    return [
        made.filter(pl.col("number") % 3 == rest).with_columns(impression=(pl.col("number") // 3).cast(pl.String)).drop("number")
        for rest in range(3)
    ]


def digests(config: ClickLogs, root: Path) -> list[str]:
    return list(log_files(config, root).by_digest)


def documents(queries: int = 6, each: int = 12) -> pl.DataFrame:
    rows = [(f"q{query:03}", f"d{doc:02}") for query in range(queries) for doc in range(each)]
    return pl.DataFrame(rows, schema=["query_id", "doc_id"], orient="row")


def test_several_files_are_one_log(root: Path):
    found = click_graph(ALL, root, digests(ALL, root), documents())
    whole = click_comparisons(clicked(6, 300, 0).log, ClickConfig()).comparisons
    assert found.comparisons.select("query_id", "doc_i", "doc_j", "n_verdicts").equals(
        whole.select("query_id", "doc_i", "doc_j", "n_verdicts")
    )
    assert found.comparisons["preference"].to_numpy() == pytest.approx(whole["preference"].to_numpy())
    facts = found.facts()
    assert (facts["click_files"], facts["click_impressions"], facts["click_queries"]) == (3, 1800, 6)
    assert facts["click_comparisons_left_out"] == facts["click_files_repeated"] == 0


def test_equal_contents_count_once_whatever_the_files_are_called(root: Path):
    before = click_graph(ALL, root, digests(ALL, root), documents())
    known = digests(ALL, root)
    shutil.copy(root / "clicks" / "1.csv", root / "clicks" / "again.csv")
    (root / "clicks" / "2.csv").rename(root / "clicks" / "aaa.csv")
    (root / "clicks" / "empty.csv").touch()
    assert digests(ALL, root) == known, "neither a copy nor a name is another build"
    after = click_graph(ALL, root, known, documents())
    assert after.comparisons.equals(before.comparisons)
    assert (after.files, after.repeated) == (3, 1)


def test_documents_outside_the_pool_are_left_out_and_counted(root: Path):
    pool = documents(4).filter(~((pl.col("query_id") == "q000") & pl.col("doc_id").is_in(["d00", "d01"])))
    found = click_graph(ALL, root, digests(ALL, root), pool)
    everything = click_graph(ALL, root, digests(ALL, root), documents()).comparisons
    kept = pl.col("query_id").is_in(["q001", "q002", "q003"]) | (pl.col("query_id") == "q000") & ~pl.col("doc_i").is_in(
        ["d00", "d01"]
    ) & ~pl.col("doc_j").is_in(["d00", "d01"])
    assert found.comparisons.equals(everything.filter(kept)), "those that stay are what they were"
    assert (found.queries_outside, found.documents_outside) == (2, 2)
    assert found.left_out == everything.height - found.comparisons.height


def test_no_file_yet_is_no_click(tmp_path: Path):
    (tmp_path / "clicks").mkdir()
    (tmp_path / "clicks" / "empty.csv").touch()
    found = click_graph(ALL, tmp_path, [], documents())
    assert found.comparisons.is_empty()
    assert set(found.facts().values()) == {0}
    assert new_logs(ALL, tmp_path, None)[0] == []


def test_a_file_that_changes_while_it_is_read_is_noticed(root: Path):
    known = digests(ALL, root)
    with (root / "clicks" / "1.csv").open("a") as stream:
        stream.write("x,q000,d00,1,false,\n")
    with pytest.raises(InputError, match="changed while they were read"):
        click_graph(ALL, root, known, documents())


def test_absolute_paths_single_files_and_folders_of_folders(root: Path):
    (root / "clicks" / "2026" / "01").mkdir(parents=True)
    shutil.move(root / "clicks" / "0.csv", root / "clicks" / "2026" / "01" / "0.csv")
    assert len(digests(ClickLogs(path="clicks/**/*.csv"), root)) == 3
    assert len(digests(ClickLogs(path=str(root / "clicks" / "*.csv")), Path("/nowhere"))) == 2
    assert len(digests(ClickLogs(path="clicks/2.csv"), root)) == 1


@pytest.mark.parametrize(
    ("path", "text"),
    [("click/*.csv", "folder .*click of judging.clicks.path"), ("clicks/9.csv", "9.csv of judging.clicks.path does not exist")],
)
def test_a_wrong_path_is_named(path: str, text: str, root: Path):
    with pytest.raises(InputError, match=text):
        log_files(ClickLogs(path=path), root)


def test_a_relative_path_needs_a_folder_of_data():
    with pytest.raises(InputError, match="set ANMI_DATA"):
        log_files(ALL, None)


def test_new_logs_are_new_contents(root: Path):
    folder = root / "clicks"
    first, cursor = new_logs(ALL, root, None)
    assert [path.name for path in first] == ["0.csv", "1.csv", "2.csv"]
    assert new_logs(ALL, root, cursor) == ([], cursor)
    shutil.copy(folder / "0.csv", folder / "copy.csv")
    (folder / "1.csv").rename(folder / "renamed.csv")
    (folder / "2.csv").unlink()
    nothing, cursor = new_logs(ALL, root, cursor)
    assert nothing == []
    assert sorted(Path(path).name for path in json.loads(cursor)) == ["0.csv", "copy.csv", "renamed.csv"]
    with (folder / "0.csv").open("a") as stream:
        stream.write("more,q000,d00,1,false,\n")
    shutil.copy(folder / "0.csv", folder / "3.csv")
    grown, cursor = new_logs(ALL, root, cursor)
    assert [path.name for path in grown] == ["0.csv"], "two files with one new content are one"
    assert new_logs(ALL, root, cursor)[0] == []


@pytest.mark.parametrize("cursor", ["[]", "{", '{"a": 1}', '{"a": ["x", 1, ""]}'])
def test_a_cursor_of_another_kind_is_refused(cursor: str, root: Path):
    with pytest.raises(InputError, match="the cursor of the click logs"):
        new_logs(ALL, root, cursor)
