"""The errors a person meets: each says what is wrong, the value, where, and what to do.

Belongs here: the exception classes and the nearest-name helper their texts use. Does not: handling (the CLI and `defs/` map
errors to exit codes and Dagster failures).
"""

from collections.abc import Iterable
from difflib import get_close_matches


class AnmiError(Exception):
    """Base of every error this package raises on purpose."""


class InputError(AnmiError):
    """A file, setting or argument of the user is wrong. The CLI exits with 2."""


class ArtifactError(AnmiError):
    """A stored artifact is absent, damaged or does not fit the one it is read with."""


class ConvergenceError(AnmiError):
    """A numeric fit did not reach its tolerance."""


class JudgeError(AnmiError):
    """A judge could not answer.

    Attributes:
        retryable: True when the same call may succeed later (a timeout, a rate limit).
    """

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        """Keep whether the call may be tried again."""
        super().__init__(message)
        self.retryable = retryable


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known name was probably meant.

    >>> nearest("scifct", ["scifact", "nfcorpus"])
    ' Did you mean "scifact"?'
    >>> nearest("x", ["scifact"])
    ' Known: scifact.'
    """
    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    if close:
        return f' Did you mean "{close[0]}"?'
    return f" Known: {', '.join(names)}." if names else ""
