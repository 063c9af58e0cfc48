"""Prints the output of `read`: a table for people, or one line of JSON per point for scripts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

import click

from agent.cli.common import as_line
from drivers.model import FLOATS, Point, Reading, Reason

HEADS: Final[Mapping[str, Mapping[str, str]]] = {
    "en": {word: word for word in ("point", "value", "change", "unit", "quality", "meaning", "raw")},
    "zh": {
        "point": "测点", "value": "数值", "change": "变化", "unit": "单位", "quality": "质量", "meaning": "含义",
        "raw": "原始字节",
    },
}  # fmt: skip
NARROW: Final = 100  # on a terminal with at most this many columns, the words of a state are cut shorter
# with these reasons, the device itself reports that it has no value
NOT_MISSING: Final = {Reason.SENTINEL, Reason.ASLEEP}


def is_missing(point: Point, reading: Reading) -> bool:
    """True if a point should have a value but has none. False if it is optional or reported as not available."""
    if reading.value is not None or reading.quality in NOT_MISSING:
        return False
    return not point.optional


def meaning(point: Point, lang: str | None) -> str:
    """Return the meaning of a point from the vocabulary; "" if the vocabulary lacks it, or if ``lang`` is None."""
    if not lang:
        return ""
    from drivers.profile import vocabulary

    entry = vocabulary().find(point.name)
    return "" if entry is None else entry.zh if lang == "zh" else entry.en


def label(point: Point, reading: Reading) -> str:
    """Return the words for the states that the value encodes, separated by commas; "" if there are none."""
    value = reading.value
    if value is None or isinstance(value, str) or value != int(value):
        return ""
    number = int(value)
    words = [point.labels[number]] if number in point.labels else []
    words += [word for bit, word in point.bit_labels.items() if number >> bit & 1]
    if number in point.states and point.states[number] not in words:
        words.append(point.states[number])
    return ", ".join(words)


def _growth(reading: Reading, first: Reading | None) -> Decimal | None:
    """Return the value minus the value of an earlier reading; None if one of them is not a number."""
    ends = (reading.value, first.value if first else None)
    if any(not isinstance(end, (Decimal, int)) for end in ends):
        return None
    return Decimal(str(ends[0])) - Decimal(str(ends[1]))


def print_json(
    device: str,
    rows: Iterable[tuple[Point, Reading]],
    lang: str | None,
    raw: bool,
    before: Mapping[str, Reading],
) -> None:
    """Print one object per point.

    ``before``: point -> earlier reading, from which changes are computed; if it is empty, no changes are shown.
    """
    from agent.cli.common import show_quality
    from agent.cli.ring_follower import number

    for point, reading in rows:
        value = reading.value
        facts: dict[str, Any] = {
            "device": device,
            "point": point.name,
            "value": value if isinstance(value, int) else number(value),
            "unit": reading.unit,
            "quality": show_quality(reading.quality) or "good",
        }
        if (growth := _growth(reading, before.get(point.name))) is not None:
            facts["change"] = number(growth)
        if words := label(point, reading):
            facts["label"] = words
        if text := meaning(point, lang):
            facts["meaning"] = text
        if raw:
            facts["raw"] = reading.raw.hex()
        click.echo(as_line(facts))


def shown_value(point: Point, value: Decimal | int | str | None) -> str:
    """Return a value as text. A float has only its significant digits."""
    from agent.cli.ring_follower import show_number

    return str(value) if isinstance(value, int) else show_number(value, point.kind.value, point.type in FLOATS)


def print_table(
    rows: Iterable[tuple[Point, Reading]], lang: str | None, raw: bool, before: Mapping[str, Reading], language: str
) -> None:
    """Print one row per point. ``language``: language of the headers. The other arguments are as in ``print_json``."""
    from agent.cli.common import show_unit
    from agent.cli.console_tables import cell, open_console, plain_table, quality_word

    more = [
        *(["change"] if before else []),
        "unit",
        "quality",
        *(["meaning"] if lang else []),
        *(["raw"] if raw else []),
    ]
    heads = HEADS[language]
    columns = [heads[word] for word in ("point", "value", *more)]
    table = plain_table("", *columns, right=(heads["value"], heads["change"]))
    console = open_console()
    most = 60 if console.width > NARROW else 20  # limit of the characters for the words of a state
    table.columns[0].min_width = 24
    for point, reading in rows:
        shown = shown_value(point, reading.value)
        words = label(point, reading)
        quality = quality_word(reading.quality, language)
        colour = "red" if is_missing(point, reading) else "yellow"
        row = [cell(point.name), cell(shown, 60) + (f" ({cell(words, most)})" if words else "")]
        if before:
            growth = _growth(reading, before.get(point.name))
            row.append("" if not growth else f"{'+' if growth > 0 else ''}{shown_value(point, growth)}")
        row += [cell(show_unit(reading.unit)), f"[{colour}]{quality}[/]"]
        row += [cell(meaning(point, lang), 120)] if lang else []
        row += [reading.raw.hex(" ").upper()] if raw else []
        table.add_row(*row)
    console.print(table)
