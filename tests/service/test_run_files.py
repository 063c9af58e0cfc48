"""At the limit of open files: what does not fit is said before the start, what fits is served."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.kits.house import House, Meter, until

MANY = 40


def play_at_the_limit_of_open_files(folder: Path, house: House) -> dict[str, Any]:
    """Too few files for so many lines; as many as they need, with the broker gone and back; a reload too far."""
    broker = house.broker()
    listener = house.listen(broker)
    meters = [Meter(n + 1) for n in range(MANY)]
    lines = {f"l{meter.unit}": house.field.tcp(meter) for meter in meters}
    devices = {f"m{meter.unit}": (f"l{meter.unit}", meter.unit) for meter in meters}
    agent = house.agent(broker, lines, devices, every='{ fast = "1 s", normal = "1 s", slow = "5 s" }')
    agent.before = ("prlimit", "--nofile=100:100")
    agent.start(serving=False)
    refused = agent.wait(), agent.said
    needed = int(re.findall(r"need up to (\d+)", agent.said)[0])
    agent.before = ("prlimit", f"--nofile=64:{needed}")
    agent.start()
    until(lambda: all(agent.life(name) == "alive" for name in devices), 20, lambda: agent.said)
    assert agent.process
    opened = len(list(Path(f"/proc/{agent.process.pid}/fd").iterdir()))
    broker.stop()
    until(lambda: agent.snapshot()["store"].get("pending", {"platform": 0})["platform"] > MANY, 15, lambda: agent.said)
    broker.start()
    until(lambda: all(len(listener.packs(name)) >= 3 for name in devices), 20, lambda: agent.said)
    agent.lines = {**lines, "more": "modbus-tcp://127.0.0.1:9"}
    agent.configure()
    agent.send(1)
    until(lambda: agent.snapshot()["config"]["complaints"], 10, lambda: agent.said)
    complaint = json.dumps(agent.snapshot()["config"]["complaints"])
    until(lambda: all(agent.life(name) == "alive" for name in devices), what=lambda: agent.said)
    code = agent.stop()
    return {
        "refused": refused,
        "needed": needed,
        "opened": opened,
        "complaint": complaint,
        "code": code,
    }


def test_at_the_limit_of_open_files(played: dict[str, Any]) -> None:
    # field pain 69: a crash with many devices, and no start until the data is deleted
    code, said = played["refused"]
    assert code == 3 and "40 configured lines need up to" in said and "LimitNOFILE=1024" in said
    assert MANY * 2 < played["opened"] < played["needed"] - 10, "the count is no guess"
    assert played["code"] == 0
    assert "41 configured lines need" in played["complaint"], "and a reload keeps what is in force"
