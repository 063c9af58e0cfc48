"""Queues of packs to send: new packs come from the database thread, older packs page by page from the outbox."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from agent.outbox import OutboxItem

PAGE_PACKS: Final = 128
PAGE_BYTES: Final = 1 << 20
# if the store does not answer for this long, it has failed, and the page is requested again
STORE_TIMEOUT_S: Final = 30.0
LOW_WATER: Final = 32  # if fewer packs than this are in memory, the next page is requested


class OutboxCursor:
    """Reads an outbox in order of ids, one page ahead.

    Args:
        fetch: requests the page after an id. ``on_page`` gets this page later.
    """

    def __init__(self, fetch: Callable[[OutboxCursor, int, int, int], None], monotonic: Callable[[], float]) -> None:
        self._fetch, self._monotonic = fetch, monotonic
        self.queue: deque[OutboxItem] = deque()
        self.position = 0  # the id of the last pack that was read
        self.after_stream = ""  # the stream of the last pack that was read: births are read in order of stream names
        self.requested_up_to = 0  # the newest id that had been offered to the uplink when the last page was requested
        # number of the last request; if a page has the number of an earlier request, it is dropped
        self.request_number = 0
        self.exhausted = True  # True: the last page was empty, so the outbox has no more packs
        self._loading = False
        self._requested_s = 0.0
        self._invalidated = False  # True: the page that is being loaded must be dropped, because ``rewind`` was called

    def restart(self, after: int) -> None:
        """Start to read again, after the id ``after``."""
        self.stop()
        self.position, self.after_stream, self.exhausted = after, "", False

    def stop(self) -> None:
        """Drop all packs, and request no more pages."""
        self.request_number += 1
        self.queue.clear()
        self.exhausted, self._loading, self._invalidated = True, False, False

    def rewind(self, number: int) -> None:
        """Go back far enough to read the pack with id ``number`` again. Does nothing if it was not read yet."""
        self.exhausted = False
        if number <= self.position:
            self.position = min(number, self.queue[0].id if self.queue else number) - 1
            self.queue.clear()
            self._invalidated = self._loading

    def on_page(self, page: Sequence[OutboxItem], wanted: Sequence[OutboxItem] | None = None) -> None:
        """Process the requested page. ``wanted``: the packs of this page that must be sent; None: all its packs."""
        self._loading = False
        if self._invalidated:  # ``rewind`` was called after the request, so the packs of this page are read again
            self._invalidated = False
            return
        if not page:
            self.exhausted = True
            return
        self.position, self.after_stream = page[-1].id, page[-1].stream
        self.queue.extend(page if wanted is None else wanted)

    @property
    def ready(self) -> bool:
        """True if a pack is in memory. If only a few are left, the next page is requested."""
        if len(self.queue) < LOW_WATER and not self.exhausted and self._may_request():
            self._loading, self._invalidated, self._requested_s = True, False, self._monotonic()
            self.request_number += 1
            self._fetch(self, self.position, PAGE_PACKS, PAGE_BYTES)
        return bool(self.queue)

    def _may_request(self) -> bool:
        return not self._loading or self._monotonic() - self._requested_s > STORE_TIMEOUT_S

    def peek(self) -> OutboxItem | None:
        """Return the next pack; None if no pack is in memory."""
        return self.queue[0] if self.ready else None

    def pop(self) -> OutboxItem | None:
        """Remove and return the next pack; None if no pack is in memory."""
        return self.queue.popleft() if self.ready else None


class InboundQueue:
    """Committed packs and requested pages, in the order in which the database thread put them in. Thread-safe.

    While the uplink is disconnected, the queue keeps no packs, because the store has all of them. While it is
    connected, the queue keeps at most ``max_bytes``. After an overflow (``overflowed``), the uplink reads packs from
    the store until it has caught up. ``held_bytes``: the size of the packs in memory.
    """

    def __init__(self, max_bytes: int, monotonic: Callable[[], float], wake: Callable[[], None]) -> None:
        self.max_bytes, self._monotonic, self._wake = max_bytes, monotonic, wake
        self._lock = threading.Lock()
        self._entries: deque[tuple[OutboxCursor | None, int, Sequence[OutboxItem], float]] = deque()
        self._recent_offers: deque[tuple[int, float]] = deque(maxlen=256)  # (first id, time) of each recent offer
        self._open = False
        self.held_bytes = 0
        self.overflowed = False
        self.overflow_from = 0  # the last id that was kept in memory before the overflow
        # the first and the last id that were offered; 0: none was offered yet
        self.first_offered = self.last_offered = 0

    def __bool__(self) -> bool:
        return bool(self._entries)

    def offer(self, items: Sequence[OutboxItem]) -> None:
        """Add committed packs, in order of their ids."""
        if not items:
            return
        now = self._monotonic()
        with self._lock:
            self._recent_offers.append((items[0].id, now))
            self.first_offered = self.first_offered or items[0].id
            self.last_offered = items[-1].id
            if not self._open:
                return  # the uplink is not connected: the next connection reads these packs from the store
            kept = []
            for item in items:
                size = len(item.data)
                if not self.overflowed and self.held_bytes + size > self.max_bytes:
                    self.overflowed, self.overflow_from = True, item.id - 1
                if not self.overflowed:
                    self.held_bytes += size
                    kept.append(item)
            self._entries.append((None, 0, kept, now))
        self._wake()

    def put_page(self, cursor: OutboxCursor, number: int, page: Sequence[OutboxItem]) -> None:
        """Add a page that ``cursor`` requested. ``number``: the number of the request."""
        with self._lock:
            if self._open and cursor.request_number == number:
                self._entries.append((cursor, number, page, 0.0))
        self._wake()

    def take(self) -> tuple[OutboxCursor | None, Sequence[OutboxItem], float] | None:
        """Remove and return the next entry as (cursor, packs, time); None if there is no entry.

        For a page, ``cursor`` is the cursor that requested it. For offered packs, it is None, and ``time`` is the
        monotonic time of the offer.
        """
        with self._lock:
            while self._entries:
                cursor, number, items, at = self._entries.popleft()
                if cursor is None or cursor.request_number == number:
                    return cursor, items, at
            return None

    def release(self, size: int) -> None:
        """Note that an offered pack of ``size`` bytes is no longer in memory."""
        with self._lock:
            self.held_bytes -= size

    def caught_up(self, position: int) -> bool:
        """Return True if ``position`` is the last offered id. From then on, new packs are kept in memory again."""
        with self._lock:
            if self.last_offered <= position:
                self.overflowed = False
            return not self.overflowed

    def open(self, late_s: float) -> int | None:
        """Begin to keep packs.

        Returns the first id offered in the last ``late_s`` seconds; None if there was no such offer.

        The packs from this id on are first read from the store (``overflowed``).
        """
        now = self._monotonic()
        with self._lock:
            self._open, self.held_bytes = True, 0
            self._entries.clear()
            recent = next((first for first, at in self._recent_offers if now - at <= late_s), None)
            self.overflowed = recent is not None
            return recent

    def close(self) -> None:
        """Drop all entries and keep no new ones."""
        with self._lock:
            self._open, self.held_bytes = False, 0
            self._entries.clear()


class WakePipe:
    """A pipe that wakes the uplink thread from ``poll``.

    Any thread may call ``wake``. Only the uplink thread calls the other methods.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._woken = False

    def wake(self) -> None:
        """Make ``fd`` readable. Never blocks."""
        if self._woken:
            return
        with self._lock:
            self._woken = True
            if self._write_fd >= 0:
                try:
                    os.write(self._write_fd, b"\0")
                except BlockingIOError:
                    return  # the pipe is full, so it is readable already

    def drain(self) -> None:
        """Empty the pipe."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 65_536)
        # Reset only after the read. A reset before it would let the read remove the byte of a new wake, and all later
        # wakes would be skipped.
        self._woken = False

    def wait(self, seconds: float) -> None:
        """Wait until ``wake`` is called, for at most ``seconds``."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        if poll.poll(seconds * 1000):
            self.drain()

    def close(self) -> None:
        """Close the pipe. ``wake`` then does nothing."""
        with self._lock:
            for fd in (self.fd, self._write_fd):
                if fd >= 0:
                    os.close(fd)
            self.fd = self._write_fd = -1
