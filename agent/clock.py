"""The agent's clock: UTC for ticks and stamps; the boot of the kernel that its monotonic clock counts from."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

STEP_MS = 500  # a wall clock further than this from the monotonic one was set


class SteadyClock:
    """UTC, carried by the monotonic clock between comparisons with the wall clock, so that it never jumps unnoticed."""

    def __init__(
        self, utc_ns: Callable[[], int] = time.time_ns, mono_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._utc, self._mono = utc_ns, mono_ns
        self._offset_ns = utc_ns() - mono_ns()

    def now_ms(self) -> int:
        """UTC in ms, as the monotonic clock has carried it since the last comparison."""
        return (self._mono() + self._offset_ns) // 1_000_000

    def check_step(self) -> tuple[int, int] | None:
        """Compare with the wall clock. Drift is followed; a step is returned as (old ms, new ms) and not taken yet."""
        wall, mono = self._utc(), self._mono()
        off = wall - mono - self._offset_ns
        if abs(off) > STEP_MS * 1_000_000:
            return (mono + self._offset_ns) // 1_000_000, wall // 1_000_000
        # forward drift at once; backward only by slowing down, so that now_ms never goes back
        self._offset_ns += off if off > 0 else max(off, -50_000_000)
        return None

    def take_step(self) -> None:
        """Continue from the wall clock."""
        self._offset_ns = self._utc() - self._mono()


@cache
def kernel_boot(file: Path = Path("/proc/sys/kernel/random/boot_id")) -> str | None:
    """Id of this boot of the kernel, as hexadecimal digits and ``-``; None if it is not known (no /proc)."""
    try:
        text = file.read_text("ascii").strip()
        return text if bytes.fromhex(text.replace("-", "")) else None
    except (OSError, ValueError):
        return None
