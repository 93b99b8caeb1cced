"""Issue 4: the estimate is within 10 % of the spend on 1,000 nfcorpus pairs.

Judges ask a loopback server through the unmodified SDKs. It bills the tokens of a real tokenizer and writes log-normal numbers
of output tokens, so that a few calls cost many times the median. Pairs are documents that BM25 ranks next to each other in the
top 50 of nfcorpus queries. All pairs are asked once; each seed then draws 1,000 of them and, of the others, 20 probe pairs as
`anmi estimate --probe` does, estimates the 1,000 from the probe and compares with what they were billed. Answers are functions
of the call, so this is what asking in that order gives. Where most of the money is output no 20 calls can do that: the share of
seeds within 10 % is printed for such a judge as well, with what the probe gives that goes on until its own interval is below
10 %. About a minute and a half of one core.
"""

import argparse
import asyncio
import hashlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from harness import REPOSITORY, Figures, arguments, at_least, at_most, data_root, workplace

sys.path.insert(0, str(REPOSITORY))

from anmi_pipeline.collections.reading import read_collection
from anmi_pipeline.collections.sources import BeirSource
from anmi_pipeline.judging.api_judge import ApiJudge
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.estimating import JudgeCost, Tariff, judge_cost
from anmi_pipeline.judging.judge_configs import AnthropicJudge, OpenAIJudge
from anmi_pipeline.judging.judges import CALLS, JudgeEvidence
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.judging.money import Money
from anmi_pipeline.judging.probing import MOST, PROBE, TOLERANCE, next_size, probe_keys
from anmi_pipeline.judging.spans import Span
from anmi_pipeline.judging.usage import billed_usage, count_calls
from anmi_pipeline.retrieval.config import LexicalConfig
from anmi_pipeline.retrieval.lexical import LexicalIndex
from anmi_pipeline.tables import POOL
from anmi_pipeline_tests.judging.wire_answers import WireSettings
from anmi_pipeline_tests.judging.wire_server import serving

TARGET, DEPTH = 1_000, 50
PAIR = ("query_id", "first_id", "second_id")


@dataclass(frozen=True)
class Case:
    """A judge and how much its model writes.

    Attributes:
        name: for people.
        provider: openai or anthropic.
        settings: of the judge.
        median: of hidden output tokens.
        sigma: of their logarithm.
        bounded: whether 20 pairs must do.
    """

    name: str
    provider: str
    settings: Mapping[str, object]
    median: float
    sigma: float
    bounded: bool = True
    wire: Mapping[str, object] = field(default_factory=dict)


CASES = (
    Case("gpt-4o-mini, json", "openai", {"model": "gpt-4o-mini", "form": "json"}, 20, 1.0),
    Case("claude-haiku-4-5, tool", "anthropic", {"model": "claude-haiku-4-5"}, 30, 1.0),
    Case("gpt-4.1, one token", "openai", {"model": "gpt-4.1", "form": "token"}, 0, 1.0),
    Case(
        "gpt-5-mini, reasoning", "openai",
        {"model": "gpt-5-mini", "form": "json", "temperature": None, "max_output_tokens": 4096}, 150, 0.8, bounded=False,
    ),
)  # fmt: skip


def evidence_of(root: Path) -> JudgeEvidence:
    """The texts of nfcorpus."""
    found = read_collection(BeirSource(path="nfcorpus"), data_root=root, seed=0)
    return JudgeEvidence(found.queries, found.corpus, POOL.frame())


def pairs_of(evidence: JudgeEvidence, count: int, seed: int) -> pl.DataFrame:
    """Neighbours of BM25 lists in a random order, shown in a random order: PLAN columns."""
    config = LexicalConfig()
    queries = evidence.queries.sort("query_id").sample(count // 8, seed=seed)
    run = LexicalIndex.build(evidence.corpus, config).search(queries["query_id"].to_list(), queries["text"].to_list(), DEPTH)
    pairs = (
        run.sort("query_id", "rank")
        .with_columns(second_id=pl.col("doc_id").shift(-1).over("query_id"))
        .drop_nulls("second_id")
        .sample(count, seed=seed)
    )
    swap = pl.Series(np.random.default_rng(seed).random(count) < 0.5)
    return pairs.select(
        "query_id",
        first_id=pl.when(swap).then("second_id").otherwise("doc_id"),
        second_id=pl.when(swap).then("doc_id").otherwise("second_id"),
        judge=pl.lit("judge"),
        round=pl.lit(1, dtype=pl.Int64()),
        list=pl.lit(0, dtype=pl.Int64()),
    )


@dataclass(frozen=True)
class Asked:
    """A judge with all its calls and what they were billed."""

    judge: ApiJudge
    calls: pl.DataFrame
    billed: pl.DataFrame

    @classmethod
    def of(cls, case: Case, evidence: JudgeEvidence, pairs: pl.DataFrame, folder: Path) -> "Asked":
        """Ask all pairs."""
        wire = WireSettings(output_median=case.median, output_sigma=case.sigma, **case.wire)
        with serving(wire) as server, Books(f"sqlite:///{folder / 'ledger.db'}") as books:
            kind, url = (OpenAIJudge, server.openai_url) if case.provider == "openai" else (AnthropicJudge, server.url)
            settings = kind(name="judge", base_url=url, api_key_env=None, **case.settings)
            judge = ApiJudge(settings, evidence, JudgingConfig(judges=(settings,)), Money(books, case.name))
            # Real keys hold the server's port, and what is drawn by key would be another draw each time.
            names = [hashlib.sha256("\0".join(row).encode()).hexdigest() for row in pairs.select(PAIR).iter_rows()]
            calls = pairs.with_columns(call_key=pl.Series(names)).unique("call_key", maintain_order=True)
            billed = asyncio.run(answers(judge, calls.select(list(CALLS))))
        return cls(judge, calls, billed)

    def estimate(self, probe: pl.Series, target: pl.Series) -> JudgeCost:
        """Estimate the target calls from the probe's bills."""
        shown = self.calls.filter(pl.col("call_key").is_in(probe.implode()))
        stored = self.billed.filter(pl.col("call_key").is_in(probe.implode()))
        usage = billed_usage(self.judge, shown, stored, "probe")
        counted = count_calls(self.judge, self.calls.filter(pl.col("call_key").is_in(target.implode())), 0)
        tariff = Tariff("sync", self.judge.price())
        return judge_cost("judge", Span.exactly(len(target)), counted, usage, tariff, self.judge.writer.form)

    def spent(self, keys: pl.Series) -> float:
        """What calls were billed, USD."""
        return float(self.billed.filter(pl.col("call_key").is_in(keys.implode()))["cost_usd"].sum())


async def answers(judge: ApiJudge, calls: pl.DataFrame) -> pl.DataFrame:
    """Ask through the judge."""
    try:
        return pl.concat([part async for part in judge.answer(calls)])
    finally:
        await judge.close()


@dataclass
class Seen:
    """What the seeds gave: relative errors of 20 pairs and of the probe that goes on, its size, whether intervals held."""

    plain: list[float] = field(default_factory=list)
    grown: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    covered: list[bool] = field(default_factory=list)


def play(asked: Asked, seeds: int) -> Seen:
    """Draw target and probe for each seed; the two are disjoint."""
    seen = Seen()
    for seed in range(seeds):
        target = asked.calls["call_key"].sort().sample(TARGET, seed=seed)
        rest = asked.calls.filter(~pl.col("call_key").is_in(target.implode()))
        spent = asked.spent(target)
        probe = probe_keys(asked.judge, rest, PROBE, seed)
        cost = asked.estimate(probe, target)
        assert cost.usd is not None
        seen.plain.append(cost.usd.expected / spent - 1)
        seen.covered.append(cost.usd.low <= spent <= cost.usd.high)
        while (size := next_size(len(probe), cost.usd.error)) > len(probe):
            left = rest.filter(~pl.col("call_key").is_in(probe.implode()))
            probe = pl.concat([probe, probe_keys(asked.judge, left, size - len(probe), seed)])
            cost = asked.estimate(probe, target)
            assert cost.usd is not None
        seen.grown.append(cost.usd.expected / spent - 1)
        seen.sizes.append(len(probe))
    return seen


def report(figures: Figures, case: Case, asked: Asked, seen: Seen) -> None:
    """Print the errors of a case beside its bounds."""
    count, seeds = len(seen.plain), f"0..{len(seen.plain) - 1}"
    output = asked.billed["output_tokens"]
    tail = f"output mean {output.mean():.0f}, median {output.median():.0f}, 99 % {output.quantile(0.99):.0f}, most {output.max()}"
    plain, grown = np.abs(seen.plain), np.abs(seen.grown)
    listed = " ".join(f"{error:+.1%}" for error in seen.plain)
    figures.say(f"{case.name}: {tail}; 20 pairs, seeds {seeds}: {listed}")
    if case.bounded:
        for seed in range(3):
            figures.check(f"{case.name}: |estimate / spend - 1|, 20 pairs", float(plain[seed]), at_most(0.10), seed=seed)
        figures.check(
            f"{case.name}: share of seeds within 10 %, 20 pairs", float((plain <= 0.10).mean()), at_least(0.95), seed=seeds
        )
    else:
        figures.note(f"{case.name}: share of seeds within 10 %, 20 pairs", float((plain <= 0.10).mean()), seed=seeds)
    figures.note(f"{case.name}: largest error, 20 pairs", float(plain.max()), seed=seeds, detail=f"median {np.median(plain):.3f}")
    figures.note(f"{case.name}: share of 95 % intervals that hold the spend", sum(seen.covered) / count, seed=seeds)
    figures.check(
        f"{case.name}: share of seeds within 10 %, probe until +-{TOLERANCE:.0%}", float((grown <= 0.10).mean()),
        at_least(0.9), seed=seeds, detail=f"{np.mean(seen.sizes):.0f} pairs on average, at most {max(seen.sizes)} of {MOST}",
    )  # fmt: skip


def main() -> int:
    """Every case."""

    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--seeds", type=int, default=20)
        parser.add_argument("--pairs", type=int, default=3_000, help="pairs that are asked")

    options = arguments(__doc__ or "", add=more)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    figures = Figures("4.4 estimate")
    evidence = evidence_of(data_root())
    pairs = pairs_of(evidence, options.pairs, seed=0)
    with workplace(options.home) as place:
        for case in CASES:
            asked = Asked.of(case, evidence, pairs, place)
            report(figures, case, asked, play(asked, options.seeds))
    return figures.finish()


if __name__ == "__main__":
    sys.exit(main())
