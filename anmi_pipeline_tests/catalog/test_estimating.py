"""`anmi estimate` on a small dataset that is judged by a loopback server."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from anmi_pipeline.catalog.datasets import load_dataset
from anmi_pipeline.catalog.estimating import estimate, open_dataset
from anmi_pipeline.errors import ArtifactError, InputError
from anmi_pipeline.judging.cascade import Desk
from anmi_pipeline.judging.collect import collect
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.judging.rounds import collect_rounds
from anmi_pipeline.settings import Settings
from anmi_pipeline_tests.judging.wire_answers import WireSettings
from anmi_pipeline_tests.judging.wire_server import WireServer, serving
from anmi_pipeline_tests.small import anmi, write_lines, write_small

PLANS = {"asked": "design: cycles", "rounds": "design: adaptive, audit_share: 0.1"}


@pytest.fixture(scope="module")
def server() -> Iterator[WireServer]:
    with serving(WireSettings(output_median=10, output_sigma=0.8)) as running:
        yield running


def write_dataset(conf: Path, server: WireServer, name: str, judging: str, model: str = "gpt-4o-mini") -> None:
    judge = f"{{kind: openai, name: api, model: {model}, form: json, base_url: '{server.openai_url}', api_key_env: null}}"
    lines = ["description: judged by a server", "extends: small", f"judging: {{{judging}, degree: 6, judges: [{judge}]}}"]
    write_lines(conf / "datasets" / f"{name}.yaml", [*lines, "rating: {prior: scores}"])


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, server: WireServer) -> dict[str, str]:
    root = tmp_path_factory.mktemp("estimates")
    made = write_small(root)
    for name, judging in PLANS.items():
        write_dataset(root / "conf", server, name, judging)
    for name in PLANS:
        done = anmi(made, "run", "--dataset", name, "--until", "comparison_plan")
        assert done.returncode == 0, done.stderr
    return made


@pytest.fixture
def settings(environment: dict[str, str], tmp_path: Path) -> Settings:
    """The installation with a ledger of its own."""
    return Settings.from_environment(environment | {"ANMI_LEDGER": f"sqlite:///{tmp_path / 'ledger.db'}"})


def changed(settings: Settings, server: WireServer, tmp_path: Path, judging: str, model: str = "gpt-4o-mini") -> Settings:
    """The installation after dataset `asked` was edited."""
    assert settings.conf is not None
    conf = Path(shutil.copytree(settings.conf, tmp_path / "conf"))
    write_dataset(conf, server, "asked", judging, model)
    return settings.model_copy(update={"conf": conf})


def test_without_a_plan_it_names_the_command_that_makes_it(settings: Settings) -> None:
    with pytest.raises(ArtifactError, match="anmi run --dataset small --until comparison_plan"):
        estimate("small", settings)


def test_before_any_call_defaults_give_a_wide_interval_for_both_tiers(settings: Settings, server: WireServer) -> None:
    before = server.stats.answered
    report = estimate("asked", settings)
    sync, batch = report.costs
    assert (sync.tier, sync.configured, sync.source) == ("sync", True, "default")
    assert (batch.tier, batch.configured) == ("batch", False)
    assert sync.usd is not None and batch.usd is not None and report.total == sync.usd
    assert batch.usd.expected == pytest.approx(sync.usd.expected / 2)
    assert sync.usd.low < 0.8 * sync.usd.expected < 1.2 * sync.usd.expected < sync.usd.high
    assert sync.usd_reserved is not None and sync.usd_reserved >= sync.usd.expected
    assert any("--probe" in line for line in report.lines())
    assert server.stats.answered == before


def test_a_probe_asks_planned_calls_once_and_the_rest_costs_what_it_says(settings: Settings, server: WireServer) -> None:
    before = server.stats.answered
    planned = estimate("asked", settings).calls.expected
    report = estimate("asked", settings, probe=True)
    assert server.stats.answered - before == report.probed >= 20
    assert report.on_record == report.probed
    assert report.calls.expected == planned - report.probed
    assert report.costs[0].billed == report.probed
    again = estimate("asked", settings, probe=True)
    assert again.probed == 0 and again.total == report.total and again.costs[0].source == "ledger"
    spent = judge_the_rest(settings, "asked") - report.spent_usd
    assert report.total is not None
    assert report.total.expected == pytest.approx(spent, rel=0.1)
    assert server.stats.answered - before == planned
    done = estimate("asked", settings)
    assert done.calls.high == 0 and done.total is not None and done.total.expected == 0
    assert done.rows()[0]["from"] == "nothing left to ask" and not any("--probe" in line for line in done.lines())


def judge_the_rest(settings: Settings, dataset: str) -> float:
    """Ask what is left; what the dataset has cost in all, USD."""
    config = load_dataset(dataset, settings.conf)
    books = Books(settings.ledger_url)
    with books:
        opened = open_dataset(config, settings, books)
        if opened.study is None:
            collect(opened.plan, opened.judges(), opened.evidence, books, config.judging)
        else:
            desk = Desk(opened.judges(), opened.evidence, books, config.judging, config.rating, config.seed)
            collect_rounds(opened.plan, desk, opened.study)
        return float(opened.money.budget().spending().usd)


def test_rounds_to_come_are_counted_with_their_ends_and_then_exactly(settings: Settings) -> None:
    report = estimate("rounds", settings)
    queries, pairs = report.queries, 30
    assert report.calls.low < report.calls.expected < report.calls.high
    assert report.calls.expected == pytest.approx(1.1 * pairs * queries, rel=0.05)
    judge_the_rest(settings, "rounds")
    done = estimate("rounds", settings)
    assert done.calls.high == 0
    assert done.on_record >= pairs * queries
    assert done.worth is not None
    assert 0 < done.worth.ndcg <= 1 and 0 <= done.worth.settled <= 1 and done.worth.usd is not None
    assert any("settled" in line for line in done.lines())


def test_under_a_cap_it_says_how_many_calls_per_query_fit(settings: Settings, server: WireServer, tmp_path: Path) -> None:
    report = estimate("asked", changed(settings, server, tmp_path, "design: cycles, max_usd: 0.01"))
    assert report.calls_per_query is not None and report.usd_per_call is not None
    assert report.calls_per_query * report.usd_per_call * report.queries == pytest.approx(0.01)
    assert any("under the cap $0.01 are left" in line for line in report.lines())
    counted = estimate("asked", changed(settings, server, tmp_path / "calls", "design: cycles, max_calls: 7"))
    assert counted.as_json()["calls_left"] == 7
    assert any("under the cap 7 calls are left" in line for line in counted.lines())


def test_a_model_without_a_price_is_unknown(settings: Settings, server: WireServer, tmp_path: Path) -> None:
    report = estimate("asked", changed(settings, server, tmp_path, "design: cycles", "nobody-knows-1"))
    assert [cost.tier for cost in report.costs] == ["sync"]
    assert report.total is None and report.rows()[0]["USD expected"] == "unknown"
    assert report.as_json()["total_usd"] is None


def test_a_model_without_a_price_is_an_error_under_a_cap(settings: Settings, server: WireServer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"prices\.yaml"):
        estimate("asked", changed(settings, server, tmp_path, "design: cycles, max_usd: 5", "nobody-knows-1"))
