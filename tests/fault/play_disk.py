"""Scenarios: the disk is full for longer than the ring reaches, and the disk fails in every way that SQLite can see."""

from __future__ import annotations

import random
import signal
from collections import Counter
from pathlib import Path

import pytest
from fault_books import figures
from fault_disks import can_mount, mount, unmount
from fault_home import bring_home, settled
from fault_rest import AtRest, in_rings
from fault_rows import Row, scenario
from fault_shim import Shim
from fault_tally import Tally
from play_kill import pause
from service_kit import SITE, Agent, House, devices_on, until

PERIOD_MS = 250
QUICK_MS = 50  # fills the smallest ring within seconds
RING_BYTES = 64 << 10
EVERY = f'{{ fast = "{PERIOD_MS} ms", normal = "1 s", slow = "5 s" }}'


def trouble(agent: Agent) -> str:
    """Why the store does not commit at the moment."""
    return str(agent.snapshot()["store"]["trouble"] or "")


def fill(disk: Path) -> Path:
    """Take all the room that is left, as somebody else's log would."""
    hog = disk / "somebody-else"
    with hog.open("ab", buffering=0) as out:
        try:
            while out.write(bytes(1 << 16)):
                continue
        except OSError:
            return hog


@scenario(rounds=1, about_s=12, long=20, chunk=20, section="processes")
def full_disks(folder: Path, house: House, rounds: int, seed: int) -> Row:
    """The ring runs over while the disk is full: that stretch is a gap, all else comes, and nobody has to help."""
    rng = random.Random(seed)
    if why := can_mount():
        pytest.skip(why)
    disk = folder / "disk"
    mount("tmpfs", disk, "-t", "tmpfs", "-o", f"size={32 << 20}")
    house.at_end(lambda: unmount(disk))
    broker = house.broker()
    listener = house.listen(broker)
    meters = {f"m{n}": Tally(n) for n in range(1, 7)}
    agent = house.agent(
        broker,
        {f"l{n}": house.field.tcp(meter) for n, meter in enumerate(meters.values())},
        {name: (f"l{n}", meter.unit) for n, (name, meter) in enumerate(meters.items())},
        every=f'{{ fast = "{QUICK_MS} ms", normal = "{QUICK_MS} ms", slow = "{QUICK_MS} ms" }}',
        state="disk/state",
        more=f'[store]\nmax_size = "16 MiB"\n[ring]\nsize = "{RING_BYTES >> 10} KiB"',
    )
    agent.start()
    overwritten = 0
    for _ in range(rounds):
        until(lambda: not trouble(agent), 20, lambda: agent.said)
        pause(rng.uniform(0.5, 1.5))
        hog = fill(disk)
        until(lambda: trouble(agent), 30, lambda: agent.said)
        first = {name: meter.count for name, meter in meters.items()}
        over = rng.random() < 0.6 or rounds == 1
        if over:  # longer than the ring reaches
            until(lambda first=first: gone(agent, meters, first), 40, lambda: agent.said)
            overwritten += 1
        if rng.random() < 0.3:
            agent.kill()
            agent.start()
        hog.unlink()
        until(lambda: not trouble(agent), 30, lambda: agent.said)
    code = bring_home(agent, listener, meters)
    report, books = settled(listener, agent, meters, QUICK_MS)
    missing = sum(len(book.missing) for book in books.values())
    return figures(
        report,
        code=code,
        served=sum(len(meter.served) for meter in meters.values()),
        overwritten=overwritten,
        missing_and_stated=missing,
        said=agent.said,
    )


def gone(agent: Agent, meters: dict[str, Tally], numbers: dict[str, int]) -> bool:
    """Does no ring hold these numbers any more?"""
    held = in_rings(agent.rings, meters)
    return all(number not in held[name] for name, number in numbers.items())


WAYS = ("sync fails", "sync hangs", "write fails", "write full", "read fails")


@scenario(rounds=3, about_s=3, long=100, chunk=25, section="processes")
def failing_disks(folder: Path, house: House, rounds: int, seed: int) -> Row:
    """Writes, reads and syncs fail or hang, once or for a while; then the disk is well, or the agent is ended first."""
    rng = random.Random(seed)
    shim = Shim(folder)
    broker = house.broker()
    listener = house.listen(broker)
    meters = {"m1": Tally(1), "m2": Tally(2)}
    agent = house.agent(
        broker,
        {"roof": house.field.tcp(*meters.values())},
        devices_on("roof", list(meters.values())),
        every=EVERY,
        more='[ring]\nsize = "1 MiB"',
        env=shim.env,
    )
    rest = AtRest(folder / "rest", agent.kid)
    ways: Counter[str] = Counter()
    troubles = restarts = 0
    agent.start()
    for n in range(rounds):
        way = WAYS[(seed + n) % len(WAYS)]
        ways[way] += 1
        for meter in meters.values():  # who was not met before the disk failed is not read meanwhile
            until(lambda meter=meter, count=meter.count: meter.count > count, 20, lambda: agent.said)
        pause(rng.uniform(0, 0.5))
        for_long = way == "sync hangs" or rng.random() < 0.6
        shim.set(way, skip=rng.randrange(4), times=-1 if for_long else rng.randint(1, 3))
        if way != "read fails":  # what is read again is in memory, as a rule
            until(lambda: shim.hits, 10, lambda: agent.said)
        pause(rng.uniform(0.2, 2.0))
        count = max(meter.count for meter in meters.values())
        until(lambda count=count: max(m.count for m in meters.values()) > count, 10, lambda: agent.said)
        troubles += "sealing pauses" in agent.said
        end = rng.choices(["well", "kill", "stop"], [6, 3, 2])[0]
        if end == "kill":
            agent.kill()
        elif end == "stop":
            agent.send(signal.SIGTERM)
            pause(rng.uniform(0, 0.5))
        shim.set("well")
        if end != "well":
            if agent.process:
                agent.wait()
            rest.look(agent.folder / "state")
            missing = rest.unstored(list(listener.heard))
            assert not missing, f"{way}: published, and not in the store: {missing}"
            restarts += 1
            agent.start()
        until(lambda: not trouble(agent), 30, lambda: agent.said)
    code = bring_home(agent, listener, meters)
    report, books = settled(listener, agent, meters, PERIOD_MS)
    return figures(
        report,
        code=code,
        ways=dict(ways),
        served=sum(len(meter.served) for meter in meters.values()),
        missing_and_stated=sum(len(book.missing) for book in books.values()),
        troubles=troubles,
        restarts=restarts,
    )


@scenario(rounds=1, about_s=6, long=10, chunk=10, section="processes")
def devices_change_while_the_disk_fails(folder: Path, house: House, rounds: int, seed: int) -> Row:
    """What is new of a device cannot be kept, so it is not read: gap ``disk``, and the agent lives on."""
    rng = random.Random(seed)
    shim = Shim(folder)
    broker = house.broker()
    listener = house.listen(broker)
    meter = Tally(1)
    line = house.field.tcp(meter)
    agent = house.agent(broker, {"roof": line}, {"m1": ("roof", 1)}, every=EVERY, env=shim.env)
    agent.start()
    until(lambda: len(listener.packs("m1")) >= 2, 20, lambda: agent.said)
    for n in range(rounds):
        missed = agent.said.count("cannot open")
        house.field.do(line.unplug())
        until(lambda missed=missed: agent.said.count("cannot open") > missed, 20, lambda: agent.said)
        shim.set(rng.choice(["write fails", "write full", "sync fails"]))
        meter.firmware("3" if n % 2 == 0 else "2")
        house.field.do(line.plug())
        until(lambda: trouble(agent), 20, lambda: agent.said)
        pause(rng.uniform(0.5, 1.5))
        shim.set("well")
        count = meter.count
        until(lambda count=count: meter.count > count + 2, 20, lambda: agent.said)
    code = bring_home(agent, listener, {"m1": meter})
    report, _ = settled(listener, agent, {"m1": meter}, PERIOD_MS)
    return figures(report, code=code, births=report.streams[f"{SITE}/m1"].births, said=agent.said)
