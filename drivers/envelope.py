"""The end that DL/T 645 and CJ/T 188 frames share: ``... L data CS 16``, CS the sum of all bytes before it."""

from __future__ import annotations

from drivers.hunting import REJECT

STOP = 0x16


def measure(buffer: bytearray, start: int, size: int, length_at: int) -> int:
    """Where the frame from ``start`` ends whose byte ``length_at`` is L: as ``Hunter.measure``."""
    if start + length_at >= size:
        return start + length_at + 1
    end = start + length_at + 3 + buffer[start + length_at]
    if end > size:
        return end
    if buffer[end - 1] != STOP or sum(buffer[start : end - 2]) & 0xFF != buffer[end - 2]:
        return REJECT
    return end


def shortcoming(rest: bytes, length_at: int) -> tuple[int, bytes, str]:
    """What keeps ``rest`` from beginning with a frame: (the higher, the closer it came, its bytes, words)."""
    if len(rest) <= length_at:
        return 1, rest, "cut short inside the header"
    length = rest[length_at]
    end = length_at + 3 + length
    if len(rest) < end:
        have = min(len(rest) - length_at - 1, length)
        return 2, rest, f"cut short: {length} data bytes announced, {have} present"
    if rest[end - 1] != STOP:
        return 3, rest[:end], f"stop byte is {rest[end - 1]:02X}h, not 16h"
    seen, sums = rest[end - 2], sum(rest[: end - 2]) & 0xFF
    return 4, rest[:end], f"checksum is {seen:02X}h, the bytes sum to {sums:02X}h"
