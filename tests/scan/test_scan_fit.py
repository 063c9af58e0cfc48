"""Which profile fits: every shipped family, played by the simulator, is recognised as itself or as its equal."""

from __future__ import annotations

import random

import pytest

from drivers.line import LineConfig, open_line
from drivers.modbus.requests import read_request
from drivers.model import Limits
from drivers.plan.image import image_spec, read_image
from drivers.profile import Profile, find_profile, load_profile, shipped_dir
from drivers.scan.caching_line import CachingLine
from drivers.scan.fit import THOROUGH, Effort, Identity, _judge, identify, profiles_of
from drivers.scan.register_block import find_block
from drivers.sim.bus import Bus
from drivers.sim.device import SimDevice
from drivers.sim.display import ParkClock
from drivers.sim.families import device_from_profile
from drivers.sim.image import Image
from tests.kits.scans import sampled
from tests.kits.simulated import writes
from tests.kits.wires import Wire, clock

EQUAL = {  # families that share a map, or a part of it: nothing that is asked can tell them apart
    "chint/dtsu666-4000": "chint/dtsu666",
    "eastron/sdm230": "eastron/sdm120",
    "growatt/mod-xh": "growatt/mid",
    "huawei/luna2000": "huawei/sun2000",
    "nibe/s-series-unswapped": "nibe/s-series",
    "soltaro/rack": "byd/battery-box-c130",
    "soltaro/rack-a": "byd/battery-box-c130",
    "soltaro/rack-b": "byd/battery-box-c130",
    "weidmueller/em525": "janitza/umg",
}
ALL = sorted(profiles_of(("modbus", "sunspec")), key=lambda one: one.protocol != "sunspec")
EFFORTS = (THOROUGH, Effort(brief=True))
FAST = ("abb/b23", "nibe/s-series", "sunspec/inverter", "eastron/sdm630", "pcs/sinexcel")


def profile(name: str) -> Profile:
    return load_profile(find_profile(name, [shipped_dir()]), [shipped_dir()])


async def asked(wanted: Profile, zeros: bool = False, effort: Effort = THOROUGH) -> Identity:
    params = {
        name: param.choices[0] if param.choices else max(param.low, 1)
        for name, param in wanted.params.items()
        if param.default is None
    }
    device, _ = device_from_profile(wanted, clock=ParkClock(1, 0.0), params=params, turnaround_s=0.0)
    for function in (3, 4) if zeros else ():
        for address in (a for a in range(0x10000) if not device.image.exists(function, a)):
            device.image.put_words(address, [0], function=function)
    sim = Wire(Bus([device]), 0)
    line = open_line(LineConfig("scan", sim.url), clock, opener=sim.open_port)
    try:
        return await identify(line, "1", ALL, effort=effort)
    finally:
        await line.close()
        assert writes(device) == 0


@pytest.mark.parametrize("name", ["chint/dtsu666", "eastron/sdm630"])
@pytest.mark.parametrize("swapped", [True, False])
async def test_a_known_meter_with_its_words_in_another_order_is_named(name: str, swapped: bool) -> None:
    """It was "no known profile", and the way back was a profile written from nothing."""
    wanted, device = profile(name), sampled(name, 1)
    for point in wanted.points if swapped else ():
        if point.count == 2 and device.image.exists(point.function, point.address):
            words = device.image.words(point.address, 2, function=point.function)
            device.image.put_words(point.address, words[::-1], function=point.function)
    sim = Wire(Bus([device]), 0)
    line = open_line(LineConfig("scan", sim.url), clock, opener=sim.open_port)
    try:
        found = await identify(line, "1", ALL)
    finally:
        await line.close()
    if swapped:
        assert found.reordered and found.reordered[1] == "CDAB" and not found.fits
        assert found.reordered[0].partition("/")[0] == name.partition("/")[0], found.reordered
    else:
        assert found.reordered is None and found.fits


@pytest.mark.parametrize("effort", [THOROUGH, Effort(brief=True)], ids=["thorough", "brief"])
async def test_a_device_that_sends_ffff_for_everything_is_not_recognised(effort: Effort) -> None:
    """It was a heat pump (likely), with -0.1 °C everywhere; a server sends this for a device that is not there."""
    device = SimDevice(1, Image(), turnaround_s=0.0)
    for function in (3, 4):
        device.image.put_words(0, [0xFFFF] * 0x10000, function=function)
    line = open_line(LineConfig("scan", (sim := Wire(Bus([device]), 0)).url), clock, opener=sim.open_port)
    try:
        found = await identify(line, "1", ALL, effort=effort)
    finally:
        await line.close()
    assert [fit for fit in found.fits if fit.how != "possible"] == []


async def likely_fits(words: list[int], effort: Effort) -> list[str]:
    """The profiles that fit a device with these words in its holding and input registers, more than possibly."""
    device = SimDevice(1, Image(), turnaround_s=0.0)
    for function in (3, 4):
        device.image.put_words(0, words, function=function)
    line = open_line(LineConfig("scan", (sim := Wire(Bus([device]), 0)).url), clock, opener=sim.open_port)
    try:
        found = await identify(line, "1", ALL, effort=effort)
    finally:
        await line.close()
    return [fit.profile for fit in found.fits if fit.how != "possible"]


@pytest.mark.parametrize("effort", EFFORTS, ids=["whole", "quick"])
@pytest.mark.parametrize("word", [2300, 5000, 9999, 30000, 0x3F3F, 0xFFF0])
async def test_a_controller_that_fills_its_registers_with_one_word_is_not_recognised(word: int, effort: Effort) -> None:
    """With a scale of 0.1, most words are a voltage between 20 V and 40 kV. So it was a meter (likely)."""
    assert await likely_fits([word] * 0x10000, effort) == []


@pytest.mark.parametrize("effort", EFFORTS, ids=["whole", "quick"])
@pytest.mark.parametrize("seed", range(3))
async def test_a_controller_with_any_large_words_is_not_recognised(seed: int, effort: Effort) -> None:
    """Without its transformer's ratio, a meter measures no more than 1000 V."""
    chance = random.Random(seed)
    assert await likely_fits([chance.randrange(20_000, 0x10000) for _ in range(0x10000)], effort) == []


@pytest.mark.parametrize(("word", "judged"), [(0, 0), (0x0102, 2)])
def test_letters_that_the_form_of_a_text_adds_prove_nothing(word: int, judged: int) -> None:
    """Zeros read as a firmware of "V00.00", which counted as a value that only the right register map gives."""
    battery = profile("pylontech/powercube-m2")
    (point,) = (one for one in battery.points if one.name == "device.firmware")
    readings, _ = read_image({3: {point.address: word}}, [point], image_spec(battery, [point]))
    assert str(readings[0].value).startswith("V") and _judge(point, readings[0], False) == judged


async def recognised(name: str, effort: Effort) -> None:
    found = await asked(profile(name), effort=effort)
    fits = {fit.profile: fit for fit in found.fits}
    assert name in fits or effort.brief, "a technician would not find it"
    assert found.fits[0].how in ("certain", "likely")
    assert found.fits[0].profile in (name, EQUAL.get(name)), [(f.profile, f.how) for f in found.fits[:3]]
    assert not found.cut_short and found.has_answered


@pytest.mark.parametrize("effort", EFFORTS, ids=["whole", "quick"])
@pytest.mark.parametrize("name", FAST)
async def test_a_family_is_recognised(name: str, effort: Effort) -> None:
    """Also where a family has neither a name nor a voltage to tell: a heat pump's temperatures make sense."""
    await recognised(name, effort)


async def test_a_device_that_answers_zeros_elsewhere_is_certain_also_in_a_quick_scan() -> None:
    """Zeros read as a firmware of "00.0" are no reason to stop looking."""
    found = await asked(profile("huawei/sun2000"), zeros=True, effort=Effort(brief=True))
    assert (found.fits[0].profile, found.fits[0].how) == ("huawei/sun2000", "certain")


@pytest.mark.slow
@pytest.mark.parametrize("effort", EFFORTS, ids=["whole", "quick"])
@pytest.mark.parametrize("name", [one.id for one in ALL if one.id not in FAST])
async def test_every_family_is_recognised(name: str, effort: Effort) -> None:
    await recognised(name, effort)


async def test_a_run_of_registers_longer_than_one_read_is_shown_in_part() -> None:
    """The block was the whole run, whose request cannot be made, and the scan ended with an internal error."""
    image = Image()
    image.put_words(0, list(range(1, 131)))
    wire = Wire(Bus([SimDevice(1, image)]), 0)
    line = open_line(LineConfig("l", wire.url), clock, opener=wire.open_port)
    memory = CachingLine(line)
    try:
        for first, count in ((0, 100), (100, 30)):
            await memory.exchange(read_request(1, 3, first, count, "d"), memory.request_options(Limits()))
        assert str(await find_block(memory, read_request, 1, "")) == "3:0+125"
    finally:
        await line.close()
