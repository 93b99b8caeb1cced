from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anmi_pipeline.errors import InputError
from anmi_pipeline.rating.fit import fit_batch
from anmi_pipeline.rating.sequential import sequential_elo

OUTCOME = {"left": 1.0, "right": 0.0, "tie": 0.5}


class Battles:
    """A recorded file of games and the ratings its makers publish for them."""

    def __init__(self, games: Path, golden: Path) -> None:
        table = pl.read_csv(games, schema_overrides={"left": pl.String, "right": pl.String})
        self.names = sorted(set(table["left"]) | set(table["right"]))
        index = {name: place for place, name in enumerate(self.names)}
        self.i = np.array([index[name] for name in table["left"]])
        self.j = np.array([index[name] for name in table["right"]])
        self.w = table["winner"].replace_strict(OUTCOME, return_dtype=pl.Float64).to_numpy()
        self.golden = pl.read_csv(golden, schema_overrides={"item": pl.String})

    def scores(self, algorithm: str) -> np.ndarray:
        rows = dict(self.golden.filter(algorithm=algorithm).select("item", "score").rows())
        return np.array([rows[name] for name in self.names])


def centred(values: np.ndarray) -> np.ndarray:
    return values - values.mean()


@pytest.fixture(scope="module", params=["llmfao", "food", "simple"])
def battles(request: pytest.FixtureRequest, data_root: Path) -> Battles:
    folder = data_root / "battles"
    files = {
        "llmfao": ("llmfao/battles.csv.gz", "llmfao/golden.csv"),
        "food": ("food/battles.csv", "food/golden.csv"),
        "simple": ("food/simple.csv", "food/simple-golden.csv"),
    }[request.param]
    return Battles(folder / files[0], folder / files[1])


def test_elo_equals_the_published_ratings(battles: Battles) -> None:
    """The files were made with K = 4, scale 400 and start 1000, in row order; a start is only a shift."""
    found = sequential_elo(len(battles.names), battles.i, battles.j, battles.w, k=4.0)
    assert found.mean() == pytest.approx(1500.0)
    assert found - 500 == pytest.approx(battles.scores("elo"), abs=1e-6)


def test_bradley_terry_equals_the_published_ratings(battles: Battles) -> None:
    fit = fit_batch(
        np.array([len(battles.names)]), np.array([0, len(battles.w)]), battles.i, battles.j, battles.w,
        model="bradley_terry", prior_precision=1e-9, tol=1e-9,
    )  # fmt: skip
    golden = centred(np.log(battles.scores("bradley_terry")))
    assert fit.theta == pytest.approx(golden, abs=2e-5)


def test_order_matters_and_is_seeded(battles: Battles) -> None:
    def played(seed: int) -> np.ndarray:
        return sequential_elo(len(battles.names), battles.i, battles.j, battles.w, rng=np.random.default_rng(seed))

    assert played(1).tobytes() == played(1).tobytes()
    assert played(1).tobytes() != played(2).tobytes()


@given(w=st.floats(0, 1), k=st.floats(0.1, 64), gap=st.floats(0, 1))
def test_one_game_moves_both_by_the_surprise(w: float, k: float, gap: float) -> None:
    first, second = sequential_elo(2, [0], [1], [w], k=k)
    assert first - 1500 == pytest.approx(k * (w - 0.5), abs=1e-9)
    assert first + second == pytest.approx(3000)


def test_favourite_gains_less() -> None:
    """s(A, B) = P(A beats B): once ahead, a further win brings less."""
    once, twice = sequential_elo(2, [0], [1], [1.0], k=100)[0], sequential_elo(2, [0, 0], [1, 1], [1.0, 1.0], k=100)[0]
    expected = 1 / (1 + 10 ** (-100 / 400))
    assert once == 1550
    assert twice == pytest.approx(1550 + 100 * (1 - expected))


def test_bad_outcome_is_named() -> None:
    with pytest.raises(InputError, match=r"edge 1 .* outcome outside 0..1: 2.0"):
        sequential_elo(2, [0, 0], [1, 1], [1.0, 2.0])
