"""What a wrong profile is told, and what a right one becomes."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.model import Kind, Limits, ProfileError
from drivers.profile import Profile, find_profile, list_profiles, load_profile, select
from drivers.profile.places import key_lines, value_at
from drivers.profile.variants import holds

HEAD = """\
schema = 1
vendor = "Example Instruments"
models = ["EX-630*"]
kind = "meter"
protocol = "modbus"
source = "EX-630 register map rev 1.8 (2021-03), table 4"
evidence = "derived"
"""
POINT = """
[[point]]
name = "ac.voltage.l1"
function = 3
address = 0x10
type = "u16"
scale = 0.1
unit = "V"
"""

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(text: str, name: str = "ex630") -> Path:
        path = tmp_path / "example" / f"{name}.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return to_file


def complaints(write: Write, text: str) -> list[str]:
    with pytest.raises(ProfileError) as caught:
        load_profile(write(text))
    assert caught.value.exit_code == 3
    return [str(c) for c in caught.value.complaints]


def test_the_example_of_the_design_loads(write: Write) -> None:
    profile = load_profile(
        write(
            HEAD
            + """
limits = { max_words = 60, quiet = "20 ms", holes = false, min_every = "1 s" }
probe = { point = "device.firmware" }
params = { racks = 1 }

[[point]]
name = "device.firmware"
function = 3
address = 0x0000
type = "str"
count = 8
pace = "once"

[[point]]
name = "ac.power.active"
function = 3
address = 0x0034
type = "i32"
order = "ABCD"
scale = 0.1
unit = "W"
range = [-50_000.0, 50_000.0]
pace = "fast"

[[variant]]
firmware = ">=3"
point = [
  { name = "ac.energy.import", function = 3, address = 0x0150, type = "u32", order = "ABCD", unit = "kWh" },
]

[[sample]]
name = "exporting 1.5 kW at noon"
holding = { 0x34 = 0xFFFF, 0x35 = 0xC568 }
expect = { "ac.power.active" = -1500.0 }
"""
        )
    )
    firmware, power = profile.points
    assert profile.id == "example/ex630"
    assert profile.limits == Limits(max_words=60, quiet_s=0.02, holes=False, min_every_s=1)
    assert (power.kind, power.scale, power.low, power.high) == (Kind.GAUGE, Decimal("0.1"), -50_000, 50_000)
    assert (power.address, power.count, power.order, power.pace, power.flips) == (0x34, 2, "ABCD", "fast", True)
    assert (firmware.kind, firmware.count) == (Kind.TEXT, 8)
    assert profile.identity_points == ("device.firmware",)
    assert profile.samples[0].words == {3: {0x34: 0xFFFF, 0x35: 0xC568}}
    assert profile.resolve(firmware="2.9").variant == ""
    new = profile.resolve(firmware="3.0")
    assert new.variant == ">=3"
    assert [p.name for p in new.points] == ["device.firmware", "ac.power.active", "ac.energy.import"]
    assert (new.points[2].kind, new.points[2].bits) == (Kind.COUNTER, 32)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (('unit = "V"', 'unit = "kWh"'), "example/ex630.toml:15: ac.voltage.l1: unit 'kWh' does not fit voltage"),
        (('"ac.voltage.l1"', '"ac.voltag.l1"'), "is not in the vocabulary. Did you mean 'ac.voltage.l1'?"),
        (("scale = 0.1", "scal = 0.1"), ":14: ac.voltage.l1: unknown key 'scal'. Did you mean 'scale'?"),
        (('type = "u16"', 'type = "u61"'), "type is 'u61', which is not known. Did you mean 'u"),
        (('type = "u16"', "type = 16"), "type is 16, want a text"),
        (("0x10", "0x10000"), "address is 65536, want 0 to 65535"),
        (("function = 3", "function = 6"), "function is 6, want 1 to 4"),
        (("function = 3", 'function = "3"'), "function is '3', want an integer from 1 to 4"),
        (("scale = 0.1", "scale = 0"), "scale is 0, every value would be 0"),
        (("scale = 0.1", "scale = true"), "scale is True, want a number"),
        (("scale = 0.1", "range = [9, 1]"), "range is ['9', '1'], want [lowest, highest]"),
        (("scale = 0.1", "count = 2"), "count is 2, but u16 takes 1"),
        (("scale = 0.1", 'pace = "quick"'), "pace is 'quick', which is not known"),
        (("scale = 0.1", "sentinel = 0x1FFFF"), "sentinel is beyond the 16 bits of u16"),
        (("scale = 0.1", "bit = 16"), "bit is 16, want 0 to 15"),
        (("scale = 0.1", "bit = 1\nmask = 2"), "'mask' beside 'bit'"),
        (("scale = 0.1", "width = 16"), "width belongs to counters, this is a gauge"),
        (("scale = 0.1", 'labels = { 0 = "off" }'), "labels belong to states, this is a gauge"),
        (("scale = 0.1", "scale = 0.1\ndecimals = 1"), "'decimals' beside 'scale'"),
        (("scale = 0.1", 'kind = "counter"'), "kind is 'counter', but the vocabulary says 'gauge'"),
        (('schema = 1', 'schema = 2'), "schema is 2, which this version does not know. This version reads schema = 1"),
        (('kind = "meter"', 'kind = "metre"'), "kind is 'metre', which is not known. Did you mean 'meter'?"),
        (('protocol = "modbus"', 'protocol = "modbuss"'), "Did you mean 'modbus'?"),
        (('evidence = "derived"', 'evidence = "sure"'), "Allowed: derived, dump, field"),
        (('vendor = "Example Instruments"', ""), "the key 'vendor' is missing"),
        ((POINT, ""), "there is no point in it"),
    ],
)  # fmt: skip
def test_one_slip_is_one_complaint_that_names_place_and_cure(write: Write, change: tuple[str, str], told: str) -> None:
    """Config errors surfaced as "Failed to add slave: 'host'"."""  # field pain 71
    said = complaints(write, (HEAD + POINT).replace(*change))
    assert len(said) == 1, said
    assert told in said[0]


def test_a_word_swap_on_one_register_is_refused(write: Write) -> None:
    """It was silently accepted on 16-bit values for years, then refused."""  # field pain 37
    (said,) = complaints(write, HEAD + POINT.replace("scale = 0.1", 'order = "CDAB"'))
    assert "ex630.toml:14: ac.voltage.l1: order 'CDAB' means nothing for the 16 bits of u16" in said
    assert load_profile(write(HEAD + POINT.replace("scale = 0.1", 'order = "BA"'))).points[0].order == "BA"
    (said,) = complaints(write, HEAD + POINT.replace('type = "u16"', 'type = "u8h"\norder = "AB"'))
    assert "order means nothing for u8h" in said
    (said,) = complaints(write, HEAD + POINT.replace('type = "u16"', 'type = "u32"'))
    assert "u32 needs 'order'. One of ABCD, CDAB, BADC, DCBA" in said


def test_blocks_beyond_125_are_refused_at_load_time(write: Write) -> None:
    """A range of 177 registers broke the protocol's limit at run time."""  # field pain 28
    (said,) = complaints(write, HEAD + "limits = { max_words = 177 }\n" + POINT)
    assert "max_words is 177, Modbus allows 1 to 125" in said
    text = POINT.replace('"ac.voltage.l1"', '"device.model"').replace('type = "u16"', 'type = "str"\ncount = 60')
    text = text.replace('scale = 0.1\nunit = "V"\n', "")
    (said,) = complaints(write, HEAD + "limits = { max_words = 50 }\n" + text)
    assert "60 registers are longer than one read of this device (50 at most)" in said


def test_all_complaints_come_at_once_and_in_file_order(write: Write) -> None:
    text = (HEAD + POINT).replace('unit = "V"', 'unit = "A"').replace('"meter"', '"metre"').replace("0x10", "-1")
    said = complaints(write, text + "\n[[variant]]\nremove = ['ac.current.*']\n")
    assert [s.partition(": ")[0] for s in said] == [f"example/ex630.toml:{n}" for n in (4, 12, 15, 17, 18)] or len(
        said
    ) == 5
    assert [int(s.split(":")[1]) for s in said] == sorted(int(s.split(":")[1]) for s in said)
    with pytest.raises(ProfileError) as caught:
        load_profile(write(text))
    assert str(caught.value).count("\n") == 2, "the message itself holds every complaint on a line of its own"


def test_what_is_no_toml_or_not_there(write: Write, tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"example/ex630.toml: is no TOML: .*line 2"):
        load_profile(write("schema = 1\nvendor =\n"))
    with pytest.raises(ProfileError, match="cannot be read: No such file"):
        load_profile(tmp_path / "example" / "none.toml")
    path = write("")
    path.write_bytes(b"vendor = '\xff'")
    with pytest.raises(ProfileError, match="is not UTF-8 at byte 10"):
        load_profile(path)


def test_repeats_over_parameters(write: Write) -> None:
    text = """
params = { racks = 2, cells = { default = 3, min = 1, max = 400, en = "cells of a rack" } }

[[repeat]]
over = "r"
count = "racks"
stride = 0x100

[[repeat.point]]
name = "battery.rack.{r}.soc"
function = 4
address = 0x1000
type = "u16"
unit = "%"

[[repeat.repeat]]
over = "c"
count = "cells"
stride = 1

[[repeat.repeat.point]]
name = "battery.rack.{r}.cell.{c}.voltage"
function = 4
address = 0x1010
type = "u16"
scale = 0.001
unit = "V"
pace = "cells"
together = "rack{r}"
"""
    profile = load_profile(write(HEAD + text))
    points = {p.name: p for p in profile.points}
    assert len(points) == 2 * (1 + 3)
    assert points["battery.rack.2.cell.3.voltage"].address == 0x1112
    assert points["battery.rack.2.cell.3.voltage"].together == "rack2"
    assert len(profile.resolve({"racks": 3, "cells": 20}).points) == 63
    with pytest.raises(ProfileError, match=r"unknown parameter 'rack'\. Did you mean 'racks'\?"):
        profile.resolve({"rack": 3})
    with pytest.raises(ProfileError, match=r"parameter cells is 401\. Want an integer from 1 to 400"):
        profile.resolve({"cells": 401})
    (said,) = complaints(write, (HEAD + text).replace('count = "cells"', 'count = "cell"'))
    assert "count is 'cell', which is no parameter with a number. It knows: racks, cells" in said
    said = complaints(write, (HEAD + text).replace("cell.{c}", "cell.{x}"))
    assert "no repeat around 'battery.rack.1.cell.{x}.voltage' fills {x}" in said[0]


def test_variants_by_firmware_and_identity(write: Write) -> None:
    """New firmware changed registers; the map is chosen by what the device says of itself."""  # field pain 39
    text = """
[[variant]]
name = "three"
firmware = ">=3, <4"
point = [{ name = "ac.voltage.l1", function = 3, address = 0x20, type = "u16", scale = 0.01, unit = "V" }]

[[variant]]
name = "small"
identity = { "device.model" = "EX-1*|EX-2*" }
remove = ["ac.voltage.*"]
point = [{ name = "ac.voltage", function = 3, address = 0x30, type = "u16", unit = "V" }]
limits = { max_words = 10 }
"""
    profile = load_profile(write(HEAD + "limits = { max_words = 50, quiet = '1 s' }\n" + POINT + text))
    assert profile.resolve().points[0].address == 0x10
    assert profile.resolve(firmware="3.7").points[0].address == 0x20
    assert profile.resolve(firmware="4").variant == ""
    small = profile.resolve(firmware="3.7", identity={"device.model": "ex-230 "})
    assert small.variant == "three + small"
    assert [p.name for p in small.points] == ["ac.voltage"]
    assert small.limits == Limits(max_words=10, quiet_s=1)
    said = complaints(write, HEAD + POINT + "[[variant]]\npoint = []\n")
    assert "variant 1 has no condition" in said[0]
    said = complaints(write, HEAD + POINT + '[[variant]]\nfirmware = "~3"\nremove = ["x*"]\n')
    assert any("remove 'x*' matches no point" in s for s in said)


@pytest.mark.parametrize(
    ("condition", "firmware", "true"),
    [
        (">=3", "3", True), (">=3", "3.0.1", True), (">=3", "2.99", False), ("<3", "2.99", True), ("==3", "3.0", True),
        ("==1.4", "1.40", False), ("!=1.4", "1.5", True), (">1.9", "1.10", True), (">=1.2", "FW 1.23", True),
        (">=V200R002", "V200R003C10", True),
        ("<V100R001C00SPC200", "V100R001C00SPC153", True), ("V100*", "V100R001", True),
        ("V100*", "V200R001", False), ("<1.0", "1.0rc1", True), ("<=1.0", "1.0", True),
        ("1.4", "1.4", True), ("1.4", "1.41", False),
    ],
)  # fmt: skip
def test_firmware_conditions(condition: str, firmware: str, true: bool) -> None:
    assert holds(condition, firmware) is true


def test_extends_overrides_by_name_and_inherits_the_rest(write: Write, tmp_path: Path) -> None:
    write(
        HEAD
        + 'limits = { max_words = 50, quiet = "1 s" }\n'
        + POINT
        + POINT.replace("l1", "l2").replace("0x10", "0x11"),
        "base",
    )
    child = """
schema = 1
extends = "example/base"
source = "the sibling's manual"
evidence = "derived"
limits = { max_words = 20 }
remove = ["ac.voltage.l2"]

[[point]]
name = "ac.voltage.l1"
function = 4
address = 1
type = "i16"
unit = "V"
"""
    profile = load_profile(write(child, "child"), [tmp_path])
    assert (profile.vendor, profile.kind, profile.id) == ("Example Instruments", "meter", "example/child")
    assert profile.limits == Limits(max_words=20, quiet_s=1)
    assert [(p.name, p.function, p.type) for p in profile.points] == [("ac.voltage.l1", 4, "i16")]
    said = complaints(write, child.replace("example/base", "example/bace"))
    assert "extends 'example/bace': no profile 'example/bace'" in said[0]
    write(child.replace("example/base", "example/two"), "one")
    write(child.replace("example/base", "example/one"), "two")
    with pytest.raises(ProfileError, match="circle"):
        load_profile(tmp_path / "example" / "one.toml", [tmp_path])


def test_site_profiles_go_before_the_shipped_ones(tmp_path: Path) -> None:
    site, shipped = tmp_path / "site", tmp_path / "shipped"
    for folder, vendor in ((shipped, "Shipped"), (site, "Site")):
        (folder / "example").mkdir(parents=True)
        (folder / "example" / "a.toml").write_text((HEAD + POINT).replace("Example Instruments", vendor))
    (shipped / "example" / "b.toml").write_text(HEAD + POINT)
    assert load_profile(find_profile("example/a", (site, shipped))).vendor == "Site"
    assert list(list_profiles((site, shipped))) == ["example/a", "example/b"]
    with pytest.raises(ProfileError, match="Did you mean 'example/b'"):
        find_profile("exampel/b", (site, shipped))
    with pytest.raises(ProfileError, match="is no profile id"):
        find_profile("../a", (site, shipped))


def test_a_site_profile_may_refine_the_shipped_one_of_its_own_name(tmp_path: Path) -> None:
    site, shipped = tmp_path / "site", tmp_path / "shipped"
    for folder in (site, shipped):
        (folder / "example").mkdir(parents=True)
    (shipped / "example" / "a.toml").write_text(HEAD + POINT)
    (site / "example" / "a.toml").write_text(
        'schema = 1\nextends = "example/a"\nsource = "s"\nevidence = "field"\nlimits = { max_words = 9 }\n'
    )
    profile = load_profile(find_profile("example/a", (site, shipped)), (site, shipped))
    assert (profile.evidence, profile.limits.max_words, len(profile.points)) == ("field", 9, 1)


def test_the_hash_is_of_the_content_not_of_the_layout(write: Write) -> None:
    one = load_profile(write(HEAD + POINT)).hash
    assert load_profile(write("# a comment\n" + HEAD + POINT.replace("0x10", "16"))).hash == one
    assert load_profile(write(HEAD + POINT.replace("0x10", "17"))).hash != one
    assert len(one) == 43
    assert "=" not in one


def test_parts_states_bits_and_coils(write: Write) -> None:
    text = """
[[point]]
name = "heat.energy"
function = 3
unit = "kWh"
parts = [{ address = 20, type = "u32", order = "ABCD", scale = 1000 }, { address = 22, type = "u16" }]

[[point]]
name = "device.state"
function = 3
address = 5
type = "u16"
labels = { 0x0200 = "On-grid" }
states = { 0x0200 = "running", 3 = "off" }

[[point]]
name = "di.1"
function = 2
address = 7
"""
    energy, state, contact = load_profile(write(HEAD + text)).points
    assert (energy.address, energy.count, energy.type) == (20, 3, "u32")
    assert [p.scale for p in energy.parts] == [1000, 1]
    assert state.states == {512: "running", 3: "off"}
    assert (contact.type, contact.count, contact.kind) == ("bits", 1, Kind.STATE)
    (said,) = complaints(write, HEAD + text.replace('"running"', '"runs"'))
    assert "states maps 512 to 'runs', which is no state" in said
    (said,) = complaints(write, HEAD + text.replace("address = 7", 'address = 7\ntype = "u16"'))
    assert "function 2 reads single bits" in said
    (said,) = complaints(write, HEAD + text.replace('{ address = 22, type = "u16" }', '{ address = 22, typ = "u16" }'))[
        :1
    ]
    assert "heat.energy part 2: unknown key 'typ'. Did you mean 'type'?" in said or "type" in said


def test_fresh_probe_and_samples_must_name_points(write: Write) -> None:
    said = complaints(
        write,
        HEAD
        + 'probe = { point = "ac.voltage.l2" }\nfresh = { point = "device.heartbeat", changes_within = "60" }\n'
        + POINT
        + '[[sample]]\nname = "s"\nholding = { 16 = 70000 }\nexpect = { "ac.voltage.l3" = 1 }\n',
    )
    text = "\n".join(said)
    assert "probe names 'ac.voltage.l2', which is no point here. Did you mean 'ac.voltage.l1'?" in text
    assert "changes_within is '60', want a duration" in text
    assert "fresh names 'device.heartbeat'" in text
    assert "holding at 16 is 70000, want 0 to 65535" in text
    assert "expect names 'ac.voltage.l3'" in text


def test_a_group_that_no_request_can_hold_is_refused(write: Write) -> None:
    two = POINT.replace("l1", "l2").replace("0x10", "0x90")
    text = (POINT + two).replace("scale = 0.1", 'together = "pair"')
    assert "together 'pair' spans 129 registers, one read takes 125" in complaints(write, HEAD + text)[0]


def test_selection_by_globs(write: Write) -> None:
    points = load_profile(write(HEAD + POINT + POINT.replace("ac.voltage.l1", "dc.voltage"))).points
    assert [p.name for p in select(points, ["dc.*"])] == ["dc.voltage"]
    assert select(points, []) == points
    with pytest.raises(ProfileError, match=r"no point matches 'ac\.power\.\*'"):
        select(points, ["ac.power.*"])


def test_a_reversed_ct_turns_import_into_export(write: Write) -> None:
    text = "".join(
        POINT.replace("ac.voltage.l1", name).replace('unit = "V"', f'unit = "{unit}"')
        for name, unit in (
            ("circuit.1.ac.energy.import", "kWh"),
            ("circuit.2.ac.energy.import", "kWh"),
            ("circuit.1.ac.current.l1", "A"),
        )
    )
    profile: Profile = load_profile(write(HEAD + text))
    names = [p.name for p in profile.resolve(reversed=frozenset({"circuit.1"})).points]
    assert names == ["circuit.1.ac.energy.export", "circuit.2.ac.energy.import", "circuit.1.ac.current.l1"]
    assert profile.resolve(reversed=frozenset({""})).points[1].name == "circuit.2.ac.energy.export"


TOML_KEYS = st.from_regex(r"[a-z]{1,6}", fullmatch=True)
TOML_VALUES = st.recursive(
    st.integers(-9, 9).map(str) | st.sampled_from(['"a = b"', "'[x]'", "true", "1.5", '"""two\nlines"""', '"\\""']),
    lambda inner: st.lists(inner, max_size=3).map(lambda v: "[" + ",\n # note ] }\n ".join(v) + "]"),
    max_leaves=6,
)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["", "[t.{}]", "[[a]]", "[[a.b]]"]), TOML_KEYS, TOML_VALUES), max_size=8))
def test_every_key_has_the_line_it_stands_on(described: list[tuple[str, str, str]]) -> None:
    import tomllib

    lines = ["[[a]]"]
    for seen, (header, key, value) in enumerate(described):
        lines += [header.format(f"h{seen}")] if header else []
        lines += [f"{key}{seen} = {value}"]
    text = "\n".join(lines)
    document = tomllib.loads(text)
    found = key_lines(text)
    for path, line in found.items():
        assert value_at(document, path) is not None
        if isinstance(path[-1], str) and path[-1][-1:].isdigit() and path[-1][0] != "h":
            assert text.splitlines()[line - 1].startswith(f"{path[-1]} = ")
