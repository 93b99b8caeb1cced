"""The ledger's commands on an installation, without a run."""

from pathlib import Path

import pytest

from anmi_pipeline.catalog import ledgering
from anmi_pipeline.errors import ArtifactError, InputError
from anmi_pipeline.judging.imports import Filed, Terms
from anmi_pipeline.judging.ledger_pruning import Order
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.judging.ledger_transfers import Added, Choice
from anmi_pipeline.settings import Settings
from anmi_pipeline_tests.catalog.stored import installation
from anmi_pipeline_tests.judging.filled import PAST, answers, append
from anmi_pipeline_tests.judging.made import made_evidence


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return installation(tmp_path, made_evidence(3, 20))


def test_a_ledger_goes_to_a_file_and_into_another(settings: Settings, tmp_path: Path):
    with Books(settings.ledger_url) as books:
        append(books, answers([1, 2], expires_at=PAST), "1", "a")
        append(books, answers([3]), "1", "b")
    path = tmp_path / "ledger.csv.gz"
    assert ledgering.export(settings, path, Choice(judge="a")) == 2
    other = settings.model_copy(update={"ledger_url": f"sqlite:///{tmp_path / 'other.db'}"})
    assert ledgering.bring_file(other, path, None, None, None) == Added(2, 0).rows()
    assert [row["calls"] for row in ledgering.stats(other).verdicts] == [2]
    order = Order(expired_before=ledgering.date_time("2002-01-01"))
    assert ledgering.clean(other, order, apply=False).rows == 2
    assert ledgering.clean(other, order, apply=True).applied
    assert ledgering.stats(other).verdicts == []


def test_verdicts_of_people_belong_to_a_dataset(settings: Settings, tmp_path: Path):
    path = tmp_path / "verdicts.csv"
    path.write_text("query_id,first_id,second_id,p,judge\nq000,d001,d002,a,\nq001,d001,d002,0.2,gpt\n")
    assert ledgering.bring_verdicts("made", settings, path, Terms()) == Filed(2, 0, 0, 0)
    stats = ledgering.stats(settings)
    assert {(row["judge"], row["epoch"]) for row in stats.verdicts} == {("human", "7"), ("gpt", "7")}
    assert [row["judge"] for row in stats.imports] == ["gpt", "human"]
    path.write_text("query_id,first_id,second_id,p\nq000,d001,d003,a\n")
    with pytest.raises(InputError, match='judge "one/x" has the name of a judge that the dataset asks'):
        ledgering.bring_verdicts("made", settings, path, Terms(judge="one/x"))
    again = [{"verdicts": name, "rows": count} for name, count in (("new", 1), ("changed", 0), ("known", 0), ("unanswered", 0))]
    assert ledgering.bring_file(settings, path, "made", "team", "recorded") == again
    with pytest.raises(InputError, match="Name it with --dataset"):
        ledgering.bring_file(settings, path, None, "team", None)
    assert ledgering.withdraw("made", settings, "gpt") == 1
    with pytest.raises(InputError, match='no imported verdicts of judge "gpt"'):
        ledgering.withdraw("made", settings, "gpt")


def test_a_dataset_that_never_ran_says_what_to_do(settings: Settings, tmp_path: Path):
    empty = settings.model_copy(update={"store_url": str(tmp_path / "elsewhere")})
    with pytest.raises(ArtifactError, match="Materialise queries for made first"):
        ledgering.bring_verdicts("made", empty, tmp_path / "x.csv", Terms())
    with pytest.raises(InputError, match="unknown dataset"):
        ledgering.withdraw("mad", settings, "human")


def test_dates(settings: Settings):
    assert ledgering.date_time(None) is None
    assert ledgering.date_time("2026-01-31T12:00+02:00") == "2026-01-31T10:00:00.000000Z"
    with pytest.raises(InputError, match='"soon" is no date'):
        ledgering.date_time("soon")
