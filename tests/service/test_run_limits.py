"""Asked for too much, and twice at once: what cannot be done is stated, and nobody else pays for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.kits.books import BUSY, boots, busy_only, gaps, reasons, settle
from tests.kits.house import Agent, House, Meter, come_home, free_port, until


def play_too_much_for_a_line(folder: Path, house: House) -> dict[str, Any]:
    """Three devices of one bus that need 0.12 s an answer, asked four times a second each; a fourth is well."""
    broker = house.broker()
    listener = house.listen(broker)
    slow = [Meter(n) for n in (1, 2, 3)]
    for meter in slow:
        meter.sim.turnaround_s = 0.12
    well = Meter(4)
    meters = {f"m{meter.unit}": meter for meter in (*slow, well)}
    devices = {name: ("well" if meter is well else "slow", meter.unit) for name, meter in meters.items()}
    lines = {"slow": house.field.serial(folder / "tty", *slow), "well": house.field.tcp(well)}
    agent = house.agent(
        broker,
        lines,
        devices,
        every='{ fast = "250 ms", normal = "1 s", slow = "5 s" }',
        line_more={"slow": 'limits = { timeout = "2 s" }'},
    )
    agent.start()
    until(lambda: all(len(listener.packs(name)) >= 5 for name in meters), 15, lambda: agent.said)
    until(
        lambda: (s := agent.snapshot())["devices"]["m1"]["overloads"] and s["lines"]["slow"]["busy_share"] > 0.5,
        what=agent.snapshot,
    )
    second = Agent(folder / "second", None, lines, {"m4": ("well", 4)}, state=str(folder / "state"))
    second.start(serving=False)
    refused = second.wait()
    count = well.count
    until(lambda: well.count > count + 4, 5, "the first goes on")
    ran = len(boots(listener.packs("m4")))
    code = come_home(agent, listener)
    report = settle(listener.heard, agent.kid, meters)
    return {"code": code, "report": report, "refused": refused, "second": second.said, "boots": ran,
            "packs": {name: listener.packs(name) for name in meters},
            "got": {name: len(listener.numbers(name)) for name in meters}}  # fmt: skip


play_too_much_for_a_line.tests = {  # type: ignore[attr-defined]
    "test_too_much_for_a_line_is_gap_overload",
    "test_a_second_agent_on_one_state_directory_refuses",
}


def test_too_much_for_a_line_is_gap_overload(played: dict[str, Any]) -> None:
    """Ticks that it could not serve are stated, the rest is fresh; its devices share what there is."""
    assert played["code"] == 0
    got = played["got"]
    for name in ("m1", "m2", "m3"):
        assert "overload" in reasons(played["report"], name)
        assert set(reasons(played["report"], name)) <= BUSY
        assert got[name] >= 4, got
    assert max(got[n] for n in ("m1", "m2", "m3")) <= 2 * min(got[n] for n in ("m1", "m2", "m3")), got
    assert busy_only(played["report"], "m4"), gaps(played["packs"]["m4"])


def test_a_second_agent_on_one_state_directory_refuses(played: dict[str, Any]) -> None:
    """It names the place and ends; the first one's books show nothing of it."""
    assert played["refused"] not in (0, None)
    assert "store.db" in played["second"] and "another" in played["second"].lower()
    assert played["boots"] == 1


def play_one_runtime_directory(folder: Path, house: House) -> dict[str, Any]:
    """Two gateways on one machine with states of their own, whose runtime directory was left the same."""
    meter = Meter(1)
    line = house.field.tcp(meter)
    first = house.agent(None, {"roof": line}, {"m1": ("roof", 1)})
    first.start()
    until(lambda: meter.count > meter.first + 2, 10)
    ring = first.rings
    second = Agent(folder / "second", None, {"roof": f"modbus-tcp://127.0.0.1:{free_port()}"}, {"m1": ("roof", 1)})
    second.config.write_text(second.config.read_text().replace('"run"', f'"{first.runtime}"'))
    second.start(serving=False)
    house.at_end(second.close)
    refused = second.wait(10)
    kept = first.rings
    snapshot = first.snapshot()
    return {"refused": refused, "said": second.said, "kept": kept == ring and len(ring) == 1, "code": first.stop(),
            "pid": snapshot["pid"] is not None}  # fmt: skip


def test_one_runtime_directory(played: dict[str, Any]) -> None:
    """The second must not take the living ring of the first for one that was left behind."""
    assert played["refused"] not in (0, None) and played["kept"] and played["code"] == 0
    assert "runtime" in played["said"] and "another" in played["said"].lower()
