"""Issue 4: one more query calls the judges for that query only, another parser nobody, another judge that judge only.

A made-up collection of 1,000 queries is judged through `anmi run` by three models of two providers behind a loopback server in
a process of its own, with everything that could couple queries or judges switched on: the informative prior, the adaptive
design, judges in rotation, an audit slice. Then a query is added; answers are read by another parser, as new code would; one
judge gets another model. The server counts what it is asked. About seven minutes on 2 cores.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from api_dataset import NAME, ApiDataset, api_judge, arguments_of
from harness import Figures, Finished, Installation, arguments, at_least, exactly, run, workplace

from anmi_pipeline import tables
from anmi_pipeline_tests.judging.wire_answers import WireSettings
from anmi_pipeline_tests.judging.wire_server import SpawnedServer, spawned

ADDED = "qnew"
JUDGED, RATED = "pairwise_judgments", "elo_table"
OTHER_PARSER = """
from anmi_pipeline.judging import parsing
before = parsing.p_first
def decided(answer):
    p = before(answer)
    return None if p is None else p * p / (p * p + (1 - p) * (1 - p))
parsing.p_first = decided
from anmi_pipeline.cli import main
main()
"""
"""The command line with another parser: the same as editing the parser and raising the code version of the verdicts."""


@dataclass(frozen=True)
class Work:
    """What stands at a moment.

    Attributes:
        received: calls that the server saw.
        paid_twice: answers that it billed beyond the first of each content.
        queries: text of a query -> calls about it.
        verdicts: JUDGMENTS frame of the dataset.
        elo: ELO frame; empty where it was not built.
    """

    received: int
    paid_twice: int
    queries: Mapping[str, int]
    verdicts: pl.DataFrame
    elo: pl.DataFrame

    @classmethod
    def of(cls, server: SpawnedServer, installation: Installation) -> "Work":
        """Look."""
        report = server.report()
        verdicts = installation.table(JUDGED, NAME, tables.JUDGMENTS)
        elo = installation.table(RATED, NAME, tables.ELO) if (RATED, NAME) in installation.records.refs() else pl.DataFrame()
        return cls(report["received"], report["paid_twice"], report["queries"], verdicts, elo)

    def since(self, before: "Work") -> dict[str, int]:
        """Text of a query -> calls about it since then."""
        grown = {text: count - before.queries.get(text, 0) for text, count in self.queries.items()}
        return {text: count for text, count in grown.items() if count}


def judges(url: str, second: str = "claude-haiku-4-5") -> list[dict[str, object]]:
    """Three judges in rotation: log-probabilities, tool use, JSON."""
    return [
        api_judge("openai", url, "letters", "gpt-4o-mini"),
        api_judge("anthropic", url, "tools", second),
        api_judge("openai", url, "grades", "gpt-4.1", form="json"),
    ]


def everything_on(url: str) -> dict[str, object]:
    """Settings of judging."""
    return {"design": "adaptive", "degree": 4, "rounds": 3, "audit_share": 0.05, "judges": judges(url)}


def written(frame: pl.DataFrame) -> bytes:
    """A table's rows as bytes: every number with all of its digits."""
    return frame.write_ndjson().encode()


def first_run(figures: Figures, installation: Installation, server: SpawnedServer, queries: int) -> Work:
    """Judge everything once."""
    figures.say(f"anmi run over {queries} queries; judges: letters, tools, grades")
    done = installation.anmi(*arguments_of(RATED))
    ended(figures, "first run", done)
    work = Work.of(server, installation)
    rounds, share = work.verdicts["round"].n_unique(), work.verdicts["audit"].mean()
    calls = work.verdicts["call_key"].n_unique()
    figures.check(
        "first run: calls", work.received, exactly(calls), detail=f"{rounds} rounds, {share:.1%} of the verdicts audited"
    )
    figures.check("first run: judges, of which each answered a share", work.verdicts["judge"].n_unique(), exactly(3))
    figures.check("first run: rounds", rounds, at_least(3))
    prior = installation.records.require(JUDGED, NAME)[1].facts["frozen_prior"]
    figures.claim("first run: the prior is frozen", "prior" in prior, detail=str(prior)[:120])
    return work


def ended(figures: Figures, what: str, done: Finished) -> None:
    """Note how a command ended."""
    if not figures.check(f"{what}: exit code", done.code, exactly(0), detail=f"{done.seconds:.0f} s"):
        figures.say(done.text[-2000:])


def add_query(
    figures: Figures, made: ApiDataset, installation: Installation, server: SpawnedServer, before: Work, train: int
) -> Work:
    """One query more."""
    made.add_query(ADDED)
    made.write(train)
    ended(figures, "one query more", installation.anmi(*arguments_of(RATED)))
    after = Work.of(server, installation)
    own, old = after.verdicts.filter(pl.col("query_id") == ADDED), after.verdicts.filter(pl.col("query_id") != ADDED)
    asked = after.since(before)
    figures.check("one query more: calls", sum(asked.values()), exactly(own["call_key"].n_unique()))
    figures.check("one query more: of these, about it", asked.get(made.queries[ADDED], 0), exactly(own["call_key"].n_unique()))
    figures.claim("one query more: it was asked in all rounds", own["round"].n_unique() == before.verdicts["round"].n_unique())
    figures.claim(
        "one query more: the verdicts of the others are equal to the byte", written(old) == written(before.verdicts),
        detail=f"{old.height:,} rows",
    )  # fmt: skip
    others = after.elo.filter(pl.col("query_id") != ADDED)
    figures.claim("one query more: so are their scores", written(others) == written(before.elo), detail=f"{others.height:,} rows")
    return after


def other_parser(figures: Figures, installation: Installation, server: SpawnedServer, before: Work) -> None:
    """Another way to read the answers on record; then the old one again."""
    command = [sys.executable, "-c", OTHER_PARSER, *arguments_of(JUDGED), "--rebuild"]
    ended(figures, "another parser", run(command, installation.environment()))
    after = Work.of(server, installation)
    figures.check("another parser: calls", after.received - before.received, exactly(0))
    both = before.verdicts.join(after.verdicts, on=list(tables.JUDGMENTS.key), how="inner", suffix="_now")
    figures.check("another parser: verdicts of other calls", before.verdicts.height - both.height, exactly(0))
    read = both.select(
        expected=pl.col("p_first") ** 2 / (pl.col("p_first") ** 2 + (1 - pl.col("p_first")) ** 2), now="p_first_now"
    )
    wrong = read.filter((pl.col("expected") - pl.col("now")).abs() > 1e-12).height + read["now"].null_count()
    changed = both.filter(pl.col("p_first") != pl.col("p_first_now")).height
    figures.check("another parser: verdicts that are not read anew", wrong, exactly(0), detail=f"{changed:,} changed")
    ended(figures, "the old parser again", installation.anmi(*arguments_of(JUDGED), "--rebuild"))
    again = Work.of(server, installation)
    figures.check("the old parser again: calls", again.received - after.received, exactly(0))
    figures.claim("the old parser again: the verdicts are the old ones", written(again.verdicts) == written(before.verdicts))


def other_judge(figures: Figures, made: ApiDataset, installation: Installation, server: SpawnedServer, before: Work) -> None:
    """Another model behind one of three judges; then the old one again."""
    old = made.judging["judges"]
    made.configure(judges=judges(server.url, "claude-sonnet-4-5"))
    ended(figures, "another model behind one judge", installation.anmi(*arguments_of(JUDGED)))
    after = Work.of(server, installation)
    own = after.verdicts.filter(pl.col("judge") == "tools")
    calls = after.received - before.received
    figures.check("another model behind one judge: calls", calls, exactly(own["call_key"].n_unique()))
    known = set(before.verdicts["call_key"])
    fresh = after.verdicts.filter(~pl.col("call_key").is_in(pl.Series(sorted(known)).implode()))
    others = fresh.filter(pl.col("judge") != "tools").height
    figures.check("another model behind one judge: new verdicts of other judges", others, exactly(0))
    figures.check(
        "another model behind one judge: its verdicts that are not new", own.height - (fresh.height - others), exactly(0)
    )
    made.configure(judges=old)
    ended(figures, "the old model again", installation.anmi(*arguments_of(JUDGED)))
    again = Work.of(server, installation)
    figures.check("the old model again: calls", again.received - after.received, exactly(0))
    figures.claim("the old model again: the verdicts are the old ones", written(again.verdicts) == written(before.verdicts))
    figures.check("all together: answers paid twice", again.paid_twice, exactly(0))


def reuse(figures: Figures, place: Path, queries: int, pool: int = 12) -> None:
    """All of it, in a folder of its own."""
    with spawned(WireSettings()) as server:
        made = ApiDataset.make(place, queries, 5 * pool * 10, pool, everything_on(server.url))
        installation = made.installation()
        first = first_run(figures, installation, server, queries)
        second = add_query(figures, made, installation, server, first, queries)
        other_parser(figures, installation, server, second)
        other_judge(figures, made, installation, server, second)


def main() -> int:
    """With 1,000 queries."""

    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--queries", type=int, default=1_000)

    options = arguments(__doc__ or "", add=more)
    figures = Figures("4.6 reuse")
    with workplace(options.home) as place:
        reuse(figures, place, options.queries)
    return figures.finish()


if __name__ == "__main__":
    sys.exit(main())
