"""A declared table has the declared columns and types, no forbidden null, one row per key."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anmi_pipeline import tables
from anmi_pipeline.digests import digest_table
from anmi_pipeline.errors import InputError
from anmi_pipeline.table_specs import Rows, TableSpec
from anmi_pipeline.tables import CORPUS, ELO, JUDGMENTS, PLAN, QRELS, QUERIES, RUN

SPECS = [spec for spec in vars(tables).values() if isinstance(spec, TableSpec)]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_every_declaration_is_sound(spec: TableSpec) -> None:
    names = [column.name for column in spec.columns]
    assert len(set(names)) == len(names)
    declared = {column.name: column for column in spec.columns}
    for name in spec.key:
        assert declared[name].content, "an incidental key would order equal content differently"
        assert not declared[name].nullable
    assert all(column.meaning for column in spec.columns)
    empty = spec.frame()
    assert dict(empty.schema) == spec.schema
    assert spec.validate(empty) is empty
    assert digest_table(empty, spec), "every declared type has a canonical form"


def test_names_of_tables_are_their_own() -> None:
    assert len({spec.name for spec in SPECS}) == len(SPECS) > 15


@given(st.lists(st.tuples(st.text("ab", max_size=3), st.text("xy", max_size=3)), unique=True, max_size=9), st.randoms())
def test_a_frame_is_typed_and_sorted_by_key_whatever_the_order(keys: list[tuple[str, str]], random: object) -> None:
    rows = [{"query_id": query, "doc_id": doc, "grade": 1, "extra": 0} for query, doc in keys]
    frame = QRELS.frame(rows)
    assert dict(frame.schema) == QRELS.schema
    assert list(frame.select("query_id", "doc_id").rows()) == sorted(keys)
    random.shuffle(rows)
    assert QRELS.frame(rows).equals(frame)
    assert QRELS.frame(pl.DataFrame(rows, schema={"query_id": pl.String, "doc_id": pl.String, "grade": pl.Int32})).equals(frame)
    assert QRELS.frame(frame).equals(frame)


def test_a_nullable_column_may_be_absent_and_others_may_not() -> None:
    frame = QUERIES.frame([{"query_id": "q", "text": "t", "split": "test"}])
    assert frame.row(0, named=True) == {
        "query_id": "q",
        "text": "t",
        "split": "test",
        "group_id": None,
        "has_evidence": None,
        "source_ids": None,
    }
    with pytest.raises(InputError, match=r"table queries lacks column\(s\) split; it has query_id, text\."):
        QUERIES.frame([{"query_id": "q", "text": "t"}])
    with pytest.raises(InputError, match=r"table run lacks column\(s\) rank, score"):
        RUN.frame(pl.DataFrame(schema={"query_id": pl.String, "doc_id": pl.String}))
    assert RUN.frame([]).equals(RUN.frame({})) and RUN.frame(None).equals(RUN.frame(pl.DataFrame()))


def test_an_absent_column_with_a_default_holds_it():
    rows = [{"query_id": "q", "first_id": "a", "second_id": "b", "judge": "j", "round": 1, "audit": False}]
    assert PLAN.frame(rows).row(0, named=True) == rows[0] | {"list": 0}
    assert PLAN.frame([rows[0] | {"list": 3}])["list"].to_list() == [3]
    assert JUDGMENTS.frame().schema["weight"] == pl.Float64


def test_numbers_are_brought_to_the_declared_type() -> None:
    frame = RUN.frame({"query_id": ["q"], "doc_id": ["d"], "rank": [1.0], "score": [3]})
    assert frame.row(0) == ("q", "d", 1, 3.0)


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{"query_id": "q", "doc_id": "d", "grade": "high"}], "table qrels: a value does not fit its column's type"),
        ([{"query_id": "q", "doc_id": "d", "grade": 1.5}], "table qrels: column grade holds 1.5, which is not a whole number"),
        ([{"query_id": "q", "doc_id": "d", "grade": float("inf")}], "table qrels: a value does not fit its column's type"),
        (
            {"query_id": ["q", 7], "doc_id": ["d", "e"], "grade": [1, 1]},
            "table qrels: the values of a column do not have one type",
        ),
        ([{"query_id": "q"}, {"query_id": ["q"]}], "table qrels: the values of a column do not have one type"),
        ({"query_id": ["q"], "doc_id": ["d", "e"], "grade": [1]}, "table qrels: "),
    ],
)
def test_a_value_that_does_not_fit_is_refused(rows: Rows, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        QRELS.frame(rows)


def elo(**changes: object) -> pl.DataFrame:
    """One row of an Elo table."""
    row = {
        "query_id": "q",
        "doc_id": "d",
        "theta": 0.0,
        "elo": 1500.0,
        "std_error": 1.0,
        "rank": 1,
        "n_comparisons": 1,
        "status": "ok",
    }
    absent = [column.name for column in ELO.columns if column.nullable]
    return pl.DataFrame([{**row, **changes}]).with_columns(pl.lit(None, pl.Float64).alias(name) for name in absent)


def test_validation_names_what_is_wrong() -> None:
    assert ELO.validate(elo().select(list(ELO.schema))).height == 1
    assert ELO.validate(elo()).height == 1, "the order of columns does not matter"
    with pytest.raises(InputError, match=r"table elo_table has schema .*, expected "):
        ELO.validate(elo().drop("rank"))
    with pytest.raises(InputError, match="table elo_table has schema"):
        ELO.validate(elo().with_columns(extra=1))
    with pytest.raises(InputError, match="table elo_table has schema"):
        ELO.validate(elo(rank=1.0))
    with pytest.raises(InputError, match=r"column elo has 1 null\(s\)"):
        ELO.validate(elo().with_columns(elo=pl.lit(None, pl.Float64)))
    with pytest.raises(InputError, match=r"2 rows share a key, first \{'query_id': 'q', 'doc_id': 'd'\}"):
        ELO.validate(pl.concat([elo(), elo(), elo(doc_id="e")]))


def test_what_a_verdict_cost_is_not_content() -> None:
    assert set(JUDGMENTS.schema) - set(JUDGMENTS.content) == {"input_tokens", "output_tokens", "cost_usd", "latency_ms"}
    assert CORPUS.content == list(CORPUS.schema)
