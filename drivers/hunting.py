"""The skeleton of a push parser: bytes in, sound frames out, noise thrown away.

Whatever the bytes, the outcome is the same as if they had come one by one: the frame that is complete
first wins, and of two that end together the one that began first. So a stray start byte never holds
back a good frame behind it, and the result does not depend on how the bytes were cut into pieces.
"""

from __future__ import annotations

import re
from typing import Generic, TypeVar

F = TypeVar("F")

REJECT = -1  # no frame begins here, whatever follows


class Hunter(Generic[F]):
    """Finds frames of one protocol in a stream. Keeps at most one longest frame plus the piece just fed."""

    starts: re.Pattern[bytes]  # the bytes that a frame can begin with
    longest: int  # bytes of the longest possible frame

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._base = 0  # stream offset of the buffer's first byte
        self._wanted = 0  # no frame is complete before the buffer holds this many bytes
        self.skipped = 0  # bytes that belonged to no frame, so far

    def measure(self, buffer: bytearray, start: int, size: int) -> int:
        """Where the frame that begins at ``start`` ends (exclusive), or ``REJECT``.

        A number above ``size`` means: perhaps, that many bytes will tell more.
        """
        raise NotImplementedError

    def build(self, raw: bytes, offset: int) -> F:
        """The frame out of its checked bytes; ``offset`` counts from the first byte ever fed."""
        raise NotImplementedError

    @property
    def pending(self) -> bytes:
        """Bytes that may still become a frame."""
        return bytes(self._buffer)

    def reset(self) -> None:
        """Forget what has not become a frame: called before each request."""
        self.skipped += len(self._buffer)
        self._base += len(self._buffer)
        self._buffer.clear()
        self._wanted = 0

    def feed(self, piece: bytes) -> list[F]:
        """The frames that ``piece`` completes, in the order of their ends. Never raises for what the bytes are."""
        buffer = self._buffer
        buffer += piece
        size = len(buffer)
        if size < self._wanted and self.starts.search(piece) is None:
            return []  # bytes of a frame that comes slowly
        frames: list[F] = []
        position = 0
        while True:
            begin, end, hold = self._first(buffer, position, size)
            if end < 0:
                break
            self.skipped += begin - position
            frames.append(self.build(bytes(buffer[begin:end]), self._base + begin))
            position = end
        self.skipped += hold - position
        if hold:
            del buffer[:hold]
            self._base += hold
            self._wanted -= hold
        return frames

    def _first(self, buffer: bytearray, position: int, size: int) -> tuple[int, int, int]:
        """(begin, end, -) of the frame that ends first, or (-, -1, hold): what lies before ``hold`` is noise."""
        search, measure = self.starts.search, self.measure
        begin, end, hold = -1, -1, size
        stop = size
        wanted = size + self.longest
        found = search(buffer, position)
        while found is not None:
            start = found.start()
            if start >= stop:
                break
            verdict = measure(buffer, start, size)
            if verdict > size:
                hold, wanted = min(hold, start), min(wanted, verdict)
            elif verdict > 0 and (end < 0 or verdict < end):
                begin, end, stop = start, verdict, verdict
            found = search(buffer, start + 1)
        self._wanted = wanted if hold < size else 0
        return begin, end, hold
