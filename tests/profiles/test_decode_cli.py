"""`meterhouse decode` and `meterhouse profiles` as a technician meets them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.decode import decode
from agent.cli.main import outcome
from agent.cli.profiles import profiles
from drivers.framing import crc16
from drivers.model import UsageError
from drivers.profile import find_profile, load_profile
from drivers.profile.find import shipped_dir
from drivers.registry import protocol_of

Json = dict[str, Any]


def invoke(*args: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(decode, list(args), input=stdin)


def as_json(*args: str, code: int = 0) -> Json:
    result = invoke(*args, "--json")
    assert result.exit_code == code, (result.output, result.exception)
    found: Json = json.loads(result.stdout)
    assert found["ok"] is (code == 0)
    return found


def values(*args: str) -> list[Any]:
    return [r["value"] for r in as_json("registers", *args)["readings"]]


def all_ids() -> list[str]:
    """Every family that is shipped."""
    return sorted(f"{path.parent.name}/{path.stem}" for path in shipped_dir().glob("*/*.toml"))


def rtu(*frame: int) -> str:
    return (bytes(frame) + crc16(bytes(frame)).to_bytes(2, "little")).hex()


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("--type", "u16", "08FD", "--scale", "0.1"), [230.1]),
        (("--type", "f32", "--order", "CDAB", "80 00 43 66"), [230.5]),
        (("--type", "f32", "--order", "badc", "66:43:00:80"), [230.5]),
        (("--type", "f32", "7FC00000 43668000"), [None, 230.5]),
        (("--type", "u32", "--order", "DCBA", "87D61200"), [1_234_567]),
        (("--type", "i32", "0xFFFFFFFF"), [-1]),
        (("--type", "u16", "FFFF"), [65535]),
        (("--type", "u64", "FFFFFFFFFFFFFFFF"), [2**64 - 1]),
        (("--type", "i64", "--order", "CDAB", "0001 0000 0000 8000"), [-(2**63) + 1]),
        (("--type", "u64", "--order", "CDABGHEF", "0000 0000 0000 0000 0000 0000 0001 0000"), [0, 1]),
        (("--type", "bcd16", "1234"), [1234]),
        (("--type", "bcd16", "12A4"), [None]),
        (("--type", "bcd32", "--order", "CDAB", "56781234"), [12345678]),
        (("--type", "mod10k", "0001 270F"), [19999]),
        (("--type", "mod10k", "0001 2710"), [None]),
        (("--type", "u16", "--bit", "3", "0008 0007"), [1, 0]),
        (("--type", "bits", "0105"), [True, *[False] * 7, True, False, True, *[False] * 5]),
        (("--type", "bits", "--order", "BA", "0501"), [True, *[False] * 7, True, False, True, *[False] * 5]),
        (("--type", "u8h", "180D"), [0x18]),
        (("--type", "u8h", "--order", "BA", "180D"), [0x0D]),
        (("--type", "f16", "B814"), [-0.509765625]),
        (("--type", "str", "4D6F 6462 7573 00FF"), ["Modbus"]),
        (("--type", "str", "--order", "BA", "6F4D 6264 7375"), ["Modbus"]),
        (("--type", "str", "--order", "CDAB", "7573 6462 4D6F"), ["Modbus"]),
        (("--type", "str", "61626364 8000"), ["abcdÇ"]),
        (("--type", "str", "C4E6B1E4"), ["逆变"]),
        (("--type", "i64", "--scale", "1e-6", "FFFFFFFFFFFFFFD6"), [-4.2e-05]),
    ],
)
def test_registers(args: tuple[str, ...], expected: list[Any]) -> None:
    assert values(*args) == expected


@pytest.mark.parametrize(
    ("args", "shown"),
    [
        (("--type", "u64", "--scale", "0.5", "FFFFFFFFFFFFFFFF"), "9223372036854775807.5"),
        (("--type", "u64", "--scale", "1.000000000000001", "FFFFFFFFFFFFFFFF"), "18446744073709570061.744073709551615"),
        (("--type", "i32", "--scale", "1e-9", "FFFFFFFF"), "-0.000000001"),
        (("--type", "u16", "--scale", "1e3", "0001"), "1000"),
        (("--type", "f64", "7FEFFFFFFFFFFFFF"), "-"),
    ],
)
def test_the_table_has_all_digits_of_a_scaled_value(args: tuple[str, ...], shown: str) -> None:
    """A value became a double, with 17 digits and an exponent, where the help promised an exact result."""
    assert invoke("registers", *args).stdout.splitlines()[1].split()[1] == shown


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("--type", "u32", "0001"), "2 bytes are not a multiple of 4, the size of u32"),
        (("--type", "u16", "0G"), "not hex: '0G'"),
        (("--type", "u16", " "), "no bytes given"),
        (("--type", "str", "414243"), "3 bytes are not a whole number of registers"),
    ],
)
def test_broken_bytes_are_exit_code_4(args: tuple[str, ...], told: str) -> None:
    assert as_json("registers", *args, code=4)["error"] == told
    result = invoke("registers", *args)
    assert (result.exit_code, result.stdout) == (4, "")
    assert told in result.stderr


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("--type", "u16", "--order", "ABCD", "0001"), "order ABCD"),  # field pain 37
        (("--type", "u16", "--order", "XY", "0001"), "unknown order 'XY'"),
        (("--type", "f32", "--bit", "1", "00000000"), "bit"),
        (("--type", "u16", "--scale", "0", "0001"), "invalid scale"),
        (("--type", "u16", "--scale", "a", "0001"), "invalid scale 'a'"),
        (("--type", "str", "--bit", "1", "0001"), "--bit has no effect on str"),
        (("--type", "u15", "0001"), "u15"),
    ],
)
def test_meaningless_options_are_exit_code_2(
    args: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcome(["decode", "registers", *args]) == 2
    assert told in capsys.readouterr().err


def test_an_rtu_answer() -> None:
    found = as_json("modbus-rtu", "01 03 04 53 75 6E 53 96 F0")
    frame = found["frame"]
    assert (frame["unit"], frame["function"], frame["exception"], frame["crc_ok"]) == (1, 3, None, True)
    assert (frame["registers"], frame["kind"]) == ([0x5375, 0x6E53], "answer")
    assert [r["value"] for r in found["readings"]] == [0x5375, 0x6E53]


def test_requests_exceptions_and_identification() -> None:
    frame = as_json("modbus-rtu", "01 03 00 00 00 0A C5 CD")["frame"]
    assert (frame["kind"], frame["address"], frame["count"], frame["response_length"]) == ("request", 0, 10, 25)
    frame = as_json("modbus-rtu", "01 83 02 C0 F1")["frame"]
    assert (frame["exception"], frame["exception_name"]) == (2, "illegal data address")
    frame = as_json("modbus-rtu", "11 10 00 01 00 02 04 00 0A 01 02 C6 F0")["frame"]
    assert (frame["kind"], frame["address"], frame["count"]) == ("request", 1, 2)
    found = as_json("modbus-rtu", "01 2B 0E 01 01 00 00 03 00 04 41 43 4D 45 01 05 4D 54 52 2D 33 02 03 31 2E 34 E6 D1")
    assert {r["name"]: r["value"] for r in found["readings"]} == {
        "device.vendor": "ACME", "device.model": "MTR-3", "device.firmware": "1.4",
    }  # fmt: skip
    frame = as_json("modbus-rtu", rtu(1, 2, 1, 0b101))["frame"]
    assert frame["bits"] == [True, False, True, *[False] * 5]
    frame = as_json("modbus-rtu", rtu(1, 5, 0, 7, 0xFF, 0))
    assert frame["readings"][0]["value"] is True


def test_a_wrong_crc_says_which_it_would_be() -> None:
    found = as_json("modbus-rtu", "01 03 04 53 75 6E 53 96 F1", code=4)
    assert found["error"] == "the CRC is 96f1, but for these bytes it should be 96f0"
    frame = {"unit": 1, "function": 3, "exception": None, "crc_ok": False, "pdu_hex": "030453756e53"}
    assert found["frame"] == {"protocol": "modbus-rtu", **frame}
    assert (
        "the two bytes of the CRC are swapped" in as_json("modbus-rtu", "01 03 04 53 75 6E 53 F0 96", code=4)["error"]
    )
    assert "cut off?" in as_json("modbus-rtu", "01 03 04 53 75 6E", code=4)["error"]
    assert "at least 4" in as_json("modbus-rtu", "01 03", code=4)["error"]


def test_frames_back_to_back_and_behind_aa55() -> None:
    """One recorded file holds two frames of 257 bytes one after the other, each behind AA 55."""
    one = rtu(0xF7, 3, 250, *range(250))
    found = as_json("modbus-rtu", f"AA55{one}AA55{one}")
    assert found["frame"]["header"] == "aa55"
    assert len(found["frames"]) == 2
    assert found["frame"]["registers"] == found["frames"][1]["registers"]
    assert as_json("modbus-rtu", one[:-2] + "00", code=4)


def test_tcp_headers() -> None:
    found = as_json("modbus-tcp", "00 01 00 00 00 07 11 03 04 00 8d 00 8e")
    frame = found["frame"]
    assert (frame["transaction"], frame["unit"], frame["length_ok"], frame["registers"]) == (1, 17, True, [141, 142])
    assert as_json("modbus-tcp", "000000000003ff8302")["frame"]["exception"] == 2
    assert "but 3 follow: is the frame cut off?" in as_json("modbus-tcp", "0001 0000 0006 11 03 00", code=4)["error"]
    assert "protocol id in the header is 1" in as_json("modbus-tcp", "0001 0001 0003 11 83 02", code=4)["error"]
    assert "the length in the header is 0" in as_json("modbus-tcp", "0001 0000 0000 11 83", code=4)["error"]
    two = as_json("modbus-tcp", "0001 0000 0003 11 83 02 0002 0000 0003 12 83 04")
    assert [f["unit"] for f in two["frames"]] == [17, 18]
    assert "1 bytes after the frame" in as_json("modbus-tcp", "0001 0000 0003 11 83 02 00", code=4)["error"]


@given(st.binary(max_size=40), st.sampled_from(["modbus-rtu", "modbus-tcp", "valid-rtu"]))
def test_no_bytes_make_it_crash(raw: bytes, command: str) -> None:
    if command == "valid-rtu":
        command, raw = "modbus-rtu", raw + crc16(raw).to_bytes(2, "little")
    result = invoke(command, raw.hex() or "00", "--json")
    assert result.exit_code in {0, 4}, (raw.hex(), result.exception)
    assert json.loads(result.stdout)["ok"] is (result.exit_code == 0)


def test_a_dump_through_a_profile(tmp_path: Path) -> None:
    file = tmp_path / "dump.json"
    dump = {
        "protocol": "modbus",
        "address": 1,
        "input": {"0": 0x4366, "1": 0x8000, "0x46": 0x4247, "71": 0xF5C3, "6": None},
    }
    file.write_text(json.dumps(dump))
    found = as_json("profile", "eastron/sdm630", str(file))
    assert [(r["name"], r["value"], r["unit"], r["address"]) for r in found["readings"]] == [
        ("ac.voltage.l1", 230.5, "V", 0),
        ("ac.frequency", 49.99, "Hz", 70),
    ]
    assert "ac.current.l1" in found["missing"]
    assert found["frame"]["profile"] == "eastron/sdm630"
    result = invoke("profile", "eastron/sdm630", "-", stdin=file.read_text())
    assert "230.5" in result.output


def test_a_dump_of_a_sunspec_device(tmp_path: Path) -> None:
    """As `read --dump` writes it: the models are walked. What the dump has not is no reading, and never a zero."""
    words = {40000: 0x5375, 40001: 0x6E53, 40002: 103, 40003: 50}
    words |= {40004 + n: 0xFFFF for n in range(50)} | {40054: 0xFFFF, 40055: 0}
    words |= {40016: 1234, 40017: 1, 40018: 4998, 40019: 0xFFFE}  # W, W_SF, Hz, Hz_SF of wire-protocols.md
    file = tmp_path / "dump.json"
    file.write_text(json.dumps({"protocol": "modbus", "address": 3, "holding": {str(a): w for a, w in words.items()}}))
    found = as_json("profile", "sunspec/inverter", str(file))
    value = {r["name"]: r["value"] for r in found["readings"]}
    assert (value["ac.power.generation"], value["ac.frequency"], value["ac.voltage.l1"]) == (12340, 49.98, None)
    assert found["frame"]["address"] == 3 and not found["missing"]
    del words[40017], words[40019]  # a scale factor that was not recorded
    file.write_text(json.dumps({"holding": {str(a): w for a, w in words.items()}}))
    found = as_json("profile", "sunspec/inverter", str(file))
    assert {"ac.power.generation", "ac.frequency"} <= set(found["missing"])
    file.write_text('{"holding": {"0": 1}}')
    assert "no SunSpec marker" in as_json("profile", "sunspec/inverter", str(file), code=4)["error"]


@pytest.mark.parametrize("id", all_ids())
def test_any_profile_takes_any_dump_or_says_why_not(id: str) -> None:
    dump = json.dumps({"holding": {str(n): 0xFFFF for n in range(200)}, "input": {"0": 1}})
    result = invoke("profile", id, "-", "--json", stdin=dump)
    profile = load_profile(find_profile(id, [shipped_dir()]), [shipped_dir()])
    if not protocol_of(profile.protocol).has_registers:
        assert isinstance(result.exception, UsageError) and "reads frames, not registers" in str(result.exception)
    else:
        assert result.exit_code in (0, 4), result.exception


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is not JSON"),
        ("[]", "does not contain a JSON object"),
        ("{}", "the dump has no registers"),
        ('{"holding": {"x": 1}}', "holding has the address 'x'; allowed: 0 to 65535"),
        ('{"holding": {"70000": 1}}', "allowed: 0 to 65535"),
        ('{"holding": {"1": 65536}}', "holding at 1 is 65536; allowed: 0 to 65535"),
        ('{"holding": {"1": "a"}}', "holding at 1 is 'a'"),
        ('{"holding": [1]}', "holding is not an object"),
        ('{"holding": {"1": 1}}', "none of the registers of eastron/sdm630 is in the dump"),
        ('{"protocol": "mbus", "holding": {}}', "is a dump of 'mbus', which has no registers"),
    ],
)
def test_a_broken_dump_is_exit_code_4(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "dump.json"
    file.write_text(text)
    assert told in as_json("profile", "eastron/sdm630", str(file), code=4)["error"]


def test_a_dump_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "cannot be read: No such file" in as_json("profile", "eastron/sdm630", str(tmp_path / "n"), code=4)["error"]
    assert outcome(["decode", "profile", "eastron/sdm360", str(tmp_path / "n")]) == 3
    assert 'Did you mean "eastron/sdm630"?' in capsys.readouterr().err
    assert outcome(["decode", "profile", "pylontech/force-h", "--param", "modules", str(tmp_path / "n")]) == 2


def test_profiles_list_show_and_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = json.loads(CliRunner().invoke(profiles, ["list", "--json"]).stdout)["profiles"]
    assert {"goodwe/dt", "huawei/sun2000"} <= {p["id"] for p in listed}
    shown = CliRunner().invoke(profiles, ["show", "eastron/sdm630", "--lang", "zh"]).stdout
    assert "ac.power.active.l1" in shown
    assert "L1相有功功率（购电为正）" in shown
    assert "4:12 f32" in shown
    table = json.loads(
        CliRunner().invoke(profiles, ["show", "generic/heat-recovery-plc", "--param", "pumps=3", "--json"]).stdout
    )
    assert [p["name"] for p in table["table"] if p["name"].endswith("runtime")] == [
        f"pump.{n}.runtime" for n in (1, 2, 3)
    ]
    bad = tmp_path / "acme" / "x1.toml"
    bad.parent.mkdir()
    text = find_profile("acrel/adl400").read_text("utf-8")
    bad.write_text(text.replace("= 230.5", "= 231.5"))
    assert outcome(["profiles", "check", str(bad)]) == 3
    assert "ac.voltage.l1 is 230.5, expected 231.5" in capsys.readouterr().err
    bad.write_text(text)
    assert outcome(["profiles", "check", str(bad)]) == 0
    assert "good. 17 points" in capsys.readouterr().out


SECOND = '[second_source]\nsource = "a paper"\nen = "15 points agree."\nzh = "15 个测点一致。"\n'


@pytest.mark.parametrize(
    ("head", "en", "zh"),
    [
        (SECOND, "second source: a paper. 15 points agree.", "第二来源：a paper。15 个测点一致。"),
        (
            SECOND.replace('source = "a paper"\n', ""),
            "second source: none. 15 points agree.",
            "第二来源：无。15 个测点一致。",
        ),
        ("", "second source: the profile does not state", "第二来源：设备模板未说明"),
    ],
)
def test_check_shows_the_second_source(head: str, en: str, zh: str, tmp_path: Path) -> None:
    file = tmp_path / "acme" / "x1.toml"
    file.parent.mkdir()
    text = find_profile("acrel/adl400").read_text("utf-8")
    start = text.index("[second_source]")
    file.write_text(text[:start] + head + text[text.index("\n\n", start) :], "utf-8")
    for lang, said in (("en", en), ("zh", zh)):
        for command in (
            ["check", str(file), "--lang", lang],
            ["show", "acme/x1", "--profiles", str(tmp_path), "--lang", lang],
        ):
            result = CliRunner().invoke(profiles, command)
            assert result.exit_code == 0 and said in result.stdout
    second = json.loads(CliRunner().invoke(profiles, ["check", str(file), "--json"]).stdout)["second_source"]
    assert second == (
        {"source": "a paper" if "a paper" in head else "", "en": "15 points agree.", "zh": "15 个测点一致。"}
        if head
        else None
    )


def test_profiles_names(capsys: pytest.CaptureFixture[str]) -> None:
    said = CliRunner().invoke(profiles, ["names", "battery.rack.{r}.soc", "--lang", "zh"]).stdout
    head, said = said.split("\n", 1)
    assert head.split() == ["名称", "种类", "单位", "含义"]
    assert said.split() == ["battery.rack.{r}.soc", "gauge", "%", "{r}号电池簇：荷电状态"]
    found = json.loads(CliRunner().invoke(profiles, ["names", "ac.energy.import*", "--json"]).stdout)["names"]
    assert {"ac.energy.import", "ac.energy.import.{l}", "ac.energy.import.tariff.{n}"} <= {n["name"] for n in found}
    assert outcome(["profiles", "names", "nonsense"]) == 2
    assert "no point name matches 'nonsense'" in capsys.readouterr().err


def test_a_broken_site_profile_is_listed_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "x1.toml").write_text("schema = 1\n")
    assert outcome(["profiles", "list", "--profiles", str(tmp_path)]) == 3
    said = capsys.readouterr()
    assert "acme/x1" in said.out
    assert "broken, see below" in said.out
    assert "goodwe/dt" in said.out, "the others are listed all the same"
    assert 'acme/x1.toml: the key "vendor" is missing' in said.err
