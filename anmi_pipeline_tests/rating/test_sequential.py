import subprocess
import sys
from pathlib import Path

import evalica
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


def by_hand(n_items: int, games: list[tuple[int, int, float]], k: float) -> list[float]:
    """The rule in plain Python, game after game."""
    ratings = [1500.0] * n_items
    for first, second, result in games:
        change = k * (result - 1.0 / (1.0 + 10.0 ** ((ratings[second] - ratings[first]) / 400.0)))
        ratings[first] += change
        ratings[second] -= change
    return ratings


GAMES = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 5), st.floats(0, 1)).filter(lambda game: game[0] != game[1]), max_size=60
)


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


@given(games=GAMES, k=st.floats(0.1, 64))
def test_compiled_loop_has_the_bits_of_the_plain_rule(games: list[tuple[int, int, float]], k: float) -> None:
    i, j, w = (np.array(column) for column in zip(*games, strict=True)) if games else (np.zeros(0, dtype=int),) * 3
    assert sequential_elo(6, i, j, w, k=k).tolist() == by_hand(6, games, k)


def test_evalica_agrees_on_hard_outcomes(rng: np.random.Generator) -> None:
    """evalica starts at 1000 and has base 10, scale 400, K = 4 as defaults; a draw is worth .5."""
    i = rng.integers(0, 20, 400)
    j = (i + rng.integers(1, 20, 400)) % 20
    w = rng.choice([0.0, 0.5, 1.0], 400)
    winner = {1.0: evalica.Winner.X, 0.0: evalica.Winner.Y, 0.5: evalica.Winner.Draw}
    theirs = evalica.elo(i.tolist(), j.tolist(), [winner[value] for value in w], k=16.0, initial=1500.0).scores
    assert sequential_elo(20, i, j, w, k=16.0) == pytest.approx(theirs.sort_index().to_numpy(), abs=1e-9)


@given(games=GAMES)
def test_points_are_only_moved_between_documents(games: list[tuple[int, int, float]]) -> None:
    i, j, w = (np.array(column) for column in zip(*games, strict=True)) if games else (np.zeros(0, dtype=int),) * 3
    assert sequential_elo(6, i, j, w).sum() == pytest.approx(6 * 1500.0)


def test_an_order_is_the_games_shuffled_by_it(rng: np.random.Generator) -> None:
    i, w = np.arange(50) % 7, rng.random(50)
    order = np.random.default_rng(5).permutation(50)
    shuffled = sequential_elo(8, i, i + 1, w, rng=np.random.default_rng(5))
    assert shuffled.tobytes() == sequential_elo(8, i[order], i[order] + 1, w[order]).tobytes()


def test_no_game_and_no_document() -> None:
    assert sequential_elo(3, [], [], []).tolist() == [1500.0] * 3
    assert sequential_elo(0, [], [], []).tolist() == []


def test_importing_the_module_loads_no_compiler() -> None:
    code = "import sys, anmi_pipeline.rating.sequential; raise SystemExit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("bad", [{"scale": 0.0}, {"k": float("nan")}, {"start": float("inf")}])
def test_bad_settings_are_named(bad: dict[str, float]) -> None:
    with pytest.raises(InputError, match="must be finite"):
        sequential_elo(2, [0], [1], [1.0], **bad)
