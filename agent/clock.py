"""The agent's clock: UTC for ticks and stamps; the boot of the kernel that its monotonic clock counts from."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

STEP_MS = 500  # a wall clock further than this from the monotonic one was set
MAX_SLOWING_NS = 50_000_000  # at most this much at each comparison, once a second


class SteadyClock:
    """UTC, carried by the monotonic clock between comparisons with the wall clock, so that it never jumps unnoticed."""

    def __init__(
        self, utc_ns: Callable[[], int] = time.time_ns, mono_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._utc, self._mono = utc_ns, mono_ns
        self._offset_ns = utc_ns() - mono_ns()
        self._floor_ns = 0  # where it stands still until the wall clock, set back a little, has caught up

    def now_ms(self) -> int:
        """UTC in ms, as the monotonic clock has carried it since the last comparison. Goes back only by a step."""
        return max(self._mono() + self._offset_ns, self._floor_ns) // 1_000_000

    def check_step(self) -> tuple[int, int] | None:
        """Compare with the wall clock. Drift is followed; a step is returned as (old ms, new ms) and not taken yet."""
        wall, mono = self._utc(), self._mono()
        off = wall - mono - self._offset_ns
        if abs(off) > STEP_MS * 1_000_000:
            return max(mono + self._offset_ns, self._floor_ns) // 1_000_000, wall // 1_000_000
        # Forward drift at once. Backward, it stands still for as long: what was read at a tick must stay in the past,
        # or an agent that is stopped at this moment would not seal it.
        self._floor_ns = max(mono + self._offset_ns, self._floor_ns)
        self._offset_ns += max(off, -MAX_SLOWING_NS)
        return None

    def take_step(self) -> None:
        """Continue from the wall clock."""
        self._offset_ns, self._floor_ns = self._utc() - self._mono(), 0


@cache
def kernel_boot(file: Path = Path("/proc/sys/kernel/random/boot_id")) -> str | None:
    """Id of this boot of the kernel, as hexadecimal digits and ``-``; None if it is not known (no /proc)."""
    try:
        text = file.read_text("ascii").strip()
        return text if bytes.fromhex(text.replace("-", "")) else None
    except (OSError, ValueError):
        return None
