"""What `decode dlt645` shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from drivers.dlt645.frames import FUNCTIONS, Frame, Parser, broken, error_text, join
from drivers.dlt645.values import decode, decode_frame
from drivers.explain import Explainer, Json, checksum_frame_error, reading_json, several, wake_bytes
from drivers.model import FrameError, Reading

_FORM = "68h, six address bytes, 68h, control, length, data, checksum, 16h"


def _frame(frame: Frame, stream: bytes) -> Json:
    raw = frame.raw
    shown: Json = {
        "protocol": "dlt645",
        "version": frame.version,
        "preamble_fe": wake_bytes(stream, frame.offset),
        "leading_bytes": frame.offset,
        "offset": frame.offset,
        "address": frame.address,
        "control": frame.control,
        "function": frame.function,
        "function_name": FUNCTIONS.get(frame.function, ""),
        "direction": "reply" if frame.is_reply else "request",
        "error": frame.is_error,
        "more_frames": frame.is_reply and frame.more,
        "length": frame.length,
        "checksum_in_frame": frame.checksum,
        "checksum_computed": frame.checksum_computed,
        "checksum_ok": frame.checksum == frame.checksum_computed,
        "stop_ok": raw[-1] == 0x16,
        "data_minus33_hex": frame.data.hex(),
    }
    if frame.identifier:
        shown["di"] = frame.identifier
    if frame.sequence is not None:
        shown["sequence"] = frame.sequence
    if frame.is_error:
        code = frame.error_code
        shown |= {"error_code": code, "error_text": "" if code is None else error_text(code)}
    if frame.reported_address:
        shown["reported_address"] = frame.reported_address
        shown["address_matches_header"] = frame.reported_address == frame.address
    if frame.version == "1997" and frame.is_reply and frame.identifier and frame.payload:
        shown["value_digits"] = frame.payload[::-1].hex()
    return shown


def explain(stream: bytes) -> Json:
    """All frames of ``stream``, decoded."""
    frames = Parser().feed(stream)
    if not frames:
        raise checksum_frame_error(
            "dlt645", broken(stream), lambda raw, at: _frame(Frame(raw, at), stream), Frame.LENGTH_AT, _FORM, stream
        )
    end = frames[-1].offset + len(frames[-1].raw)
    result = several([(_frame(f, stream), decode_frame(f)) for f in frames])
    result["frame"]["trailing"] = len(stream) - end
    parts = _answers(frames)
    if any(len(part) > 1 for part in parts):
        result["readings"] = [reading_json(r) for part in parts for r in _readings(part)]
    if warnings := [words for part in parts for words in _lacks(part)]:
        result["warnings"] = warnings
    return result


def _answers(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Group the replies by answer: the frames of one multi-frame answer form one group."""
    parts: list[list[Frame]] = []
    for frame in frames:
        if not frame.is_reply or frame.is_error:
            continue
        if frame.is_follow_on and parts and _goes_on(parts[-1], frame):
            parts[-1].append(frame)
        else:
            parts.append([frame])
    return parts


def _goes_on(part: Sequence[Frame], frame: Frame) -> bool:
    if not part[-1].more:
        return False
    try:
        join([*part, frame])
    except FrameError:
        return False
    return True


def _readings(part: Sequence[Frame]) -> tuple[Reading, ...]:
    if len(part) == 1 or part[0].is_follow_on:
        return tuple(r for frame in part for r in decode_frame(frame))
    return decode(part[0].identifier, join(part))


def _lacks(part: Sequence[Frame]) -> Iterator[str]:
    """Yield a warning if frames of this answer are missing."""
    if part[0].is_follow_on:
        number = "" if part[0].sequence is None else f" {part[0].sequence}"
        what = f"it is unknown which values of {part[0].identifier} this frame contains"
        yield f"follow-on frame{number} without the preceding frames: {what}"
    if part[-1].more:
        yield f"the meter has more data for {part[-1].identifier or 'this'}: the follow-on frames are missing"


EXPLAINERS = (
    Explainer(
        name="dlt645",
        title="DL/T 645",
        help="""Explain DL/T 645 bytes (2007 and 1997), also with leading FE, noise or several frames.

    \b
    Example:
      meterhouse decode dlt645 'FEFE 6861010000000068910833333433AB89674578 16'

    \b
    Exit codes: 0 decoded (also an error answer of the meter), 2 wrong usage,
      4 no valid frame.
    """,
        explain=explain,
        is_sound=lambda stream: bool(Parser().feed(stream)),
    ),
)
