"""No wrong answer becomes a good counter reading. field pains 10 to 14, 31 to 35"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.counter_guard import BELIEVED_S, CounterGuard, CounterRule
from drivers.line import Line
from drivers.modbus.device import ModbusDevice
from drivers.modbus.requests import read_request
from drivers.model import DeviceException, DeviceSpec, Kind, Point, Quality
from drivers.sim.device import SimDevice
from drivers.sim.image import Image
from ext.ring import Ring
from tests.kits.lines import Field
from tests.kits.simulated import punch

KWH = Point("ac.energy.import", Kind.COUNTER, "kWh", "fast", address=0, count=2, type="u32", order="ABCD",
            scale=Decimal("0.01"), bits=32)  # fmt: skip
WIDE = Point("ac.energy.export", Kind.COUNTER, "kWh", "fast", address=2, count=4, type="u64", order="ABCDEFGH", bits=64)
POWER = Point("ac.power.active", Kind.GAUGE, "W", "fast", address=6, count=1, type="i16")
POINTS = (KWH, WIDE, POWER)


def spec(*points: Point, protocol: str = "modbus", **more: Any) -> DeviceSpec:
    return DeviceSpec("m1", "p/g/m1", "1", protocol, "t/t", points or POINTS, (1000, 0, 0, 0, 0), **more)


def guard(point: Point = KWH, **more: Any) -> CounterGuard:
    return CounterGuard(spec(point, **more))


def judged(one: CounterGuard, *readings: tuple[float, str | int]) -> list[bool]:
    """Of (seconds, value): which are doubted."""
    return [one.is_suspect([(0, Decimal(value))], at) for at, value in readings]


@pytest.mark.parametrize(
    ("readings", "doubted"),
    [
        ([(0, "1000"), (60, "1000.5"), (120, "1000.5")], [False, False, False]),
        ([(0, "53700"), (60, "0"), (120, "53700.2")], [False, True, False]),  # field pain 32
        ([(0, "53700"), (1, "0"), (2, "0"), (3, "0"), (4, "53700.2")], [False, True, True, True, False]),  # 33, 34
        ([(0, "1000"), (60, "42949672.95"), (120, "1000.1")], [False, True, False]),  # 31 without its sentinel
        ([(0, "0.5"), (60, "429496729"), (120, "0.6")], [False, True, False]),  # 35: an underflow at midnight
        ([(0, "42949672.9"), (60, "0.05")], [False, False]),  # over the top of its 32 bits
        ([(0, "42949672.9"), (60, "30000000")], [False, True]),
        ([(0, "1000"), (86_400, "240000")], [False, False]),  # a day away
    ],
)
def test_what_can_follow(readings: list[tuple[float, str]], doubted: list[bool]) -> None:
    assert judged(guard(), *readings) == doubted


def test_a_reset_is_believed_once_it_counts_on() -> None:
    one = guard()
    readings: list[tuple[float, str | int]] = [(0, 1000), *((10 * n, n) for n in range(1, 10))]
    doubted = judged(one, *readings)
    assert doubted == [False, *[True] * 6, False, False, False]
    assert readings[7][0] - readings[1][0] == BELIEVED_S
    assert one.jump is not None and one.jump[1:] == (Decimal(1000), Decimal(7), 10.0), "before, after, since when"
    falling: list[tuple[float, str | int]] = [(0, 1000), (10, 5), (80, 3), (150, 1)]
    assert judged(guard(), *falling) == [False, True, True, True], "it must not go on falling"


@pytest.mark.parametrize(
    ("value", "is_doubted"),
    [
        ("999", True),  # back: another meter, or a reset
        ("90000", True),  # up by more than a gigawatt
        ("1600.45", False),  # up by more than a thousand of its steps: as good a reading as any, but a hint
    ],
)
def test_a_jump_hints_at_another_device(value: str, is_doubted: bool) -> None:
    """Once, whichever way it goes: a meter put in place of another one counts on from anywhere. field pain 18"""
    one = guard()
    assert judged(one, (0, "1000"), (60, "1000.2"), (120, "1000.5")) == [False] * 3 and one.jumps == 0
    assert judged(one, (180, value)) == [is_doubted] and one.jumps == 1
    after = Decimal(value) + Decimal("0.2")
    assert judged(one, (240, str(after)), (300, str(after + 1))) == [is_doubted, False] and one.jumps == 1


def test_a_load_that_is_switched_on_is_no_hint() -> None:
    """Nor the first step of a counter that stood still, nor a line that was lent for a quarter of an hour."""
    one = guard()
    assert not any(judged(one, (0, "5"), (10, "5"), (20, "60"), (30, "60"), (40, "3000")))
    assert not any(judged(one, (50, "3000.01"), (60, "3000.02"), (70, "3030")))
    again = guard()
    assert not any(judged(again, (0, "5"), (1, "5.01"), (2, "5.02"), (900, "14.02")))
    assert one.jumps == again.jumps == 0


def test_other_counters_have_other_speeds() -> None:
    hours = Point("device.runtime", Kind.COUNTER, "h", type="u32", scale=Decimal(1))
    assert judged(guard(hours), (0, 100), (1, 101), (2, 102), (3, 110)) == [False, False, False, True]
    net = Point("ac.energy.total", Kind.COUNTER, "kWh", type="i32")
    assert judged(guard(net), (0, 100), (60, 99), (120, -5), (180, 90_000)) == [False, False, False, True]
    starts = Point("device.starts", Kind.COUNTER, "", type="u16")
    assert judged(guard(starts), (0, 100), (1, 60_000), (2, 100)) == [False, False, True]
    coarse = Point("heat.energy", Kind.COUNTER, "MWh", type="u32")
    assert judged(guard(coarse), (0, 10), (1, 11)) == [False, False], "a whole MWh at once, if it shows whole ones"


BY_KEY = Point("ac.energy.import", Kind.COUNTER, "kWh", key="00010000", digits=8)
BY_BCD = Point("ac.energy.import", Kind.COUNTER, "kWh", count=2, type="bcd32", scale=Decimal("0.01"), digits=8)


@pytest.mark.parametrize(
    ("point", "more"),
    [(BY_KEY, {"protocol": "dlt645"}), (BY_BCD, {})],
    ids=["a meter's digits", "digits in registers"],
)
@pytest.mark.parametrize("ratio", [1, 80])
def test_a_decimal_counter_rolls_over_only_at_its_stated_digits(point: Point, more: dict[str, Any], ratio: int) -> None:
    """If the power of ten were guessed from the last value, a meter that shows 0 for a moment would pass as good."""
    if ratio != 1:
        point = replace(point, ratio="apply")

    def doubts(before: str, after: str) -> bool:
        one = guard(point, ratio_ct=Decimal(ratio), **more)
        return judged(one, (0, str(Decimal(before) * ratio)), (60, str(Decimal(after) * ratio)))[1]

    assert not doubts("999999.99", "0.03")
    assert doubts("999999.99", "500000")
    for before, after in (("5000", "0"), ("5000", "12.34"), ("9999.5", "3"), ("99000", "0")):
        assert doubts(before, after), (before, after)


def test_digits_of_an_unknown_resolution_say_no_rollover() -> None:
    """M-Bus meters send their own decimals, so the profile's digits alone do not tell the value at the rollover."""
    assert judged(guard(BY_KEY, protocol="mbus"), (0, "5000"), (60, "0")) == [False, True]


def test_a_float_may_seem_to_fall_by_its_last_bit() -> None:
    point = Point("ac.energy.import", Kind.COUNTER, "kWh", type="f32")
    assert judged(guard(point), (0, "16777216"), (1, "16777215")) == [False, False]


@given(
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 4000)), min_size=1, max_size=30),
    st.integers(0, 2**32 - 1),
)
def test_an_honest_counter_is_never_doubted(steps: list[tuple[int, int]], start: int) -> None:
    """Whatever it does below a gigawatt, over its top or not, at whatever times it is read."""
    one, at, raw = guard(), 0.0, start
    for wait, kw in steps:
        at += wait
        raw = (raw + wait * kw * 100 // 3600) % 2**32
        assert not one.is_suspect([(0, Decimal(raw).scaleb(-2))], at)


@given(st.decimals(0, 10**9, places=2), st.decimals(0, 10**9, places=2), st.integers(0, 10_000))
def test_agrees_with_the_rule_in_words(before: Decimal, after: Decimal, seconds: int) -> None:
    rule = CounterRule.of(KWH)
    room = Decimal(10**9) / 3_600_000 * (seconds + 2) + Decimal("0.02")
    forward = after - before if after >= before else after - before + Decimal(2**32) / 100
    small = after < before and before - after <= before / (1 << 20)
    assert rule.fits(before, after, seconds) == (small or 0 <= forward <= room)


# --- whole answers that are wrong


class Counting(SimDevice):
    """Each answer counts on; ``served`` holds what was ever true."""

    def __init__(self) -> None:
        image = Image()
        punch(image, 40)
        super().__init__(1, image, before=self._count)
        self.raw, self.served = 4_000_000, set[Decimal]()

    def _count(self, function: int, address: int, count: int) -> None:
        self.raw += 3
        self.served.add(Decimal(self.raw).scaleb(-2))
        wide = 7 * self.raw
        words = (self.raw >> 16, self.raw & 0xFFFF, *(wide >> shift & 0xFFFF for shift in (48, 32, 16, 0)), 1500)
        self.image.put_words(0, words)


async def open_device(field: Field, kind: str, sim: Counting, ring: Ring) -> tuple[Line, ModbusDevice]:
    end = await (field.pty(sim) if kind == "serial" else field.tcp(sim, framing="rtu" if kind == "raw" else "mbap"))
    line = field.line(end, timeout_s=0.08, late_s=0.2 if kind == "raw" else 0.0)
    return line, ModbusDevice(spec(), line, ring, 1)


def counted(ring: Ring, quality: int) -> list[Decimal]:
    return [
        Decimal(value.mantissa).scaleb(value.exponent)
        for record in ring.scan(0, ring.head)
        for value in record.values
        if value.point == 0 and value.quality == quality
    ]


FAULTS = ["late=0.12*1", "stale*1", "zero*1", "blank*1", "tag*1", "unit*1", "short*1", "cut*1", "crc*1", "freeze*1"]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", ["serial", "raw", "mbap"])
async def test_no_wrong_answer_is_a_good_reading(field: Field, ring: Ring, kind: str, fault: str) -> None:
    """What comes out as good was true when it was read."""
    sim = Counting()
    _, device = await open_device(field, kind, sim, ring)
    for n in range(8):
        if n == 3:
            sim.faults.set(fault)
        await device.poll(1000 * n, 1)
    good = counted(ring, Quality.GOOD)
    assert len(good) >= 3 and set(good) <= sim.served
    assert good == sorted(good), "and none comes after a later one"


@pytest.mark.parametrize("kind", ["serial", "mbap"])
async def test_an_answer_that_is_shifted_is_doubted_as_a_whole(field: Field, ring: Ring, kind: str) -> None:
    """After a read of a register that is not there, some devices shift the next answer. field pain 26"""
    sim = Counting()
    line, device = await open_device(field, kind, sim, ring)
    for n in range(6):
        if n == 3:
            sim.faults.set("spill")
            with pytest.raises(DeviceException):
                await line.exchange(read_request(1, 3, 40, 1, "hole"), line.request_options())
        await device.poll(1000 * n, 1)
        sim.faults.clear()
    assert len(counted(ring, Quality.GOOD)) == 5 and set(counted(ring, Quality.GOOD)) <= sim.served
    (wrong,) = [r for r in ring.scan(0, ring.head) if any(v.quality == Quality.SUSPECT for v in r.values)]
    assert {v.point for v in wrong.values if v.quality == Quality.SUSPECT} == {0, 1, 2}, "its power is no better"
