"""The table of a birth says where each value's bytes lie and what is done to them: signed, and the only such place."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from agent.cli.ring_follower import tables_of
from agent.pack.table import BirthPoints, BirthTable
from agent.service.births import point_row
from agent.service.seal_jobs import TableVersion
from agent.service.status import point_tables
from drivers.model import PACES, DeviceSpec, Kind, Point, RegisterPart
from ext.ring import Ring

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


def test_every_device_that_shares_its_points_is_found_in_the_snapshot(tmp_path: Path) -> None:
    """Also the third and fourth of a kind, with one of another kind between."""

    def points(name: str) -> BirthPoints:
        return BirthPoints([{"n": name, "u": "W", "kind": "gauge", "pace": PACES[0]}])

    meters, other = points("ac.power.active"), points("device.temperature")
    used = {"m1": meters, "m2": meters, "x1": other, "m3": meters, "m4": meters, "x2": other, "x3": other}
    ring = Ring.create(str(tmp_path / "ring"), 1 << 18, 7, 1, bytes(32))
    versions = [
        (name, TableVersion(ring, number, BirthTable(name, {}, shared), 0))
        for number, (name, shared) in enumerate(used.items(), 1)
    ]
    text = point_tables(versions)
    found = {device: [point["n"] for point in read] for _, device, read in tables_of({"tables": json.loads(text)})}
    assert found == {name: [shared.names[0][0]] for name, shared in used.items()}
    assert text.count('"n":') == 2, "each kind is written once"
    ring.close()
