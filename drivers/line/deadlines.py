"""The deadlines of outstanding requests. Deadlines close to each other share one timer of the loop.

The lines of a gateway poll at the same ticks, so their deadlines come at the same time too. Nearly all of them pass
without effect, because the answer has arrived. A timer for each line would take more CPU time than its answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final
from weakref import WeakKeyDictionary

STEP_S: Final = 0.02  # a deadline takes effect at most this much later


class Deadlines:
    """The deadlines of all lines of one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._call_at = loop.call_at
        self._waiting: dict[int, set[Callable[[], None]]] = {}  # by end, in steps of ``STEP_S``

    def add(self, at_s: float, check: Callable[[], None]) -> float:
        """Call ``check`` at a time of the loop's clock, or up to ``STEP_S`` later. Returns when it will be called.

        ``check`` finds out itself whether the request is answered.
        """
        end = int(at_s / STEP_S) + 1
        if (waiting := self._waiting.get(end)) is not None:
            waiting.add(check)
        else:
            self._waiting[end] = {check}
            self._call_at(end * STEP_S, self._pass, end)
        return end * STEP_S

    def _pass(self, end: int) -> None:
        for check in self._waiting.pop(end):
            check()


_of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, Deadlines] = WeakKeyDictionary()


def deadlines_of(loop: asyncio.AbstractEventLoop) -> Deadlines:
    """Return the deadlines of a loop."""
    if loop not in _of_loop:
        _of_loop[loop] = Deadlines(loop)
    return _of_loop[loop]
