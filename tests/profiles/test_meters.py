"""Meters, storage and heat: the shipped maps against a slow reference, the register facts and the rules of signs."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.model import Kind, Point, Quality, Reason
from drivers.plan import LineTiming, plan_blocks, read_image
from drivers.plan.image import image_spec
from drivers.profile import Profile, find_profile, load_profile, vocabulary
from drivers.profile.types import Sample
from tests.kits.recorded import registers

# Profile -> the files of register facts that it was made from.
FACTS: Mapping[str, tuple[str, ...]] = {
    "eastron/sdm120": ("eastron_sdm120",),
    "eastron/sdm230": ("eastron_sdm230",),
    "eastron/sdm72v2": ("eastron_sdm72v2",),
    "chint/dtsu666": ("chint_dtsu666",),
    "chint/dtsu666-4000": ("chint_dtsu666",),
    "acrel/adw300": ("acrel_adw300",),
    "schneider/iem3000": ("schneider_iem3000",),
    "schneider/pm5xxx": ("schneider_pm5xxx",),
    "siemens/pac3200": ("siemens_pac_3200_family",),
    "siemens/pac1600": ("siemens_pac1600",),
    "janitza/umg": ("janitza_umg", "janitza_b_series_abb_b23"),
    "janitza/umg604": ("janitza_umg",),
    "janitza/umg511": ("janitza_umg",),
    "abb/b23": ("abb_b23_b24",),
    "carlo-gavazzi/em24": ("carlogavazzi_em24_rs485",),
    "carlo-gavazzi/em24-e1": ("carlogavazzi_em24_e1_tcp",),
    "carlo-gavazzi/em340": ("carlogavazzi_em330_em340_em530",),
    "lovato/dmg610": ("lovato_dmg610",),
    "inepro/pro380": ("inepro_pro380",),
    "socomec/countis": ("socomec_countis_diris",),
    "phoenix/eem": ("phoenix_eem",),
    "weidmueller/em525": ("weidmueller_em525",),
    "byd/battery-box-c130": ("byd_batterybox_commercial_c130",),
    "soltaro/rack": ("soltaro_rack_bms_cabinet",),
    "soltaro/rack-a": ("soltaro_rack_bms_cabinet",),
    "soltaro/rack-b": ("soltaro_rack_bms_cabinet",),
    "pylontech/powercube-m2": ("pylontech_powercube_m2_modbus",),
    "pcs/sinexcel": ("pcs_sinexcel",),
    "pcs/refu88k": ("pcs_refustore88k",),
    "nibe/s-series": ("heatpump_nibe_s_series",),
    "nibe/s-series-unswapped": ("heatpump_nibe_s_series",),
    "lambda/heatpump": ("heatpump_lambda", "heatpump_evcc_templates"),
    "lambda/heatpump-before-1-1-3": ("heatpump_lambda", "heatpump_evcc_templates"),
}
METERS = [id_ for id_ in FACTS if id_.split("/")[0] not in {"byd", "soltaro", "pylontech", "pcs", "nibe", "lambda"}]

# Where a profile knowingly says something else than a row; the file says why.
OWN_READING: Mapping[str, str] = {
    "abb/b23": r"device\.model",  # named in the index: 0x8960
    "carlo-gavazzi/em24-e1": r"device\.(model\.number|mode)",  # named in the index: 0x000B and 0xA000
    "socomec/countis": r"device\.model",  # the source picks its map by it
    "weidmueller/em525": r"ac\.(voltage\.l.|current\..*|frequency|energy\.apparent.*|thd\.current\.l3)",  # plain units
    "byd/battery-box-c130": r"battery\.temperature\.\d+",  # signed in the vendor's document
    "soltaro/rack": r"device\.firmware|battery\.(current|temperature\.\w+|cell\.\d+\.voltage)",  # vendor's document
    "soltaro/rack-b": r"battery\.soh",  # thousandths
    "pylontech/powercube-m2": r"device\.firmware|battery\.(rack\..*|limit\.discharge\.current|insulation\.resistance)",
    "pcs/sinexcel": r"ac\.power\.active",  # the row lost the factor of its converter
    "nibe/s-series-unswapped": r".*",  # the same registers, the other order
    "lambda/heatpump": r"heat\.energy|ac\.power\.active",  # order and place by firmware
    "lambda/heatpump-before-1-1-3": r"heat\.energy|ac\.power\.active",
}
ANY_FUNCTION = {"janitza/umg"}  # one source reads with 3, the other with 4
REGISTERS = {"u16": 1, "i16": 1, "u8h": 1, "u32": 2, "i32": 2, "f32": 2, "u64": 4, "i64": 4, "f64": 4}
PREFIXES = {"k": Decimal(1000), "M": Decimal(10**6), "m": Decimal("0.001")}
BASES = {"W", "var", "VA", "Wh", "varh", "VAh", "V", "A", "Ohm"}


@pytest.fixture(scope="module", params=list(FACTS))
def profile(request: pytest.FixtureRequest) -> Profile:
    return shipped(request.param)


def shipped(id_: str) -> Profile:
    return load_profile(find_profile(id_))


def everything(profile: Profile) -> Iterator[Point]:
    """The points of the base and of every variant."""
    yield from profile.points
    for variant in profile.variants:
        identity = {name: pattern.split("|")[0].replace("*", "") for name, pattern in variant.identity.items()}
        firmware = "1.1.2" if variant.firmware else None
        resolved = profile.resolve(firmware=firmware, identity=identity)
        assert variant.name in resolved.variant
        yield from resolved.points


def slow(point: Point, words: Mapping[int, int]) -> Decimal | None:
    """What a register says, by struct and decimal arithmetic; None for "no reading"."""
    if point.parts:
        lone = [
            replace(
                point, address=p.address, count=REGISTERS[p.type], type=p.type, order=p.order, scale=p.scale, parts=()
            )
            for p in point.parts
        ]
        values = [slow(one, words) for one in lone]
        return None if None in values else sum((v for v in values if v is not None), Decimal(0))
    taken = [words[point.address + i] for i in range(point.count)]
    if point.order == "CDAB":
        taken.reverse()
    raw = b"".join(w.to_bytes(2) for w in taken)
    bits = 8 * len(raw)
    pattern = int.from_bytes(raw)
    if point.type[0] == "f":
        (number,) = struct.unpack(">f" if bits == 32 else ">d", raw)
        if not math.isfinite(number):
            return None
        value = Decimal(shortest(number)) if bits == 32 else Decimal(repr(number))
    else:
        default = {"u": 2**bits - 1, "i": 2 ** (bits - 1)}[point.type[0]]
        if pattern in ((default,) if point.sentinels is None else point.sentinels):
            return None
        value = Decimal(int.from_bytes(raw, signed=point.type[0] == "i"))
        if point.mask is not None:
            low = (point.mask & -point.mask).bit_length() - 1
            value = Decimal((pattern & point.mask) >> low)
    return (value + point.offset) * point.scale


def shortest(number: float) -> str:
    """The shortest decimal that still is this float of 32 bits."""
    for digits in range(1, 10):
        text = f"{number:.{digits - 1}e}"
        if struct.pack(">f", float(text)) == struct.pack(">f", number):
            return text
    return f"{number:.8e}"


@settings(max_examples=12)
@given(data=st.data())
def test_reads_what_plain_arithmetic_reads(profile: Profile, data: st.DataObject) -> None:
    points = [p for p in profile.points if p.kind is not Kind.TEXT and p.pace != "cells"]
    words: dict[int, dict[int, int]] = {}
    for point in points:
        for address in range(point.address, point.address + point.count):
            words.setdefault(point.function, {})[address] = 0
    word = st.one_of(st.integers(0, 0xFFFF), st.sampled_from([0, 1, 0x7FFF, 0x8000, 0xFFFF, 0x4366, 0xC4BB]))
    for space in words.values():
        space.update(zip(space, data.draw(st.lists(word, min_size=len(space), max_size=len(space))), strict=True))
    readings, missing = read_image(words, points, image_spec(profile, points))
    assert not missing
    for point, reading in zip(points, readings, strict=True):
        expected = slow(point, words[point.function])
        if expected is None:
            assert reading.quality == Reason.SENTINEL, point.name
        elif reading.value is not None and isinstance(reading.value, (int, Decimal)):
            got = Decimal(reading.value)
            assert got == expected or abs(got - expected) <= abs(expected) * Decimal("1e-15"), point.name
            outside = (point.low is not None and got < point.low) or (point.high is not None and got > point.high)
            assert reading.quality == (Quality.RANGE if outside else Quality.GOOD), point.name
        else:
            assert point.type in {"f32", "f64"}, f"{point.name}: only a float can be beyond what fits"


def test_samples_say_that_they_are_computed_and_show_what_matters(profile: Profile) -> None:
    assert all("computed from the documented types and scales" in s.name for s in profile.samples)
    shown = [(p, s) for s in profile.samples for p in points_of(profile, s) if p.name in s.expect]
    values = [(p, s.expect[p.name]) for p, s in shown]
    signed = [p for p in profile.points if p.type[0] in "if" and p.pace != "cells"]
    assert not signed or any(isinstance(v, (int, Decimal)) and v < 0 for _, v in values), "no sign is shown"
    for width in (2, 4):
        if any(REGISTERS.get(p.type) == width for p in profile.points):
            both = [s for p, s in shown if REGISTERS.get(p.type) == width and halves(p, s.words.get(p.function, {}))]
            assert both, f"no value of {16 * width} bits whose words differ shows their order"
    if any(p.scale not in (1, -1) for p in profile.points):
        assert any(p.scale not in (1, -1) for p, _ in values), "no scale is shown"


def points_of(profile: Profile, sample: Sample) -> tuple[Point, ...]:
    return profile.resolve(sample.params, sample.firmware, sample.identity).points


def halves(point: Point, words: Mapping[int, int]) -> bool:
    taken = [words.get(point.address + i) for i in range(point.count)]
    return None not in taken and taken != taken[::-1]


# ---------------------------------------------------------------- the facts


def test_no_register_is_invented(profile: Profile) -> None:
    """Each point has a row with its function, place, type, order and step; what differs is listed above."""
    rows = registers(*FACTS[profile.id])
    own = OWN_READING.get(profile.id, "")
    for point in everything(profile):
        if (own and re.fullmatch(own, point.name)) or point.name.startswith("x."):
            continue
        near = [r for r in rows if r["address"] == str(point.address)]
        assert any(agrees(point, r, profile.id in ANY_FUNCTION) for r in near), (
            f"{point.name} at {point.address}: {near}"
        )


def agrees(point: Point, row: Mapping[str, str], any_function: bool) -> bool:
    type_ = {"enum": "u16", "bitfield": "u16"}.get(row["type"], row["type"])
    if point.text:  # versions are words or bytes of them
        return type_ == "u16"
    if not any_function and row["function"] != str(point.function):
        return False
    if point.type == "str":
        return type_ == "str" and row["count"] == str(point.count)
    order = row["order"] or point.order
    same_unit = not row["unit"] or not point.unit or base(row["unit"])[1] == base(point.unit)[1]
    step = abs(point.scale) * base(point.unit)[0] == Decimal(row["scale"]) * base(row["unit"])[0]
    return (
        type_ == point.type
        and order in {point.order, ""} | ({"ABCD"} if not point.order else set())
        and same_unit
        and step
    )


def base(unit: str) -> tuple[Decimal, str]:
    unit = {"°C": "Cel", "°": "deg", "l/m": "l/min"}.get(unit, unit)
    if unit[:1] in PREFIXES and unit[1:] in BASES:
        return PREFIXES[unit[0]], unit[1:]
    return Decimal(1), unit


# ---------------------------------------------------------------- signs, ratios, limits


@pytest.mark.parametrize("id_", METERS)
def test_a_meter_counts_import_with_positive_power(id_: str) -> None:
    profile = shipped(id_)
    names = {p.name for p in profile.points}
    assert "ac.power.active" in names
    assert id_ == "phoenix/eem" or {"ac.energy.import", "ac.energy.export"} <= names
    for point in everything(profile):
        if point.name.startswith("ac.power.active"):
            assert point.scale > 0 and point.type[0] in "if" and point.flips, f"{point.name} loses its sign"
        if point.name.startswith("ac.energy.import"):
            assert point.scale > 0 and point.kind is Kind.COUNTER


@pytest.mark.parametrize(
    ("id_", "current"),
    [
        ("byd/battery-box-c130", "-0.1"),
        ("soltaro/rack", "-0.1"),
        ("soltaro/rack-a", "-0.1"),
        ("soltaro/rack-b", "-0.1"),
        ("pylontech/powercube-m2", "0.01"),  # charge is positive in the device already
        ("pcs/sinexcel", "-0.1"),
        ("pcs/refu88k", "-0.01"),
    ],
)
def test_charging_is_positive(id_: str, current: str) -> None:
    points = {p.name: p for p in shipped(id_).points}
    assert points["battery.current"].scale == Decimal(current)
    assert points["battery.current"].type[0] == "i"
    for name in ("battery.power", "ac.power.active"):
        assert name not in points or points[name].scale < 0, "these count discharge positive"


def test_power_conversion_takes_power_while_it_charges() -> None:
    for id_ in ("pcs/sinexcel", "pcs/refu88k"):
        charging = next(s for s in shipped(id_).samples if s.name.startswith("charging"))
        both = [charging.expect[n] for n in ("ac.power.active", "battery.power", "battery.current")]
        assert all(isinstance(v, (int, Decimal)) and v > 0 for v in both)


def test_ratios_are_applied_where_the_source_says_that_the_meter_does_not() -> None:
    for id_ in FACTS:
        wanted = "apply" if id_ in {"chint/dtsu666", "chint/dtsu666-4000", "acrel/adw300"} else ""
        for point in shipped(id_).points:
            entry = vocabulary().find(point.name)
            if entry and point.name.startswith(("ac.voltage", "ac.current", "ac.power.active", "ac.energy")):
                assert point.ratio == wanted, f"{id_} {point.name}"


def test_word_order_follows_the_family() -> None:
    """A word order for the whole device is wrong for half of the makers."""  # field pain 37
    low_first = {"carlo-gavazzi/em24", "carlo-gavazzi/em24-e1", "carlo-gavazzi/em340", "phoenix/eem"}
    low_first |= {"nibe/s-series", "lambda/heatpump"}
    for id_ in FACTS:
        places = [place for p in shipped(id_).points for place in (p.parts or (p,))]
        orders = {place.order for place in places if REGISTERS.get(place.type, 1) > 1}
        assert orders <= {"CDAB" if id_ in low_first else "ABCD"}, id_


def test_a_battery_is_not_hurried() -> None:
    for id_ in ("byd/battery-box-c130", "soltaro/rack", "soltaro/rack-a", "soltaro/rack-b"):
        profile = shipped(id_)
        assert profile.limits.quiet_s == 0.3, "the vendor asks for 300 ms between requests"
        cells = [i for i, p in enumerate(profile.points) if p.pace == "cells"]
        blocks = plan_blocks(
            profile.points, profile.limits, LineTiming.serial("57600 8N1", profile.limits), wanted=cells
        )
        assert sum(b.count for b in blocks) == len(cells)
        assert all(b.count <= 100 for b in blocks)


# ---------------------------------------------------------------- variants


def test_a_pm5561_has_the_map_of_its_family() -> None:
    """One source read it as integers: 1 123 090 A for 120.5 A, and no export."""
    profile = shipped("schneider/pm5xxx")
    assert profile.resolve(identity={"device.model": "PowerLogic PM5561"}) == profile.resolve()
    measured = {p.name: p.type for p in profile.points if p.name.startswith("ac.")}
    assert {name for name, type_ in measured.items() if type_ != "f32"} == {n for n in measured if ".energy." in n}
    assert {"ac.energy.export", "ac.voltage.l1", "ac.frequency"} <= set(measured)


def test_a_dtsu666_counts_at_one_of_two_places() -> None:
    """Either revision answers the other's block with 0: read there, energy would stand still without a gap."""
    places = {}
    for id_ in ("chint/dtsu666", "chint/dtsu666-4000"):
        points = {p.name: p for p in shipped(id_).points}
        places[id_] = [points[name].address for name in ("ac.energy.import", "ac.energy.export", "ac.power.active")]
    assert places == {"chint/dtsu666": [0x101E, 0x1028, 0x2012], "chint/dtsu666-4000": [0x401E, 0x4028, 0x2012]}


def test_a_b21_has_one_phase() -> None:
    names = {p.name for p in shipped("abb/b23").resolve(identity={"device.model": "B21"}).points}
    assert {"ac.voltage.l1", "ac.current.l1", "ac.power.active", "ac.energy.import"} <= names
    assert not {n for n in names if n.endswith((".l2", ".l3"))}
    assert "ac.power.active.l1" not in names


@pytest.mark.parametrize(
    ("model", "frequency", "energy"),
    [
        ("COUNTIS E44", "0.01", (50946, "10", "Wh")),
        ("Countis E28", "0.001", (50946, "10", "Wh")),
        ("DIRIS A10", "0.01", (50780, "1", "kWh")),
        ("DIRIS B30", None, (19843, "1", "kWh")),
    ],
)
def test_socomec_maps_by_model(model: str, frequency: str | None, energy: tuple[int, str, str]) -> None:
    points = {p.name: p for p in shipped("socomec/countis").resolve(identity={"device.model": model}).points}
    assert (points["ac.frequency"].scale if "ac.frequency" in points else None) == (frequency and Decimal(frequency))
    counter = points["ac.energy.import"]
    assert (counter.address, counter.scale, counter.unit) == (energy[0], Decimal(energy[1]), energy[2])


def test_a_lambda_changes_with_its_firmware() -> None:
    """The same two registers, the words swapped by an update."""  # field pain 39
    profile = shipped("lambda/heatpump")
    for firmware, place, order in (("1.1.3", 1012, "CDAB"), ("1.2", 1012, "CDAB"), ("1.1.2", 103, "ABCD")):
        points = {p.name: p for p in profile.resolve(firmware=firmware).points}
        assert (points["ac.power.active"].address, points["ac.energy.import"].order) == (place, order)
    old = {p.name: p for p in shipped("lambda/heatpump-before-1-1-3").points}
    new = {p.name: p for p in profile.resolve(firmware="1.1.2").points}
    assert {n: (p.address, p.type, p.scale) for n, p in old.items()} == {
        n: (p.address, p.type, p.scale) for n, p in new.items()
    }


def test_racks_and_circuits_follow_the_installer() -> None:
    cube = shipped("pylontech/powercube-m2")
    third = {p.name: p for p in cube.resolve({"racks": 3}).points}["battery.rack.3.voltage"]
    assert third.address == 0x0D00 + 3 * 0x0700 + 3
    assert not [p for p in cube.points if p.name.startswith("battery.rack.2.")]
    circuits = shipped("lambda/heatpump").resolve({"circuits": 3}).points
    assert {p.address for p in circuits if p.name == "heat.circuit.3.temperature.setpoint"} == {5205}


@pytest.mark.parametrize(
    ("number", "more"),
    [
        ("341", set()),  # EM340
        ("331", set()),  # EM330
        ("9", set()),
        ("345", {"ac.energy.export.l1", "ac.energy.export.l2", "ac.energy.export.l3"}),
        ("1760", {"ac.energy.apparent", "ac.thd.current.l1", "ac.thd.voltage.l12"}),
    ],
)
def test_an_em340_has_no_points_that_it_answers_with_0(number: str, more: set[str]) -> None:
    """THD, apparent energy and export by phase are 0 on models without them, not refused."""
    profile = shipped("carlo-gavazzi/em340")
    names = {p.name for p in profile.resolve(identity={"device.model.number": number}).points}
    assert {n for n in names if re.search(r"thd|energy\.apparent|energy\.export\.l", n)} >= more
    assert bool(more) or not {n for n in names if re.search(r"thd|energy\.apparent|energy\.export\.l", n)}


def test_the_model_of_an_em24_is_read_alone() -> None:
    """Register 11 is the model when read alone and half a voltage in a longer read."""
    profile = shipped("carlo-gavazzi/em24-e1")
    blocks = plan_blocks(profile.points, profile.limits, LineTiming.tcp())
    model = [i for i, p in enumerate(profile.points) if p.name == "device.model.number"]
    assert [(b.function, b.address, b.count) for b in blocks if set(model) & set(b.points)] == [(3, 11, 1)]
