"""Masters that answer from their memory for a device that is dead: an old value never gets a new time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.kits.books import counted, report_of
from tests.kits.house import SITE, House, Meter, devices_on, until


def beat(meter: Meter) -> None:
    """Its heartbeat moves with every look at it, while the registers move at all."""
    counting = meter.sim.before
    beats = 0

    def before(function: int, address: int, count: int) -> None:
        nonlocal beats
        assert counting is not None
        counting(function, address, count)
        if address <= 8 < address + count:
            beats += 1
            meter.image.put_words(8, [beats])

    meter.sim.before = before


def stale(packs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [gap for pack in packs for gap in pack.get("gaps", ()) if gap["reason"] == "stale_source"]


def play_a_master_that_repeats_itself(folder: Path, house: House) -> dict[str, Any]:
    broker = house.broker()
    listener = house.listen(broker)
    meters = [Meter(1), Meter(2), Meter(3)]
    beat(meters[0])
    meters[1].image.put_words(9, [1])
    agent = house.agent(broker, {"roof": house.field.tcp(*meters)}, devices_on("roof", meters))
    text = agent.config.read_text()
    for name in ("cached", "linked", "blind"):
        text = text.replace("test/tally", f"test/{name}", 1)
    agent.config.write_text(text)
    agent.start()
    until(lambda: all(len(listener.numbers(f"m{n}")) >= 3 for n in (1, 2, 3)), 15, lambda: agent.said)
    meters[0].fault("freeze")  # registers and heartbeat stand still, and every read is answered
    meters[1].image.put_words(9, [0])
    known = len(listener.packs("m1"))
    until(lambda: stale(listener.packs("m1")[known:]), 20, lambda: agent.said)
    until(lambda: stale(listener.packs("m2")), 20, lambda: agent.said)
    frozen = meters[0].count

    def errors() -> dict[str, str | None]:
        return {name: facts["error"] for name, facts in agent.snapshot()["devices"].items()}

    until(lambda: all((errors()[name] or "").startswith("device.") for name in ("m1", "m2")), 10, errors)
    told = errors()
    life = agent.life("m1")
    meters[0].well()
    meters[1].image.put_words(9, [1])
    linked = meters[1].count
    until(lambda: max(listener.numbers("m1")) > frozen + 2, 15, lambda: agent.said)
    until(lambda: max(listener.numbers("m2")) > linked + 2, 15, lambda: agent.said)
    code = agent.stop()
    return {
        "code": code, "frozen": frozen, "errors": told, "life": life, "said": agent.said,
        "report": report_of(listener.heard, agent.kid), "packs": {n: listener.packs(f"m{n}") for n in (1, 2, 3)},
    }  # fmt: skip


def test_a_master_that_repeats_itself(played: dict[str, Any]) -> None:
    """A heartbeat that stands, or a link that is down, makes gaps stale_source; all else of the gateway goes on."""
    assert played["code"] == 0 and not played["report"].failed
    assert played["life"] == "alive", "the master itself answers"
    assert (
        "device.heartbeat has not changed from" in played["errors"]["m1"]
        and "device.link is 0" in played["errors"]["m2"]
    )
    assert played["errors"]["m3"] is None
    for name in ("m1", "m2"):
        assert f"{name}: source recovered" in played["said"]
        assert played["report"].streams[f"{SITE}/{name}"].gap_reasons["stale_source"] > 0
    numbers = [record["v"] for pack in played["packs"][1] for record in counted(pack)]
    assert 1 <= numbers.count(played["frozen"]) <= 5, "a heartbeat is good for 1.5 s, so for its tick and three or four"


def test_the_birth_says_what_proves_it(played: dict[str, Any]) -> None:
    """A caching master without a sign of life says so in its birth."""
    devices = [next(p["table"]["device"] for p in played["packs"][n] if "table" in p) for n in (1, 2, 3)]
    assert [device["caching"] for device in devices] == [True, True, True]
    assert [device["fresh"] for device in devices] == [
        {"point": "device.heartbeat", "changes_within": 1.5},
        {"point": "device.link", "equals": 1},
        None,
    ]


play_a_master_that_repeats_itself.tests = {  # type: ignore[attr-defined]
    "test_a_master_that_repeats_itself",
    "test_the_birth_says_what_proves_it",
}
