"""Meters that answer all at once: M-Bus by secondary address, DL/T 645 by the last digits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, seed
from hypothesis import strategies as st

from drivers.dlt645.search import by_digits
from drivers.dlt645.simulate import Dlt645Meter
from drivers.line import Answer
from drivers.mbus.search import MAKERS, SelectionMask, by_selection, identity_of, maker_code
from drivers.mbus.simulate import MbusMeter
from drivers.model import FrameError, LineError, LineTimeout
from drivers.scan import Note, Scan, ScanOptions
from drivers.scan.probes import Probe
from drivers.sim.faults import parse_fault
from drivers.sim.meters import MixedBus
from tests.kits.codecs import mbus
from tests.kits.scans import Park
from tests.kits.simulated import writes

MINE = ("--listen", "0", "--bus-is-mine")
SELECT = ("--mbus-by", "secondary")
BOTH = ("--mbus-by", "both", "--addresses", "0-9")
FAST = ("--timeout", "0.05", "--slow-timeout", "0.1")
ENERGY = {"00010000": bytes.fromhex("78563412"), "9010": bytes.fromhex("56341200")}


def meter(number: str, maker: str = "KAM", version: int = 1, medium: int = 4, primary: int = 0) -> MbusMeter:
    """A heat meter that can be selected."""
    who = bytes.fromhex(number)[::-1] + maker_code(maker).to_bytes(2, "little") + bytes((version, medium))
    telegram = b"\x72" + who + bytes.fromhex("05000000" + "0C06") + bytes.fromhex(number)[::-1]
    return MbusMeter(name=number, address=primary, secondary=who, telegrams=(telegram,))


def scanned(mh: Callable[..., Any], line: Any, protocol: str, *more: str) -> Any:
    return mh("scan", "--line", line.url, "--serial", line.serial, "--protocol", protocol, "--no-identify",
              "--json", *more, *MINE, *FAST)  # fmt: skip


def test_meters_that_share_digits_are_found_one_by_one(mh, field: Park) -> None:
    """All of them still have primary address 0, as delivered; two differ in the last digit only."""
    meters = [meter(n) for n in ("12345671", "12345672", "12349672", "90000000")]
    bus = MixedBus(meters)
    said = scanned(mh, field.pty(bus), "mbus", "--quick", *SELECT)
    assert sorted(d["address"] for d in said.lines) == ["12345671", "12345672", "12349672", "90000000"]
    assert said.lines[0]["identity"]["maker"] == "KAM"
    assert bus.overlaid > 0, "they did speak at once"
    assert all(writes(one) == 0 for one in meters)


def test_meters_that_differ_in_medium_alone_are_told_apart(mh, field: Park) -> None:
    bus = MixedBus([meter("11112222", "KAM", 1, 4), meter("11112222", "KAM", 1, 6)])
    said = scanned(mh, field.pty(bus), "mbus", "--quick", *SELECT)
    assert [d["address"] for d in said.lines] == ["111122222D2C0104", "111122222D2C0106"]


def test_meters_that_differ_in_maker_alone_are_told_apart(mh, field: Park) -> None:
    twins = [meter("11112222", "KAM", 1, 4), meter("11112222", "KAM", 1, 6)]
    makers = [meter("33334444", "SEN", 8, 7), meter("33334444", "ZRI", 8, 7)]
    bus = MixedBus([*twins, *makers])
    said = scanned(mh, field.pty(bus), "mbus", "--quick", *SELECT)
    assert sorted(d["address"] for d in said.lines) == [
        "111122222D2C0104",
        "111122222D2C0106",
        "33334444496A0807",
        "33334444AE4C0807",
    ]
    assert {d["identity"]["maker"] for d in said.lines} == {"KAM", "SEN", "ZRI"}


def test_an_address_that_was_found_selects_its_meter(mh, field: Park) -> None:
    """What a scan prints is what agent.toml and `read` take."""
    line = field.pty(MixedBus([meter("11112222", "KAM", 1, 4), meter("11112222", "KAM", 1, 6)]))
    for address in ("111122222D2C0104", "111122222D2C0106"):
        said = mh("read", "--profile", "mbus/heat", "--line", line.url, "--serial", line.serial, "--address", address,
                  "--point", "heat.energy", "--json")  # fmt: skip
        assert [one["value"] for one in said.lines] == [11112222]


def test_one_meter_is_one_device_whatever_its_addresses(mh, field: Park) -> None:
    line = field.pty(MixedBus([meter("12345678", primary=7)]))
    said = scanned(mh, line, "mbus", "--quick", *BOTH)
    assert [(d["address"], d["identity"].get("primary")) for d in said.lines] == [("12345678", "7")]


def test_a_meter_of_primary_addresses_only_is_found_too(mh, field: Park) -> None:
    old = meter("00000000", primary=3)
    old.secondary = b""  # it knows no selection
    line = field.pty(MixedBus([old, meter("12345678", primary=9), meter("12345677", primary=9)]))
    said = scanned(mh, line, "mbus", "--quick", *BOTH)
    assert sorted(d["address"] for d in said.lines) == ["12345677", "12345678", "3"]
    assert "address 9: several meters answer at once" in said.err


def test_one_that_is_deaf_at_first_is_found_by_the_slow_pass(mh, field: Park) -> None:
    deaf = meter("12345671")
    deaf.faults.set(parse_fault("silence*4"))
    said = scanned(mh, field.pty(MixedBus([deaf, meter("55555555", primary=1)])), "mbus", *SELECT)
    assert sorted(d["address"] for d in said.lines) == ["12345671", "55555555"]


@pytest.mark.parametrize("telegram", ["7008", "70", "780C0627120000"])
def test_a_meter_that_does_not_name_itself_is_found_by_the_mask_that_selects_it(mh, field: Park, telegram: str) -> None:
    """The bytes after an error or a telegram without a header were taken for its number: agent.toml takes the address
    "08" for primary address 8.
    """
    busy = meter("12345678", primary=7)
    busy.telegrams = (bytes.fromhex(telegram),)
    line = field.pty(MixedBus([busy, meter("12345671"), meter("87654322")]))
    said = scanned(mh, line, "mbus", *BOTH)
    assert sorted(d["address"] for d in said.lines) == ["12345671", "87654322", "FFFFFFF8"]


# --- the search itself, on a bus without time


class Bus:
    """Selection as EN 13757-3 has it: all that match acknowledge, and read at once they drown each other.

    ``loud``: where several speak, the first of them is understood, as if he were alone.
    """

    def __init__(self, meters: list[MbusMeter], loud: bool = False) -> None:
        self.meters, self.asked, self.loud = meters, 0, loud

    async def __call__(self, probe: Probe) -> Answer | LineError:
        self.asked += 1
        heard = [said for one in self.meters if (said := one.hear(probe.request.frame)) is not None]
        if not heard:
            return LineTimeout("nothing", where="bus")
        if len(set(heard)) > 1 and not self.loud:
            return FrameError("noise", where="bus")
        return Answer(heard[0], 0, 0, False)


def identities() -> Iterator[bytes]:
    return st.tuples(
        st.sampled_from(["00000000", "00000001", "12345678", "12345679", "92345678", "12345778", "99999999"]),
        st.sampled_from(MAKERS.split()[:6]),
        st.sampled_from([0, 1, 77]),
        st.sampled_from([4, 6, 7]),
    )


@seed(188)
@given(who=st.lists(identities(), min_size=0, max_size=6, unique=True))
async def test_every_meter_that_can_be_told_apart_is_found(who: list[tuple[str, str, int, int]]) -> None:
    meters = [meter(*one) for one in who]
    bus = Bus(meters)
    notes: list[Note] = []
    found = [identity_of(frame) async for frame, _ in by_selection(bus, "2400 8E1", 0.1, notes.append)]
    assert len(found) == len(set(found)), "each once"
    assert sorted(found) == sorted(one.secondary for one in meters)
    assert not notes
    if len(meters) == 1:
        assert bus.asked == 3, "select, read, deselect: no more where there is one"
    assert not any(one.selected for one in meters)


@seed(189)
@example(who=[("12345678", "KAM", 0, 4), ("99999999", "KAM", 0, 4), ("12345679", "KAM", 0, 4)])
@given(who=st.lists(identities(), min_size=0, max_size=4, unique_by=lambda one: (one[0], one[1], one[3])))
async def test_the_slow_pass_finds_whom_a_loud_neighbour_drowns(who: list[tuple[str, str, int, int]]) -> None:
    """Overlaid answers that are sound by chance, or one meter nearer to the master than the other."""
    meters = [meter(*one) for one in who]
    bus = Bus(meters, loud=True)
    found = [identity_of(f) async for f, _ in by_selection(bus, "2400 8E1", 0.1, print, thorough=True)]
    assert len(found) == len(set(found))
    if len({one[0] for one in who}) == len(who):  # of three that share a number, two may stay hidden behind the third
        assert sorted(found) == sorted(one.secondary for one in meters)
    assert bus.asked <= 1 + (180 + 80 * len(who)) * bool(who)


async def test_the_slow_pass_costs_little_more_for_meters_of_one_delivery() -> None:
    bus = Bus([meter(f"123456{n:02}") for n in range(60)])
    found = {identity_of(f) async for f, _ in by_selection(bus, "2400 8E1", 0.1, print, thorough=True)}
    assert len(found) == 60
    assert bus.asked < 12 * 60, "the digits that all of them share are tried once"


async def test_two_of_one_secondary_address_are_complained_of() -> None:
    twins = [meter("12345678"), meter("12345678", primary=1)]
    notes: list[Note] = []
    found = [f async for f, _ in by_selection(Bus([*twins, meter("12345679")]), "2400 8E1", 0.1, notes.append)]
    assert [identity_of(frame)[:1] for frame in found] == [b"\x79"]
    assert "12345678" in notes[0].text() and "same secondary address" in notes[0].text()


async def test_a_search_costs_ten_questions_a_level() -> None:
    bus = Bus([meter(f"1234567{n}") for n in range(3)])
    found = [frame async for frame in by_selection(bus, "2400 8E1", 0.1, print)]
    assert len(found) == 3
    assert bus.asked <= 2 + 10 + 3 + 1


@pytest.mark.parametrize(
    ("text", "mask"),
    [
        ("FFFFFFFF", SelectionMask()),
        ("12345678", SelectionMask("12345678")),
        ("12345678FFFFFF07", SelectionMask("12345678", medium=7)),
        ("12345678AE4C0807", SelectionMask("12345678", maker_code("SEN"), 8, 7)),
    ],
)
def test_masks_are_written_as_they_are_sent(text: str, mask: SelectionMask) -> None:
    assert str(mask) == text
    frame = mbus.build_select(mask.digits, mask.maker, mask.version, mask.medium)
    sent = frame[7:15]
    assert sent[3::-1].hex().upper() + (sent[4:].hex().upper() if len(text) > 8 else "") == text


# --- DL/T 645


def test_dlt645_meters_of_one_line_are_told_apart_by_their_last_digits(mh, field: Park) -> None:
    addresses = ["000000000161", "000000000261", "012345678999"]
    meters = [Dlt645Meter(address=a, values=ENERGY, wake=b"\xfe" * 4) for a in addresses]
    bus = MixedBus(meters)
    line = field.pty(bus)
    begun = Scan(ScanOptions(line.url, ("dlt645",), (line.serial,), listen_s=0, bus_is_mine=True))
    said = scanned(mh, line, "dlt645", "--quick")  # no slow pass is needed where somebody was heard
    assert sorted(d["address"] for d in said.lines) == addresses
    assert bus.overlaid >= 2  # AA..AA, and 61
    assert all(writes(one) == 0 for one in meters)
    assert begun.estimate_s() > 50, "a search that nobody answers is announced"


def test_dlt645_meters_of_1997_are_searched_in_their_own_words(mh, field: Park) -> None:
    meters = [Dlt645Meter(address=a, values=ENERGY, speaks=(0x01, 0x02)) for a in ("000000000010", "000000000020")]
    said = scanned(mh, field.pty(MixedBus(meters)), "dlt645", "--quick")
    assert sorted(d["address"] for d in said.lines) == ["000000000010", "000000000020"]
    assert all(set(one.requests) <= {0x01} for one in meters)


@pytest.mark.parametrize("addresses", [["000000000161"] * 2, ["999999999999", "199999999999"], ["000000000000"]])
async def test_dlt645_search_ends_at_twelve_digits(addresses: list[str]) -> None:
    meters = [Dlt645Meter(address=a, values=ENERGY, turnaround_s=0.0) for a in addresses]
    if len(set(addresses)) < len(addresses):
        meters[0].values = {"00010000": bytes(4)}  # two of one address: what they say differs

    async def ask(probe: Probe) -> Answer | LineError:
        heard = [said for one in meters if (said := one.hear(probe.request.frame)) is not None]
        if not heard:
            return LineTimeout("nothing", where="bus")
        return Answer(heard[0], 0, 0, False) if len(set(heard)) == 1 else FrameError("noise", where="bus")

    notes: list[Note] = []
    found = [frame async for frame in by_digits(ask, "2400 8E1", 0x11, 0.1, notes.append)]
    assert len(found) == len(set(addresses)) * (len(set(addresses)) == len(addresses))
    assert bool(notes) == (len(set(addresses)) < len(addresses))


def test_cjt188_meters_that_speak_at_once_are_told_of(mh, field: Park, tmp_path: Path) -> None:
    from drivers.cjt188.simulate import Cjt188Meter

    meters = [Cjt188Meter(address=a, values={0x901F: bytes(43)}) for a in ("22223333444455", "22223333444466")]
    said = scanned(mh, field.pty(MixedBus(meters)), "cjt188", "--quick")
    assert "cannot search" in said.err
