import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anmi_pipeline.errors import InputError
from anmi_pipeline.rating.anchors import STRATEGIES, choose_anchors
from anmi_pipeline.tables import ELO


def elo_table(*sizes: int) -> pl.DataFrame:
    """Queries with documents d000, d001 .. from best to worst."""
    return ELO.frame(
        [
            {
                "query_id": f"q{query}", "doc_id": f"d{place:03}", "theta": -float(place), "elo": 1500.0 - place,
                "std_error": 0.0, "rank": place + 1, "n_comparisons": 4, "status": "converged",
            }
            for query, size in enumerate(sizes)
            for place in range(size)
        ]
    )  # fmt: skip


def places(chosen: pl.DataFrame, query: str = "q0") -> list[int]:
    return [int(doc[1:]) for doc in chosen.filter(query_id=query)["doc_id"]]


def test_the_bar_lies_where_the_expected_share_ends() -> None:
    table = elo_table(101)
    assert places(choose_anchors(table, 3)) == [30, 50, 70]
    assert places(choose_anchors(table, 3, expected_share=0.3)) == [10, 30, 50]
    assert places(choose_anchors(table, 3, expected_share=0.0)) == [0, 10, 20]
    assert places(choose_anchors(table, 1, expected_share=0.3)) == [30]


def test_the_other_strategies() -> None:
    table = elo_table(101)
    assert places(choose_anchors(table, 3, strategy="spread")) == [10, 50, 90]
    assert places(choose_anchors(table, 3, strategy="top")) == [0, 1, 2]
    first, again = (choose_anchors(table, 3, strategy="random", rng=np.random.default_rng(7)) for _ in range(2))
    assert first.equals(again)
    assert len(set(places(first))) == 3


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    per_query=st.integers(1, 12),
    strategy=st.sampled_from(STRATEGIES),
    share=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_each_query_gets_its_number_of_distinct_documents(
    sizes: list[int], per_query: int, strategy: str, share: float, seed: int
) -> None:
    table = elo_table(*sizes)
    rng = np.random.default_rng(seed)
    shuffled = table.sample(fraction=1.0, shuffle=True, seed=seed)
    chosen = choose_anchors(shuffled, per_query, strategy=strategy, expected_share=share, rng=np.random.default_rng(seed))
    assert chosen.columns == ["query_id", "doc_id"]
    assert chosen.equals(choose_anchors(table, per_query, strategy=strategy, expected_share=share, rng=rng))
    counts = dict(chosen.unique().group_by("query_id").len().rows())
    assert counts == {f"q{query}": min(size, per_query) for query, size in enumerate(sizes)}


def test_no_document_no_anchor() -> None:
    assert choose_anchors(elo_table(0)).height == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_query": 0}, "at least 1"),
        ({"expected_share": 1.5}, "share in 0..1"),
        ({"strategy": "bars"}, 'Did you mean "bar"'),
        ({"strategy": "random"}, "pass rng"),
    ],
)
def test_bad_choices_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        choose_anchors(elo_table(5), **options)  # type: ignore[arg-type]
