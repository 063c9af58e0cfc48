"""From packs as published to intervals: what the agent does after a start, and anybody can do with an export."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from agent.intervals.cut import Cut
from agent.intervals.ledger import Ledger
from agent.intervals.page import PageSchema, Row
from agent.intervals.rows import PackSpan
from agent.intervals.tracked_points import Rule


def take_body(ledger: Ledger, body: Mapping[str, Any]) -> None:
    """A pack as parsed with ``parse_float=str`` into a ledger; a birth sets its table."""
    if "table" in body:
        ledger.use(body["table"])
    from_ms, to_ms = (round(float(body[name]) * 1000) for name in ("from", "to"))
    part = body.get("part")
    span = PackSpan(body["seq"], body["boot"], from_ms, to_ms, (part[0], part[1]) if part else None)
    ledger.take_pack(span, body.get("e", ()))


def counter_events_in(body: Mapping[str, Any]) -> set[tuple[str, str, int]]:
    """Counter events that a pack says already."""
    found = (e for e in body.get("events", ()) if e.get("event") == "counter")
    return {(str(e["point"]), str(e["kind"]), round(float(e["t"]) * 1000)) for e in found}


def emitted(stream: str, packs: Iterable[bytes], cut: Cut, rule: Rule) -> Iterator[tuple[int, PageSchema, list[Row]]]:
    """The rows of one stream, from its packs in order, a birth first; each with the sequence of the pack that wrote it.

    They equal what the agent wrote to the last digit, from the first interval on that lies wholly after the beginning
    of the first pack: the interval before may have begun earlier in the agent.
    """
    ledger = Ledger(stream, cut, rule)
    for data in packs:
        take_body(ledger, json.loads(data, parse_float=str))
        for shape, rows in ledger.rows():
            yield ledger.seq, shape, rows
