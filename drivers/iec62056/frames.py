"""Messages of IEC 62056-21: sign-on, identification, option select for a readout, the data message. No I/O.

A readout in mode C: we send ``/?ADDRESS! CR LF``, the meter answers ``/XXXZIDENT CR LF``, we send ``ACK 0 Z 0 CR LF``,
and the meter sends ``STX data ! CR LF ETX BCC`` at the speed of Z. In modes A and B the meter sends the data after its
identification without a select: in mode A at 300 baud, in mode B at the speed of Z. Source: IEC 62056-21:2002, 6.3 and
6.4, as the public sources in docs/decisions/0030 give it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from drivers.framing import REJECT, FrameScanner
from drivers.model import UsageError

STX, ETX, ACK, SOH = 0x02, 0x03, 0x06, 0x01
# The speeds that the character Z stands for. In mode C, 0 to 6 mean 300 to 19200 baud; in mode B, A to F mean 600 to
# 19200 baud.
BAUDS = (300, 600, 1200, 2400, 4800, 9600, 19200)
# longest accepted readout; the largest known readout, which has values of fifteen months, has 10,000 bytes
MOST_BYTES = 32_768
# The least times between two messages. The short one applies if the last letter of the maker's code is in lower case.
SHORT_REACTION_S, REACTION_S = 0.02, 0.2
ANY = "*"  # this address means the only meter on a line; the sign-on then contains no address

SIGN_ON = re.compile(rb"/\?([0-9A-Za-z ]{0,32})!\r?\n")
SELECT = re.compile(rb"\x06[0-9]([0-9])([0-9])\r?\n")
_ADDRESS = re.compile(r"[0-9A-Za-z]{1,32}")
_IDENTIFICATION = re.compile(rb"/([A-Za-z]{3})([^\r\n/!\x00-\x1f\x7f-\xff])([^\r\n/!\x00\x7f-\xff]{0,40})\r?\n")
_LONGEST_LINE = 64  # length of the longest identification in bytes
_BETWEEN = 64  # limit for bytes between identification and data, such as our echo or padding


@dataclass(frozen=True, slots=True)
class Identification:
    """The identification of a meter. ``raw`` has its bytes from ``/`` to LF."""

    raw: bytes

    @property
    def maker(self) -> str:
        """The maker's three letters (FLAG), in capitals."""
        return self.raw[1:4].decode("ascii").upper()

    @property
    def speed(self) -> str:
        """The character Z, which encodes mode and speed."""
        return chr(self.raw[4])

    @property
    def text(self) -> str:
        """The maker's own text, usually the name of the model. Parts of it that start with ``\\`` are modes."""
        return self.raw[5:].decode("latin-1").rstrip("\r\n")

    @property
    def model(self) -> str:
        """The maker's text without the parts that are modes, and without control characters."""
        return "".join(c for c in re.sub(r"\\.", "", self.text) if c.isprintable()).strip()

    @property
    def mode(self) -> str:
        """The mode. In A, the data follow at 300 baud. In B, they follow at the speed of Z. In C, we must request
        them.
        """
        return "C" if self.speed in "0123456789" else "B" if "A" <= self.speed <= "I" else "A"

    @property
    def baud(self) -> int | None:
        """The speed that the meter offers, in baud. None if the character Z is reserved."""
        if self.mode == "A":
            return BAUDS[0]
        at = ord(self.speed) - ord("0") if self.mode == "C" else ord(self.speed) - ord("A") + 1
        return BAUDS[at] if at < len(BAUDS) else None

    @property
    def reaction_s(self) -> float:
        """The least time between the meter's message and our reply, in seconds."""
        return SHORT_REACTION_S if self.raw[3:4].islower() else REACTION_S


@dataclass(frozen=True, slots=True)
class Readout:
    """An identification and its data message.

    ``raw`` has the bytes from ``/`` to BCC; ``offset`` is the position of the first byte in the stream.
    """

    raw: bytes
    offset: int = 0

    @property
    def identification(self) -> Identification:
        return Identification(self.raw[: self.raw.index(b"\n") + 1])

    @property
    def block(self) -> bytes:
        """The data between STX and ETX."""
        return self.raw[self.raw.index(STX, self.raw.index(b"\n")) + 1 : -2]

    @property
    def bcc(self) -> int:
        return self.raw[-1]

    @property
    def bcc_computed(self) -> int:
        return block_check(self.raw[self.raw.index(STX, self.raw.index(b"\n")) + 1 : -1])


def block_check(checked: bytes | bytearray) -> int:
    """The check character BCC: the exclusive or of all bytes after STX, including ETX."""
    found = 0
    for byte in checked:
        found ^= byte
    return found


def find_identification(received: bytes) -> Identification | None:
    """The last complete identification in the bytes. Our own sign-on does not count, nor does text in the data that
    follow an identification, such as the end of ``(1000*imp/kWh)``. None: there is no identification.
    """
    found, after = None, 0
    for match in _IDENTIFICATION.finditer(received):
        data = received.find(STX, after, match.start()) if found is not None else -1
        if data < 0 or received.find(ETX, data, match.start()) >= 0:
            found, after = Identification(match[0]), match.end()
    return found


def find_block(received: bytes, begin: int = 0) -> bytes | None:
    """The first valid data message, from STX to BCC. None if the message is incomplete or broken."""
    end = received.find(ETX, begin)
    while 0 <= end < len(received) - 1:
        check, found = received[end + 1], -1
        for at in range(end, begin - 1, -1):  # search backwards, so that one pass tries every STX before this ETX
            if received[at] == STX and check == 0:
                found = at
            check ^= received[at]
        if found >= 0:
            return received[found : end + 2]
        begin, end = end + 1, received.find(ETX, end + 1)
    return None


class Parser(FrameScanner[Readout]):
    """Push parser of whole readouts: ``feed(bytes) -> readouts``."""

    starts = re.compile(rb"/")
    longest = MOST_BYTES

    def frame_end(self, buffer: bytearray, start: int, size: int) -> int:
        line_end = buffer.find(b"\n", start, start + _LONGEST_LINE)
        if line_end < 0:
            return size + 1 if size - start < _LONGEST_LINE and _may_begin(buffer[start:size]) else REJECT
        if _IDENTIFICATION.fullmatch(buffer, start, line_end + 1) is None:
            return REJECT
        between = line_end + 1 + _BETWEEN
        begin = buffer.find(STX, line_end + 1, between)
        if buffer.find(b"/", line_end + 1, begin if begin >= 0 else between) >= 0:
            return REJECT  # another identification, or the sign-on of another master, came before any data
        if begin < 0:
            return size + 1 if size < between else REJECT
        return self._data_end(buffer, begin, size)

    def _data_end(self, buffer: bytearray, begin: int, size: int) -> int:
        """The index after the data message whose STX is at ``begin``. Without a complete message, the result is as in
        ``FrameScanner.frame_end``.
        """
        end = buffer.find(ETX, begin + 1, begin + self.longest)
        if end < 0:
            return size + 1 if size - begin < self.longest else REJECT
        if end + 2 > size:
            return end + 2
        return end + 2 if block_check(buffer[begin + 1 : end + 1]) == buffer[end + 1] else REJECT

    def build(self, raw: bytes, offset: int) -> Readout:
        return Readout(raw, offset)


def _may_begin(piece: bytes | bytearray) -> bool:
    """Whether an identification can begin with these bytes: three letters must follow the slash."""
    return all(byte < 0x80 and chr(byte).isalpha() for byte in piece[1:4])


def broken(stream: bytes) -> tuple[bytes, int, str]:
    """Explain why no valid readout was found. Returns (bytes of the best attempt, its offset, error)."""
    if high := sum(byte > 0x7F for byte in stream):
        is_even = all(byte.bit_count() % 2 == 0 for byte in stream)
        why = (
            "the line is set to 8N1 instead of 7E1" if is_even else "the speed is wrong, or the line is not set to 7E1"
        )
        return stream, 0, f"the top bit is set in {high} of {len(stream)} bytes: {why}"
    found = find_identification(stream)
    offset = stream.rindex(found.raw) if found is not None else -1
    begin = stream.find(STX, offset + len(found.raw) if found is not None else 0)
    if begin < 0:
        what = (
            "no frame: neither / nor STX was found" if found is None else "no frame: no data follows the identification"
        )
        return stream[max(offset, 0) :], max(offset, 0), what
    offset = offset if found is not None else begin
    end = stream.find(ETX, begin + 1)
    if found is None and end < 0:
        return stream, 0, "no frame: there is neither an identification nor a complete data message"
    if end < 0:
        return (
            stream[offset:],
            offset,
            f"the readout is cut short: no ETX follows {len(stream) - begin - 1} bytes of data",
        )
    if end + 1 >= len(stream):
        return stream[offset:], offset, "the readout is cut short: no check character follows ETX"
    seen, computed = stream[end + 1], block_check(stream[begin + 1 : end + 1])
    what = f"check character is {seen:02X}h, but the bytes require {computed:02X}h"
    return (
        stream[offset : end + 2],
        offset,
        "no frame: there is no identification message before the data" if seen == computed else what,
    )


def build_sign_on(address: str = ANY) -> bytes:
    """The sign-on request. Raises UsageError for an invalid address."""
    if address != ANY and not _ADDRESS.fullmatch(address):
        hint = f'Write up to 32 digits or letters, or "{ANY}" for the only meter on a line'
        raise UsageError(f"{address!r} is not a device address", where="IEC 62056-21", hint=hint)
    return b"/?" + (b"" if address == ANY else address.encode("ascii")) + b"!\r\n"


def build_select(speed: str) -> bytes:
    """Build the option select (ACK) of a readout at ``speed``. No other mode can be selected, so nothing is written."""
    if len(speed) != 1 or speed not in "0123456789":
        raise UsageError(f"{speed!r} is not a speed of mode C", where="IEC 62056-21")
    return bytes((ACK,)) + f"0{speed}0\r\n".encode("ascii")


def is_address(address: str) -> bool:
    """Whether a configured address is valid."""
    return address == ANY or _ADDRESS.fullmatch(address) is not None
