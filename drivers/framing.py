"""A push parser: it is fed bytes, returns valid frames, and skips noise.

If two frames overlap, the parser returns the frame that is complete first. If both end at the same byte, it returns the
frame that began first. So a stray start byte never delays a valid frame after it. The result does not depend on the
pieces in which the bytes arrive.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from drivers.model import UsageError

F = TypeVar("F")

REJECT = -1  # a result of ``frame_end``: the bytes at ``start`` do not begin a frame, whatever bytes follow
STOP = 0x16  # the last byte of frames that end in a checksum
REPLY, ERROR = 0x80, 0x40  # bits of the control code in frames that end in a checksum


class FrameScanner(ABC, Generic[F]):
    """Finds frames of one protocol in a stream. It buffers at most ``longest`` bytes and the last piece that was
    fed.
    """

    starts: re.Pattern[bytes]  # matches the bytes with which a frame can begin
    longest: int  # length of the longest possible frame, in bytes

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._base = 0  # offset in the stream of the first byte in the buffer
        self._wanted = 0  # as long as the buffer has fewer bytes than this, no frame can be complete

    @property
    def is_inside_frame(self) -> bool:
        """Whether the bytes fed so far end in what may be the beginning of a frame."""
        return self._wanted > 0

    @abstractmethod
    def frame_end(self, buffer: bytearray, start: int, size: int) -> int:
        """The index after the last byte of the frame that begins at ``start``. ``REJECT`` if no frame begins there.

        If more bytes are needed to decide this, the result is above ``size``: the buffer must first hold that many
        bytes.
        """

    @abstractmethod
    def build(self, raw: bytes, offset: int) -> F:
        """Make a frame from its raw bytes, which were checked before.

        ``offset`` is the position of the frame in the stream, counted from the first byte ever fed.
        """

    def feed(self, piece: bytes) -> list[F]:
        """Add a piece of the stream. Returns the frames that it completes, in the order of their ends. Never raises an
        error.
        """
        buffer = self._buffer
        buffer += piece
        size = len(buffer)
        if size < self._wanted and self.starts.search(piece) is None:
            return []  # wait for the rest of a frame that arrives slowly
        frames: list[F] = []
        position = 0
        while True:
            begin, end, hold = self._first(buffer, position, size)
            if end < 0:
                break
            frames.append(self.build(bytes(buffer[begin:end]), self._base + begin))
            position = end
        if hold:
            del buffer[:hold]
            self._base += hold
            self._wanted -= hold
        return frames

    def _first(self, buffer: bytearray, position: int, size: int) -> tuple[int, int, int]:
        """Return (begin, end, hold). The first complete frame begins at ``begin`` and ends before ``end``.

        If there is no complete frame, ``end`` is -1. The bytes before ``hold`` are then noise that can be dropped.
        """
        search, frame_end = self.starts.search, self.frame_end
        begin, end, hold = -1, -1, size
        stop = size
        wanted = size + self.longest
        found = search(buffer, position)
        while found is not None:
            start = found.start()
            if start >= stop:
                break
            verdict = frame_end(buffer, start, size)
            if verdict > size:
                hold, wanted = min(hold, start), min(wanted, verdict)
            elif verdict > 0 and (end < 0 or verdict < end):
                begin, end, stop = start, verdict, verdict
            found = search(buffer, start + 1)
        self._wanted = wanted if hold < size else 0
        return begin, end, hold


# --- frames that end in a checksum: ``... C L data CS 16``; CS is the sum of all bytes before it, modulo 256


@dataclass(frozen=True, slots=True)
class ChecksumFrame:
    """One frame. ``raw`` has its bytes from 68h to 16h; ``offset`` is the position of the first byte in the stream."""

    raw: bytes
    offset: int = 0
    LENGTH_AT: ClassVar[int]  # index of the length byte L

    @property
    def control(self) -> int:
        return self.raw[self.LENGTH_AT - 1]

    @property
    def length(self) -> int:
        return self.raw[self.LENGTH_AT]

    @property
    def checksum(self) -> int:
        return self.raw[-2]

    @property
    def checksum_computed(self) -> int:
        return sum(self.raw[:-2]) & 0xFF

    @property
    def is_reply(self) -> bool:
        return self.control & REPLY != 0

    @property
    def is_error(self) -> bool:
        return self.control & (REPLY | ERROR) == REPLY | ERROR


def frame_end(buffer: bytearray, start: int, size: int, length_at: int) -> int:
    """Implements ``FrameScanner.frame_end`` for frames that end in a checksum. ``length_at``: index of the length
    byte.
    """
    if start + length_at >= size:
        return start + length_at + 1
    end = start + length_at + 3 + buffer[start + length_at]
    if end > size:
        return end
    if buffer[end - 1] != STOP or sum(buffer[start : end - 2]) & 0xFF != buffer[end - 2]:
        return REJECT
    return end


def diagnose(rest: bytes, length_at: int) -> tuple[int, bytes, str]:
    """Explain why ``rest`` does not begin with a valid frame. Returns (score, bytes of the attempt, error).

    The score tells how far the attempt agrees with a frame: 1 if the header is incomplete, up to 4 if only the checksum
    is wrong.
    """
    if len(rest) <= length_at:
        return 1, rest, "the frame is cut short inside its header"
    length = rest[length_at]
    end = length_at + 3 + length
    if len(rest) < end:
        have = min(len(rest) - length_at - 1, length)
        return 2, rest, f"the frame is cut short: it announces {length} data bytes, but has {have}"
    if rest[end - 1] != STOP:
        return 3, rest[:end], f"stop byte is {rest[end - 1]:02X}h, not 16h"
    seen, sums = rest[end - 2], sum(rest[: end - 2]) & 0xFF
    return 4, rest[:end], f"the checksum is {seen:02X}h, but the bytes sum to {sums:02X}h"


def best_attempt(
    stream: bytes, starts: re.Pattern[bytes], length_at: int, nothing: str, begins: Callable[[bytes], bool] = bool
) -> tuple[bytes, int, str]:
    """Explain why no frame was found. Returns (bytes of the best attempt, its offset, error).

    ``nothing`` is the error to return if no bytes can begin a frame. ``begins`` checks bytes that match ``starts``.
    """
    best: tuple[int, bytes, int, str] = (0, b"", 0, nothing)
    for start in (m.start() for m in starts.finditer(stream)):
        if begins(stream[start:]):
            rank, raw, wrong = diagnose(stream[start:], length_at)
            best = max(best, (rank, raw, start, wrong), key=lambda b: b[0])
    return best[1:]


def build_request(head: bytes, control: int, data: bytes, wake: int) -> bytes:
    """Build a request: ``wake`` wake-up bytes, ``head``, control code, length, data, checksum and stop byte."""
    body = head + bytes((control, len(data))) + data
    return b"\xfe" * wake + body + bytes((sum(body) & 0xFF, STOP))


def address_bytes(address: str, digits: int, where: str) -> bytes:
    """Convert an address of up to ``digits`` digits to the bytes on the wire, low byte first. Raises UsageError."""
    if not re.fullmatch(f"[0-9A]{{1,{digits}}}", address.upper()):
        hint = f"Write up to {digits} digits; the letter A stands for any digit"
        raise UsageError(f"{address!r} is not a meter address", where=where, hint=hint)
    return bytes.fromhex(address.upper().rjust(digits, "0"))[::-1]


# --- frames that end in CRC-16, low byte first (RTU)


def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ 0xA001 if crc & 1 else crc >> 1
        table.append(crc)
    return tuple(table)


_CRC = _table()


def crc16(frame: bytes) -> int:
    """CRC-16 (reflected polynomial A001, start value FFFF). The frame contains its low byte first."""
    crc = 0xFFFF
    table = _CRC
    for byte in frame:
        crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF]
    return crc


def crc_ok(frame: bytes) -> bool:
    """Whether the last two bytes are the CRC of the bytes before. False if ``frame`` is too short for unit, function
    and CRC.
    """
    return len(frame) >= 4 and crc16(frame) == 0  # a CRC that is computed over a message and its own CRC is zero
