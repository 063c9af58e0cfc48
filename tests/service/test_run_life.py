"""A running agent from its start to its end: by SIGTERM, by two signals, by kill -9."""

from __future__ import annotations

import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.kits.books import BUSY, boots, busy_only, gaps, reasons, settle
from tests.kits.faults.rest import in_rings, killed
from tests.kits.house import SECONDLY, SITE, House, Listener, Meter, come_home, devices_on, one_meter, until
from tests.kits.simulated import writes

# --- a plain run


def status(listener: Listener) -> list[bytes]:
    return [m.payload for m in list(listener.heard) if m.topic.endswith("/status")]


def births(listener: Listener, device: str) -> int:
    """Births of a device that was met; a busy machine may begin with one of a device not met yet."""
    return sum(pack["table"]["device"]["firmware"] is not None for pack in listener.packs(device) if "table" in pack)


def play_a_plain_run(folder: Path, house: House) -> dict[str, Any]:
    _, listener, meter, agent = one_meter(folder, house, every=SECONDLY)
    agent.start()
    until(lambda: len(listener.packs("m1")) >= 4, 15, lambda: agent.said)
    code = come_home(agent, listener)
    until(lambda: b'"offline"' in status(listener)[-1], what="that it is offline")
    report = settle(listener.heard, agent.kid, {"m1": meter})
    return {
        "code": code, "report": report, "packs": listener.packs(), "births": births(listener, "m1"),
        "events": listener.events("_gateway"),
        "left": [path.name for path in agent.runtime.iterdir() if path.is_file()], "said": agent.said,
        "functions": set(meter.sim.requests), "writes": writes(meter.sim), "status": status(listener),
    }  # fmt: skip


def test_a_plain_run(played: dict[str, Any]) -> None:
    """Promises 2, 4: no gap of our own, each answer arrives once or is stated; SIGTERM leaves nothing behind."""
    assert played["code"] == 0
    assert busy_only(played["report"], "m1"), gaps(played["packs"])
    assert played["births"] == played["report"].streams[f"{SITE}/m1"].boots, "the identity was known at once"
    assert [event["event"] for event in played["events"]][:2] == ["start", "stop"]
    assert b'"offline"' in played["status"][-1] and b'"online"' in played["status"][-2]
    assert not [name for name in played["left"] if name.startswith("ring") or name == "snapshot.json"]
    assert played["functions"] == {3} and not played["writes"]


# --- two signals


def play_a_second_signal(folder: Path, house: House) -> dict[str, Any]:
    """The line hangs in a long answer, so the first signal cannot have ended it when the second comes."""
    _, listener, meter, agent = one_meter(folder, house)
    slow = Meter(2)
    agent.lines = {**agent.lines, "slow": house.field.tcp(slow)}
    agent.devices = {**agent.devices, "m2": ("slow", 2)}
    agent.line_more = {"slow": 'limits = { timeout = "60 s" }'}
    agent.configure()
    agent.start()
    until(lambda: listener.packs("m1") and listener.packs("m2"), 10, lambda: agent.said)
    slow.fault("silence")
    asked = slow.sim.requests[3]
    until(lambda: slow.sim.requests[3] > asked, 5, "the visit that will not end")
    count = meter.count
    until(lambda: meter.count > count + 1, 5)
    until(lambda: agent.send(signal.SIGTERM) or agent.process.poll() is not None, what="some signal is the second")  # type: ignore[func-returns-value,union-attr]
    code = agent.wait()
    left = agent.rings
    held = in_rings(left, {"m1": meter})["m1"]
    slow.well()
    agent.start()
    until(lambda: held <= set(listener.numbers("m1")), 15, lambda: agent.said)
    until(lambda: len(boots(listener.packs("m1"))) == 2, 10)
    again = come_home(agent, listener)
    report = settle(listener.heard, agent.kid, {"m1": meter, "m2": slow})
    return {"code": code, "held": held, "again": again, "report": report, "left": len(left)}


def test_a_second_signal(played: dict[str, Any]) -> None:
    """It ends at once, which is no failure for systemd; the next start seals what the ring held, and books the time
    between.
    """
    assert played["code"] == 0
    assert played["left"] == 1 and played["held"]
    assert played["again"] == 0
    assert set(reasons(played["report"], "m1")) <= BUSY  # none where it was back before the next tick


# --- a signal in the first moments of a start

SIGNALLED = "import os, agent.cli; os.kill(os.getpid(), {}); from agent.cli.main import main; main()"


def play_sigterm_before_the_agent_is_imported(folder: Path, house: House) -> dict[str, Any]:
    agent = one_meter(folder, house)[-1]
    agent.program = ("-c", SIGNALLED.format(int(signal.SIGTERM)))
    agent.start(serving=False)
    code = agent.wait()
    return {"code": code, "rings": agent.rings, "sealed": agent.sealed()[0]}


def test_sigterm_before_the_agent_is_imported(played: dict[str, Any]) -> None:
    """The agent starts, seals that it ran, and stops in order."""
    assert played["code"] == 0
    assert not played["rings"] and played["sealed"]


def play_sighup_before_the_agent_is_imported(folder: Path, house: House) -> dict[str, Any]:
    agent = one_meter(folder, house)[-1]
    agent.program = ("-c", SIGNALLED.format(int(signal.SIGHUP)))
    agent.start()
    until(lambda: "reloaded, configuration" in agent.said, 10, lambda: agent.said)
    return {"code": agent.stop()}


def test_sighup_before_the_agent_is_imported(played: dict[str, Any]) -> None:
    """It becomes a reload once the agent has started; before, the agent was gone and systemd did not restart it."""
    assert played["code"] == 0


# --- kill -9


def kill_rounds(folder: Path, house: House, rounds: int, seed: int) -> dict[str, Any]:
    """Kill at random moments, from before the first request to several packs later; at last with a full ring."""
    print(f"seed {seed}")
    rng = random.Random(seed)
    broker = house.broker()
    listener = house.listen(broker)
    meters = [Meter(1), Meter(2)]
    agent = house.agent(
        broker, {"roof": house.field.tcp(*meters)}, devices_on("roof", meters), every='{ fast = "250 ms" }'
    )
    held: dict[str, set[int]] = {"m1": set(), "m2": set()}
    known = {f"m{meter.unit}": meter for meter in meters}
    for n in range(rounds):
        is_last = n == rounds - 1
        agent.start(serving=is_last or rng.random() < 0.8)
        threading.Event().wait(rng.uniform(0, 2.2))  # the random moment of the kill: not a wait for anything
        if is_last:
            found = killed(agent, known)
        else:
            agent.kill()
            found = in_rings(agent.rings, known)
        for name, numbers in found.items():
            held[name] |= numbers
    agent.start()
    missing = lambda: {name: numbers - set(listener.numbers(name)) for name, numbers in held.items()}  # noqa: E731
    until(lambda: not any(missing().values()), 20, lambda: (missing(), agent.said))
    code = come_home(agent, listener)
    return {"code": code, "report": settle(listener.heard, agent.kid, known)}


def check_kills(played: dict[str, Any]) -> None:
    """What the rings held has come by now, once: an answer is lost only on its way from the wire to the ring."""
    assert played["code"] == 0
    for device in ("m1", "m2"):
        missing = reasons(played["report"], device)
        assert busy_only(played["report"], device), f"only the downtime is missing: {missing}"


def play_kill_at_random_moments(folder: Path, house: House) -> dict[str, Any]:
    return kill_rounds(folder, house, 3, int(time.time()))


def test_kill_at_random_moments(played: dict[str, Any]) -> None:
    """Promise 9: what was in the ring arrives once; the downtime is gap ``stopped``."""
    check_kills(played)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_thirty_kills(tmp_path: Path) -> None:
    """The same, thirty times in a row on one state directory."""
    with House(tmp_path) as house:
        check_kills(kill_rounds(tmp_path, house, 30, int(time.time())))
