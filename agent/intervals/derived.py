"""Derived points: sums of counters, and heat from flow and temperatures, in one stretch of time.

They are results, not readings: the values that devices report stay unchanged. The heat itself is computed at each
reading of the flow (``agent.intervals.heat``). This module uses it as an amount, like that of a counter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from agent.intervals.meters import MeterAmount
from agent.intervals.page_format import Column
from agent.intervals.tracked_points import heat_point
from drivers.encoding import exact_text


@dataclass(frozen=True, slots=True)
class DerivedTerm:
    """One term of a derived point, which is a sum of terms."""

    sign: int  # 1 or -1
    stream: str
    point: str


def terms_of(row: Mapping[str, Any], base: str) -> tuple[DerivedTerm, ...]:
    """Return the terms of a derived point.

    ``row``: one entry of the member ``derived`` in the birth of ``_indicators``.

    ``base``: the full name of the gateway, such as ``park7/gw01``.
    """
    if "sum" not in row:
        return (DerivedTerm(1, f"{base}/{row['heat']['device']}", heat_point(row["n"])),)
    out = []
    for text in row["sum"]:
        device, _, point = text.removeprefix("-").partition("/")
        out.append(DerivedTerm(-1 if text.startswith("-") else 1, f"{base}/{device}", point))
    return tuple(out)


class Derived:
    """All derived points of a gateway. ``rows``: the member ``derived`` of the birth of ``_indicators``."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], base: str) -> None:
        self._terms = {str(row["n"]): terms_of(row, base) for row in rows}
        self._wanted = {(term.stream, term.point) for terms in self._terms.values() for term in terms}

    def wants(self, stream: str, column: Column) -> bool:
        """Return True if a column is a term of a derived point."""
        return (stream, column.point) in self._wanted

    def results(self, meters: Iterable[MeterAmount], length_ms: int) -> list[dict[str, Any]]:
        """Return one result for each derived point. The caller adds the period.

        If terms are unknown, or have different units, the result has no value. It has a list ``missing`` of these
        terms, or of these units, instead.
        """
        known = {(one.key.stream, one.key.point): one for one in meters if one.covered_ms}
        return [self._result(name, known, length_ms) for name in self._terms]

    def _result(self, name: str, known: Mapping[tuple[str, str], MeterAmount], length_ms: int) -> dict[str, Any]:
        terms = self._terms[name]
        found = [(term.sign, known[term.stream, term.point]) for term in terms if (term.stream, term.point) in known]
        missing = [f"{t.stream.rpartition('/')[2]}/{t.point}" for t in terms if (t.stream, t.point) not in known]
        plain: dict[str, Any] = {"kind": "derived", "id": name}
        units = {one.unit for _, one in found}
        if missing or len(units) != 1:
            return {**plain, "missing": missing or sorted(units)}
        whole = sum((abs(one.amount) for _, one in found), Decimal(0))
        flawed = sum((abs(one.flawed) for _, one in found), Decimal(0))
        covered_ms = min(length_ms, *(one.covered_ms for _, one in found))
        return {
            **plain,
            "u": units.pop(),
            "v": exact_text(sum((sign * one.amount for sign, one in found), Decimal(0))),
            "completeness": exact_text(Decimal(covered_ms * 1_000_000 // length_ms) / 1_000_000),
            "estimated": exact_text((flawed / whole).quantize(Decimal("1e-6"))) if whole else "0",
            "from": [
                {"stream": one.key.stream, "point": one.key.point, "first": one.first_seq, "last": one.last_seq}
                for _, one in found
            ],
        }
