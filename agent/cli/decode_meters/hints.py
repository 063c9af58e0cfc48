"""Errors and hints for bytes that are not a frame of the requested protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agent.cli.decode_meters.output import BrokenInput, Json

COPY_WHOLE = "Copy it whole, from its first byte to its last"
AS_SENT = "A byte differs from what was sent: read it again, or copy it again"
_MODBUS_FUNCTIONS = frozenset((1, 2, 3, 4, 5, 6, 15, 16, 23, 43))
_NAMES = {
    "dlt645": "DL/T 645",
    "cjt188": "CJ/T 188",
    "mbus": "M-Bus",
    "modbus-tcp": "Modbus TCP",
    "modbus-rtu": "Modbus RTU",
}


def broken_frame(
    name: str, drivers: Any, describe: Callable[[Any, bytes], Json], at: int, form: str, stream: bytes
) -> BrokenInput:
    """The error for bytes without a sound frame of a DL/T 645 or CJ/T 188 meter, with its valid prefix; no values.

    Args:
        drivers: the module with ``broken`` and ``Frame``.
        describe: a frame and the bytes around it as JSON.
        at: where the length is in a frame; the data follows, then checksum and end.
        form: describes a valid frame.
    """
    raw, offset, error = drivers.broken(stream)
    shown: Json = {}
    if len(raw) > at and len(raw) == at + 3 + raw[at]:
        shown = describe(drivers.Frame(raw, offset), stream)
    elif len(raw) > at:
        data = raw[at + 1 : at + 1 + raw[at]]
        shown = describe(drivers.Frame(raw[:at] + bytes((len(data),)) + data + bytes(2), offset), stream)
        for key in ("checksum_in_frame", "checksum_computed", "frame_length", "value_digits", "undecoded"):
            shown.pop(key, None)
        shown |= {"length": raw[at], "checksum_ok": False, "stop_ok": False}
    return BrokenInput(
        placed(error, offset), {"frame": shown} if shown else None, frame_hint(error, stream, name, form)
    )


def frame_hint(error: str, stream: bytes, tried: str, form: str) -> str:
    """The hint for a frame that failed with ``error``; ``form`` describes a valid one."""
    elsewhere = other_protocol(stream, tried)
    if elsewhere:
        return elsewhere
    if error.startswith("no frame"):
        return f"Expected {form}"
    return COPY_WHOLE if "cut short" in error or "truncated" in error else AS_SENT


def placed(error: str, offset: int) -> str:
    """The error with the byte at which the broken frame begins, where that is not the first."""
    return f"frame at byte {offset + 1}: {error}" if offset else error


def other_protocol(stream: bytes, tried: str) -> str:
    """Names the command that finds a sound frame in ``stream``, as advice; "" if none does."""
    found = next((name for name in _NAMES if name != tried and _sound(name, stream)), "")
    return f"It is a sound frame of {_NAMES[found]}: try `meterhouse decode {found}`" if found else ""


def _sound(name: str, stream: bytes) -> bool:
    from drivers.cjt188 import codec as cjt188
    from drivers.dlt645 import codec as dlt645
    from drivers.line.modbus_frames import crc_ok
    from drivers.mbus import codec as mbus

    if name == "dlt645":
        return bool(dlt645.Parser().feed(stream))
    if name == "cjt188":
        return bool(cjt188.Parser().feed(stream))
    if name == "mbus":  # one byte E5 proves nothing, a short frame little
        return any(f.kind == "long" for f in mbus.Parser().feed(stream))
    if name == "modbus-tcp":
        head = stream[2:6]
        fits = len(stream) >= 8 and head == b"\0\0" + (len(stream) - 6).to_bytes(2)
        return fits and stream[7] & 0x7F in _MODBUS_FUNCTIONS
    if len(stream) < 5 or len(stream) > 256 or not any(stream):
        return False
    return stream[1] & 0x7F in _MODBUS_FUNCTIONS and crc_ok(stream)
