"""Who a device is, as data: a swapped meter, another ratio, a mangled answer. field pain 42, lessons J6 and J7."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from agent.service.identity import change_sentence
from tests.kits.books import settle
from tests.kits.house import Agent, House, Meter, come_home, one_meter, until

PACES = 'every = { fast = "500 ms", normal = "1 s", slow = "5 s", once = "2 s" }'


def named(meter: Meter, serial: str) -> None:
    """The meter says that this is its serial number, from its next answer on."""
    raw = serial.ljust(8).encode()
    meter.image.put_words(104, [int.from_bytes(raw[n : n + 2], "big") for n in range(0, 8, 2)])


def configure(agent: Agent, more: str = "") -> None:
    text = agent.config.read_text().replace("test/tally", "test/named")
    old = next(line for line in text.splitlines() if line.startswith("every = {"))
    agent.config.write_text(text.replace(old, f"{PACES}\n{more}"))


def births(packs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of a device that was met, by sequence; a busy machine may begin with one of a device not met yet."""
    met = [pack for pack in packs if "table" in pack and pack["table"]["device"]["firmware"]]
    return sorted(met, key=lambda pack: pack["seq"])


def counted(packs: list[dict[str, Any]]) -> list[tuple[float, Decimal, int]]:
    """(read time, value, sequence) of all good readings of the counter, in order: those of a meter that was swapped
    and not yet noticed are doubted."""
    found = []
    for pack in sorted(packs, key=lambda pack: pack["seq"]):
        base = 0.0
        for record in pack.get("e", ()):
            base = record.get("bt", base)
            if record["n"] == "ac.energy.import" and "q" not in record:
                found.append((base + record.get("t", 0), Decimal(str(record["v"])), pack["seq"]))
    return found


# --- a meter that is exchanged while nobody looks, and while the agent is away


def play_a_swap(folder: Path, house: House) -> dict[str, Any]:
    _, listener, meter, agent = one_meter(folder, house)
    configure(agent)
    named(meter, "A-1")
    agent.start()
    until(lambda: len(listener.numbers("m1")) >= 3, 15, lambda: agent.said)
    named(meter, "B-2")  # it answers on: only the daily question who it is can tell
    meter.count += 500_000
    until(lambda: any(e["event"] == "identity" for e in listener.events("m1")), 20, lambda: agent.said)
    swapped = meter.count
    until(lambda: max(listener.numbers("m1")) > swapped, 15, lambda: agent.said)
    codes = [agent.stop()]
    named(meter, "C-3")
    configure(agent)
    agent.start()
    until(lambda: sum(e["event"] == "identity" for e in listener.events("m1")) >= 2, 20, lambda: agent.said)
    count = meter.count
    until(lambda: max(listener.numbers("m1")) > count, 15, lambda: agent.said)
    codes.append(come_home(agent, listener))
    settle(listener.heard, agent.kid, {"m1": meter})
    return {"codes": codes, "packs": listener.packs("m1"), "events": listener.events("m1")}  # fmt: skip


def test_a_swap(played: dict[str, Any]) -> None:
    """Each swap is one event with the last reading of the old and the first of the new meter, and a new epoch."""
    assert played["codes"] == [0, 0]
    first, second = [event for event in played["events"] if event["event"] == "identity"]
    assert (first["old"]["serial"], first["new"]["serial"]) == ("A-1", "B-2")
    assert (second["old"]["serial"], second["new"]["serial"]) == ("B-2", "C-3"), "also between two runs"
    found = births(played["packs"])
    told = [(birth["table"]["device"]["identity"]["serial"], birth["table"]["epoch"]) for birth in found]
    epochs = [epoch for _, epoch in told]
    assert [serial for serial, _ in told] == ["A-1", "B-2", "C-3"]
    assert epochs == sorted(set(epochs)) and [first["epoch"], second["epoch"]] == epochs[1:]
    readings = counted(played["packs"])
    for event, birth in ((first, found[1]), (second, found[2])):
        (counter,) = event["counters"]
        assert counter["n"] == "ac.energy.import" and counter["u"] == "kWh"
        before = [(t, v) for t, v, seq in readings if seq < birth["seq"]]
        after = [(t, v) for t, v, seq in readings if seq > birth["seq"]]
        assert (counter["old"]["t"], Decimal(counter["old"]["v"])) == before[-1], "the last that was counted"
        assert before[-1][1] < Decimal(counter["new"]["v"]) < after[0][1]
        assert before[-1][0] <= counter["new"]["t"] <= after[0][0]
        assert birth["from"] <= event["t"], "it is told when it is seen, at a tick from which on the birth counts"


@pytest.mark.parametrize(
    ("event", "old", "new", "says"),
    [
        (
            "identity",
            {"serial": "A-1", "model": "M", "firmware": "2"},
            {"serial": "B-2", "model": "M", "firmware": "3"},
            "another device answers: serial B-2 instead of A-1, firmware 3 instead of 2",
        ),
        ("identity", {"serial": "A-1"}, {"serial": "A-1\x1b[2J" * 99}, "another device answers: serial A-1"),
        ("firmware", {"firmware": "2"}, {"firmware": "3"}, "another firmware: firmware 3 instead of 2"),
        ("ratio", {"ct": "1", "reversed": []}, {"ct": "80", "reversed": ["ac"]},
         "another ratio: ct 80 instead of 1, reversed ac instead of none"),
        ("variant", {"variant": None, "moved": ["a"]}, {"variant": ">=3", "moved": ["a"]},
         "another register map: variant >=3 instead of none"),
        ("variant", {"moved": ["a"]}, {"moved": ["a"]}, "another register map: details"),
        ("identity", dict.fromkeys("abcdefghi", "1"), dict.fromkeys("abcdefghi", "2"), "f 2 instead of 1 and 3 more"),
    ],
)  # fmt: skip
def test_a_change_is_told_in_a_sentence(event: str, old: dict[str, Any], new: dict[str, Any], says: str) -> None:
    """For people: no dict, no control characters, and no more than they can read."""
    sentence = change_sentence(event, old, new)
    assert says in sentence and sentence.endswith(". Its counters begin a new epoch")
    assert "{" not in sentence and "\x1b" not in sentence and len(sentence) < 300


# --- another ratio in the configuration


def play_another_ratio(folder: Path, house: House) -> dict[str, Any]:
    _, listener, meter, agent = one_meter(folder, house)
    configure(agent)
    named(meter, "A-1")
    agent.start()
    until(lambda: len(listener.numbers("m1")) >= 2, 15, lambda: agent.said)
    codes = [agent.stop()]
    last = max(listener.numbers("m1"))
    configure(agent, "ratio = { ct = 80, pt = 1 }")
    agent.start()
    until(lambda: max(listener.numbers("m1")) > 10 * last, 15, lambda: agent.said)
    codes.append(agent.stop())
    agent.start()  # and once more, with nothing changed
    count = meter.count
    until(lambda: max(listener.numbers("m1")) > 80 * count, 15, lambda: agent.said)
    codes.append(agent.stop())
    return {"codes": codes, "last": last, "packs": listener.packs("m1"), "events": listener.events("m1")}


def test_another_ratio(played: dict[str, Any]) -> None:
    """Eighty times the energy from one reading to the next is no energy: it is another epoch, once."""
    assert played["codes"] == [0, 0, 0]
    (event,) = [event for event in played["events"] if event["event"] == "ratio"]
    assert (event["old"]["ct"], event["new"]["ct"]) == ("1", "80")
    (counter,) = event["counters"]
    assert int(counter["old"]["v"]) == played["last"] and int(counter["new"]["v"]) > 79 * played["last"]
    epochs = [birth["table"]["epoch"] for birth in births(played["packs"])]
    assert epochs[0] < epochs[1] == epochs[2] == event["epoch"]


# --- one mangled answer


def play_a_mangled_name(folder: Path, house: House) -> dict[str, Any]:
    _, listener, meter, agent = one_meter(folder, house)
    configure(agent)
    named(meter, "A-1")
    count = 0

    def mangle(function: int, address: int, words: int) -> None:
        """Every fifth time that it is asked for its name, it says another one."""
        nonlocal count
        counting(function, address, words)
        if address <= 104 < address + words:
            count += 1
            named(meter, "A-1" if count % 5 else f"X-{count}")

    counting, meter.sim.before = meter.sim.before, mangle
    agent.start()
    until(lambda: count > 25, 30, lambda: agent.said)
    code = agent.stop()
    return {"code": code, "packs": listener.packs("m1"), "events": listener.events("m1")}


def test_a_mangled_name(played: dict[str, Any]) -> None:
    """What a device says once only is not believed: no event, no epoch, a gap at worst. # field pains 10, 14, 18"""
    assert played["code"] == 0
    assert not [event for event in played["events"] if event["event"] in ("identity", "firmware")]
    assert {birth["table"]["epoch"] for birth in births(played["packs"])} == {
        births(played["packs"])[0]["table"]["epoch"]
    }
    assert "ac.energy.import" in json.dumps(played["packs"])
