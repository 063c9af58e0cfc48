"""No voltage of 1e36: what no sound device reports is `range`, and what a sound one reports never is."""

from __future__ import annotations

import struct
from decimal import Decimal

import pytest

from agent.service.births import point_row
from drivers.model import PACES, DeviceSpec, Quality
from drivers.plan import read_image
from drivers.plan.image import image_spec
from drivers.profile import Profile, list_profiles, load_profile, shipped_dir, vocabulary
from tests.kits.example_profile import HEAD, Write

D = Decimal
POINTS = """
[defaults]
function = 3
order = "ABCD"
[[point]]
name = "ac.voltage.l1"
address = 0
type = "f32"
unit = "V"
[[point]]
name = "ac.power.active"
address = 2
type = "f32"
unit = "kW"
range = [-50, 1e12]
[[point]]
name = "heat.temperature.supply"
address = 4
type = "i16"
scale = 0.1
unit = "Cel"
[[point]]
name = "ac.current.l1"
address = 5
type = "u16"
scale = 0.01
unit = "A"
"""


@pytest.fixture
def profile(write: Write) -> Profile:
    return load_profile(write(HEAD + POINTS))


def floats(*values: float) -> dict[int, int]:
    return dict(enumerate(struct.unpack(f">{2 * len(values)}H", struct.pack(f">{len(values)}f", *values))))


def test_a_float_in_the_wrong_order_is_out_of_range_and_the_value_stays(profile: Profile) -> None:
    words = floats(230.0, 9.0)
    turned = {0: words[1], 1: words[0], 2: words[3], 3: words[2]}
    for image, qualities in ((words, [Quality.GOOD] * 2), (turned | {0: 0xF149}, [Quality.RANGE, Quality.GOOD])):
        readings, _ = read_image({3: image}, profile.points[:2], image_spec(profile, profile.points[:2]))
        assert [r.quality for r in readings] == qualities
        assert all(r.value is not None for r in readings)


def test_a_range_of_the_profile_holds_where_it_is_narrower(profile: Profile) -> None:
    by_name = {p.name: (p.low, p.high) for p in profile.points}
    assert by_name["ac.voltage.l1"] == (-2_000_000, 2_000_000)
    assert by_name["ac.power.active"] == (-50, 10_000_000), "kW"
    assert by_name["heat.temperature.supply"] == (-200, 2000), "3276.7 is a broken sensor"
    assert by_name["ac.current.l1"] == (None, None), "the register cannot hold more than 655.35"


def test_the_birth_says_the_range_with_the_sign_of_its_readings(profile: Profile) -> None:
    spec = DeviceSpec("m1", "s", "1", "modbus", "example/x", profile.points, (1000,) * len(PACES))
    rows = [point_row(point, spec, vocabulary().senml).get("range") for point in spec.points]
    assert rows == [["-2000000", "2000000"], ["-50", "10000000"], ["-200", "2000"], None]
    turned = DeviceSpec(
        "m1", "s", "1", "modbus", "example/x", profile.points, (1000,) * len(PACES), reversed=frozenset({""})
    )
    assert point_row(profile.points[1], turned, vocabulary().senml)["range"] == ["-10000000", "50"]


FILLERS = """
[defaults]
function = 3
order = "ABCD"
[[point]]
name = "ac.power.active"
address = 0
type = "i32"
unit = "W"
[[point]]
name = "ac.current.l1"
address = 2
type = "i16"
scale = -0.1
unit = "A"
[[point]]
name = "ac.voltage.l1"
address = 3
type = "i16"
scale = 0.1
unit = "V"
sentinel = false
[[point]]
name = "ac.energy.net"
address = 4
type = "i32"
unit = "Wh"
[[point]]
name = "ac.power.reactive"
address = 6
type = "i32"
unit = "var"
range = [-5e4, 3e9]
"""


def test_the_largest_signed_number_is_no_measured_value_unless_the_profile_says_so(write: Write) -> None:
    """Devices send it for a value that they do not have: 2147483647 W was good."""
    profile = load_profile(write(HEAD + FILLERS))
    spec = image_spec(profile, profile.points)

    def qualities(*words: int) -> list[int]:
        return [reading.quality for reading in read_image({3: dict(enumerate(words))}, profile.points, spec)[0]]

    full = (0x7FFF, 0xFFFF)
    good, out = Quality.GOOD, Quality.RANGE
    assert qualities(*full, 0x7FFF, 0x7FFF, *full, *full) == [out, out, good, good, out], "a counter may be full"
    less = (0x7FFF, 0xFFFE)
    assert qualities(*less, 0x7FFE, 0x7FFE, *less, *less) == [good] * 5
    assert qualities(0x8000, 1, 0x8001, 0x8001, 0x8000, 1, 0xFFFF, 0x3CB0)[:4] == [good] * 4
    by_name = {p.name: (p.low, p.high) for p in profile.points}
    assert by_name["ac.power.active"] == (-(2**31), 2**31 - 2)
    assert by_name["ac.current.l1"] == (D("-3276.6"), D("3276.8")) and by_name["ac.voltage.l1"] == (None, None)
    assert by_name["ac.power.reactive"] == (-50000, 2**31 - 2)


def test_bounds_hold_in_every_unit_of_a_dimension() -> None:
    words = vocabulary()
    assert words.bounds("MW") == (-10_000, 10_000) and words.bounds("h") == (-2_400_000, 2_400_000)
    assert words.bounds("") is None and words.bounds("dBm") is None
    for entry in words.entries():
        for unit in filter(None, entry.units):
            low, high = words.bounds(unit) or (D(-1), D(1))
            assert low < high
            if entry.low is not None and entry.high is not None and unit == entry.units[0]:
                assert low <= entry.low and entry.high <= high, entry.pattern


@pytest.mark.parametrize("id_", list_profiles([shipped_dir()]))
def test_no_value_of_a_shipped_sample_lies_beyond_the_bounds(id_: str) -> None:
    profile = load_profile(list_profiles([shipped_dir()])[id_], [shipped_dir()])
    for sample in profile.samples:
        points = {p.name: p for p in profile.resolve(sample.params, sample.firmware, sample.identity).points}
        for name, value in sample.expect.items():
            bounds = vocabulary().bounds(points[name].unit) if name in points else None
            if bounds and value is not None and not isinstance(value, str):
                assert bounds[0] <= value <= bounds[1], f"{name} {value}"
