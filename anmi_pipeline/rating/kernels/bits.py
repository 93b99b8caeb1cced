"""The bits of a float as an integer and back, in compiled code.

Belongs here: the two casts that numba has no name for. Does not: what is done with the bits (`links.py`).
"""

from collections.abc import Callable
from typing import Any, cast

from llvmlite import ir
from numba import float64, int64
from numba.extending import intrinsic


def read_as_float(typing_context: Any, bits: Any) -> tuple[Any, Callable[..., Any]]:  # noqa: ANN401  (numba calls it)
    """Type and code of the cast from 64 bits to a float."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        return builder.bitcast(arguments[0], ir.DoubleType())

    return float64(int64), generate


def read_as_integer(typing_context: Any, value: Any) -> tuple[Any, Callable[..., Any]]:  # noqa: ANN401
    """Type and code of the cast from a float to its 64 bits."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        return builder.bitcast(arguments[0], ir.IntType(64))

    return int64(float64), generate


from_bits = cast("Callable[[int], float]", intrinsic(read_as_float))
to_bits = cast("Callable[[float], int]", intrinsic(read_as_integer))
