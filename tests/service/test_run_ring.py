"""A reload that needs a larger ring: the agent continues in a second one, and not one reading is lost."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from ext.ring import Ring
from tests.kits.books import boots, busy_only, settle
from tests.kits.faults.disks import can_mount, mount, unmount
from tests.kits.house import SECONDLY, Agent, House, Listener, Meter, come_home, devices_on, until
from tests.service.test_run_reload import reload, served, tables

KIB, MIB = 1 << 10, 1 << 20
SMALL = '[ring]\nsize = "64 KiB"\n'


def use(agent: Agent, more: str) -> None:
    agent.more = more
    agent.configure()


def ring_of(agent: Agent) -> tuple[str, int]:
    """Name of the ring in use, without the boot, and its size."""
    snapshot = agent.snapshot()
    ring = Ring.open(str(agent.runtime / snapshot["ring"]))
    try:
        return snapshot["ring"].replace(snapshot["boot"], "BOOT"), ring.slots * 16
    finally:
        ring.close()


def uses(agent: Agent, size: int) -> bool:
    """Whether its ring is of this size by now; false while one of two changes takes away the ring that was named."""
    try:
        return ring_of(agent)[1] == size
    except FileNotFoundError:
        return False


def more_of(listener: Listener, names: list[str], agent: Agent, count: int = 2) -> None:
    """Wait until so many more packs of each device have come."""
    want = {name: len(listener.packs(name)) + count for name in names}
    until(lambda: all(served(listener, name, n) for name, n in want.items()), 30, lambda: agent.said)


def play_larger_rings(folder: Path, house: House) -> dict[str, Any]:
    """Larger for a longer interval, larger twice at once, smaller; a device comes with one of the changes."""
    broker = house.broker()
    listener = house.listen(broker)
    meters = {f"m{n}": Meter(n) for n in range(1, 5)}
    roof, yard = house.field.tcp(*(meters[f"m{n}"] for n in (1, 2, 4))), house.field.tcp(meters["m3"])
    agent = house.agent(
        broker, {"roof": roof, "yard": yard}, {"m1": ("roof", 1), "m2": ("roof", 2), "m3": ("yard", 3)},
        every=SECONDLY, more=SMALL,
    )  # fmt: skip
    agent.start()
    names = ["m1", "m2", "m3"]
    more_of(listener, names, agent, 3)
    rings = [ring_of(agent)]

    every = agent.config.read_text()
    agent.config.write_text(every.replace('[pack]\nevery = "1 s"', '[pack]\nevery = "15 min"'))
    reload(agent)
    rings.append(ring_of(agent))
    until(lambda: len(agent.rings) == 1, 30, lambda: agent.said)
    agent.config.write_text(every)
    reload(agent)
    rings.append(ring_of(agent))
    more_of(listener, names, agent)

    use(agent, '[ring]\nsize = "2 MiB"\n')  # two reloads, the second while the first is on its way
    before = agent.said.count("reloaded, configuration")
    agent.send(signal.SIGHUP)
    agent.devices = {**agent.devices, "m4": ("roof", 4)}
    use(agent, '[ring]\nsize = "4 MiB"\n')
    agent.send(signal.SIGHUP)
    until(lambda: agent.said.count("reloaded, configuration") >= before + 1, 30, lambda: agent.said)
    until(lambda: uses(agent, 4 * MIB), 30, lambda: agent.said)
    names.append("m4")
    more_of(listener, names, agent)
    until(lambda: len(agent.rings) == 1, 30, lambda: agent.said)
    rings.append(ring_of(agent))

    use(agent, SMALL)
    reload(agent)
    more_of(listener, names, agent)
    rings.append(ring_of(agent))
    left, said, ran = [path.name for path in agent.rings], agent.said, {n: boots(listener.packs(n)) for n in names}
    code = come_home(agent, listener)
    report = settle(listener.heard, agent.kid, meters)
    return {
        "code": code, "report": report, "rings": rings, "left": left, "said": said, "boots": ran,
        "births": {name: tables(listener, name) for name in names}, "end": agent.rings,
    }  # fmt: skip


def test_larger_rings(played: dict[str, Any]) -> None:
    """No gap, no second birth, one boot; the rings before are gone; a smaller size changes nothing."""
    assert played["code"] == 0
    for device in ("m1", "m2", "m3", "m4"):
        assert busy_only(played["report"], device), device
        assert len(played["boots"][device]) == 1
        assert len({table["config"] for table in played["births"][device]}) == len(played["births"][device])
    sizes = [size for _, size in played["rings"]]
    assert sizes[0] == 64 * KIB < sizes[1] == sizes[2] < 2 * MIB and sizes[3:] == [4 * MIB, 4 * MIB]
    names = [name for name, _ in played["rings"]]
    assert names[:3] == ["ring.BOOT", "ring.BOOT.2", "ring.BOOT.2"] and names[3] == names[4] != names[2]
    assert len(played["left"]) == 1 and played["end"] == []
    assert "the previous ring is sealed and removed" in played["said"]


def play_no_room_for_the_second_ring(folder: Path, house: House) -> dict[str, Any]:
    """The runtime directory is a small file system of its own, as /run is."""
    broker = house.broker()
    listener = house.listen(broker)
    meter = Meter(1)
    agent = house.agent(broker, {"roof": house.field.tcp(meter)}, devices_on("roof", [meter]), every=SECONDLY)
    mount("tmpfs", agent.runtime, "-t", "tmpfs", "-o", f"size={8 * MIB},mode=750")
    house.at_end(lambda: unmount(agent.runtime))
    agent.start()
    more_of(listener, ["m1"], agent)
    first = ring_of(agent)
    use(agent, '[ring]\nsize = "16 MiB"\n')
    reload(agent)
    complaints = agent.snapshot()["config"]["complaints"]
    more_of(listener, ["m1"], agent)
    then, left = ring_of(agent), [path.name for path in agent.rings]
    use(agent, '[ring]\nsize = "4 MiB"\n')
    reload(agent)
    more_of(listener, ["m1"], agent)
    last = ring_of(agent)
    free = shutil.disk_usage(agent.runtime).free
    code = come_home(agent, listener)
    report = settle(listener.heard, agent.kid, {"m1": meter})
    return {
        "code": code, "report": report, "first": first, "then": then, "last": last, "complaints": complaints,
        "left": left, "free": free,
    }  # fmt: skip


@pytest.mark.skipif(bool(can_mount()), reason=can_mount())
def test_no_room_for_the_second_ring(played: dict[str, Any]) -> None:
    """A clear error, no half-made file, and the first ring goes on; a size that fits is taken then."""
    assert played["code"] == 0 and busy_only(played["report"], "m1")
    assert played["first"] == ("ring.BOOT", 2 * MIB), "a quarter of the file system"
    assert played["then"] == played["first"] and len(played["left"]) == 1
    (said,) = played["complaints"]
    assert "a ring buffer of 16 MiB cannot be created: No space left on device; 5." in said and "[ring] max" in said
    assert played["last"][1] == 4 * MIB
