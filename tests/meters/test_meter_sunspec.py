"""SunSpec devices end to end: Modbus TCP, RTU and raw TCP; scale factors, absent points, chains that move."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from drivers.line import Line
from drivers.model import ConfigError, DeviceException, LineTimeout, Reason
from drivers.profile import find_profile, load_profile, shipped_dir
from drivers.sim.bus import Bus
from drivers.sim.device import SimDevice
from drivers.sunspec import PROTOCOL
from drivers.sunspec.device import FIRST_PAUSE_S
from drivers.sunspec.models import decode_model
from drivers.sunspec.plan import find_points
from drivers.sunspec.simulate import model_registers
from drivers.sunspec.walk import decode_image
from tests.kits.meters import ALL, TICK, Cabinet, points_of, replace, sent_frames
from tests.kits.simulated import punch, sunspec_image

COMMON: Any = (1, {"Mn": "Acme", "Md": "X-10", "Vr": "1.2.3", "SN": "S123"})
SOLAR: Any = (103, {"W": 1108, "W_SF": 1, "WH": 123456789, "WH_SF": 0, "Hz": 5001, "Hz_SF": -2, "St": 4})


async def road(cabinet: Cabinet, kind: str, bus: Bus) -> Line:
    return await (cabinet.pty(bus) if kind == "rtu" else cabinet.tcp(bus, "mbap" if kind == "mbap" else "rtu"))


@pytest.mark.parametrize("profile_id", ["sunspec/inverter", "sunspec/meter", "sunspec/storage"])
@pytest.mark.parametrize("kind", ["mbap", "rtu", "raw"])
async def test_the_samples_are_read_over_every_kind_of_line(cabinet: Cabinet, profile_id: str, kind: str) -> None:
    profile = load_profile(find_profile(profile_id, [shipped_dir()]), [shipped_dir()])
    (sample,) = profile.samples
    image = sunspec_image([])
    for address, word in sample.words[3].items():
        image.put_words(address, [word])
    bus = Bus([SimDevice(7, image)])
    device = cabinet.device(await road(cabinet, kind, bus), "sunspec", "7", profile.points)
    await device.poll(TICK, ALL)
    found = cabinet.since(profile.points)
    assert set(found) == {p.name for p in profile.points}, "every due point is a reading or a gap"
    for name, value in sample.expect.items():
        assert found[name] == (value if value is not None else f"gap {Reason.SENTINEL}"), name
    assert (await device.poll(TICK + 1000, ALL)).asked <= 3, "the chain is walked once"
    assert {f"function {frame[7 if kind == 'mbap' else 1]}" for frame in sent_frames(bus)} == set(PROTOCOL.frames)


async def test_read_points_and_probe(cabinet: Cabinet) -> None:
    points = points_of("sunspec/inverter")
    line = await cabinet.tcp(Bus([SimDevice(1, sunspec_image([COMMON, SOLAR]))]), "mbap")
    device = cabinet.device(line, "sunspec", "1", points)
    await device.probe()
    found = await device.read_points(["device.serial", "ac.power.generation", "ac.power.factor", "dc.mppt.1.power"])
    assert found["device.serial"].value == "S123"
    assert (found["ac.power.generation"].value, found["ac.power.generation"].raw) == (Decimal(11080), b"\x04\x54")
    assert (found["ac.power.factor"].value, found["ac.power.factor"].quality) == (None, Reason.SENTINEL)
    assert found["dc.mppt.1.power"].quality == Reason.ABSENT
    assert device.plan_summary(ALL).requests >= 1


@pytest.mark.parametrize("base", [0, 40000, 50000])
async def test_the_marker_is_found_at_each_place(cabinet: Cabinet, base: int) -> None:
    points = points_of("sunspec/inverter", ["ac.power.generation"])
    line = await cabinet.tcp(Bus([SimDevice(1, sunspec_image([COMMON, SOLAR], base))]), "mbap")
    device = cabinet.device(line, "sunspec", "1", points)
    await device.poll(TICK, ALL)
    assert cabinet.since(points) == {"ac.power.generation": Decimal(11080)}


async def test_repeating_groups_and_unknown_models(cabinet: Cabinet) -> None:
    points = points_of("sunspec/inverter", ["dc.mppt.1.power", "dc.mppt.2.power", "dc.mppt.3.power", "ac.frequency"])
    modules = (160, {"N": 2, "DCW_SF": 1, "module[0].DCW": 250, "module[1].DCW": 310, "module[0].DCA": 5})
    vendor = [64321, 3, 1, 2, 3]  # a model of the maker's own: listed, not fatal
    line = await cabinet.tcp(Bus([SimDevice(1, sunspec_image([COMMON, vendor, modules, SOLAR]))]), "mbap")
    device = cabinet.device(line, "sunspec", "1", points)
    await device.poll(TICK, ALL)
    assert cabinet.since(points) == {
        "dc.mppt.1.power": Decimal(2500),
        "dc.mppt.2.power": Decimal(3100),
        "dc.mppt.3.power": f"gap {Reason.ABSENT}",
        "ac.frequency": Decimal("50.01"),
    }
    assert device.device is not None and [m.id for m in device.device.models] == [1, 64321, 160, 103, 0xFFFF]


async def test_a_firmware_that_moves_the_models_is_followed(cabinet: Cabinet) -> None:  # field pain 39
    points = points_of("sunspec/inverter", ["ac.power.generation"])
    sim = SimDevice(1, sunspec_image([COMMON, SOLAR]))
    line = await cabinet.tcp(Bus([sim]), "mbap")
    device = cabinet.device(line, "sunspec", "1", points, timeout_s=0.1)
    await device.poll(TICK, ALL)
    sim.faults.set("silence*1")
    assert isinstance((await device.poll(TICK + 1, ALL)).error, LineTimeout)
    cabinet.since(points)
    moved = (103, {"W": 777, "W_SF": 0})
    sim.image = sunspec_image([COMMON, (120, {"WRtg": 5, "WRtg_SF": 1}), moved])
    await device.poll(TICK + 2, ALL)
    assert cabinet.since(points) == {"ac.power.generation": Decimal(777)}


async def test_a_refusal_while_the_device_starts_hides_no_models(cabinet: Cabinet) -> None:
    """One refused head of a model made all later models absent for as long as the remaining reads were answered."""
    points = points_of("sunspec/inverter", ["device.serial", "ac.power.generation"])
    image = sunspec_image([COMMON, SOLAR])
    head = next(m.address for m in decode_image(40000, image.words(40000, 200)).models if m.id == 103)
    (word,) = image.words(head, 1)
    device = cabinet.device(await cabinet.tcp(Bus([SimDevice(1, image)]), "mbap"), "sunspec", "1", points)

    async def poll(after_s: float) -> dict[str, object]:
        await asyncio.sleep(after_s)
        result = await device.poll(TICK, ALL)
        assert result.answered, "the device is alive"
        return cabinet.since(points)

    refused, absent = f"gap {Reason.EXCEPTION}", f"gap {Reason.ABSENT}"
    complete = {"device.serial": "S123", "ac.power.generation": Decimal(11080)}
    punch(image, head, code=4)
    assert (await device.read_points(["device.serial"]))["device.serial"].value == "S123", "a person sees what is there"
    assert await poll(0) == dict.fromkeys(complete, refused)
    image.put_words(head, [word])
    assert await poll(1) == complete
    device.device = None
    for code in (4, 2):  # refused for longer, or as if the register were missing
        punch(image, head, code=code)
        if code == 4:
            assert await poll(1) == dict.fromkeys(complete, refused)
        assert await poll(1) == complete | {"ac.power.generation": absent}
        image.put_words(head, [word])
        assert await poll(1) == complete | {"ac.power.generation": absent}, "not searched in each visit"
        assert await poll(FIRST_PAUSE_S) == complete
        device.device = None


async def test_a_chain_without_an_end_is_searched_again_less_and_less_often(cabinet: Cabinet) -> None:
    """Some devices never have an end model. Their readings must neither wait for it nor cost many requests."""
    points = points_of("sunspec/inverter", ["ac.power.generation"])
    image = sunspec_image([COMMON, SOLAR])
    end = decode_image(40000, image.words(40000, 200)).models[-1].address
    punch(image, end, 2, code=4)
    device = cabinet.device(await cabinet.tcp(Bus([SimDevice(1, image)]), "mbap"), "sunspec", "1", points)
    await device.poll(TICK, ALL)
    cabinet.since(points)
    walks = 0
    for _ in range(24 * 60):
        result = await device.poll(TICK, ALL)
        assert cabinet.since(points) == {"ac.power.generation": Decimal(11080)}
        walks += result.asked > 2
        await asyncio.sleep(60)
    assert 24 <= walks <= 32


async def test_float_models_and_701(cabinet: Cabinet) -> None:
    points = points_of("sunspec/inverter", ["ac.power.generation", "ac.energy.generation", "ac.voltage.l1"])
    floats: Any = (113, {"W": 1234.5, "WH": 1e6, "PhVphA": 230.25})
    der = (701, {"W": 55, "W_SF": 2, "TotWhInj": 99, "TotWh_SF": 3, "VL1": 2301, "V_SF": -1})
    names = [point.name for point in points]
    wanted: list[tuple[Any, ...]] = [("1234.5", 1000000, "230.25"), (5500, 99000, "230.1")]
    for model, expected in zip((floats, der), wanted, strict=True):
        line = await cabinet.tcp(Bus([SimDevice(1, sunspec_image([COMMON, model]))]), "mbap")
        device = cabinet.device(line, "sunspec", "1", points)
        await device.poll(TICK, ALL)
        assert cabinet.since(points) == {n: Decimal(v) for n, v in zip(names, expected, strict=True)}


async def test_two_meters_in_one_device(cabinet: Cabinet) -> None:
    (point,) = points_of("sunspec/meter", ["ac.power.active"])
    points = [replace(point, key="203.W"), replace(point, name="meter.2.ac.power.active", key="203:2.W")]
    chain: list[Any] = [COMMON, (203, {"W": 1, "W_SF": 0}), COMMON, (203, {"W": -2, "W_SF": 1})]
    line = await cabinet.tcp(Bus([SimDevice(1, sunspec_image(chain))]), "mbap")
    device = cabinet.device(line, "sunspec", "1", points)
    await device.poll(TICK, ALL)
    assert cabinet.since(points) == {"ac.power.active": Decimal(1), "meter.2.ac.power.active": Decimal(-20)}


async def test_a_value_and_its_factor_come_in_one_read(cabinet: Cabinet) -> None:  # field pain 38
    points = points_of("sunspec/inverter")
    image = sunspec_image([COMMON, SOLAR])
    bus = Bus([SimDevice(1, image)])
    device = cabinet.device(await cabinet.tcp(bus, "mbap"), "sunspec", "1", points, max_words=50)
    await device.walk()
    bus.trace.clear()
    await device.poll(TICK, ALL)
    reads = [(int.from_bytes(frame[8:10]), int.from_bytes(frame[10:12])) for frame in sent_frames(bus)]
    assert len(reads) > 1 and max(count for _, count in reads) <= 50
    found = decode_image(40000, image.words(40000, 200))
    placed = find_points(found, device.spec, 50, "here").values()
    assert len(placed) > 10 and any(point.scale_at is not None for point in placed)
    for point in placed:
        begin, end = point.span
        assert any(address <= begin and end <= address + count for address, count in reads), point


async def test_no_sunspec_and_no_answer(cabinet: Cabinet) -> None:
    points = points_of("sunspec/inverter", ["ac.power.generation"])
    sim = SimDevice(1, sunspec_image([COMMON], 100))
    line = await cabinet.tcp(Bus([sim]), "mbap")
    device = cabinet.device(line, "sunspec", "1", points, timeout_s=0.1)
    result = await device.poll(TICK, ALL)
    assert isinstance(result.error, DeviceException) and "no SunSpec marker" in result.error.what
    assert cabinet.since(points) == {"ac.power.generation": f"gap {Reason.EXCEPTION}"}
    sim.faults.set("silence")
    assert isinstance((await device.poll(TICK + 1, ALL)).error, LineTimeout)
    assert cabinet.since(points) == {"ac.power.generation": f"gap {Reason.TIMEOUT}"}


@pytest.mark.parametrize("key", ["W", "103", "battery.W", "103.W|", "103:x.W"])
async def test_keys_that_mean_nothing(cabinet: Cabinet, key: str) -> None:
    (point,) = points_of("sunspec/inverter", ["ac.power.generation"])
    line = await cabinet.tcp(Bus(), "mbap")
    with pytest.raises(ConfigError, match="is not a point of a SunSpec model"):
        cabinet.device(line, "sunspec", "1", [replace(point, key=key)])


@pytest.mark.parametrize("model_id", [1, 101, 103, 111, 113, 120, 160, 203, 213, 701, 713, 714, 802, 803])
def test_the_layout_agrees_with_the_reader(model_id: int) -> None:
    """Each point's registers, cut out by the layout, are those that the model's reader decoded."""
    groups = {160: "module[1].DCW", 714: "Prt[1].DCW", 803: "string[1].StrSoC"}
    counts = {160: "N", 714: "NPrt", 803: "NStr"}
    values: dict[str, int | float | str] = (
        {groups[model_id].replace("[1]", "[0]"): 3, groups[model_id]: 4, counts[model_id]: 2}
        if model_id in groups
        else {}
    )
    registers = model_registers(model_id, values)
    model = decode_model(40002, registers)
    places = model.places
    assert places.keys() == {n for n, p in model.points.items() if p.definition and p.definition.type != "sunssf"}
    for name, place in places.items():
        assert place.point == model.points[name].definition
    for name, value in values.items():
        at = places[name].offset
        assert registers[at] == value
