"""The driver: plans, decoding into the ring, and what every kind of failure leaves there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

import pytest

from drivers.modbus.device import ModbusDevice
from drivers.model import (
    ConfigError,
    GatewayTimeout,
    Kind,
    LineDown,
    LineTimeout,
    Point,
    Quality,
    Reason,
    RegisterPart,
    UsageError,
)
from drivers.sim.device import SimDevice
from drivers.sim.image import Image
from ext.ring import Ring
from tests.kits.lines import FAST, TICK, Field, ask, gauge, mute_when, sim_device, spec_of, words
from tests.kits.simulated import writes

Values = Callable[[], dict[int, object]]
TWO_BLOCKS = [gauge(0), gauge(1), gauge(50), gauge(51)]  # no holes allowed: two reads


async def test_one_poll_reads_all_that_is_due(field: Field, ring: Ring, values: Values) -> None:
    device = sim_device()
    points = [*TWO_BLOCKS, gauge(7, pace="slow"), gauge(2)]
    driver = ModbusDevice(spec_of(points), field.line(await field.tcp(device)), ring, 5)
    result = await driver.poll(TICK, FAST)
    assert (result.asked, result.answered, result.error) == (2, 2, None)
    assert values() == {0: 0, 1: 1, 2: 50, 3: 51, 5: 2}
    records = [ring.record(position) for position in result.positions]
    assert [(r.table, r.tick_ms) for r in records if r] == [(5, TICK)] * 2
    result = await driver.poll(TICK + 1000, FAST | 4)
    assert values() == {0: 0, 1: 1, 2: 50, 3: 51, 4: 7, 5: 2}
    summary = driver.plan_summary(FAST | 4)
    assert (summary.requests, summary.registers, summary.points) == (3, 6, 6) and summary.line_time_s > 0


async def test_the_same_over_serial_with_every_kind_of_value(field: Field, ring: Ring, values: Values) -> None:
    image = Image()
    image.put_words(0, [0x3032, 0x3334, 0, 0x4366, 0x8000, 0xFFFF, 0x8000, 2, 345])
    image.put_bits(3, [1, 0, 1, 1], function=1)
    image.put_words(10, [77], function=4)
    points = [
        Point("device.firmware", Kind.TEXT, pace="fast", address=0, count=3, type="str"),
        gauge(3, count=2, type="f32", order="ABCD"),
        gauge(5),
        gauge(6, type="i16"),
        Point("ac.energy.import", Kind.COUNTER, "kWh", "fast", address=7, count=2, parts=(
            RegisterPart(7, "u16", Decimal(1000)), RegisterPart(8, "u16", Decimal("0.1")))),
        Point("x.on", Kind.STATE, pace="fast", function=1, address=3, type="bits"),
        Point("x.off", Kind.STATE, pace="fast", function=1, address=4, type="bits"),
        Point("x.both", Kind.STATE, pace="fast", function=1, address=5, count=2, type="bits"),
        gauge(10, function=4),
    ]  # fmt: skip
    driver = ModbusDevice(spec_of(points), field.line(await field.pty(SimDevice(1, image))), ring, 0)
    result = await driver.poll(TICK, FAST)
    assert result.error is None and result.answered == 3
    sentinel = f"gap {Reason.SENTINEL}"
    found = values()
    assert found.pop(1) == pytest.approx(230.5) and found.pop(4) == pytest.approx(2034.5)
    assert found == {0: "0234", 2: sentinel, 3: sentinel, 5: 1, 6: 0, 7: 3, 8: 77}


@pytest.mark.parametrize("failing_call", [1, 2])
async def test_a_refused_read_is_a_gap_and_the_rest_still_reads(
    field: Field, ring: Ring, values: Values, failing_call: int
) -> None:
    """A failure costs its own points only, and never becomes a zero."""
    device = sim_device()
    driver = ModbusDevice(spec_of(TWO_BLOCKS), field.line(await field.tcp(device)), ring, 0)
    device.faults.set(f"exception=04*1+{failing_call - 1}" if failing_call > 1 else "exception=04*1")
    result = await driver.poll(TICK, FAST)
    gap = f"gap {Reason.EXCEPTION}"
    lost = dict.fromkeys((0, 1) if failing_call == 1 else (2, 3), gap)
    assert values() == {0: 0, 1: 1, 2: 50, 3: 51} | lost
    assert (result.asked, result.answered) == (2, 1) and result.error is not None, "04h may be a gateway's word"
    assert (await driver.poll(TICK + 1000, FAST)).error is None
    assert values() == {0: 0, 1: 1, 2: 50, 3: 51}


async def test_a_failure_of_all_registers_is_a_gateway_that_does_not_reach_the_device(field: Field, ring: Ring) -> None:
    """Over Modbus TCP only: on a bus it is the device itself that answers."""
    device = sim_device()
    driver = ModbusDevice(spec_of(TWO_BLOCKS), field.line(await field.tcp(device)), ring, 0)
    device.faults.set("exception=04")
    result = await driver.poll(TICK, FAST)
    assert isinstance(result.error, GatewayTimeout) and result.answered == 0
    with pytest.raises(GatewayTimeout, match=r"every request fails: .* 04h, device failure"):
        await driver.probe()
    device.faults.clear()
    device.faults.set("exception=04*1")  # of the first question alone
    await driver.probe()
    device.faults.clear()
    device.faults.set("exception=02")
    await driver.probe()
    assert (await driver.poll(TICK + 1000, FAST)).answered == 2
    on_bus = sim_device()
    driver = ModbusDevice(spec_of(TWO_BLOCKS), field.line(await field.pty(on_bus)), ring, 0)
    on_bus.faults.set("exception=04")
    await driver.probe()
    assert (await driver.poll(TICK, FAST)).answered == 2


async def test_a_dead_device_costs_one_timeout_a_visit(field: Field, ring: Ring, values: Values) -> None:
    """field pain 8: slow-down per device, not per register group."""
    device = sim_device()
    points = [gauge(10 * n) for n in range(8)]
    line = field.line(await field.tcp(device), timeout_s=0.02)
    driver = ModbusDevice(spec_of(points), line, ring, 0)
    device.faults.set("silence")
    for n in range(3):
        result = await driver.poll(TICK + 1000 * n, FAST)
        assert (result.asked, result.answered) == (1, 0) and isinstance(result.error, LineTimeout)
        assert values() == dict.fromkeys(range(8), f"gap {Reason.TIMEOUT}")
    assert device.requests[3] == 3
    with pytest.raises(LineTimeout):
        await driver.probe()
    device.faults.clear()
    await driver.probe()
    assert (await driver.poll(TICK + 5000, FAST)).answered == 8
    assert values() == {n: 10 * n for n in range(8)}


async def test_a_device_that_dies_within_a_visit_costs_two_timeouts(field: Field, ring: Ring, values: Values) -> None:
    device = sim_device()
    line = field.line(await field.tcp(device), timeout_s=0.02)
    driver = ModbusDevice(spec_of([gauge(10 * n) for n in range(8)]), line, ring, 0)
    device.faults.set("silence+3")
    result = await driver.poll(TICK, FAST)
    assert (result.asked, result.answered) == (5, 3) and device.requests[3] == 5
    assert [t.frame[9] for t in field.bus(0).trace if not t.sent] == [0, 10, 20, 30, 40]
    assert values() == {n: 10 * n if n < 3 else f"gap {Reason.TIMEOUT}" for n in range(8)}


async def test_a_mute_block_does_not_starve_the_others(field: Field, ring: Ring, values: Values) -> None:
    """A read that alone is silent goes to the end: it costs its own points and one timeout."""
    silent = {0}
    device = mute_when(sim_device(), lambda address, count: address in silent)
    line = field.line(await field.tcp(device), timeout_s=0.02)
    driver = ModbusDevice(spec_of([gauge(0), gauge(10), gauge(20)]), line, ring, 0)
    gap = f"gap {Reason.TIMEOUT}"
    first = await driver.poll(TICK, FAST)
    assert (first.asked, first.answered) == (1, 0) and values() == {0: gap, 1: gap, 2: gap}
    second = await driver.poll(TICK + 1000, FAST)
    assert (second.asked, second.answered) == (3, 2) and values() == {0: gap, 1: 10, 2: 20}
    silent.clear()
    third = await driver.poll(TICK + 2000, FAST)
    assert third.answered == 3 and values() == {0: 0, 1: 10, 2: 20}


async def test_a_suspect_answer_says_so(field: Field, ring: Ring, values: Values) -> None:
    """field pain 11."""
    device = sim_device()
    driver = ModbusDevice(spec_of([gauge(3)]), field.line(await field.pty(device), timeout_s=0.02), ring, 0)
    device.faults.set("silence*1")
    await driver.poll(TICK, FAST)
    assert values() == {0: f"gap {Reason.TIMEOUT}"}
    await driver.poll(TICK + 1000, FAST)
    assert values() == {0: (3, Quality.SUSPECT)}
    await driver.poll(TICK + 2000, FAST)
    assert values() == {0: 3}


@pytest.mark.parametrize(("fault", "reason"), [("crc", Reason.CRC), ("short=1", Reason.MISMATCH)])
async def test_broken_and_wrong_answers_are_gaps_of_their_reason(
    field: Field, ring: Ring, values: Values, fault: str, reason: Reason
) -> None:
    device = sim_device()
    driver = ModbusDevice(spec_of([gauge(3), gauge(4)]), field.line(await field.pty(device), timeout_s=0.02), ring, 0)
    device.faults.set(fault)
    await driver.poll(TICK, FAST)
    assert values() == dict.fromkeys((0, 1), f"gap {reason}")


async def test_a_line_that_is_down_is_a_gap_for_all(field: Field, ring: Ring, values: Values) -> None:
    sim = await field.tcp(sim_device())
    await sim.stop()
    driver = ModbusDevice(spec_of(TWO_BLOCKS), field.line(sim), ring, 0)
    result = await driver.poll(TICK, FAST)
    assert isinstance(result.error, LineDown) and result.answered == 0
    assert values() == dict.fromkeys(range(4), f"gap {Reason.ABSENT}")


async def test_a_text_that_is_not_there_is_a_gap(field: Field, ring: Ring, values: Values) -> None:
    device = sim_device(words=[0xFFFF] * 4 + [9])
    points = [Point("device.serial", Kind.TEXT, pace="fast", address=0, count=4, type="str"), gauge(4)]
    driver = ModbusDevice(spec_of(points), field.line(await field.tcp(device)), ring, 0)
    await driver.poll(TICK, FAST)
    assert values() == {0: f"gap {Reason.SENTINEL}", 1: 9}


async def test_values_for_a_person(field: Field, ring: Ring) -> None:
    points = [
        gauge(10, "ac.voltage.l1", scale=Decimal("0.1")),
        Point("device.state", Kind.STATE, address=3),
        Point("device.firmware", Kind.TEXT, address=80, count=2, type="str"),
        gauge(5000, "x.missing"),
    ]
    device = sim_device()
    device.image.put_words(80, [0x5631, 0x2E30])
    driver = ModbusDevice(spec_of(points), field.line(await field.tcp(device)), ring, 0)
    head = ring.head
    found = await driver.read_points([p.name for p in points])
    assert found["ac.voltage.l1"].value == Decimal("1.0") and found["ac.voltage.l1"].raw == words(10)
    assert found["device.state"].value == 3 and isinstance(found["device.state"].value, int)
    assert found["device.firmware"].value == "V1.0"
    assert found["x.missing"].value is None and found["x.missing"].quality == Reason.EXCEPTION
    assert ring.head == head, "tools leave no trace in the ring"
    with pytest.raises(UsageError, match="unknown point") as caught:
        await driver.read_points(["ac.voltage.l2"])
    assert "ac.voltage.l1" in caught.value.hint


async def test_values_of_a_silent_device(field: Field, ring: Ring) -> None:
    device = sim_device()
    driver = ModbusDevice(spec_of(TWO_BLOCKS), field.line(await field.tcp(device), timeout_s=0.02), ring, 0)
    device.faults.set("silence")
    with pytest.raises(LineTimeout, match="no answer within"):
        await driver.read_points(["x.p0"])
    assert device.requests[3] == 1


async def test_identification_in_several_parts(field: Field, ring: Ring) -> None:
    device = sim_device(objects={0: b"ACME" * 30, 1: b"MTR-3" * 25, 2: b"1.4\x00"})
    driver = ModbusDevice(spec_of([gauge(0)]), field.line(await field.pty(device)), ring, 0)
    assert await driver.read_identification() == {0: ("ACME" * 30)[:79] + "…", 1: ("MTR-3" * 25)[:79] + "…", 2: "1.4"}
    assert device.requests[43] == 2 and writes(device) == 0


@pytest.mark.parametrize(
    ("address", "serial"), [("0", True), ("248", True), ("256", False), ("1a", False), ("", False)]
)
async def test_an_address_that_cannot_be_is_said_at_once(field: Field, ring: Ring, address: str, serial: bool) -> None:
    line = field.line("serial:/dev/null" if serial else "modbus-tcp://127.0.0.1:1")
    with pytest.raises(ConfigError, match="is not a Modbus address"):
        ModbusDevice(replace(spec_of([gauge(0)]), address=address), line, ring, 0)


async def test_the_probe_is_one_cheap_request(field: Field, ring: Ring) -> None:
    device = sim_device()
    points = [gauge(0, count=4, type="u64"), gauge(20), Point("device.firmware", Kind.TEXT, address=30, count=2)]
    line = field.line(await field.tcp(device))
    await ModbusDevice(spec_of(points), line, ring, 0).probe()
    await ModbusDevice(replace(spec_of(points), probe="device.firmware"), line, ring, 0).probe()
    asked = [traced.frame[8:] for traced in field.bus(0).trace if not traced.sent]
    assert asked == [words(20, 1), words(30, 2)]
    device.faults.set("exception=02")
    await ModbusDevice(spec_of(points), line, ring, 0).probe()  # a refusal is an answer


async def test_equal_devices_share_their_compiled_plans(field: Field, ring: Ring, values: Values) -> None:
    line = field.line(await field.tcp(sim_device(1), sim_device(2, range(500, 700))))
    first, second = (ModbusDevice(spec_of(TWO_BLOCKS, unit), line, ring, unit) for unit in (1, 2))
    turned = ModbusDevice(
        replace(spec_of([replace(p, flips=True) for p in TWO_BLOCKS]), reversed=frozenset([""])), line, ring, 3
    )
    await first.poll(TICK, FAST)
    assert values() == {0: 0, 1: 1, 2: 50, 3: 51}
    await second.poll(TICK, FAST)
    assert values() == {0: 500, 1: 501, 2: 550, 3: 551}
    await turned.poll(TICK, FAST)
    assert values() == {0: 0, 1: -1, 2: -50, 3: -51}


async def test_nothing_that_writes_ever_leaves_the_house(field: Field, ring: Ring) -> None:
    """Promise 1, seen from the other end: everything that the driver can do, and the device saw reads only."""
    device = sim_device(objects={0: b"ACME"})
    line = field.line(await field.pty(device))
    driver = ModbusDevice(spec_of([*TWO_BLOCKS, gauge(5000)]), line, ring, 0)
    for n in range(4):
        await driver.poll(TICK + 1000 * n, FAST)
    await driver.probe()
    await driver.read_points(["x.p0", "x.p5000"])
    await driver.read_identification()
    assert writes(device) == 0 and set(device.requests) <= {1, 2, 3, 4, 43}
    assert set(line.stats.sent) == {3, 43} and line.stats.sent == dict(device.requests)
    assert (await line.exchange(ask())).payload == words(0, 1)


async def test_a_value_within_a_block_is_shown_with_its_own_bytes(field: Field, ring: Ring) -> None:
    driver = ModbusDevice(spec_of([gauge(10), gauge(11)]), field.line(await field.tcp(sim_device())), ring, 0)

    found = await driver.read_points(["x.p10", "x.p11"])

    assert {name: value.raw for name, value in found.items()} == {"x.p10": words(10), "x.p11": words(11)}
