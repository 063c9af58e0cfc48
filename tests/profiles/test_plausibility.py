"""Values that contradict each other are named with what to do; values of sound devices never are."""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.profile_samples import sampled
from drivers.model import PACES, DeviceSpec, Kind, Point, Quality, Reading, Reason
from drivers.plan.image import image_spec
from drivers.plausibility import Hint, growth_hints, hints
from drivers.profile import list_profiles, load_profile, shipped_dir

D = Decimal
UNITS = {"voltage": "V", "current": "A", "power": "kW", "energy": "kWh", "frequency": "Hz"}


def spec_of(*points: Point) -> DeviceSpec:
    return DeviceSpec("m1", "s", "1", "modbus", "acme/x1", points, (1000,) * len(PACES))


def meter(**values: float | str) -> dict[str, Reading]:
    """Readings of a meter, by the end of their names behind ``ac.``; __ stands for a dot."""
    found = {}
    for key, value in values.items():
        name = f"ac.{key.replace('__', '.')}"
        unit = "" if "factor" in name else UNITS[name.split(".")[1]]
        found[name] = Reading(name, D(str(value)), unit)
    return found


def phases(
    volts: float = 230, amps: float = 10, kw: float = 2.185, factor: float = 0.95, **more: float
) -> dict[str, Reading]:
    each = {}
    for phase in ("l1", "l2", "l3"):
        each |= {f"voltage__{phase}": volts, f"current__{phase}": amps, f"power__active__{phase}": kw}
        each |= {f"power__factor__{phase}": factor}
    return meter(**{**each, "power__active": 3 * kw, **more})


def kinds(found: list[Hint]) -> list[str]:
    for one in found:
        assert re.search(r"[一-鿿]", one.zh) and not re.search(r"[一-鿿]", one.en) and "{name}" not in one.en
    return [one.kind for one in found]


def test_values_that_are_all_zero_ask_for_the_profile_and_the_unit() -> None:
    """A profile of a battery at a register block of something else: every value was 0, and "well"."""
    zeros = phases(0, 0, 0, 0)
    spec = spec_of(*(Point(name, Kind.GAUGE) for name in zeros))
    assert kinds(hints(spec, zeros)) == ["zero"]
    assert "the profile" in hints(spec, zeros)[0].en and f"all {len(zeros)} values are zero" in hints(spec, zeros)[0].en
    assert hints(spec, zeros | {"ac.voltage.l2": Reading("ac.voltage.l2", D("0.1"), "V")}) == []
    few = dict(list(zeros.items())[:3])
    assert hints(spec, few) == [], "three zeros say nothing"


def test_a_meter_that_agrees_with_itself_is_not_spoken_of() -> None:
    assert hints(spec_of(), phases()) == []
    assert hints(spec_of(), phases(kw=-2.185)) == [], "feeding in"
    assert hints(spec_of(), phases(amps=0.02, kw=0.001, factor=0.2)) == [], "no load: nothing can be told"
    assert hints(spec_of(), meter(voltage__l1=230, current__l1=9, power__active=0.3)) == [], (
        "no power factor: may be low"
    )
    assert hints(spec_of(), {}) == []


def test_power_80_times_off_is_a_ratio_hint() -> None:
    (hint,) = hints(spec_of(), phases(kw=2.185 * 80, power__active=3 * 2.185 * 80))
    assert (hint.kind, hint.points[0]) == ("ratio", "ac.power.active.l1")
    assert "factor of 80" in hint.en and "ratio = { ct = ... }" in hint.en
    (hint,) = hints(spec_of(), phases(amps=800))
    assert hint.kind == "ratio" and "factor of 80" in hint.en, "the other way round"


@pytest.mark.parametrize("times", [0.001, 1 / 998, 1000, 1100])
def test_a_factor_near_1000_asks_for_the_unit_first(times: float) -> None:
    """A power in kW, declared as W, was said to be a transformer ratio of 998."""
    (hint,) = hints(spec_of(), phases(kw=2.185 * times, power__active=3 * 2.185 * times))
    assert hint.kind == "ratio" and hint.en.index("Is a unit wrong, such as W instead of kW?") < hint.en.index("ratio")
    assert hint.zh.index("单位是否有误（如把 kW 写成 W）？") < hint.zh.index("变比")
    (other,) = hints(spec_of(), phases(kw=2.185 * times * 0.7, power__active=3 * 2.185 * times * 0.7))
    assert "Is a unit wrong" not in other.en, "a ratio such as 4000/5 or 7000/5"


def test_a_total_alone_is_held_against_line_voltages_too() -> None:
    values = {"voltage__l12": 400, "voltage__l23": 400, "voltage__l31": 400}
    values |= {"current__l1": 10, "current__l2": 10, "current__l3": 10, "power__factor": 0.95}
    assert hints(spec_of(), meter(**values, power__active=6.58)) == []
    (hint,) = hints(spec_of(), meter(**values, power__active=6580))
    assert hint.kind == "ratio" and "a factor of 1000" in hint.en


def test_phases_that_do_not_add_up_and_a_phase_with_another_sign() -> None:
    assert kinds(hints(spec_of(), phases(power__active=0.0066))) == ["sum"]
    assert "scale or unit" in hints(spec_of(), phases(power__active=0.006555))[0].en
    turned = phases(power__active__l2=-2.185, power__active=2.185)
    (hint,) = hints(spec_of(), turned)
    assert (hint.kind, hint.points) == ("sign", ("ac.power.active.l2",)) and "swap k and l" in hint.en
    added = hints(spec_of(), phases(power__active__l2=-2.185))
    assert kinds(added) == ["sign", "sum"] and "without their sign" in added[1].en


@pytest.mark.parametrize(
    ("name", "kw", "roles", "odd"),
    [
        ("power__generation", -42, {"": "generation.pv"}, True),
        ("power__generation", 42, {"": "generation.pv"}, False),
        ("power__generation", -0.02, {"": "generation.pv"}, False),  # what it takes at night
        ("power__active", 42, {"ac": "generation.pv"}, True),
        ("power__active", -42, {"ac": "generation.pv"}, False),
        ("power__active", -42, {"ac": "load"}, True),
        ("power__active", -42, {"ac": "load.charging"}, True),
        ("power__active", -42, {"ac": "grid"}, False),
        ("power__active", 42, {"meter.ac": "generation.pv"}, False),  # another part of the device
        ("power__active", -42, {}, False),
    ],
)
def test_the_sign_of_power_fits_the_role(name: str, kw: float, roles: dict[str, str], odd: bool) -> None:
    assert kinds(hints(spec_of(), meter(**{name: kw}), roles)) == (["sign"] if odd else [])


def floats(order: str, *values: float) -> list[bytes]:
    turn = {"ABCD": (0, 1, 2, 3), "CDAB": (2, 3, 0, 1)}[order]
    return [bytes(struct.pack(">f", value)[n] for n in turn) for value in values]


def test_an_order_that_gives_sense_is_named_once_with_its_value() -> None:
    points = [
        Point(f"ac.voltage.l{n}", Kind.GAUGE, "V", type="f32", order="ABCD", count=2, low=D(-2000000), high=D(2000000))
        for n in (1, 2, 3)
    ]
    raws = floats("CDAB", 232.1, 231.0, 229.5)
    readings = {}
    for point, raw in zip(points, raws, strict=True):
        value = D(repr(struct.unpack(">f", raw)[0]))
        quality = Quality.RANGE if abs(value) > 2_000_000 else Quality.GOOD
        readings[point.name] = Reading(point.name, value, "V", quality, raw)
    assert [one.quality for one in readings.values()] == [Quality.GOOD, Quality.GOOD, Quality.GOOD], "tiny, not huge"
    (hint,) = hints(spec_of(*points), readings)
    assert 'with order "CDAB" instead of "ABCD" this would be 232.1 V' in hint.en and "字节序" in hint.zh
    assert kinds([hint]) == ["order"]
    sound = {name: replace(one, value=D(230), quality=Quality.GOOD) for name, one in readings.items()}
    assert hints(spec_of(*points), sound) == []


def test_a_frequency_in_the_wrong_scale_is_named_with_the_right_one() -> None:
    point = Point("ac.frequency", Kind.GAUGE, "Hz", type="u16", low=D(40), high=D(70), scale=D("0.1"))
    reading = Reading("ac.frequency", D("500.1"), "Hz", Quality.RANGE, b"\x13\x89")
    (hint,) = hints(spec_of(point), {"ac.frequency": reading})
    assert "with scale = 0.01 this would be 50.01 Hz" in hint.en


def test_counters_are_held_against_power() -> None:
    own = Point("ac.energy.import", Kind.COUNTER, "kWh", type="u32", scale=D("0.001"))
    spec = spec_of(own, replace(own, name="ac.energy.export"))

    def after(hours: float, import_: float, export: float, kw: float = 36) -> list[Hint]:
        first = meter(power__active=kw, energy__import=100, energy__export=50)
        last = meter(power__active=kw, energy__import=100 + import_, energy__export=50 + export)
        return growth_hints(spec, first, last, hours * 3600)

    assert after(0.01, 0.36, 0) == [] and after(0.01, 0, 0.36, kw=-36) == []
    assert after(0.0001, 0, 0) == [], "the counter's step is too coarse to tell yet"
    assert kinds(after(0.01, 0, 0)) == ["counter"] and "grew by 0 Wh" in after(0.01, 0, 0)[0].en
    assert "ac.energy.export counts instead of ac.energy.import" in after(0.01, 0, 0.36)[0].en
    assert "360 Wh" in after(0.01, 360, 0)[0].en, "MWh taken for kWh"
    assert after(0.01, 0.36, 0, kw=0) == []


def test_a_count_behind_transformers_is_as_large_as_their_ratio() -> None:
    """A main meter of high voltage counts steps of 60 kWh. A minute of 1 MW without a step gave a hint, though nothing
    was wrong.
    """
    own = Point("ac.energy.import", Kind.COUNTER, "kWh", key="00010000", ratio="apply")
    spec = replace(spec_of(own), protocol="dlt645", ratio_ct=D(60), ratio_pt=D(100))

    def after(seconds: float, grown: int) -> list[Hint]:
        first, last = (meter(power__active=1000, energy__import=600_000 + more) for more in (0, grown))
        return growth_hints(spec, first, last, seconds)

    assert after(60, 0) == after(120, 60) == after(3600, 960) == []
    assert kinds(after(3600, 0)) == kinds(after(3600, 60)) == ["counter"]
    plain = replace(spec, ratio_ct=D(1), ratio_pt=D(1))
    readings = [meter(power__active=1, energy__import=100 + more) for more in (0, D("0.02"))]
    assert growth_hints(plain, *readings, 60) == [], "0.0167 kWh, and the meter shows 0.01 kWh"


@pytest.mark.parametrize("id_", list_profiles([shipped_dir()]))
def test_samples_of_shipped_profiles_give_no_order_or_scale_hint(id_: str) -> None:
    profile = load_profile(list_profiles([shipped_dir()])[id_], [shipped_dir()])
    for sample in profile.samples:
        points = profile.resolve(sample.params, sample.firmware, sample.identity).points
        found = hints(image_spec(profile, points), sampled(profile, sample, points))
        assert not {one.kind for one in found} & {"order", "scale"}, [one.en for one in found]


NAMES = [
    *(f"ac.{kind}.l{n}" for kind in ("voltage", "current", "power.active", "power.factor") for n in (1, 2, 3)),
    "ac.power.active", "ac.power.generation", "ac.power.factor", "ac.voltage.l12", "ac.frequency", "ac.energy.import",
    "meter.ac.power.active", "ac.voltage", "ac.current",
]  # fmt: skip
VALUES = st.one_of(st.none(), st.integers(-(10**20), 10**20), st.floats(allow_nan=False, allow_infinity=False))


@given(st.dictionaries(st.sampled_from(NAMES), VALUES), st.sampled_from([Quality.GOOD, Quality.RANGE, Quality.SUSPECT]))
def test_no_values_whatever_end_in_an_error(values: dict[str, float | None], quality: Quality) -> None:
    points = tuple(Point(n, Kind.GAUGE, "V", type="f32", order="ABCD", count=2) for n in values)
    units = {"voltage": "V", "current": "A", "power": "kW", "energy": "MWh", "frequency": "Hz"}
    readings = {
        name: Reading(
            name,
            None if value is None else D(repr(value)),
            units.get(name.removeprefix("meter.").split(".")[1], ""),
            quality if value is not None else Reason.SENTINEL,
            struct.pack(">f", 0.1) if value is None else struct.pack(">d", float(value))[:4],
        )
        for name, value in values.items()
    }
    kinds(hints(spec_of(*points), readings, {"": "generation.pv", "meter.ac": "load"}))
    kinds(growth_hints(spec_of(*points), readings, dict(reversed(readings.items())), 10))
