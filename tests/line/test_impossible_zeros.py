"""Zeros that are impossible together are gaps, and all other zeros are readings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from fnmatch import fnmatchcase
from random import Random

import pytest

from drivers.modbus.device import ModbusDevice
from drivers.model import ImpossibleZeros, Kind, Point, Reason, RegisterPart
from drivers.sim.device import SimDevice
from drivers.sim.image import Image
from ext.ring import Ring
from tests.kits.lines import FAST, TICK, Field, gauge, sim_device, spec_of

Values = Callable[[], dict[int, object]]
GAP = f"gap {Reason.SENTINEL}"
PARTS = (RegisterPart(80, "u16", Decimal(1000)), RegisterPart(81, "u16", Decimal(1)))
POINTS = [  # no holes allowed: each of them is a read of its own
    gauge(0, "ac.voltage.l1"),
    gauge(50, "ac.frequency", type="f32", order="CDAB", count=2),
    gauge(60, "device.temperature", offset=Decimal(-40)),
    gauge(70, "ac.power.active", type="i16"),
    Point("ac.energy.import", Kind.COUNTER, "kWh", "fast", address=80, count=2, parts=PARTS),
    Point("device.model", Kind.TEXT, pace="fast", address=90, count=2, type="str"),
    Point("x.alarm", Kind.STATE, pace="fast", function=1, address=3, type="bits"),
    gauge(100, "x.slow", pace="slow"),
]
RULE = ImpossibleZeros(("ac.voltage.*", "ac.frequency", "device.temperature"))


def device_with(words: dict[int, int]) -> tuple[SimDevice, Image]:
    image = Image()
    image.put_words(0, [0] * 110)
    image.put_bits(0, [0] * 8)
    for address, word in words.items():
        image.put_words(address, [word])
    return SimDevice(1, image), image


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({}, {**dict.fromkeys((0, 1, 2, 3, 4, 6), GAP), 5: GAP}),  # it starts: everything is 0
        ({70: 5, 90: 0x4142}, {**dict.fromkeys((0, 1, 2, 4, 6), GAP), 3: 5, 5: "AB"}),  # what is not 0 is a reading
        ({60: 65}, {0: 0, 1: 0, 2: 25, 3: 0, 4: 0, 5: GAP, 6: 0}),  # the grid has failed
        ({51: 0x4248}, {0: 0, 1: 50, 2: -40, 3: 0, 4: 0, 5: GAP, 6: 0}),
        ({81: 7}, {**dict.fromkeys((0, 1, 2, 3, 6), GAP), 4: 7, 5: GAP}),  # one part of a counter is 0
    ],
)
async def test_zeros_that_are_impossible_together_are_gaps_across_the_reads_of_a_visit(
    field: Field, ring: Ring, values: Values, words: dict[int, int], expected: dict[int, object]
) -> None:
    device, _ = device_with(words)
    spec = replace(spec_of(POINTS), impossible=(RULE,))
    driver = ModbusDevice(spec, field.line(await field.tcp(device)), ring, 0)
    result = await driver.poll(TICK, FAST)
    found = values()
    assert found == expected
    assert result.error is None and len(result.positions) == len(set(result.positions))
    shown = await driver.read_points([point.name for point in POINTS[:7]])
    assert {n: GAP if shown[p.name].value is None else 0 for n, p in enumerate(POINTS[:7])} == {
        n: GAP if value == GAP else 0 for n, value in expected.items()
    }


async def test_a_counter_that_is_zero_while_the_device_starts_is_neither_suspect_nor_a_reset(
    field: Field, ring: Ring, values: Values
) -> None:
    device, image = device_with({0: 230, 51: 0x4248, 60: 65, 80: 12, 81: 345})
    line = field.line(await field.tcp(device))
    driver = ModbusDevice(replace(spec_of(POINTS), impossible=(RULE,)), line, ring, 0)
    await driver.poll(TICK, FAST)
    assert values()[4] == 12345
    image.put_words(0, [0] * 110)
    for n in range(1, 200):  # for so long that a new level would be believed
        await driver.poll(TICK + 1000 * n, FAST)
        assert values()[4] == GAP
    for address, word in {0: 230, 51: 0x4248, 60: 65, 80: 12, 81: 346}.items():
        image.put_words(address, [word])
    await driver.poll(TICK + 200_000, FAST)
    assert values()[4] == 12346
    assert (driver.doubts, driver.counter_jump) == (0, None)


async def test_without_one_of_its_points_a_rule_says_nothing(field: Field, ring: Ring, values: Values) -> None:
    device, _ = device_with({})
    line = field.line(await field.tcp(device))
    for points in (POINTS[1:5], POINTS[:2]):  # this firmware lacks a point of the rule
        await ModbusDevice(replace(spec_of(points), impossible=(RULE,)), line, ring, 0).poll(TICK, FAST)
        assert GAP not in values().values()
    slow = replace(RULE, zeros_together=("ac.frequency", "x.slow"))
    driver = ModbusDevice(replace(spec_of(POINTS[:4] + POINTS[7:]), impossible=(slow,)), line, ring, 0)
    await driver.poll(TICK, FAST)  # the slow point is not due in this visit
    assert GAP not in values().values()
    await driver.poll(TICK, FAST | 4)
    assert set(values().values()) == {GAP}
    device.faults.set("silence*1+1")  # the second read gets no answer
    await ModbusDevice(replace(spec_of(POINTS[:4]), impossible=(RULE,)), line, ring, 0).poll(TICK, FAST)
    assert values() == {0: 0, 1: f"gap {Reason.TIMEOUT}", 2: -40, 3: 0}


async def test_any_rule_on_any_answers_agrees_with_the_rule_in_words(field: Field, ring: Ring, values: Values) -> None:
    """Random points in random blocks, random zeros and random rules, against the rule as a sentence."""
    random = Random(1)
    device = sim_device(words=[0] * 60)
    line = field.line(await field.tcp(device))
    types = {"u16": 1, "i16": 1, "u24": 2, "u32": 2, "f32": 2, "u64": 4, "bcd32": 2, "u8l": 1}
    orders = {"u24": ["-ABC", "ABC-", "C-AB"], "u32": ["ABCD", "CDAB"], "f32": ["DCBA"], "u64": ["CDAB"], "bcd32": [""]}
    for visit in range(150):
        points, at = [], 0
        while at < 50:
            kind = random.choice(list(types))
            order = random.choice(orders.get(kind, [""]))
            part = random.choice(["grid", "meter"])
            points.append(gauge(at, f"{part}.x.p{at}", type=kind, count=types[kind], order=order, sentinels=()))
            at += types[kind] + random.choice([0, 0, 3])
        chosen = random.choice([0.5, 0.9, 1.0])
        words = [0 if random.random() < chosen else 0x0101 for _ in range(60)]
        device.image.put_words(0, words)
        rules = tuple(
            ImpossibleZeros(
                tuple(p.name for p in random.sample(points, random.randint(1, 3))),
                random.choice([("*",), ("meter.*",), ("grid.*", points[0].name)]),
            )
            for _ in range(random.randint(1, 2))
        )
        driver = ModbusDevice(replace(spec_of(points), impossible=rules), line, ring, 0)
        await driver.poll(TICK + 1000 * visit, FAST)
        zeros = {p.name for p in points if not any(words[p.address : p.address + p.count])}
        lost = {
            name
            for rule in rules
            if set(rule.zeros_together) <= zeros
            for name in zeros
            if any(fnmatchcase(name, glob) for glob in rule.gaps)
        }
        found = values()
        assert {points[n].name for n, value in found.items() if value == GAP} == lost, (visit, rules)
        assert len(found) == len(points)
        assert all(found[n] == 0 for n, p in enumerate(points) if p.name in zeros - lost), (visit, rules)


async def test_of_a_device_that_sleeps_the_zeros_at_night_are_asleep(field: Field, ring: Ring, values: Values) -> None:
    class Night:
        def is_dark(self, utc_ms: int) -> bool:
            return True

    device, _ = device_with({})
    spec = replace(spec_of(POINTS[:4]), impossible=(RULE,), night=Night())  # type: ignore[arg-type]
    await ModbusDevice(spec, field.line(await field.tcp(device)), ring, 0).poll(TICK, FAST)
    assert values() == dict.fromkeys(range(4), f"gap {Reason.ASLEEP}")
