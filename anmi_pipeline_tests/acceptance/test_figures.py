"""The instruments themselves: bounds, intervals, the made-up collection, the placebo's settings, nDCG."""

import numpy as np
import pytest


@pytest.mark.parametrize(
    ("bound", "holding", "broken"),
    [
        ("at_least", 0.5, 0.4999),
        ("at_most", 0.5, 0.5001),
        ("above", 0.5001, 0.5),
        ("exactly", 0.5, 0.51),
    ],
)
def test_bounds(harness, bound, holding, broken):
    made = getattr(harness, bound)(0.5)
    assert made.holds(holding)
    assert not made.holds(broken)


def test_within(harness):
    assert harness.within(0.321, 0.005).holds(0.3255)
    assert not harness.within(0.321, 0.005).holds(0.3265)


def test_a_broken_bound_fails_the_script(harness, capsys):
    figures = harness.Figures("demo")
    figures.check("figure", 1.0, harness.at_least(2), seed=3)
    assert figures.finish() == 1
    assert "FAIL | figure | 1 | seed 3 | bound >= 2" in capsys.readouterr().out


def test_a_script_that_checks_nothing_fails(harness):
    assert harness.Figures("empty").finish() == 1


def test_bootstrap_covers_a_known_mean(harness):
    rng = np.random.default_rng(5)
    inside = 0
    for trial in range(60):
        found = harness.bootstrap(rng.normal(0.3, 1, 150), seed=trial, draws=1000)
        inside += found.low <= 0.3 <= found.high
    assert inside >= 50


def test_equal_seeds_make_equal_collections(load, tmp_path):
    make = load("made").make
    one, two = make(tmp_path / "one", documents=30, queries=20), make(tmp_path / "two", documents=30, queries=20)
    for name in (
        "collection/corpus.jsonl",
        "collection/queries.jsonl",
        "collection/qrels/train.tsv",
        "battles.csv",
        "dense.trec",
    ):
        assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes()


def test_placebo_differs_from_its_twin_in_shuffled_labels_alone(load, figures):
    load("2_3_simulated").placebo_differs(figures)
    assert figures.checked and not figures.failed


def test_ndcg_agrees_with_ir_measures(load):
    import ir_measures

    ndcg = load("2_4_recorded").ndcg
    rng = np.random.default_rng(0)
    grades = {f"d{number}": int(grade) for number, grade in enumerate(rng.integers(0, 4, 30))}
    ranking = [str(doc) for doc in rng.permutation(list(grades))][:20]
    run = {"q": {doc: float(-place) for place, doc in enumerate(ranking)}}
    oracle = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], {"q": grades}, run)
    assert ndcg(ranking, grades) == pytest.approx(oracle[ir_measures.nDCG @ 10])


def test_judge_law_takes_the_law_and_refuses_another(load, harness, monkeypatch):
    """A judge that errs on 15 % of pairs passes; one that errs on 30 % does not."""
    simulated = load("2_3_simulated")
    for error, holds in ((0.15, True), (0.30, False)):
        figures = harness.Figures(f"law {error}")
        simulated.judge_law(figures, Judged(error), "made")
        assert (not figures.failed) == holds


class Judged:
    """An installation whose judgments follow the law with some error rate."""

    def __init__(self, error):
        self.error = error

    def table(self, asset, dataset, spec, *parts):
        import polars as pl

        rng, queries, size = np.random.default_rng(1), [f"q{n}" for n in range(40)], 50
        grades = {(query, f"d{n}"): int(n < 5) for query in queries for n in range(size)}
        fused = {n: 1 / (61 + n) for n in range(size)}
        if asset == "candidate_pool":
            rows = [
                {"query_id": q, "doc_id": f"d{n}", "rrf_pool_rank": n + 1, "rrf_pool_score": fused[n]}
                for q in queries
                for n in range(size)
            ]
        elif asset == "qrels":
            rows = [{"query_id": q, "doc_id": d, "grade": grade} for (q, d), grade in grades.items() if grade]
        elif asset == "comparison_plan":
            rows = [{"query_id": q, "n_documents": size, "min_degree": 8, "max_degree": 8} for q in queries]
        else:
            score = np.array(list(fused.values()))
            z = (score - score.mean()) / score.std()
            rows = []
            for query in queries:
                for _ in range(200):
                    a, b = rng.choice(size, 2, replace=False)
                    gain = grades[query, f"d{a}"] - grades[query, f"d{b}"]
                    p = 1 - self.error if gain > 0 else self.error if gain < 0 else 0.5 + 0.1 * np.tanh(z[a] - z[b])
                    rows.append(
                        {
                            "query_id": query,
                            "first_id": f"d{a}",
                            "second_id": f"d{b}",
                            "p_first": float(rng.random() < p),
                            "status": "ok",
                        }
                    )
        return pl.DataFrame(rows)
