"""The second pass buys nothing twice, spends no more than it may, and looks at the top first."""

from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from anmi_pipeline.errors import ArtifactError, InputError
from anmi_pipeline.judging.beliefs import QueryBelief, query_beliefs
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.judge_configs import SimulatedJudge
from anmi_pipeline.judging.second_pass import BOUGHT, keep_plan, kept_plan, plan_second_pass, second_pass_pairs
from anmi_pipeline.rating.comparisons import PAIR

DOCUMENTS = [f"d{number:02d}" for number in range(16)]


def judged(asked_share: float = 0.4) -> tuple[pl.DataFrame, list[QueryBelief]]:
    """Comparisons of two queries that all say: the smaller id wins; and what the fit makes of them."""
    draw = np.random.default_rng(0)
    rows = [
        {"query_id": query, "doc_i": a, "doc_j": b, "preference": 1.0, "weight": 1.0}
        for query in ("q1", "q2")
        for a, b in combinations(DOCUMENTS, 2)
        if draw.random() < asked_share
    ]
    comparisons = pl.DataFrame(rows)
    documents = pl.DataFrame([{"query_id": query, "doc_id": name} for query in ("q1", "q2") for name in DOCUMENTS])
    return comparisons, list(query_beliefs(comparisons, documents))


def student(against: set[tuple[str, str]]) -> pl.DataFrame:
    """A model that agrees with the fit except on some pairs."""
    rows = [
        {"query_id": query, "doc_i": a, "doc_j": b, "p": 0.02 if (a, b) in against else 0.9}
        for query in ("q1", "q2")
        for a, b in combinations(DOCUMENTS, 2)
    ]
    return pl.DataFrame(rows)


def test_a_pair_that_was_asked_is_never_bought_again() -> None:
    comparisons, beliefs = judged()
    chosen = second_pass_pairs(student(set(combinations(DOCUMENTS, 2))), beliefs, comparisons, 30)
    assert chosen.height == 30
    assert chosen.unique().height == 30
    assert chosen.join(comparisons, on=PAIR, how="semi").is_empty()


def test_a_disagreement_at_the_top_comes_before_one_at_the_bottom_and_before_agreement() -> None:
    comparisons, beliefs = judged()
    fresh = [
        (a, b) for a, b in combinations(DOCUMENTS, 2) if comparisons.filter(pl.col("doc_i") == a, pl.col("doc_j") == b).is_empty()
    ]
    top, bottom = fresh[0], fresh[-1]
    chosen = second_pass_pairs(student({top, bottom}), beliefs, comparisons, 400)
    order = [(a, b) for _, a, b in chosen.iter_rows()]
    assert order[0] == top
    assert order.index(top) < order.index(bottom)


def test_no_more_calls_than_allowed() -> None:
    comparisons, beliefs = judged()
    config = JudgingConfig(
        judges=(SimulatedJudge(name="one"), SimulatedJudge(name="two")), votes_per_pair=2, audit_share=1.0, design="cycles"
    )
    plan = plan_second_pass(student(set(combinations(DOCUMENTS, 2))), beliefs, comparisons, 11, config, 0)
    assert plan.height == 10
    assert plan["round"].unique().to_list() == [BOUGHT]
    assert not plan["audit"].any()
    assert plan_second_pass(student(set()), beliefs, comparisons, 1, config, 0).is_empty()


def test_a_count_below_one_is_refused() -> None:
    comparisons, beliefs = judged()
    with pytest.raises(InputError, match="second pass of 0 pairs"):
        second_pass_pairs(student(set()), beliefs, comparisons, 0)


def test_a_plan_outlives_a_kill(tmp_path: Path) -> None:
    comparisons, beliefs = judged()
    config = JudgingConfig(judges=(SimulatedJudge(),), design="cycles")
    plan = plan_second_pass(student(set(combinations(DOCUMENTS, 2))), beliefs, comparisons, 5, config, 0)
    path = tmp_path / "deep" / "second_pass.parquet"
    assert kept_plan(path) is None
    keep_plan(path, plan)
    found = kept_plan(path)
    assert found is not None
    assert found.equals(plan)
    path.write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match="second pass"):
        kept_plan(path)
