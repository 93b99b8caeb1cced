"""How the loops are compiled: to machine code cached on disk, without the interpreter's lock.

Belongs here: the decorators and the care for the cache. Does not: any loop.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt
from numba import njit

Unsigned = npt.NDArray[np.uint32]
"""Indices inside the loops: compiled code does not ask whether they are negative, which made the solver 2.7 times slower."""

Signed = npt.NDArray[np.int32]
Labels = npt.NDArray[np.int32]

F = TypeVar("F", bound=Callable[..., object])


def exact(function: F) -> F:
    """Compile at first use and cache on disk; every operation rounds as Python's does."""
    return cast("F", njit(cache=True, nogil=True)(function))


def compiled(function: F) -> F:
    """Compile at first use and cache on disk; products may fuse with sums, sums keep their order."""
    return cast("F", njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})(function))


def reordered(function: F) -> F:
    """Like `compiled`, but sums may be reordered to fill vector registers: the same order on every run of one machine."""
    return cast("F", njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})(function))


def forget_stale(folder: Path) -> None:
    """Remove cached machine code that is older than the newest source of the folder.

    numba compiles a function again when its own file changed, not when a function that it calls from another file did.
    """
    newest = max((source.stat().st_mtime for source in folder.glob("*.py")), default=0.0)
    for index in (folder / "__pycache__").glob("*.nbi"):
        try:
            if index.stat().st_mtime < newest:
                index.unlink()
        except OSError:
            continue  # another process was first, or the folder is read-only, and then nobody edits its sources either


forget_stale(Path(__file__).parent)
