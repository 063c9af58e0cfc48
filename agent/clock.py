"""The agent's clock, which gives UTC for ticks and timestamps, the kernel's boot id, and ways to sleep in the loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

STEP_MS = 500  # a larger difference between wall and monotonic clock means that somebody set the wall clock
MAX_SLOWING_NS = 50_000_000  # one comparison moves the clock back by at most this; the agent compares once a second


class ClockSet(NamedTuple):
    """A step of the wall clock: by how many seconds, and when, in monotonic seconds."""

    by_s: float
    at_s: float


class SteadyClock:
    """UTC that advances with the monotonic clock.

    It is compared with the wall clock to detect steps and to correct drift.
    """

    def __init__(
        self, utc_ns: Callable[[], int] = time.time_ns, mono_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._utc, self._mono = utc_ns, mono_ns
        self._offset_ns = utc_ns() - mono_ns()
        # ``now_ms`` never returns less than this, so the clock stands still after a small backward correction
        self._floor_ns = 0

    def now_ms(self) -> int:
        """Return UTC in ms. The time advances with the monotonic clock, and goes back only in ``take_step``."""
        return max(self._mono() + self._offset_ns, self._floor_ns) // 1_000_000

    def check_step(self) -> tuple[int, int] | None:
        """Compare with the wall clock, and correct drift.

        Returns (old ms, new ms) if somebody set the wall clock; ``take_step`` then applies the new time. Returns None
        if nobody did.
        """
        wall, mono = self._utc(), self._mono()
        off = wall - mono - self._offset_ns
        if abs(off) > STEP_MS * 1_000_000:
            return max(mono + self._offset_ns, self._floor_ns) // 1_000_000, wall // 1_000_000
        # If this clock is slow, it jumps forward at once. If it is fast, it stands still instead of going back: a tick
        # that was already read must stay in the past. Otherwise an agent that stops now would not seal this tick.
        self._floor_ns = max(mono + self._offset_ns, self._floor_ns)
        self._offset_ns += max(off, -MAX_SLOWING_NS)
        return None

    def take_step(self) -> None:
        """Apply the step that ``check_step`` found: continue with the time of the wall clock."""
        self._offset_ns, self._floor_ns = self._utc() - self._mono(), 0


@cache
def kernel_boot(file: Path = Path("/proc/sys/kernel/random/boot_id")) -> str | None:
    """Return the kernel's boot id, as hexadecimal digits and ``-``. None: unknown, for example without /proc."""
    try:
        text = file.read_text("ascii").strip()
        return text if bytes.fromhex(text.replace("-", "")) else None
    except (OSError, ValueError):
        return None


class WakeableSleep:
    """The sleep of one task, which ``wake`` can end early."""

    def __init__(self) -> None:
        self._sleeping: asyncio.Future[None] | None = None

    async def sleep(self, seconds: float) -> None:
        """Sleep like ``asyncio.sleep``, or until ``wake`` is called."""
        loop = asyncio.get_running_loop()
        self._sleeping = loop.create_future()
        timer = loop.call_later(seconds, self.wake)
        try:
            await self._sleeping
        finally:
            timer.cancel()
            self._sleeping = None

    async def until(self, due_ms: int, timer: TickTimer) -> None:
        """Sleep until a time in UTC ms, or until ``wake`` is called."""
        self._sleeping = timer.wait(due_ms)
        try:
            await self._sleeping
        finally:
            self._sleeping = None

    def wake(self) -> None:
        """End the sleep now. Does nothing if the task does not sleep."""
        if self._sleeping is not None and not self._sleeping.done():
            self._sleeping.set_result(None)


class TickTimer:
    """Ends all sleeps that end at the same time with one timer of the loop: the lines poll at the same ticks."""

    def __init__(self, clock: SteadyClock) -> None:
        self._clock = clock
        self._waiting: dict[int, list[asyncio.Future[None]]] = {}  # by end of the sleep in UTC ms

    def wait(self, due_ms: int) -> asyncio.Future[None]:
        """Return a future that is done at a time in UTC ms, or 1 ms from now if this time is past."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        if (waiting := self._waiting.get(due_ms)) is not None:
            waiting.append(future)
        else:
            self._waiting[due_ms] = [future]
            loop.call_later(max(due_ms - self._clock.now_ms(), 1) / 1000, self._wake, due_ms)
        return future

    def _wake(self, due_ms: int) -> None:
        for future in self._waiting.pop(due_ms):
            if not future.done():
                future.set_result(None)


async def sleep_to_multiple(seconds: float) -> None:
    """Sleep until the loop's time is a multiple of ``seconds``.

    Tasks that look at something each second, or every two seconds, sleep like this. So the process wakes once for all
    of them. With few devices, most of the agent's CPU time is spent on wake-ups, because each finds cold caches.
    """
    await asyncio.sleep(seconds - asyncio.get_running_loop().time() % seconds)
