"""``meterhouse decode dlt645``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from agent.cli.decode_meters.hints import broken_frame
from agent.cli.decode_meters.output import Json, hex_bytes, reading_json, run, several, wake_bytes
from agent.cli.options import json_option
from drivers.dlt645 import codec as dlt645
from drivers.model import Reading

_FORM = "68h, six address bytes, 68h, control, length, data, checksum, 16h"


def _frame(frame: dlt645.Frame, stream: bytes) -> Json:
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
        "function_name": dlt645.FUNCTIONS.get(frame.function, ""),
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
        shown |= {"error_code": code, "error_text": "" if code is None else dlt645.error_text(code)}
    if frame.reported_address:
        shown["reported_address"] = frame.reported_address
        shown["address_matches_header"] = frame.reported_address == frame.address
    if frame.version == "1997" and frame.is_reply and frame.identifier and frame.payload:
        shown["value_digits"] = frame.payload[::-1].hex()
    return shown


def decode(stream: bytes) -> Json:
    """All frames of ``stream``, decoded."""
    frames = dlt645.Parser().feed(stream)
    if not frames:
        raise broken_frame("dlt645", dlt645, _frame, 9, _FORM, stream)
    end = frames[-1].offset + len(frames[-1].raw)
    result = several([(_frame(f, stream), dlt645.decode_frame(f)) for f in frames])
    result["frame"]["trailing"] = len(stream) - end
    parts = _answers(frames)
    if any(len(part) > 1 for part in parts):
        result["readings"] = [reading_json(r) for part in parts for r in _readings(part)]
    if warnings := [words for part in parts for words in _lacks(part)]:
        result["warnings"] = warnings
    return result


def _answers(frames: Sequence[dlt645.Frame]) -> list[list[dlt645.Frame]]:
    """The replies, those together that are one answer in several frames."""
    parts: list[list[dlt645.Frame]] = []
    for frame in frames:
        if not frame.is_reply or frame.is_error:
            continue
        if frame.is_follow_on and parts and _goes_on(parts[-1], frame):
            parts[-1].append(frame)
        else:
            parts.append([frame])
    return parts


def _goes_on(part: Sequence[dlt645.Frame], frame: dlt645.Frame) -> bool:
    if not part[-1].more:
        return False
    try:
        dlt645.join([*part, frame])
    except dlt645.FrameError:
        return False
    return True


def _readings(part: Sequence[dlt645.Frame]) -> tuple[Reading, ...]:
    if len(part) == 1 or part[0].is_follow_on:
        return tuple(r for frame in part for r in dlt645.decode_frame(frame))
    return dlt645.decode(part[0].identifier, dlt645.join(part))


def _lacks(part: Sequence[dlt645.Frame]) -> Iterator[str]:
    """A warning for missing frames of an answer."""
    if part[0].is_follow_on:
        number = "" if part[0].sequence is None else f" {part[0].sequence}"
        what = f"it is unknown which values of {part[0].identifier} it holds"
        yield f"follow-on frame{number} without those before it: {what}"
    if part[-1].more:
        yield f"the meter has more of {part[-1].identifier or 'this'}: the following frames are missing"


@click.command("dlt645")
@click.argument("words", metavar="HEX", nargs=-1, required=True)
@json_option
def command(words: tuple[str, ...], as_json: bool) -> None:
    """Explain DL/T 645 bytes (2007 and 1997): any FE before, noise around, several frames.

    \b
    Example:
      meterhouse decode dlt645 'FEFE 6861010000000068910833333433AB89674578 16'

    \b
    Exit codes: 0 decoded (an error answer of the meter too), 2 wrong usage,
      4 no sound frame.
    """
    run(lambda: decode(hex_bytes(words)), as_json)
