"""The shipped profiles of meters: their samples go through the whole driver, frame by frame."""

from __future__ import annotations

from decimal import Decimal

import pytest

from agent.cli.profiles import replay
from drivers.cjt188.simulate import Cjt188Meter
from drivers.dlt645.simulate import Dlt645Meter
from drivers.iec62056 import frames as iec62056
from drivers.iec62056.simulate import Iec62056Meter
from drivers.mbus.simulate import MbusMeter
from drivers.profile import Sample, find_profile, load_profile, shipped_dir
from drivers.registry import PACKAGES, protocol_of
from drivers.samples import read_sample
from drivers.scan.fit import profiles_of
from drivers.sim.meters import SimMeter
from tests.kits.codecs import cjt188, dlt645, mbus
from tests.kits.meters import ALL, TICK, Cabinet, bus_of, replace
from tests.kits.recorded import cases

SHIPPED = {one.id: one for one in profiles_of(("dlt645", "mbus", "cjt188", "iec62056"))}
CASES = [(name, number) for name, profile in SHIPPED.items() for number in range(len(profile.samples))]


def served(protocol: str, sample: Sample) -> tuple[SimMeter, str]:
    """A meter that answers with the frames of a sample, and its address."""
    raw = [bytes.fromhex(text) for text in sample.frames.values()]
    if protocol == "dlt645":
        found = [dlt645.Parser().feed(frame)[0] for frame in raw]
        return Dlt645Meter(address=found[0].address, values={f.identifier: f.payload for f in found}), found[0].address
    if protocol == "cjt188":
        answers = [cjt188.Parser().feed(frame)[0] for frame in raw]
        values = {f.identifier: f.payload for f in answers if f.identifier is not None}
        first = answers[0]
        return Cjt188Meter(meter_type=first.meter_type, address=first.address, values=values), first.address
    if protocol == "iec62056":
        readout = iec62056.Parser().feed(raw[0])[0]
        who, lines = readout.identification, readout.block.decode("latin-1").split("\r\n")[:-2]
        return Iec62056Meter(maker=who.maker, model=who.text, speed=who.speed, lines=lines, switches=False), "*"
    telegrams = [mbus.Parser().feed(frame)[0] for frame in raw]
    address = telegrams[0].address or 0
    return MbusMeter(address=address, telegrams=tuple(f.raw[6:-2] for f in telegrams)), str(address)


def test_there_are_the_families_of_the_cabinets() -> None:
    wanted = {"dlt645/2007", "dlt645/1997", "mbus/heat", "mbus/heat-gj", "mbus/water", "cjt188/heat", "cjt188/heat-gj"}
    assert set(SHIPPED) >= wanted | {"cjt188/water", "iec62056/electricity", "landis-gyr/e350"}
    assert all(profile.samples for profile in SHIPPED.values())


@pytest.mark.parametrize(("name", "number"), CASES)
async def test_a_sample_comes_out_of_the_driver_as_it_says(cabinet: Cabinet, name: str, number: int) -> None:
    profile = SHIPPED[name]
    sample = profile.samples[number]
    meter, address = served(profile.protocol, sample)
    device = cabinet.device(await cabinet.pty(bus_of(meter)), profile.protocol, address, profile.points)
    await device.poll(TICK, ALL)
    found = cabinet.since(profile.points)
    assert set(found) == {p.name for p in profile.points}, "every due point is a reading or a gap"
    for point, value in sample.expect.items():
        if value is None:
            assert str(found[point]).startswith("gap"), point
        else:
            assert found[point] == (value if isinstance(value, str) else Decimal(value)), point


def test_every_driver_states_its_frames_and_none_writes() -> None:
    for protocol in PACKAGES:
        frames = protocol_of(protocol).frames
        assert frames and not any("write" in what or what.partition(" ")[0] == "set" for what in frames.values())


@pytest.mark.parametrize("name", ["dlt645/2007", "mbus/heat", "cjt188/water", "sunspec/meter", "landis-gyr/e350"])
def test_profiles_check_replays_frames_and_sees_what_is_wrong(name: str) -> None:
    profile = load_profile(find_profile(name, [shipped_dir()]), [shipped_dir()])
    assert replay(profile) == []
    sample = profile.samples[0]
    point = next(p for p, value in sample.expect.items() if isinstance(value, Decimal))
    wrong = replace(profile, samples=(replace(sample, expect={point: Decimal("-7.5")}),))
    (text,) = replay(wrong)
    assert f"{point} is " in text and "expected -7.5" in text
    if sample.frames:
        (what, raw), *_ = sample.frames.items()
        broken = replace(profile, samples=(replace(sample, frames={what: raw[:-4] + "0016"}),))
        assert any("is invalid" in text for text in replay(broken))


RECORDED = {  # frames of real meters, as libmbus collected them -> what the shipped profiles make of them
    "test-frames/example_data_01": ("mbus/heat", {"heat.energy": "1389817", "heat.volume": "504647"}),
    "test-frames/sen_pollusonic_2": ("mbus/heat", {"heat.energy": "6531", "heat.volume": "0.069"}),
    "test-frames/minol_minocal_c2": ("mbus/heat", {"heat.energy": "3", "heat.temperature.supply": "20.09"}),
    "test-frames/oms_frame2": ("mbus/water", {"water.volume": "2850.427", "water.volume.settlement": "1445.419"}),
    "test-frames/itron_bm_+m": ("mbus/water", {"water.volume": "54.321"}),
    "test-frames/electricity-meter-1": (
        "mbus/electricity",
        {"ac.energy.import.tariff.1": "12.52", "ac.energy.import.tariff.2": "17744.33"},
    ),
}


@pytest.mark.parametrize("case", RECORDED)
def test_recorded_meters_fit_the_generic_profiles(case: str) -> None:
    (found,) = [c["input"]["hex"] for c in cases("mbus") if c["id"] == case]
    name, wanted = RECORDED[case]
    readings = read_sample(SHIPPED[name], SHIPPED[name].points, frames={"readout": found})
    assert {point: readings[point].value for point in wanted} == {p: Decimal(v) for p, v in wanted.items()}
