"""What judging costs at today's prices: the published cost tables computed by the estimator, and what each saving saves.

Tokens of a call are measured with the shipped prompts on nfcorpus and scifact (`--measure`; kept below as MEASURED, checked by a
test). Prices are those of conf/prices.yaml. Output tokens are an assumption that every table names. The tables of docs/costs.md
stand between markers and are what this script prints.

Usage: python benchmarks/costs.py [--measure] [--write]
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from anmi_pipeline.collections.reading import read_collection
from anmi_pipeline.collections.sources import BeirSource
from anmi_pipeline.judging.estimating import JudgeCost, Tariff, judge_cost
from anmi_pipeline.judging.prices import Tier, load_prices, price_of
from anmi_pipeline.judging.prompts import PromptKind, PromptWriter, document_text, read_prompt
from anmi_pipeline.judging.ranking import dependence
from anmi_pipeline.judging.spans import Span
from anmi_pipeline.judging.usage import Counted, Usage
from anmi_pipeline.retrieval.config import LexicalConfig
from anmi_pipeline.retrieval.lexical import LexicalIndex

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "costs.md"
COLLECTIONS = ("nfcorpus", "scifact")
SIZES = (2, 5, 10, 20)
"""Documents of a call: 2 is the pairwise prompt, more the listwise one."""
MEASURED: Mapping[tuple[str, int], float] = {
    ("nfcorpus", 2): 1016.0, ("nfcorpus", 5): 2139.7, ("nfcorpus", 10): 4126.3, ("nfcorpus", 20): 7976.4,
    ("scifact", 2): 1025.8, ("scifact", 5): 2199.1, ("scifact", 10): 4121.0, ("scifact", 20): 8018.9,
}  # fmt: skip
"""(collection, documents) -> mean counted input tokens of a call, form json, 300 queries, seed 0."""
BILLED = 0.94
"""Billed per counted token with the vocabularies of GPT-4 and GPT-5 (.928 to .949 on these texts)."""
SHORT, REASONED = 10, 500
"""Output tokens of a JSON grade, and of a judge that writes its reasons first."""
QUERIES, PER_QUERY = 100_000, 15
"""Of the published reranker tier: "reduce queries to 100k", "~10-15" or "10-20 comparisons per query"."""
PUBLISHED = {"reranker only": (2_000, 5_000), "first-stage retriever": (10_000, 20_000), "unified system": (30_000, 50_000)}
CASCADE = ("gpt-4.1-nano", "gpt-4.1-mini", "gpt-4.1")
CHEAP = ("gpt-4o-mini", "gpt-5-mini", "gpt-4.1-mini")
FRONTIER = ("gpt-4.1", "gpt-5", "claude-sonnet-4-5")
COLUMNS = ((("gpt-4o-mini",), SHORT), (("claude-haiku-4-5",), SHORT), (("claude-haiku-4-5",), REASONED), (CHEAP, REASONED))
"""Judges of the published tiers, which "assume use of cheap LLMs (GPT-4o-mini, Haiku, etc.)"."""
DEGREE, POOL = 8, 50
SHARES = (2.0, 0.45, 0.165)
"""Calls a pair of each tier of the cascade of benchmarks/acceptance/4_7_cascade.py: the small judge is asked in both orders."""
PIE = (0.6, 0.3, 0.1)
"""The published mix of small, medium and large."""


def tokens(documents: int = 2, collection: str = "nfcorpus") -> float:
    """Mean counted input tokens of a call."""
    return MEASURED[collection, documents]


def priced(
    model: str, calls: float, output: float, tier: Tier = "sync", documents: int = 2, collection: str = "nfcorpus"
) -> JudgeCost:
    """Estimate calls of one judge whose bills are as assumed."""
    counted = np.full(2, tokens(documents, collection))
    usage = Usage(*(np.full(20, value) for value in (counted[0], BILLED * counted[0], output)), np.full(20, np.nan), "probe")
    price, plain = price_of(model, tier), price_of(model, "sync")
    return judge_cost(model, Span.exactly(calls), Counted(counted, output, 2), usage, Tariff(tier, price, plain), "json")


def usd(model: str, calls: float, output: float, tier: Tier = "sync", documents: int = 2, collection: str = "nfcorpus") -> float:
    """Expected price, USD."""
    cost = priced(model, calls, output, tier, documents, collection)
    if cost.usd is None:
        raise RuntimeError(f"{model} has no price")
    return cost.usd.expected


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def money(value: float) -> str:
    """Dollars as people write them."""
    return f"${value:,.0f}" if value >= 100 else f"${value:,.2f}"


def a_comparison() -> str:
    """Price of a thousand comparisons, by judge."""
    rows = [
        [
            model,
            *(money(usd(model, 1_000, output, tier)) for output in (SHORT, REASONED) for tier in ("sync", "batch")),
            money(usd(model, 1_000, SHORT, "sync", collection="scifact")),
        ]
        for model in (*CHEAP, "claude-haiku-4-5", *FRONTIER)
    ]
    header = ["judge", "grade", "grade, batch", "with reasons", "with reasons, batch", "grade, scifact texts"]
    return table(header, rows)


def tiers() -> str:
    """The published tiers beside what they cost today."""
    rows: list[list[str]] = []
    for name, (low, high) in PUBLISHED.items():
        middle = (low + high) / 2
        # The published page gives comparisons for the first tier only; the others follow at that tier's price a comparison.
        calls = QUERIES * PER_QUERY * middle / (sum(PUBLISHED["reranker only"]) / 2)
        costs = [sum(usd(model, calls, output) for model in models) for models, output in COLUMNS]
        inside = [f"**{money(cost)}**" if low <= cost <= high else money(cost) for cost in costs]
        rows.append([name, f"{money(low)}-{high:,}", f"{calls / 1e6:.1f} M ({calls / QUERIES:.0f} a query)", *inside])
    judges = [f"{' + '.join(models)}, {'grade' if output == SHORT else 'with reasons'}" for models, output in COLUMNS]
    return table(["tier", "published", "comparisons", *judges], rows)


def others() -> str:
    """Other published figures beside today's."""
    three = sum(usd(model, 1, REASONED) for model in FRONTIER)
    plain = sum(usd(model, 1, SHORT) for model in FRONTIER)
    rows = [
        ["technical report: $0.01-0.03 a comparison by an LLM ensemble", f"${three:.3f} with reasons, ${plain:.3f} as a grade"],
        ["technical report: about $7,500 for 250,000 ensemble examples", f"{money(250_000 * three)} with reasons"],
        ["zbench: about $20 for 1,000 pairs by three frontier models", f"{money(1_000 * three)} with reasons"],
        ["zELO: 112,000 ensemble pairs", f"{money(112_000 * three)} with reasons, {money(112_000 * three / 2)} in batches"],
        ["60 % small, 30 % medium, 10 % large judges save 70-90 %", f"{1 - mixed(PIE):.0%} ({', '.join(CASCADE)})"],
    ]
    return table(["published", f"today; three frontier models: {', '.join(FRONTIER)}"], rows)


def mixed(shares: Sequence[float]) -> float:
    """Price of a cascade as a share of all-large."""
    parts = [share * usd(model, 1_000, SHORT) for share, model in zip(shares, CASCADE, strict=True)]
    return sum(parts) / usd(CASCADE[-1], 1_000, SHORT)


def savings() -> str:
    """A reranker's labels step by step: each row adds one saving to those above it."""
    pairs = POOL * DEGREE / 2
    steps: list[tuple[str, float, float]] = [
        ("cycles, k = 8, pools of 50, three judges a pair (zELO, zbench)", 3.0, 3 * pairs),
        ("one judge a pair", 1 / 3, pairs),
        ("adaptive design with the informative prior: half of the pairs at higher quality", 1 / 2, pairs / 2),
        (f"cascade {', '.join(CASCADE)}", mixed(SHARES), pairs / 2),
        ("Batch API", 1 / 2, pairs / 2),
    ]
    cost, rows = usd("gpt-4.1", QUERIES * pairs, SHORT), list[list[str]]()
    start = 3 * cost
    for name, factor, calls in steps:
        cost = cost * factor
        rows.append([name, f"{calls:.0f}", money(cost), f"{1 - cost / start:.0%}"])
    return table(["labels of 100,000 queries, gpt-4.1 as the large judge", "comparisons a query", "cost", "saved in all"], rows)


def lists() -> str:
    """Tokens of a comparison by documents in a call."""
    rows: list[list[str]] = []
    for size in SIZES:
        pairs = size * (size - 1) / 2
        worth = pairs * dependence(size)
        counted = [tokens(size, name) for name in COLLECTIONS]
        output = SHORT if size == 2 else 6 + 2 * size
        cost = usd("gpt-4o-mini", 1_000 / worth, output, documents=size)
        rows.append(
            [f"{size}", *(f"{count:,.0f}" for count in counted), f"{pairs:.0f}", f"{worth:.1f}"]
            + [f"{count / worth:,.0f}" for count in counted]
            + [money(cost)]
        )
    header = ["documents", *(f"tokens a call, {name}" for name in COLLECTIONS), "pairs", "worth, independent verdicts"]
    header += [*(f"tokens a verdict, {name}" for name in COLLECTIONS), "1,000 verdicts, gpt-4o-mini"]
    return table(header, rows)


TABLES: Mapping[str, Callable[[], str]] = {
    "comparison": a_comparison, "tiers": tiers, "others": others, "savings": savings, "lists": lists,
}  # fmt: skip


def measure(
    root: Path, collection: str, sizes: Sequence[int] = SIZES, queries: int = 300, seed: int = 0
) -> dict[tuple[str, int], float]:
    """Count the tokens of calls about documents at neighbouring BM25 ranks of the top 50."""
    found = read_collection(BeirSource(path=collection), data_root=root, seed=0)
    index = LexicalIndex.build(found.corpus, LexicalConfig())
    asked = found.queries.sort("query_id").sample(queries, seed=seed)
    run = index.search(asked["query_id"].to_list(), asked["text"].to_list(), POOL).sort("query_id", "rank")
    ranked: dict[str, list[str]] = dict(run.group_by("query_id", maintain_order=True).agg("doc_id").iter_rows())
    texts = {name: document_text(title, text) for name, title, text in found.corpus.select("doc_id", "title", "text").iter_rows()}
    rng, means = np.random.default_rng(seed), dict[tuple[str, int], float]()
    for size in sizes:
        kind: PromptKind = "pairwise" if size == 2 else "listwise"
        writer, counts = PromptWriter(read_prompt(kind), "json"), list[int]()
        for query, text in sorted(asked.select("query_id", "text").iter_rows()):
            known = ranked.get(query, [])
            if len(known) >= SIZES[-1]:
                start = int(rng.integers(len(known) - size + 1))
                counts.append(writer.write(text, [texts[name] for name in known[start : start + size]]).tokens)
        means[collection, size] = float(np.mean(counts))
    return means


def with_tables(page: str) -> str:
    """The page with every table made anew."""
    for name, make in TABLES.items():
        pattern = re.compile(rf"(<!-- costs: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not pattern.search(page):
            raise RuntimeError(f"docs/costs.md has no place for table {name}")
        made = make()
        page = pattern.sub(lambda place, made=made: f"{place[1]}\n{made}\n\n{place[2]}", page)
    return page


def main() -> int:
    """Print the tables; measure or write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure tokens again (needs ANMI_DATA)")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/costs.md")
    options = parser.parse_args()
    if options.measure:
        root = Path(os.environ.get("ANMI_DATA", REPOSITORY.parent / "shared" / "data"))
        for name in COLLECTIONS:
            for (collection, size), mean in measure(root, name).items():
                print(f'    ("{collection}", {size}): {mean:.1f},', flush=True)
        return 0
    print(f"prices of {load_prices().checked}; {BILLED} billed per counted token")
    for name, make in TABLES.items():
        print(f"\n{name}\n{make()}")
    if options.write:
        PAGE.write_text(with_tables(PAGE.read_text("utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
