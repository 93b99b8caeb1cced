"""Issue 2: with a simulated judge that errs on 15 % of pairs, training on Elo helps where it can and beats its own placebo.

Runs scifact-simulated, scifact-true and nfcorpus-simulated, all at the recipes' shipped settings. Every contrast is paired
over the test queries, its interval a bootstrap of this script's own. About 40 minutes on 2 cores, less in an ANMI_HOME that
has the base runs.
"""

import sys
from collections.abc import Mapping

import numpy as np
import polars as pl
from harness import (
    Board,
    Figures,
    Installation,
    above,
    arguments,
    at_least,
    at_most,
    built,
    data_root,
    exactly,
    within,
    workplace,
)

from anmi_pipeline import tables
from anmi_pipeline.catalog.recipes import load_recipe

MAPS = ("anmi", "default")
"""The retrievers that train one shared map on cached embeddings."""
ERROR_RATE, TIE_SLOPE, POOL, DEGREE = 0.15, 0.1, 50, 8
GRADE_POINTS, RANK_POINTS = 600.0, 2.0
SEEDS = 3


def judge_law(figures: Figures, installation: Installation, dataset: str) -> None:
    """The verdicts follow the stated law: outcomes 0 or 1, .85 for the higher grade, ties by the fused score."""
    verdicts = installation.table("pairwise_judgments", dataset, tables.JUDGMENTS).filter(pl.col("status") == "ok")
    pool = installation.table("candidate_pool", dataset, tables.POOL, "train").filter(pl.col("rrf_pool_rank") <= POOL)
    qrels = installation.table("qrels", dataset, tables.QRELS, "train")
    facts = pool.select("query_id", "doc_id", z=standardised("rrf_pool_score")).join(qrels, on=["query_id", "doc_id"], how="left")
    facts = facts.with_columns(pl.col("grade").fill_null(0))
    pairs = verdicts
    for side in ("first", "second"):
        names = {"doc_id": f"{side}_id", "z": f"z_{side}", "grade": f"grade_{side}"}
        pairs = pairs.join(facts.rename(names), on=["query_id", f"{side}_id"], how="inner")
    figures.check(f"{dataset}: verdicts on documents outside the RRF top {POOL}", verdicts.height - pairs.height, exactly(0))
    figures.check(f"{dataset}: verdicts that are neither 0 nor 1", int((~pairs["p_first"].is_in([0.0, 1.0])).sum()), exactly(0))
    gain = pairs["grade_first"] - pairs["grade_second"]
    higher = pl.when(gain > 0).then(1 - ERROR_RATE).when(gain < 0).then(ERROR_RATE)
    tie = 0.5 + TIE_SLOPE * (pl.col("z_first") - pl.col("z_second")).tanh()
    law = pairs.with_columns(expected=higher.otherwise(tie), gain=gain)
    for name, chosen in {
        "unequal grades": law.filter(pl.col("gain") != 0),
        "equal grades": law.filter(pl.col("gain") == 0),
    }.items():
        expected, seen = chosen["expected"].to_numpy(), chosen["p_first"].to_numpy()
        # Standardised by the law's own variance; 4 standard errors leave one false alarm in 16,000.
        spread = np.sqrt((expected * (1 - expected)).sum())
        direction = np.sign(expected - 0.5)
        figures.check(
            f"{dataset}: {name}, standard errors between verdicts and the law",
            round(abs(float(((seen - expected) * direction).sum() / spread)), 2),
            at_most(4.0),
            detail=f"{len(seen):,} verdicts",
        )
    graph = installation.table("comparison_plan", dataset, tables.CERTIFICATES).filter(pl.col("n_documents") == POOL)
    for end in ("min_degree", "max_degree"):
        wrong = int((graph[end] != DEGREE).sum())
        figures.check(f"{dataset}: queries whose {end} is not {DEGREE}", wrong, exactly(0))


def standardised(column: str) -> pl.Expr:
    """Z scores within the query."""
    spread = pl.col(column).std(ddof=0).over("query_id")
    return pl.when(spread > 0).then((pl.col(column) - pl.col(column).mean().over("query_id")) / spread).otherwise(0.0)


def true_labels(figures: Figures, installation: Installation, dataset: str) -> None:
    """Elo = 600 grade - 2 fused rank, up to a constant of the query."""
    elo = installation.table("elo_table", dataset, tables.ELO)
    qrels = installation.table("qrels", dataset, tables.QRELS, "train")
    pool = installation.table("candidate_pool", dataset, tables.POOL, "train").select("query_id", "doc_id", "rrf_pool_rank")
    both = elo.join(pool, on=["query_id", "doc_id"]).join(qrels, on=["query_id", "doc_id"], how="left")
    wanted = GRADE_POINTS * pl.col("grade").fill_null(0) - RANK_POINTS * pl.col("rrf_pool_rank")
    off = both.select("query_id", off=pl.col("elo") - wanted)
    spread = off.group_by("query_id").agg((pl.col("off").max() - pl.col("off").min()).alias("spread"))["spread"]
    figures.check(f"{dataset}: documents without a place in the pool", elo.height - both.height, exactly(0))
    figures.check(f"{dataset}: largest departure from 600 grade - 2 rank, Elo points", float(spread.max()), at_most(0.01))  # type: ignore[arg-type]


def flat(settings: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested settings under dotted names."""
    found: dict[str, object] = {}
    for name, value in settings.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found


def placebo_differs(figures: Figures) -> None:
    """The placebo's resolved settings differ from its twin's in `labels: shuffled` alone."""
    twin, placebo = (flat(load_recipe(name, None).model_dump(mode="json")) for name in ("anmi", "placebo"))
    apart = {name for name in twin.keys() | placebo.keys() if twin.get(name) != placebo.get(name)} - {"name", "description"}
    shuffled = placebo.get("mining.labels") == "shuffled"
    figures.claim(
        "placebo and anmi differ in mining.labels alone", apart == {"mining.labels"} and shuffled, detail=", ".join(sorted(apart))
    )


def marked(figures: Figures, board: Board) -> None:
    """Every row trained on simulated labels says so."""
    wrong = [str(row["system"]) for row in board.rows if row["labels"] != "simulated"]
    figures.check(f"{board.dataset}: rows not marked simulated", len(wrong), exactly(0), detail=", ".join(sorted(set(wrong))))


def over_seeds(figures: Figures, board: Board) -> None:
    """The figures are means of three seeds."""
    for system in (*MAPS, "placebo"):
        if system in board.systems:
            figures.check(f"{board.dataset} {system}: seeds averaged", board.seeds(system), exactly(SEEDS))


def against_placebo(figures: Figures, board: Board, system: str, gain: float) -> None:
    """Mean difference at least `gain`, interval above zero."""
    found = board.difference(system, "placebo")
    figures.check(f"{board.dataset} {system} - placebo, nDCG@10 on test", found.mean, at_least(gain), seed=0, detail=str(found))
    figures.check(f"{board.dataset} {system} - placebo: lower end of the interval", found.low, above(0.0), seed=0)


def scifact(figures: Figures, board: Board) -> None:
    """Noisy labels at 96 tokens."""
    figures.check("scifact-simulated minilm (96 tokens) nDCG@10 on test", board.value("minilm"), within(0.606, 0.01))
    for system in MAPS:
        figures.check(f"scifact-simulated {system} nDCG@10 on test", board.value(system), at_least(0.62), seed="mean of 3")
        against_placebo(figures, board, system, 0.04)


def scifact_true(figures: Figures, board: Board) -> None:
    """True labels, the ceiling."""
    for system in MAPS:
        # The bound is the best map retriever's: ANMI reached .740 on all 809 training queries, of which a fifth is dev here.
        if system == "default":
            figures.check(f"scifact-true {system} nDCG@10 on test", board.value(system), at_least(0.73), seed="mean of 3")
        else:
            figures.note(f"scifact-true {system} nDCG@10 on test", board.value(system), seed="mean of 3")


def nfcorpus(figures: Figures, board: Board) -> None:
    """No significant gain is demanded here, only no loss and a distance from the placebo."""
    for system in MAPS:
        change = board.difference(system, "minilm")
        floor = round(board.value("minilm") - 0.003, 6)
        figures.check(
            f"nfcorpus-simulated {system} nDCG@10 on test (base - .003)", board.value(system), at_least(floor), detail=str(change)
        )
        against_placebo(figures, board, system, 0.01)


CHECKS = {"scifact-simulated": scifact, "scifact-true": scifact_true, "nfcorpus-simulated": nfcorpus}


def main() -> int:
    """Three variants."""
    options = arguments(__doc__ or "")
    figures = Figures("2.3 simulated")
    placebo_differs(figures)
    with workplace(options.home) as place:
        installation = Installation(place / "home", data=data_root())
        for dataset, check in CHECKS.items():
            if built(installation, dataset, figures).code != 0:
                continue
            board = Board.of(installation, dataset)
            marked(figures, board)
            over_seeds(figures, board)
            check(figures, board)
            judge_law(figures, installation, dataset) if dataset != "scifact-true" else true_labels(
                figures, installation, dataset
            )
    return figures.finish()


if __name__ == "__main__":
    sys.exit(main())
