"""Registers that move with the park: what is shown is what the truth says."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest

from drivers.model import Kind, Limits, Point, RegisterPart
from drivers.profile import find_profile, load_profile
from drivers.sim.display import CATCH_UP, Display, ParkClock
from drivers.sim.families import device_from_profile
from drivers.sim.framing import RtuFraming
from tests.kits.raw_client import rtu

POWER = Point("ac.power.active", Kind.GAUGE, unit="W", address=0, count=2, type="i32")
IMPORT = Point(
    "ac.energy.import", Kind.COUNTER, unit="kWh", address=2, count=2, type="u32", scale=Decimal("0.1"), bits=32
)
SHORT = Point("ac.energy.export", Kind.COUNTER, unit="kWh", address=4, bits=16)
STATE = Point("device.state", Kind.STATE, address=5, states={1: "off", 512: "running"})
SERIAL = Point("device.serial", Kind.TEXT, address=6, count=6, type="str")
VERSION = Point("device.firmware", Kind.TEXT, address=12, count=2, text="{0}.{1:02x}")


class Hand:
    """A clock moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def number(payload: bytes | int, signed: bool = False) -> int:
    assert isinstance(payload, bytes)
    return int.from_bytes(payload, "big", signed=signed)


def test_a_read_shows_the_instant_and_the_truth_agrees() -> None:
    hand = Hand()
    show = Display(ParkClock(3, 1.0, monotonic=hand), (POWER, IMPORT, SHORT, STATE, SERIAL, VERSION), "grid")
    powers = set()
    for _ in range(20):
        hand.now += 1.0
        show.refresh(3, 0, 14)
        power = number(show.image.read(3, 0, 2), signed=True)
        truth = show.values()
        assert (truth["ac.power.active"], truth["device.state"]) == (power, 512)
        assert truth["ac.energy.import"] == Decimal(number(show.image.read(3, 2, 2))) / 10
        powers.add(power)
    assert len(powers) > 15, "it moves"
    assert show.image.read(3, 6, 6) == str(truth["device.serial"]).encode().ljust(12, b"\0")
    assert re.fullmatch(r"SIM\d{8}", str(truth["device.serial"]))
    assert truth["device.firmware"] == "1.01" and number(show.image.read(3, 12, 2)) == 0x0001_0001
    assert not show.unfit and not show.unknown


def test_only_what_is_read_is_written() -> None:
    hand = Hand()
    show = Display(ParkClock(3, 1.0, monotonic=hand), (POWER, IMPORT), "grid")
    before = show.image.words(0, 2)
    hand.now += 5
    show.refresh(3, 3, 1)
    assert show.image.words(0, 2) == before
    show.refresh(3, 1, 1)  # the second half of a value brings both
    assert show.image.words(0, 2) != before


def test_a_reboot_zeroes_counters_and_they_go_on() -> None:
    hand = Hand()
    show = Display(ParkClock(3, 3600.0, monotonic=hand), (POWER, IMPORT), "load")
    assert number(show.image.read(3, 2, 2)) > 1000
    show.restart()
    assert number(show.image.read(3, 2, 2)) == 0
    hand.now += 1.0
    show.refresh(3, 0, 4)
    assert 100 < number(show.image.read(3, 2, 2)) < 3000, "an hour at some tens of kW, in 0.1 kWh"


def test_a_narrow_counter_rolls_over() -> None:
    narrow = Point("ac.energy.import", Kind.COUNTER, unit="Wh", bits=16)
    digits = Point("ac.energy.total", Kind.COUNTER, unit="kWh", address=1, type="bcd16", digits=4)
    show = Display(ParkClock(3, 0.0), (narrow, digits), "grid")
    fact = show.clock.physics.counters.grid_import
    assert show.values()["ac.energy.import"] == pytest.approx(Decimal(fact % 65536), abs=1)
    assert not show.unfit


def test_two_registers_make_one_counter() -> None:
    parts = (RegisterPart(0, "u16", Decimal(1000)), RegisterPart(1, "u16", Decimal(1)))
    show = Display(
        ParkClock(3, 0.0), (Point("ac.energy.import", Kind.COUNTER, unit="kWh", count=2, parts=parts),), "grid"
    )
    mega, kilo = show.image.words(0, 2)
    assert show.values()["ac.energy.import"] == 1000 * mega + kilo
    assert 1000 * mega + kilo == round(show.clock.physics.counters.grid_import / 1000)


def test_what_does_not_fit_is_said_and_shown_as_zero() -> None:
    show = Display(ParkClock(3, 0.0), (Point("device.power.rated", Kind.GAUGE, unit="W"),), "pv1")
    assert show.unfit == {"device.power.rated": "raw value 100000 does not fit u16 (0 to 65535)"}
    assert show.values()["device.power.rated"] == 0


def test_a_value_stays_within_its_range_and_unknown_ones_move() -> None:
    points = (
        Point("ac.voltage", Kind.GAUGE, unit="V", low=Decimal(300), high=Decimal(400)),
        Point("x.level", Kind.GAUGE, address=1, low=Decimal(10), high=Decimal(20), scale=Decimal("0.01")),
        Point("oil.pressure", Kind.GAUGE, unit="bar", address=2),
    )
    hand = Hand()
    show = Display(ParkClock(3, 1.0, monotonic=hand), points, "grid")
    assert show.values()["ac.voltage"] == 300 and show.unknown == ["x.level", "oil.pressure"]
    levels = []
    for _ in range(10):
        hand.now += 3
        levels.append(show.values()["x.level"])
    assert len(set(levels)) > 5 and all(10 <= Decimal(level) <= 20 for level in levels)


def test_a_long_sleep_does_not_cost_a_long_catch_up() -> None:
    hand = Hand()
    clock = ParkClock(3, 1.0, monotonic=hand)
    hand.now += 10 * CATCH_UP * clock.tick_s
    with clock.hold() as physics:
        assert physics.steps == CATCH_UP
        hand.now += 1
        with clock.hold():
            assert physics.steps == CATCH_UP, "one instant while it is held"
    with clock.hold() as physics:
        assert physics.steps == CATCH_UP + 10


def test_a_journal_keeps_what_was_served() -> None:
    hand = Hand()
    show = Display(ParkClock(3, 1.0, monotonic=hand), (POWER,), "grid")
    show.keep_journal()
    served = []
    for _ in range(5):
        hand.now += 1
        show.refresh(3, 0, 2)
        served.append(number(show.image.read(3, 0, 2), signed=True))
    assert show.journal and [value for _, value in show.journal["ac.power.active"]] == served


def test_a_device_from_a_profile_obeys_its_limits() -> None:
    profile = load_profile(find_profile("eastron/sdm630"))
    device, show = device_from_profile(profile, unit=5, role="grid", clock=ParkClock(2, 0.0))
    assert (device.unit, device.max_words) == (5, profile.limits.max_words)
    assert device.turnaround_s == profile.limits.turnaround_s
    assert show.unknown == [] and show.unfit == {}
    assert isinstance(show.image.read(4, 0, 2), bytes)
    assert show.image.read(3, 0, 2) == 1, "no such function here"
    assert device.pdu(bytes([4, 0, 0, 0, 80]))[0] == 0x84, "documented for 80, fails above its limit"  # field pain 27
    quick, _ = device_from_profile(profile, turnaround_s=0.0)
    assert quick.turnaround_s == 0 and Limits().holes is None


def test_an_inverter_sleeps_in_the_dark() -> None:
    show = Display(ParkClock(1, 0.0, start_s=0.0), (POWER,), "pv1")
    assert show.asleep()
    assert not Display(ParkClock(1, 0.0, start_s=43_200.0), (POWER,), "pv1").asleep()
    assert not Display(ParkClock(1, 0.0, start_s=0.0), (POWER,), "grid").asleep()
    profile, night = load_profile(find_profile("huawei/sun2000")), ParkClock(1, 0.0, start_s=0.0)
    sleeper, _ = device_from_profile(profile, clock=night, sleeps=True)
    awake, shown = device_from_profile(profile, clock=night)
    (request,) = RtuFraming().feed(rtu(1, 3, 32080, 2))
    assert sleeper.answer(request, RtuFraming()) is None
    answer = awake.answer(request, RtuFraming())
    assert answer and answer.frame[:7] == bytes([1, 3, 4, 0, 0, 0, 0])
    assert shown.values()["device.state"] == 0, "standby"
