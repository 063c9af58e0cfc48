"""What `decode mbus` shows."""

from __future__ import annotations

from collections.abc import Sequence

from drivers.explain import BrokenInput, Explainer, Json, frame_hint, placed, reading_json, several, wake_bytes
from drivers.mbus.link import Frame, Parser, broken, function_name
from drivers.mbus.names import MEDIA
from drivers.mbus.telegram import CI_NAMES, Telegram, decode_frame, decode_wireless, looks_wireless, strip_crc
from drivers.model import Reading

_RECORDS_HINT = "The frame itself is valid: the meter sent this. The records before the error were decoded"


def _telegram(telegram: Telegram) -> Json:
    """The application layer of a frame as JSON. Empty if the frame has none."""
    shown: Json = {
        "ci": telegram.ci,
        "ci_name": CI_NAMES.get(telegram.ci or 0, ""),
        "identity": telegram.identity,
        "manufacturer": telegram.manufacturer,
        "version": telegram.version,
        "medium": None if telegram.medium is None else MEDIA.get(telegram.medium, f"{telegram.medium:02X}h"),
        "medium_code": telegram.medium,
        "access_number": telegram.access,
        "status": telegram.status,
    }
    if telegram.configuration is not None:
        shown["signature"] = f"{telegram.configuration:04X}"
    shown = {key: value for key, value in shown.items() if value not in (None, "")}
    if telegram.error:
        shown["application_error"] = telegram.error
    if telegram.encrypted:
        shown |= {"encrypted": True, "encryption_mode": telegram.encryption_mode}
    if telegram.undecoded:
        shown["undecoded"] = telegram.undecoded.hex()
    if telegram.maker:
        shown["manufacturer_data"] = telegram.maker.hex()
    if telegram.readings:
        shown["more_records_follow"] = telegram.more
    if telegram.words:
        shown["notes"] = telegram.words
    return shown


def _frame(frame: Frame, stream: bytes) -> Json:
    shown: Json = {
        "protocol": "mbus",
        "kind": frame.kind,
        "preamble_fe": wake_bytes(stream, frame.offset),
        "offset": frame.offset,
        "length": len(frame.raw),
    }
    if frame.kind == "ack":
        return shown
    return shown | {
        "control": frame.control,
        "function": function_name(frame.control),
        "direction": "reply" if frame.from_device else "request",
        "address": frame.address,
        "checksum_in_frame": frame.checksum,
        "checksum_computed": frame.checksum_computed,
        "checksum_ok": frame.checksum == frame.checksum_computed,
    }


def _readings(telegram: Telegram) -> list[Json]:
    """The readings as JSON. Storage and tariff are never left out, because they distinguish M-Bus records."""
    return [reading_json(r) | {"storage": r.storage, "tariff": r.tariff} for r in telegram.readings]


def _wired(frames: Sequence[Frame], stream: bytes) -> Json:
    telegrams = [decode_frame(frame) for frame in frames]
    pairs: list[tuple[Json, Sequence[Reading]]] = [
        (_frame(f, stream) | _telegram(t), t.readings) for f, t in zip(frames, telegrams, strict=True)
    ]
    result = several(pairs)
    result["readings"] = [r for t in telegrams for r in _readings(t)]
    faults = [t.fault for t in telegrams if t.fault]
    if faults:
        raise BrokenInput(faults[0], result, _RECORDS_HINT)
    return result


def _wireless(stream: bytes) -> Json:
    data, crc_format = strip_crc(stream)
    telegram = decode_wireless(data)
    shown: Json = {
        "protocol": "mbus",
        "kind": "wireless",
        "length": data[0],
        "control": data[1],
        "function": function_name(data[1]),
        "crc_format": crc_format,
        **_telegram(telegram),
    }
    result: Json = {"frame": shown, "readings": _readings(telegram)}
    if telegram.fault:
        raise BrokenInput(telegram.fault, result, "The records before the error were decoded")
    return result


def explain(stream: bytes) -> Json:
    """Explain all wired frames in ``stream``. If it has no long frame, also try to explain it as one wireless frame."""
    frames = Parser().feed(stream)
    if any(f.kind == "long" for f in frames):
        return _wired(frames, stream)
    if looks_wireless(stream):
        return _wireless(stream)
    telling = [f for f in frames if f.kind == "short"] or (frames if len(frames) == len(stream) else [])
    if telling:
        return _wired(frames, stream)
    raw, offset, error = broken(stream)
    shown: Json = {"protocol": "mbus", "offset": offset}
    if len(raw) >= 7 and raw[0] == raw[3] == 0x68:
        frame = Frame(raw, offset)
        shown = _frame(frame, stream) | {"ci": frame.ci}
        if raw[1] != raw[2] or len(raw) != raw[1] + 6:  # these bytes are truncated, or their end is unknown
            del shown["checksum_in_frame"], shown["checksum_computed"]
            shown |= {"length_in_frame": raw[1], "checksum_ok": False}
    form = "68h, the length twice, 68h, control, address, CI, data, checksum, 16h"
    hint = frame_hint(error, stream, "mbus", form)
    raise BrokenInput(placed(error, offset), {"frame": shown} if raw else None, hint)


def _is_sound(stream: bytes) -> bool:
    """Whether the bytes contain a long frame. A single byte E5 proves nothing, and a short frame proves little."""
    return any(frame.kind == "long" for frame in Parser().feed(stream))


EXPLAINERS = (
    Explainer(
        name="mbus",
        title="M-Bus",
        help="""Explain M-Bus bytes: wired frames, also with noise around them, or one wireless telegram.

    Bytes that are encrypted or have an unknown format are shown in `undecoded`.

    \b
    Example:
      meterhouse decode mbus '10 5B 01 5C 16'

    \b
    Exit codes: 0 decoded; 2 wrong usage; 4 no valid frame, or records that
      are truncated (the complete records are printed).
    """,
        explain=explain,
        is_sound=_is_sound,
    ),
)
