"""Sick devices and lines while the agent runs: each costs only itself (promise 5). One run with six lines."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from tests.kits.books import BUSY, busy_only, gaps, reasons, settle
from tests.kits.faults.books import came
from tests.kits.house import House, Meter, blocked_port, come_home, until

PULLED = "m3"
BUS = ("m1", "m2", "m3", "m4", "m5")
GATEWAY = ("m21", "m22", "m23")
LINES = {"bus": BUS, "gateway": GATEWAY, "usb": ("m31",), "blocked": ("m41",), "alone": ("m51",), "twice": ("m61",)}


def terminals(pid: int) -> list[str]:
    """Pseudo-terminals that a process has open."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
        except FileNotFoundError:
            continue
    return [name for name in found if name.startswith("/dev/pts/")]


def play_the_field(folder: Path, house: House) -> dict[str, Any]:
    broker = house.broker()
    listener = house.listen(broker)
    meters = {name: Meter(int(name[1:])) for names in LINES.values() for name in names}
    port, held = blocked_port()
    house.at_end(lambda: [part.close() for part in held])
    bus = house.field.serial(folder / "tty-bus", *(meters[name] for name in BUS))
    usb = house.field.serial(folder / "tty-usb", meters["m31"])
    gateway = house.field.tcp(meters["m21"], meters["m22"], absent=0x0B)  # 23 is on no bus behind it
    alone, twice = house.field.tcp(meters["m51"]), house.field.tcp(meters["m61"])
    lines = {
        "bus": bus, "gateway": gateway, "usb": usb, "blocked": f"modbus-tcp://127.0.0.1:{port}", "alone": alone,
        "twice": twice,
    }  # fmt: skip
    agent = house.agent(
        broker,
        lines,
        {name: (line, int(name[1:])) for line, names in LINES.items() for name in names},
        line_more={"bus": 'limits = { timeout = "250 ms" }', "gateway": 'limits = { timeout = "10 s" }'},
    )
    agent.start()
    healthy = [name for name in meters if name not in ("m23", "m41")]
    until(lambda: all(listener.numbers(name) for name in healthy), 15, lambda: agent.said)
    assert agent.process
    before = terminals(agent.process.pid)
    meters[PULLED].fault("silence")
    well = [name for name in healthy if name not in (PULLED, "m31", "m61")]

    def only_it_is_dead() -> bool:
        devices = agent.snapshot()["devices"]
        return devices[PULLED]["life"] == "dead" and all(devices[name]["life"] == "alive" for name in well)

    until(only_it_is_dead, 20, lambda: agent.said)
    # while that slave is off: an adapter is pulled, the connection of another line reset
    house.field.do(usb.unplug())
    house.field.do(twice.unplug())
    until(lambda: len(terminals(agent.process.pid)) < len(before), 5, "the dead descriptor is given back")  # type: ignore[union-attr]
    unplugged = terminals(agent.process.pid)
    asked = {name: meters[name].sim.requests[3] for name in BUS}
    mark = {name: meters[name].count for name in well}
    until(lambda: all(meters[name].count >= mark[name] + 4 for name in well), 15, "two seconds of the others")
    requests = {name: meters[name].sim.requests[3] - asked[name] for name in BUS}
    until(only_it_is_dead, 20, lambda: agent.said)
    sick = agent.snapshot()
    meters[PULLED].well()
    house.field.do(usb.plug())
    house.field.do(twice.plug())
    counts = {name: meters[name].count for name in (PULLED, "m31", "m61")}
    until(lambda: all(meters[name].count > count + 3 for name, count in counts.items()), 20, lambda: agent.said)
    until(lambda: all(came(listener, meters[name].first + 1, name) for name in healthy), 5)
    until(lambda: all(came(listener, counts[name] + 2, name) for name in counts), 10, lambda: agent.said)
    replugged = terminals(agent.process.pid)
    said, accepted = agent.said, gateway.accepted
    code = come_home(agent, listener)
    known = {name: meter for name, meter in meters.items() if name in healthy}
    return {
        "code": code, "report": settle(listener.heard, agent.kid, known), "said": said, "sick": sick,
        "packs": {name: listener.packs(name) for name in meters}, "requests": requests, "accepted": accepted,
        "terminals": (before, unplugged, replugged), "collisions": bus.collisions, "foreign": gateway.bus.strangers,
    }  # fmt: skip


play_the_field.tests = {  # type: ignore[attr-defined]
    "test_a_pulled_device_costs_only_itself",
    "test_a_gateway_that_says_no_for_one_unit_keeps_its_connection",
    "test_a_line_blocked_in_connect_delays_nobody",
    "test_an_adapter_that_is_pulled_comes_back",
    "test_every_gap_of_the_field_has_its_reason",
}


def check_well(played: dict[str, Any], names: tuple[str, ...]) -> None:
    """They live beside the sick one. A busy test machine may cost a tick; a sick neighbour may not."""
    for name in names:
        assert busy_only(played["report"], name), f"{name} has gaps: {gaps(played['packs'][name])}"
        assert played["sick"]["devices"][name]["life"] == "alive"


def test_a_pulled_device_costs_only_itself(played: dict[str, Any]) -> None:
    """Its gap has a reason; the other four of the line are read on."""
    # field pains 1, 4, 5, 8 and 9
    check_well(played, ("m1", "m2", "m4", "m5"))
    missing = gaps(played["packs"][PULLED])
    assert {"timeout", "absent"} <= {reason for reason, *_ in missing} <= {"timeout", "absent"} | BUSY
    assert all(points == "*" for reason, points, *_ in missing if reason == "absent"), "a device, not a block of it"
    dead, *others = (played["requests"][name] for name in (PULLED, "m1", "m2", "m4", "m5"))
    assert dead < min(others), "a dead device is asked once in a while"  # field pain 3
    assert not played["collisions"]
    edges = re.findall(rf"{PULLED} (is not responding|responds again)", played["said"])
    assert edges == ["is not responding", "responds again"] * (len(edges) // 2), "each edge is logged once"
    assert edges


def test_a_gateway_that_says_no_for_one_unit_keeps_its_connection(played: dict[str, Any]) -> None:
    """Exception 0B is that unit's silence: one connection for the whole run, the other units are read."""
    # field pains 6, 7 and 67
    check_well(played, ("m21", "m22"))
    assert played["accepted"] == 1 and played["foreign"] >= 2
    assert played["sick"]["devices"]["m23"]["life"] == "dead"
    assert set(reasons(played["report"], "m23")) <= {"exception", "absent"} | BUSY


def test_a_line_blocked_in_connect_delays_nobody(played: dict[str, Any]) -> None:
    """While one line waits for its connection, another is on time."""
    # field pain 2
    check_well(played, ("m51",))
    assert set(reasons(played["report"], "m41")) <= {"absent"} | BUSY, "stopped: the visit that we ended"
    assert not played["sick"]["lines"]["blocked"]["open"]


def test_an_adapter_that_is_pulled_comes_back(played: dict[str, Any]) -> None:
    """The dead descriptor is given back at once, the port reopened by its stable name."""
    # field pains 16 and 17
    before, unplugged, replugged = (len(found) for found in played["terminals"])
    assert unplugged == before - 1 and replugged == before
    assert played["said"].count("line usb: reopened") == 1
    assert {"absent"} <= set(reasons(played["report"], "m31")) <= {"absent"} | BUSY


def test_every_gap_of_the_field_has_its_reason(played: dict[str, Any]) -> None:
    """Nothing is missing for a reason that nobody caused, and a broken connection is over when the device is back."""
    assert played["code"] == 0
    for name in ("m61",):
        assert {"absent"} <= set(reasons(played["report"], name)) <= {"absent"} | BUSY
    told = {reason for name in played["packs"] if name != "m41" for reason in reasons(played["report"], name)}
    assert told <= {"absent", "exception"} | BUSY
