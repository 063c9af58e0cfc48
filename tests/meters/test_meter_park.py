"""The demo park's line of several protocols: what each meter shows is what its driver reads."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from agent.config import load_config
from drivers.model import UsageError
from drivers.profile import find_profile, load_profile, shipped_dir
from drivers.registry import driver_class
from drivers.sim.bus import Bus
from drivers.sim.families import device_from_profile, meter_from_profile
from drivers.sim.meters import MixedBus
from drivers.sim.park import METERS, make_park
from tests.kits.lines import our_end
from tests.kits.meters import ALL, TICK, Cabinet
from tests.kits.simulated import park_truth, writes
from tests.kits.specs import device_specs
from tests.kits.wires import clock, park_opener


async def test_the_meters_of_the_park_are_read_as_configured(cabinet: Cabinet, tmp_path: Path) -> None:
    park = make_park(tmp_path / "park", speed=0.0, slots=METERS, baud=9600)
    opener = park_opener(park)
    (tmp_path / "agent.toml").write_text(park.agent_toml())
    specs = {spec.name: spec for spec in device_specs(load_config(tmp_path / "agent.toml"))}
    assert {spec.protocol for spec in specs.values()} == {"dlt645", "mbus", "cjt188", "modbus", "sunspec"}
    line = our_end(cabinet.lines, park.lines["meters"], clock=clock, opener=opener)
    truth = park_truth(park)
    for name, spec in specs.items():
        device = driver_class(spec.protocol)(spec, line, cabinet.ring, 3)
        result = await device.poll(TICK, 1 | 2)
        slow = await device.poll(TICK, 4) if spec.protocol in ("mbus", "cjt188") else result
        assert slow.answered, slow.error
        found = cabinet.since(spec.points)
        known = {n: v for n, v in truth[name].items() if n in found and isinstance(v, Decimal)}
        assert len(known) >= 4, (name, found)
        for point, value in known.items():
            assert found[point] == value, (name, point)
    for meter in park.meters.values():
        assert writes(meter.sim) == 0


@pytest.mark.parametrize(
    "profile_id",
    [
        "dlt645/2007", "dlt645/1997", "mbus/heat", "mbus/water", "mbus/gas", "mbus/electricity", "cjt188/heat",
        "cjt188/water", "cjt188/gas",
    ],
)  # fmt: skip
async def test_every_family_has_a_device_side(cabinet: Cabinet, profile_id: str) -> None:
    profile = load_profile(find_profile(profile_id, [shipped_dir()]), [shipped_dir()])
    meter, display = meter_from_profile(profile, address="5", turnaround_s=0.0)
    device = cabinet.device(await cabinet.pty(MixedBus([meter])), profile.protocol, "5", profile.points)
    await device.poll(TICK, ALL)
    found, shown = cabinet.since(profile.points), display.values()
    assert shown and set(shown) <= set(found)
    for name, value in shown.items():
        assert found[name] == value, name


async def test_meters_of_one_line_are_selected_by_their_numbers(cabinet: Cabinet) -> None:
    """M-Bus meters as `simulate --address 12345678` plays them: all at primary address 0, told apart by selection."""
    profile = load_profile(find_profile("mbus/heat", [shipped_dir()]), [shipped_dir()])
    meters = [meter_from_profile(profile, address=number, turnaround_s=0.0)[0] for number in ("12345678", "12345679")]
    line = await cabinet.pty(MixedBus(meters))
    for number in ("12345678", "12345679", "12345678"):
        device = cabinet.device(line, "mbus", number, profile.points)
        found = await device.read_points(["device.serial", "heat.energy"])
        assert found["device.serial"].value == number and found["heat.energy"].value is not None


@pytest.mark.parametrize(
    ("profile_id", "role"), [("sunspec/inverter", "pv1"), ("sunspec/meter", "grid"), ("sunspec/storage", "storage")]
)
async def test_every_sunspec_family_has_a_device_side(cabinet: Cabinet, profile_id: str, role: str) -> None:
    """The chain of models is walked, the scale factors are those of the device: every value as the park has it."""
    profile = load_profile(find_profile(profile_id, [shipped_dir()]), [shipped_dir()])
    sim, display = device_from_profile(profile, unit=3, role=role)
    device = cabinet.device(await cabinet.pty(Bus([sim])), "sunspec", "3", profile.points, timeout_s=1.0)
    result = await device.poll(TICK, ALL)
    assert result.error is None, result.error
    found, shown = cabinet.since(profile.points), display.values()
    assert len(shown) > 15 and not display.unfit
    for name, value in shown.items():
        assert found[name] == value, name
    lacking = set(found) - set(shown)
    assert all(str(found[name]).startswith("gap") for name in lacking), "what the park knows not is not implemented"
    assert writes(sim) == 0


async def test_a_sunspec_device_of_a_kind_that_nobody_models_is_refused() -> None:
    profile = replace(load_profile(find_profile("sunspec/meter", [shipped_dir()]), [shipped_dir()]), kind="pump")
    with pytest.raises(UsageError, match="no SunSpec models for a pump"):
        device_from_profile(profile)
