"""Issue 4: the ways of a new user, by the command line alone: lists, refreshes, batches, a cascade, a cap.

A part of scifact is judged by models behind a loopback server, each journey in a home of its own: (a) a listwise judge from the
estimate to a trained reranker on the board; (b) a refresh under a budget that is too small, taken up with a larger one, whose
drift trains again; (c) a refresh through a Batch API with a kill -9 between acceptance and record; (d) a cascade of three models;
(e) runs under a cap that fails or finishes, and goes on when it is raised. What the commands say is checked too: what happened,
where, and which command goes on. About eight minutes on 2 cores.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl
from few import QUICK, RATED, Few, Journey, api_judge
from harness import Figures, Finished, above, arguments, at_most, exactly, workplace

from anmi_pipeline_tests.judging.wire_answers import WireSettings
from anmi_pipeline_tests.judging.wire_server import SpawnedServer, spawned

REASONING = WireSettings(output_median=120.0, output_sigma=0.3, faults={"garbage": 0.08, "429": 0.02})
OTHER_MIND = WireSettings(position_bias=3.0, sharpness=0.5)
ALWAYS_EXPIRED = 1e-6
MANY = "100000"
RANKS = "gpt-5-mini"
"""A shipped judge."""


def ended(figures: Figures, what: str, done: Finished, code: int, *said: str) -> None:
    """Check how a command ended, and what its error says."""
    if not figures.check(f"{what}: exit code", done.code, exactly(code), detail=f"{done.seconds:.0f} s"):
        figures.say(done.text[-2000:])
    for text in said:
        figures.claim(f'{what}: it says "{text}"', text in done.text, detail=(done.errors or [done.text[-300:]])[-1][:400])


# (a) lists


def lists(figures: Figures, few: Few, server: SpawnedServer) -> None:
    """A model that writes its reasons ranks lists of five; some of its answers are garbage."""
    way = few.journey("lists", server, "lists")
    judge = {"use": RANKS, "prompt": "listwise", "base_url": server.openai_url, "dispatch": QUICK}
    way.configure(design="lists", list_size=5, degree=8, max_usd=5, coverage_floor=0.5, judges=[judge])
    server.change(REASONING)
    ended(figures, "lists, plan", way.anmi("run", "--until", "comparison_plan"), 0)
    figures.check("lists, plan: calls", way.answered, exactly(0))
    guess = way.told("estimate")
    probe = way.told("estimate", "--probe")
    figures.check("lists, probe: calls", way.answered, exactly(number(probe, "probed")))
    ended(figures, "lists, run", way.anmi("run"), 0)
    verdicts, spent = way.verdicts, way.spent()
    calls = verdicts["call_key"].n_unique()
    figures.check("lists, run: calls", way.answered, exactly(calls), detail=f"{verdicts.height} comparisons")
    within(figures, "lists, estimate from defaults: USD", spent, guess, 0.0)
    within(figures, "lists, estimate after the probe: USD", spent, probe, number(probe, "spent_usd"))
    unread = verdicts.filter(pl.col("status") == "unparsed")["call_key"].n_unique()
    figures.check("lists, run: calls that are no ranking", unread, above(0))
    figures.check("lists, report: calls of the judge", way.measure(RANKS, "calls"), exactly(calls))
    figures.check("lists, report: failed calls", way.measure(RANKS, "failures"), exactly(unread))
    figures.check("lists, report: USD", abs(way.measure(RANKS, "cost_usd") - spent), at_most(1e-9), detail=f"${spent:.4f}")
    board = {str(row["system"]) for row in way.installation.rows("leaderboard", "--dataset", way.dataset)}
    figures.claim("lists, run: the trained reranker is on the board", board == {"bm25", "features"}, detail=str(sorted(board)))
    after = way.anmi("estimate")
    ended(figures, "lists, estimate afterwards", after, 0, "for 0 calls")
    figures.claim("lists, estimate afterwards: it does not ask for a probe", "--probe" not in after.text)
    server.change(WireSettings())
    before = way.answered
    report = way.told("refresh", "--no-train")
    figures.check("lists, refresh: calls, those that failed", way.answered - before, exactly(unread))
    bought = [(row["reason"], row["calls"]) for row in report["bought"]]  # type: ignore[attr-defined]
    figures.claim("lists, refresh: it says so", bought == [("failed before", unread)], detail=str(bought))
    figures.check("lists, refresh: verdicts without a vote", way.verdicts.filter(pl.col("status") != "ok").height, exactly(0))


def number(told: Mapping[str, object], name: str) -> float:
    """A number that a command said."""
    return float(str(told[name]))


def within(figures: Figures, name: str, spent: float, estimate: dict[str, object], before: float) -> None:
    """The spend lies within the estimate's interval."""
    low, expected, high = (before + estimate["total_usd"][end] for end in ("low", "expected", "high"))  # type: ignore[index]
    figures.claim(name, low - 1e-9 <= spent <= high + 1e-9, detail=f"${spent:.4f}; {low:.4f}, {expected:.4f}, {high:.4f}")


# (b) refresh


def refresh(figures: Figures, few: Few, server: SpawnedServer) -> None:
    """Verdicts have expired, the models have changed their minds, and the budget is too small at first."""
    way = few.journey("refresh", server, "refreshed")
    judges = [api_judge(server, "letters", "gpt-4.1-mini"), api_judge(server, "tools", "claude-haiku-4-5")]
    budget = {"max_usd": 0.01, "retrain_above": 0.02}
    settings = {"design": "adaptive", "degree": 4, "rounds": 2, "audit_share": 0.1, "judges": judges}
    way.configure(**settings, refresh=budget, expire_days=ALWAYS_EXPIRED)
    server.change(WireSettings())
    ended(figures, "refresh, first run", way.anmi("run"), 0)
    elo, first = way.elo, way.verdicts["call_key"].n_unique()
    figures.check("refresh, first run: calls", way.answered, exactly(first))
    server.change(OTHER_MIND)
    way.configure(expire_days=None)
    small = way.anmi("refresh")
    ended(figures, "refresh, too little money", small, 1, "is reached", f"anmi refresh --dataset {way.dataset} --max-usd")
    bought = way.answered - first
    scope = scope_of(way)
    figures.check("refresh, too little money: USD", way.spent(scope), at_most(0.01), detail=f"{bought} calls")
    figures.check("refresh, too little money: calls", bought, above(0))
    figures.claim("refresh, too little money: the Elo table stays", way.elo == elo)
    calls = way.anmi("refresh", "--max-usd", "50", "--max-calls", str(bought + 20))
    ended(figures, "refresh, too few calls", calls, 1, "is reached", f"anmi refresh --dataset {way.dataset} --max-usd")
    figures.check("refresh, too few calls: calls in all", way.answered - first, at_most(bought + 20))
    report = way.anmi("refresh", "--max-calls", MANY)
    ended(figures, "refresh, enough", report, 0, "asked again", "train again")
    bought, verdicts = way.answered - first, way.verdicts
    figures.check("refresh, enough: calls in all", bought, exactly(verdicts["call_key"].n_unique()))
    figures.check("refresh, enough: epochs of the verdicts", verdicts["epoch"].n_unique(), exactly(1), detail=scope)
    notes = way.installation.current(RATED, way.dataset).notes["drift"]
    figures.check("refresh, enough: the Elo table moved by", float(notes["moved"]), above(0.02))  # type: ignore[index, arg-type]
    trained = way.told("refresh")
    figures.check("refresh, again: calls", way.answered - first - bought, exactly(0))
    recipes = trained["recipes"]
    figures.claim("refresh, again: the reranker was trained on the table that moved", recipes == [], detail=str(recipes))


def scope_of(way: Journey) -> str:
    """The budget of the refresh."""
    return next(scope for scope in way.money() if scope.startswith(f"{way.dataset}:"))


# (c) batches


def batches(figures: Figures, few: Few, server: SpawnedServer) -> None:
    """A refresh at half the price whose process dies after the provider took the batch."""
    way = few.journey("batches", server, "batched")
    plain = api_judge(server, "grades", "gpt-4.1-mini", form="json")
    way.configure(design="cycles", degree=4, judges=[plain], expire_days=ALWAYS_EXPIRED)
    server.change(WireSettings())
    ended(figures, "batches, first run, direct", way.anmi("run", "--until", RATED), 0)
    first, direct = way.answered, sum(way.money().values())
    way.configure(judges=[{**plain, "batch": {"settle_seconds": 0}}], expire_days=None)
    server.change(replace(OTHER_MIND, batch_s=3600.0, batch_reply_s=1.0))
    figures.check("batches, kill -9: exit code", killed(way, "refresh"), exactly(-signal.SIGKILL))
    figures.check("batches, kill -9: batches that the provider took", way.server.counts()["batches"], exactly(1))
    server.change(replace(OTHER_MIND, batch_s=3600.0))
    for turn in ("after the kill", "too early"):
        ended(figures, f"batches, {turn}", way.anmi("refresh"), 1, "batch pending", "the same command goes on later", "--wait")
    figures.check("batches, too early: batches that the provider took", way.server.counts()["batches"], exactly(1))
    server.finish()
    report = way.told("refresh")
    calls = way.verdicts["call_key"].n_unique()
    figures.check("batches, collected: batches that the provider took", way.server.counts()["batches"], exactly(1))
    figures.check("batches, collected: calls billed in the refresh", way.answered - first, exactly(calls))
    figures.check("batches, collected: epochs of the verdicts", way.verdicts["epoch"].n_unique(), exactly(1))
    bought = [(row["reason"], row["calls"]) for row in report["bought"]]  # type: ignore[attr-defined]
    figures.claim("batches, collected: it says what was bought", bought == [("asked again", calls)], detail=str(bought))
    paid = sum(way.money().values()) - direct
    figures.check("batches, collected: USD beside half of the direct calls", abs(paid / direct - 0.5), at_most(0.02))


def killed(way: Journey, command: str) -> int:
    """Start a command and kill it when the provider has taken a batch; its exit code."""
    line, environment = way.installation.command(command, "--dataset", way.dataset), way.installation.environment()
    with subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 300
        while not way.server.counts()["batches"] and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        return process.wait()


# (d) cascade


def cascade(figures: Figures, few: Few, server: SpawnedServer) -> None:
    """Three models, each dearer than the one before."""
    way = few.journey("cascade", server, "routed")
    models = {"small": "gpt-4.1-nano", "medium": "gpt-4.1-mini", "large": "gpt-4.1"}
    judges = [api_judge(server, name, model) for name, model in models.items()]
    tiers = [
        {"name": "small", "judges": ["small"], "near_half": 0.4, "weight": 0.3, "both_orders": True},
        {"name": "medium", "judges": ["medium"], "share": 0.5, "near_half": 0.3, "weight": 0.5},
        {"name": "large", "judges": ["large"], "share": 0.2},
    ]
    settings = {"design": "adaptive", "degree": 6, "rounds": 3, "audit_share": 0, "max_usd": 5}
    way.configure(**settings, judges=judges, routing={"tiers": tiers})
    server.change(WireSettings())
    ended(figures, "cascade, plan", way.anmi("run", "--until", "comparison_plan"), 0)
    guess = way.told("estimate")
    probe = way.told("estimate", "--probe")
    ended(figures, "cascade, run", way.anmi("run", "--until", RATED), 0)
    verdicts, spent = way.verdicts, way.spent()
    calls = dict(verdicts.group_by("judge").agg(pl.col("call_key").n_unique()).iter_rows())
    figures.claim(
        "cascade, run: each tier is asked less", calls["small"] > calls["medium"] > calls["large"] > 0, detail=str(calls)
    )
    spare = way.answered - sum(calls.values())
    figures.check("cascade, run: calls of the probe that did not move up", spare, at_most(40))
    figures.check("cascade, run: answers paid twice", server.report()["paid_twice"], exactly(0))
    within(figures, "cascade, estimate from defaults: USD", spent, guess, 0.0)
    within(figures, "cascade, estimate after the probe: USD", spent, probe, number(probe, "spent_usd"))  # type: ignore[arg-type]
    ended(figures, "cascade, estimate afterwards", way.anmi("estimate"), 0, "for 0 calls")
    saved = way.measure("all", "saved_share")
    figures.check("cascade, report: saved against the large model alone", saved, above(0.3))
    every, paid = way.measure("all", "cost_all_last_tier"), float(verdicts["cost_usd"].sum())
    figures.check(
        "cascade, report: saved beside what was paid",
        abs(saved - (1 - paid / every)),
        at_most(1e-6),
        detail=f"${paid:.4f} of {every:.4f}",
    )
    for name, most in (("medium", 0.5), ("large", 0.2)):
        share = way.measure(f"tier {name}", "share_of_pairs")
        figures.check(f"cascade, report: share of pairs in tier {name}", share, at_most(most + 0.02))


# (e) caps


def caps(figures: Figures, few: Few, server: SpawnedServer) -> None:
    """Runs that never meet a cap, fail at it, and finish at it; the last two go on when it is raised."""
    settings = {"design": "adaptive", "degree": 4, "rounds": 3, "audit_share": 0.05}
    server.change(WireSettings())
    homes = {"free": None, "fails": "fail", "finishes": "finish"}
    ways = {name: few.journey(name, server, "capped") for name in homes}
    free = ways["free"]
    judges = [api_judge(server, "letters", "gpt-4.1-mini"), api_judge(server, "tools", "claude-haiku-4-5")]
    free.configure(**settings, judges=judges)
    ended(figures, "no cap", free.anmi("run", "--until", RATED), 0)
    whole, usd = free.answered, free.spent()
    figures.check("no cap: calls", whole, exactly(free.verdicts["call_key"].n_unique()), detail=f"${usd:.4f}")
    for name in ("fails", "finishes"):
        start, way = way_start(server), ways[name]
        way.configure(max_usd=round(usd / 3, 4), at_cap=homes[name])
        for turn in ("first", "again"):
            done = way.anmi("run", "--until", RATED)
            if name == "fails":
                ended(figures, f"a cap that fails, {turn}", done, 1, "is reached", "judging.max_usd", "run again")
            else:
                ended(
                    figures,
                    f"a cap that finishes, {turn}",
                    done,
                    1,
                    "check coverage of pairwise_judgments failed",
                    "cap",
                    "Raise the cap and run again",
                )
            figures.check(f"a cap that {name}, {turn}: USD", way.spent(), at_most(usd / 3))
            figures.note(f"a cap that {name}, {turn}: calls", way.answered - start)
        if name == "finishes":
            way.configure(coverage_floor=0)
            ended(figures, "a cap that finishes, no floor", way.anmi("run", "--until", RATED), 0)
            figures.claim("a cap that finishes, no floor: the Elo table is another", way.elo != free.elo)
        way.configure(max_usd=50, coverage_floor=None)
        ended(figures, f"a cap that {name}, raised", way.anmi("run", "--until", RATED), 0)
        figures.claim(f"a cap that {name}, raised: the Elo table is that of no cap", way.elo == free.elo, detail=way.elo[:12])
        figures.check(f"a cap that {name}, raised: calls in all", way.answered - start, exactly(whole))


def way_start(server: SpawnedServer) -> int:
    """Calls billed so far."""
    return int(server.counts()["answered"])


WAYS = {walk.__name__: walk for walk in (lists, refresh, batches, cascade, caps)}


def journeys(figures: Figures, place: Path, names: Sequence[str] = tuple(WAYS)) -> None:
    """All of them, or some."""
    few = Few.make(place)
    for name in names:
        figures.say(name)
        with spawned() as server:
            WAYS[name](figures, few, server)


def main() -> int:
    """With their standard sizes."""

    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--only", nargs="*", default=list(WAYS), choices=list(WAYS), help="only these journeys")

    options = arguments(__doc__ or "", add=more)
    figures = Figures("4.11 journeys")
    with workplace(options.home) as place:
        journeys(figures, place, options.only)
    return figures.finish()


if __name__ == "__main__":
    sys.exit(main())
