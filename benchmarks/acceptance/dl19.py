"""What the scripts on the recorded GPT-4o preferences of TREC DL 2019 share.

Belongs here: reading the preferences, the assessors' grades and the recorded UMBRELA grades, and nDCG computed anew. Does not: a
claim (one script each).
"""

import csv
from collections import defaultdict
from math import log2
from pathlib import Path

import polars as pl

from anmi_pipeline.judging.judge_configs import RecordedJudge
from anmi_pipeline.judging.recorded import read_recorded
from anmi_pipeline.rating.config import RatingConfig
from anmi_pipeline.rating.elo import fold_judgments, rate
from anmi_pipeline.tables import JUDGMENTS

DATASET = "msmarco-dl19"
DEPTH = 10
DOCUMENT = ["query_id", "doc_id"]


def games(root: Path) -> pl.DataFrame:
    """Every recorded preference in file order: query_id, first_id, second_id, p_first, round."""
    return read_recorded(RecordedJudge(name="gpt-4o", path="battles/dl19-gpt4o/battles.csv.gz"), root)


def comparisons(recorded: pl.DataFrame) -> pl.DataFrame:
    """The preferences folded into `tables.COMPARISONS`, as the pipeline folds them."""
    constant = {"epoch": "0", "audit": False, "status": "ok", "call_key": "", "provenance": "recorded"}
    numbers = {"input_tokens": 0, "output_tokens": 0, "cost_usd": 0.0, "latency_ms": None}
    columns = {name: pl.lit(value) for name, value in (constant | numbers).items()}
    return fold_judgments(JUDGMENTS.frame(recorded.with_columns(**columns)))


def documents(recorded: pl.DataFrame) -> pl.DataFrame:
    """The compared passages: query_id, doc_id."""
    return pl.concat([recorded.select("query_id", doc_id=side) for side in ("first_id", "second_id")]).unique().sort(DOCUMENT)


def fitted(pairs: pl.DataFrame, pool: pl.DataFrame, model: str = "thurstone") -> pl.DataFrame:
    """`tables.ELO` by the room's fit, prior of mean zero."""
    config = RatingConfig.model_validate({"model": model, "prior": "zero"})
    return rate(pairs, pool, config)[0]


def grades(path: Path) -> dict[str, dict[str, int]]:
    """Query -> passage -> grade, from a file of grades."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    with path.open(newline="") as stream:
        for row in csv.DictReader(stream, delimiter="\t"):
            found[row["query-id"]][row["corpus-id"]] = int(row["score"])
    return found


def nist(root: Path) -> dict[str, dict[str, int]]:
    """Grades of the assessors."""
    return grades(root / DATASET / "qrels" / "test.tsv")


def umbrela(root: Path, model: str) -> dict[str, dict[str, int]]:
    """Grades a model gave with the UMBRELA prompt."""
    return grades(root / DATASET / "llm_judgments" / f"umbrela_{model}.tsv")


def graded(pool: pl.DataFrame, found: dict[str, dict[str, int]]) -> pl.DataFrame:
    """query_id, doc_id, grade of the passages of a pool that have one."""
    rows = [(query, doc, found[query][doc]) for query, doc in pool.select(DOCUMENT).iter_rows() if doc in found.get(query, {})]
    return pl.DataFrame(rows, schema={"query_id": pl.String, "doc_id": pl.String, "grade": pl.Int64}, orient="row")


def ndcg(ranking: list[str], own: dict[str, int]) -> float:
    """nDCG@10, linear gain; every graded passage of the query stands in the ideal."""

    def discounted(gains: list[int]) -> float:
        return sum(gain / log2(place + 2) for place, gain in enumerate(gains[:DEPTH]))

    ideal = discounted(sorted(own.values(), reverse=True))
    return discounted([own.get(doc, 0) for doc in ranking]) / ideal if ideal else 0.0


def per_query(scores: pl.DataFrame, truth: dict[str, dict[str, int]], column: str = "elo") -> dict[str, float]:
    """Query -> nDCG@10 of its passages by a score, ties by id."""
    # Six decimals: the last bits of a solver must not order passages whose evidence is the same.
    ordered = scores.with_columns(pl.col(column).round(6)).sort("query_id", column, "doc_id", descending=[False, True, False])
    return {str(query): ndcg(own["doc_id"].to_list(), truth[str(query)]) for (query,), own in ordered.group_by("query_id")}


def mean_ndcg(scores: pl.DataFrame, truth: dict[str, dict[str, int]], column: str = "elo") -> float:
    """Mean of `per_query`, in the order of the ids."""
    values = per_query(scores, truth, column)
    return sum(values[query] for query in sorted(values)) / max(len(values), 1)
