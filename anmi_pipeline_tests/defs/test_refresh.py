"""A refresh end to end: what it buys, what it leaves alone, what its report says, and that builds name what they carry."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from anmi_pipeline import tables
from anmi_pipeline.catalog.datasets import load_dataset
from anmi_pipeline.catalog.refreshing import enter_epoch, open_refresh
from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.budget import Budget
from anmi_pipeline.judging.epochs import EpochBook
from anmi_pipeline.judging.intents import IntentBook
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.lineage import garbage, lineage, verify
from anmi_pipeline.records import Record, Records
from anmi_pipeline.settings import Settings
from anmi_pipeline.store import Artifact, Store
from anmi_pipeline_tests.small import anmi, write_lines, write_small

NAME = "small-refreshed"
VARIANT = [
    "description: two simulated judges, an audit slice, the adaptive design, an informative prior",
    "extends: small",
    "judging:",
    "  design: adaptive",
    "  pool_size: 10",
    "  degree: 6",
    "  audit_share: 0.1",
    "  judges: [{kind: simulated, name: one, tie_slope: 0}, {kind: simulated, name: two, tie_slope: 0, error_rate: 0.3}]",
    "  refresh: {cron: '0 3 * * 1', max_calls: 400}",
    "rating: {prior: scores}",
]
Opened = Callable[[str], tuple[Record, Artifact]]
FIRST, SECOND, THIRD = ["1"], ["1", "second"], ["1", "second", "third"]


def judgments(opened: Opened) -> pl.DataFrame:
    return opened("pairwise_judgments")[1].table(tables.JUDGMENTS)


def documents(rows: pl.DataFrame) -> pl.DataFrame:
    """query_id, doc_id of every document with a verdict."""
    return pl.concat([rows.select("query_id", doc_id=end) for end in ("first_id", "second_id")]).unique()


def pairs_of(rows: pl.DataFrame) -> pl.DataFrame:
    """Unordered pairs."""
    return rows.select(
        "query_id", low=pl.min_horizontal("first_id", "second_id"), high=pl.max_horizontal("first_id", "second_id")
    ).unique()


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("refresh")
    made = write_small(root)
    write_lines(root / "conf" / "datasets" / f"{NAME}.yaml", VARIANT)
    done = anmi(made, "run", "--dataset", NAME, "--until", "elo_table")
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture(scope="module")
def opened(environment: dict[str, str]) -> Opened:
    records = Records(Store(environment["ANMI_HOME"]))
    return lambda asset: records.require(asset, NAME)


def epochs(environment: dict[str, str]) -> list[str]:
    with Books(Settings.from_environment(environment).ledger_url) as books:
        return [epoch.name for epoch in EpochBook(books, NAME).all()]


def refresh(environment: dict[str, str], name: str, *more: str) -> dict[str, object]:
    done = anmi(environment, "refresh", "--dataset", NAME, "--epoch", name, "--json", *more)
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(done.stdout)


def test_the_steps_of_a_refresh(environment: dict[str, str], opened: Opened) -> None:
    """One test, because each step starts where the one before ended."""
    first, elo = judgments(opened), opened("elo_table")[0].digest
    assert epochs(environment) == FIRST
    assert "epoch" not in opened("comparison_plan")[0].config

    # Nothing is new: nobody is asked, and every content is what it was.
    report = refresh(environment, "second")
    assert (report["bought"], report["drift"]["moved"]) == ([], 0.0)
    assert judgments(opened).equals(first)
    assert opened("elo_table")[0].digest == elo
    assert epochs(environment) == SECOND
    record, _ = opened("comparison_plan")
    assert record.config["epoch"]["name"] == "second"
    assert any(name.startswith("pairwise_judgments@") for name in record.upstream)

    # A plain run stays in the epoch and builds nothing.
    done = anmi(environment, "run", "--dataset", NAME, "--until", "elo_table")
    assert done.returncode == 0, done.stderr
    assert "0 built" in done.stdout

    # A new query, and a new document at the top of the run of two known ones.
    data = Path(environment["ANMI_DATA"]) / "small"
    add_query(data)
    add_document(data)
    report = refresh(environment, "third")
    now = judgments(opened)
    bought = now.filter(pl.col("epoch") == "third")
    known = bought.filter(pl.col("query_id") != "q98")
    new = documents(now).join(documents(first), on=["query_id", "doc_id"], how="anti").filter(pl.col("query_id") != "q98")
    assert "d98" in set(new["doc_id"])
    assert set(bought["query_id"]) == {"q98", *new["query_id"]}
    touched = [known.join(new.rename({"doc_id": end}), on=["query_id", end], how="semi") for end in ("first_id", "second_id")]
    assert pl.concat(touched).unique().height == known.height
    assert set(documents(known).join(new, on=["query_id", "doc_id"], how="semi").iter_rows()) == set(new.iter_rows())
    # What left the pools for the new documents took its pairs along; all other rows are carried as they were.
    kept = now.join(first, on=list(tables.JUDGMENTS.key), how="semi")
    lost = first.join(now, on=list(tables.JUDGMENTS.key), how="anti")
    assert kept.height + lost.height == first.height
    assert set(lost["query_id"]) <= set(new["query_id"])
    assert {(row["reason"], row["calls"] > 0) for row in report["bought"]} == {("new document", True), ("new query", True)}
    assert sum(row["calls"] for row in report["bought"]) == bought.unique("call_key").height
    assert report["drift"]["new_queries"] == 1
    rated, elo_now = opened("elo_table")
    assert rated.notes["drift"] == {"since": elo, **report["drift"]}
    assert "plots/drift.png" in elo_now.manifest["files"]
    assert report["drift"]["new_documents"] == new.height
    assert 0 < report["drift"]["moved"] < 1
    # No more pairs than the new documents' share of the budget, and every graph is one.
    most = pairs_of(known).group_by("query_id").len().join(new.group_by("query_id").len(name="new"), on="query_id")
    assert (most["len"] <= 6 * most["new"]).all()
    certificates = opened("comparison_plan")[1].table(tables.CERTIFICATES)
    assert set(certificates["components"]) == {1}

    # The whole chain of epochs can be walked, verified, and is no garbage.
    records = Records(Store(environment["ANMI_HOME"]))
    names = [node.name for node in lineage(records, opened("elo_table")[0]).walk()]
    assert sum(name.startswith("pairwise_judgments@") for name in names) == len(THIRD) - 1
    assert list(verify(records)) == []
    carried = {str(path) for path in garbage(records, history=True)}
    assert not any(f"pairwise_judgments/{opened('comparison_plan')[0].config['epoch']['carried']}" in path for path in carried)


def add_query(data: Path) -> None:
    """A training query with its run."""
    text = json.loads((data / "corpus.jsonl").read_text().splitlines()[5])["text"]
    extend(data / "queries.jsonl", json.dumps({"_id": "q98", "text": " ".join(text.split()[:4])}))
    extend(data / "qrels" / "train.tsv", "q98\td05\t1")
    extend(data / "dense.trec", *(f"q98 Q0 d{number:02d} {number + 1} {1 / (number + 1):.6f} made" for number in range(20)))


def add_document(data: Path) -> None:
    """A document that the dense run puts first for two queries; its words are nobody's, so that no lexical run knows it."""
    extend(data / "corpus.jsonl", json.dumps({"_id": "d98", "title": "fresh", "text": "fresh unheard"}))
    lines = (data / "dense.trec").read_text().splitlines()
    for query in ("q00", "q01"):
        own = [line.split() for line in lines if line.startswith(f"{query} ")]
        lines = [line for line in lines if not line.startswith(f"{query} ")]
        ranked = [(query, "d98"), *((query, one[2]) for one in own[:-1])]
        lines += [f"{name} Q0 {doc} {rank} {1 / rank:.6f} made" for rank, (name, doc) in enumerate(ranked, start=1)]
    write_lines(data / "dense.trec", lines)


def extend(path: Path, *lines: str) -> None:
    write_lines(path, [*path.read_text().splitlines(), *lines])


def test_refreshing_what_was_never_judged_or_has_nobody_to_ask_is_an_error(environment: dict[str, str]) -> None:
    settings = Settings.from_environment(environment)
    with pytest.raises(InputError, match="never judged"):
        open_refresh("small", settings)
    write_lines(
        Path(environment["ANMI_CONF"]) / "datasets" / "silent.yaml",
        ["description: nobody judges", "extends: small", "judging: {judges: []}"],
    )
    with pytest.raises(InputError, match="no judges"):
        open_refresh("silent", settings)


def test_an_epoch_under_way_is_taken_up_and_one_that_was_followed_is_not(environment: dict[str, str]) -> None:
    settings = Settings.from_environment(environment)
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    opened = open_refresh(NAME, settings, max_calls=7)
    assert opened.name.startswith(today)
    assert (opened.max_calls, opened.scope) == (7, f"{NAME}:{opened.name}")
    again = open_refresh(NAME, settings, max_usd=2.5)
    assert (again.name, again.number, again.opened_at) == (opened.name, opened.number, opened.opened_at)
    assert (again.max_calls, again.max_usd) == (7, 2.5)
    with pytest.raises(InputError, match="followed by"):
        open_refresh(NAME, settings, "1")


def test_no_epoch_is_opened_while_batches_of_the_last_one_are_on_their_way(environment: dict[str, str]) -> None:
    settings = Settings.from_environment(environment)
    dataset, records = load_dataset(NAME, settings.conf), Records(Store(settings.store_url))
    under_way = open_refresh(NAME, settings, max_calls=9)
    with Books(settings.ledger_url) as books:
        batches = IntentBook(Budget(books, under_way.scope), "gpt: gpt-4o-mini at http://localhost/v1 (pairwise)")
        intent = batches.write([("key", 1)], 0, datetime.now(UTC))
        assert intent is not None
        # What a schedule's run, a plain run and the command do.
        assert enter_epoch(books, records, dataset, "of the next tick").name == under_way.name
        assert enter_epoch(books, records, dataset).name == under_way.name
        assert open_refresh(NAME, settings).name == under_way.name
        with pytest.raises(InputError, match="would submit their calls again"):
            open_refresh(NAME, settings, "another")
        batches.failed(intent, datetime.now(UTC))
        assert open_refresh(NAME, settings, "another").name == "another"


def test_an_epoch_gets_no_first_caps_while_its_batches_are_on_their_way(environment: dict[str, str]) -> None:
    settings = Settings.from_environment(environment)
    with Books(settings.ledger_url) as books:
        bare = EpochBook(books, NAME).open("bare")
        assert bare.scope == NAME, "it shares the books of the dataset"
        intents = IntentBook(Budget(books, bare.scope), "gpt: gpt-4o-mini at http://localhost/v1 (pairwise)")
        intent = intents.write([("key", 1)], 0, datetime.now(UTC))
        assert intent is not None
        assert open_refresh(NAME, settings).name == "bare"
        with pytest.raises(InputError, match="would submit their calls again"):
            open_refresh(NAME, settings, max_calls=5)
        intents.failed(intent, datetime.now(UTC))
        assert open_refresh(NAME, settings, max_calls=5).scope == f"{NAME}:bare"


def test_batches_that_nobody_collects_hold_no_dataset_whose_elo_table_came(environment: dict[str, str]) -> None:
    settings = Settings.from_environment(environment)
    assert refresh(environment, "done")["bought"] == [], "the table is that of an earlier epoch"
    with Books(settings.ledger_url) as books:
        last = EpochBook(books, NAME).all()[-1]
        assert IntentBook(Budget(books, last.scope), "replaced").write([("key", 1)], 0, datetime.now(UTC)) is not None
    assert open_refresh(NAME, settings, "after").name == "after"
