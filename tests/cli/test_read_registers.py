"""`meterhouse read --registers` against simulated devices: what is readable is read, and nothing is ever written."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from agent.cli.profile_samples import samples_beside
from tests.kits.simulated import punch, writes


def floats(*values: float, order: str = "CDAB") -> list[int]:
    words = struct.unpack(f">{2 * len(values)}H", struct.pack(f">{len(values)}f", *values))
    pairs = zip(words[::2], words[1::2], strict=True)
    return [word for high, low in pairs for word in ((low, high) if order == "CDAB" else (high, low))]


@pytest.fixture
def raw(mh, served, tmp_path: Path):
    """Run `read --registers` on the served device."""

    def run(*args: str):
        where = ("--line", served.url, "--address", "1", "-c", tmp_path / "none.toml")
        return mh(
            "read",
            *where,
            *[part for text in args for part in (("--registers", text) if text[0].isdigit() else (text,))],
        )

    return run


def test_every_type_and_order_side_by_side_within_80_columns(raw, served) -> None:
    served.image.put_words(0x100, [*floats(230.1, 231.2, 229.5, 50.01), 2301, 0xFF38])
    said = raw("3:0x100+10", "3:10")
    assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    assert max(map(len, lines)) <= 80
    row = next(line.split() for line in lines if line.startswith("0x0100"))
    assert row[1:4] == ["199A", "6554", "6554"] and "230.1*" in row
    assert "-200" in next(line for line in lines if line.startswith("0x0109"))
    found = {line.split()[0]: line for line in lines if line.startswith("  3:")}
    assert "f32 CDAB" in found["3:0x0106"] and "50.01 Hz" in found["3:0x0106"]
    assert "u16 x 0.1" in found["3:0x0108"] and "phase voltage" in found["3:0x0108"]
    assert 'type = "f32", order = "CDAB"' in said.out
    assert writes(served.device) == 0 and set(served.device.requests) == {3}


def test_json_has_all_and_the_scaled_guess(raw, served) -> None:
    served.image.put_words(0x100, floats(230.1))
    said = raw("3:256+2", "--json")
    first, second = said.lines
    assert (first["address"], first["hex"], first["u16"], first["i16"]) == (256, "199A", 6554, 6554)
    assert first["f32"]["CDAB"] == 230.1 and set(first["u32"]) == {"ABCD", "CDAB", "BADC", "DCBA"}
    assert "f32" not in second and "u64" not in first, "there is no register behind"
    assert first["looks_like"] == {
        "quantity": "phase voltage", "type": "f32", "order": "CDAB", "registers": 2, "scale": 1, "value": 230.1,
    }  # fmt: skip


def test_what_is_refused_is_halved_until_the_rest_is_read(raw, served) -> None:
    served.image.put_words(100, list(range(40)))
    punch(served.image, 117, 2)
    punch(served.image, 139)
    said = raw("3:100+40", "--json")
    assert said.code == 4
    refused = [line for line in said.lines if "error" in line]
    assert [(one["address"], one["count"], one["code"]) for one in refused] == [(117, 2, 2), (139, 1, 2)]
    assert [line["word"] for line in said.lines if "word" in line] == [*range(17), *range(19, 39)]
    people = raw("3:100+40")
    assert "not read\n  3:117+2" in people.out and "exception 02h, illegal data address" in people.out
    assert people.out.splitlines().count("...") == 1, "a hole in the table"


def test_longer_ranges_are_cut_at_the_limits_of_the_protocol(raw, served) -> None:
    served.image.put_words(0, [7] * 300)
    said = raw("3:0+300", "--json")
    assert (said.code, len(said.lines)) == (0, 300)
    assert served.device.requests[3] == 3


def test_coils_are_bits_and_several_functions_go_together(raw, served) -> None:
    served.image.put_bits(0, [1, 0, 1])
    served.image.put_words(7, [99], function=4)
    said = raw("1:0+3,4:7")
    assert said.code == 0
    assert "0       1 0 1\n1 at 0, 2\n" in said.out and "input registers" in said.out


def test_repetition_finds_the_counter_and_shows_what_changed(raw, served, monkeypatch: pytest.MonkeyPatch) -> None:
    served.image.put_words(50, [1, 0x86A0, 5])
    asked = served.image.read

    def counted(function: int, address: int, count: int) -> bytes | int:
        found = asked(function, address, count)
        served.image.put_words(51, [served.image.words(51)[0] + 3])
        return found

    monkeypatch.setattr(served.image, "read", counted)
    said = raw("3:50+3", "--repeat=3", "--pause=1ms")
    assert said.code == 0
    (look,) = [line for line in said.out.splitlines() if line.startswith("  3:50 ")]
    assert look.split()[1:4] == ["u32", "ABCD", "100006"] and "growing counter, +6" in look
    (change,) = [line for line in said.out.splitlines() if line.startswith("  3:51 ")]
    assert "34464 -> 34467 -> 34470" in change and change.endswith("+6")
    growth = raw("3:50+3", "--repeat=3", "--pause=1ms", "--json").lines[0]["looks_like"]["growth"]
    assert growth == 6


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["0x100+20"], '"0x100+20" does not state a function. Write FUNCTION:START+COUNT, such as 3:0x100+20'),
        (["6:0+1"], "6 is not a function that reads registers. Only functions 1 to 4 read"),
        (["3:0x10000"], "65536 is not an address. Addresses go from 0 to 65535"),
        (["3:400257+2"], "In six-digit 4x notation this is 3:256"),
        (["3:65530+10"], "goes beyond address 65535. From address 65530 on, only 6"),
        (["3:0+0"], "the count must be at least 1"),
        (["3:+5"], "start: it is missing"),
        (["3:0x1G"], 'start: "0x1G" is not a number'),
        (["3:1+two"], 'count: "two" is not a number'),
        (["3:0+1,,4:1"], "the range is empty"),
        (["3:0", "--profile", "eastron/sdm630"], "--profile: has no effect with --registers"),
        (["3:0", "--point", "ac.*"], "--point: has no effect with --registers"),
        (["3:0", "--repeat=1000"], "--repeat: 1000 readings at an interval of 2 s take more than 240 s"),
    ],
)
def test_malformed_arguments_say_what_is_right(raw, served, args: list[str], says: str) -> None:
    said = raw(*args)
    assert (said.code, said.out) == (2, "") and says in said.err and said.err.count("\n") == 1
    assert not served.device.requests


@pytest.mark.parametrize("address", ["785634210000", "000000000161", "AAAAAAAAAAAA", "12345678PPP"])
def test_addresses_of_other_meters_are_told_what_to_use(mh, address: str) -> None:
    said = mh("read", "--line", "serial:/dev/null", "--address", address, "--registers", "3:0")
    assert said.code == 2
    assert "To read a meter that has no registers, use --profile" in said.err


def test_a_device_that_refuses_all_is_told_with_what_to_try(raw, served) -> None:
    punch(served.image, 0, 65536)
    said = raw("3:0+4")
    refused, unknown = "exception 02h (illegal data address)", "exception 01h (illegal function)"
    what = f"the device answers function 3 with {refused}, and function 4 with {unknown}"
    assert f"nothing could be read: {what}. Take an address" in said.err
    assert said.code == 4 and "4:0" not in said.err, "it was asked: to try it would lead in a circle"
    assert set(served.device.requests) == {3, 4}
    chinese = raw("3:0+4", "--lang", "zh").err
    assert "功能码 3 应答异常码 02h（非法寄存器地址），功能码 4 应答异常码 01h（非法功能码）" in chinese, chinese
    what = f"the device answers function 4 with {unknown}, and function 3 with {refused}"
    assert what in raw("4:0+4").err
    served.image.put_words(2, [7], function=4)
    said = raw("3:0+4")
    assert "Function 4 can read this address: use --registers 4:0+4" in said.err and raw("4:0+4").code == 4
    assert "If the address is in 4x notation, which counts from 40001 or 30001, use 3:256+2" in raw("3:40257+2").err
    served.fault("silence")
    said = raw("3:0+4")
    assert (said.code, said.out) == (4, "") and "no answer within" in said.err
    assert "Check the unit number 1, and whether another master uses the device" in said.err


def test_a_configured_meter_without_registers_is_told_what_to_use(mh, park, tmp_path: Path) -> None:
    config = park("tcp://127.0.0.1:1")
    config.write_text(config.read_text().replace('"test/box"', '"dlt645/2007"'))
    said = mh("read", "inv1", "-c", config, "--registers", "3:0")
    assert (
        said.code == 2
        and "inv1 is a device with protocol dlt645, which has no registers. To read a meter that has no registers, use"
        in said.err
    )


def test_a_device_of_the_configuration_and_its_dump(mh, served, park, tmp_path: Path) -> None:
    dump = tmp_path / "dump.json"
    said = mh("read", "inv1", "-c", park(served.url), "--registers", "3:0+7", "--dump", dump, "--json")
    assert said.code == 0 and [line["word"] for line in said.lines][:3] == [0, 15000, 2301]
    assert json.loads(dump.read_text())["holding"]["1"] == 15000


def test_a_sample_serves_profiles_simulate_and_decode(mh, served, box, tmp_path: Path) -> None:
    profile = tmp_path / "test/box.toml"
    profile.parent.mkdir()
    profile.write_text(box.read_text())
    sample = profile.with_name("box.noon.json")
    where = ("--profile", profile, "--line", served.url, "--address", "1")
    assert mh("read", *where, "--sample", sample).code == 0
    ((_, found),) = samples_beside(profile)
    assert str(found.expect["ac.voltage.l1"]) == "230.1" and found.expect["device.firmware"] == "2"
    good = mh("profiles", "check", profile)
    assert good.code == 0 and "2 samples" in good.out
    decoded = mh("decode", "profile", profile, sample, "--json")
    assert decoded.code == 0
    assert {r["name"]: r["value"] for r in decoded.lines[0]["readings"]}["ac.voltage.l1"] == 230.1
    again = mh("read", *where, "--sample", sample)
    assert again.code == 2 and "already exists. A sample is never overwritten" in again.err
    profile.write_text(box.read_text().replace("scale = 0.1", "scale = 0.01", 1))
    bad = mh("profiles", "check", profile)
    assert bad.code == 3 and "box.noon.json" in bad.err and "expected" in bad.err
    sample.write_text('{"holding": {"x": 1}}')
    assert "is not a sample" in mh("profiles", "check", profile).err


def test_a_ratio_is_applied_without_a_configuration(mh, served, box, tmp_path: Path) -> None:
    profile = tmp_path / "box.toml"
    profile.write_text(box.read_text().replace('name = "ac.power.active"', 'name = "ac.power.active"\nratio = "apply"'))
    where = ("--line", served.url, "--address", "1", "--point", "ac.power.active", "--json")
    said = mh("read", "--profile", profile, *where, "--ratio", "ct=80")
    assert [line["value"] for line in said.lines] == [120_000]
    for args, says in (
        (("--param", "ct=60"), "Give a transformer ratio as --ratio ct=60"),
        (("--ratio", "ct=400/5"), "A 400/5 A transformer has ct = 80"),
        (("--ratio", "80"), '"80" is not ct=NUMBER or pt=NUMBER'),
        (("--ratio", "ct=0"), "0 cannot be a ratio"),
    ):
        said = mh("read", "--profile", profile, *where, *args)
        assert said.code == 2 and says in said.err
    assert "has no effect" in mh("read", "--profile", box, *where, "--ratio", "ct=80").err


def test_a_device_that_refuses_every_point_ends_with_one_sentence(mh, served, box) -> None:
    punch(served.image, 0, 65536)
    said = mh("read", "--profile", box, "--line", served.url, "--address", "1")
    assert (said.code, said.out) == (4, "")
    assert "the device refuses all 6 points of test/box. Wrong profile, function or address?" in said.err
    assert said.err.count("\n") == 1
    as_json = mh("read", "--profile", box, "--line", served.url, "--address", "1", "--json")
    assert as_json.code == 4 and {line["quality"] for line in as_json.lines} == {"exception"}
