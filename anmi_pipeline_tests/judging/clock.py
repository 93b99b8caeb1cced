"""An event loop whose clock jumps to the next timer instead of waiting: hours pass in milliseconds, always the same way."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class JumpingLoop(asyncio.SelectorEventLoop):
    """Time stands still while anything can run, and jumps to the next timer when nothing can."""

    def __init__(self) -> None:
        super().__init__()
        self.present = 1000.0

    def time(self) -> float:
        return self.present

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:
            self.present = max(self.present, self._scheduled[0]._when)
        super()._run_once()

    def run_in_executor(self, _executor: object, func: Callable[..., Any], *args: object) -> asyncio.Future[Any]:
        """Work of other threads takes no time here."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


def play(scene: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine on a jumping clock."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(scene)
