"""The state directory's disk fills up while the agent runs, and has room again later."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.cli.findings import STALE_S, find
from tests.kits.books import BUSY, busy_only, gaps, reasons, settle
from tests.kits.faults.books import came
from tests.kits.faults.rest import in_rings
from tests.kits.house import Agent, House, Listener, Meter, come_home, until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system (run as root)")
DISK_BYTES = 32 << 20


def fill(disk: Path) -> Path:
    """Take all the room that is left, as somebody else's log would."""
    hog = disk / "somebody-else"
    with hog.open("ab", buffering=0) as out:
        block = bytes(1 << 16)
        try:
            while out.write(block):
                continue
        except OSError:
            pass
    return hog


def mounted(disk: Path, house: House) -> Path:
    """A small file system of its own, until the end."""
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("no file system can be mounted here (in a container: --privileged)")
    house.at_end(lambda: subprocess.run(["umount", str(disk)], check=True))
    return disk


def with_a_disk(folder: Path, house: House) -> tuple[Path, Listener, Meter, Agent]:
    """A small disk with the state directory on it, and the agent running there."""
    broker = house.broker()
    listener = house.listen(broker)
    meter = Meter(1)
    disk = mounted(folder / "disk", house)
    agent = house.agent(
        broker,
        {"roof": house.field.tcp(meter)},
        {"m1": ("roof", 1)},
        state="disk/state",
        more='[store]\nmax_size = "16 MiB"',
    )
    agent.start()
    until(lambda: len(listener.packs("m1")) >= 2, 10, lambda: agent.said)
    return disk, listener, meter, agent


def play_a_full_runtime_directory(folder: Path, house: House) -> dict[str, Any]:
    """The store is elsewhere and has room."""
    broker, meter = house.broker(), Meter(1)
    listener = house.listen(broker)
    mounted(folder / "run", house)
    agent = house.agent(broker, {"roof": house.field.tcp(meter)}, {"m1": ("roof", 1)})
    agent.start()
    until(lambda: len(listener.packs("m1")) >= 2, 10, lambda: agent.said)
    hog = fill(agent.runtime)
    until(lambda: "the status cannot be written" in agent.said, 30, lambda: agent.said)
    old, count = agent.snapshot(), meter.count
    until(lambda: came(listener, count + 3), 30, "it reads, seals and delivers")
    (full,) = (one for one in find(old, old["time"] + STALE_S + 1, True, (), 0) if one.where == "agent")
    (hangs,) = (one for one in find(old, old["time"] + STALE_S + 1, True, (), 1 << 30) if one.where == "agent")
    hog.unlink()
    until(lambda: agent.snapshot()["time"] > old["time"], 30, lambda: agent.said)
    said, code = agent.said, come_home(agent, listener)
    return {"said": said, "code": code, "found": [full, hangs],
            "report": settle(listener.heard, agent.kid, {"m1": meter})}  # fmt: skip


def test_a_full_runtime_directory(played: dict[str, Any]) -> None:
    """It costs the local tools their status, and no reading. It had ended the agent."""
    # field pain 46
    assert played["code"] == 0 and busy_only(played["report"], "m1")
    assert played["said"].count("the status cannot be written: No space left on device") == 1, "once a minute"
    full, hangs = played["found"]
    assert (full.code, full.exit_code, hangs.code) == ("runtime-directory-full", 1, "agent-hangs")
    assert "runtime directory is full" in full.text() and "运行目录已满" in full.text("zh")


def trouble(agent: Agent) -> str:
    """Why the store does not commit at the moment."""
    return str(agent.snapshot()["store"]["trouble"] or "")


def play_a_full_disk(folder: Path, house: House) -> dict[str, Any]:
    disk, listener, meter, agent = with_a_disk(folder, house)
    hog = fill(disk)
    full = until(lambda: trouble(agent), 30, lambda: (agent.said, os.statvfs(disk)))
    count = meter.count
    until(lambda: meter.count > count + 6, 10, "it goes on reading")
    sealed = max(listener.numbers("m1"))
    hog.unlink()
    until(lambda: came(listener, count + 6), 30, lambda: agent.said)
    until(lambda: not trouble(agent), 10, lambda: agent.said)
    said = agent.said
    code = come_home(agent, listener)
    return {"code": code, "report": settle(listener.heard, agent.kid, {"m1": meter}), "said": said, "full": full,
            "gaps": gaps(listener.packs("m1")), "sealed": sealed, "count": count}  # fmt: skip


def test_a_full_disk(played: dict[str, Any]) -> None:
    """Sealing pauses and says so, the ring holds, and all of it is sealed once there is room."""
    # field pains 46 and 56
    assert played["code"] == 0
    assert "disk" in played["full"] and "Free some space on this disk" in played["full"]
    assert played["said"].count("sealing paused") == 1 and played["said"].count("sealing resumed") == 1
    assert busy_only(played["report"], "m1"), played["gaps"]
    assert played["sealed"] < played["count"]


def play_stopped_while_the_disk_is_full(folder: Path, house: House) -> dict[str, Any]:
    disk, listener, meter, agent = with_a_disk(folder, house)
    hog = fill(disk)
    until(lambda: trouble(agent), 30, lambda: agent.said)
    count = meter.count
    until(lambda: meter.count > count + 2, 10)
    code, said, left = agent.stop(), agent.said, [path.name for path in agent.rings]
    hog.unlink()
    held = in_rings(agent.rings, {"m1": meter})["m1"]
    agent.start()
    until(lambda: max(listener.numbers("m1")) > max(held), 20, lambda: agent.said)
    again = come_home(agent, listener)
    return {"code": code, "said": said, "left": left, "again": again,
            "held": held, "lost": sorted(held - set(listener.numbers("m1"))),
            "report": settle(listener.heard, agent.kid, {"m1": meter}),
            "gaps": gaps(listener.packs("m1"))}  # fmt: skip


def test_stopped_while_the_disk_is_full(played: dict[str, Any]) -> None:
    """What cannot be sealed at the end stays in the ring, and the next start seals it."""
    assert played["code"] == 0 and len(played["left"]) == 1
    assert "sealing paused" in played["said"] and "Free some space on this disk" in played["said"]
    assert played["said"].count("readings remain unsealed in the ring (") == 1, played["said"]
    assert played["again"] == 0 and played["held"] and not played["lost"]
    assert set(reasons(played["report"], "m1")) <= {"disk"} | BUSY, played["gaps"]


def play_a_disk_that_is_full_at_the_start(folder: Path, house: House) -> dict[str, Any]:
    disk, listener, meter, agent = with_a_disk(folder, house)
    codes = [agent.stop()]
    hog = fill(disk)
    agent.start()
    full = until(lambda: trouble(agent), 30, lambda: agent.said)
    # a status that is written between the failed commit and the end of this turn does not have the sizes yet
    until(lambda: "disk_free_bytes" in agent.snapshot()["store"], 30, lambda: agent.said)
    facts = agent.snapshot()
    found = [
        (one.code, one.exit_code)
        for one in find(facts, facts["time"], True)
        if one.exit_code and one.where in ("store", "disk")
    ]
    count = meter.count
    hog.unlink()
    until(lambda: came(listener, count + 1), 30, lambda: agent.said)
    codes.append(agent.stop())
    for path in (disk / "state").glob("store.db*"):
        path.unlink()
    fill(disk)
    agent.start(serving=False)
    codes.append(agent.wait())
    words = [sys.executable, "-m", "agent.cli.main", "status", "--runtime-dir", str(agent.runtime)]
    status = subprocess.run(words, check=False, capture_output=True, text=True, timeout=240)
    return {"full": full, "found": found, "codes": codes, "said": agent.said, "status": status}


def test_a_disk_that_is_full_at_the_start(played: dict[str, Any]) -> None:
    """With a database the agent goes on, and says what is wrong. Without one it ends, and says that."""
    assert played["codes"] == [0, 0, 1]
    assert "the disk is full" in played["full"]
    assert played["found"] == [("store-trouble", 1), ("disk-nearly-full", 1), ("store-warning", 1)], (
        "it is a tmpfs, too"
    )
    last = played["said"].splitlines()[-1]
    assert (
        last.startswith("error: ") and "no space left on the disk. Free some space there, then start the agent" in last
    )
    assert played["status"].returncode == 1
    assert "no agent is running here. The agent's previous run ended at 20" in played["status"].stderr
    assert "no space left on the disk" in played["status"].stderr
