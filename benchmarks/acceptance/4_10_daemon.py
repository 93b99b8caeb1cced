"""Issue 4: batches that are waited for by nobody, and refreshes by the clock, under the daemon that `anmi ui` runs.

A made-up collection is judged by two models through the batch APIs of a loopback server, launched in the UI's GraphQL. The step
ends with "batch pending"; meanwhile another dataset is judged by plain calls. Batches end when this script says so. The sensor
`batch_ready`, switched on as in docs/operations.md, does the rest, round by round, although its first launch is killed with the
UI and the daemon; the Elo table must be the one that `anmi run` makes with plain calls in another home. The other dataset has a
cron of a minute and a budget that is too small for its new query. The sensor looks every five minutes: 17 minutes in all.
"""

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from api_dataset import NAME, ApiDataset, api_judge, arguments_of, write_lines
from daemon import Daemon, Run, daemon, until
from harness import REPOSITORY, Figures, Installation, arguments, at_least, at_most, exactly, workplace

from anmi_pipeline import tables
from anmi_pipeline.judging.budget import Budget
from anmi_pipeline.judging.epochs import EpochBook
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline_tests.judging.wire_answers import WireSettings
from anmi_pipeline_tests.judging.wire_server import SpawnedServer, spawned

CLOCKED = "clocked"
"""The dataset with a cron."""
ADDED = "qnew"
JUDGED, RATED, POOL = "pairwise_judgments", "elo_table", "judge_api"
ASSETS = (
    *("corpus", "queries", "qrels", "lexical_run", "dense_run", "sparse_run", "late_interaction_run", "candidate_pool"),
    *("comparison_plan", JUDGED, "pairwise_judge", "judge_report", "comparison_graph", RATED),
)
"""What "Materialize all" builds of a dataset up to its Elo table."""
RUN_SECONDS, TICK_SECONDS, CLOCK_SECONDS = 300.0, 420.0, 600.0
NEVER = 1e9
SEED = 0


def judges(url: str, **changes: object) -> list[dict[str, object]]:
    """Two judges of two providers."""
    return [
        api_judge("openai", url, "letters", "gpt-4o-mini", **changes),
        api_judge("anthropic", url, "tools", "claude-haiku-4-5", **changes),
    ]


def clocked_judging(url: str, max_usd: float) -> dict[str, object]:
    """Judging of the dataset with a cron: one judge by plain calls, a budget for each refresh."""
    return {
        "design": "adaptive", "degree": 4, "rounds": 2, "audit_share": 0.0,
        "judges": [api_judge("openai", url, "clerk", "gpt-4.1-mini")],
        "refresh": {"cron": "* * * * *", "max_usd": max_usd},
    }  # fmt: skip


@dataclass
class Site:
    """What the checks work on.

    Attributes:
        installation: the home that is served.
        server: the providers.
        ui: the running `anmi ui`.
        clocked: the collection with a cron.
        queries: its training queries.
    """

    installation: Installation
    server: SpawnedServer
    ui: Daemon
    clocked: ApiDataset
    queries: int

    def write_clocked(self, max_usd: float) -> None:
        """Write the YAML of the dataset with a cron where the installation finds it."""
        write_clocked(self.installation, self.clocked, self.server.url, max_usd)

    def batches(self) -> list[dict[str, Any]]:
        """Batches that the providers have."""
        return self.server.report()["batches"]

    def current(self, asset: str, dataset: str) -> str:
        """Digest of an artifact, or ""."""
        known = self.installation.records.current(asset, dataset)
        return "" if known is None else known.digest


def write_clocked(installation: Installation, made: ApiDataset, url: str, max_usd: float) -> None:
    """The second collection lies elsewhere; its YAML says where, and stands beside the first's."""
    made.judging = {"generator": "dense", "pool_size": made.pool}
    made.configure(**clocked_judging(url, max_usd))
    lines = yaml.safe_load((made.conf / "datasets" / f"{NAME}.yaml").read_text(encoding="utf-8"))
    lines["source"]["path"] = str(made.data / "made")
    lines["retrieval"]["dense"]["recorded"] = str(made.data / "made" / "dense.trec")
    assert installation.conf is not None
    write_lines(installation.conf / "datasets" / f"{CLOCKED}.yaml", [f"{name}: {json.dumps(one)}" for name, one in lines.items()])


def waits(figures: Figures, site: Site, name: str, run: Run | None, calls: int | None = None) -> None:
    """A run that ended because batches are on their way: it holds nothing."""
    if run is None:
        figures.claim(f"{name}: the run ended in time", holds=False)
        return
    steps = site.ui.steps(run.id)
    said = steps.failed.get(JUDGED, "")
    figures.claim(f"{name}: the run failed", run.status == "FAILURE", detail=f"{(run.ended or 0) - (run.started or 0):.0f} s")
    figures.claim(
        f"{name}: it says batch pending", "batch pending" in said and steps.kinds.get(JUDGED) == "batch_pending",
        detail=" ".join(said.split())[:200],
    )  # fmt: skip
    figures.check(f"{name}: attempts of the step", steps.started.get(JUDGED, 0), exactly(1))
    figures.check(f"{name}: retries", len(steps.retried), exactly(0))
    slots = site.ui.pool(POOL)
    held = slots["activeSlotCount"] + slots["pendingStepCount"]
    figures.check(f"{name}: slots of {POOL} that are held or waited for", held, exactly(0), detail=str(slots))
    open_runs = [one.id for one in site.ui.runs(NAME) if not one.over]
    figures.check(f"{name}: runs that are not over", len(open_runs), exactly(0))
    if calls is not None:
        figures.check(f"{name}: calls that the providers answered", site.server.counts()["answered"], exactly(calls))


def submit(figures: Figures, site: Site) -> None:
    """Launch the dataset whose judges use batches."""
    run = site.ui.ended(NAME, site.ui.launch(ASSETS, NAME), RUN_SECONDS)
    waits(figures, site, "first run", run, calls=0)
    figures.check("first run: batches at the providers", len(site.batches()), exactly(2))
    site.ui.switch_sensor("batch_ready")
    ticks = until(lambda: [one for one in site.ui.ticks("batch_ready") if one["status"] != "STARTED"], 120)
    said = str(ticks[0]["skipReason"]) if ticks else "no tick"
    figures.claim("batch_ready, switched on: its first tick waits", "2 running" in said, detail=said)


def meanwhile(figures: Figures, site: Site) -> float:
    """Judge the other dataset while the batches are on their way: what its calls cost on average, USD."""
    run = site.ui.ended(CLOCKED, site.ui.launch(ASSETS, CLOCKED), RUN_SECONDS)
    figures.claim("meanwhile: a run of another dataset succeeds", run is not None and run.status == "SUCCESS")
    calls = site.server.counts()["received"]
    verdicts = site.installation.table(JUDGED, CLOCKED, tables.JUDGMENTS)
    figures.check("meanwhile: its calls", calls, exactly(verdicts["call_key"].n_unique()))
    figures.check("meanwhile: runs of the dataset that waits", len(site.ui.runs(NAME)), exactly(1))
    with Books(ledger(site.installation)) as books:
        return float(Budget(books, CLOCKED).spending().usd) / max(calls, 1)


def ledger(installation: Installation) -> str:
    """URL of an installation's ledger."""
    return f"sqlite:///{installation.home / 'ledger.db'}"


def by_the_clock(figures: Figures, site: Site, usd_per_call: float) -> None:
    """A new query, a cron of a minute, and a budget for about ten of its calls."""
    max_usd = round(10.5 * usd_per_call, 6)
    before, elo = site.server.report(), site.current(RATED, CLOCKED)
    site.clocked.add_query(ADDED, SEED)
    site.clocked.write(site.queries)
    site.write_clocked(max_usd)
    schedule = f"refresh_{CLOCKED}"
    site.ui.switch_schedule(schedule, on=True)
    done = until(lambda: refreshed(site, elo), CLOCK_SECONDS)
    figures.claim("schedule: a refresh comes to an Elo table of its own", bool(done), detail=f"{tick_line(site, schedule)}")
    settled = site.server.counts()["received"]
    nothing = until(lambda: [one for one in of_clock(site) if done and one.over and (one.started or 0) > (done.ended or 0)], 240)
    site.ui.switch_schedule(schedule, on=False)
    until(lambda: all(one.over for one in of_clock(site)), RUN_SECONDS)
    figures.claim(
        "schedule: the next tick's refresh succeeds", bool(nothing) and all(one.status == "SUCCESS" for one in nothing or [])
    )
    figures.check("schedule: its calls", site.server.counts()["received"] - settled, exactly(0))
    bought(figures, site, before, max_usd)


def of_clock(site: Site) -> list[Run]:
    """Runs that the schedule launched."""
    return [run for run in site.ui.runs(CLOCKED) if run.schedule]


def refreshed(site: Site, elo: str) -> Run | None:
    """The first scheduled run that succeeded, once the Elo table is another one."""
    if site.current(RATED, CLOCKED) == elo:
        return None
    return next((run for run in of_clock(site) if run.status == "SUCCESS"), None)


def tick_line(site: Site, schedule: str) -> str:
    """How the schedule's ticks went."""
    failed = [" ".join(site.ui.steps(run.id).failed.get(JUDGED, "").split())[:160] for run in of_clock(site)]
    told = [
        f"{tick['status']} {tick['skipReason'] or ''}{tick['error'] or ''}".strip() for tick in site.ui.schedule_ticks(schedule)
    ]
    return f"ticks {told}; runs {[run.status for run in of_clock(site)]}; {[text for text in failed if text][:1]}"


def bought(figures: Figures, site: Site, before: dict[str, Any], max_usd: float) -> None:
    """What the refreshes bought, and for how much each."""
    after, verdicts = site.server.report(), site.installation.table(JUDGED, CLOCKED, tables.JUDGMENTS)
    own = {row["call_key"] for row in verdicts.filter(verdicts["query_id"] == ADDED).iter_rows(named=True)}
    text = site.clocked.queries[ADDED]
    figures.check("refreshes: calls", after["received"] - before["received"], exactly(len(own)))
    figures.check("refreshes: of these, about the new query", after["queries"].get(text, 0), exactly(len(own)))
    figures.check("refreshes: answers paid twice", after["paid_twice"], exactly(0))
    with Books(ledger(site.installation)) as books:
        epochs = [one for one in EpochBook(books, CLOCKED).all() if one.number > 1]
        spent = [float(Budget(books, one.scope).spending().usd) for one in epochs]
    used = [one for one in spent if one]
    figures.check("refreshes that spent", len(used), at_least(2), detail="the budget is too small for one")
    figures.check("refreshes: the most that one spent, USD", max(spent, default=NEVER), at_most(max_usd), detail=f"{spent}")


def launched(site: Site, known: int, *, over: bool = True) -> Run | None:
    """The next run of the dataset after those known, when it is over or at least there; nobody but the daemon starts one."""
    return until(
        lambda: next((run for run in site.ui.runs(NAME)[known:] if run.over or not over), None), TICK_SECONDS + RUN_SECONDS
    )


def killed(figures: Figures, site: Site) -> None:
    """The first launch of `batch_ready` collects, submits the second round, and dies with everything before it hears of it."""
    site.server.change(WireSettings(batch_s=NEVER, batch_reply_s=60.0))
    site.server.finish()
    run = launched(site, 1, over=False)
    figures.claim("launch 1: by batch_ready", run is not None and run.sensor == "batch_ready")
    accepted = until(lambda: site.server.counts()["batches"] == 4, RUN_SECONDS)
    figures.claim("launch 1: the second round is accepted by both providers", bool(accepted))
    figures.claim("launch 1: killed with the UI and its daemon; nothing of them is left", site.ui.kill())
    site.server.change(WireSettings(batch_s=NEVER))


def taken_up(figures: Figures, site: Site) -> None:
    """The UI is started again. The sensor is still on: it launches again, and again when the batches have ended."""
    waits(figures, site, "launch 2", launched(site, 2))
    figures.check("launch 2: batches at the providers", site.server.counts()["batches"], exactly(4))
    site.server.finish()
    run = launched(site, 3)
    figures.claim(
        "launch 3: by batch_ready, and it succeeds", run is not None and (run.sensor, run.status) == ("batch_ready", "SUCCESS")
    )
    made = site.ui.steps(run.id).materialized if run is not None else []
    figures.claim(f"launch 3: {RATED} is materialized", RATED in made, detail=", ".join(made))
    said = site.ui.test_sensor("batch_ready")
    figures.claim("batch_ready afterwards: nothing to do", said["skipReason"] == "no batch is open", detail=str(said))
    runs = [(run.status, run.sensor or run.schedule or "a person") for run in site.ui.runs(NAME)]
    figures.check("runs of the dataset in all", len(runs), exactly(4), detail=str(runs))


def compared(figures: Figures, site: Site, reference: str) -> None:
    """Against the providers' books and against plain calls."""
    submitted = [key for batch in site.batches() for key in batch["keys"]]
    verdicts = site.installation.table(JUDGED, NAME, tables.JUDGMENTS)
    figures.check("calls in batches", len(submitted), exactly(verdicts["call_key"].n_unique()))
    figures.check("calls submitted twice", len(submitted) - len(set(submitted)), exactly(0))
    figures.check("answers paid twice", site.server.report()["paid_twice"], exactly(0))
    figures.claim(
        "the Elo table is that of plain calls", site.current(RATED, NAME) == reference != "", detail=reference[:16], seed=SEED
    )


def plain(figures: Figures, made: ApiDataset, queries: int, folder: Path) -> str:
    """Digest of the Elo table that `anmi run` makes by plain calls, in another home, at another server."""
    with spawned(WireSettings()) as server:
        other = ApiDataset.make(folder, queries, len(made.documents), made.pool, dict(made.judging), SEED)
        other.configure(judges=judges(server.url))
        installation = served(other)
        done = installation.anmi(*arguments_of(RATED), timeout=RUN_SECONDS)
        figures.check(
            "plain calls: exit code of anmi run", done.code, exactly(0), detail=f"{done.seconds:.0f} s; {done.text[-300:]}"
        )  # fmt: skip
        return "" if done.code else installation.current(RATED, NAME).digest


def served(made: ApiDataset) -> Installation:
    """An installation whose commands import the checkout that this script stands in."""
    plain = made.installation()
    return replace(plain, extra={**plain.extra, "PYTHONPATH": str(REPOSITORY)})


def whole(figures: Figures, place: Path, queries: int, pool: int = 8) -> None:
    """All of it, in a folder of its own."""
    judging = {"design": "adaptive", "degree": 4, "rounds": 2, "audit_share": 0.1}
    with spawned(WireSettings(batch_s=NEVER)) as server:
        batched = {**judging, "judges": judges(server.url, batch={})}
        made = ApiDataset.make(place / "served", queries, 100, pool, batched, SEED)
        clocked = ApiDataset.make(place / "clocked", queries, 100, pool, {}, SEED + 1)
        installation = served(made)
        write_clocked(installation, clocked, server.url, 1.0)
        with daemon(installation) as ui:
            site = Site(installation, server, ui, clocked, queries)
            submit(figures, site)
            cost = meanwhile(figures, site)
            reference = plain(figures, made, queries, place / "plain")
            by_the_clock(figures, site, cost)
            killed(figures, site)
        with daemon(installation) as site.ui:
            taken_up(figures, site)
            compared(figures, site, reference)
        figures.check("processes of anmi ui that are left", len(site.ui.left()), exactly(0))
        figures.check("exit code of anmi ui", site.ui.process.returncode, exactly(0))


def main() -> int:
    """With few queries: the daemon is what is tried."""

    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--queries", type=int, default=4)

    options = arguments(__doc__ or "", add=more)
    figures = Figures("4.10 daemon")
    with workplace(options.home) as place:
        whole(figures, place, options.queries)
    return figures.finish()


if __name__ == "__main__":
    sys.exit(main())
