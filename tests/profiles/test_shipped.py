"""Every profile that is shipped: sound, sourced, with samples that come out right."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

import pytest

from agent.cli.profiles import replay
from drivers.model import PACES, Kind, Limits
from drivers.plan import LineTiming, compile_block, plan_blocks, plan_summary, text_slots
from drivers.plan.image import image_spec
from drivers.profile import Profile, find_profile, list_profiles, load_profile, shipped_dir, vocabulary

SHIPPED = list_profiles([shipped_dir()])
FIRST = {
    "huawei/sun2000",
    "goodwe/dt",
    "eastron/sdm630",
    "acrel/adl400",
    "pylontech/force-h",
    "generic/heat-recovery-plc",
}


@pytest.fixture(scope="module", params=list(SHIPPED.values()), ids=list(SHIPPED))
def profile(request: pytest.FixtureRequest) -> Profile:
    path: Path = request.param
    return load_profile(path, [shipped_dir()])


def test_the_first_families_are_there() -> None:
    assert set(SHIPPED) >= FIRST | {"generic/float100"}


def test_says_where_it_comes_from(profile: Profile) -> None:
    assert profile.source
    assert profile.evidence in {"derived", "dump"}, "nothing here has met hardware"
    assert profile.models


def test_names_a_second_source_or_says_that_there_is_none(profile: Profile) -> None:
    second = profile.second_source
    assert second is not None, "state [second_source], without source if there is none"
    assert second.en.endswith(".") and re.search(r"[一-鿿]", second.zh)
    assert second.source != profile.source, "the same source twice is one"


def test_replays_its_samples(profile: Profile) -> None:
    assert profile.samples, "a profile without a sample is a rumour"
    assert replay(profile) == []


def test_is_waited_for_on_a_bus_as_a_bus_allows(profile: Profile) -> None:
    """10 s and two retries are numbers of dongles: on a bus they starved the other devices."""
    limits = profile.limits.on_line("serial")
    assert (limits.timeout_s or 1.0) * (1 + (limits.retries or 0)) <= 2.0
    assert limits == profile.limits.on_line("tcp") and limits.serial_timeout_s is None


def test_has_paces_and_points_that_plan_and_compile(profile: Profile) -> None:
    assert {p.pace for p in profile.points} <= set(PACES)
    if profile.protocol != "modbus":
        return  # the rest is about registers
    spec = image_spec(profile, profile.points)
    timing = LineTiming.serial("9600 8N1", profile.limits)
    blocks = plan_blocks(profile.points, profile.limits, timing)
    assert sorted(n for b in blocks for n in b.points) == list(range(len(profile.points)))
    for block in blocks:
        assert block.count <= (profile.limits.max_words or 125)
        plan = compile_block(block, profile.points, spec)
        texts = {slot.point for slot in text_slots(block, profile.points)}
        assert set(plan.points) | texts == set(block.points)
    assert plan_summary(blocks, timing).requests <= len(profile.points)


def test_counters_have_one_unit_and_generators_do_not_import(profile: Profile) -> None:
    for point in profile.points:
        if point.kind is Kind.COUNTER and point.name.endswith(("energy.import", "energy.export", "energy.generation")):
            assert point.unit in {"kWh", "Wh", "MWh"}
        if profile.kind == "inverter":
            assert not re.fullmatch(r"ac\.(power\.active|energy\.(import|export))(\.l\d)?", point.name)


def test_meanings_in_both_languages(profile: Profile) -> None:
    for point in profile.points:
        entry = vocabulary().find(point.name)
        if entry:
            assert entry.en
            assert re.search(r"[一-鿿]", entry.zh), point.name
        elif profile.kind != "bench":
            assert point.en and point.zh, f"{point.name} is the profile's own and must say what it means"


def test_the_vocabulary_is_whole() -> None:
    words = vocabulary()
    assert {"off", "standby", "starting", "running", "limited", "fault", "maintenance", "unknown"} == set(words.states)
    assert len(set(words.patterns)) == len(words.patterns), "a name stands in one place only"
    for pattern in words.patterns:
        name = re.sub(r"\{ll\}", "l12", re.sub(r"\{l\}", "l2", re.sub(r"\{[a-km-z]\}", "7", pattern)))
        entry = words.find(name)
        assert entry, name
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9\-:./_]*", name), "RFC 8428 allows no more"
        assert "{" not in entry.en + entry.zh, name
        assert words.find(f"circuit.3.{name}"), "parts of a device have the same names"
        if entry.swap:
            own = "import" if entry.swap == "export" else "export"
            other = words.find(".".join(entry.swap if w == own else w for w in name.split(".")))
            assert other and other.units == entry.units, name
    assert words.find("battery.rack.2.cell.17.voltage")
    assert not words.find("battery.rack.0.cell.17.voltage")
    assert not words.find("ac.power.active.l4")


def test_pylontech_cells_are_one_description() -> None:
    profile = load_profile(find_profile("pylontech/force-h"))
    assert sum(p.pace == "cells" for p in profile.points) == 7 * (2 + 2 * 15)
    four = profile.resolve({"modules": 4})
    assert len(four.points) == len(profile.points) - 3 * 32
    with_cells = [i for i, p in enumerate(four.points) if p.pace == "cells"]
    blocks = plan_blocks(four.points, profile.limits, LineTiming.tcp(), wanted=with_cells)
    assert [(b.address, b.count) for b in blocks] == [(5216, 4), (5296, 4), (5376, 60), (6144, 60)]


@pytest.mark.parametrize(("id_", "cells", "modules"), [("force-h", 15, 7), ("force-h2", 30, 5), ("force-h3", 32, 7)])
def test_pylontech_modules_follow_each_other_by_their_cells(id_: str, cells: int, modules: int) -> None:
    """With the map of the H1 a cell of an H2 had the name of another module's."""
    points = {p.name: p.address for p in load_profile(find_profile(f"pylontech/{id_}")).points}
    for m in range(modules):
        for c in range(cells):
            assert points[f"battery.module.{m + 1}.cell.{c + 1}.voltage"] == 5376 + cells * m + c
            assert points[f"battery.module.{m + 1}.cell.{c + 1}.temperature"] == 6144 + cells * m + c
    assert sum(".cell." in name and name.startswith("battery.module.") for name in points) == 2 * cells * modules


def test_one_read_of_the_sdm630_at_its_fast_pace() -> None:
    profile = load_profile(find_profile("eastron/sdm630"))
    fast = [i for i, p in enumerate(profile.points) if p.pace == "fast"]
    blocks = plan_blocks(profile.points, profile.limits, LineTiming.serial("9600 8N1"), wanted=fast)
    assert [(b.function, b.address, b.count) for b in blocks] == [(4, 6, 12), (4, 52, 2)]


def test_goodwe_loses_the_phases_that_a_single_phase_model_has_not() -> None:
    profile = load_profile(find_profile("goodwe/dt"))
    single = profile.resolve(identity={"device.serial": "5010KMSC000W0000"})
    names = {p.name for p in single.points}
    assert single.variant == "single phase + three inputs"
    assert "dc.string.3.voltage" in names
    assert not {"ac.voltage.l2", "ac.frequency.l3"} & names


def test_two_huawei_firmwares_lose_what_they_refuse() -> None:
    """One register absent in a firmware failed setup and every batch."""  # field pain 40
    profile = load_profile(find_profile("huawei/sun2000"))
    assert "ac.power.generation" in {p.name for p in profile.points}
    old = profile.resolve(firmware="V100R001C00SPC177")
    assert "ac.power.generation" not in {p.name for p in old.points}
    assert profile.limits == Limits(
        max_words=64, max_gap=16, holes=True, quiet_s=0.05, timeout_s=10, connect_delay_s=1.5, min_every_s=1,
        turnaround_s=0.03, retries=2, serial_timeout_s=2, serial_retries=0,
    )  # fmt: skip  # field pain 43


def test_scales_stay_decimal() -> None:
    for path in SHIPPED.values():
        for point in load_profile(path).points:
            assert isinstance(point.scale, Decimal)
