"""Template values for two pages: the source of a point (its register, profile and identity), and a signed pack."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from agent.web.labels import fact_name, value_word
from agent.web.render import point_title
from agent.web.views import reason_text
from drivers.model import clean_text

MOST_ROWS: Final = 400  # limit of the readings in the table of a pack; the JSON below the table has all readings
MOST_FACTS: Final = 60


def _named(rows: list[tuple[str, str]], language: str) -> list[tuple[str, str]]:
    """Return the rows with names and values replaced by words. Names and values without a known word stay."""
    return [
        (_identity(name, language) or fact_name(name, language), value_word(name, text, language))
        for name, text in rows
    ]


def _identity(name: str, language: str) -> str:
    """Return the title of an identity member, or "" for other members.

    The title of ``identity.hardware`` is the title of the point ``device.hardware``.
    """
    front, _, inner = name.partition(".")
    return point_title(f"device.{inner}", language) if front == "identity" and inner else ""


def _text(value: object) -> str:
    if isinstance(value, list) and len(value) == 2 and all(isinstance(one, str) for one in value):
        return clean_text(" … ".join(value), 200)
    if value in ({}, []):
        return "–"
    if isinstance(value, (dict, list)):
        return clean_text(json.dumps(value, ensure_ascii=False), 400)
    return "–" if value is None else clean_text(str(value), 200)


def _facts(value: object, front: str = "") -> list[tuple[str, str]]:
    """Return the members of a JSON object as (name, text).

    Nested members get dotted names such as ``source.address``.
    """
    if not isinstance(value, Mapping):
        return []
    found: list[tuple[str, str]] = []
    for name, one in value.items():
        key = f"{front}{clean_text(str(name), 60)}"
        if isinstance(one, Mapping) and one and len(one) <= 12:
            found += _facts(one, f"{key}.")
        else:
            found.append((key, _text(one)))
    return found[:MOST_FACTS]


def source(answer: Mapping[str, Any], point: str, language: str) -> dict[str, Any]:
    """Return the template values for the page of a point's source. ``answer``: the birth of the point's device."""
    pack = answer["pack"]
    table = pack.get("table")
    table = table if isinstance(table, Mapping) else {}
    points = table.get("points")
    found = (
        [one for one in points if isinstance(one, Mapping) and one.get("n") == point]
        if isinstance(points, list)
        else []
    )
    device = table.get("device")
    return {
        "register": _named(_facts(found[0]) if found else [], language),
        "device": _named(_facts(device if isinstance(device, Mapping) else {}), language),
        "pack": _named([*_head(pack, answer["hash"]), ("config", _text(table.get("config")))], language),
        "seq": pack.get("seq") if isinstance(pack.get("seq"), int) else 0,
    }


def _head(pack: Mapping[str, Any], digest: object) -> list[tuple[str, str]]:
    names = ("stream", "boot", "seq", "prev", "birth")
    return [*((name, _text(pack.get(name))) for name in names if name in pack), ("hash", _text(digest))]


def pack_view(answer: Mapping[str, Any], timezone: str, language: str) -> dict[str, Any]:
    """Return the template values for the page of a pack: its first readings, its gaps, and the whole pack as JSON."""
    pack, zone = answer["pack"], ZoneInfo(timezone)

    def at(seconds: object) -> str:
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < 7.2e9:
            return "–"
        return f"{datetime.fromtimestamp(seconds, zone):%Y-%m-%d %H:%M:%S}"

    rows, base_time = [], 0.0
    records = pack.get("e")
    for record in records[:MOST_ROWS] if isinstance(records, list) else ():
        if not isinstance(record, Mapping):
            continue
        base_time = float(record.get("bt", base_time)) if isinstance(record.get("bt", 0), (int, float)) else base_time
        offset = record.get("t", 0)
        seconds = base_time + offset if isinstance(offset, (int, float)) else None
        value = record.get("x", record.get("v", record.get("vs")))
        shown = _text(value)  # the value is not rounded, because the page shows the digits that were signed
        unit = record.get("u", record.get("du", ""))
        rows.append((at(seconds), _text(record.get("n", "")), shown, _text(unit), _text(record.get("q", ""))))
    gaps = [
        (
            at(gap.get("from")),
            at(gap.get("to")),
            reason_text(str(gap.get("reason", "")), language),
            _text(gap.get("points")),
        )
        for gap in (pack.get("gaps") if isinstance(pack.get("gaps"), list) else [])[:MOST_ROWS]
        if isinstance(gap, Mapping)
    ]
    raw = json.dumps(pack, ensure_ascii=False, indent=1)
    return {
        "head": _named(
            [*_head(pack, answer["hash"]), ("from", at(pack.get("from"))), ("to", at(pack.get("to")))], language
        ),
        "rows": rows,
        "more": max(0, len(records) - MOST_ROWS) if isinstance(records, list) else 0,
        "gaps": gaps,
        "raw": raw if len(raw) < 400_000 else "",
    }
