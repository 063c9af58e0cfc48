"""Frames of units with registers, on the side of the device: finds requests in a stream of bytes, and wraps answers."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from drivers.framing import crc16, crc_ok

RTU_MAX = 256


class SimRequest(NamedTuple):
    """One request as the device received it."""

    unit: int
    pdu: bytes
    tag: int  # MBAP transaction id; 0 on RTU
    frame: bytes


class Framing(Protocol):
    """The differences between MBAP and RTU. One object per connection keeps the bytes of an unfinished request."""

    def feed(self, chunk: bytes) -> list[SimRequest]:
        """Add received bytes. Returns the requests that are complete now, in order."""

    def silence(self) -> None:
        """Drop an unfinished request, because the line has been silent. With MBAP, silence has no effect."""

    def wrap(self, unit: int, pdu: bytes, tag: int) -> bytes:
        """The frame of an answer."""

    def damage(self, frame: bytes) -> bytes:
        """A frame with an error that the receiver detects: a wrong CRC, or for MBAP a wrong protocol identifier."""


class MbapFraming:
    """MBAP over TCP. Its header has transaction id, protocol 0, length and unit."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, chunk: bytes) -> list[SimRequest]:
        held = self._held + chunk if self._held else chunk
        found = []
        while len(held) >= 8:
            length = int.from_bytes(held[4:6], "big")
            if held[2:4] != b"\x00\x00" or not 2 <= length <= 254:
                # the next header cannot be found, so the bytes are dropped; some real stacks do this, others close the
                # connection
                held = b""
                break
            if len(held) < 6 + length:
                break
            found.append(SimRequest(held[6], held[7 : 6 + length], int.from_bytes(held[:2], "big"), held[: 6 + length]))
            held = held[6 + length :]
        self._held = held
        return found

    def silence(self) -> None:
        """Does nothing: any time may pass between TCP segments."""

    def wrap(self, unit: int, pdu: bytes, tag: int) -> bytes:
        return tag.to_bytes(2, "big") + b"\x00\x00" + (len(pdu) + 1).to_bytes(2, "big") + bytes([unit]) + pdu

    def damage(self, frame: bytes) -> bytes:
        return frame[:2] + b"\x5a\x5a" + frame[4:]


def rtu_request_size(head: bytes) -> int | None:
    """The size in bytes of the RTU request that begins with ``head``. None: ``head`` is too short. 0: unknown
    function.
    """
    if len(head) < 2:
        return None
    function = head[1]
    if function in (1, 2, 3, 4, 5, 6, 8):
        return 8
    if function in (7, 11, 12, 17):
        return 4
    if function in (15, 16):
        return None if len(head) < 7 else 9 + head[6]
    if function in (20, 21):
        return None if len(head) < 3 else 5 + head[2]
    return {22: 10, 24: 6, 43: 7}.get(function, 0)


class RtuFraming:
    """Finds RTU requests by expected length and CRC. A byte that does not begin a valid frame is skipped."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, chunk: bytes) -> list[SimRequest]:
        held = self._held + chunk
        found = []
        while held:
            size = rtu_request_size(held)
            if size is None or len(held) < size:
                if len(held) >= RTU_MAX:
                    size = -1
                else:
                    break
            if size == 0:  # for an unknown function the length is not known: all stored bytes must be the frame
                size = len(held) if crc_ok(held) else -1
            if size > 0 and crc_ok(held[:size]):
                found.append(SimRequest(held[0], held[1 : size - 2], 0, held[:size]))
                held = held[size:]
            else:
                held = held[1:]
        self._held = held
        return found

    def silence(self) -> None:
        """Drop the stored bytes: after a silence they can no longer become a frame."""
        self._held = b""

    def wrap(self, unit: int, pdu: bytes, tag: int) -> bytes:
        body = bytes([unit]) + pdu
        return body + crc16(body).to_bytes(2, "little")

    def damage(self, frame: bytes) -> bytes:
        return frame[:-2] + bytes([frame[-2] ^ 0xFF, frame[-1] ^ 0xA5])
