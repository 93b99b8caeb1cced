"""Rankings become votes on the rows of their lists, and the votes lead back to the scores that made the rankings."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anmi_pipeline.errors import InputError
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.judge_configs import SimulatedJudge
from anmi_pipeline.judging.listwise import CALL, LEFT_OUT, lists_of, read_lists
from anmi_pipeline.judging.parsing import parse_listwise
from anmi_pipeline.judging.plan import plan_comparisons
from anmi_pipeline.judging.ranking import Ranking
from anmi_pipeline.rating.comparisons import fold_judgments
from anmi_pipeline.rating.config import RatingConfig
from anmi_pipeline.rating.elo import rate
from anmi_pipeline.tables import JUDGMENTS, PLAN


def rows(*lists: str, **rest: object) -> pl.DataFrame:
    """Answered rows of lists of one-letter documents, in the order shown; the call key is the list itself."""
    made = [
        {
            "query_id": "q", "first_id": a, "second_id": b, "judge": "j", "round": 1, "list": number, "audit": False,
            "call_key": shown, "status": "ok", "p_first": None, **rest,
        }
        for number, shown in enumerate(lists, start=1)
        for place, a in enumerate(shown)
        for b in shown[place + 1 :]
    ]  # fmt: skip
    return pl.DataFrame(made, schema_overrides={"p_first": pl.Float64})


def votes(read: pl.DataFrame) -> dict[str, tuple[str, float | None]]:
    """Pair -> status and vote."""
    return {a + b: (status, p) for a, b, status, p in read.select("first_id", "second_id", "status", "p_first").iter_rows()}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.permutations("abcdefgh"), min_size=1, max_size=4), st.integers(2, 8), st.randoms())
def test_lists_come_back_in_the_order_shown_whatever_the_order_of_rows(orders, size, random):
    shown = ["".join(order[:size]) for order in orders]
    made = rows(*shown)
    mixed = made[random.sample(range(made.height), made.height)]
    found = lists_of(mixed)
    assert found.select("list").to_series().to_list() == list(range(1, len(shown) + 1))
    assert ["".join(documents) for documents in found["documents"]] == shown
    assert lists_of(PLAN.frame(made)).equals(found)


@pytest.mark.parametrize("bad", [rows("abcd")[:5], rows("ab", "ac", "bc").with_columns(list=pl.lit(0, pl.Int64))])
def test_rows_that_are_no_list_are_refused(bad):
    with pytest.raises(InputError, match="that judge j is asked about query q are not all pairs"):
        lists_of(bad)


def test_a_cycle_is_no_order():
    turned = rows("abc").with_columns(
        first_id=pl.when(pl.col("second_id") == "c", pl.col("first_id") == "a").then(pl.lit("c")).otherwise("first_id"),
        second_id=pl.when(pl.col("second_id") == "c", pl.col("first_id") == "a").then(pl.lit("a")).otherwise("second_id"),
    )
    with pytest.raises(InputError, match="in the order shown"):
        lists_of(turned)


def test_a_ranking_votes_on_the_pairs_it_holds_and_on_no_other():
    made = rows("wxyz")
    read = read_lists(made, {"wxyz": parse_listwise("[3] > [1] = [4]", 4)})
    assert votes(read) == {
        "wx": (LEFT_OUT, None), "wy": ("ok", 0.0), "wz": ("ok", 0.5), "xy": (LEFT_OUT, None), "xz": (LEFT_OUT, None),
        "yz": ("ok", 1.0),
    }  # fmt: skip
    # A ranking of three documents: 3 / (3 + 1).
    assert read.filter(pl.col("status") == "ok")["weight"].to_list() == [0.75] * 3
    assert read.drop("status", "p_first", "weight").equals(made.drop("status", "p_first"))


def test_no_ranking_is_no_vote_and_a_failure_keeps_its_name():
    made = pl.concat([rows("abc"), rows("abc", status="timeout", call_key="late").with_columns(list=pl.lit(2, pl.Int64))])
    read = read_lists(made, {"abc": None})
    assert read["status"].to_list() == ["unparsed"] * 3 + ["timeout"] * 3
    assert read["p_first"].null_count() == 6
    assert set(read["weight"]) == {1.0}
    assert read_lists(made, {})["status"].to_list() == ["ok"] * 3 + ["timeout"] * 3


def test_equal_calls_answer_several_lists():
    """Two queries with equal texts share a call; the ranking goes by the place, not by the id."""
    made = pl.concat([rows("abc", call_key="k"), rows("xyz", call_key="k", query_id="r")])
    read = read_lists(made, {"k": ((2,), (3,), (1,))})
    assert read["p_first"].to_list() == [0.0, 0.0, 1.0] * 2


def judged(generator: np.random.Generator, plan: pl.DataFrame, theta: dict[tuple[str, str], float], noise: float) -> pl.DataFrame:
    """Judgments of a judge that ranks each list by score and noise of its own."""
    shown = lists_of(plan)
    keys = [f"{number}" for number in range(shown.height)]
    rankings: dict[str, Ranking | None] = {}
    for key, (query, documents) in zip(keys, shown.select("query_id", "documents").iter_rows(), strict=True):
        heard = np.array([theta[query, doc] for doc in documents]) + generator.normal(0, noise, len(documents))
        rankings[key] = tuple((int(place) + 1,) for place in np.argsort(-heard))
    called = plan.join(shown.select(*CALL, call_key=pl.Series(keys)), on=CALL, how="left").with_columns(status=pl.lit("ok"))
    rest = {"epoch": "1", "provenance": "model"} | dict.fromkeys(("input_tokens", "output_tokens", "cost_usd"), 0)
    return JUDGMENTS.frame(read_lists(called, rankings).with_columns(**{name: pl.lit(value) for name, value in rest.items()}))


def test_scores_behind_the_lists_are_found_with_honest_errors(rng: np.random.Generator):
    """Thurstone's own rankings: score plus normal noise of variance 1/2, so that gaps have noise of variance 1."""
    names, n = [f"q{number:02}" for number in range(30)], 40
    theta = {(query, f"d{doc:02}"): float(score) for query in names for doc, score in enumerate(rng.normal(0, 0.5, n))}
    pool = pl.DataFrame(list(theta), schema=["query_id", "doc_id"], orient="row")
    config = JudgingConfig(judges=(SimulatedJudge(),), design="lists", list_size=10, degree=72, audit_share=0)
    plan, _ = plan_comparisons(pool, config, 0)
    judgments = judged(rng, plan, theta, 0.5**0.5)
    assert set(judgments["weight"]) == {3 / 11}
    elo, _ = rate(fold_judgments(judgments), pool, RatingConfig(prior="zero", prior_precision=4.0, std_error="fisher"))
    truth = pl.DataFrame([(*key, value) for key, value in theta.items()], schema=["query_id", "doc_id", "truth"], orient="row")
    both = elo.join(truth, on=["query_id", "doc_id"]).with_columns(pl.col("truth") - pl.col("truth").mean().over("query_id"))
    assert both.select(pl.corr("theta", "truth")).item() > 0.8
    scale = (both["elo"] - 1500).to_numpy() @ both["theta"].to_numpy() / (both["theta"].to_numpy() @ both["theta"].to_numpy())
    off = (both["theta"] - both["truth"]).abs() * scale < 1.96 * both["std_error"]
    assert 0.92 < float(off.mean()) < 0.98
