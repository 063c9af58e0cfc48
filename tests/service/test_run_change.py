"""Devices, profiles and stores that change: between runs, while running, and before a recovery."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.kits.books import BUSY, boots, gaps, reasons, settle
from tests.kits.faults.books import came
from tests.kits.faults.rest import killed
from tests.kits.house import SITE, Agent, House, Meter, come_home, one_meter, until

EXPORT = "ac.energy.export"  # a point that only firmware 3 has


def births(packs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Births of a device that was met, by sequence; a busy machine may begin with one of a device not met yet."""
    met = [pack for pack in packs if "table" in pack and pack["table"]["device"]["firmware"]]
    return sorted(met, key=lambda pack: pack["seq"])


def told(birth: dict[str, Any]) -> tuple[str | None, str | None, bool]:
    """(firmware, variant, has the variant's point) of a birth."""
    device = birth["table"]["device"]
    return device["firmware"], device["variant"], EXPORT in {point["n"] for point in birth["table"]["points"]}


def restarted(house: House, agent: Agent, meter: Meter, firmware: str) -> None:
    """The device restarts with another firmware, and is away for long enough to be missed."""
    line = agent.lines["roof"]
    assert not isinstance(line, str)
    house.field.do(line.unplug())
    until(lambda: "cannot open" in agent.said, 10, "missed")
    meter.firmware(firmware)
    house.field.do(line.plug())


# --- another firmware, while it runs and between two runs


def play_another_firmware(folder: Path, house: House) -> dict[str, Any]:
    _, listener, meter, agent = one_meter(folder, house)
    agent.start()
    until(lambda: len(listener.numbers("m1")) >= 3, 10, lambda: agent.said)
    restarted(house, agent, meter, "3")
    until(lambda: len(listener.numbers("m1", EXPORT)) >= 3, 10, lambda: agent.said)
    said = agent.said
    codes = [agent.stop()]
    meter.firmware("2")  # and is put back while we are away
    agent.start()
    until(lambda: len(boots(listener.packs("m1"))) == 2, 10, lambda: agent.said)
    count = meter.count
    until(lambda: came(listener, count + 1), 10, lambda: agent.said)
    codes.append(come_home(agent, listener))
    report = settle(listener.heard, agent.kid, {"m1": meter})
    return {
        "codes": codes,
        "report": report,
        "packs": listener.packs("m1"),
        "events": listener.events("m1"),
        "said": said,
    }


def test_another_firmware(played: dict[str, Any]) -> None:
    """It makes a new birth from its tick on, with the points of that firmware, and an event."""
    # field pains 39 and 42
    assert played["codes"] == [0, 0]
    assert [told(birth) for birth in births(played["packs"])] == [
        ("2", None, False),
        ("3", ">=3", True),
        ("2", None, False),
    ]
    there, back = [event for event in played["events"] if event["event"] == "firmware"]
    assert there["old"] == {"firmware": "2"} and there["new"] == {"firmware": "3"}
    assert back["old"] == {"firmware": "3"} and back["new"] == {"firmware": "2"}, "it was put back between two runs"
    assert "m1: another firmware: firmware 3 instead of 2. Its counters begin a new epoch" in played["said"]
    assert set(reasons(played["report"], "m1")) <= {"absent"} | BUSY
    second = births(played["packs"])[1]
    exported = [pack for pack in played["packs"] if any(r["n"] == EXPORT for r in pack.get("e", ()))]
    assert exported and min(pack["from"] for pack in exported) >= second["from"]


# --- another firmware and another profile before a recovery


def play_a_change_before_a_recovery(folder: Path, house: House) -> dict[str, Any]:
    """Readings of two tables wait in the ring when the process is killed; then the profile is edited."""
    _, listener, meter, agent = one_meter(folder, house)
    meter.image.put_words(2, [0, 15000])
    agent.config.write_text(agent.config.read_text().replace('every = "1 s"', 'every = "15 min"'))
    agent.start()
    until(lambda: listener.numbers("m1"), 10, lambda: agent.said)
    until(lambda: meter.count - meter.first >= 4, 10)
    restarted(house, agent, meter, "3")
    changed = meter.count
    until(lambda: meter.count >= changed + 3, 10)
    held = killed(agent, {"m1": meter})["m1"]
    at_the_kill = meter.count
    profile = folder / "profiles/test/tally.toml"
    text = profile.read_text()
    profile.write_text(text.replace('scale = 0.1\nunit = "W"', 'scale = 0.01\nunit = "W"').replace("1500,", "150,"))
    assert profile.read_text() != text
    agent.start()
    until(lambda: meter.count > at_the_kill + 2, 10)
    until(lambda: max(listener.numbers("m1")) > at_the_kill, 10, lambda: agent.said)
    code = come_home(agent, listener)
    report = settle(listener.heard, agent.kid, {"m1": meter})
    return {"code": code, "report": report, "packs": listener.packs("m1"), "events": listener.events(),
            "held": held, "numbers": set(listener.numbers("m1"))}  # fmt: skip


def test_a_change_before_a_recovery(played: dict[str, Any]) -> None:
    """What the ring held is sealed with the tables that it was read with, not with today's."""
    told_in = {int(c["new"]["v"]) for e in played["events"] for c in e.get("counters", ()) if c["new"]}
    assert played["code"] == 0 and not played["held"] - played["numbers"] - told_in
    found = births(played["packs"])
    assert [told(birth) for birth in found] == [
        ("2", None, False),  # the first run
        ("2", None, False),  # the recovery repeats the table that the readings in the ring were taken with ...
        ("3", ">=3", True),  # ... and goes on to the next one
        ("3", ">=3", True),  # the second run, with the edited profile
    ]
    hashes = [birth["table"]["device"]["profile_hash"] for birth in found]
    assert hashes[0] == hashes[1] == hashes[2] != hashes[3]
    for pack in played["packs"]:
        power = {r["v"] for r in pack.get("e", ()) if r["n"] == "ac.power.active"}
        if power:
            in_force = max((b for b in found if b["seq"] < pack["seq"]), key=lambda b: b["seq"])
            assert power == ({150} if in_force is found[3] else {1500}), pack["seq"]
    assert [e["new"] for e in played["events"] if e["event"] == "firmware"] == [{"firmware": "3"}]
    (start,) = [e for e in played["events"] if e["event"] == "start" and "recovered" in e]
    assert start["recovered"]["readings"] > 0
    assert {reason for reason, *_ in gaps(played["packs"])} <= {"absent"} | BUSY


# --- a store that is gone, a ring that is left


def play_a_ring_without_its_store(folder: Path, house: House) -> dict[str, Any]:
    _, listener, _, agent = one_meter(folder, house)
    agent.start()
    until(lambda: len(listener.numbers("m1")) >= 2, 10, lambda: agent.said)
    agent.kill()
    (ring,) = agent.rings
    state = folder / agent.state
    for path in state.glob("store.db*"):
        path.unlink()
    agent.start()
    until(lambda: len(boots(listener.packs("m1"))) == 2, 10, lambda: agent.said)
    code = agent.stop()
    return {"code": code, "ring": ring.name, "left": sorted(os.listdir(agent.runtime)),
            "events": listener.events("_gateway"), "said": agent.said,
            "streams": {p["stream"] for p in listener.packs()}}  # fmt: skip


def test_a_ring_without_its_store(played: dict[str, Any]) -> None:
    """A ring that the store knows nothing of is kept aside and named; the agent starts all the same."""
    # field pain 52
    assert played["code"] == 0
    assert played["ring"] + ".aside" in played["left"] and played["ring"] not in played["left"]
    named = [event["rings_set_aside"] for event in played["events"] if "rings_set_aside" in event]
    assert named == [[played["ring"]]]
    assert played["ring"] in played["said"]
    assert f"{SITE}/m1" in played["streams"]
