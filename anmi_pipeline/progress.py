"""How long work says how far it is.

Belongs here: the `Progress` protocol that domain code calls. Does not: bars and logs; the CLI and `defs/` supply those.
"""

from typing import Protocol


class Progress(Protocol):
    """Called with (done, total, unit) as often as the work likes; the receiver decides what to show."""

    def __call__(self, done: int, total: int, unit: str, /) -> None:
        """Report that `done` of `total` units are finished."""


def silent(done: int, total: int, unit: str, /) -> None:
    """Show nothing: the default when nobody watches."""
