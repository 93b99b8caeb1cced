"""Choices on record: made once, whatever the verdicts say later; where nothing is on record they are made from the verdicts."""

from dataclasses import replace

import polars as pl
import pytest

from anmi_pipeline.judging.asking import CAPPED
from anmi_pipeline.judging.choices import ChoiceBook, choices_key
from anmi_pipeline.judging.config import JudgingConfig
from anmi_pipeline.judging.judge_configs import OpenAIJudge
from anmi_pipeline.judging.ledger_tables import Books
from anmi_pipeline.judging.round_plans import plan_first, plan_next
from anmi_pipeline.judging.study import Study, open_study
from anmi_pipeline.rating.config import RatingConfig
from anmi_pipeline.tables import JUDGMENTS
from anmi_pipeline_tests.judging.made import made_evidence

RATING = RatingConfig(prior="zero")


def configured(model: str = "gpt-4o-mini", **changes: object) -> JudgingConfig:
    judges = (OpenAIJudge(name="one", model=model), OpenAIJudge(name="two", model="gpt-4.1"))
    return JudgingConfig.model_validate({"judges": judges, "pool_size": 10, "degree": 6, "rounds": 3, **changes})


def study(queries: int = 3, config: JudgingConfig | None = None) -> Study:
    pool = made_evidence(queries, 10).pool
    return open_study("made", config or configured(), RATING, 0, pool, {}, dataset="made")


def verdicts(plan: pl.DataFrame, p: float, status: str = "ok") -> pl.DataFrame:
    """Each first document wins with probability p."""
    said = {"epoch": "1", "p_first": p if status == "ok" else None, "status": status, "call_key": "k", "provenance": "model"}
    columns = {name: pl.lit(value) for name, value in said.items()}
    return JUDGMENTS.frame(plan.with_columns(**columns, input_tokens=0, output_tokens=0, cost_usd=0.0))


def second_round(books: Books | None, of: Study, p: float, status: str = "ok") -> pl.DataFrame:
    plan, _ = plan_first(of)
    book = None if books is None or of.choices is None else ChoiceBook(books, of.choices)
    return plan_next(verdicts(plan, p, status), plan, of, None, 2, book)


def test_a_choice_is_that_of_the_first_verdicts(ledger_url: str) -> None:
    with Books(ledger_url) as books:
        first = second_round(books, study(), 0.9)
        assert first.equals(second_round(None, study(), 0.9))
        assert not first.equals(second_round(None, study(), 0.1))
        assert first.equals(second_round(books, study(), 0.1))


def test_another_model_behind_a_judge_is_asked_the_same_pairs(sqlite_url: str) -> None:
    with Books(sqlite_url) as books:
        first = second_round(books, study(), 0.9)
        assert second_round(books, study(config=configured("gpt-5-mini")), 0.2).equals(first)


@pytest.mark.parametrize(
    "changes", [{"replan": 1}, {"degree": 8}, {"seed": 5}, {"pool_size": 9}, {"instruction": "Prefer recent sources."}]
)
def test_other_settings_choose_anew(sqlite_url: str, changes: dict[str, object]) -> None:
    other = study(config=configured(**changes))
    with Books(sqlite_url) as books:
        second_round(books, study(), 0.9)
        assert second_round(books, other, 0.1).equals(second_round(None, other, 0.1))


def test_another_query_changes_no_choice(sqlite_url: str) -> None:
    with Books(sqlite_url) as books:
        few = second_round(books, study(2), 0.9)
        more = second_round(books, study(3), 0.3)
        assert more.filter(pl.col("query_id") != "q002").equals(few)
        assert more.height > few.height


def test_what_a_cap_left_open_is_not_chosen_for_good(sqlite_url: str) -> None:
    with Books(sqlite_url) as books:
        second_round(books, study(), 0.9, CAPPED)
        assert second_round(books, study(), 0.2).equals(second_round(None, study(), 0.2))


def test_who_only_asks_what_would_be_chosen_reads_the_record_and_keeps_nothing(sqlite_url: str) -> None:
    made = study()
    with Books(sqlite_url) as books:
        plan, _ = plan_first(made)
        reader = ChoiceBook(books, str(made.choices), keep=False)
        for p in (0.9, 0.1):
            assert plan_next(verdicts(plan, p), plan, made, None, 2, reader).equals(second_round(None, made, p))
        kept = second_round(books, made, 0.9)
        assert plan_next(verdicts(plan, 0.1), plan, made, None, 2, reader).equals(kept)


def test_the_first_of_two_processes_chooses(sqlite_url: str) -> None:
    made = study()
    plan, _ = plan_first(made)
    pairs = plan.select(
        "query_id", doc_i=pl.min_horizontal("first_id", "second_id"), doc_j=pl.max_horizontal("first_id", "second_id")
    )
    mine = pl.DataFrame({"query_id": ["q000"], "doc_i": ["d000"], "doc_j": ["d001"]})
    other = mine.with_columns(doc_j=pl.lit("d002"))
    with Books(sqlite_url) as books:
        book = ChoiceBook(books, "study")

        def slow(counts: object) -> pl.DataFrame:
            book.pairs(2, {"q000": 1}, pairs, made.features, lambda _: other)
            return mine

        assert book.pairs(2, {"q000": 1, "q001": 0}, pairs, made.features, slow).equals(other)


def test_only_judges_that_cost_money_are_kept_to_their_pairs() -> None:
    config = JudgingConfig.model_validate({"judges": [{"kind": "simulated"}]})
    assert study(config=config).choices is None
    assert replace(study(), choices=None).plan_key == study().plan_key
    assert choices_key("a", configured(), RATING, 0, {}) != choices_key("b", configured(), RATING, 0, {})
