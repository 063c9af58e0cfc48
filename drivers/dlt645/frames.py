"""The envelope of DL/T 645: ``FE* 68 A0..A5 68 C L data+33h CS 16``.

Source: DL/T 645-2007 clause 5 (frame), 7.1 (data transmission), annex B (error word); DL/T 645-1997 clause 5.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from drivers.framing import REJECT, ChecksumFrame, FrameScanner, address_bytes, best_attempt, build_request, frame_end
from drivers.model import FrameError, UsageError

START = 0x68
MORE = 0x20  # bit of the control code: more data follow in another frame

READ, READ_NEXT, READ_ADDRESS = 0x11, 0x12, 0x13  # 2007
READ_97, READ_NEXT_97, REREAD_97 = 0x01, 0x02, 0x03  # 1997
# only frames with these codes are sent
ALLOWED_CONTROLS = frozenset({READ, READ_NEXT, READ_ADDRESS, READ_97, READ_NEXT_97, REREAD_97})

# names of the functions, by the low five bits of the control code. Codes up to 10h are 1997, codes from 11h on are
# 2007; 08h exists in both.
FUNCTIONS = {
    0x01: "read",
    0x02: "read next",
    0x03: "reread",
    0x04: "write",
    0x08: "broadcast time",
    0x0A: "write address",
    0x0C: "change speed",
    0x0F: "change password",
    0x10: "clear demand",
    READ: "read",
    READ_NEXT: "read next",
    READ_ADDRESS: "read address",
    0x14: "write",
    0x15: "write address",
    0x16: "freeze",
    0x17: "change speed",
    0x18: "change password",
    0x19: "clear demand",
    0x1A: "clear meter",
    0x1B: "clear events",
    0x1C: "trip, close or alarm",
    0x1D: "multi-function terminal",
}
ERROR_BITS = (
    "other error",
    "no such data",
    "password wrong or not authorised",
    "speed cannot be changed",
    "too many year zones",
    "too many day slots",
    "too many tariffs",
)

_IDENTIFIER_SIZES = {READ: 4, READ_NEXT: 4, 0x14: 4, READ_97: 2, READ_NEXT_97: 2, REREAD_97: 2, 0x04: 2}
_MINUS_33 = bytes((i - 0x33) & 0xFF for i in range(256))
_PLUS_33 = bytes((i + 0x33) & 0xFF for i in range(256))


def error_text(code: int) -> str:
    """The meaning of an error byte, as text. If several bits are set, the text names all their meanings."""
    words = [text for bit, text in enumerate(ERROR_BITS) if code >> bit & 1]
    return ", ".join(words) or f"error {code:02X}h"


class Frame(ChecksumFrame):
    __slots__ = ()
    LENGTH_AT = 9

    @property
    def address(self) -> str:
        """The address as the 12 digits that are printed on the meter. The digit A marks a wildcard or a fill nibble."""
        return self.raw[6:0:-1].hex().upper()

    @property
    def data(self) -> bytes:
        """The data field after decoding: 33h is subtracted from each byte."""
        return self.raw[10:-2].translate(_MINUS_33)

    @property
    def function(self) -> int:
        return self.raw[8] & 0x1F

    @property
    def more(self) -> bool:
        """Whether more data follow, which must be requested with ``read next``."""
        return self.raw[8] & MORE != 0

    @property
    def is_follow_on(self) -> bool:
        """Whether this is a reply that continues a block begun in earlier frames."""
        return self.is_reply and not self.is_error and self.function in (READ_NEXT, READ_NEXT_97)

    @property
    def _is_security(self) -> bool:
        """Whether control code 03h means security authentication (2007), not rereading (1997).

        In security authentication, the identifier begins with 07.
        """
        return self.function == REREAD_97 and self.length >= 4 and self.data[3] == 0x07

    @property
    def version(self) -> str:
        """The edition of the standard. A code that both editions have (08h, time broadcast) counts as 2007."""
        return "2007" if self.function >= READ or self.function == 0x08 or self._is_security else "1997"

    @property
    def error_code(self) -> int | None:
        return self.data[0] if self.is_error and self.length else None

    @property
    def identifier(self) -> str:
        """The data identifier as the standard prints it (``00010000`` or ``9010``). "" if the frame has no
        identifier.
        """
        size = _IDENTIFIER_SIZES.get(self.function, 0)
        if self._is_security:
            size = 4
        if not size or self.is_error or self.length < size:
            return ""
        return self.data[size - 1 :: -1].hex().upper()

    @property
    def sequence(self) -> int | None:
        """The sequence number of a follow-on frame of 2007, which is its last data byte. None for any other frame."""
        if self.function != READ_NEXT or self.is_error or self.length < 5:
            return None
        return self.data[-1]

    @property
    def payload(self) -> bytes:
        """The data after the identifier, without the sequence number of a follow-on frame."""
        data = self.data
        body = data[len(self.identifier) // 2 :]
        return body[:-1] if self.sequence is not None else body

    @property
    def reported_address(self) -> str:
        """The address in an answer to ``read address``. "" for any other frame."""
        if self.function != READ_ADDRESS or not self.is_reply or self.is_error or self.length != 6:
            return ""
        return self.data[::-1].hex().upper()


class Parser(FrameScanner[Frame]):
    """Push parser for both versions: ``feed(bytes) -> frames``."""

    starts = re.compile(rb"\x68")
    longest = 12 + 255

    def frame_end(self, buffer: bytearray, start: int, size: int) -> int:
        if start + 7 >= size:
            return start + 8
        if buffer[start + 7] != START:
            return REJECT
        return frame_end(buffer, start, size, Frame.LENGTH_AT)

    def build(self, raw: bytes, offset: int) -> Frame:
        return Frame(raw, offset)


def broken(stream: bytes) -> tuple[bytes, int, str]:
    """Why ``stream`` contains no valid frame. Returns the same tuple as ``framing.best_attempt``."""
    nothing = "no frame: the sequence 68h, six address bytes, 68h was not found"
    return best_attempt(
        stream, Parser.starts, Frame.LENGTH_AT, nothing, lambda rest: rest[7:8] in (b"", bytes((START,)))
    )


def build_frame(address: str, control: int, data: bytes, wake: int) -> bytes:
    """Build a request. Raises UsageError for a control code that may write, or an invalid address."""
    if control not in ALLOWED_CONTROLS:  # read-only is enforced here, where the frames are built
        raise UsageError(
            f"control code {control:02X}h is not allowed: the frame may write to the meter", where="DL/T 645"
        )
    head = bytes((START, *address_bytes(address, 12, "DL/T 645"), START))
    return build_request(head, control, data.translate(_PLUS_33), wake)


def _identifier_bytes(identifier: str) -> bytes:
    if len(identifier) not in (4, 8) or not re.fullmatch("[0-9A-Fa-f]+", identifier):
        raise UsageError(
            f"{identifier!r} is not a data identifier",
            where="DL/T 645",
            hint="Write 8 hex digits (edition 2007) or 4 hex digits (edition 1997)",
        )
    return bytes.fromhex(identifier)[::-1]


def build_read(address: str, identifier: str, *, wake: int = 4) -> bytes:
    """Build a read request. An identifier of 8 hex digits means 2007, one of 4 digits means 1997."""
    code = _identifier_bytes(identifier)
    return build_frame(address, READ if len(code) == 4 else READ_97, code, wake)


def build_read_next(address: str, identifier: str, sequence: int = 1, *, wake: int = 4) -> bytes:
    """Build a request for the data that follow a reply with ``more``. ``sequence`` counts from 1; only 2007 has it."""
    code = _identifier_bytes(identifier)
    if len(code) == 2:
        return build_frame(address, READ_NEXT_97, code, wake)
    return build_frame(address, READ_NEXT, code + bytes((sequence & 0xFF,)), wake)


def build_read_address(*, wake: int = 4) -> bytes:
    """Build a request (2007) that the only meter on a line answers with its address."""
    return build_frame("AAAAAAAAAAAA", READ_ADDRESS, b"", wake)


def join(frames: Sequence[Frame]) -> bytes:
    """Join the payloads of a reply and its follow-on frames, in order.

    Raises:
        FrameError: the frames do not belong together, or a frame is missing.
    """
    first = frames[0]
    for number, frame in enumerate(frames[1:], 1):
        if frame.identifier != first.identifier or frame.address != first.address:
            raise FrameError("the follow-on frame belongs to another reading", where=f"DL/T 645 {first.address}")
        if frame.sequence is not None and frame.sequence != number:
            raise FrameError(
                f"the follow-on frame has number {frame.sequence}, expected {number}", where=f"DL/T 645 {first.address}"
            )
    return b"".join(frame.payload for frame in frames)
