"""How ``meterhouse decode`` takes bytes in and shows what they mean: one JSON object or a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, NoReturn

import click

from drivers.model import Quality, Reading, Reason, clean_text

SHOWN_UNITS = {"Cel": "°C"}  # packs speak SenML, people do not
MAX_TEXT = 1000  # characters of a device's text, at most: a whole telegram of maker's data in hex
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
        "value": clean_text(reading.value, MAX_TEXT) if isinstance(reading.value, str) else number(reading.value),
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
    for model in decoded.get("models", ()):
        click.echo(f"model {model['id']} at {model['address']}, {model['length']} registers")
        for name, value in model["points"].items():
            if value is not None:
                click.echo(f"  {name:<34} {value!s:>16}")
    for step in decoded.get("steps", ()):
        increment = "?" if step["increment"] is None else step["increment"]
        click.echo(f"{step['time']!s:<32} {increment!s:>16}  {step['kind']}")
    for warning in decoded.get("warnings", ()):
        click.echo(f"warning: {warning}", err=True)


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
