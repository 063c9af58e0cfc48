"""What a device taught us of its map outlives the agent, for this device and firmware. field pains 24, 25, 30, 40"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agent.cli.main import cli
from tests.kits.books import BUSY
from tests.kits.house import House, Meter, one_meter, until
from tests.kits.simulated import punch


def hollow(meter: Meter) -> list[tuple[int, int]]:
    """Registers 2 and 3 (the power) are missing in this firmware; the addresses that were asked are kept."""
    asked: list[tuple[int, int]] = []
    counting = meter.sim.before
    punch(meter.image, 2, 2)

    def before(function: int, address: int, count: int) -> None:
        assert counting is not None
        counting(function, address, count)
        asked.append((address, count))

    meter.sim.before = before
    return asked


def over_the_hole(asked: list[tuple[int, int]]) -> int:
    return sum(address < 4 and address + count > 2 for address, count in asked)


def play_a_hole(folder: Path, house: House) -> dict[str, Any]:
    from click.testing import CliRunner

    _, listener, meter, agent = one_meter(folder, house)
    asked = hollow(meter)
    agent.start()
    until(lambda: len(listener.numbers("m1")) >= 3, 20, lambda: agent.said)
    until(
        lambda: "the device has no registers" in (agent.snapshot()["devices"]["m1"]["learned"] or ""),
        10,
        lambda: agent.said,
    )
    refused = agent.snapshot()["devices"]["m1"]["refused"]
    shown = [
        CliRunner().invoke(cli, [*words, "-c", str(agent.config)], catch_exceptions=False).output
        for words in (["status"], ["check", "--plan"], ["check", "--json"])
    ]
    first = over_the_hole(asked)
    codes = [agent.stop()]
    asked.clear()
    agent.start()
    count = meter.count
    until(lambda: max(listener.numbers("m1")) > count + 2, 15, lambda: agent.said)
    second, said = over_the_hole(asked), agent.said
    codes.append(agent.stop())
    meter.firmware("3")  # an update may have brought the register: it is asked for again
    asked.clear()
    agent.start()
    until(lambda: over_the_hole(asked) >= 2, 15, lambda: agent.said)
    third = over_the_hole(asked)
    codes.append(agent.stop())
    return {"codes": codes, "shown": shown, "asked": (first, second, third), "said": said,
            "packs": listener.packs("m1"), "refused": refused}  # fmt: skip


def test_a_hole(played: dict[str, Any]) -> None:
    assert played["codes"] == [0, 0, 0]
    first, second, third = played["asked"]
    assert first >= 2 and second == 0 and third >= 2
    assert "register map learned earlier" in played["said"]
    status, plan, as_json = played["shown"]
    assert all("its register map differs from the profile; the agent has learned: " in text for text in (status, plan))
    assert json.loads(as_json)["learned"]["m1"]
    assert played["refused"] == ["ac.power.active"]
    gaps = [g for p in played["packs"] for g in p.get("gaps", ()) if "ac.power.active" in g["points"]]
    assert {"exception"} <= {g["reason"] for g in gaps} <= {"exception"} | BUSY
