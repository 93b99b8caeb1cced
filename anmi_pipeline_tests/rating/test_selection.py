import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from anmi_pipeline.errors import InputError
from anmi_pipeline.rating.graphs import graph_batch
from anmi_pipeline.rating.selection import (
    NEVER_HELD_OUT,
    SELECTION_SCHEMA,
    SelectionConfig,
    paired_difference,
    reliability_bins,
    select_model,
    verdict_folds,
)


def judged(
    seed: int, queries: int, n: int, cycles: int, sd: float, link: str, tau: float = 0.0
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Verdicts of one judge with a known link, and the documents."""
    rng = np.random.default_rng(seed)
    order = [rng.permutation(n) for _ in range(queries * cycles)]
    i, j = np.concatenate(order), np.concatenate([np.roll(o, 1) for o in order])
    query = np.repeat(np.arange(queries), cycles * n)
    theta = rng.normal(0, sd, (queries, n))
    noise = rng.normal(size=len(i)) if link == "probit" else rng.logistic(size=len(i))
    gap = theta[query, i] - theta[query, j] + noise
    names, documents = np.array([f"q{q:04}" for q in range(queries)]), np.array([f"d{d:03}" for d in range(n)])
    rows = pl.DataFrame(
        {
            "query_id": names[query],
            "first_id": documents[i],
            "second_id": documents[j],
            "judge": ["j"] * len(i),
            "round": np.arange(len(i)),
            "list": np.zeros(len(i), dtype=np.int64),
            "p_first": np.where(gap > tau, 1.0, np.where(gap < -tau, 0.0, 0.5)),
            "status": ["ok"] * len(i),
        }
    )
    known = pl.DataFrame({"query_id": np.repeat(names, n), "doc_id": np.tile(documents, queries)})
    return rows, known


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12), st.integers(1, 40), st.integers(2, 6))
def test_folds_share_pairs_and_leave_every_document_evidence(seed: int, n: int, edges: int, folds: int):
    rng = np.random.default_rng(seed)
    i = rng.integers(0, n, 2 * edges)
    j = (i + rng.integers(1, n, 2 * edges)) % n
    batch = graph_batch(np.array([n, n]), np.array([0, edges, 2 * edges]), i, j)
    fold = verdict_folds(batch, folds, np.random.default_rng(1))
    pairs: dict[tuple[int, int], set[int]] = {}
    for head, tail, own in zip(batch.head, batch.tail, fold, strict=True):
        pairs.setdefault((min(head, tail), max(head, tail)), set()).add(int(own))
    assert all(len(own) == 1 for own in pairs.values())
    for held in range(folds):
        left = {end for pair, own in pairs.items() if own != {held} for end in pair}
        assert left == {end for pair in pairs for end in pair}


def test_folds_are_even_within_a_query():
    rows = [(a, b) for a in range(11) for b in range(a)]
    batch = graph_batch(np.array([11]), np.array([0, 55]), [a for a, _ in rows], [b for _, b in rows])
    counts = np.bincount(verdict_folds(batch, 5, np.random.default_rng(0)))
    assert counts.tolist() == [11] * 5


def test_logistic_verdicts_choose_bradley_terry():
    frame, report = select_model(*judged(7, 200, 30, 5, 3.0, "logistic"), SelectionConfig(folds=2))
    assert report.best == "bradley_terry" and "bradley_terry" in report.indistinguishable
    assert "no verdict is a tie" in report.reason
    assert frame["model"].to_list() == ["bradley_terry", "thurstone"]
    assert frame["difference"][0] == 0 and frame["ece"].max() < 0.02  # pyright: ignore[reportOptionalOperand, reportOperatorIssue]


def test_probit_verdicts_with_ties_choose_the_threshold_model():
    frame, report = select_model(*judged(8, 60, 30, 5, 1.5, "probit", tau=0.3), SelectionConfig(folds=2))
    assert "thurstone_ties" in report.indistinguishable
    losses = dict(zip(frame["model"], frame["outcome_log_loss"], strict=True))
    assert losses["thurstone_ties"] < losses["davidson"]
    assert losses["thurstone"] is None and losses["bradley_terry"] is None
    assert report.tied_share == pytest.approx(float((judged(8, 60, 30, 5, 1.5, "probit", tau=0.3)[0]["p_first"] == 0.5).mean()))  # pyright: ignore[reportArgumentType]


def test_the_report_is_json_and_equal_inputs_give_equal_reports():
    rows, documents = judged(9, 12, 10, 3, 1.0, "probit")
    config = SelectionConfig(max_queries=5, seed=3)
    seen: list[tuple[int, int, str]] = []
    frame, report = select_model(rows, documents, config, lambda done, total, unit: seen.append((done, total, unit)))
    again = select_model(rows.sample(fraction=1, shuffle=True, seed=1), documents.reverse(), config)
    assert json.loads(json.dumps(report.facts())) == again[1].facts()
    assert frame.equals(again[0]) and dict(frame.schema) == SELECTION_SCHEMA
    assert (report.queries, report.queries_available, report.verdicts) == (5, 12, 150)
    assert seen[-1] == (10, 10, "fits")
    assert select_model(rows, documents, SelectionConfig(max_queries=5, seed=4))[1] != report


def test_failures_are_no_verdicts_and_little_evidence_is_said():
    rows, documents = judged(10, 1, 2, 1, 1.0, "probit")
    frame, report = select_model(rows.head(1), documents, SelectionConfig())
    assert frame.is_empty() and report.best is None and "held out" in report.reason
    failed = rows.with_columns(status=pl.lit("timeout"), p_first=pl.lit(None, dtype=pl.Float64))
    assert select_model(failed, documents, SelectionConfig())[1].verdicts == 0


def test_unknown_documents_and_impossible_verdicts_are_named():
    rows, documents = judged(11, 2, 4, 2, 1.0, "probit")
    with pytest.raises(InputError, match="outside the query's pool"):
        select_model(rows, documents.head(7), SelectionConfig())
    with pytest.raises(InputError, match=r"p_first 1\.5"):
        select_model(rows.with_columns(p_first=pl.lit(1.5)), documents, SelectionConfig())


def test_paired_errors_treat_a_query_as_one_draw():
    rng = np.random.default_rng(0)
    query = np.repeat(np.arange(200), 10)
    shared = rng.normal(size=200)[query]
    mean, error = paired_difference(shared, query)
    assert error == pytest.approx(1 / np.sqrt(200), rel=0.15)
    assert mean == pytest.approx(shared.mean())


def test_reliability_bins_hold_means():
    bins = reliability_bins(np.array([0.05, 0.07, 0.95, 1.0]), np.array([0.0, 0.5, 1.0, 1.0]))
    assert [(b.predicted, b.observed, b.verdicts) for b in bins] == [
        (pytest.approx(0.06), 0.25, 2),
        (pytest.approx(0.975), 1.0, 2),
    ]
    assert NEVER_HELD_OUT == -1


def test_consistent_soft_verdicts_do_not_collapse_the_posterior():
    """A judge that scores documents gives preferences without noise, far sharper than the nodes of a wide posterior see."""
    rows, documents = judged(5, 30, 40, 4, 2.5, "probit")
    theta = dict(zip(documents.iter_rows(), np.random.default_rng(6).normal(0, 2.5, documents.height), strict=True))
    gap = [theta[q, a] - theta[q, b] for q, a, b in rows.select("query_id", "first_id", "second_id").iter_rows()]
    report = select_model(rows.with_columns(p_first=pl.Series(ndtr(np.array(gap)))), documents, SelectionConfig(folds=2))[1]
    losses = {one.model: one.log_loss for one in report.models}
    assert report.best.startswith("thurstone")
    assert losses["thurstone"] < losses["bradley_terry"]


def test_a_huge_query_is_left_out():
    rows, documents = judged(12, 3, 6, 2, 1.0, "probit")
    huge = pl.DataFrame({"query_id": ["q0001"] * 2001, "doc_id": [f"x{k}" for k in range(2001)]})
    assert select_model(rows, pl.concat((documents, huge)), SelectionConfig(folds=2))[1].queries_available == 2


def test_comparisons_out_of_rankings_are_left_out_and_said():
    rows, known = judged(5, 6, 12, 2, 1.0, "probit")
    ranked = rows.with_columns(list=pl.lit(1, dtype=pl.Int64), p_first=1 - pl.col("p_first"))
    _, plain = select_model(rows, known, SelectionConfig(folds=2))
    _, both = select_model(pl.concat([rows, ranked]), known, SelectionConfig(folds=2))
    assert replace(both, reason="") == replace(plain, reason="")
    assert both.reason.endswith(f"; {ranked.height} comparisons out of rankings are left out")
    _, none = select_model(ranked, known, SelectionConfig(folds=2))
    assert none.models == []
    assert "out of rankings" in none.reason
