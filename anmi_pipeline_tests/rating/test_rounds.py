from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from anmi_pipeline.errors import InputError
from anmi_pipeline.rating.adaptive import round_sizes
from anmi_pipeline.rating.prior import Lift, ScorePrior, starting_prior
from anmi_pipeline.rating.rounds import first_round, next_round

PRIORS = (
    None,
    starting_prior(),
    ScorePrior(("fused",), (0.3,), 6.0, Lift((-3.0, 1.0), 1.0, 6.0)),
)


def world(sizes: tuple[int, ...], seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    return pl.concat([
        pl.DataFrame({
            "query_id": [f"q{number}"] * size, "doc_id": [f"d{document:03}" for document in range(size)],
            "fused": np.sort(rng.normal(size=size))[::-1] if size > 1 else np.zeros(size),
        })
        for number, size in enumerate(sizes)
    ])  # fmt: skip


def generator(query_id: str) -> np.random.Generator:
    return np.random.default_rng([*query_id.encode()])


def judged(pairs: pl.DataFrame, seed: int = 0) -> pl.DataFrame:
    """Lower ids win with 80 %."""
    won = np.random.default_rng(seed).random(pairs.height) < 0.8
    return pairs.with_columns(preference=pl.Series(won.astype(np.float64)), weight=pl.lit(1.0))


def played(features: pl.DataFrame, prior: ScorePrior | None, degree: int) -> pl.DataFrame:
    comparisons = judged(first_round(features, prior, generator))
    sizes = {str(name): round_sizes(own.height, degree) for (name,), own in features.group_by("query_id")}
    for number in (1, 2, 3):
        counts = {name: size[number] for name, size in sizes.items()}
        comparisons = pl.concat([comparisons, judged(next_round(comparisons, features, prior, counts), number)])
    return comparisons


@pytest.mark.parametrize("prior", PRIORS)
def test_four_rounds_spend_the_budget_on_distinct_pairs(prior: ScorePrior | None) -> None:
    sizes = (1, 2, 3, 4, 17, 30, 30)
    comparisons = played(world(sizes), prior, 6)
    assert not comparisons.select("query_id", "doc_i", "doc_j").is_duplicated().any()
    assert (comparisons["doc_i"] < comparisons["doc_j"]).all()
    spent = dict(comparisons.group_by("query_id").len().iter_rows())
    for number, size in enumerate(sizes):
        assert spent.get(f"q{number}", 0) == min(3 * size, size * (size - 1) // 2)


@pytest.mark.parametrize("prior", PRIORS)
def test_a_query_does_not_depend_on_the_others(prior: ScorePrior | None) -> None:
    features = world((12, 12, 12, 7))
    comparisons = judged(first_round(features, prior, generator))
    counts: dict[str, int] = dict.fromkeys(("q0", "q1", "q2", "q3"), 5)
    together = next_round(comparisons, features, prior, counts)
    for name in counts:
        mine = pl.col("query_id") == name
        alone = next_round(comparisons.filter(mine), features.filter(mine), prior, {name: 5})
        assert alone.equals(together.filter(mine))
        assert next_round(comparisons, features, prior, {name: 5}).equals(alone)


@pytest.mark.parametrize("prior", PRIORS)
def test_order_of_rows_changes_nothing(prior: ScorePrior | None) -> None:
    features = world((9, 14))
    comparisons = judged(first_round(features, prior, generator))
    assert first_round(features.reverse(), prior, generator).equals(comparisons.select("query_id", "doc_i", "doc_j"))
    counts = {"q0": 6, "q1": 8}
    made = next_round(comparisons, features, prior, counts)
    assert next_round(comparisons.reverse(), features.reverse(), prior, dict(reversed(counts.items()))).equals(made)
    assert made.schema == {"query_id": pl.String(), "doc_i": pl.String(), "doc_j": pl.String()}
    assert made.sort("query_id", "doc_i", "doc_j").equals(made)


def test_an_unanswered_pair_of_weight_zero_is_not_asked_again() -> None:
    features = world((6,))
    asked = judged(first_round(features, None, generator)).with_columns(weight=pl.lit(0.0))
    made = next_round(asked, features, None, {"q0": 100})
    assert made.height == 15 - 6


def test_verdicts_move_the_choice_to_the_open_top() -> None:
    """Two documents won everything so far: the next pair decides between them."""
    features = world((10,)).with_columns(fused=pl.lit(0.0))
    rows = [("q0", "d000", f"d{number:03}") for number in range(2, 8)] + [
        ("q0", "d001", f"d{number:03}") for number in range(4, 10)
    ]
    comparisons = pl.DataFrame(rows, schema=["query_id", "doc_i", "doc_j"], orient="row").with_columns(
        preference=pl.lit(1.0), weight=pl.lit(1.0)
    )
    for prior in PRIORS:
        made = next_round(comparisons, features, prior, {"q0": 1})
        assert made.row(0) == ("q0", "d000", "d001")


def test_the_cap_and_zero_counts() -> None:
    features = world((10, 10))
    comparisons = judged(first_round(features, None, generator))
    made = next_round(comparisons, features, None, {"q0": 20, "q1": 0}, cap=2)
    assert set(made["query_id"]) == {"q0"}
    assert max(pl.concat([made["doc_i"], made["doc_j"]]).value_counts()["count"]) <= 2
    assert next_round(comparisons, features, None, {}).is_empty()


@pytest.mark.parametrize("ask", [lambda f, c: next_round(c, f, None, {"q9": 3})])
def test_unknown_queries_are_named(ask: Callable[[pl.DataFrame, pl.DataFrame], pl.DataFrame]) -> None:
    features = world((5,))
    with pytest.raises(InputError, match='"q9", which has no documents'):
        ask(features, judged(first_round(features, None, generator)))
