"""The parts of a scan: its frames, what it overhears, devices that answer to everything."""

from __future__ import annotations

import pytest

from drivers.cjt188.simulate import Cjt188Meter
from drivers.framing import crc16
from drivers.line.trace import BROKEN, RECEIVED, SENT
from drivers.modbus.requests import read_request
from drivers.modbus.search import take_frames
from drivers.model import UsageError
from drivers.scan import Scan, ScanOptions
from drivers.scan.traffic import TrafficTrace
from drivers.sim.bus import Bus
from drivers.sim.faults import parse_fault
from drivers.sim.meters import MixedBus
from tests.kits.codecs import cjt188, dlt645, mbus
from tests.kits.scans import Park, plain, sampled

MINE = ("--listen", "0", "--bus-is-mine")


def _answer(unit: int) -> bytes:
    body = bytes((unit, 3, 2, 0, 7))
    return body + crc16(body).to_bytes(2, "little")


def test_every_probe_is_a_read() -> None:
    options = ScanOptions("serial:/dev/ttyX", protocols=("modbus", "dlt645", "cjt188", "mbus"))
    scan = Scan(options)
    probes = scan.first_pass() + scan.slow_pass()
    assert len(probes) > 247 * 3
    for probe in probes:
        frame = probe.request.frame
        if probe.protocol == "modbus":
            assert frame[1] in (3, 4)
        elif probe.protocol == "dlt645":
            assert dlt645.Parser().feed(frame)[0].control in dlt645.ALLOWED_CONTROLS
        elif probe.protocol == "cjt188":
            assert cjt188.Parser().feed(frame)[0].control in cjt188.ALLOWED_CONTROLS
        else:
            assert mbus.Parser().feed(frame)[0].control == 0x40


def test_the_estimate_of_a_first_pass_is_within_a_minute() -> None:
    options = ScanOptions("serial:/dev/ttyX", slow=False, listen_s=0, bus_is_mine=True)
    assert 50 < Scan(options).estimate_s() < 60


def test_an_ear_tells_frames_from_noise_and_from_our_own_words() -> None:
    traffic = TrafficTrace()
    ours = read_request(5, 3, 0, 1, "here").frame
    traffic.put(SENT, ours, 0)
    traffic.put(RECEIVED, ours + b"\x00\xff" + _answer(4)[:3], 0)  # an adapter that echoes, a spike, half an answer
    assert take_frames(traffic, is_bus=True) == []
    traffic.put(RECEIVED, _answer(4)[3:], 0)
    assert [(h.unit, h.is_request) for h in take_frames(traffic, is_bus=True)] == [(4, False)]
    assert take_frames(traffic, is_bus=True) == []


def test_a_frame_of_modbus_tcp_that_is_too_short_is_skipped() -> None:
    """Its function has the exception bit, but there is no exception code: the scan ended with an error."""
    traffic = TrafficTrace()
    short, sound = bytes.fromhex("000100000002 0583"), bytes.fromhex("000200000003 068302")
    traffic.received = bytes.fromhex("000000000000") + short + sound
    assert [(h.unit, h.code) for h in take_frames(traffic, is_bus=False)] == [(6, 2)]


def test_an_echo_and_our_own_words_about_it_are_no_answer() -> None:
    """A trace also has our texts about broken answers. They are not bytes of the line."""
    traffic = TrafficTrace()
    traffic.put(SENT, b"ours", 0)
    traffic.put(RECEIVED, b"ours", 0)
    traffic.put(BROKEN, b"the answer is broken", 0)
    assert (traffic.received, traffic.total, traffic.answers) == (b"ours", 4, 0)
    traffic.put(RECEIVED, b"theirs", 0)
    assert traffic.answers == 1


def test_a_spike_is_no_master() -> None:
    scan = Scan(ScanOptions("serial:/dev/ttyX"))
    assert scan.describe(b"\x00") == scan.describe(b"\xff\x00") == ""
    assert "form no frame" in scan.describe(bytes(40))
    assert "function 16" in scan.describe(b"\x07\x10\x00\x00\x00\x01\x01\xaf")


def test_a_master_that_begins_to_talk_stops_the_scan(mh, field: Park) -> None:
    bus = Bus([plain(1)])
    line = field.pty(bus)
    line.says, line.says_every_s = lambda: _answer(200) if bus.strangers > 3 else b"", 0.03
    said = mh("scan", "--line", line.url, "--serial", line.serial, "--protocol", "modbus", "--listen", "0.2",
              "--timeout", "0.1", "--json")  # fmt: skip
    assert said.code == 4
    assert "became active" in said.err
    assert [d["address"] for d in said.lines] == ["1"]  # what was found until then


def test_the_slow_pass_misses_none_that_was_silent_once(mh, field: Park) -> None:
    deaf = plain(3)
    deaf.faults.set(parse_fault("silence*1"))
    line = field.pty(Bus([plain(2), deaf]))
    said = mh("scan", "--line", line.url, "--serial", line.serial, "--protocol", "modbus", "--addresses", "1-4",
              "--timeout", "0.05", "--slow-timeout", "0.2", "--no-identify", "--json", *MINE)  # fmt: skip
    assert sorted(d["address"] for d in said.lines) == ["2", "3"]


def test_finds_a_cjt188_meter_in_either_order_of_its_identifier(mh, field: Park) -> None:
    meter = Cjt188Meter(meter_type=0x10, address="22223333444455", values={0x901F: bytes(22)}, low_first=True)
    line = field.pty(MixedBus([meter]))
    said = mh("scan", "--line", line.url, "--serial", line.serial, "--protocol", "cjt188", "--quick", "--json",
              "--no-identify", *MINE)  # fmt: skip
    assert [(d["protocol"], d["address"]) for d in said.lines] == [("cjt188", "22223333444455")]


def test_a_device_that_answers_to_every_unit_is_one_device(mh, field: Park) -> None:
    line = field.tcp(Bus([plain(unit) for unit in range(1, 248)]))
    said = mh("scan", "--line", line.url, "--no-identify", "--quick", "--json")
    assert [d["address"] for d in said.lines] == ["1"]
    assert "every unit number" in said.err


def test_identify_picks_the_variant_by_what_the_device_says(mh, field: Park) -> None:
    # field pains 18, 39: who it is comes before its data; the map follows a register that tells the version
    device = sampled("abb/b23", 1)
    line = field.tcp(Bus([device]))
    said = mh("identify", "--line", line.url, "--address", "1", "--json")
    assert said.lines[0]["profiles"][0]["variant"] == ""
    device.image.put_words(0x8960, [0x4232, 0x3100, 0, 0, 0, 0])  # B21, single phase
    said = mh("identify", "--line", line.url, "--address", "1", "--json")
    assert said.lines[0]["identity"]["device.model"] == "B21"
    assert said.lines[0]["profiles"][0]["variant"] != ""


def test_only_modbus_over_modbus_tcp() -> None:
    with pytest.raises(UsageError, match="DL/T 645 cannot be used over modbus-tcp"):
        Scan(ScanOptions("modbus-tcp://127.0.0.1", protocols=("dlt645",)))


@pytest.mark.parametrize("text", ["1-", "x", "300", "9-3", "1,,2"])
def test_bad_addresses_are_refused(mh, text: str) -> None:
    said = mh("scan", "--line", "serial:/dev/null", "--addresses", text)
    assert said.code == 2
    assert "--addresses" in said.err


def test_who_answers_late_is_identified_with_patience(mh, field: Park) -> None:
    """It was found by the slow pass, and then no profile was given time enough."""
    line = field.pty(Bus([sampled("abb/b23", 3, turnaround_s=0.6)]))
    said = mh("identify", "--line", line.url, "--serial", line.serial, "--address", "3", "--json")
    assert said.code == 0, said.err
    assert said.lines[0]["profiles"][0]["profile"] == "abb/b23"


@pytest.mark.parametrize("pdu", ["03020007", "8302", "060001000A"], ids=["answer", "exception", "request to write"])
@pytest.mark.parametrize(("unit", "heard"), [(247, [247]), (248, [])])
def test_a_reserved_unit_is_no_device_on_the_line(unit: int, heard: list[int], pdu: str) -> None:
    frame = bytes([unit]) + bytes.fromhex(pdu)
    traffic = TrafficTrace()
    traffic.put(RECEIVED, frame + crc16(frame).to_bytes(2, "little"), 0)

    assert [frame.unit for frame in take_frames(traffic, is_bus=True)] == heard
