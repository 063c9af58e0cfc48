"""Recorded SunSpec images: what the driver's plan reads is what the models' own reader says."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from drivers.model import Quality
from drivers.profile import find_profile, load_profile, shipped_dir
from drivers.samples import read_sample
from drivers.sim.bus import Bus
from drivers.sim.device import SimDevice
from drivers.sunspec.names import readings_of
from drivers.sunspec.walk import decode_image
from tests.kits.meters import ALL, TICK, Cabinet, points_of
from tests.kits.recorded import recorded
from tests.kits.simulated import sunspec_image


@pytest.mark.parametrize("case", recorded("sunspec", "sunspec-image"))
def test_a_recorded_image_is_read_as_its_models_say(case: dict[str, Any]) -> None:
    base, registers = case["input"]["base_address"], case["input"]["registers"]
    said = {r.name: r.value for r in readings_of(decode_image(base, registers)) if r.value is not None}
    profile = load_profile(find_profile("sunspec/inverter", [shipped_dir()]), [shipped_dir()])
    found = read_sample(profile, profile.points, {3: {base + n: word for n, word in enumerate(registers)}})
    common = said.keys() & found.keys()
    assert len(common) >= 4
    assert {n: found[n].value for n in common} == {n: said[n] for n in common}


@pytest.mark.parametrize(
    ("raw", "power", "share"),
    [(998, -1, "0.998"), (-998, -1, "-0.998"), (995, -3, "0.995"), (99, -2, "0.99"), (100, -2, "1"), (85, 0, "0.85")],
)
async def test_power_factors_are_shares_whatever_was_sent(cabinet: Cabinet, raw: int, power: int, share: str) -> None:
    points = points_of("sunspec/inverter", ["ac.power.factor", "ac.power.generation"])
    model: Any = (103, {"PF": raw, "PF_SF": power, "W": 5, "W_SF": 0})
    line = await cabinet.tcp(Bus([SimDevice(1, sunspec_image([model]))]), "mbap")
    device = cabinet.device(line, "sunspec", "1", points)
    await device.poll(TICK, ALL)
    assert cabinet.since(points) == {"ac.power.factor": Decimal(share), "ac.power.generation": Decimal(5)}
    found = (await device.read_points(["ac.power.factor"]))["ac.power.factor"]
    assert (found.value, found.quality) == (Decimal(share), Quality.GOOD)


async def test_offset_and_range_of_a_point_are_obeyed_as_of_any_register(cabinet: Cabinet) -> None:
    """``offset`` was read from the profile and then forgotten: models had a road of their own."""
    (point,) = points_of("sunspec/inverter", ["ac.power.generation"])
    points = (replace(point, offset=Decimal(3), high=Decimal(70)),)
    line = await cabinet.tcp(Bus([SimDevice(1, sunspec_image([(103, {"W": 5, "W_SF": 1})]))]), "mbap")
    device = cabinet.device(line, "sunspec", "1", points)
    found = (await device.read_points(["ac.power.generation"]))["ac.power.generation"]
    assert (found.value, found.quality) == (Decimal(80), Quality.RANGE)
