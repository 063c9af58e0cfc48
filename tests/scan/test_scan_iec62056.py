"""Meters of IEC 62056-21 are found by a sign-on without an address, and known by what they read out."""

from __future__ import annotations

from pathlib import Path

from drivers.iec62056.simulate import SELECTED, SIGNED_ON, Iec62056Meter
from drivers.sim.meters import MixedBus
from tests.kits.meters import sent_frames
from tests.kits.readouts import E350
from tests.kits.scans import Park
from tests.kits.simulated import writes

MINE = ("--listen", "0", "--bus-is-mine")


def e350(**more: object) -> Iec62056Meter:
    """The recorded meter; its address is that of its plate."""
    lines = E350[E350.index(2) + 1 : -5].decode().split("\r\n")
    made = {
        "baud": 300,
        "address": "120858",
        "maker": "LGZ",
        "model": "ZMF100AC.M26",
        "speed": "4",
        "lines": lines[:-1],
    }
    return Iec62056Meter(**{**made, "turnaround_s": 0.6, **more})  # type: ignore[arg-type]


def test_the_meter_under_an_optical_head_is_found_and_named(mh, field: Park) -> None:
    """It takes 0.6 s to answer, more than a scan otherwise waits: the protocol grants 1.5 s."""
    sim = e350()
    said = mh("scan", "--line", field.pty(MixedBus([sim]), baud=9600).url, "--protocol", "iec62056", "--json", *MINE)
    assert said.code == 0, said.err
    (device,) = said.lines
    assert (device["protocol"], device["address"], device["serial"]) == ("iec62056", "*", "300 7E1")
    assert device["identity"]["device.serial"] == "13647123"
    assert device["profiles"][0]["profile"] == "landis-gyr/e350"
    assert sim.requests[SELECTED] == sim.requests[SIGNED_ON] and writes(sim) == 0


def test_behind_a_serial_server_it_stays_at_300_baud(mh, field: Park) -> None:
    sim = e350(baud=None)
    line = field.tcp(MixedBus([sim]), framing="rtu")
    said = mh("scan", "--line", line.url, "--protocol", "iec62056", "--json", "--no-identify", *MINE)
    assert [device["address"] for device in said.lines] == ["*"] and sim.selected == "0"


def test_identify_asks_once_for_all_profiles(mh, field: Park) -> None:
    sim = e350()
    url = field.pty(MixedBus([sim]), baud=9600).url
    said = mh("identify", "--line", url, "--protocol", "iec62056", "--address", "*", "--serial", "300 7E1", "--json")
    assert said.code == 0 and said.lines[0]["profiles"][0]["profile"] == "landis-gyr/e350"
    assert sim.requests[SELECTED] == 1


def test_several_meters_that_answer_at_once_are_told_of(mh, field: Park) -> None:
    meters = [e350(), e350(address="2", lines=["1.8.0(000777.000*kWh)"])]
    line = field.pty(MixedBus(meters), baud=9600)
    said = mh("scan", "--line", line.url, "--protocol", "iec62056", "--quick", "--json", *MINE)
    assert not said.lines and "several meters answer at once" in said.err


def test_another_master_is_named(mh, field: Park, tmp_path: Path) -> None:
    line = field.pty(MixedBus([e350()]), baud=9600)
    line.says, line.says_every_s = lambda: b"/?120858!\r\n", 1.0
    said = mh("scan", "--line", line.url, "--protocol", "iec62056", "--listen", "3")
    assert said.code != 0 and "IEC 62056-21 sign-on" in said.err
    assert not sent_frames(line.bus)
