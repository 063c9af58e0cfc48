"""``meterhouse decode counter``."""

from __future__ import annotations

import itertools
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from agent.cli.decode_meters.output import BrokenInput, Json, number, run
from agent.cli.decode_meters.sunspec import read_json
from agent.intervals.series import NORMAL, Series, Step
from drivers.model import clean_text

MAX_BITS, MAX_DIGITS = 64, 19


def _decimal(content: Any, what: str) -> Decimal:
    if isinstance(content, bool) or not isinstance(content, int | float | Decimal):
        raise BrokenInput(f"{what} must be a number, got {clean_text(repr(content), 40)}")
    found = Decimal(str(content))
    if not found.is_finite():
        raise BrokenInput(f"{what} must be a finite number, got {content!r}")
    return found


def _whole(content: Any, what: str, most: int) -> int:
    if type(content) is not int or not 1 <= content <= most:
        raise BrokenInput(f"{what} must be 1 to {most}, got {clean_text(repr(content), 40)}")
    return content


def _points(content: Any) -> list[tuple[Any, Any]]:
    if not isinstance(content, list):
        raise BrokenInput("points must be a list of [time, value]")
    for place, point in enumerate(content):
        if not isinstance(point, list) or len(point) != 2:
            raise BrokenInput(f"points[{place}] must be [time, value], got {clean_text(repr(point), 40)}")
    return [(time, value) for time, value in content]


def _levels(points: list[tuple[Any, Any]]) -> tuple[list[Decimal | None], set[int]]:
    """(values, indexes of those that are words). A word stands for an unknown level, the same word for the same one."""
    words: dict[str, Decimal] = {}
    values: list[Decimal | None] = []
    known = [_decimal(v, "value") for _, v in points if v is not None and not isinstance(v, str)]
    for place, (_, value) in enumerate(points):
        if value is None:
            values.append(None)
        elif isinstance(value, str):
            highest = 200 * max([Decimal(0), *known]) or Decimal(1_000_003)  # a fall from it is large
            values.append(words.setdefault(value, highest * (len(words) + 1)))
        else:
            values.append(_decimal(value, f"points[{place}]"))
    return values, {n for n, (_, v) in enumerate(points) if isinstance(v, str)}


def _resolution(content: dict[str, Any], values: list[Decimal | None]) -> Decimal:
    """What one count is worth: as said, else the last decimal place that any value uses."""
    for key in ("resolution", "scale"):
        if content.get(key) is not None:
            found = _decimal(content[key], key)
            if found <= 0:
                raise BrokenInput(f"{key} must be above 0, got {found}")
            return found
    places = [-int(v.normalize().as_tuple().exponent) for v in values if v is not None]
    return Decimal(1).scaleb(-max([0, *places]))


def _modulus(content: dict[str, Any], resolution: Decimal) -> Decimal | None:
    if content.get("bits") is not None and content.get("digits") is not None:
        raise BrokenInput("say bits or digits, not both")
    if content.get("bits") is not None:
        return (1 << _whole(content["bits"], "bits", MAX_BITS)) * resolution
    if content.get("digits") is not None:
        return Decimal(10) ** _whole(content["digits"], "digits", MAX_DIGITS) * resolution
    return None


def _seconds(times: list[Any]) -> list[float] | None:
    """Seconds since some epoch, where all times are ISO 8601 and grow; else None, and steps count alike."""
    try:
        found = [datetime.fromisoformat(str(t)) for t in times]
        seconds = [(t - found[0]).total_seconds() for t in found]
    except (ValueError, TypeError):  # no times, or some with and some without a zone
        return None
    return seconds if all(b > a for a, b in itertools.pairwise(seconds)) else None


def _shown(step: Step, points: list[tuple[Any, Any]], words: set[int]) -> Json:
    unknown = step.kind == NORMAL and step.increment != 0 and words & {step.index, step.index - 1}
    increment = None if unknown else number(step.increment)
    return {"time": points[step.index][0], "increment": increment, "kind": step.kind}


def decode(content: Any) -> Json:
    """The classified steps of one counter series."""
    if not isinstance(content, dict):
        raise BrokenInput('want {"unit": "kWh", "bits": 32, "resolution": 0.1, "points": [[time, value], ...]}')
    points = _points(content.get("points"))
    values, words = _levels(points)
    resolution = _resolution(content, values)
    modulus = _modulus(content, resolution)
    steps = Series(values, resolution, modulus, _seconds([time for time, _ in points])).steps()
    shown = [_shown(step, points, words) for step in steps]
    known = [s.increment for s, j in zip(steps, shown, strict=True) if j["increment"] is not None]
    total = sum(known, Decimal(0))
    unit = content.get("unit", "")
    return {"unit": clean_text(str(unit)), "resolution": number(resolution), "steps": shown, "total": number(total)}


@click.command("counter")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path, allow_dash=True))
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for scripts.")
def command(file: Path, as_json: bool) -> None:
    """Explain a counter's readings: growth, rollover, reset, back step, glitch, swap.

    FILE is {"unit": "kWh", "bits": 32, "resolution": 0.1, "points": [["2026-11-24T00:00:00Z", 1.0], ...]};
    "digits" may stand for "bits", null is a reading that does not exist; - reads standard input.

    \b
    Example:
      meterhouse decode counter readings.json --json

    \b
    Exit codes: 0 classified, 2 wrong usage, 4 not a series.
    """
    run(lambda: decode(read_json(file, Decimal)), as_json)
