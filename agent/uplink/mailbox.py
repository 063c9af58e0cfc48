"""What other threads leave for an uplink: committed packs, and pages that were asked for. Bounded in bytes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from agent.outbox import OutboxItem
from agent.uplink.queues import Lane


class Mailbox:
    """Thread-safe; in the order in which the writer thread left things.

    Beyond ``max_bytes``, and while nobody is connected, packs are not kept: they are in the store. After an overflow
    everything is ``spilling``, read back from the store, until the reader caught up. ``held_bytes`` is what is kept.
    """

    def __init__(self, max_bytes: int, monotonic: Callable[[], float], wake: Callable[[], None]) -> None:
        self.max_bytes, self._monotonic, self._wake = max_bytes, monotonic, wake
        self._lock = threading.Lock()
        self._mail: deque[tuple[Lane | None, Sequence[OutboxItem], float]] = deque()
        self._marks: deque[tuple[int, float]] = deque(maxlen=256)  # (first id, when) of recent offers
        self._open = False
        self.held_bytes = 0
        self.spilling = False
        self.spill_from = 0  # the last id before the overflow
        self.first_offered = self.last_offered = 0  # ids; 0: none yet

    def __bool__(self) -> bool:
        return bool(self._mail)

    def offer(self, items: Sequence[OutboxItem]) -> None:
        """Committed packs, in the order of their ids."""
        if not items:
            return
        now = self._monotonic()
        with self._lock:
            self._marks.append((items[0].id, now))
            self.first_offered = self.first_offered or items[0].id
            self.last_offered = items[-1].id
            if not self._open:
                return  # the next connection looks into the store
            kept = []
            for item in items:
                size = len(item.data)
                if not self.spilling and self.held_bytes + size > self.max_bytes:
                    self.spilling, self.spill_from = True, item.id - 1
                if not self.spilling:
                    self.held_bytes += size
                    kept.append(item)
            self._mail.append((None, kept, now))
        self._wake()

    def post(self, lane: Lane, session: int, page: Sequence[OutboxItem]) -> None:
        """A page that ``lane`` asked for in its walk ``session``."""
        with self._lock:
            if self._open and lane.session == session:
                self._mail.append((lane, page, 0.0))
        self._wake()

    def take(self) -> tuple[Lane | None, Sequence[OutboxItem], float] | None:
        """The next letter: a page and its lane, or an offer (lane None) and when it came."""
        with self._lock:
            return self._mail.popleft() if self._mail else None

    def left(self, size: int) -> None:
        """An offered pack of this size left the memory."""
        with self._lock:
            self.held_bytes -= size

    def caught_up(self, cursor: int) -> bool:
        """Everything offered was read up to ``cursor``? Then packs come straight from memory again."""
        with self._lock:
            if self.last_offered <= cursor:
                self.spilling = False
            return not self.spilling

    def open(self, late_s: float) -> int | None:
        """Keep mail from now on. Returns the first id that was offered within the last ``late_s`` seconds."""
        now = self._monotonic()
        with self._lock:
            self._open, self.held_bytes = True, 0
            self._mail.clear()
            young = next((first for first, at in self._marks if now - at <= late_s), None)
            self.spilling = young is not None
            return young

    def close(self) -> None:
        """Keep nothing."""
        with self._lock:
            self._open, self.held_bytes = False, 0
            self._mail.clear()
