"""The inverter families: every register is one that a source names, signs are ours, quirks are kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pytest

from agent.cli.profiles import replay
from drivers.model import Point, ProfileError, Quality
from drivers.plan import LineTiming, plan_blocks, read_image
from drivers.plan.image import image_spec
from drivers.profile import Profile, find_profile, load_profile
from tests.kits.recorded import registers

# profile -> the tables its registers come from, and the parameters that make it as large as it gets
FAMILIES: dict[str, tuple[tuple[str, ...], dict[str, int]]] = {
    "huawei/smartlogger3000": (("huawei_smartlogger3000",), {"battery": 2}),
    "huawei/luna2000": (
        ("huawei_sun2000_battery_luna2000", "huawei_sun2000", "huawei_sun2000_meter_dtsu666h"),
        {"units": 2, "packs": 3},
    ),
    "sungrow/sg": (("sungrow_sg",), {"mppts": 3, "mppts_more": 5, "mppts_last": 4, "strings": 24, "meter": 1}),
    "sungrow/sh": (("sungrow_sh",), {"mppts": 3}),
    "goodwe/et": (("goodwe_et_hybrid",), {}),
    "growatt/vpp": (("growatt_vpp_v203",), {}),
    "growatt/mid": (("growatt_mid_tl3x",), {"strings": 3}),
    "growatt/min": (("growatt_min_tlx",), {"strings": 2}),
    "growatt/mod-xh": (("growatt_mod_tl3xh",), {"strings": 3, "batteries": 4}),
    "growatt/sph": (("growatt_sph",), {"strings": 2}),
    "solis/string": (("solis_string",), {"strings": 4, "meter": 1, "epm": 1}),
    "solis/hybrid": (("solis_hybrid",), {"strings": 4, "meter2": 1}),
    "deye/3p-hybrid": (("deye_3p_hybrid",), {"strings": 4, "strings_more": 4, "packs": 20, "generator": 1}),
    "sma/sunny": (("sma_sunny_modbus_profile",), {"mppts": 3, "meter": 1, "battery": 1}),
    "sofar/g3-string": (("sofar_g3_string",), {"strings": 2}),
    "sofar/g3-hybrid": (("sofar_g3_hybrid",), {"strings": 4}),
    "kstar/hybrid": (("kstar_hybrid",), {"strings": 2}),
    "chint/cps-sce": (("chint_cps_sce_hybrid",), {"strings": 3, "strings_more": 5}),
}
OWN = [name for name in FAMILIES if name not in {"goodwe/et", "growatt/vpp"}]

WORDS = {"u16": 1, "i16": 1, "u32": 2, "i32": 2, "u64": 4, "i64": 4, "f32": 2}
UNITS = {"°C": "Cel", "k-ohm": "kOhm", "kΩ": "kOhm", "kVar": "kvar", "HH": "h"}
UNCOUNTED = {"%", "Charges", "cycle", ""}  # on numbers without a unit of ours
# Identity that the index of the tables names (coordinator.py of the source), not a row of theirs.
INDEXED = {("growatt", "device.firmware"), ("growatt", "device.serial")}


@dataclass(frozen=True)
class Row:
    """One row of a table of facts."""

    type: str
    count: int
    order: str
    scale: Decimal
    unit: str
    is_declared: bool  # its source says the type


def rows(tables: tuple[str, ...]) -> dict[tuple[int, int], list[Row]]:
    found: dict[tuple[int, int], list[Row]] = {}
    for row in registers(*tables):
        fact = Row(
            row["type"],
            int(row["count"] or 1),
            row["order"],
            Decimal(row["scale"] or "1"),
            row["unit"],
            row["declared"] == "yes",
        )
        found.setdefault((int(row["function"]), int(row["address"])), []).append(fact)
    return found


def largest(name: str) -> tuple[Profile, tuple[Point, ...]]:
    profile = load_profile(find_profile(name))
    return profile, profile.resolve(FAMILIES[name][1]).points


def pieces(point: Point) -> Iterator[tuple[int, str, str, Decimal]]:
    """Address, type, order, scale of each register group of a point."""
    if any(abs(p.scale) == 65536 for p in point.parts):  # the words of one number lie apart, its row at the low word
        yield point.parts[0].address, "i32", "CDAB", Decimal(1)
    elif point.parts:
        yield from ((p.address, p.type, p.order, p.scale) for p in point.parts)
    else:
        yield point.address, point.type, point.order, point.scale


def same_type(ours: str, row: Row) -> bool:
    """Bit fields and codes are unsigned; types that the source did not declare may be signed."""
    if row.type in {"enum", "bitfield", "raw"}:
        return ours == {1: "u16", 2: "u32"}.get(row.count, ours)
    loose = not row.is_declared or row.type == "raw"
    return ours == row.type or (loose and WORDS.get(ours) == row.count)


def same_unit(point: Point, row: Row) -> bool:
    theirs = UNITS.get(row.unit, row.unit)
    return point.unit == theirs or (point.unit in {"", "count", "var"} and (theirs in UNCOUNTED or theirs == "W"))


@pytest.mark.parametrize("name", OWN)
def test_every_register_is_one_that_a_source_names(name: str) -> None:
    """Function, address, type, word order, scale (its sign apart) and unit are a row's."""
    known = rows(FAMILIES[name][0])
    profile, points = largest(name)
    wrong = []
    for point in points:
        if (profile.id.split("/")[0], point.name) in INDEXED or point.name.startswith("device.fault."):
            continue
        for address, type_, order, scale in pieces(point):
            for row in known.get((point.function, address), []):
                state = point.kind.value in {"state", "text"}
                if not same_type(type_, row) or (WORDS.get(type_, 1) > 1 and order and order != row.order):
                    continue
                if state or (abs(scale) == abs(row.scale) and same_unit(point, row)):
                    break
            else:
                found = known.get((point.function, address))
                wrong.append(f"{point.name} {point.function}:{address} {type_} {order} {scale} {point.unit}: {found}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", ["sofar/g3-string", "sofar/g3-hybrid", "chint/cps-sce", "solis/hybrid"])
def test_fault_words_lie_in_a_row(name: str) -> None:
    known = rows(FAMILIES[name][0])
    _, points = largest(name)
    for point in points:
        if point.name.startswith("device.fault."):
            assert any(
                function == point.function and address <= point.address < address + row.count
                for (function, address), facts in known.items()
                for row in facts
            ), point.name


# What a park sums and compares; what a family cannot say is written down here, and in its notes.
NEEDED = {
    "ac.energy.generation",
    "ac.frequency",
    "ac.voltage.l1",
    "dc.power|dc.string.1.power|dc.mppt.1.power",
    "device.temperature|device.temperature.heatsink",
    "device.state",
}
HOLES = {
    "chint/cps-sce": {"ac.energy.generation", "device.state"},  # no lifetime counter, no state in the table
    "huawei/smartlogger3000": {
        "ac.frequency",
        "ac.voltage.l1",
        "device.temperature|device.temperature.heatsink",
        "device.state",
        "identity",
    },
    "growatt/min": {"power", "identity"},  # AC power is in VA in the table
    "solis/string": {"identity"},
}


@pytest.mark.parametrize("name", OWN)
def test_has_what_a_park_needs(name: str) -> None:
    profile, points = largest(name)
    names = {p.name for p in points}
    missing = {need for need in NEEDED if not names & set(need.split("|"))}
    power = "ac.power.active" if profile.kind == "hybrid" and name != "huawei/luna2000" else "ac.power.generation"
    if power not in names and profile.kind != "logger":
        missing.add("power")
    if not {n for n in names if re.fullmatch(r"device\.(serial|model)", n)}:
        missing.add("identity")
    assert missing == HOLES.get(name, set())
    state = next((p for p in points if p.name == "device.state"), None)
    assert state is None or {"running", "fault"} <= set(state.states.values())
    assert state is None or set(state.states) == set(state.labels), "each number has a word and a meaning"


@pytest.mark.parametrize("name", OWN)
def test_says_what_an_installer_must_know(name: str) -> None:
    profile = load_profile(find_profile(name))
    assert profile.notes["en"] and re.search(r"[一-鿿]", profile.notes["zh"])
    assert all(p.en and re.search(r"[一-鿿]", p.zh) for p in profile.params.values())
    assert profile.limits.max_words and profile.limits.timeout_s
    assert profile.sleeps == (profile.kind == "inverter" or name == "huawei/luna2000")
    for sample in profile.samples:
        assert "computed from the documented types and scales" in sample.name, "no reading of a real device"


@pytest.mark.parametrize("name", OWN)
def test_the_fast_pace_is_few_requests(name: str) -> None:
    profile = load_profile(find_profile(name))
    fast = [i for i, p in enumerate(profile.points) if p.pace == "fast"]
    timing = LineTiming.serial("9600 8N1", profile.limits)
    blocks = plan_blocks(profile.points, profile.limits, timing, wanted=fast)
    assert 1 <= len(blocks) <= 4
    assert max(b.count for b in blocks) <= (profile.limits.max_words or 0)


def values(name: str, function: int, words: dict[int, int], **who: object) -> dict[str, Decimal | int | str | None]:
    """What a profile makes of words; points whose words are not all given are absent."""
    profile = load_profile(find_profile(name))
    points = profile.resolve(**who).points  # type: ignore[arg-type]
    readings, _ = read_image({function: words}, points, image_spec(profile, points))
    return {r.name: r.value for r in readings if r.quality == Quality.GOOD}


def two(value: int, low_first: bool = False) -> list[int]:
    words = [value >> 16 & 0xFFFF, value & 0xFFFF]
    return words[::-1] if low_first else words


def at(*groups: tuple[int, list[int]]) -> dict[int, int]:
    return {first + i: word for first, words in groups for i, word in enumerate(words)}


# family, function, words while 3000 W are exported and the battery is charged with 1500 W
FEEDING: list[tuple[str, int, dict[int, int]]] = [
    ("huawei/luna2000", 3, at((37113, two(3000)), (37765, two(1500)))),
    ("huawei/smartlogger3000", 3, at((32278, two(-3000)), (37001, two(1500)))),
    ("sungrow/sh", 4, at((5600, two(-3000, True)), (5213, two(-1500, True)), (13033, two(3000, True)))),
    ("growatt/mod-xh", 4, at((31112, two(-30000)), (3178, [*two(0), *two(15000)]), (35, two(30000)))),
    ("growatt/sph", 4, at((1009, [*two(0), *two(15000), 0, 0, *two(0), *[0] * 12, *two(30000)]), (35, two(30000)))),
    ("deye/3p-hybrid", 3, at((590, [-1500 & 0xFFFF]), (619, [-3000 & 0xFFFF, *[0] * 16, 3000, *[0] * 71, 0xFFFF]))),
    ("sofar/g3-hybrid", 3, at((1157, [300, 0, 0, 300]), (1542, [150]))),
    ("kstar/hybrid", 4, at((3065, [-1500 & 0xFFFF]), (3100, [1000, 0, 0, 0, 1000, 0, 0, 0, 1000]))),
    ("sma/sunny", 3, at((30865, [*two(0), *two(3000)]), (31393, [*two(1500), *two(0)]))),
]


@pytest.mark.parametrize(("name", "function", "words"), FEEDING, ids=[f[0] for f in FEEDING])
def test_import_and_charge_are_positive(name: str, function: int, words: dict[int, int]) -> None:
    """Each maker counts its own way; one sign rule comes out."""
    who = {"params": {"battery": 1}} if name in {"sma/sunny", "huawei/smartlogger3000"} else {}
    found = values(name, function, words, **who)
    battery = "battery.pack.1.power" if name == "huawei/smartlogger3000" else "battery.power"
    assert found["meter.ac.power.active"] == -3000
    assert found[battery] == 1500
    assert found.get("ac.power.active", -3000) == -3000


def test_goodwe_totals_beyond_32_kw_keep_their_sign() -> None:
    """The low word alone made 40 kW of output 25.5 kW of import; a single-phase model has no high word."""
    words = at((35137, [*two(40_000), *two(-35_000)]))
    found = values("goodwe/et", 3, words, identity={"device.serial": "950KETT000W00000"})
    assert (found["ac.power.active"], found["grid.ac.power.active"]) == (-40_000, 35_000)
    words = at((35137, [0, 3000, 0, -164 & 0xFFFF]))  # as recorded
    found = values("goodwe/et", 3, words, identity={"device.serial": "00000EHU00000000"})
    assert (found["ac.power.active"], found["grid.ac.power.active"]) == (-3000, 164)


def test_growatt_sph_counts_all_phases_and_half_seconds() -> None:
    """1015 is one phase of the import, 40 the VA of one, and 57 counted hours was 3600 times too long."""
    words = at(
        (35, [*two(50_000)]),
        (40, two(9)),
        (57, two(7200)),
        (1015, [*two(9), *[0] * 4, *two(30_000), *[0] * 6, *two(0)]),
    )
    found = values("growatt/sph", 4, words)
    assert (found["ac.power.active"], found["meter.ac.power.active"], found["device.runtime"]) == (-5000, 3000, 3600)
    units = {p.name: p.unit for p in load_profile(find_profile("growatt/sph")).points}
    assert units["device.runtime"] == "s"


def test_deye_high_words_apart_may_be_all_ones() -> None:
    """-1 W is FFFF in both words: a value here, not "no reading"."""
    found = values("deye/3p-hybrid", 3, at((619, [0xFFFF, *[0] * 88, 0xFFFF])))
    assert found["meter.ac.power.active"] == -1


def test_deye_high_voltage_counts_in_ten_watts() -> None:
    words = at((586, [1250, 5275, 50, 0, 100]), (672, [400]))
    low = values("deye/3p-hybrid", 3, words, identity={"device.model.number": "5"})
    high = values("deye/3p-hybrid", 3, words, identity={"device.model.number": "1537"})
    for code in ("6", "7", "8", "1536", "1538"):
        assert values("deye/3p-hybrid", 3, words, identity={"device.model.number": code}) == high
    assert (low["battery.power"], low["battery.voltage"], low["dc.string.1.power"]) == (-100, Decimal("52.75"), 400)
    assert (high["battery.power"], high["battery.voltage"], high["dc.string.1.power"]) == (
        -1000,
        Decimal("527.5"),
        4000,
    )
    assert low["battery.temperature"] == high["battery.temperature"] == 25


def test_sungrow_follows_firmware() -> None:
    """A WiNet-S counted the frequency ten times; one firmware refuses the meter's voltages."""  # field pain 40
    words = {5241: 50020}
    assert values("sungrow/sh", 4, words) == {}, "500.2 Hz is out of range"
    winet = values("sungrow/sh", 4, words, identity={"device.firmware.3": "WINET-SV200.001.00.P012"})
    assert winet["ac.frequency"] == Decimal("50.02")
    profile = load_profile(find_profile("sungrow/sh"))
    refused = {p.name for p in profile.resolve(firmware="SAPPHIRE-H_01011.95.14").points}
    assert "meter.ac.power.active" in refused and "meter.ac.voltage.l1" not in refused


def test_sungrow_32_bits_come_low_word_first_and_growatt_high() -> None:  # field pain 37
    assert values("sungrow/sg", 4, at((5030, [1, 0])))["ac.power.generation"] == 1
    assert values("growatt/mid", 4, at((35, [1, 0])))["ac.power.generation"] == Decimal("6553.6")
    epm = values("solis/string", 4, at((3004, [0, 1]), (36054, [1, 0])), params={"epm": 1})
    assert (epm["ac.power.generation"], epm["grid.ac.energy.import"]) == (1, Decimal("0.01"))


def test_growatt_reads_stay_short_and_inside_its_ranges() -> None:
    """Bridges lose or replay long answers; the maps are blocks of 125 registers."""  # field pain 28
    for name in ("growatt/mid", "growatt/min", "growatt/mod-xh", "growatt/sph"):
        profile, points = largest(name)
        for block in plan_blocks(points, profile.limits, LineTiming.serial("9600 8N1", profile.limits)):
            assert block.count <= 50
            assert block.address // 125 == (block.address + block.count - 1) // 125, (name, block.address)


def test_luna2000_is_its_inverter_and_more() -> None:
    inverter = {p.name for p in load_profile(find_profile("huawei/sun2000")).points}
    both = largest("huawei/luna2000")[1]
    assert inverter <= {p.name for p in both}
    packs = {p.name: p.address for p in both if re.fullmatch(r"battery\.pack\.\d\.module\.\d\.power", p.name)}
    assert packs == {
        f"battery.pack.{unit}.module.{pack}.power": 38233 + 126 * (unit - 1) + 42 * (pack - 1)
        for unit in (1, 2)
        for pack in (1, 2, 3)
    }


def test_sma_says_nothing_at_night() -> None:
    night = at((30775, [0x8000, 0]), (30865, [*two(500), *two(0)]), (30513, [0xFFFF] * 4))
    found = values("sma/sunny", 3, night)
    assert found == {"meter.ac.power.active": 500}


CABINET = """
schema = 1
vendor = "Example"
models = ["EX*"]
kind = "storage"
protocol = "modbus"
source = "test"
evidence = "derived"

[params.racks]
default = 1
max = 4

[[repeat]]
over = "r"
count = "racks"
stride = 16
point = [{ name = "battery.rack.{r}.soc", function = 3, address = 0, type = "u16", unit = "%" }]

[[sample]]
name = "a larger cabinet"
params = { racks = RACKS }
holding = { 32 = 77 }
expect = { "battery.rack.3.soc" = 77 }
"""


def test_a_sample_may_show_a_larger_cabinet_but_no_absurd_one(write: Callable[[str], Path]) -> None:
    profile = load_profile(write(CABINET.replace("RACKS", "3")))
    assert len(profile.points) == 1 and replay(profile) == []
    for racks in ("1", "5", "1_000_000_000_000", "true", '"3"'):
        with pytest.raises(ProfileError):
            load_profile(write(CABINET.replace("RACKS", racks)))
