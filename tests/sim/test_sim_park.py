"""The park as a reader finds it: lines, devices, a configuration that fits, and one balance behind all."""

from __future__ import annotations

import asyncio
import struct
import tomllib
from decimal import Decimal
from pathlib import Path

import pytest

from agent.config import load_config
from agent.intervals.calendar import Calendar
from agent.intervals.rows import Flag
from agent.intervals.tracked_points import Rule
from drivers.model import Kind, UsageError
from drivers.sim.display import ParkClock
from drivers.sim.park import DEMO, METERS, ParkSlot, make_park
from drivers.sim.rtu import SerialLine
from drivers.sim.tcp import TcpLine
from tests.kits.ledger import Book, Packs, point, table
from tests.kits.raw_client import PtyClient, TcpClient, mbap, rtu
from tests.kits.simulated import keep_journal, park_truth

THREE = (
    ParkSlot("grid", "并网点", "cabinet", 1, "eastron/sdm630", "grid", {"ac": "grid"}),
    ParkSlot("workshop", "workshop", "cabinet", 2, "eastron/sdm630", "workshop", {"ac": "load"}),
    ParkSlot("hall", "hall", "hall", 7, "eastron/sdm630", "load", {"ac": "load"}),
)


def number(frame: bytes, at: int) -> float:
    return float(struct.unpack(">f", frame[at : at + 4])[0])


async def test_lines_of_both_kinds_serve_one_park(tmp_path: Path) -> None:
    park = make_park(tmp_path, seed=3, speed=0.0, slots=THREE, baud=115200)
    await park.start()
    cabinet, hall = park.lines["cabinet"], park.lines["hall"]
    assert isinstance(cabinet, SerialLine) and isinstance(hall, TcpLine)
    truth = park_truth(park)
    master, client = PtyClient(cabinet.link), await TcpClient.connect(hall.port)
    for unit, name in ((1, "grid"), (2, "workshop")):
        frame = await asyncio.to_thread(master.ask, rtu(unit, 4, 52, 2), 9)
        assert number(frame, 3) == pytest.approx(float(truth[name]["ac.power.active"]), rel=1e-6)
    frame = await client.ask(mbap(1, 7, 4, 52, 2), 13)
    assert number(frame, 9) == pytest.approx(float(truth["hall"]["ac.power.active"]), rel=1e-6)
    assert truth["_park"]["load"] == pytest.approx(Decimal(truth["hall"]["ac.power.active"]), rel=Decimal("1e-6"))
    master.close()
    await client.close()
    await park.stop()


async def test_an_outage_longer_than_an_interval_of_the_demo_is_marked_as_spread(tmp_path: Path) -> None:
    park = make_park(tmp_path, slots=THREE)
    await park.start()
    entry = load_config(park.write_config(tmp_path)).interval
    await park.stop()
    calendar = Calendar("Asia/Shanghai", entry.length_ms)
    packs = Packs(table(point("ac.energy.import", period=10, source={"scale": "0.1"})), every_ms=10_000)
    book = Book(calendar, Rule(entry.max_gap_ms, entry.demand_period_ms, entry.demand_slip_ms))
    for n in range(90):
        silent = 30 <= n < 48  # three minutes
        packs.pack([] if silent else [(packs.to_ms + 200, "ac.energy.import", 1000 + n, "")])

    book.read(packs.bodies)

    spread = [bool(row.flags & Flag.SPREAD) for row in book.rows()]
    assert spread.count(True) == 5 and not spread[0] and not spread[-1], spread


async def test_the_configuration_it_writes_is_sound_and_reads_it(tmp_path: Path) -> None:
    park = make_park(tmp_path, slots=THREE)
    await park.start()
    (tmp_path / "agent.toml").write_text(park.agent_toml(), encoding="utf-8")
    await park.stop()
    config = load_config(tmp_path / "agent.toml")
    assert [(d.name, d.line, d.address, d.profile) for d in config.devices] == [
        (s.name, s.line, str(s.unit), s.profile) for s in THREE
    ]
    assert {line.name: line.url for line in config.lines} == {name: line.url for name, line in park.lines.items()}
    assert config.devices[0].label == "并网点"
    assert config.state_dir == tmp_path / "state"


async def test_a_line_that_cannot_open_closes_the_others(tmp_path: Path) -> None:
    park = make_park(tmp_path, slots=THREE)
    (tmp_path / "tty-cabinet").write_text("in the way")
    with pytest.raises(Exception, match="exists and is not a link"):
        await park.start()


async def test_faults_can_be_set_before_it_opens(tmp_path: Path) -> None:
    park = make_park(tmp_path, slots=THREE)
    park.devices["hall"].sim.faults.set("busy")
    keep_journal(park)
    await park.start()
    hall = park.lines["hall"]
    assert isinstance(hall, TcpLine)
    client = await TcpClient.connect(hall.port)
    assert (await client.ask(mbap(1, 7, 4, 52, 2), 9))[-2:] == b"\x84\x06"
    park.devices["hall"].sim.faults.clear()
    frame = await client.ask(mbap(2, 7, 4, 52, 2), 13)
    journal = park.devices["hall"].display.journal
    assert journal is not None
    assert number(frame, 9) == pytest.approx(float(journal["ac.power.active"][-1][1]), rel=1e-6)
    await client.close()
    await park.stop()


def test_two_devices_with_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two devices are called grid"):
        make_park(tmp_path, slots=(THREE[0], THREE[0]))


def test_the_demo_park_knows_every_point_of_its_families(tmp_path: Path) -> None:
    """Gauges and counters without a fact behind them, and values that do not fit, would be a dull demo."""
    park = make_park(tmp_path, seed=1)
    for device in park.devices.values():
        assert device.display.unfit == {}, device.name
        numbers = [p for p in device.display.points if p.kind in (Kind.GAUGE, Kind.COUNTER)]
        assert len(device.display.unknown) <= 0.1 * len(numbers), (device.name, device.display.unknown)
        assert device.display.values()
    for meter in park.meters.values():
        assert len(meter.display.values()) >= 5, meter.slot.name
    assert len(park.served()) == len(DEMO) == 11
    assert {slot.profile.partition("/")[0] for slot in METERS} >= {"dlt645", "mbus", "cjt188", "sunspec"}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_what_the_demo_devices_say_balances(tmp_path: Path, seed: int) -> None:
    """Over an hour the energies of the devices, as their registers round them, add up."""
    hand = [100.0]
    park = make_park(tmp_path, seed=seed, clock=ParkClock(seed, 60.0, monotonic=lambda: hand[0]))
    first = park_truth(park)
    hand[0] += 60.0
    last = park_truth(park)

    def rose(name: str, point: str) -> float:
        return float(Decimal(last[name][point]) - Decimal(first[name][point]))

    assert float(last["_park"]["clock"] - first["_park"]["clock"]) == pytest.approx(3600, abs=7)
    sun = sum(rose(name, "ac.energy.generation") for name in ("inv1", "inv2"))
    assert 0 < rose("inv3", "ac.energy.generation") < 12_000, "Wh of a roof of 12 kW"
    grid = rose("grid", "ac.energy.import") - rose("grid", "ac.energy.export")
    assert sun > 0 and rose("workshop", "ac.energy.import") > 0 and rose("heat", "heat.energy") > 0
    assert -60 < grid < 120
    whole = last["_park"]
    assert whole["grid"] == pytest.approx(whole["load"] + whole["battery"] - whole["pv"], abs=Decimal("1e-6"))
    assert Decimal(last["grid"]["ac.power.active"]) == pytest.approx(Decimal(whole["grid"]), rel=Decimal("1e-5"))


async def test_the_demo_parks_configuration_is_sound(tmp_path: Path) -> None:
    park = make_park(tmp_path)
    await park.start()
    (tmp_path / "agent.toml").write_text(park.agent_toml(), encoding="utf-8")
    await park.stop()
    config = load_config(tmp_path / "agent.toml")
    assert [device.name for device in config.devices] == [slot.name for slot in DEMO]
    assert {device.serial for device in config.devices if device.line == "meters"} == {"2400 8E1", ""}
    assert tomllib.loads((tmp_path / "agent.toml").read_text("utf-8"))["site"]["id"] == "demo"
