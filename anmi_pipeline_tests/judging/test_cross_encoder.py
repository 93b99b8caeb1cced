"""The cross-encoder judge: probabilities from score differences, its scale recovered, applied when answers are read."""

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import norm

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.call_keys import call_keys
from anmi_pipeline.judging.collect import collect
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.cross_encoder import CrossEncoderJudge, fit_scale, probabilities, spread_scale
from anmi_pipeline.judging.distil_config import CrossEncoderSettings
from anmi_pipeline.judging.evidence import pool_documents
from anmi_pipeline.judging.judge_configs import SimulatedJudge
from anmi_pipeline.judging.judges import JudgeEvidence
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.judging.panel import Home, build_judges
from anmi_pipeline.judging.plan import plan_comparisons
from anmi_pipeline.judging.verdicts import checked
from anmi_pipeline.records import Records
from anmi_pipeline.store import Store
from anmi_pipeline.tables import JUDGMENTS
from anmi_pipeline_tests.judging.made import made_evidence
from anmi_pipeline_tests.judging.tiny_models import made_texts, tiny_encoder

CONFIG = JudgingConfig(judges=(SimulatedJudge(),))


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_encoder(tmp_path_factory.mktemp("reranker"), head=True))


def made() -> JudgeEvidence:
    """Two queries, eight documents, in words that the model knows."""
    plain = made_evidence(2, 8)
    queries, documents = made_texts(2, 8)
    return replace(
        plain,
        queries=plain.queries.with_columns(text=pl.Series(list(queries.values()))),
        corpus=plain.corpus.with_columns(text=pl.Series(list(documents.values()))),
    )


def calls() -> pl.DataFrame:
    rows = [
        {"query_id": query, "first_id": f"d{a:03d}", "second_id": f"d{b:03d}", "judge": "ce", "round": 1}
        for query in ("q000", "q001")
        for a, b in ((0, 1), (1, 0), (2, 3), (3, 4), (4, 0))
    ]
    return pl.DataFrame(rows).with_columns(call_key=pl.Series([f"k{n}" for n in range(len(rows))]))


def judge(reranker: str, scale: float | None = None, fitted: pl.DataFrame | None = None) -> CrossEncoderJudge:
    settings = CrossEncoderSettings(model=reranker, max_tokens=32, scale=scale)
    return CrossEncoderJudge("ce", settings, made(), CONFIG, fitted)


def rows_of(asked: CrossEncoderJudge) -> pl.DataFrame:
    """The calls with what the ledger would hold."""

    async def gather() -> pl.DataFrame:
        return pl.concat([part async for part in asked.answer(calls())])

    return calls().join(checked(asyncio.run(gather()), "ce"), on="call_key", how="left", maintain_order="left")


def test_a_probability_is_phi_of_the_difference_over_the_scale(reranker: str) -> None:
    asked = judge(reranker, scale=0.5)
    read = asked.read(rows_of(asked))
    scores = read["raw_answer"].str.json_decode(pl.List(pl.Float64()))
    gap = scores.list.get(0).to_numpy() - scores.list.get(1).to_numpy()
    np.testing.assert_allclose(read["p_first"].to_numpy(), norm.cdf(gap / 0.5), atol=1e-12)
    assert read["p_first"][0] + read["p_first"][1] == pytest.approx(1.0)
    assert np.abs(gap).max() > 0


def test_another_scale_asks_nobody(reranker: str) -> None:
    one, other = judge(reranker, scale=0.5), judge(reranker, scale=2.0)
    evidence = made()
    assert call_keys(calls(), one, evidence) == call_keys(calls(), other, evidence)
    rows = rows_of(one)
    assert other._encoder is None
    gentler = other.read(rows)["p_first"].to_numpy()
    assert other._encoder is None
    assert (np.abs(gentler - 0.5) <= np.abs(one.read(rows)["p_first"].to_numpy() - 0.5)).all()


def test_other_weights_are_other_calls(reranker: str, tmp_path: Path) -> None:
    evidence = made()
    other = str(tiny_encoder(tmp_path, head=True, seed=1))
    assert not set(call_keys(calls(), judge(reranker), evidence)) & set(call_keys(calls(), judge(other), evidence))


def test_the_scale_is_fitted_to_other_judges_where_there_are_any(reranker: str) -> None:
    asked = judge(reranker)
    rows = rows_of(asked)
    scores = rows["raw_answer"].str.json_decode(pl.List(pl.Float64()))
    gap = (scores.list.get(0) - scores.list.get(1)).to_numpy()
    true = 0.3 * float(np.sqrt(np.mean(gap**2)))
    filled = {"epoch": "1", "audit": False, "status": "ok", "provenance": "model"}
    zeros = {"input_tokens": 0, "output_tokens": 0, "cost_usd": 0.0}
    told = rows.select("query_id", "first_id", "second_id", "round", "call_key").with_columns(
        pl.Series("p_first", norm.cdf(gap / true)),
        judge=pl.lit("llm"),
        **{name: pl.lit(value) for name, value in (filled | zeros).items()},
    )
    fitted = judge(reranker, fitted=JUDGMENTS.frame(told))
    np.testing.assert_allclose(fitted.read(rows)["p_first"].to_numpy(), told["p_first"].to_numpy(), atol=1e-3)
    first, second = (scores.list.get(side).to_numpy() for side in (0, 1))
    assert fitted.scale(rows, first, second) == pytest.approx(true, rel=1e-3)
    assert asked.scale(rows, first, second) != pytest.approx(true, rel=0.2)


@pytest.mark.parametrize("scale", [0.02, 1.0, 40.0])
def test_a_known_scale_is_recovered_from_outcomes(scale: float) -> None:
    rng = np.random.default_rng(0)
    gap = rng.normal(0, 1.5 * scale, 20_000)
    won = (rng.random(20_000) < norm.cdf(gap / scale)).astype(np.float64)
    assert fit_scale(gap, won, np.ones(20_000)) == pytest.approx(scale, rel=0.05)
    assert np.mean(np.abs(probabilities(gap, scale) - won)) < 0.5


def test_the_spread_is_measured_within_queries() -> None:
    rng = np.random.default_rng(0)
    level = np.repeat(rng.normal(0, 100, 50), 200)
    table = pl.DataFrame({
        "query_id": np.repeat([f"q{n}" for n in range(50)], 200), "doc_id": [str(n) for n in range(10_000)],
        "score": level + rng.normal(0, 3, 10_000),
    })  # fmt: skip
    assert spread_scale(table) == pytest.approx(3 * np.sqrt(2), rel=0.03)


def test_without_any_difference_every_verdict_is_a_tie() -> None:
    table = pl.DataFrame({"query_id": ["q"] * 3, "doc_id": ["a", "b", "c"], "score": [2.0] * 3})
    assert spread_scale(table) == spread_scale(table.head(1)) == fit_scale(np.zeros(3), np.ones(3), np.ones(3)) == 1.0


def test_an_encoder_without_a_scoring_layer_is_no_judge(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no scoring layer"):
        rows_of(judge(str(tiny_encoder(tmp_path))))


def test_failures_stay_failures(reranker: str) -> None:
    asked = judge(reranker, scale=1.0)
    rows = rows_of(asked).with_columns(
        status=pl.when(pl.int_range(pl.len()) == 0).then(pl.lit("timeout")).otherwise("status"),
        raw_answer=pl.when(pl.int_range(pl.len()) == 0).then(None).otherwise("raw_answer"),
    )
    read = asked.read(rows)
    assert read["p_first"][0] is None
    assert read["p_first"].null_count() == 1


def collected(reranker: str, url: str, queries: int, *, audit: float = 1.0) -> pl.DataFrame:
    """A reranker beside a simulated judge, through the panel and the ledger."""
    config = JudgingConfig.model_validate({
        "judges": [{"kind": "simulated"}, {"kind": "cross_encoder", "model": reranker, "max_tokens": 32}],
        "pool_size": 8, "design": "cycles", "degree": 4, "audit_share": audit,
    })  # fmt: skip
    evidence = worded(queries)
    plan, _ = plan_comparisons(pool_documents(evidence.pool, config), config, 0)
    with Books(url) as books:
        home = Home(Records(Store(url.removeprefix("sqlite:///") + ".store")), Path(), "made", books)
        judges = build_judges(config, evidence, 0, home=home)
        return collect(plan, judges, evidence, books, config)[0].filter(pl.col("judge") == "cross-encoder")


def worded(queries: int) -> JudgeEvidence:
    """Made-up evidence in words that the model knows."""
    plain, (asked, documents) = made_evidence(queries, 8), made_texts(9, 8)
    return replace(
        plain,
        queries=plain.queries.with_columns(text=pl.Series(list(asked.values())[:queries])),
        corpus=plain.corpus.with_columns(text=pl.Series(list(documents.values()))),
    )


def test_the_scale_is_fitted_to_the_other_judges_and_frozen(reranker: str, sqlite_url: str) -> None:
    few = collected(reranker, sqlite_url, 2)
    more = collected(reranker, sqlite_url, 4)
    assert more.filter(pl.col("query_id").is_in(few["query_id"].unique().implode())).equals(few)
    fresh = collected(reranker, sqlite_url.replace("ledger", "other"), 4)
    assert not fresh["p_first"].equals(more["p_first"])  # other pairs, another scale: what was frozen kept it
