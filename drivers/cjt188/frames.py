"""The envelope of CJ/T 188: frames, the push parser, requests.

``FE* 68 T A0..A6 C L DI SER data CS 16``; unlike DL/T 645, nothing is added to the data bytes. Makers differ in the
byte order of DI, so both orders are accepted. Source: CJ/T 188-2004 clauses 5 and 6, CJ/T 188-2018.
"""

from __future__ import annotations

import re

from drivers.framing import ChecksumFrame, FrameScanner, address_bytes, best_attempt, build_request, frame_end
from drivers.model import UsageError

START, ANY = 0x68, 0xAA
READ, READ_ADDRESS = 0x01, 0x03
ALLOWED_CONTROLS = frozenset({READ, READ_ADDRESS})  # the only codes that we send
CURRENT, CURRENT_BOTH, ADDRESS = 0x901F, 0x911F, 0x810A

FUNCTIONS = {
    READ: "read",
    READ_ADDRESS: "read address",
    0x04: "write",
    0x09: "read key version",
    0x15: "write address",
    0x16: "write motor position",
}
METER_TYPES = {
    0x10: "cold water",
    0x11: "hot water",
    0x12: "drinking water",
    0x13: "reclaimed water",
    0x20: "heat",
    0x21: "cold",
    0x22: "heat and cold",
    0x30: "gas",
    0x40: "other",
    ANY: "any",
}

_HIGH_BYTES = frozenset((0x81, 0x90, 0x91, 0xA0, *range(0xD0, 0xD5)))  # high bytes of all identifiers


class Frame(ChecksumFrame):
    __slots__ = ()
    LENGTH_AT = 10

    @property
    def meter_type(self) -> int:
        return self.raw[1]

    @property
    def address(self) -> str:
        """The address as the 14 digits that are printed on the meter. The first two or four are often the maker's
        code.
        """
        return self.raw[8:1:-1].hex().upper()

    @property
    def data(self) -> bytes:
        return self.raw[11:-2]

    @property
    def function(self) -> int:
        return self.raw[9] & 0x3F

    @property
    def _has_identifier(self) -> bool:
        return self.length >= 3 and not self.is_error

    @property
    def low_first(self) -> bool:
        """Whether the identifier was sent low byte first (1F 90 for 901F)."""
        first, second = self.raw[11], self.raw[12]
        return first not in _HIGH_BYTES and second in _HIGH_BYTES

    @property
    def identifier(self) -> int | None:
        """DI as the standard prints it, whatever its byte order on the wire. None if the frame has no identifier."""
        if not self._has_identifier:
            return None
        pair = self.raw[11:13]
        return int.from_bytes(pair, "little" if self.low_first else "big")

    @property
    def serial(self) -> int | None:
        """SER, the serial number of a request, which its answer repeats. None if the frame has no SER.

        An error answer has two data fields: SER and a status word.
        """
        if self._has_identifier:
            return self.raw[13]
        return self.raw[11] if self.is_error and self.length else None

    @property
    def payload(self) -> bytes:
        return self.raw[14:-2] if self._has_identifier else b""

    @property
    def error_status(self) -> bytes:
        return self.data[1:3] if self.is_error else b""


class Parser(FrameScanner[Frame]):
    """Push parser: ``feed(bytes) -> frames``."""

    starts = re.compile(rb"\x68[\x10-\x4f\xaa]|\x68\Z")
    longest = 13 + 255

    def frame_end(self, buffer: bytearray, start: int, size: int) -> int:
        return frame_end(buffer, start, size, Frame.LENGTH_AT)

    def build(self, raw: bytes, offset: int) -> Frame:
        return Frame(raw, offset)


def broken(stream: bytes) -> tuple[bytes, int, str]:
    """Why ``stream`` contains no valid frame. Returns the same tuple as ``framing.best_attempt``."""
    return best_attempt(
        stream, re.compile(rb"\x68[\x10-\x4f\xaa]"), Frame.LENGTH_AT, "no frame: 68h and a meter type not found"
    )


def build_frame(meter_type: int, address: str, control: int, data: bytes, wake: int) -> bytes:
    """Build a request. Raises UsageError for a control code that may write, or an invalid address."""
    if control not in ALLOWED_CONTROLS:  # read-only is enforced here, where the frames are built
        raise UsageError(
            f"control code {control:02X}h is not allowed: the frame may write to the meter", where="CJ/T 188"
        )
    return build_request(bytes((START, meter_type)) + address_bytes(address, 14, "CJ/T 188"), control, data, wake)


def build_read(
    meter_type: int, address: str, identifier: int = CURRENT, *, serial: int = 0, low_first: bool = False, wake: int = 3
) -> bytes:
    """Build a read request. With ``low_first`` the identifier is sent low byte first (1F 90 for 901F), as some meters
    require.
    """
    code = identifier.to_bytes(2, "little" if low_first else "big")
    return build_frame(meter_type, address, READ, code + bytes((serial & 0xFF,)), wake)


def build_read_address(*, serial: int = 0, low_first: bool = False, wake: int = 3) -> bytes:
    """Build a request that the only meter on a line answers with its type and address."""
    code = ADDRESS.to_bytes(2, "little" if low_first else "big")
    return build_frame(ANY, "A" * 14, READ_ADDRESS, code + bytes((serial & 0xFF,)), wake)
