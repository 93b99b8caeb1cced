"""Metrics against a naive second implementation, against ranx, and each policy on its own."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anmi_pipeline.errors import InputError
from anmi_pipeline.evaluation.config import FALSE_EVIDENCE, EvaluationConfig
from anmi_pipeline.evaluation.metrics import answerable_queries, mean_metric, no_evidence_queries, per_query_metrics, seed_means
from anmi_pipeline.tables import QRELS, QUERIES, RUN, SCORES

METRICS = EvaluationConfig().metrics


def query_frame(ids, split="test", has_evidence=None):
    return QUERIES.frame([{"query_id": q, "text": q, "split": split, "has_evidence": has_evidence} for q in ids])


def qrels_frame(grades):
    rows = [{"query_id": q, "doc_id": d, "grade": g} for q, docs in grades.items() for d, g in docs.items()]
    return QRELS.frame(rows) if rows else QRELS.frame()


def run_frame(lists):
    rows = [
        {"query_id": q, "doc_id": d, "rank": place, "score": 1.0 / place}
        for q, docs in lists.items()
        for place, d in enumerate(docs, 1)
    ]
    return RUN.frame(rows) if rows else RUN.frame()


def naive(metric, ranking, grades):
    """The definitions, written down once more without sharing a line."""
    name, k = metric.split("@")
    top = ranking[: int(k)]
    relevant = {doc for doc, grade in grades.items() if grade > 0}
    if name == "Recall":
        return len(relevant.intersection(top)) / len(relevant)
    if name == "MRR":
        return next((1 / place for place, doc in enumerate(top, 1) if doc in relevant), 0.0)
    gain = sum(max(grades.get(doc, 0), 0) / math.log2(place + 1) for place, doc in enumerate(top, 1))
    ideal = sorted((max(grade, 0) for grade in grades.values()), reverse=True)[: int(k)]
    return gain / sum(grade / math.log2(place + 1) for place, grade in enumerate(ideal, 1))


documents = st.sampled_from([f"d{i}" for i in range(40)])
rankings = st.dictionaries(st.sampled_from(["q1", "q2", "q3"]), st.lists(documents, unique=True, max_size=30))
gradings = st.dictionaries(
    st.sampled_from(["q1", "q2", "q3"]), st.dictionaries(documents, st.integers(-1, 3), min_size=1, max_size=15), min_size=1
)


@settings(max_examples=80, deadline=None)
@given(lists=rankings, grades=gradings)
def test_agrees_with_the_naive_definitions(lists, grades):
    measured = per_query_metrics(run_frame(lists), qrels_frame(grades), query_frame(["q1", "q2", "q3"]), METRICS)
    values = {(q, m): v for q, _, m, v in measured.iter_rows() if m != FALSE_EVIDENCE}
    answerable = {q for q, docs in grades.items() if max(docs.values()) > 0}
    assert {q for q, _ in values} == answerable
    for (query, metric), value in values.items():
        assert value == pytest.approx(naive(metric, lists.get(query, []), grades[query]), abs=1e-12)


def test_gain_is_linear_and_the_ideal_covers_all_judged_documents():
    measured = per_query_metrics(
        run_frame({"q": ["b", "a"]}), qrels_frame({"q": {"a": 2, "b": 1, "c": 2}}), query_frame(["q"]), ["nDCG@10"]
    )
    gain = 1 + 2 / math.log2(3)
    ideal = 2 + 2 / math.log2(3) + 1 / 2
    assert measured["value"].item() == pytest.approx(gain / ideal)


def test_rank_is_the_order_even_when_scores_disagree_or_tie():
    run = RUN.frame({"query_id": ["q"] * 3, "doc_id": ["z", "a", "b"], "rank": [1, 2, 3], "score": [0.0, 0.0, 9.0]})
    measured = per_query_metrics(run, qrels_frame({"q": {"z": 1}}), query_frame(["q"]), ["MRR@10"])
    assert measured["value"].item() == 1.0


def test_missing_queries_and_missing_seeds_count_zero():
    scores = SCORES.frame({"query_id": ["q1", "q1"], "seed": [0, 1], "doc_id": ["a", "a"], "rank": [1, 1], "score": [1.0, 1.0]})
    qrels = qrels_frame({"q1": {"a": 1}, "q2": {"a": 1}})
    measured = per_query_metrics(scores, qrels, query_frame(["q1", "q2"]), ["MRR@10"], seeds=[0, 1, 2])
    means = dict(seed_means(measured).select("query_id", "value").iter_rows())
    assert means == {"q1": pytest.approx(2 / 3), "q2": 0.0}


def test_queries_without_evidence_enter_the_false_evidence_rate_only():
    queries = pl.concat([query_frame(["judged", "open"]), query_frame(["none", "quiet"], has_evidence=False)])
    qrels = qrels_frame({"judged": {"a": 0}, "none": {"a": 1}})
    measured = per_query_metrics(run_frame({"judged": ["a"], "open": ["a"], "none": ["a"]}), qrels, queries, ["nDCG@10"])
    assert dict(measured.select("query_id", "value").iter_rows()) == {"judged": 1.0, "none": 1.0, "quiet": 0.0}
    assert set(measured["metric"]) == {FALSE_EVIDENCE}
    assert answerable_queries(qrels, queries).is_empty()
    assert no_evidence_queries(qrels, queries)["query_id"].to_list() == ["judged", "none", "quiet"]


def test_a_query_declared_answerable_without_labels_is_in_neither_rate():
    measured = per_query_metrics(
        run_frame({"q": ["a"]}), qrels_frame({"q": {"a": 0}}), query_frame(["q"], has_evidence=True), METRICS
    )
    assert measured.is_empty()


def test_only_the_given_queries_are_measured():
    qrels = qrels_frame({"q1": {"a": 1}, "q2": {"a": 1}})
    measured = per_query_metrics(run_frame({"q1": ["a"], "q2": ["a"]}), qrels, query_frame(["q2"]), ["Recall@10"])
    assert measured["query_id"].to_list() == ["q2"]


def test_no_labels_gives_an_empty_frame():
    assert per_query_metrics(run_frame({"q": ["a"]}), QRELS.frame(), query_frame(["q"]), METRICS).is_empty()
    with pytest.raises(InputError, match="none of the 1 queries has a relevant document"):
        mean_metric(run_frame({"q": ["a"]}), QRELS.frame(), query_frame(["q"]), "nDCG@10")


def test_a_document_ranked_twice_is_refused():
    run = RUN.frame({"query_id": ["q", "q"], "doc_id": ["a", "a"], "rank": [1, 2], "score": [2.0, 1.0]})
    with pytest.raises(InputError, match=r'query "q" .* ranks document "a" more than once'):
        per_query_metrics(run, qrels_frame({"q": {"a": 1}}), query_frame(["q"]), METRICS)


def test_an_unknown_metric_is_refused():
    with pytest.raises(InputError, match='unknown metric "MAP@10"'):
        per_query_metrics(run_frame({"q": ["a"]}), qrels_frame({"q": {"a": 1}}), query_frame(["q"]), ["MAP@10"])


@pytest.mark.slow
def test_agrees_with_ranx(rng, ranx):
    grades = {f"q{i}": {f"d{j}": int(rng.integers(0, 4)) for j in rng.choice(300, 25, replace=False)} for i in range(30)}
    lists = {f"q{i}": [f"d{j}" for j in rng.choice(300, 200, replace=False)] for i in range(30)}
    measured = seed_means(per_query_metrics(run_frame(lists), qrels_frame(grades), query_frame(list(grades)), METRICS))
    run = {q: {d: float(-place) for place, d in enumerate(docs)} for q, docs in lists.items()}
    for metric in ("nDCG@10", "MRR@10", "Recall@50"):
        name, k = metric.split("@")
        theirs = ranx.evaluate(
            ranx.Qrels(grades),
            ranx.Run(run),
            f"{ {'nDCG': 'ndcg', 'MRR': 'mrr', 'Recall': 'recall'}[name] }@{k}",
            return_mean=False,
        )
        ours = measured.filter(pl.col("metric") == metric).sort("query_id")["value"].to_numpy()
        np.testing.assert_allclose(ours, np.asarray(theirs), atol=1e-9, err_msg=metric)  # ranx sorts by query id, as we do
