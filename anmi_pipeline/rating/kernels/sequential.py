"""The loop of sequential Elo.

Belongs here: the update of one game after the other. Does not: checks, defaults and shuffling (`rating/sequential.py`).
"""

import numpy as np

from anmi_pipeline.rating.graphs import Floats, Ints
from anmi_pipeline.rating.kernels.compiling import exact


@exact
def play(ratings: Floats, order: Ints, i: Ints, j: Ints, w: Floats, k: float, scale: float) -> None:
    """Play the games in their order and leave the result in `ratings`.

    Equation: expected = 1 / (1 + 10^((R_j - R_i) / scale)); R_i += k (w - expected), R_j -= k (w - expected).

    Args:
        ratings: (n_items,) ratings before the first game; overwritten.
        order: (E,) game played at each turn.
        i: (E,) first document of each game.
        j: (E,) second document.
        w: (E,) outcome for i, 0..1.
        k: size of one update.
        scale: gap that means odds of ten to one.
    """
    for turn in range(len(order)):
        game = order[turn]
        first, second = i[game], j[game]
        # np.power reaches the C library's pow, as Python's ** does; the operator would become a product for constant exponents.
        expected = 1.0 / (1.0 + np.power(10.0, (ratings[second] - ratings[first]) / scale))
        change = k * (w[game] - expected)
        ratings[first] += change
        ratings[second] -= change
