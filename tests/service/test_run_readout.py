"""A running agent and a meter that only sends whole readouts: what is read, and another meter under the same head."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

from drivers.iec62056.simulate import PROGRAMMING, Iec62056Meter
from drivers.sim.meters import MixedBus
from drivers.sim.tcp import TcpLine
from tests.kits.house import House, come_home, free_port, until

DEVICE = """
[[device]]
name = "grid"
line = "head"
address = "*"
profile = "test/readout"
every = { slow = "1 s" }
points = ["ac.energy.import", "ac.energy.export", "ac.voltage.l1", "device.serial", "device.vendor", "device.model"]
"""

PROFILE = """schema = 1
extends = "iec62056/electricity"
source = "this test"
evidence = "derived"
limits = { min_every = "1 s", quiet = "0 ms" }
"""


def show(meter: Iec62056Meter, serial: str, energy: str) -> None:
    meter.lines = [f"C.1.0({serial})", f"1.8.0({energy}*kWh)", "32.7.0(230.5*V)"]


def play_a_swap_under_one_head(folder: Path, house: House) -> dict[str, Any]:
    broker = house.broker()
    listener = house.listen(broker)
    meter = Iec62056Meter(maker="ABC", model="M1")
    show(meter, "001", "001234.500")
    line = house.field._open(TcpLine(MixedBus([meter]), port=free_port(), framing="rtu"))
    agent = house.agent(broker, {"head": line}, {}, line_more={"head": 'serial = "300 7E1"'})
    (agent.folder / "profiles/test/readout.toml").write_text(PROFILE)
    agent.config.write_text(agent.config.read_text() + DEVICE)
    agent.start()
    until(lambda: len(listener.packs("grid")) >= 3, 20, lambda: agent.said)
    show(meter, "002", "000007.250")
    until(lambda: any(e["event"] == "identity" for e in listener.events("grid")), 20, lambda: agent.said)
    seen = len(listener.packs("grid"))
    until(lambda: len(listener.packs("grid")) > seen + 1, 20, lambda: agent.said)
    code = come_home(agent, listener)
    return {"code": code, "packs": listener.packs("grid"), "events": listener.events("grid"), "meter": meter}


def test_a_swap_under_one_head(played: dict[str, Any]) -> None:
    """One event with the last reading of the old meter and the first of the new one, though identity is due daily."""
    assert played["code"] == 0
    (swap,) = [event for event in played["events"] if event["event"] == "identity"]
    assert (swap["old"]["serial"], swap["new"]["serial"]) == ("001", "002")
    (counter,) = [one for one in swap["counters"] if one["n"] == "ac.energy.import"]
    assert (Decimal(str(counter["old"]["v"])), Decimal(str(counter["new"]["v"]))) == (
        Decimal("1234.5"),
        Decimal("7.25"),
    )
    readings = [record for pack in played["packs"] for record in pack.get("e", ())]
    voltages = {
        Decimal(str(record["v"])) for record in readings if record["n"] == "ac.voltage.l1" and "q" not in record
    }
    assert voltages == {Decimal("230.5")}
    gaps = [gap for pack in played["packs"] for gap in pack.get("gaps", ())]
    assert any("ac.energy.export" in gap["points"] and gap["reason"] == "absent" for gap in gaps)
    assert played["meter"].selected == "0" and not played["meter"].requests[PROGRAMMING]
