"""The application layer: CI field, header and records of wired and wireless telegrams.

Source: EN 13757-3 clauses 5 and 6 and annexes (headers, fixed structure of EN 1434-3, application errors),
EN 13757-4 (wireless link layer, extended link layer), OMS volume 2 (encryption modes).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from drivers.mbus import values
from drivers.mbus.link import Frame
from drivers.mbus.names import fixed_medium, manufacturer, name_of
from drivers.mbus.records import FUNCTIONS, parse
from drivers.mbus.vif import FIXED_HISTORIC, FIXED_UNITS, Meaning
from drivers.model import Reading

APPLICATION_ERRORS = (
    "Unspecified error",
    "Unimplemented CI-Field",
    "Buffer too long, truncated",
    "Too many records",
    "Premature end of record",
    "More than 10 DIFEs",
    "More than 10 VIFEs",
    "Reserved",
    "Application too busy for handling readout request",
    "Too many readouts",
)
BUSY = APPLICATION_ERRORS[8]  # the only error after which the same request may succeed in a moment
CI_NAMES = {
    0x50: "application reset",
    0x51: "data send",
    0x52: "selection",
    0x54: "synchronise",
    0x55: "data send, mode 2",
    0x56: "selection, mode 2",
    0x70: "application error",
    0x71: "alarm",
    0x72: "variable data, long header",
    0x73: "fixed data",
    0x76: "variable data, long header, mode 2",
    0x77: "fixed data, mode 2",
    0x78: "variable data, no header",
    0x79: "compact data, no header",
    0x7A: "variable data, short header",
    0x7B: "compact data, short header",
}
_LONG_HEADER, _SHORT_HEADER, _NO_HEADER = (0x72, 0x76), (0x7A,), (0x78, 0x51, 0x55)


@dataclass(slots=True)
class Telegram:
    """The sender and the readings of one telegram. A header field that the telegram does not contain is None."""

    ci: int | None = None
    identity: str = ""  # eight digits
    manufacturer: str = ""  # three letters
    version: int | None = None
    medium: int | None = None
    access: int | None = None
    status: int | None = None
    configuration: int | None = None  # in old wired meters this field is a signature, which is ignored
    readings: tuple[Reading, ...] = ()
    more: bool = False  # whether another telegram follows, which must be requested
    maker: bytes = b""
    error: str = ""  # the application error reported by the device (CI 70h)
    encrypted: bool = False
    undecoded: bytes = b""  # a payload that cannot be decoded, because a key is missing or the format is unknown
    fault: str = ""  # why reading stopped before the end of the telegram
    words: list[str] = field(default_factory=list)

    @property
    def encryption_mode(self) -> int:
        return 0 if self.configuration is None else self.configuration >> 8 & 0x1F


def decode_frame(frame: Frame) -> Telegram:
    """The telegram in a wired frame. Short frames and acknowledgements give an empty telegram."""
    telegram = Telegram(ci=frame.ci)
    if frame.ci is not None and (frame.from_device or frame.ci in (0x51, 0x55)):
        _application(telegram, frame.ci, frame.body, wired=True)
    elif frame.ci in (0x52, 0x56) and len(frame.body) >= 8:
        _identity(telegram, frame.body)
    return telegram


def _identity(telegram: Telegram, body: bytes, high_first: bool = False) -> None:
    """Read number (4 bytes), manufacturer (2), version and medium. The low byte comes first, but in mode 2 the high
    byte.
    """
    number, maker = (body[:4], body[4:6]) if high_first else (body[3::-1], body[5:3:-1])
    telegram.identity = number.hex().upper()
    telegram.manufacturer = manufacturer(int.from_bytes(maker, "big"))
    telegram.version, telegram.medium = body[6], body[7]


def _application(telegram: Telegram, ci: int, body: bytes, *, wired: bool) -> None:
    telegram.ci = ci
    high_first = ci in (0x76, 0x77, 0x55)
    if ci == 0x70:
        code = body[0] if body else 0
        telegram.error = APPLICATION_ERRORS[code] if code < len(APPLICATION_ERRORS) else f"error {code:02X}h"
    elif ci == 0x71:
        telegram.status = body[0] if body else None
        telegram.words.append("alarm")
    elif wired and ci in (0x73, 0x77):
        _fixed(telegram, body, high_first)
    elif ci in _LONG_HEADER and len(body) < 12:
        telegram.fault = f"header truncated: expected 12 bytes, {len(body)} left"
    elif ci in _SHORT_HEADER and len(body) < 4:
        telegram.fault = f"header truncated: expected 4 bytes, {len(body)} left"
    elif ci in _LONG_HEADER:
        _identity(telegram, body, high_first)
        _short_header(telegram, body[8:12])
        _payload(telegram, body[12:], wired=wired, high_first=high_first)
    elif ci in _SHORT_HEADER:
        _short_header(telegram, body)
        _payload(telegram, body[4:], wired=wired)
    elif ci in _NO_HEADER:
        _payload(telegram, body, wired=wired, high_first=high_first)
    else:
        telegram.undecoded = body
        telegram.words.append(CI_NAMES.get(ci, f"CI {ci:02X}h is not decoded"))


def _short_header(telegram: Telegram, body: bytes) -> None:
    telegram.access, telegram.status = body[0], body[1]
    telegram.configuration = int.from_bytes(body[2:4], "little")


def _payload(telegram: Telegram, payload: bytes, *, wired: bool, high_first: bool = False) -> None:
    """Decode the records of a payload. If it is encrypted, decode only its unencrypted rest."""
    mode = telegram.encryption_mode
    if mode == 7 and payload[1:3] == b"\x2f\x2f":
        payload = payload[1:]  # the configuration field has a third byte in this mode
    locked = _locked_bytes(telegram, payload, wired)
    if locked:
        telegram.encrypted = True
        telegram.undecoded, payload = payload[:locked], payload[locked:]
    found = parse(payload, telegram.medium or 0, high_first=high_first)
    telegram.readings = tuple(found.readings)
    telegram.more, telegram.maker = found.more, found.maker
    telegram.fault = "" if locked and found.fault else found.fault


def _locked_bytes(telegram: Telegram, payload: bytes, wired: bool) -> int:
    """The number of encrypted bytes at the front. 0 if they begin with 2F 2F, which shows that they are already
    decrypted.
    """
    mode = telegram.encryption_mode
    if not mode or payload[:2] == b"\x2f\x2f" or telegram.configuration is None:
        return 0
    blocks = 16 * (telegram.configuration >> 4 & 0xF)
    if wired:  # old meters fill the field with arbitrary data, so the length is accepted only if it fits exactly
        return blocks if mode == 5 and 0 < blocks <= len(payload) else 0
    if mode == 5 and 0 < blocks <= len(payload):
        return blocks
    return len(payload)


def _fixed(telegram: Telegram, body: bytes, high_first: bool) -> None:
    """Decode the fixed structure: two counters, each with a unit code. The top bits of both codes together are the
    medium.
    """
    if len(body) < 16:
        telegram.fault = f"fixed data truncated: expected 16 bytes, {len(body)} left"
        return
    number = body[:4] if high_first else body[3::-1]
    telegram.identity = number.hex().upper()
    telegram.access, telegram.status = body[4], body[5]
    codes = body[7:5:-1] if high_first else body[6:8]
    telegram.medium = fixed_medium(codes[0] >> 6 | (codes[1] >> 6) << 2)
    telegram.readings = tuple(
        _fixed_counter(telegram, codes, n, body[8 + 4 * n : 12 + 4 * n][:: -1 if high_first else 1]) for n in (0, 1)
    )


def _fixed_counter(telegram: Telegram, codes: bytes, which: int, raw: bytes) -> Reading:
    status, code = telegram.status or 0, codes[which] & 0x3F
    historic = code == FIXED_HISTORIC
    if historic:
        code = codes[1 - which] & 0x3F
    meaning = FIXED_UNITS.get(code, Meaning("reserved", f"unit code {code:02X}h"))
    coded = values.integer(raw, signed=True) if status & 0x01 else values.bcd(raw)
    value, quality = coded
    return Reading(
        name=name_of(meaning.key, telegram.medium or 0, meaning.unit),
        value=value * meaning.factor if isinstance(value, Decimal) else value,
        unit=meaning.unit,
        quality=quality,
        raw=raw,
        storage=1 if historic or status & 0x02 else 0,
        function=FUNCTIONS[0],
        label=meaning.label + (" (historic)" if historic else ""),
    )


# ------------------------------------------------------------------ wireless


def crc(data: bytes) -> int:
    """CRC of EN 13757-4 (polynomial 3D65h, complemented). The CRC of the text ``123456789`` is C2B7h."""
    register = 0
    for byte in data:
        register ^= byte << 8
        for _ in range(8):
            register = (register << 1 ^ 0x3D65 if register & 0x8000 else register << 1) & 0xFFFF
    return register ^ 0xFFFF


def _checked(data: bytes) -> bool:
    return len(data) > 2 and crc(data[:-2]) == int.from_bytes(data[-2:], "big")


def strip_crc(data: bytes) -> tuple[bytes, str]:
    """Remove the checksums of a frame. Returns (the frame without checksums, frame format).

    The format is "A", "B", or "" if the frame had no checksums.
    """
    if len(data) >= 12 and _checked(data[:12]):
        blocks = [data[:12], *(data[i : i + 18] for i in range(12, len(data), 18))]
        if all(_checked(b) for b in blocks):
            return b"".join(b[:-2] for b in blocks), "A"
    size = data[0] + 1 if data else 0
    if 12 < size <= len(data):
        first = data[: min(size, 128)]
        rest = data[128:size]
        if _checked(first) and (not rest or _checked(rest)):
            body = first[:-2] + rest[:-2]
            return bytes((len(body) - 1,)) + body[1:], "B"
    return data, ""


_WIRELESS_CONTROLS = frozenset({0x44, 0x46, 0x48, 0x08, 0x00, 0x06, 0x40, 0x47, 0x53, 0x5A, 0x5B, 0x7A, 0x7B})


def looks_wireless(data: bytes) -> bool:
    """Whether the bytes may be a wireless frame, from its length byte on. It has no start byte, so the fields are
    checked.
    """
    if len(data) < 11 or data[1] not in _WIRELESS_CONTROLS:
        return False
    letters = manufacturer(int.from_bytes(data[2:4], "little"))
    named = letters.isalpha() and letters.isupper() and data[0] >= 10
    return named or data[0] + 1 == len(data) or bool(strip_crc(data)[1])


def decode_wireless(data: bytes) -> Telegram:
    """Decode a wireless frame without checksums, from its length byte on."""
    telegram = Telegram()
    body = bytes((*data[4:8], *data[2:4], *data[8:10]))
    _identity(telegram, body)
    if data[0] + 1 > len(data):
        telegram.words.append(f"the frame is cut short: it announces {data[0] + 1} bytes, but has {len(data)}")
    rest = data[10 : data[0] + 1]
    for _ in range(4):  # at most a few link layer extensions precede the CI field of the application
        if not rest or telegram.encrypted:
            break
        size = _extension(telegram, rest)
        if not size:
            break
        rest = rest[size:]
    if telegram.encrypted:
        telegram.undecoded = rest
    elif rest:
        _application(telegram, rest[0], rest[1:], wired=False)
    else:
        telegram.fault = "the telegram has no CI field"
    return telegram


def _extension(telegram: Telegram, rest: bytes) -> int:
    """Length of the link layer extension (ELL, AFL) at the front. 0 if the CI field of the application comes first."""
    ci = rest[0]
    if ci == 0x90:
        return 2 + rest[1] if len(rest) > 1 else 0
    size = {0x8C: 3, 0x8D: 9, 0x8E: 11, 0x8F: 17}.get(ci, 0)
    if not size or len(rest) < size:
        return 0
    telegram.access = rest[2]
    if ci in (0x8D, 0x8F):
        session = int.from_bytes(rest[size - 6 : size - 2], "little")
        if session >> 29 and not _plain(rest[size - 2 :]):
            telegram.encrypted, telegram.ci = True, ci
    return size


def _plain(rest: bytes) -> bool:
    """Whether the payload is unencrypted or already decrypted. The checksum before it shows this."""
    return len(rest) > 2 and crc(rest[2:]) in (int.from_bytes(rest[:2], "little"), int.from_bytes(rest[:2], "big"))
