"""What `decode iec62056` shows."""

from __future__ import annotations

from typing import cast

from drivers.explain import BrokenInput, Explainer, Json, frame_hint, placed, several
from drivers.iec62056.codes import parse_code
from drivers.iec62056.data_sets import decode_block, decode_readout, identification_readings
from drivers.iec62056.frames import (
    BAUDS,
    SELECT,
    SIGN_ON,
    STX,
    Identification,
    Parser,
    Readout,
    broken,
    find_block,
    find_identification,
)
from drivers.model import clean_text

_FORM = "an identification that begins with / and ends with CR LF, then STX, the data, ETX and the check character"
_MODES = {"0": "readout", "1": "programming", "2": "binary"}


def _identification(found: Identification) -> Json:
    shown: Json = {
        "maker": found.maker,
        "model": clean_text(found.model),
        "identification": clean_text(found.text),
        "mode": found.mode,
        "speed_character": found.speed,
    }
    if found.baud is not None:
        shown["baud"] = found.baud
    return shown | {"reaction_ms": int(found.reaction_s * 1000)}


def _readout(readout: Readout) -> Json:
    return {
        "protocol": "iec62056",
        "offset": readout.offset,
        "frame_length": len(readout.raw),
        "kind": "readout",
        **_identification(readout.identification),
        "data_length": len(readout.block),
        "bcc_in_frame": readout.bcc,
        "bcc_computed": readout.bcc_computed,
        "bcc_ok": readout.bcc == readout.bcc_computed,
    }


def _part(stream: bytes) -> Json | None:
    """Explain a sign-on, an option select, an identification, or data without identification. None for other bytes."""
    if (found := SIGN_ON.fullmatch(stream)) is not None:
        address = cast(bytes, found[1]).decode("ascii")
        return {"frame": {"protocol": "iec62056", "kind": "sign-on", "address": address or "*"}, "readings": []}
    if (found := SELECT.fullmatch(stream)) is not None:
        speed, mode = chr(found[1][0]), chr(found[2][0])
        shown: Json = {"protocol": "iec62056", "kind": "option select", "speed_character": speed}
        if int(speed) < len(BAUDS):
            shown["baud"] = BAUDS[int(speed)]
        return {"frame": {**shown, "option": _MODES.get(mode, f"reserved ({mode})")}, "readings": []}
    who = find_identification(stream)
    if who is not None and who.raw == stream.strip(b"\x00\x7f"):
        frame = {"protocol": "iec62056", "kind": "identification", **_identification(who)}
        return several([(frame, identification_readings(who))])
    if stream[:1] == bytes((STX,)) and (block := find_block(stream)) is not None:
        frame = {"protocol": "iec62056", "kind": "data", "data_length": len(block) - 3, "bcc_in_frame": block[-1],
                 "bcc_ok": True}  # fmt: skip
        return several([(frame, decode_block(block[1:-2]))])
    return None


def explain(stream: bytes) -> Json:
    """Explain all readouts in ``stream``. If it has no readout, explain the single message in it."""
    readouts = Parser().feed(stream)
    if readouts:
        result = several([(_readout(one), decode_readout(one)) for one in readouts])
        result["frame"]["trailing"] = len(stream) - readouts[-1].offset - len(readouts[-1].raw)
        return result
    if (part := _part(stream)) is not None:
        return part
    raw, offset, error = broken(stream)
    who = find_identification(raw)
    partly: Json | None = None
    if who is not None:
        partly = {"frame": {"protocol": "iec62056", "kind": "readout", "offset": offset, **_identification(who)}}
    raise BrokenInput(placed(error, offset), partly, frame_hint(error, stream, "iec62056", _FORM))


def is_sound(stream: bytes) -> bool:
    """Whether the bytes contain a whole readout with an OBIS code.

    The code is required because the check character has only 7 bits, and may be right by chance.
    """
    return any(
        parse_code(reading.label) is not None for one in Parser().feed(stream) for reading in decode_block(one.block)
    )


EXPLAINERS = (
    Explainer(
        name="iec62056",
        title="IEC 62056-21",
        help="""Explain bytes of IEC 62056-21 (IEC 1107, D0): a readout, or a single message of this protocol.

    \b
    Example:
      meterhouse decode iec62056 '2F414243354D450D0A 02 312E382E3028303031322E352A6B5768290D0A210D0A 03 7C'

    \b
    Exit codes: 0 decoded, 2 wrong usage, 4 no valid readout.
    """,
        explain=explain,
        is_sound=is_sound,
    ),
)
