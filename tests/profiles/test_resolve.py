"""Parameters, variants, inheritance, selection: from a family to one device."""

from __future__ import annotations

from pathlib import Path

import pytest

from drivers.model import Limits, ProfileError
from drivers.profile import Profile, find_profile, list_profiles, load_profile, select
from drivers.profile.variants import condition_error, holds
from tests.kits.example_profile import HEAD, POINT, Write, complaints


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
    with pytest.raises(ProfileError, match=r'unknown parameter "rack"\. Did you mean "racks"\?'):
        profile.resolve({"rack": 3})
    with pytest.raises(ProfileError, match=r'unknown parameter "phase"\. Known: racks, cells'):
        profile.resolve({"phase": 3})
    with pytest.raises(ProfileError, match=r'unknown parameter "phase"\. Known: none'):
        load_profile(write(HEAD + POINT)).resolve({"phase": 3})
    with pytest.raises(
        ProfileError, match=r"invalid value 401 of parameter cells\. Write a whole number from 1 to 400"
    ):
        profile.resolve({"cells": 401})
    (said,) = complaints(write, (HEAD + text).replace('count = "cells"', 'count = "cell"'))
    assert 'count = "cell" is not the name of a numeric parameter. Known parameters: racks, cells' in said
    said = complaints(write, (HEAD + text).replace("cell.{c}", "cell.{x}"))
    assert "battery.rack.1.cell.{x}.voltage: {x} is not the variable of an enclosing repeat" in said[0]


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
    assert any('the pattern "x*" in the key "remove" matches no point' in s for s in said)


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


@pytest.mark.parametrize(
    ("condition", "wrong"),
    [
        ("", "empty"), ("  ", "empty"), (">=", "the condition has no version number"),
        (">= V*", "the operator >= cannot be combined with a pattern"),
        ("== -", "the condition has no version number"), ("V100*", ""), (">=3", ""),
    ],
)  # fmt: skip
def test_a_firmware_condition_that_cannot_be(condition: str, wrong: str) -> None:
    assert condition_error(condition) == wrong


def test_a_profile_may_forbid_every_gap(write: Write) -> None:
    assert load_profile(write(HEAD + "limits = { holes = true, max_gap = 0 }\n" + POINT)).limits.max_gap == 0


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
    assert 'extends "example/bace": no profile "example/bace"' in said[0]
    write(child.replace("example/base", "example/two"), "one")
    write(child.replace("example/base", "example/one"), "two")
    with pytest.raises(ProfileError, match="cycle"):
        load_profile(tmp_path / "example" / "one.toml", [tmp_path])


def test_site_profiles_go_before_the_shipped_ones(tmp_path: Path) -> None:
    site, shipped = tmp_path / "site", tmp_path / "shipped"
    for folder, vendor in ((shipped, "Shipped"), (site, "Site")):
        (folder / "example").mkdir(parents=True)
        (folder / "example" / "a.toml").write_text((HEAD + POINT).replace("Example Instruments", vendor))
    (shipped / "example" / "b.toml").write_text(HEAD + POINT)
    assert load_profile(find_profile("example/a", (site, shipped))).vendor == "Site"
    assert list(list_profiles((site, shipped))) == ["example/a", "example/b"]
    with pytest.raises(ProfileError, match='Did you mean "example/b"'):
        find_profile("exampel/b", (site, shipped))
    with pytest.raises(ProfileError, match="invalid profile id"):
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


def test_selection_by_globs(write: Write) -> None:
    points = load_profile(write(HEAD + POINT + POINT.replace("ac.voltage.l1", "dc.voltage"))).points
    assert [p.name for p in select(points, ["dc.*"])] == ["dc.voltage"]
    assert select(points, []) == points
    with pytest.raises(ProfileError, match=r'no point matches "ac\.power\.\*"'):
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
