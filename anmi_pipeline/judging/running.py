"""Running judges to an end that keeps what was paid: one event loop, and signals that stop asking instead of cutting it off.

Belongs here: the event loop of a step and its signals. Does not: what runs in it (`collect.py`, `rounds.py`).
"""

import asyncio
import logging
import signal
import threading
from collections.abc import Coroutine, Generator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from anmi_pipeline.errors import AnmiError
from anmi_pipeline.judging.judges import Judge

LOG = logging.getLogger(__name__)
T = TypeVar("T")
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopper:
    """Stops judges on the first signal; a second one does what it did before."""

    def __init__(self, judges: Sequence[Judge]) -> None:
        """Nothing is stopped yet."""
        self.stopped = False
        self._judges = judges

    @contextmanager
    def watching(self, loop: asyncio.AbstractEventLoop) -> Generator[None]:
        """Handle signals while the block runs; only a main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {int(number): signal.getsignal(number) for number in SIGNALS}

        def stop(number: int, _frame: FrameType | None) -> None:
            signal.signal(number, previous[number] or signal.SIG_DFL)
            loop.call_soon_threadsafe(self.stop)

        for number in SIGNALS:
            signal.signal(number, stop)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler or signal.SIG_DFL)

    def stop(self) -> None:
        """Let every judge finish what is in flight."""
        self.stopped = True
        LOG.warning("stopping: calls in flight are awaited and kept; a second signal ends at once")
        for judge in self._judges:
            judge.stop()


def run(work: Coroutine[Any, Any, T], judges: Sequence[Judge]) -> T:
    """Run to the end, then close the judges.

    SIGINT and SIGTERM send nothing more; what is in flight is awaited and committed.

    Args:
        work: what asks the judges.
        judges: to be stopped and closed.

    Raises:
        KeyboardInterrupt: a signal stopped it before its end.
    """
    stopper = Stopper(judges)

    async def guarded() -> T:
        with stopper.watching(asyncio.get_running_loop()):
            try:
                return await work
            finally:
                for judge in judges:
                    await judge.close()

    try:
        return asyncio.run(guarded())
    except AnmiError:
        if stopper.stopped:
            raise KeyboardInterrupt("stopped; every answer that came is kept") from None
        raise
