"""What a device teaches about its map: holes, how much it bears, what it never answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

import pytest

from drivers.modbus.device import FIRST_TRIAL_S, LONGEST_REST_S, ModbusDevice
from drivers.model import PACES, Kind, Point, ProfileError, Quality, Reason
from drivers.plan import KnownHoles
from ext.ring import Ring
from tests.kits.lines import FAST, TICK, Field, gauge, mute_when, sim_device, spec_of, words
from tests.kits.simulated import punch

Values = Callable[[], dict[int, object]]
ONCE = 1 << PACES.index("once")
EXCEPTION, ABSENT, TIMEOUT = (f"gap {reason.value}" for reason in (Reason.EXCEPTION, Reason.ABSENT, Reason.TIMEOUT))


async def polls(driver: ModbusDevice, times: int) -> None:
    for n in range(times):
        await driver.poll(TICK + 1000 * n, FAST)


async def test_one_missing_register_costs_only_itself_in_the_end(field: Field, ring: Ring, values: Values) -> None:
    """field pains 24, 25, 30 and 40: split, learn the hole, remember, and say so."""
    device = sim_device()
    punch(device.image, 13)
    driver = ModbusDevice(spec_of([gauge(n) for n in range(20)]), field.line(await field.tcp(device)), ring, 0)
    await driver.poll(TICK, FAST)
    assert values() == dict.fromkeys(range(20), EXCEPTION), "one refusal may be a device that is starting"
    await polls(driver, 12)
    values()
    result = await driver.poll(TICK + 99_000, FAST)
    assert values() == {n: EXCEPTION if n == 13 else n for n in range(20)}
    assert result.error is None and result.asked <= 5
    assert "13" in driver.holes.summary()


async def test_a_register_that_a_firmware_may_lack_is_dropped_quietly(field: Field, ring: Ring, values: Values) -> None:
    """field pain 40: `optional` points are no fault."""
    device = sim_device()
    punch(device.image, 2)
    points = [gauge(0), gauge(1), replace(gauge(2), optional=True), gauge(3)]
    driver = ModbusDevice(spec_of(points), field.line(await field.tcp(device)), ring, 0)
    await polls(driver, 8)
    values()
    assert (await driver.poll(TICK + 99_000, FAST)).error is None
    assert values() == {0: 0, 1: 1, 2: ABSENT, 3: 3}


async def test_a_hole_between_points_is_read_around(field: Field, ring: Ring, values: Values) -> None:
    """field pain 24: reading over a register that is missing fails the whole read; here the profile allowed it."""
    device = sim_device()
    punch(device.image, 5)
    driver = ModbusDevice(spec_of([gauge(0), gauge(10)], holes=True), field.line(await field.tcp(device)), ring, 0)
    await polls(driver, 2)
    values()
    result = await driver.poll(TICK + 9000, FAST)
    assert values() == {0: 0, 1: 10} and result.asked == 2
    assert not driver.holes.absent


async def test_a_device_that_bears_less_than_its_manual_says(field: Field, ring: Ring, values: Values) -> None:
    """field pain 27: documented for 80 registers, fails above 50; halved by itself."""
    device = sim_device(max_words=50, over_code=3)
    driver = ModbusDevice(
        spec_of([gauge(n) for n in range(80)], max_words=80), field.line(await field.tcp(device)), ring, 0
    )
    await polls(driver, 2)
    values()
    result = await driver.poll(TICK + 9000, FAST)
    assert values() == {n: n for n in range(80)}
    assert result.asked == 2 and driver.holes.max_words == 40


async def test_a_text_longer_than_the_learned_limit_is_asked_alone(field: Field, ring: Ring, values: Values) -> None:
    """The limit was learned from reads without this text. Its plan raised an error that ended the agent, and the stored
    limit did so again at each start.
    """
    device = sim_device(max_words=10, over_code=3)
    serial = Point("x.text", Kind.TEXT, pace="once", address=100, count=16, type="str")
    line = field.line(await field.tcp(device))
    spec = spec_of([*(gauge(n) for n in range(16)), serial])
    driver = ModbusDevice(spec, line, ring, 0)
    await polls(driver, 2)
    assert driver.holes.max_words == 8
    stored = KnownHoles.from_json(driver.holes.to_json(), "", line.clock()[0] // 10**9)
    for learned in (driver, ModbusDevice(spec, line, ring, 0, stored)):
        values()
        await learned.poll(TICK + 9000, FAST | ONCE)
        assert values() == {n: n for n in range(16)} | {16: EXCEPTION}
        assert (await learned.read_points(["x.text"]))["x.text"].quality == Reason.EXCEPTION
    device.max_words = 16  # a device that accepts longer reads than was learned
    fresh = KnownHoles.from_json(stored.to_json() | {"absent": []}, "", line.clock()[0] // 10**9)
    (text,) = (await ModbusDevice(spec, line, ring, 0, fresh).read_points(["x.text"])).values()
    assert text.raw == words(*range(100, 116))


async def test_facts_that_leave_no_plan_are_forgotten(field: Field, ring: Ring, values: Values) -> None:
    """Without its first coil, this group begins in the middle of a byte, so that its widest value has nine bytes. The
    decode kernel takes eight; the error ended the agent, after each start again.
    """
    device = sim_device()
    device.image.put_bits(0, [1] * 69, function=1)
    coils = [(0, 1), (4, 1), (8, 61)]
    points = [gauge(a, function=1, count=count, type="bits", together="g") for a, count in coils]
    holes = KnownHoles()
    holes.absent.add((1, 0, 1))
    driver = ModbusDevice(spec_of(points), field.line(await field.tcp(device)), ring, 0)
    driver.holes = holes
    assert (await driver.poll(TICK, FAST)).error is None
    assert values() == {0: 1, 1: 1, 2: 2**61 - 1}
    assert holes.summary() == ""


async def test_paces_that_leave_no_plan_are_refused_before_the_first_tick(field: Field, ring: Ring) -> None:
    """All points together have a plan. At a tick at which the slow coil is not due, the group begins in the middle of a
    byte, and the error ended the agent.
    """
    coils = [(0, 1, "slow"), (4, 1, "fast"), (8, 61, "fast")]
    points = [gauge(a, function=1, count=count, type="bits", together="g", pace=pace) for a, count, pace in coils]
    line = field.line(await field.tcp(sim_device()))
    with pytest.raises(
        ProfileError, match="has 61 coils and begins at bit 4 of a byte, so it takes 9 bytes of the answer"
    ):
        ModbusDevice(spec_of(points), line, ring, 0)


async def test_a_value_of_several_registers_is_never_torn(field: Field, ring: Ring, values: Values) -> None:
    """Whatever is learned, a 32-bit value and its halves come from one request."""
    device = sim_device()
    punch(device.image, 4)
    points = [gauge(2 * n, count=2, type="u32", order="ABCD") for n in range(5)]
    driver = ModbusDevice(spec_of(points), field.line(await field.tcp(device)), ring, 0)
    await polls(driver, 12)
    asked = [t.frame[8:] for t in field.bus(0).trace if not t.sent]
    assert all(f[1] % 2 == 0 and f[3] % 2 == 0 for f in asked)
    values()
    await driver.poll(TICK + 99_000, FAST)
    assert values() == {n: EXCEPTION if n == 2 else (2 * n << 16) + 2 * n + 1 for n in range(5)}


async def test_what_is_silent_about_one_register_is_cut_too(field: Field, ring: Ring, values: Values) -> None:
    """field pains 27 and 41: no refusal, only silence; in the end the mute register alone is not asked any more."""
    device = mute_when(sim_device(), lambda address, count: address <= 6 < address + count)
    points = [*(gauge(n) for n in range(8)), gauge(50)]
    line = field.line(await field.tcp(device), timeout_s=0.01)
    driver = ModbusDevice(spec_of(points), line, ring, 0)
    await polls(driver, 45)
    values()
    before = line.stats.timeouts
    for n in range(5):
        result = await driver.poll(TICK + 99_000 + 1000 * n, FAST)
        assert values() == {n: n for n in range(8) if n != 6} | {6: TIMEOUT, 8: 50}
        assert result.error is None
    assert line.stats.timeouts == before, "it has a rest"


async def test_reads_that_noise_has_split_are_joined_when_the_line_is_well(
    field: Field, ring: Ring, values: Values
) -> None:
    """Long frames are lost on a noisy line, short ones are not."""
    noisy = [True]
    device = mute_when(sim_device(), lambda address, count: noisy[0] and count > 2)
    line = field.line(await field.tcp(device), timeout_s=0.01)
    driver = ModbusDevice(spec_of([*(gauge(n) for n in range(8)), gauge(50)]), line, ring, 0)
    await polls(driver, 45)
    assert (await driver.poll(TICK + 99_000, FAST)).asked == 5
    noisy[0] = False
    await driver.poll(TICK + 100_000, FAST)
    again = KnownHoles.from_json(driver.holes.to_json(), "", line.clock()[0] // 10**9)
    driver = ModbusDevice(driver.spec, line, ring, 0, again)  # as after a restart
    await driver.poll(TICK + 101_000, FAST)
    assert driver.holes.summary()

    await asyncio.sleep(FIRST_TRIAL_S)
    await driver.poll(TICK + 701_000, FAST)

    values()
    result = await driver.poll(TICK + 702_000, FAST)
    assert (result.asked, driver.holes.summary()) == (2, "")
    assert values() == {n: n for n in range(8)} | {8: 50}


async def test_a_read_that_is_never_answered_is_tried_ever_less_often_and_costs_no_reading(
    field: Field, ring: Ring, values: Values
) -> None:
    device = mute_when(sim_device(), lambda address, count: count > 2)
    line = field.line(await field.tcp(device), timeout_s=0.01)
    driver = ModbusDevice(spec_of([*(gauge(n) for n in range(8)), gauge(50)]), line, ring, 0)
    await polls(driver, 45)
    values()
    before = line.stats.timeouts
    for n in range(144):  # a day
        await asyncio.sleep(600)
        await driver.poll(TICK + 600_000 * n, FAST)
        assert values() == {n: n for n in range(8)} | {8: 50}
    assert 5 <= line.stats.timeouts - before <= 9


async def test_noise_does_not_take_values_that_must_be_read_together(field: Field, ring: Ring, values: Values) -> None:
    noisy = [False]
    device = mute_when(sim_device(), lambda address, count: noisy[0] and count > 1)
    line = field.line(await field.tcp(device), timeout_s=0.01)
    points = [replace(gauge(0), together="pair"), replace(gauge(1), together="pair"), gauge(50)]
    driver = ModbusDevice(spec_of(points), line, ring, 0)
    noisy[0] = True
    for n in range(40):
        await asyncio.sleep(60)
        await driver.poll(TICK + 60_000 * n, FAST)
    noisy[0] = False
    await asyncio.sleep(LONGEST_REST_S)
    values()
    await driver.poll(TICK + 10_000_000, FAST)
    assert driver.holes.summary() == "" and values() == {0: 0, 1: 1, 2: 50}


async def test_a_dead_device_teaches_nothing(field: Field, ring: Ring) -> None:
    """field pain 65: a passing fault is never recorded as a register that is not there."""
    device = sim_device()
    driver = ModbusDevice(spec_of([gauge(0), gauge(10)]), field.line(await field.tcp(device), timeout_s=0.005), ring, 0)
    device.faults.set("silence")
    await polls(driver, 30)
    device.faults.clear()
    device.faults.set("exception=02")
    await polls(driver, 10)
    device.faults.clear()
    assert driver.holes.summary() == ""
    assert (await driver.poll(TICK + 99_000, FAST)).answered == 2


async def test_what_was_learned_can_be_handed_on_and_expires(field: Field, ring: Ring, values: Values) -> None:
    device = sim_device()
    punch(device.image, 1)
    line = field.line(await field.tcp(device))
    spec = spec_of([gauge(n) for n in range(3)])
    driver = ModbusDevice(spec, line, ring, 0)
    await polls(driver, 8)
    again = ModbusDevice(
        spec, line, ring, 0, KnownHoles.from_json(driver.holes.to_json(), "", line.clock()[0] // 10**9)
    )
    values()
    assert (await again.poll(TICK + 99_000, FAST)).error is None
    assert values() == {0: 0, 1: EXCEPTION, 2: 2}
    device.image.put_words(1, [77])
    assert again.holes.expire(line.clock()[0] // 10**9 + 8 * 86_400)
    await again.poll(TICK + 100_000, FAST)
    assert values() == {0: 0, 1: 77, 2: 2}


async def test_a_person_sees_the_rest_of_a_block_with_a_hole_at_once(field: Field, ring: Ring) -> None:
    device = sim_device()
    punch(device.image, 13)
    driver = ModbusDevice(spec_of([gauge(n) for n in range(20)]), field.line(await field.tcp(device)), ring, 0)
    found = await driver.read_points([f"x.p{n}" for n in range(20)])
    assert [found[f"x.p{n}"].value for n in range(20)] == [None if n == 13 else Decimal(n) for n in range(20)]
    assert found["x.p13"].quality == Reason.EXCEPTION and found["x.p12"].quality == Quality.GOOD
