"""The table of a birth says where each value's bytes lie and what is done to them: signed, and the only such place."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from agent.service.births import point_row
from drivers.model import PACES, DeviceSpec, Kind, Point, RegisterPart

D = Decimal


@pytest.mark.parametrize(
    ("point", "source"),
    [
        (
            Point("ac.voltage.l1", Kind.GAUGE, "V", function=4, address=0, count=2, type="f32", order="ABCD"),
            {"type": "f32", "function": 4, "address": 0, "count": 2, "order": "ABCD"},
        ),
        (
            Point("device.alarm", Kind.STATE, address=12, type="u16", bit=0),
            {"type": "u16", "function": 3, "address": 12, "count": 1, "bit": 0},
        ),
        (
            Point("device.mode", Kind.STATE, address=13, type="u16", mask=0x0F00),
            {"type": "u16", "function": 3, "address": 13, "count": 1, "mask": 0x0F00},
        ),
        (
            Point("device.temperature", Kind.GAUGE, "Cel", address=5, type="i16", scale=D("0.10"), offset=D("-400")),
            {"type": "i16", "function": 3, "address": 5, "count": 1, "scale": "0.1", "offset": "-400"},
        ),
        (
            Point("device.clock", Kind.GAUGE, "s", address=9, count=3, type="clock", clock="utc"),
            {"type": "clock", "function": 3, "address": 9, "count": 3, "clock": "utc"},
        ),
        (
            Point("ac.energy.import", Kind.COUNTER, "kWh", type="bcd", key="00010000", scale=D("1E-2")),
            {"type": "bcd", "key": "00010000", "scale": "0.01"},
        ),
        (
            Point(
                "ac.energy.export", Kind.COUNTER, "kWh", address=7, count=4,
                parts=(RegisterPart(7, "u16", scale=D(1000)), RegisterPart(9, "u32", D("0.001"), "CDAB")),
            ),
            {
                "type": "u16", "function": 3, "address": 7, "count": 4,
                "parts": [
                    {"address": 7, "type": "u16", "scale": "1000"}, {"address": 9, "type": "u32", "scale": "0.001"},
                ],
            },
        ),
    ],
    ids=lambda value: value.name if isinstance(value, Point) else "",
)  # fmt: skip
def test_a_source_is_whole(point: Point, source: dict[str, Any]) -> None:
    spec = DeviceSpec("m1", "park7/gw01/m1", "1", "modbus", "eastron/sdm630", (point,), (1000,) * len(PACES))
    row = point_row(spec.points[0], spec, frozenset({"V", "kWh", "Cel", "s"}))
    assert row["n"] == point.name and row["source"] == source
