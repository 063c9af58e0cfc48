"""What `decode cjt188` shows."""

from __future__ import annotations

from drivers.cjt188.frames import FUNCTIONS, METER_TYPES, Frame, Parser, broken
from drivers.cjt188.values import decode_frame, status_words, undecoded
from drivers.explain import Explainer, Json, checksum_frame_error, several, wake_bytes

_FORM = "68h, the meter type, seven address bytes, control, length, data, checksum, 16h"


def _frame(frame: Frame, stream: bytes) -> Json:
    raw = frame.raw
    shown: Json = {
        "protocol": "cjt188",
        "preamble_hex": stream[: frame.offset].hex(),
        "preamble_fe": wake_bytes(stream, frame.offset),
        "offset": frame.offset,
        "frame_offset": frame.offset,
        "frame_length": len(raw),
        "meter_type": frame.meter_type,
        "medium": METER_TYPES.get(frame.meter_type, ""),
        "address": frame.address,
        "address_wire_hex": raw[2:9].hex(),
        "control": frame.control,
        "function": frame.function,
        "function_name": FUNCTIONS.get(frame.function, ""),
        "direction": "reply" if frame.is_reply else "request",
        "error": frame.is_error,
        "length": frame.length,
        "checksum_in_frame": frame.checksum,
        "checksum_computed": frame.checksum_computed,
        "checksum_ok": frame.checksum == frame.checksum_computed,
        "stop_ok": raw[-1] == 0x16,
        "ser": frame.serial,
    }
    if frame.identifier is not None:
        wire = raw[11:13].hex().upper()
        order = "low byte first" if frame.low_first else "high byte first"
        shown |= {"di": f"{frame.identifier:04X}", "di_wire_hex": wire, "di_order": f"{wire[:2]} first ({order})"}
    if frame.is_error:
        shown["status_hex"] = frame.error_status.hex()
    status = next((r.raw for r in decode_frame(frame) if r.name == "device.status"), b"")
    if status:
        shown |= {"status_hex": status.hex(), **status_words(status)}
    if rest := undecoded(frame):
        shown["undecoded"] = rest.hex()
    return shown


def explain(stream: bytes) -> Json:
    """All frames of ``stream``, decoded."""
    frames = Parser().feed(stream)
    if not frames:
        raise checksum_frame_error(
            "cjt188", broken(stream), lambda raw, at: _frame(Frame(raw, at), stream), Frame.LENGTH_AT, _FORM, stream
        )
    result = several([(_frame(f, stream), decode_frame(f)) for f in frames])
    result["frame"]["trailing"] = len(stream) - frames[-1].offset - len(frames[-1].raw)
    return result


EXPLAINERS = (
    Explainer(
        name="cjt188",
        title="CJ/T 188",
        help="""Explain CJ/T 188 bytes (water, heat, gas; 2004 and 2018), also with leading FE, noise or several frames.

    \b
    Example:
      meterhouse decode cjt188 'FEFE 68 10 44332211003378 01 03 1F9000 80 16'

    \b
    Exit codes: 0 decoded (also an error answer of the meter), 2 wrong usage,
      4 no valid frame.
    """,
        explain=explain,
        is_sound=lambda stream: bool(Parser().feed(stream)),
    ),
)
