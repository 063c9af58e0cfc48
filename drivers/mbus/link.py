"""The link layer of wired M-Bus: E5, short and long frames, the push parser, requests.

Source: EN 13757-2 clause 5.5 (frame formats FT 1.2), EN 13757-3 clause 11 (secondary addressing).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from drivers.framing import REJECT, FrameScanner
from drivers.model import UsageError

LONG, SHORT, STOP, ACK = 0x68, 0x10, 0x16, 0xE5
SND_NKE, SND_UD, REQ_UD2 = 0x40, 0x53, 0x5B
FCB = 0x20
SELECTED = 0xFD  # address of the selected device
CI_SELECT = 0x52
# the only codes that are sent; SND_UD only by build_select
ALLOWED_CONTROLS = frozenset({SND_NKE, REQ_UD2, REQ_UD2 | FCB, SND_UD})

_SHORT_CONTROLS = frozenset({0x40, 0x5B, 0x7B, 0x5A, 0x7A, 0x49, 0x59, 0x79, 0x00, 0x10, 0x20, 0x30, 0x0B, 0x1B})


def function_name(control: int) -> str:
    """The name of a control field, such as SND_UD or RSP_UD. "" if it is unknown. The bits for frame count and access
    are ignored.
    """
    if control & 0x40:
        names = {0x0: "SND_NKE", 0x3: "SND_UD", 0x9: "REQ_SKE", 0xA: "REQ_UD1", 0xB: "REQ_UD2", 0x4: "SND_NR"}
    else:
        names = {0x8: "RSP_UD", 0x0: "ACK", 0x1: "NACK", 0x4: "SND_NR", 0x6: "SND_IR", 0xB: "RSP_SKE"}
    return names.get(control & 0x0F, "")


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as received. ``offset`` is the position of its first byte in the stream."""

    raw: bytes
    offset: int = 0

    @property
    def kind(self) -> str:
        return {LONG: "long", SHORT: "short"}.get(self.raw[0], "ack")

    @property
    def control(self) -> int:
        """The control field. 0 for an acknowledgement, which is a single byte and has no control field."""
        if len(self.raw) == 1:
            return 0
        return self.raw[4] if self.raw[0] == LONG else self.raw[1]

    @property
    def address(self) -> int | None:
        if len(self.raw) == 1:
            return None
        return self.raw[5] if self.raw[0] == LONG else self.raw[2]

    @property
    def ci(self) -> int | None:
        return self.raw[6] if self.kind == "long" else None

    @property
    def body(self) -> bytes:
        """The data after the CI field."""
        return self.raw[7:-2] if self.kind == "long" else b""

    @property
    def checksum(self) -> int:
        return self.raw[-2] if len(self.raw) > 1 else 0

    @property
    def checksum_computed(self) -> int:
        begin = {LONG: 4, SHORT: 1}.get(self.raw[0])
        return sum(self.raw[begin:-2]) & 0xFF if begin else 0

    @property
    def from_device(self) -> bool:
        return self.kind == "ack" or not self.control & 0x40


class Parser(FrameScanner[Frame]):
    """Push parser: ``feed(bytes) -> frames``.

    A byte E5 is an acknowledgement only outside of other frames. Inside a broken frame it does not count either.
    """

    starts = re.compile(rb"[\x68\x10\xe5]")
    longest = 261

    def __init__(self) -> None:
        super().__init__()
        self._shadow = 0  # stream offset before which a byte E5 may be part of another frame
        # buffer offset of a byte 68h or 10h that may begin a frame, which is not decided yet; -1: none
        self._doubt = -1

    def frame_end(self, buffer: bytearray, start: int, size: int) -> int:
        first = buffer[start]
        if first == LONG:
            return self._measure_long(buffer, start, size)
        if first == SHORT:
            return self._measure_short(buffer, start, size)
        at = self._base + start
        if at < self._shadow:
            return REJECT
        return size + 1 if self._doubt >= 0 else start + 1

    def _measure_short(self, buffer: bytearray, start: int, size: int) -> int:
        if start + 2 > size:
            self._doubt = start
            return start + 2
        control = buffer[start + 1]
        if control not in _SHORT_CONTROLS:
            return REJECT
        self._shadow = max(self._shadow, self._base + start + 5)
        if start + 5 > size:
            return start + 5
        sums = (control + buffer[start + 2]) & 0xFF
        return start + 5 if buffer[start + 3] == sums and buffer[start + 4] == STOP else REJECT

    def _measure_long(self, buffer: bytearray, start: int, size: int) -> int:
        head = buffer[start : start + 4]
        length = head[1] if len(head) > 1 else 3
        if length < 3 or (len(head) > 2 and head[2] != length) or (len(head) > 3 and head[3] != LONG):
            return REJECT
        if len(head) < 4:
            self._doubt = start
            return size + 1
        end = start + length + 6
        self._shadow = max(self._shadow, self._base + end)
        if end > size:
            return end
        if buffer[end - 1] != STOP or sum(buffer[start + 4 : end - 2]) & 0xFF != buffer[end - 2]:
            return REJECT
        return end

    def _first(self, buffer: bytearray, position: int, size: int) -> tuple[int, int, int]:
        self._doubt = -1
        found = super()._first(buffer, position, size)
        if found[1] > 0:  # a valid frame was found: other possible frames that overlap it no longer count
            self._shadow = self._base + found[1]
        return found

    def build(self, raw: bytes, offset: int) -> Frame:
        return Frame(raw, offset)


def broken(stream: bytes) -> tuple[bytes, int, str]:
    """Explain why no frame was found. Returns (bytes of the best attempt, its offset, error)."""
    best: tuple[int, bytes, int, str] = (0, b"", 0, "no frame: neither 68h L L 68h, nor 10h, nor E5h found")
    for start in (m.start() for m in re.finditer(rb"[\x68\x10]", stream)):
        rest = stream[start:]
        found = _what_is_wrong(rest)
        if found is not None:
            score, length, words = found
            best = max(best, (score, rest[:length], start, words), key=lambda b: b[0])
    return best[1:]


def _what_is_wrong(rest: bytes) -> tuple[int, int, str] | None:
    """Return (score, length, error) of a possible frame at the first byte. A higher score is closer to a valid frame.

    None if no frame can begin there.
    """
    if rest[0] == SHORT:
        if len(rest) < 5 or rest[1] not in _SHORT_CONTROLS or rest[4] != STOP:
            return None
        sums = (rest[1] + rest[2]) & 0xFF
        return 3, 5, f"the checksum is {rest[3]:02X}h, but the bytes sum to {sums:02X}h"
    if len(rest) < 4:
        return 1, len(rest), "the frame is cut short inside its header"
    if rest[3] != LONG:
        return None
    end = rest[1] + 6
    if rest[1] != rest[2]:
        found = 2, len(rest), f"the two length bytes of the frame differ: {rest[1]} and {rest[2]}"
    elif rest[1] < 3:
        found = 2, len(rest), f"length {rest[1]} is too small for the control, address and CI fields"
    elif len(rest) < end:
        found = 4, len(rest), f"the frame is cut short: it announces {end} bytes, but has {len(rest)}"
    elif rest[end - 1] != STOP:
        found = 4, end, f"stop byte is {rest[end - 1]:02X}h, not 16h"
    else:
        sums = sum(rest[4 : end - 2]) & 0xFF
        found = 5, end, f"the checksum is {rest[end - 2]:02X}h, but the bytes sum to {sums:02X}h"
    return found


# ------------------------------------------------------------------ requests


def build_short(control: int, address: int) -> bytes:
    """Build a five-byte frame. Raises UsageError for a control field that may write, or for an invalid address."""
    if control not in ALLOWED_CONTROLS or control == SND_UD:  # read-only is enforced here, where the frames are built
        raise UsageError(
            f"control field {control:02X}h is not allowed: the frame may write to the meter", where="M-Bus"
        )
    if not 0 <= address <= 0xFF:
        raise UsageError(
            f"{address} is not a primary address",
            where="M-Bus",
            hint="Allowed: 0 to 250, 253 for the selected meter, 254 for all meters",
        )
    return bytes((SHORT, control, address, (control + address) & 0xFF, STOP))


def build_snd_nke(address: int) -> bytes:
    """Build SND_NKE, which resets the link of a device and changes no measured value. If it is sent to address 253, the
    selected device is no longer selected.
    """
    return build_short(SND_NKE, address)


def build_req_ud2(address: int, *, fcb: bool) -> bytes:
    """Build REQ_UD2, which asks for data. Toggle ``fcb`` after each good answer; with the same ``fcb`` the meter
    repeats its telegram.
    """
    return build_short(REQ_UD2 | (FCB if fcb else 0), address)


def build_select(identity: str, manufacturer: int = 0xFFFF, version: int = 0xFF, medium: int = 0xFF) -> bytes:
    """Build a selection by secondary address.

    In the eight digits of ``identity``, F matches any digit. A byte FF in the other fields matches anything.
    """
    digits = identity.upper()
    if not re.fullmatch("[0-9A-F]{8}", digits):
        raise UsageError(
            f"{identity!r} is not a secondary address", where="M-Bus", hint="Write 8 digits; F stands for any digit"
        )
    body = bytes((SND_UD, SELECTED, CI_SELECT, *bytes.fromhex(digits)[::-1]))
    body += manufacturer.to_bytes(2, "little") + bytes((version, medium))
    return bytes((LONG, len(body), len(body), LONG)) + body + bytes((sum(body) & 0xFF, STOP))
