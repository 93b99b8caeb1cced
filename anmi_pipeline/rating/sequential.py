"""Sequential Elo: one pass over the games in a recorded order.

Belongs here: the classical update rule on one list of games. Does not: its compiled loop (`kernels/sequential.py`) and fits
(`fit.py`), which use all games at once; the two scales never compare.
"""

from math import isfinite

import numpy as np
import numpy.typing as npt

from anmi_pipeline.errors import InputError
from anmi_pipeline.rating.config import ELO_START
from anmi_pipeline.rating.graphs import Floats, graph_batch, refuse


def sequential_elo(
    n_items: int,
    i: npt.ArrayLike,
    j: npt.ArrayLike,
    w: npt.ArrayLike,
    *,
    k: float = 4.0,
    start: float = ELO_START,
    scale: float = 400.0,
    rng: np.random.Generator | None = None,
) -> Floats:
    """Rate by playing the games one after the other.

    Equation: s(A, B) = P(A beats B) = 1 / (1 + 10^((R_B - R_A) / scale)); R_A += k (w - s), R_B -= k (w - s). Source: Elo, The
    Rating of Chessplayers (1978). The result depends on the order of the games. The loop is compiled on
    the first call and kept on disk.

    Args:
        n_items: documents.
        i: (E,) first document of each game.
        j: (E,) second document.
        w: (E,) outcome for i, 0..1; soft outcomes allowed.
        k: size of one update, in Elo points.
        start: rating before the first game.
        scale: gap that means odds of ten to one.
        rng: shuffles the games when given; else they are played in the order given.

    Returns:
        (n_items,) ratings in Elo points.

    Raises:
        InputError: a bad index, a self-loop, an outcome outside [0, 1], a setting that is not finite or a scale of 0 or less.
    """
    from anmi_pipeline.rating.kernels.sequential import play

    check_settings(k, start, scale)
    outcome = np.asarray(w, dtype=np.float64)
    batch = graph_batch(np.array([n_items]), np.array([0, len(outcome)]), i, j)
    refuse(batch, ~((outcome >= 0) & (outcome <= 1)), "has an outcome outside 0..1", outcome)
    order = np.arange(len(outcome)) if rng is None else rng.permutation(len(outcome))
    ratings = np.full(n_items, start, dtype=np.float64)
    play(ratings, order, batch.i, batch.j, outcome, k, scale)
    return ratings


def check_settings(k: float, start: float, scale: float) -> None:
    """Refuse settings that would spread NaN over every rating."""
    if not (isfinite(k) and isfinite(start) and isfinite(scale) and scale > 0):
        raise InputError(
            f"k is {k}, start {start}, scale {scale}; all must be finite and scale above 0 (4, 1500 and 400 are usual)."
        )
