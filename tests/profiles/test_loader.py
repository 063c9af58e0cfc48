"""What a wrong profile is told, and what a right one becomes."""

from __future__ import annotations

import re
import tomllib
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.model import ImpossibleZeros, Kind, Limits, ProfileError, Reason
from drivers.plan import read_image, text_of
from drivers.plan.image import image_spec
from drivers.profile import SecondSource, load_profile
from drivers.samples import read_sample
from drivers.sim.encode import EncodeError, encode_text
from drivers.toml.lines import key_lines
from tests.kits.example_profile import HEAD, POINT, Write, complaints


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


def test_a_second_source_is_named_or_there_is_none(write: Write) -> None:
    assert load_profile(write(HEAD + POINT)).second_source is None, "the profile does not say"
    named = HEAD + '[second_source]\nsource = "paper"\nen = "All agree."\nzh = "一致。"\n' + POINT
    assert load_profile(write(named)).second_source == SecondSource("paper", "All agree.", "一致。")
    none = named.replace('source = "paper"\n', "")
    assert load_profile(write(none)).second_source == SecondSource("", "All agree.", "一致。")
    (said,) = complaints(write, named.replace('zh = "一致。"\n', ""))
    assert 'second_source: the key "zh" is missing' in said
    (said,) = complaints(write, named.replace('"paper"', "7"))
    assert "second_source: source: 7 is not text" in said
    (said,) = complaints(write, HEAD + 'second_source = "paper"\n' + POINT)
    assert 'second_source: "paper"' in said


def test_a_second_source_is_not_inherited(write: Write, tmp_path: Path) -> None:
    """It agrees with the points of its own file; the one that extends it may have changed them."""
    write(HEAD + '[second_source]\nen = "None."\nzh = "无。"\n' + POINT, "base")
    own = 'schema = 1\nextends = "example/base"\nsource = "paper"\nevidence = "derived"\n'
    assert load_profile(write(own, "own"), [tmp_path]).second_source is None


def test_a_profile_is_assembled_again_only_where_a_file_of_it_is_another(write: Write, tmp_path: Path) -> None:
    """The file itself may change, or the file that it extends, or the folder in which that file is found first."""
    write(HEAD + POINT, "base")
    own = write('schema = 1\nextends = "example/base"\nsource = "paper"\nevidence = "derived"\n', "own")
    other, site = tmp_path / "other", tmp_path / "site" / "example"
    site.mkdir(parents=True)
    seen = [first := load_profile(own, [other, tmp_path])]
    assert load_profile(own, [other, tmp_path]) is first
    (site / "base.toml").write_text(HEAD + POINT.replace("scale = 0.1", "scale = 0.2"))
    seen.append(load_profile(own, [tmp_path / "site", tmp_path]))
    write(HEAD + POINT.replace("scale = 0.1", "scale = 0.3"), "base")
    seen.append(load_profile(own, [other, tmp_path]))
    own.write_text(own.read_text() + 'models = ["EX-9"]\n')
    seen.append(load_profile(own, [other, tmp_path]))
    assert len({one.hash for one in seen}) == 4
    assert [str(one.points[0].scale) for one in seen] == ["0.1", "0.2", "0.3", "0.3"]
    write(HEAD + POINT.replace("scale = 0.1", "scale = 0"), "base")
    with pytest.raises(ProfileError, match="every value would be 0"):
        load_profile(own, [other, tmp_path])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (('unit = "V"', 'unit = "kWh"'), "example/ex630.toml:15: ac.voltage.l1: unit \"kWh\" does not fit voltage"),
        (('"ac.voltage.l1"', '"ac.voltag.l1"'), 'is not in the vocabulary. Did you mean "ac.voltage.l1"?'),
        (("scale = 0.1", "scal = 0.1"), ':14: ac.voltage.l1: scal: unknown key. Did you mean "scale"?'),
        (('type = "u16"', 'type = "u61"'), 'type: unknown value "u61". Did you mean "u'),
        (('type = "u16"', "type = 16"), 'type: 16 is not text. Write the value in quotes'),
        (('"ac.voltage.l1"', '"ac.power"'), 'Did you mean "ac.power.active"?'),
        (('"ac.voltage.l1"', '"voltage.l2"'), 'Did you mean "ac.voltage.l2"?'),
        (('"u16"', '"float"'), 'type: unknown value "float". Did you mean "f32"?'),
        (('"u16"', '"REAL"'), 'Did you mean "f32"?'),
        (('"u16"', '"int"'), 'type: unknown value "int". Did you mean "i16"?'),
        (('"u16"', '"bool"'), "For one bit of a register, use type u16 with bit = 0"),
        (('"u16"', '"f32"\norder = "little"'), 'Words in the low-first order, which is usual, are "CDAB"'),
        (("function = 3", 'function = "holding"'), 'function: "holding" is not a number. Write function = 3'),
        (('unit = "V"', 'unit = "v"'), 'unit "v" does not fit voltage. Did you mean "V"?'),
        (("0x10", "010A"), "a number on this line begins with 0 or has letters. Hexadecimal numbers begin with 0x"),
        (('unit = "V"', "unit = “V”"), "these are Chinese or typographic quotes"),
        (('unit = "V"', 'unit ＝ "V"'), "this line has a full-width colon or equals sign"),
        (("0x10", "0x10000"), "address: 65536 is out of range. Allowed: 0 to 65535"),
        (("function = 3", "function = 6"), "function: 6 is out of range. Allowed: 1 to 4"),
        (("function = 3", 'function = "3"'), 'function: "3" is not a number. Write function = 3'),
        (("scale = 0.1", "scale = 0"), "scale is 0, so every value would be 0"),
        (("scale = 0.1", "scale = true"), "scale: true is not a number"),
        (("scale = 0.1", "range = [9, 1]"), "invalid range [9, 1]. Write [lowest, highest]"),
        (("scale = 0.1", "range = [0, inf]"), "invalid range [0, Infinity]. Write [lowest, highest]"),
        (("scale = 0.1", "range = [0, nan]"), "invalid range [0, NaN]. Write [lowest, highest]"),
        (("scale = 0.1", "mask = 0xFF00\nrange = [300, 400]"), "the registers can hold only 0 to 255"),
        (("scale = 0.1", "count = 2"), "count is 2, but type u16 needs count = 1"),
        (("scale = 0.1", 'pace = "quick"'), 'pace: unknown value "quick". Allowed: '),
        (("scale = 0.1", "sentinel = 0x1FFFF"), "sentinel does not fit into the 16 bits of u16"),
        (("scale = 0.1", "bit = 16"), "bit: 16 is out of range. Allowed: 0 to 15"),
        (("scale = 0.1", "bit = 1\nmask = 2"), 'the keys "mask" and "bit" cannot be used together'),
        (("scale = 0.1", "width = 16"), 'the key "width" applies to counters only, but this point is a gauge'),
        (("scale = 0.1", 'labels = { 0 = "off" }'), 'the key "labels" applies to states only, but this point is'),
        (("scale = 0.1", "scale = 0.1\ndecimals = 1"), 'the keys "decimals" and "scale" cannot be used together'),
        (("scale = 0.1", 'kind = "counter"'), 'kind is "counter", but the vocabulary says "gauge"'),
        (('schema = 1', 'schema = 2'), "schema 2 is not supported. Write schema = 1, the only one that"),
        (('kind = "meter"', 'kind = "metre"'), 'kind: unknown value "metre". Did you mean "meter"?'),
        (('protocol = "modbus"', 'protocol = "modbuss"'), 'unknown protocol "modbuss". Did you mean "modbus"?'),
        (('evidence = "derived"', 'evidence = "sure"'), "Allowed: derived, dump, field"),
        (('vendor = "Example Instruments"', ""), 'the key "vendor" is missing'),
        (("function = 3\n", ""), 'ac.voltage.l1: the key "function" is missing. '
         "Set the function code: 1 coils, 2 inputs, 3 holding"),
        ((POINT, ""), "the profile has no points"),
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
    assert 'ex630.toml:14: ac.voltage.l1: order "CDAB" does not apply to the 16-bit registers of type u16' in said
    assert load_profile(write(HEAD + POINT.replace("scale = 0.1", 'order = "BA"'))).points[0].order == "BA"
    (said,) = complaints(write, HEAD + POINT.replace('type = "u16"', 'type = "u8h"\norder = "AB"'))
    assert 'the key "order" does not apply to type u8h' in said
    (said,) = complaints(write, HEAD + POINT.replace('type = "u16"', 'type = "u32"'))
    assert 'type u32 needs the key "order". Choose one of ABCD, CDAB, BADC, DCBA' in said


@pytest.mark.parametrize(
    ("keys", "order"),
    [
        ('type = "str"\ncount = 1\norder = "BA"', "BA"),
        ('type = "str"\ncount = 3\norder = "HGFEDCBA"', "HGFEDCBA"),
        ('type = "str"\ncount = 6\norder = "CDABGHEF"', "CDABGHEF"),
        ('type = "u24"\norder = "C-AB"', "C-AB"),
        ('type = "u24"\norder = "CDAB"', "CDAB"),
        ('type = "str"\ncount = 1\norder = "CDAB"', 'order "CDAB" does not apply to the 16-bit registers of type str'),
        ('type = "str"\ncount = 4\norder = "DCBA"', 'order "DCBA" does not fit str. '),
        ('type = "u24"\norder = "ABC"', 'order "ABC" does not fit u24. Did you mean "'),
        ('type = "u24"', 'type u24 needs the key "order". Choose one of -ABC, BC-A, A-CB, CBA-, ABC-, '),
        ('type = "s24"', 'type: unknown value "s24". Did you mean "i24"?'),
        ('type = "u32"\norder = "ABC-"', 'order "ABC-" does not fit u32. '),
    ],
)
def test_orders_of_texts_and_of_24_bits(write: Write, keys: str, order: str) -> None:
    text = POINT.replace('"ac.voltage.l1"', '"device.model"').replace('scale = 0.1\nunit = "V"\n', "")
    text = HEAD + text.replace('type = "u16"', keys)
    if " " in order:
        (said,) = complaints(write, text)
        assert order in said
    else:
        assert load_profile(write(text)).points[0].order == order


def test_the_order_ba_in_the_defaults_applies_to_each_register_and_text(write: Write) -> None:
    text = '[[point]]\nname = "device.model"\ntype = "str"\ncount = 2\nfunction = 3\naddress = 0x20\n'
    orders = {"BA": ["BA", "BA"], "CDAB": ["", ""], "AB": ["AB", "AB"]}
    for default, wanted in orders.items():
        points = load_profile(write(f'{HEAD}[defaults]\norder = "{default}"\n{POINT}{text}')).points
        assert [point.order for point in points] == wanted


@pytest.mark.parametrize(
    ("sentinel", "wanted"),
    [
        ('"N/A"', ("N/A",)),
        ('["--", "0000"]', ("--", "0000")),
        ("false", ()),
        ("0", "is not a text, a list of texts, or"),
        ('""', "sentinel of a text must be a text, a list of texts, or false"),
        ("[0]", "sentinel of a text must be"),
    ],
)
def test_a_text_that_means_no_reading(write: Write, sentinel: str, wanted: object) -> None:
    text = POINT.replace('"ac.voltage.l1"', '"device.model"').replace('scale = 0.1\nunit = "V"\n', "")
    text = HEAD + text.replace('type = "u16"', f'type = "str"\ncount = 2\nsentinel = {sentinel}')
    if isinstance(wanted, str):
        (said,) = complaints(write, text)
        assert wanted in said
    else:
        assert load_profile(write(text)).points[0].no_texts == wanted


FREQUENCY = '[[point]]\nname = "ac.frequency"\nfunction = 3\naddress = 0x11\ntype = "u16"\nunit = "Hz"\n'
IMPOSSIBLE = '[[impossible]]\nzeros_together = ["ac.voltage.l1", "ac.frequency"]\n'
SAMPLE = '[[sample]]\nname = "starting"\nholding = { 0x10 = [0, 0] }\nmissing = ["ac.voltage.l1", "ac.frequency"]\n'


def test_zeros_that_are_impossible_together_are_declared_inherited_and_checked_by_samples(
    write: Write, tmp_path: Path
) -> None:
    profile = load_profile(write(HEAD + POINT + FREQUENCY + IMPOSSIBLE + SAMPLE, "base"))
    assert profile.impossible == (ImpossibleZeros(("ac.voltage.l1", "ac.frequency"), ("*",)),)
    readings = read_sample(profile, profile.points, profile.samples[0].words)
    assert [reading.value for reading in readings.values()] == [None, None]
    own = 'schema = 1\nextends = "example/base"\nsource = "paper"\nevidence = "derived"\n'
    own += '[[impossible]]\nzeros_together = "ac.*"\ngaps = ["ac.voltage.*"]\n'
    rules = load_profile(write(own, "own"), [tmp_path]).impossible
    assert rules == (*profile.impossible, ImpossibleZeros(("ac.*",), ("ac.voltage.*",)))
    shown, _ = read_image({3: {0x10: 0, 0x11: 0}}, profile.points, image_spec(profile, profile.points))
    assert [(r.value, r.quality) for r in shown] == [(None, Reason.SENTINEL)] * 2
    shown, _ = read_image({3: {0x10: 0, 0x11: 50}}, profile.points, image_spec(profile, profile.points))
    assert [r.value for r in shown] == [0, 50]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (('"ac.frequency"]', '"ac.frequenzy"]'), 'zeros_together: unknown point "ac.frequenzy". Did you mean "ac.freq'),
        (('"ac.frequency"]', '"ac.current.*"]'), 'zeros_together: unknown point "ac.current.*"'),
        (
            ('["ac.voltage.l1", "ac.frequency"]', '["ac.frequency"]'),
            "it needs several points. If a single point cannot",
        ),
        (('zeros_together = ["ac.voltage.l1", "ac.frequency"]', ""), 'the key "zeros_together" is missing. Write the'),
        (("zeros_together", "zero_together"), 'zero_together: unknown key. Did you mean "zeros_together"?'),
        (('"Hz"\n', '"Hz"\npace = "slow"\n'), 'ac.voltage.l1 has the pace "normal", but ac.frequency has "slow"'),
        (('"ac.frequency"]\n', '"ac.frequency"]\ngaps = ["dc.*"]\n'), 'gaps: unknown point "dc.*"'),
        (('"ac.frequency"]', '"ac.frequency", "device.model"]'), "device.model is a text, which cannot be 0"),
    ],
)
def test_a_wrong_rule_of_zeros_is_told_with_file_line_and_cure(
    write: Write, change: tuple[str, str], told: str
) -> None:
    model = '[[point]]\nname = "device.model"\ntype = "str"\ncount = 2\nfunction = 3\naddress = 0x20\npace = "normal"\n'
    text = HEAD + POINT + FREQUENCY + model + IMPOSSIBLE
    assert change[0] in text
    said = complaints(write, text.replace(*change))
    assert len(said) == (2 if "zero_together" in told else 1), said
    assert told in " ".join(said) and re.search(r"example/ex630\.toml:\d+: ", said[0])


def test_blocks_beyond_125_are_refused_at_load_time(write: Write) -> None:
    """A range of 177 registers broke the protocol's limit at run time."""  # field pain 28
    (said,) = complaints(write, HEAD + "limits = { max_words = 177 }\n" + POINT)
    assert "max_words is 177, but only 1 to 125" in said
    text = POINT.replace('"ac.voltage.l1"', '"device.model"').replace('type = "u16"', 'type = "str"\ncount = 60')
    text = text.replace('scale = 0.1\nunit = "V"\n', "")
    (said,) = complaints(write, HEAD + "limits = { max_words = 50 }\n" + text)
    assert "60 registers do not fit into one read of this device (50 at most)" in said


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
    with pytest.raises(ProfileError, match=r"example/ex630.toml:2: this value is not understood"):
        load_profile(write("schema = 1\nvendor =\n"))
    with pytest.raises(ProfileError, match="cannot be read: No such file"):
        load_profile(tmp_path / "example" / "none.toml")
    path = write("")
    path.write_bytes(b"vendor = '\xff'")
    with pytest.raises(ProfileError, match="byte 11 is not UTF-8"):
        load_profile(path)


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
    assert 'unknown state "runs" for the raw value 512' in said
    (said,) = complaints(write, HEAD + text.replace("address = 7", 'address = 7\ntype = "u16"'))
    assert "function 2 reads single bits" in said
    (said,) = complaints(write, HEAD + text.replace('{ address = 22, type = "u16" }', '{ address = 22, typ = "u16" }'))[
        :1
    ]
    assert 'heat.energy: parts[2]: typ: unknown key. Did you mean "type"?' in said or "type" in said


def test_fresh_probe_and_samples_must_name_points(write: Write) -> None:
    said = complaints(
        write,
        HEAD
        + 'probe = { point = "ac.voltage.l2" }\nfresh = { point = "device.heartbeat", changes_within = "60" }\n'
        + POINT
        + '[[sample]]\nname = "s"\nholding = { 16 = 70000 }\nexpect = { "ac.voltage.l3" = 1 }\n',
    )
    text = "\n".join(said)
    assert 'probe: unknown point "ac.voltage.l2". Did you mean "ac.voltage.l1"?' in text
    assert 'changes_within: "60" has no unit' in text
    assert 'fresh: unknown point "device.heartbeat"' in text
    assert "holding: the value at address 16 is 70000, but only 0 to 65535 are allowed" in text
    assert 'expect: unknown point "ac.voltage.l3"' in text


def test_a_counter_rolls_over_at_the_bits_of_its_mask(write: Write) -> None:
    """It counted as 32 bits, so that its roll over was a suspect fall."""
    text = """
[[point]]
name = "ac.energy.import"
function = 3
address = 20
type = "u32"
order = "ABCD"
unit = "kWh"
mask = 0xFFFF00
"""
    (point,) = load_profile(write(HEAD + text)).points
    assert (point.kind, point.bits) == (Kind.COUNTER, 16)


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ('changes_within = "60"', 'changes_within: "60" has no unit'),
        ("equals = -1", "equals: -1 is out of range"),
        ('changes_within = "60 s", equals = 1', 'the keys "changes_within" and "equals" cannot be used together'),
        ('changes_within = "60", equals = 1', 'changes_within: "60" has no unit'),
        ("", 'the key "changes_within" or "equals" is missing'),
    ],
)
def test_a_wrong_rule_of_freshness_is_told_as_what_it_is(write: Write, rule: str, told: str) -> None:
    """An invalid value was also reported as two keys that exclude each other."""
    said = complaints(write, f'{HEAD}fresh = {{ point = "ac.voltage.l1"{rule and ", "}{rule} }}\n{POINT}')
    assert told in " ".join(said)
    assert any("cannot be used together" in one for one in said) == ("equals = 1" in rule)


@pytest.mark.parametrize(
    ("sample", "told"),
    [
        ('frames = { "00010000" = 5 }\nexpect = { "ac.voltage.l1" = 1 }', "frames: only strings are allowed"),
        ('holding = { 16 = 5 }\nexpect = { "ac.voltage.l1" = nan }', "l1 is neither a number nor a string"),
        ('holding = { 16 = 5 }\nexpect = { "ac.voltage.l1" = inf }', "l1 is neither a number nor a string"),
    ],
)
def test_a_sample_with_a_value_that_cannot_be_is_a_complaint(write: Write, sample: str, told: str) -> None:
    """`profiles check` ended with an internal error."""
    said = complaints(write, f'{HEAD}{POINT}[[sample]]\nname = "s"\n{sample}\n')
    assert told in said[0]


def test_a_repeat_does_not_count_below_zero(write: Write) -> None:
    """It silently gave no points."""
    repeat = (
        '[[repeat]]\nover = "n"\ncount = -3\npoint = [{ name = "x.a.{n}", function = 3, address = 1, type = "u16" }]\n'
    )
    (said,) = complaints(write, HEAD + POINT + repeat)
    assert "count is -3, but it cannot be negative" in said


def test_a_default_outside_its_limits_is_a_complaint(write: Write) -> None:
    """It was reported only when the profile was used."""
    (said,) = complaints(write, HEAD + "params = { racks = { default = 9, min = 1, max = 3 } }\n" + POINT)
    assert "default 9 is out of range. Allowed: 1 to 3" in said


def test_a_group_that_no_request_can_hold_is_refused(write: Write) -> None:
    two = POINT.replace("l1", "l2").replace("0x10", "0x90")
    text = (POINT + two).replace("scale = 0.1", 'together = "pair"')
    assert (
        'the points with together = "pair" span 129 registers, but one read takes at most 125'
        in complaints(write, HEAD + text)[0]
    )


COILS = """
[[point]]
name = "x.coil.{0}"
function = 1
address = {0}
count = {1}
pace = "{2}"
together = "all"
"""


def test_a_group_of_coils_that_some_paces_cannot_decode_is_refused(write: Write) -> None:
    """58 coils fit into the eight bytes of a value only from the beginning of a byte of the answer on. All paces
    together could be read, so the error came at the first tick at which the slow points were not due.
    """
    coils = [(0, 1, "slow"), (3, 1, "normal"), (8, 60, "normal")]
    (said,) = complaints(write, HEAD + "".join(COILS.format(*one) for one in coils))
    assert (
        'the points with together = "all" cannot be read in one request that begins with x.coil.3: x.coil.8 has 60 '
        "coils and begins at bit 5 of a byte, so it takes 9 bytes of the answer, but a point can take at most 8. "
        'Leave x.coil.8 out of the group, or give all points of the group the same "pace"'
    ) in said
    sound = [(0, 1, "normal"), (3, 1, "normal"), (8, 60, "normal")]
    assert len(load_profile(write(HEAD + "".join(COILS.format(*one) for one in sound))).points) == 3


TOML_KEYS = st.from_regex(r"[a-z]{1,6}", fullmatch=True)
TOML_VALUES = st.recursive(
    st.integers(-9, 9).map(str)
    | st.sampled_from(['"a = b"', "'[x]'", "true", "1.5", '"""two\nlines"""', '"\\""'])
    | st.sampled_from(['"""a "quoted"""""', '"""""""', "'''b''''", "'''\nb'''''"]),
    lambda inner: st.lists(inner, max_size=3).map(lambda v: "[" + ",\n # note ] }\n ".join(v) + "]"),
    max_leaves=6,
)


@given(st.lists(st.tuples(st.sampled_from(["", "[t.{}]", "[[a]]", "[[a.b]]"]), TOML_KEYS, TOML_VALUES), max_size=8))
def test_every_key_has_the_line_it_stands_on(described: list[tuple[str, str, str]]) -> None:
    lines = ["[[a]]"]
    for seen, (header, key, value) in enumerate(described):
        lines += [header.format(f"h{seen}")] if header else []
        lines += [f"{key}{seen} = {value}"]
    text = "\n".join(lines)
    document: object = tomllib.loads(text)
    found = key_lines(text)
    for path, line in found.items():
        inner = document
        for step in path:
            inner = inner[step]  # type: ignore[index]
        if isinstance(path[-1], str) and path[-1][-1:].isdigit() and path[-1][0] != "h":
            assert text.splitlines()[line - 1].startswith(f"{path[-1]} = ")


@pytest.mark.parametrize("text", ['"""a"""', "'''a'''"])
@pytest.mark.parametrize("quotes", [0, 1, 2])
def test_a_text_that_ends_in_quotes_of_its_own_hides_no_line(text: str, quotes: int) -> None:
    """In a list, the search for lines ended with an error; elsewhere it lost the keys that follow."""
    value = text + quotes * text[0]
    document = f"a = [\n{value},\n1]\nb = {value}\nc = 2\n"
    assert tomllib.loads(document)["c"] == 2
    assert key_lines(document) == {("a",): 1, ("a", 0): 2, ("a", 1): 3, ("b",): 4, ("c",): 5}


SPREAD = POINT.replace('"ac.voltage.l1"', '"device.serial"').replace(
    'scale = 0.1\nunit = "V"\n', 'count = 6\ntext = "low"\n'
)


@pytest.mark.parametrize(
    ("byte", "words", "text"),
    [
        ("low", [0x41, 0x42, 0x2D, 0x31, 0x32, 0x33], "AB-123"),
        ("low", [0x20, 0x41, 0x42, 0x00, 0x58, 0x58], "AB"),
        ("high", [0x4100, 0x4220, 0x3700, 0x00FF, 0, 0], "AB7"),
        ("low", [0xFF] * 6, None),
        ("high", [0] * 6, None),
    ],
)
def test_one_character_a_register_is_read_and_served(
    write: Write, byte: str, words: list[int], text: str | None
) -> None:
    profile = load_profile(write(HEAD + SPREAD.replace('"low"', f'"{byte}"')))
    (point,) = profile.points
    assert (point.kind, point.count) == (Kind.TEXT, 6)
    image = {3: {point.address + n: word for n, word in enumerate(words)}}
    ((reading,), missing) = read_image(image, profile.points, image_spec(profile, profile.points))
    assert (reading.value, missing) == (text, [])
    if text is not None and byte == "low":
        raw = encode_text(point, text)
        assert raw[::2] == bytes(6) and text_of(point, raw) == text
    with pytest.raises(EncodeError, match="7 registers"):
        encode_text(point, "1234567")


def test_a_character_needs_a_register_of_its_own(write: Write) -> None:
    (said,) = complaints(write, HEAD + SPREAD.replace('type = "u16"', 'type = "u8h"'))
    assert 'text = "low" needs type "u16" and one character in each register' in said
    (said,) = complaints(write, HEAD + SPREAD.replace('"low"', '"lower"'))
    assert 'text = "low" or text = "high"' in said


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ('type = "float"', 'defaults: type: unknown value "float". Did you mean "f32"?'),
        ('type = "f99x"', 'defaults: type: unknown value "f99x".'),
        ('type = "f32"\norder = "little"', 'defaults: order: unknown value "little".'),
        (
            'type = "f32"\norder = "ABCD"\nfunction = "input"',
            'defaults: function: "input" is not a number. Write function = 4',
        ),
    ],
)
def test_a_wrong_default_is_one_complaint_and_not_one_at_every_point(write: Write, wrong: str, told: str) -> None:
    names = ("ac.voltage.l1", "ac.voltage.l2", "ac.voltage.l3")
    points = "".join(f'[[point]]\nname = "{name}"\naddress = {n}\nunit = "V"\n' for n, name in enumerate(names))
    rest = "" if "function" in wrong else "function = 3\n"
    (said,) = complaints(write, f"{HEAD}\n[defaults]\n{wrong}\n{rest}{points}")
    assert told in said
