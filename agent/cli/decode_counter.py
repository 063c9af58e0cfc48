"""`meterhouse decode counter`: classifies the steps between the readings of a counter."""

from __future__ import annotations

import difflib
import itertools
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from agent.cli.decode_output import read_json, run
from agent.cli.options import json_option
from agent.intervals.series import MOST_COUNTS, NORMAL, Series, Step, is_all_ones
from drivers.explain import BrokenInput, Json, number
from drivers.model import clean_text

MAX_BITS, MAX_DIGITS = 64, 19
NO_READING = "Write null for a missing reading"
WANT = '{"unit": "kWh", "bits": 32, "resolution": 0.1, "points": [[time, value], ...]}'
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


_NO_READING = frozenset(
    ("", "-", "--", "nan", "inf", "+inf", "-inf", "null", "none", "n/a", "na", "unavailable", "unknown")
)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")
_ALMOST = re.compile(r"0x[\da-f]+|[+-]?[\d.,'_ ]*\d[\d.,'_ ]*([kMG]?(Wh|varh|VAh|J)|m3|m³|l|t)?", re.IGNORECASE)
_FINEST = 6  # only this many decimal places count as resolution; further places are rounding noise of a float
_KEYS = ("unit", "bits", "digits", "resolution", "scale", "points")


def _decimal(content: Any, what: str) -> Decimal:
    if isinstance(content, str) and _NUMBER.fullmatch(content.strip()):
        content = Decimal(content.strip())
    if isinstance(content, bool) or not isinstance(content, int | float | Decimal):
        raise BrokenInput(f"{what} must be a number, got {clean_text(repr(content), 40)}")
    found = Decimal(str(content))
    if not found.is_finite():
        raise BrokenInput(f"{what} must be a finite number, got {content!r}", hint=NO_READING)
    if found and not -60 < found.adjusted() < 400:
        got = clean_text(str(content), 40)
        raise BrokenInput(f"{what} must be 0, or at least 1e-59 and less than 1e400 in magnitude, got {got}")
    return found


def _whole(content: Any, what: str, most: int) -> int:
    if type(content) is not int or not 1 <= content <= most:
        raise BrokenInput(f"{what} must be 1 to {most}, got {clean_text(repr(content), 40)}")
    return content


def _points(content: Any) -> list[tuple[Any, Any]]:
    if not isinstance(content, list):
        seen = "but there are none" if content is None else f"got {clean_text(repr(content), 40)}"
        raise BrokenInput(f"points must be a list of [time, value] pairs, {seen}", hint=f"Give {WANT}")
    for place, point in enumerate(content):
        if not isinstance(point, list) or len(point) != 2:
            raise BrokenInput(f"points[{place}] must be [time, value], got {clean_text(repr(point), 40)}")
        if isinstance(point[0], bool | list | dict):
            raise BrokenInput(
                f"the time of points[{place}] must be a string or a number, got {clean_text(repr(point[0]), 40)}"
            )
    return [(time, value) for time, value in content]


def _value(content: Any, place: int) -> Decimal | str | None:
    """Return the value of one reading.

    It is a number, a word for an unknown number, or None if the reading is missing.
    """
    what, value = f"points[{place}]", f"the value of points[{place}]"
    if content is None or (isinstance(content, str) and content.strip().lower() in _NO_READING):
        return None
    if not isinstance(content, str) or _NUMBER.fullmatch(content.strip()):
        return _decimal(content, value)
    if _moment(content) is not None:
        raise BrokenInput(f"{what} has the time {clean_text(content, 40)!r} as its value", hint="Write [time, value]")
    if _ALMOST.fullmatch(content.strip()):
        hint = f"Write the value as 1234.5, without unit. {NO_READING}"
        raise BrokenInput(f"{value} must be a number, got {clean_text(content, 40)!r}", hint=hint)
    return content


def _levels(given: list[Decimal | str | None], modulus: Decimal | None) -> tuple[list[Decimal | None], set[int]]:
    """Return (values with each word replaced by a number, indexes of the words). Equal words get equal numbers."""
    highest = max([Decimal(0), *(v for v in given if isinstance(v, Decimal))])
    # the numbers for words are so high that a step from a word to a number is a large decrease
    above = 200 * highest or Decimal(1_000_003)
    if modulus is not None:
        above = min(above, modulus / 100)
    words: dict[str, Decimal] = {}
    values = [words.setdefault(v, above * (len(words) + 1)) if isinstance(v, str) else v for v in given]
    return values, {n for n, v in enumerate(given) if isinstance(v, str)}


def _resolution(content: dict[str, Any], values: list[Decimal]) -> Decimal:
    """Return the smallest step of the counter.

    This is ``resolution`` or ``scale`` if given, else the smallest decimal place of the values.
    """
    for key in ("resolution", "scale"):
        if content.get(key) is not None:
            found = _decimal(content[key], key)
            if found <= 0:
                raise BrokenInput(f"{key} must be above 0, got {found}")
            least = min((v for v in values if v), default=found)
            if found < Decimal("1e-9") and least / found >= MOST_COUNTS:
                most = (
                    f"{least} would be {least / found:.2E} steps of the counter, but no counter has more than "
                    f"{MOST_COUNTS:.2E} steps"
                )
                raise BrokenInput(f"{key} must be the value of one step of the counter, got {found}: {most}")
            return found
    places = [-int(v.normalize().as_tuple().exponent) for v in values]
    return Decimal(1).scaleb(-min(_FINEST, max([0, *places])))


def _modulus(content: dict[str, Any], resolution: Decimal) -> Decimal | None:
    if content.get("bits") is not None and content.get("digits") is not None:
        raise BrokenInput("give bits or digits, not both")
    if content.get("bits") is not None:
        return (1 << _whole(content["bits"], "bits", MAX_BITS)) * resolution
    if content.get("digits") is not None:
        return Decimal(10) ** _whole(content["digits"], "digits", MAX_DIGITS) * resolution
    return None


def _width_fits(modulus: Decimal, resolution: Decimal, values: list[Decimal]) -> bool:
    """True if most readings are below the modulus. A few higher readings are read errors; many show a wrong modulus."""
    known = [v for v in values if not is_all_ones(v / resolution)]
    return 2 * sum(v >= modulus for v in known) <= len(known)


def _moment(time: Any) -> datetime | None:
    if isinstance(time, int | Decimal):  # the number is seconds or milliseconds since 1970
        return EPOCH + timedelta(seconds=float(time) / (1000 if time > 10**11 else 1)) if 0 <= time < 10**14 else None
    try:
        return datetime.fromisoformat(str(time))
    except ValueError:
        return None


def _seconds(times: list[Any]) -> list[float] | None:
    """Return the seconds from the first reading to each reading.

    Returns None if a time is neither a number nor ISO 8601. All steps are then treated as equally long.
    """
    found = [_moment(t) for t in times]
    try:
        return [(t - found[0]).total_seconds() for t in found]  # type: ignore[operator]
    except TypeError:  # a value is not a time, or only some of the times have a zone
        return None


def _filled(values: list[Decimal | None]) -> list[Decimal | None]:
    """Return the values, with each missing one replaced by the last value before it."""
    out: list[Decimal | None] = []
    last: Decimal | None = None
    for value in values:
        last = last if value is None else value
        out.append(last)
    return out


def _order(times: list[Any], values: list[Decimal | None]) -> tuple[list[int], list[float] | None, list[str]]:
    """Return (indexes in the order of reading, seconds of these readings or None, warnings).

    If time and counter both go back, a reading arrived late, and the readings are sorted by time. If only the time goes
    back, the clock was set back, such as at the end of summer time. Then the readings keep their order, and the seconds
    are None, because the length of a step is unknown.
    """
    places, seconds = list(range(len(values))), _seconds(times)
    back = [n for n, (a, b) in enumerate(itertools.pairwise(seconds or []), 1) if b < a]
    if seconds is None or not back:
        return places, seconds, []
    # a missing value says nothing: the known values before and after it are compared
    before, after = _filled(values), _filled(values[::-1])[::-1]
    late = [n for n in back if (low := after[n]) is not None and (high := before[n - 1]) is not None and low < high]
    first = (late or back)[0]
    time, time_before = clean_text(str(times[first]), 40), clean_text(str(times[first - 1]), 40)
    where = f"the time of points[{first}], {time}, is earlier than the time of points[{first - 1}], {time_before}"
    if late:
        places.sort(key=seconds.__getitem__)
        note = (
            f"{where}, and the counter goes back there too. This means that points[{first}] arrived late; this "
            "command has therefore sorted the points by time"
        )
        return places, sorted(seconds), [note]
    note = (
        f"{where}, but the counter does not go back there. This means that the clock was set back; the points "
        "therefore keep the order of the input"
    )
    return places, None, [note]


def _typos(content: dict[str, Any]) -> list[str]:
    near = {key: difflib.get_close_matches(key, _KEYS, 1, 0.8) for key in content if key not in _KEYS}
    return [f"unknown entry {clean_text(key, 40)!r}: did you mean {n[0]!r}?" for key, n in near.items() if n]


def _shown(step: Step, points: list[tuple[Any, Any]], words: set[int]) -> Json:
    unknown = step.kind == NORMAL and step.increment != 0 and words & {step.index, step.index - 1}
    increment = None if unknown else number(step.increment)
    time = points[step.index][0]
    return {
        "time": clean_text(time) if isinstance(time, str) else number(time),
        "increment": increment,
        "kind": step.kind,
    }


def decode(content: Any) -> Json:
    """Return the classified steps of one series of counter readings."""
    if not isinstance(content, dict):
        raise BrokenInput(f"expected {WANT}")
    points, warnings = _points(content.get("points")), _typos(content)
    given = [_value(value, place) for place, (_, value) in enumerate(points)]
    known = [v for v in given if isinstance(v, Decimal)]
    resolution = _resolution(content, known)
    modulus = _modulus(content, resolution)
    if modulus is not None and not _width_fits(modulus, resolution, known):
        warnings.append(
            f"most readings are above the counter's range, {modulus}: are bits, digits and resolution right?"
        )
        modulus = None
    places, seconds, seen = _order([time for time, _ in points], _levels(given, modulus)[0])
    points = [points[n] for n in places]
    values, words = _levels([given[n] for n in places], modulus)
    steps = Series(values, resolution, modulus, seconds).steps()
    shown = [_shown(step, points, words) for step in steps]
    total = sum((s.increment for s, j in zip(steps, shown, strict=True) if j["increment"] is not None), Decimal(0))
    unit = content.get("unit", "")
    head = {"unit": clean_text(str(unit)), "resolution": number(resolution)}
    warned = {"warnings": warnings + seen} if warnings + seen else {}
    return head | {"steps": shown, "total": number(total)} | warned


def _content(file: Path) -> Any:
    try:
        return read_json(file, Decimal)
    except BrokenInput as broken:
        raise BrokenInput(broken.error, hint=broken.hint or f"Give {WANT}") from broken


@click.command("counter")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path, allow_dash=True))
@json_option
def command(file: Path, as_json: bool) -> None:
    """Explain a counter's readings: growth, rollover, reset, back step, glitch, swap.

    FILE is {"unit": "kWh", "bits": 32, "resolution": 0.1, "points": [["2026-11-24T00:00:00Z", 1.0], ...]};
    "digits" may replace "bits". A point may have null instead of a number if the reading is missing, or a text if the
    value of the reading is unknown. If FILE is -, stdin is read.

    \b
    Example:
      meterhouse decode counter readings.json --json

    \b
    Exit codes: 0 classified, 2 wrong usage, 4 the input is not a series of readings.
    """
    run(lambda: decode(_content(file)), as_json)
