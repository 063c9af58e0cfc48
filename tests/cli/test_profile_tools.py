"""`profiles new`, `copy` and what `check` remarks: from a template or a spreadsheet to a profile that is valid."""

from __future__ import annotations

import errno
import itertools
import os
import re
import stat
from pathlib import Path

import pytest

from agent.cli.config_files import make_folder
from agent.cli.profile_template import KINDS
from drivers.profile import list_profiles, load_profile, shipped_dir
from drivers.profile.review import remarks
from tests.kits.example_profile import HEAD, Write


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Puts a text into a profile's file and gives its path."""

    def to_file(text: str) -> Path:
        path = tmp_path / "example/ex630.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return to_file


LIST = """Meter X, list of registers;;;;;;;
;;;;;;;
Point Name;Register address;Data type;Unit;Factor;Function code;Byte order;描述
Voltage L1 to neutral;0x0100;FLOAT;V;1;04;CDAB;相电压
C相电压;258;real;V;;input register;cdab;
ac.frequency;100H;UINT16;Hz;0,01;3;;
;;;;;;;
ac.energy.import;4;DWORD;kWh;0.01;holding;ABCD;
x.relay;6;word;;;3;;
"""


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_template_is_valid_and_leads_through_itself(mh, tmp_path: Path, kind: str, lang: str) -> None:
    file = tmp_path / "profiles/acme/x1.toml"
    assert mh("profiles", "new", file, "--kind", kind, "--lang", lang).code == 0
    said = mh("profiles", "check", file)
    assert said.code == 0 and "good" in said.out
    assert said.err.count("\n") == 1 and "models or source still has the text of the template" in said.err
    profile = load_profile(file)
    assert (profile.id, profile.kind, profile.vendor) == ("acme/x1", kind, "Acme")
    assert file.read_text().count("\n# ") > 10
    again = mh("profiles", "new", file)
    assert again.code == 2 and "already exists and is not overwritten" in again.err
    assert mh("profiles", "new", "--kind", kind, "--lang", lang).out.splitlines()[3:] == file.read_text().replace(
        '"Acme"', '"Vendor"').splitlines()[3:]  # fmt: skip


def test_a_profile_in_the_root_folder_is_checked(mh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no folder above its own, in which a site's other profiles would be."""
    file = tmp_path / "x1.toml"
    assert mh("profiles", "new", tmp_path / "acme" / "x1.toml").code == 0
    file.write_bytes((tmp_path / "acme" / "x1.toml").read_bytes())
    monkeypatch.setattr(Path, "resolve", lambda self, strict=False: Path("/") / self.name)
    said = mh("profiles", "check", file)
    assert said.code == 0 and "good" in said.out, said.err


def test_the_agent_can_read_a_profile_that_root_writes_with_a_narrow_umask(mh, tmp_path: Path) -> None:
    """With umask 077 the copy, which replaces the shipped profile, belonged to root alone."""
    made, copied = tmp_path / "profiles/acme/x1.toml", tmp_path / "profiles/abb/b23.toml"
    before = os.umask(0o077)
    try:
        assert mh("profiles", "new", made).code == mh("profiles", "copy", "abb/b23", copied).code == 0
    finally:
        os.umask(before)
    for file in (made, copied):
        assert stat.S_IMODE(file.stat().st_mode) == 0o644
        assert {stat.S_IMODE(folder.stat().st_mode) for folder in file.parents[:2]} == {0o755}
        assert file.stat().st_gid == tmp_path.stat().st_gid


def test_a_profile_can_be_written_to_a_file_system_without_links_and_permissions(
    mh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a USB stick; `profiles new` asked for sudo there. Nothing is overwritten there either."""

    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    for name in ("link", "chmod", "fchmod"):
        monkeypatch.setattr(os, name, refuse)
    file = tmp_path / "profiles/acme/x1.toml"
    said = mh("profiles", "new", file)
    assert said.code == 0, said.err
    text = file.read_text()
    assert mh("profiles", "new", file).code == 2
    assert file.read_text() == text and os.listdir(file.parent) == ["x1.toml"]


def test_a_new_folder_keeps_the_group_of_its_files(tmp_path: Path) -> None:
    """Without the inherited bit, the agent could not read what another user later writes there."""
    tmp_path.chmod(0o2750)
    make_folder(tmp_path / "conf.d")
    assert stat.S_IMODE((tmp_path / "conf.d").stat().st_mode) == 0o2750


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_list_from_a_spreadsheet_becomes_a_profile(mh, tmp_path: Path, encoding: str, delimiter: str) -> None:
    listed, file = tmp_path / "list.csv", tmp_path / "profiles/acme/x1.toml"
    listed.write_bytes(LIST.replace(";", delimiter).replace("\n", "\r\n").encode(encoding))
    said = mh("profiles", "new", file, "--from", listed)
    assert said.code == 0, said.err
    points = {p.name: p for p in load_profile(file).points}
    l1, l3 = points["ac.voltage.l1"], points["ac.voltage.l3"]
    assert (l1.function, l1.address, l1.type, l1.order, l1.zh) == (4, 256, "f32", "CDAB", "相电压")
    assert (l3.function, l3.address, l3.order) == (4, 258, "CDAB")
    assert (points["ac.frequency"].address, str(points["ac.frequency"].scale)) == (256, "0.01")
    assert (points["ac.energy.import"].type, points["ac.energy.import"].order) == ("u32", "ABCD")
    assert points["x.relay"].type == "u16"


def test_an_address_below_0_is_no_register_0(mh, tmp_path: Path) -> None:
    """It was: a wrong register, read without a word; in 4x notation -5 was register 9994."""
    listed = tmp_path / "list.csv"
    for address, options in itertools.product(("-1", "-5", "-40001"), ((), ("--4x",))):
        listed.write_text(f"name,address,type,fc\nx.a,{address},u16,3\n")
        said = mh("profiles", "new", "--from", listed, *options)
        assert (said.code, said.out) == (3, "") and f'address: "{address}" is below 0' in said.err
        assert "小于 0" in mh("profiles", "new", "--from", listed, *options, "--lang", "zh").err


def test_types_and_units_in_chinese(mh, tmp_path: Path) -> None:
    """Their headers were known, the values below them were not."""
    listed, file = tmp_path / "list.csv", tmp_path / "acme/x1.toml"
    rows = ("ac.voltage.l1,0,浮点,伏", "ac.power.active,2,长整型,千瓦", "ac.frequency,4,无符号整数,赫兹",
            "ac.energy.import,5,32位无符号整数,千瓦时", "x.temperature,7,双精度浮点,摄氏度")  # fmt: skip
    listed.write_text("名称,地址,类型,单位,功能码\n" + "".join(f"{row},3\n" for row in rows))
    said = mh("profiles", "new", file, "--from", listed, "--order", "ABCD")
    assert said.code == 0, said.err
    found = {p.name: (p.type, p.unit) for p in load_profile(file).points}
    assert found == {
        "ac.voltage.l1": ("f32", "V"),
        "ac.power.active": ("i32", "kW"),
        "ac.frequency": ("u16", "Hz"),
        "ac.energy.import": ("u32", "kWh"),
        "x.temperature": ("f64", "Cel"),
    }
    listed.write_text("名称,地址,类型,功能码\nx.a,1,某某,3\n")
    assert "也可写 float、int32、浮点" in mh("profiles", "new", "--from", listed, "--lang", "zh").err


@pytest.mark.parametrize(
    ("unit", "known"),
    [("Ω", "Ohm"), ("\N{OHM SIGN}", "Ohm"), ("mΩ", "mOhm"), ("kΩ", "kOhm"), ("MΩ", "MOhm"), ("M\N{OHM SIGN}", "MOhm")],
)
def test_ohms_of_a_list_may_have_their_sign(mh, tmp_path: Path, unit: str, known: str) -> None:
    """The sign was looked up in small letters, so it was never found."""
    listed, file = tmp_path / "list.csv", tmp_path / "acme/x1.toml"
    listed.write_text(f"name,address,type,unit,fc\nx.isolation,1,u16,{unit},3\n")
    assert mh("profiles", "new", file, "--from", listed).code == 0
    assert [point.unit for point in load_profile(file).points] == [known]


def test_4x_numbers_gains_and_defaults(mh, tmp_path: Path) -> None:
    listed, file = tmp_path / "list.csv", tmp_path / "acme/x1.toml"
    listed.write_text("name,addr,type,unit,gain\nac.voltage.l1,40257,u16,V,10\nac.frequency,30001,u16,Hz,100\n"
                      "ac.power.active,400300,i32,W,\n")  # fmt: skip
    assert mh("profiles", "new", file, "--from", listed, "--4x", "--order", "cdab").code == 0
    found = {p.name: (p.function, p.address, str(p.scale), p.order) for p in load_profile(file).points}
    assert found == {
        "ac.voltage.l1": (3, 256, "0.1", ""),
        "ac.frequency": (4, 0, "0.01", ""),
        "ac.power.active": (3, 299, "1", "CDAB"),
    }


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("a,b\n1,2\n", 2, "contains the column names. The first line must name the columns name, address, type"),
        ("name,type\nac.frequency,u16\n", 2, "no column is named address. Columns of the file: name, type."),
        ("name,address,type\n", 2, "there are no points below the line with the column names"),
        ("name,address,type,fc,gain\nac.frequency,1,u16,3,0\n", 3, "list.csv:2: gain: the value is divided by it"),
        ("name,address,type,fc\nac.frequency,zwei,u16,3\n", 3, 'list.csv:2: address: "zwei" is not a number'),
        ("name,address,type,fc\nac.frequency,1.5,u16,3\n", 3, 'address: "1.5" is not a whole number'),
        ("name,address,type,fc\nac.frequency,1,u16,9\n", 3, 'function: "9" is not a function. 3 or holding'),
        ("name,address,type\nac.frequency,1,u16\n", 3, "list.csv:2: there is no function. Add a column, or say"),
        ("name,address,type,unit,fc\n\nac.power,1,u16,W,3\n", 3, 'list.csv:3: ac.power: "ac.power" is not in'),
        ("name,address,type,unit,fc\nac.voltage.l1,1,f32,V,3\n", 3, 'ac.voltage.l1: type f32 needs the key "order"'),
        (
            "name,address,type,fc\nx.a,1,u16,3\nx.a,2,u16,3\n",
            3,
            'list.csv:3: line 2 of the file already uses the name "x.a"',
        ),
        ("name,address,type,fc\nx.a,1,u17,3\n", 3, 'type: unknown value "u17". Did you mean "u16"?'),
        ("name,address,type,fc\nx.a,-1,u16,3\n", 3, 'list.csv:2: address: "-1" is below 0. The first register has'),
        ("name,address,type,fc\nx.a,-0x1,u16,3\n", 3, 'list.csv:2: address: "-0x1" is not a number'),
        ("name,address,type,fc\nx.a,1,zzz,3\n", 3, "i64, f64, mod10k, str, bits, and words such as float, int32"),
        ("PK\x03\x04", 2, "this is a workbook, not a CSV file. Save the file as CSV"),
        ("name,address\0", 2, "this is not a CSV file"),
        ("name,address,type\n" + "x.a,1,u16\n" * 10_001, 2, "more than 10000 lines. Keep only the points"),
        ("#" * (5 << 20), 2, "is larger than 4 MiB. Is this the right file?"),
    ],
)  # fmt: skip
def test_a_list_that_is_wrong_names_the_line(mh, tmp_path: Path, text: str, code: int, says: str) -> None:
    (listed := tmp_path / "list.csv").write_text(text)
    said = mh("profiles", "new", "--from", listed)
    assert (said.code, said.out) == (code, "") and says in said.err


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (
            "名称,地址,类型\nx.a,1,u16\n".encode("gbk") + b"x.b,2,\xff\n",
            ":3: the file is not text in UTF-8, UTF-16 or GBK",
        ),
        ("\ufeff名称,地址,类型\r\n".encode() + "x.a,1,电压".encode("gbk"), ":2: the file is not text in UTF-8"),
        (b"\xff\xfen\0a\0\n\0\0\xd8", ":2: the file is not text in UTF-8"),
        (
            b'name,address,type\nx.a,1,"u16' + b"x" * 140_000,
            ":2: a cell has more than 131072 characters. Is the closing",
        ),
    ],
)
def test_a_list_that_cannot_be_read_names_the_line(mh, tmp_path: Path, raw: bytes, says: str) -> None:
    """In our words, not in those of a library."""
    (listed := tmp_path / "list.csv").write_bytes(raw)
    said = mh("profiles", "new", "--from", listed)
    assert said.code == 2 and said.err.startswith(f"error: {listed}{says}"), said.err
    chinese = mh("profiles", "new", "--from", listed, "--lang", "zh")
    assert "文本" in chinese.err or "单元格" in chinese.err, chinese.err


def test_a_list_of_an_old_mac(mh, tmp_path: Path) -> None:
    (listed := tmp_path / "list.csv").write_text("name,address,type,fc\rx.a,1,u16,3\rx.b,zwei,u16,3\r", newline="")
    said = mh("profiles", "new", "--from", listed)
    assert said.code == 3 and f'{listed}:3: address: "zwei" is not a number' in said.err


def test_a_list_cannot_forge_a_line_of_its_own(mh, tmp_path: Path) -> None:
    """A quoted cell may hold a line break, which is none in a message or a profile."""
    forged = "\nerror: agent.toml: forged\u2028\x1b[2K"
    listed = tmp_path / "list.csv"
    for row in (f'"x.a{forged}",1,u16,V,3,', f'x.a,"1{forged}",u16,V,3,', f'x.a,1,"u16{forged}",V,3,',
                f'x.a,1,u16,"V{forged}",3,', f'x.a,1,u16,V,"3{forged}",'):  # fmt: skip
        listed.write_text(f"name,address,type,unit,fc,en\nx.b,2,u16,,3,\n{row}\n")
        said = mh("profiles", "new", "--from", listed)
        assert said.code == 3 and said.err.startswith(f"error: {listed}:3: "), said.err
        assert said.err.count("\n") == 1 and "\x1b" not in said.err
    listed.write_text(f'name,address,type,fc,"en{forged}"\n')
    assert mh("profiles", "new", "--from", listed).err.count("\n") == 1
    listed.write_text('name,address,type,fc,en\nx.a,1,u16,3,"one\n[[point]]"\n')
    assert 'en = "one [[point]]"' in mh("profiles", "new", "--from", listed).out


def test_all_wrong_lines_are_named_at_once(mh, tmp_path: Path) -> None:
    rows = "".join(f"x.p{n},{n},u99,3\n" for n in range(5))
    (listed := tmp_path / "list.csv").write_text("name,address,type,fc\n" + rows)
    said = mh("profiles", "new", "--from", listed)
    assert [line.split(":")[2] for line in said.err.splitlines()[:5]] == ["2", "3", "4", "5", "6"]
    assert "5 errors." in said.err


def test_a_copy_keeps_comments_and_takes_the_place_of_the_shipped_one(mh, tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text('[paths]\nprofiles_dir = "profiles"\n')
    said = mh("profiles", "copy", "generic/heat-recovery-plc", "-c", config)
    assert said.code == 0
    copy = tmp_path / "profiles/generic/heat-recovery-plc.toml"
    shipped = shipped_dir() / "generic/heat-recovery-plc.toml"
    first, _, rest = copy.read_text().partition("\n")
    assert first.startswith("# Copied from generic/heat-recovery-plc, hash ")
    before, after = shipped.read_text().splitlines(), rest.splitlines()
    changed = [new for old, new in zip(before, after, strict=True) if old != new]
    assert len(changed) == 3 and changed[0].startswith('source = "copied from generic/heat-recovery-plc'), changed
    assert load_profile(copy).points == load_profile(shipped).points
    listed = mh("profiles", "list", "-c", config, "--json").lines[0]["profiles"]
    assert [row["shipped"] for row in listed if row["id"] == "generic/heat-recovery-plc"] == [False]
    again = mh("profiles", "copy", "generic/heat-recovery-plc", "-c", config)
    assert again.code == 2 and "already exists" in again.err
    bad = mh("profiles", "copy", "generic/heat-recovery-plc", tmp_path / "My Profiles/PLC.toml")
    assert bad.code == 2 and "The path of a profile is VENDOR/FAMILY.toml, in small letters" in bad.err


@pytest.mark.parametrize("id_", ["eastron/sdm630", "goodwe/dt", "acrel/adw300"])
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_a_copy_does_not_claim_the_evidence_of_its_original(mh, tmp_path: Path, id_: str, lang: str) -> None:
    copy = tmp_path / "site/x1.toml"
    assert mh("profiles", "copy", id_, copy, "--lang", lang).code == 0
    own, shipped = load_profile(copy), load_profile(list_profiles([shipped_dir()])[id_])
    assert own.evidence == "derived" and own.second_source is not None and own.second_source.source == ""
    assert id_ in own.second_source.en and id_ in own.second_source.zh
    assert id_ in own.source and own.source.endswith(shipped.source)
    assert (own.points, own.samples) == (shipped.points, shipped.samples)
    assert mh("profiles", "check", copy).code == 0


def test_a_copy_loses_a_second_source_in_one_line(mh, tmp_path: Path) -> None:
    other = tmp_path / "profiles/acme/x1.toml"
    assert mh("profiles", "new", other, "--kind", "meter").code == 0
    other.write_text(other.read_text().replace("second_source = {", 'second_source = { source = "B",'))
    copy = tmp_path / "profiles/acme/x2.toml"
    assert mh("profiles", "copy", "acme/x1", copy, "--profiles", tmp_path / "profiles").code == 0
    assert load_profile(other).second_source and load_profile(copy).second_source is None


def test_samples_that_do_not_fit_are_to_be_deleted(mh, tmp_path: Path) -> None:
    """Said once, below all mismatches."""
    copy = tmp_path / "site/x1.toml"
    assert mh("profiles", "copy", "eastron/sdm630", copy).code == 0
    copy.write_text(copy.read_text().replace('order = "ABCD"', 'order = "CDAB"'))
    said = mh("profiles", "check", copy)
    assert said.code == 3 and "ac.voltage.l1 is " in said.err
    assert said.err.count("delete them, and record new samples with `meterhouse read --sample`") == 1, said.err
    assert "请删除，并用 `meterhouse read --sample` 重新录制" in mh("profiles", "check", copy, "--lang", "zh").err


def described(write: Write, *points: str, head: str = HEAD) -> list[str]:
    text = "".join(f"[[point]]\nfunction = 3\n{point}\n" for point in points)
    return [en for en, zh in remarks(load_profile(write(head + text))) if zh]


def test_points_that_share_half_a_value_are_named(write: Write) -> None:
    def point(name: str, address: int, type_: str, more: str = "") -> str:
        return f'name = "x.{name}"\naddress = {address}\ntype = "{type_}"\n{more}'

    order = 'order = "ABCD"'
    (said,) = described(write, point("a", 0x100, "f32", order), point("b", 0x101, "f32", order))
    assert said.startswith("x.a (3:256 f32) and x.b (3:257 f32) share register 257")
    (said,) = described(write, point("a", 0, "f32", order), point("b", 1, "u16"))
    assert "lies inside the float x.a" in said
    sound = [
        point("a", 0, "u32", order),
        point("hi", 0, "u16"),
        point("lo", 1, "u16"),
        point("bit", 1, "u16", "bit = 3"),
    ]
    assert described(write, *sound) == [], "a whole number beside its words and bits"
    assert described(write, point("a", 0, "f32", order), point("b", 2, "f32", order)) == []
    assert described(write, point("a", 0, "f32", order), point("b", 0, "f32", 'order = "CDAB"')) == []
    text = 'name = "x.t"\naddress = 0\ntype = "str"\ncount = 8'
    assert described(write, text, point("b", 4, "u16")) == []


def test_4x_notation_is_named_once_with_what_is_meant(write: Write) -> None:
    points = [f'name = "x.p{n}"\naddress = {40257 + n}\ntype = "u16"' for n in range(3)]
    (said,) = described(write, *points)
    assert said == (
        "x.p0 has address 40257 with function 3: if the manual counts its registers from 40001, write address = 256 "
        "(3 points have such addresses)"
    )
    assert described(write, *points, head=HEAD.replace('"derived"', '"dump"')) == [], "it was tried at a device"


def test_a_range_that_no_register_can_hold_is_an_error(mh, write: Write) -> None:
    point = '[[point]]\nname = "ac.frequency"\nfunction = 3\naddress = 1\ntype = "u16"\nscale = 0.01\nunit = "Hz"\n'
    said = mh("profiles", "check", write(f"{HEAD}{point}range = [45000, 55000]\n"))
    what = "no value can lie in the range, because the registers can hold only 0.00 to 655.35"
    assert said.code == 3 and what in said.err
    assert mh("profiles", "check", write(f"{HEAD}{point}range = [45, 5500]\n")).code == 0


GRID = 'name = "{}"\naddress = {}\ntype = "{}"\nunit = "{}"\nscale = {}'
PF = 'name = "ac.power.factor.l1"\naddress = 9\ntype = "{}"\nscale = {}{}'
ABCD = '\norder = "ABCD"'


@pytest.mark.parametrize(
    ("point", "says"),
    [
        (GRID.format("ac.voltage.l1", 1, "u16", "V", "100"), "ac.voltage.l1: one count is 100 V, and 0.01 to 1 V are"),
        (GRID.format("ac.voltage.l1", 1, "u16", "kV", "0.1"), "ac.voltage.l1: one count is 0.1 kV"),
        (GRID.format("meter.ac.voltage.l12", 1, "f32", "V", "1000") + ABCD, "meter.ac.voltage.l12: one count is 1000"),
        (GRID.format("ac.frequency", 1, "u16", "Hz", "1"), "ac.frequency: one count is 1 Hz, and 0.001 to 0.1 Hz are"),
        (GRID.format("ac.frequency", 1, "f32", "Hz", "100") + ABCD, "ac.frequency: one count is 100 Hz"),
        (PF.format("i16", "0.05", ""), "ac.power.factor.l1: one count is 0.05, and"),
        (PF.format("f32", "50", ABCD), "ac.power.factor.l1: one count is 50, and"),
        (GRID.format("ac.voltage.l1", 1, "u16", "kV", "0.01"), ""),  # of a medium voltage
        (GRID.format("ac.voltage.l1", 1, "f32", "kV", "1") + ABCD, ""),
        (GRID.format("dc.voltage", 1, "u16", "V", "10"), ""),
    ],
)
def test_a_scale_that_cannot_be_is_named(write: Write, point: str, says: str) -> None:
    found = described(write, point)
    assert [one.startswith(says) for one in found] == [True] * bool(says), found


def test_a_sample_whose_values_cannot_be_is_named(write: Write) -> None:
    points = [
        GRID.format("ac.voltage.l1", 1, "u32", "V", "1") + ABCD,
        GRID.format("ac.frequency", 3, "u16", "Hz", "0.5"),
    ]
    sample = """
[[sample]]
name = "noon"
holding = { 1 = [3, 33392], 3 = 10000 }
expect = { "ac.voltage.l1" = 230000, "ac.frequency" = 5000 }
"""
    found = described(write, points[0], points[1] + sample)
    assert 'sample "noon": ac.voltage.l1 is 230000 V, which cannot be' in found[-2], found
    assert 'sample "noon": ac.frequency is 5000 Hz, which cannot be' in found[-1], found


def test_warnings_do_not_make_a_profile_wrong(mh, write: Write) -> None:
    file = write(f'{HEAD}[[point]]\nname = "x.a"\nfunction = 3\naddress = 40001\ntype = "u16"\n')
    said = mh("profiles", "check", file)
    assert said.code == 0 and "good, with 1 warning." in said.out and said.err.startswith("warning: ")
    assert mh("profiles", "check", file, "--lang", "zh").err.startswith("警告：")
    assert mh("profiles", "check", file, "--json").lines[0]["warnings"]


@pytest.mark.parametrize("id_", list_profiles([shipped_dir()]))
def test_no_shipped_profile_is_remarked_upon(id_: str) -> None:
    assert remarks(load_profile(list_profiles([shipped_dir()])[id_], [shipped_dir()])) == []


def test_show_names_the_facts_of_a_profile_in_chinese(mh) -> None:
    """Above the table, too; tokens of a profile, such as `derived`, are the same in both languages."""
    rows = mh("profiles", "show", "soltaro/rack-a", "--lang", "zh").out.split("\n\n")[0].splitlines()
    labels = [row.split()[0].partition("：")[0] for row in rows[1:]]
    assert {"来源", "依据", "限制", "参数", "测点数"} <= set(labels)
    assert not [label for label in labels if re.search("[a-z]", label)], rows
    assert any("（默认 " in row for row in rows)
    two = mh("profiles", "show", "eastron/sdm630", "--lang", "zh").out
    assert "holes 否" in two and " 哈希 " in two and "\n  说明 " in two
