"""The wall clock is set while the agent runs: libfaketime sets it for this one process, not the machine's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.kits.books import BUSY, boots, gaps, reasons, settle, times
from tests.kits.faketime import LIBRARIES, Clock, steps
from tests.kits.faults.books import came
from tests.kits.faults.rest import killed
from tests.kits.house import House, Meter, come_home, devices_on, until

NEAR_S = 1000  # what a slow machine takes is far below the steps of an hour
pytestmark = pytest.mark.skipif(not LIBRARIES, reason="libfaketime is not installed (apt: faketime)")


def play_steps_of_an_hour(folder: Path, house: House) -> dict[str, Any]:
    """Forward, back, and killed right after; then started with a clock that is another hour back."""
    broker = house.broker()
    listener = house.listen(broker)
    meters = [Meter(1), Meter(2)]
    clock = Clock(folder)
    agent = house.agent(broker, {"roof": house.field.tcp(*meters)}, devices_on("roof", meters), env=clock.env)
    agent.start()
    until(lambda: len(listener.packs("m1")) >= 3, 10, lambda: agent.said)
    for n, offset in enumerate((3600, 0), 1):
        clock.set(offset)
        until(
            lambda n=n: all(len(steps(listener, name)) == n for name in ("m1", "m2", "_gateway")),
            10,
            lambda: agent.said,
        )
        counts = [meter.count + 2 for meter in meters]
        until(
            lambda counts=counts: all(came(listener, c, f"m{m.unit}") for c, m in zip(counts, meters, strict=True)),
            10,
            lambda: (agent.said, agent.snapshot(), meters[0].count, listener.packs("m1")[-2:]),
        )
    known = {f"m{meter.unit}": meter for meter in meters}
    held = killed(agent, known)
    clock.set(-3600)
    agent.start()
    until(lambda: len(boots(listener.packs("m2"))) == 2, 10, lambda: agent.said)
    count = meters[1].count
    until(lambda: came(listener, count + 1, "m2"), 10, lambda: agent.said)
    code = come_home(agent, listener)
    settle(listener.heard, agent.kid, known, (0, 3600, -3600))
    return {
        "code": code, "packs": listener.packs("m1"),
        "steps": {name: steps(listener, name) for name in ("m1", "m2", "_gateway")},
        "lost": {name: numbers - set(listener.numbers(name)) for name, numbers in held.items()},
        "served": meters[0].served,
    }  # fmt: skip


def test_steps_of_an_hour(played: dict[str, Any]) -> None:
    """Promise 6: packs are cut, the event covers the seam, nothing is missing, doubled or rewritten."""
    # field pain 62
    assert played["code"] == 0
    for name in ("m1", "m2"):
        (old1, new1), (old2, new2), (old3, new3) = played["steps"][name]
        for step, hour in ((new1 - old1, 3600), (new2 - old2, -3600), (new3 - old3, -3600)):
            assert abs(step - hour) < NEAR_S
        assert not played["lost"][name], "what the ring held has come"
    assert len(played["steps"]["_gateway"]) == 3
    for pack in played["packs"]:
        assert pack["to"] - pack["from"] < NEAR_S, "no pack spans a step"
    assert {reason for reason, *_ in gaps(played["packs"])} <= {"clock"} | BUSY
    ours = {number: at / 1e9 for number, at in played["served"].items()}
    for pack in played["packs"]:
        numbers = [r["v"] for r in pack.get("e", ()) if r["n"] == "ac.energy.import"]
        for number, at in zip(numbers, times(pack), strict=True):
            beside = at - ours[number]
            assert min(abs(beside - offset) for offset in (0, 3600, -3600)) < NEAR_S, (number, beside)


def play_a_slow_clock(folder: Path, house: House) -> dict[str, Any]:
    """A quarter of a second, as a correction by NTP may be: followed without a word."""
    broker = house.broker()
    listener = house.listen(broker)
    meter = Meter(1)
    clock = Clock(folder)
    agent = house.agent(broker, {"roof": house.field.tcp(meter)}, devices_on("roof", [meter]), env=clock.env)
    agent.start()
    until(lambda: len(listener.packs("m1")) >= 2, 10, lambda: agent.said)
    clock.set(0.25)
    count = meter.count
    until(lambda: came(listener, count + 4), 10, lambda: agent.said)
    clock.set(0)
    count = meter.count
    until(lambda: came(listener, count + 4), 10, lambda: agent.said)
    code = come_home(agent, listener)
    return {"code": code, "report": settle(listener.heard, agent.kid, {"m1": meter}), "events": listener.events()}


def test_a_slow_clock(played: dict[str, Any]) -> None:
    assert played["code"] == 0
    assert not [event for event in played["events"] if event["event"] == "clock_step"]
    assert "clock" not in reasons(played["report"], "m1")
