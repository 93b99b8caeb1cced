"""Issue 2: Elo from recorded GPT-4o preferences ranks the compared passages of TREC DL 2019 as the NIST assessors would.

`anmi run --dataset msmarco-dl19`; nDCG@10 with linear gain is computed here from the grades in the collection's own qrels
file. About three minutes on 2 cores.
"""

import csv
import sys
from collections import defaultdict
from math import log2
from pathlib import Path

import polars as pl
from harness import Figures, Installation, arguments, at_least, built, data_root, exactly, workplace

from anmi_pipeline import tables

DATASET = "msmarco-dl19"
DEPTH = 10


def grades(folder: Path) -> dict[str, dict[str, int]]:
    """Query -> passage -> grade of the NIST assessors."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    with (folder / "qrels" / "test.tsv").open(newline="") as stream:
        for row in csv.DictReader(stream, delimiter="\t"):
            found[row["query-id"]][row["corpus-id"]] = int(row["score"])
    return found


def ndcg(ranking: list[str], own: dict[str, int], *, exponential: bool = False) -> float:
    """nDCG@10; every graded passage of the query stands in the ideal."""
    gains = {doc: float(2 ** max(grade, 0) - 1 if exponential else max(grade, 0)) for doc, grade in own.items()}

    def discounted(values: list[float]) -> float:
        return sum(value / log2(place + 2) for place, value in enumerate(values[:DEPTH]))

    ideal = discounted(sorted(gains.values(), reverse=True))
    return discounted([gains.get(doc, 0.0) for doc in ranking]) / ideal if ideal else 0.0


def main() -> int:
    """Rank by Elo and measure."""
    options = arguments(__doc__ or "")
    figures = Figures("2.4 recorded")
    with workplace(options.home) as place:
        installation = Installation(place / "home", data=data_root())
        if built(installation, DATASET, figures).code == 0:
            elo = installation.table("elo_table", DATASET, tables.ELO).sort(
                ["query_id", "elo", "doc_id"], descending=[False, True, False]
            )
            ranked = {str(query): own["doc_id"].to_list() for (query,), own in elo.group_by("query_id", maintain_order=True)}
            truth = grades(data_root() / DATASET)
            figures.check(
                "queries with an Elo table that the assessors graded", len(ranked.keys() & truth.keys()), exactly(len(ranked))
            )
            values = {query: ndcg(docs, truth[query]) for query, docs in ranked.items() if query in truth}
            mean = sum(values.values()) / max(len(values), 1)
            figures.check(
                "elo_table of the compared passages: nDCG@10, linear gain", mean, at_least(0.850), detail=f"{len(values)} queries"
            )
            other = [ndcg(docs, truth[query], exponential=True) for query, docs in ranked.items() if query in truth]
            figures.note("the same with exponential gain", sum(other) / max(len(other), 1))
            verdicts = installation.table("pairwise_judgments", DATASET, tables.JUDGMENTS)
            figures.check(
                "verdicts whose provenance is not `recorded`",
                verdicts.filter(pl.col("provenance") != "recorded").height,
                exactly(0),
            )
    return figures.finish()


if __name__ == "__main__":
    sys.exit(main())
