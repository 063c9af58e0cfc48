"""``meterhouse decode`` for the meter protocols: DL/T 645, CJ/T 188, M-Bus, SunSpec, and counter series.

Bytes go in, one JSON object or a table comes out; no hardware, no store, no network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, NoReturn

import click

from drivers import dlt645
from drivers.model import Quality, Reading, Reason, clean_text

EXIT_CODES = "\b\nExit codes: 0 decoded, 2 wrong usage, 4 no sound frame or broken content."
SHOWN_UNITS = {"Cel": "°C"}  # packs speak SenML, people do not
Json = dict[str, Any]


class BrokenInput(Exception):
    """The bytes cannot be decoded; ``partly`` is what could be made out of them."""

    def __init__(self, error: str, partly: Mapping[str, Any] | None = None) -> None:
        super().__init__(error)
        self.error, self.partly = error, dict(partly or {})


def hex_bytes(words: Sequence[str]) -> bytes:
    """Bytes out of hex in any usual dress: spaces, colons, commas, 0x."""
    text = "".join(words).replace("0x", "").replace("0X", "")
    text = "".join(c for c in text if not c.isspace() and c not in ":-,;_")
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise BrokenInput(f"not hex: {clean_text(text, 40)!r}") from None


def number(value: Decimal | int | str | None) -> int | float | str | None:
    """A JSON number that reads back as the same decimal (15 digits), or the text, or None."""
    if not isinstance(value, Decimal):
        return value
    return int(value) if value == value.to_integral_value() else float(value)


def quality_name(quality: int) -> str:
    return (Quality(quality) if quality < 128 else Reason(quality)).name.lower()


def reading_json(reading: Reading) -> Json:
    shown: Json = {
        "name": reading.name,
        "value": number(reading.value),
        "unit": SHOWN_UNITS.get(reading.unit, reading.unit),
    }
    if reading.quality != Quality.GOOD:
        shown["quality"] = quality_name(reading.quality)
    if reading.raw:
        shown["raw"] = reading.raw.hex()
    for key, value in (
        ("storage", reading.storage),
        ("tariff", reading.tariff),
        ("subunit", reading.subunit),
        ("function", reading.function),
        ("time", reading.time),
        ("label", clean_text(reading.label)),
    ):
        if value:
            shown[key] = value
    return shown


def finish(decoded: Json, as_json: bool) -> NoReturn:
    """Print one result and leave with its exit code."""
    if as_json:
        click.echo(json.dumps(decoded, ensure_ascii=False))
    elif decoded["ok"]:
        _print_table(decoded)
    else:
        click.echo(f"cannot decode: {decoded['error']}", err=True)
    raise SystemExit(0 if decoded["ok"] else 4)


def run(decode: Any, as_json: bool) -> NoReturn:
    """Call ``decode`` and print what it gives, or its complaint."""
    try:
        decoded = {"ok": True, **decode()}
    except BrokenInput as broken:
        decoded = {"ok": False, "error": broken.error, **broken.partly}
    finish(decoded, as_json)


def _print_table(decoded: Json) -> None:
    for frame in decoded.get("frames") or [decoded.get("frame") or {}]:
        shown = {k: v for k, v in frame.items() if v not in (None, "", []) and k != "readings"}
        click.echo("  ".join(f"{key}={value}" for key, value in shown.items()))
    for reading in decoded.get("readings", ()):
        value = "-" if reading["value"] is None else reading["value"]
        notes = [f"{k} {reading[k]}" for k in ("quality", "storage", "tariff", "function", "time") if k in reading]
        line = f"{reading['name']:<36} {value!s:>16} {reading['unit']:<8} {', '.join(notes)}"
        click.echo(line.rstrip() + (f"  ({reading['label']})" if "label" in reading else ""))


def several(frames: Sequence[tuple[Json, Sequence[Reading]]]) -> Json:
    """One result out of all frames of an input: the first that carries readings leads."""
    described = [{**frame, "readings": [reading_json(r) for r in readings]} for frame, readings in frames]
    lead = next((f for f in described if f["readings"]), described[0])
    result: Json = {"frame": {k: v for k, v in lead.items() if k != "readings"}}
    if len(described) > 1:
        result["frames"] = described
    result["readings"] = [r for f in described for r in f["readings"]]
    return result


def wake_bytes(stream: bytes, offset: int) -> int:
    """How many FE stand right before ``offset``."""
    head = stream[:offset]
    return len(head) - len(head.rstrip(b"\xfe"))


# ------------------------------------------------------------------ DL/T 645


def _dlt645_frame(frame: dlt645.Frame, stream: bytes) -> Json:
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


def _dlt645_broken(stream: bytes) -> BrokenInput:
    raw, offset, error = dlt645.broken(stream)
    shown: Json = {}
    if len(raw) >= 12 and len(raw) == 12 + raw[9]:
        shown = _dlt645_frame(dlt645.Frame(raw, offset), stream)
    elif len(raw) >= 10:
        shown = {"protocol": "dlt645", "address": raw[6:0:-1].hex().upper(), "control": raw[8], "length": raw[9]}
    return BrokenInput(error, {"frame": shown} if shown else None)


def decode_dlt645(stream: bytes) -> Json:
    """All frames of ``stream``, and what they say."""
    frames = dlt645.Parser().feed(stream)
    if not frames:
        raise _dlt645_broken(stream)
    end = frames[-1].offset + len(frames[-1].raw)
    result = several([(_dlt645_frame(f, stream), dlt645.decode_frame(f)) for f in frames])
    result["frame"]["trailing"] = len(stream) - end
    if len(frames) > 1 and frames[0].more and (whole := _dlt645_joined(frames)) is not None:
        result["readings"] = [reading_json(r) for r in whole]
    return result


def _dlt645_joined(frames: Sequence[dlt645.Frame]) -> tuple[Reading, ...] | None:
    """The readings of one answer that came in several frames; None where the frames are of different answers."""
    replies = [f for f in frames if f.is_reply and not f.is_error]
    try:
        return dlt645.decode(replies[0].identifier, dlt645.join(replies))
    except dlt645.FrameError:
        return None


@click.command("dlt645")
@click.argument("words", metavar="HEX", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for scripts.")
def dlt645_command(words: tuple[str, ...], as_json: bool) -> None:
    """Explain DL/T 645 bytes (2007 and 1997): any FE before, noise around, several frames.

    \b
    Example:
      meterhouse decode dlt645 'FEFE 6861010000000068910833333433AB89674578 16'

    \b
    Exit codes: 0 decoded (an error answer of the meter too), 2 wrong usage,
      4 no sound frame.
    """
    run(lambda: decode_dlt645(hex_bytes(words)), as_json)


COMMANDS: list[click.Command] = [dlt645_command]
