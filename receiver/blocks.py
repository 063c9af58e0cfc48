"""The readings of a pack as arrays, so that a database needs one row per pack instead of one per reading."""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final
from uuid import UUID

from receiver.database import short_hash

_OTHER: Final = ("q", "x", "vs", "vb", "mt")


class ReadingBlock:
    """Names, units, times and values of the records in a verified pack, in the order of the records.

    Args:
        records: member ``e`` of the pack.
        from_ms: beginning of the pack in UTC ms; ``after_ms`` counts from it.
    """

    def __init__(self, records: list[dict[str, Any]], from_ms: int) -> None:
        self.points = [_plain(record["n"]) for record in records]
        self.units = [_plain(record.get("u", record.get("du", ""))) for record in records]
        names = "\0".join((*self.points, "", *self.units))
        self.layout: UUID = short_hash(sha256(names.encode()).digest())
        self.after_ms: list[int] = []
        self.values: list[float | None] = []
        self.other: dict[str, dict[str, Any]] = {}
        base = 0.0
        for place, record in enumerate(records, 1):
            base = record.get("bt", base)
            after = round((base + record.get("t", 0)) * 1000) - from_ms
            self.after_ms.append(max(-(1 << 31), min((1 << 31) - 1, after)))
            value = record.get("v")
            self.values.append(float(value) if value is not None else None)
            more: dict[str, Any] = {name: record[name] for name in _OTHER if name in record}
            if more:
                self.other[str(place)] = more


def _plain(value: object) -> str:
    """The text without NUL characters, because PostgreSQL cannot store them.

    A verified pack may contain them: its check looks at a unit only if the birth declares the point.
    """
    return str(value).replace("\0", "")
