"""IEC 62056-21: recorded readouts, codes, times and texts, two libraries of PyPI as oracles, and broken bytes."""

from __future__ import annotations

import random
import re
import sys
from decimal import Decimal
from typing import Any, cast

import iec62056.parser
import iec62056.samples
import iec62056_21.messages
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.iec62056.codes import parse_code, unit_of
from drivers.iec62056.data_sets import _PIECE, clock_text, decode_block, decode_readout, time_of
from drivers.iec62056.explain import EXPLAINERS
from drivers.iec62056.frames import (
    Identification,
    Parser,
    Readout,
    broken,
    build_select,
    build_sign_on,
    find_block,
    find_identification,
)
from drivers.iec62056.requests import Data, SignOn, Speed, stay
from drivers.line import LineConfig, open_line
from drivers.model import DeviceSpec, LineError, Reading, Reason, UsageError
from drivers.registry import driver_class
from drivers.units import unit_factor
from tests.kits.meter_cases import decode, flat_memory
from tests.kits.meters import points_of
from tests.kits.readouts import E350, MT382, PAFAL, READOUTS, ZMD310, mutated, readout


def found(raw: bytes) -> dict[str, Reading]:
    (one,) = Parser().feed(raw)
    return {f"{r.label}#{r.subunit}" if r.subunit else r.label: r for r in decode_readout(one)}


# --- what meters send


def test_a_recorded_readout_with_its_check_character() -> None:
    readings = found(E350)
    assert readings["1.8.0"].value == Decimal("61561.289") and readings["1.8.0"].unit == "kWh"
    assert readings["1.8.2"].name == "ac.energy.import.tariff.2" and readings["1.8.2"].tariff == 2
    assert readings["32.7"].name == "ac.voltage.l1" and readings["32.7"].value == 241
    assert readings["C.1.0"].value == "13647123" and readings["maker"].value == "LGZ"
    assert readings["C.1.1"].value is None and readings["C.1.1"].quality == Reason.SENTINEL


def test_past_periods_have_the_unit_of_the_present_one_and_demands_their_time() -> None:
    readings = found(ZMD310)
    past = readings["1-1:1.8.0*18"]
    assert (past.value, past.unit, past.storage) == (49555, "kWh", 18)
    demand = readings["1-1:1.6.1*17"]
    assert (demand.value, demand.unit, demand.time) == (Decimal("28.95"), "kW", "2016-12-08T10:30")
    assert clock_text("170214", "155420") == "2017-02-14T15:54:20"


def test_a_value_that_is_sent_twice_is_one_and_text_in_brackets_stays() -> None:
    readings = found(PAFAL)
    assert readings["1.8.0*00"].value == Decimal("783.16") and readings["1.8.0*00"].storage == 0
    assert "1.8.0*00#1" not in readings and readings["0.0.1"].value == "PAF"


def test_modes_behind_a_backslash_are_not_the_model_and_a_gas_meters_hour_comes_first() -> None:
    readings = found(MT382)
    assert readings["identification"].value == "MT382-1008"
    gas = readings["0-1:24.2.1#1"]
    assert (gas.value, gas.unit, gas.time) == (Decimal("212.529"), "m3", "2018-01-04T23:15:07")
    assert readings["1-0:99.97.0#5"].value == 149657, "of a list each bracket"


def test_brackets_on_the_next_line_belong_to_the_code_before() -> None:
    readings = decode_block(b"0-1:24.3.0(161107190000)(00)(60)(1)(0-1:24.2.1)(m3)\r\n(00001.001)\r\n!\r\n")
    assert [r.label for r in readings] == ["0-1:24.3.0"] * len(readings)
    assert readings[-1].value == Decimal("1.001")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("1-0:1.8.0*255", "1-0:1.8.0*255"), ("1.8.0", "1.8.0"), ("1.8", "1.8.0"), ("01.08.00", "1.8.0"),
        ("F.F", "F.F.0"), ("f.f.0", "F.F.0"), ("1.8.0&01", "1.8.0*01"), ("6.26", "6.26.0"), ("P.01", "P.1.0"),
        ("1-b:1.8.1*03", "1-b:1.8.1*03"), ("", None), ("1", None), ("1.8.0.0.0", None), ("1..0", None),
    ],
)  # fmt: skip
def test_codes(text: str, code: str | None) -> None:
    parsed = parse_code(text)
    assert (str(parsed) if parsed else None) == code


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("1702090945", "2017-02-09T09:45"), ("170209094530", "2017-02-09T09:45:30"),
        ("1211017230100", "2021-10-17T23:01:00"), ("180104231507W", "2018-01-04T23:15:07"),
        ("20180104231507", "2018-01-04T23:15:07"), ("05-09-10 11:20", "2005-09-10T11:20"),
        ("12605140830", "2026-05-14T08:30"), ("12613140830", ""),
        ("0000000000", ""), ("1713090945", ""), ("12345", ""), ("", ""), ("१७०२०९०९४५", ""),
    ],
)  # fmt: skip
def test_time_stamps(text: str, time: str) -> None:
    assert time_of(text) == time


@pytest.mark.parametrize(
    ("date", "day"), [("240102", "2024-01-02"), ("24-01-02", "2024-01-02"), ("1240102", "2024-01-02"), ("02.01.24", "")]
)
def test_a_date_with_dots_is_no_date(date: str, day: str) -> None:
    """A German date has the day first. It was read with the year first, so a good clock was 22 years wrong."""
    assert clock_text(date, "120000") == (f"{day}T12:00:00" if day else "")


def test_a_stamp_with_season_and_without_seconds_is_the_time_of_its_value() -> None:
    """Else the stamp would be a number of the same code, and the peak would have no time."""
    (peak,) = decode_block(b"1.6.0(12.345*kW)(12605140830)\r\n")
    assert (peak.value, peak.unit, peak.time) == (Decimal("12.345"), "kW", "2026-05-14T08:30")


def test_units() -> None:
    assert [unit_of(text) for text in ("KWH", "kVarh", "MWh", "mA", "m3", "°C", "GJ", "bananas")] == [
        "kWh", "kvarh", "MWh", "mA", "m3", "Cel", "GJ", "bananas",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["Mvarh", "MVArh", "MVARH"])
def test_reactive_energy_in_mega_units_is_known_in_each_spelling(text: str) -> None:
    """Meters that write kVArh write MVArh, too. A counter with an unknown unit is a gap."""
    assert unit_of(text) == "Mvarh" and unit_factor(unit_of(text), "kvarh") == 1000
    assert unit_of(text[:-1]) == "Mvar" and unit_of("MVAH") == "MVAh"


@pytest.mark.parametrize(
    ("line", "mode", "baud", "reaction_s"),
    [
        (b"/ISk5MT171-0133\r\n", "C", 9600, 0.02), (b"/LGZ4ZMF100AC.M26\r\n", "C", 4800, 0.2),
        (b"/ABC9X\r\n", "C", None, 0.2), (b"/ABCAX\r\n", "B", 600, 0.2), (b"/ABCIX\r\n", "B", None, 0.2),
        (b"/ABCFX\r\n", "B", 19200, 0.2), (b"/ABCGX\r\n", "B", None, 0.2),
        (b"/ABCaX\r\n", "A", 300, 0.2), (b"/ABC \r\n", "A", 300, 0.2),
    ],
)  # fmt: skip
def test_identifications(line: bytes, mode: str, baud: int | None, reaction_s: float) -> None:
    who = find_identification(b"\x7f\x7f/?!\r\n" + line)
    assert who is not None and (who.raw, who.mode, who.baud, who.reaction_s) == (line, mode, baud, reaction_s)


def test_a_unit_that_looks_like_an_identification_is_data() -> None:
    """The end of a line such as ``(1000*imp/kWh)`` has the form of an identification. A readout with such a line must
    still be found, whether its meter sends the data unasked (mode A, and mode B at a fixed speed) or on request.
    """
    lines = ("0.3.0(1000*imp/kWh)", "1.8.0(000123.4*kWh)")
    for speed in "JB":
        raw = readout(f"ABC{speed}METER", *lines)
        request = SignOn("*", "here", stay)
        received = [request.find(raw[:size], False) for size in range(len(raw) + 1)]
        assert received == [None] * len(raw) + [raw]
        assert request.then(raw) is None
    raw = readout("ABC5METER", *lines)
    begin = raw.index(b"\n") + 1
    assert Data(Identification(raw[:begin]), "*", "here", Speed("0")).find(raw[begin:], True) == raw
    damaged = raw[:-1] + bytes((raw[-1] ^ 1,))
    assert broken(damaged)[:2] == (damaged, 0) and "check character is" in broken(damaged)[2]


def test_after_a_readout_that_was_cut_short_the_next_one_is_found() -> None:
    raw = readout("ABCJMETER", "1.8.0(000123.4*kWh)")
    for cut in range(4, len(raw)):
        assert SignOn("*", "here", stay).find(raw[:cut] + raw, False) == raw


# --- oracles


def test_the_worked_example_of_the_notes() -> None:
    assert readout("ABC5", "1-0:1.8.0*255(012345.67*kWh)")[-1] == 0x44


@pytest.mark.parametrize("raw", READOUTS)
def test_a_library_for_clients_reads_the_same_data_sets(raw: bytes) -> None:
    """PyPI's iec62056-21: each of its data sets, by address, value and unit."""
    block = find_block(raw)
    assert block is not None
    theirs = iec62056_21.messages.ReadoutDataMessage.from_bytes(block)
    ours = decode_block(block[1:-2])
    seen = 0
    for line in theirs.data_block.data_lines:
        for one in line.data_sets:
            if one.address in (None, "!") or time_of(one.value):  # here a value has its time
                continue
            seen += 1
            (reading,) = [r for r in ours if r.label == one.address and r.raw.decode("latin-1") == one.value][:1]
            assert reading.unit == (one.unit or reading.unit)
            if isinstance(reading.value, Decimal):
                assert reading.value == Decimal(one.value)
    assert seen >= 6


@pytest.mark.parametrize(("name", "text"), iec62056.samples.ALL, ids=[name for name, _ in iec62056.samples.ALL])
def test_a_library_for_telegrams_gives_the_same_values(name: str, text: bytes) -> None:
    """PyPI's iec62056 and its own recorded telegrams, which have no STX, ETX and BCC where they come by P1."""
    telegram = iec62056.parser.Parser().parse(text.decode("latin-1"))
    ours = {str(code): r for r in decode_block(text) if (code := parse_code(r.label)) and r.subunit == 0}
    compared = 0
    for one in telegram.objects:
        for register in one if isinstance(one, list) else [one]:
            numbers = register.reference.id
            text_code = "{}.{}".format(*numbers[2:4]) if numbers[0] is None else "{}-{}:{}.{}.{}".format(*numbers)
            reading = ours.get(str(parse_code(text_code)))
            value = getattr(register, "value", None)
            if reading is not None and isinstance(value, float) and isinstance(reading.value, Decimal):
                assert float(reading.value) == value, text_code
                compared += 1
    assert compared


# --- requests


def test_requests_are_a_sign_on_and_the_choice_of_a_readout() -> None:
    assert build_sign_on() == b"/?!\r\n" and build_sign_on("0012") == b"/?0012!\r\n"
    assert [build_select(z) for z in "05"] == [b"\x06000\r\n", b"\x06050\r\n"]


@pytest.mark.parametrize("address", ["1!", "a b", "", "x" * 33, "1\r\n\x01W1", "é"])
def test_no_address_can_hold_another_message(address: str) -> None:
    with pytest.raises(UsageError):
        build_sign_on(address)


@pytest.mark.parametrize("speed", ["", "51", "A", "\n"])
def test_no_speed_can_choose_another_mode(speed: str) -> None:
    with pytest.raises(UsageError):
        build_select(speed)


def test_a_step_waits_the_time_of_the_meters_maker() -> None:
    for maker, reaction_s in ((b"ISk", 0.02), (b"ISK", 0.2)):
        following = SignOn("*", "here", stay).then(b"/" + maker + b"5X\r\n")
        assert isinstance(following, Data) and following.quiet_s == reaction_s and following.frame == b"\x06000\r\n"


# --- broken bytes


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (b"", "no frame"), (b"hello", "no frame"), (b"/ABC5X\r\n", "no data follows the identification"),
        (E350[:-30], "no ETX"), (E350[:-1], "no check character"), (E350[:-1] + b"\x55", "check character is 55h"),
        (bytes(b | (b.bit_count() % 2) << 7 for b in E350), "instead of 7E1"), (b"\xff\xfe\x81", "the speed is wrong"),
        (E350[E350.index(2):], "no identification message before the data"),
    ],
)  # fmt: skip
def test_why_bytes_are_no_readout(raw: bytes, what: str) -> None:
    assert what in broken(raw)[2]
    assert not Parser().feed(raw)


def device() -> Any:
    points = points_of("iec62056/electricity")
    spec = DeviceSpec("m", "s", "*", "iec62056", "t/t", points, (0, 0, 0, 0, 0))
    return driver_class("iec62056")(spec, open_line(LineConfig("l", "serial:/dev/null")), cast(Any, None), 0)


def survives(reader: Any, raw: bytes) -> None:
    """Nothing but errors of the line's, whatever the bytes; what is found has its own check character."""
    for one in Parser().feed(raw):
        assert one.bcc == one.bcc_computed
        try:
            reader.read_frames({"readout": [one.raw]})
        except LineError:
            continue
    identification = Identification(b"/ABC5X\r\n")
    for request in (SignOn("*", "here", stay), Data(identification, "*", "here", Speed("0"))):
        for final in (False, True):
            verdict = request.find(raw, final)
            assert verdict is None or isinstance(verdict, bytes | LineError)
    broken(raw)


def test_mutated_readouts_raise_nothing() -> None:
    reader = device()
    for raw in mutated(1, 2_000):
        survives(reader, raw)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_million_mutated_readouts_raise_nothing() -> None:
    reader = device()
    with flat_memory(16):
        for raw in mutated(2, 1_000_000):
            survives(reader, raw)


def test_the_pieces_of_a_readout_do_not_matter() -> None:
    """Byte by byte, or in any pieces, with noise around: the same readouts."""
    chance = random.Random(3)
    for raw in mutated(4, 300):
        stream = b"\x00\x7f" + raw + b"/?!\r\n" + E350
        whole = [one.raw for one in Parser().feed(stream)]
        pushed, pieces, at = Parser(), list[bytes](), 0
        while at < len(stream):
            size = chance.choice((1, 1, 2, 7, 100))
            pieces += [one.raw for one in pushed.feed(stream[at : at + size])]
            at += size
        assert pieces == whole and E350 in whole


@given(st.binary(max_size=300))
def test_any_data_in_a_sound_frame(body: bytes) -> None:
    clean = bytes(byte for byte in body if byte not in (2, 3))
    survives(device(), readout("ABC5X", clean.decode("latin-1")))


@given(st.lists(st.sampled_from(["1.8.0", "(", ")", "*", "kWh", "1e9", "9" * 40, "-", ".", "!", "\r\n", "(1)", "*00"])))
def test_any_brackets(parts: list[str]) -> None:
    decode_block("".join(parts).encode())


@pytest.mark.parametrize("piece", [b"x", b"(", b"(x", b")", b"\x02"])
def test_long_lines_are_gone_through_once(piece: bytes) -> None:
    """Counted in steps of the interpreter, not in seconds: twice the text may not take four times as many."""

    def steps(size: int) -> int:
        count = 0

        def traced(frame: Any, event: str, arg: Any) -> Any:
            nonlocal count
            count += 1
            return traced

        text = piece * size
        sys.settrace(traced)
        try:
            find_block(text + b"\x03\x7f")
        finally:
            sys.settrace(None)
        return count

    assert steps(4000) < 2.5 * steps(2000)
    assert _PIECE.pattern.endswith(r"|\Z)"), "a piece ends at a bracket, a line's end or the text's, wherever it begins"
    decode_block(piece * 32_000)


def test_text_of_a_meter_is_made_safe() -> None:
    escape = "\x1b]0;owned\x07"
    raw = readout(f"ABC5{escape}", f"{escape}1({'x' * 9999}*{escape}{'u' * 99})", f"C.1.0({escape}12)")
    (one,) = Parser().feed(raw)
    for reading in decode_readout(one):
        assert f"{reading.value}{reading.unit}{reading.name}".isprintable()
        assert len(str(reading.value)) <= 128 and len(reading.unit) <= 16 and len(reading.name) <= 40


# --- decode


def test_decode_shows_a_readout_and_each_message() -> None:
    code, shown = decode("iec62056", E350.hex())
    assert code == 0 and shown["frame"]["maker"] == "LGZ" and shown["frame"]["baud"] == 4800
    assert {"name": "ac.energy.export", "value": 10.49, "unit": "kWh"}.items() <= next(
        r for r in shown["readings"] if r["name"] == "ac.energy.export"
    ).items()
    for raw, kind in ((b"/?123!\r\n", "sign-on"), (b"\x06050\r\n", "option select"), (b"/ABC5X\r\n", "identification")):
        code, shown = decode("iec62056", raw.hex())
        assert code == 0 and shown["frame"]["kind"] == kind
    code, shown = decode("iec62056", E350[E350.index(2) :].hex())
    assert code == 0 and shown["frame"]["kind"] == "data" and len(shown["readings"]) == 22


def test_decode_says_what_is_wrong_and_shows_no_value() -> None:
    code, shown = decode("iec62056", (E350[:-1] + b"\x55").hex())
    assert code == 4 and "check character is 55h, but the bytes require 01h" in shown["error"]
    assert shown["frame"]["maker"] == "LGZ" and "readings" not in shown
    code, shown = decode("dlt645", E350.hex())
    assert code == 4 and "decode iec62056" in shown["hint"]


def test_the_example_of_its_help() -> None:
    (example,) = re.findall(r"decode iec62056 '([^']+)'", EXPLAINERS[0].help)
    code, shown = decode("iec62056", example)
    assert code == 0 and shown["readings"][-1]["value"] == 12.5


def test_a_readout_of_many_meters_is_found_in_a_stream() -> None:
    assert [one.identification.maker for one in Parser().feed(b"".join(READOUTS))] == ["LGZ", "LGZ", "PAF", "ISK"]
    assert Readout(E350).block.startswith(b"F.F(00)")
