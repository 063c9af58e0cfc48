"""Scenarios: the disk is full for longer than the ring reaches, and the disk fails in every way that SQLite can see."""

from __future__ import annotations

import random
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.fault.play_kill import pause
from tests.kits.faults.books import figures
from tests.kits.faults.disks import can_mount, mount, unmount
from tests.kits.faults.home import bring_home, settled
from tests.kits.faults.rest import AtRest, in_rings
from tests.kits.faults.rows import Row, scenario
from tests.kits.faults.shim import Shim
from tests.kits.faults.tally import Tally
from tests.kits.house import SITE, Agent, House, devices_on, until

PERIOD_MS = 250
QUICK_MS = 50  # fills the smallest ring within seconds
RING_BYTES = 64 << 10
EVERY = f'{{ fast = "{PERIOD_MS} ms", normal = "1 s", slow = "5 s" }}'


def trouble(agent: Agent) -> str:
    """Why the store does not commit at the moment; just after a start, as soon as the agent says anything of itself."""
    until((agent.runtime / "snapshot.json").exists, 30, lambda: agent.said)
    return str(agent.snapshot()["store"]["trouble"] or "")


def small_disk(folder: Path, house: House, mib: int) -> Path:
    """A file system of its own for the state, unmounted with the house; the test skips where nothing can be mounted."""
    if why := can_mount():
        pytest.skip(why)
    disk = folder / "disk"
    mount("tmpfs", disk, "-t", "tmpfs", "-o", f"size={mib << 20}")
    house.at_end(lambda: unmount(disk))
    return disk


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
    disk = small_disk(folder, house, 32)
    broker = house.broker()
    listener = house.listen(broker)
    meters = {f"m{n}": Tally(n) for n in range(1, 7)}
    agent = house.agent(
        broker,
        {f"l{n}": house.field.tcp(meter) for n, meter in enumerate(meters.values())},
        {name: (f"l{n}", meter.unit) for n, (name, meter) in enumerate(meters.items())},
        every=f'{{ fast = "{QUICK_MS} ms", normal = "{QUICK_MS} ms", slow = "{QUICK_MS} ms" }}',
        state="disk/state",
        more=f'[store]\nmax_size = "16 MiB"\n[ring]\nsize = "{RING_BYTES >> 10} KiB"\nmax = "{RING_BYTES >> 10} KiB"',
    )
    agent.start()
    overwritten = refused = restarts = 0
    for _ in range(rounds):
        until(lambda: not trouble(agent), 30, lambda: agent.said)
        pause(rng.uniform(0.5, 1.5))
        hog = fill(disk)
        until(lambda: trouble(agent), 30, lambda: agent.said)
        over = rng.random() < 0.6 or rounds == 1
        if over:  # longer than the ring reaches
            overrun = Overrun(agent, meters)
            until(lambda disk=disk, overrun=overrun: fill(disk) and overrun.done(), 60, lambda: agent.said)
            overwritten += 1
        again = rng.random() < 0.3
        restarts += again
        if again:  # the reserve is somebody else's too by now: not even a start can be kept
            agent.kill()
            refused += refuses(agent)
        hog.unlink()
        if again and agent.process is None:
            agent.start()
        until(lambda: not trouble(agent), 30, lambda: agent.said)
    code = bring_home(agent, listener, meters)
    report, books = settled(listener, agent, meters, QUICK_MS)
    missing = sum(len(book.missing) for book in books.values())
    return figures(
        report,
        code=code,
        answers=sum(len(meter.served) for meter in meters.values()),
        overwritten=overwritten,
        restarts=restarts,
        refused_starts=refused,
        missing_and_stated=missing,
        said="".join(log.read_text() for log in agent.folder.glob("agent.*.log")),
    )


class Overrun:
    """Have the rings overwritten what nobody had sealed? For a disk that is kept full all the while.

    What the agent frees (its reserve, old packs) lets it seal once more: then it is about what they hold after that.
    """

    def __init__(self, agent: Agent, meters: dict[str, Tally]) -> None:
        self._agent, self._meters = agent, meters
        self._pause = 0
        self._unsealed: dict[str, int] = {}

    def done(self) -> bool:
        held = in_rings(self._agent.rings, self._meters)
        pauses, ends = (self._agent.said.count(f"sealing {edge}") for edge in ("paused", "resumed"))
        if pauses == ends:  # it seals at the moment
            self._pause = 0
        elif pauses != self._pause:
            self._pause = pauses
            self._unsealed = {name: max(numbers, default=-1) for name, numbers in held.items()}
        else:
            return all(number not in held[name] for name, number in self._unsealed.items())
        return False


def refuses(agent: Agent) -> bool:
    """Start it; True if it ended at once, in words, as systemd sees it until there is room."""
    agent.start(serving=False)
    until(lambda: "serving" in agent.said or agent.process.poll() is not None, 30, lambda: agent.said)  # type: ignore[union-attr]
    if "serving" in agent.said:
        return False
    assert agent.wait() == 1 and "Free space " in agent.said, agent.said
    return True


@scenario(rounds=1, about_s=8, long=20, chunk=1, section="processes")
def starts_on_full_disks(folder: Path, house: House, rounds: int, seed: int) -> Row:
    """Ended or killed; somebody fills the disk; it starts, on its reserve, reads, and goes on when there is room."""
    rng = random.Random(seed)
    disk = small_disk(folder, house, 48)
    broker = house.broker()
    listener = house.listen(broker)
    meters = {"m1": Tally(1), "m2": Tally(2)}
    agent = house.agent(
        broker,
        {"roof": house.field.tcp(*meters.values())},
        devices_on("roof", list(meters.values())),
        every=EVERY,
        state="disk/state",
        more='[store]\nmax_size = "40 MiB"\n[ring]\nsize = "1 MiB"',
    )
    held: dict[str, set[int]] = {name: set() for name in meters}
    paused = 0
    agent.start()
    for _ in range(rounds):
        until((agent.folder / agent.state / "store.db.ballast").exists, 90, lambda: agent.said)
        counts = {name: meter.count for name, meter in meters.items()}
        for name, count in counts.items():  # who was never met cannot be read: its table could not be kept
            until(lambda name=name, count=count: max(listener.numbers(name), default=0) > count, 30, lambda: agent.said)
        pause(rng.uniform(0.0, 1.5))
        if rng.random() < 0.5:
            agent.kill()
        else:
            assert agent.stop() == 0
        hog = fill(disk)
        agent.start()
        counts = {name: meter.count for name, meter in meters.items()}
        until(lambda counts=counts: all(m.count > counts[n] for n, m in meters.items()), 30, lambda: agent.said)
        fill(disk)  # what is left of the reserve
        until(lambda: trouble(agent), 30, lambda: agent.said)
        until(lambda counts=counts: all(m.count > counts[n] + 4 for n, m in meters.items()), 30, "it reads on")
        paused += 1
        for name, numbers in in_rings(agent.rings, meters).items():
            held[name] |= numbers
        hog.unlink()
        until(lambda: not trouble(agent), 90, lambda: agent.said)
    code = bring_home(agent, listener, meters, held)
    report, books = settled(listener, agent, meters, PERIOD_MS)
    return figures(
        report,
        code=code,
        answers=sum(len(meter.served) for meter in meters.values()),
        answers_in_the_ring=sum(map(len, held.values())),
        paused=paused,
        missing_and_stated=sum(len(book.missing) for book in books.values()),
        said=agent.said,
    )


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
            until(lambda meter=meter, count=meter.count: meter.count > count, 30, lambda: agent.said)
        pause(rng.uniform(0, 0.5))
        for_long = way == "sync hangs" or rng.random() < 0.6
        shim.set(way, skip=rng.randrange(4), times=-1 if for_long else rng.randint(1, 3))
        if way != "read fails":  # what is read again is in memory, as a rule
            until(lambda: shim.hits, 30, lambda: agent.said)
        pause(rng.uniform(0.2, 2.0))
        count = max(meter.count for meter in meters.values())
        until(lambda count=count: max(m.count for m in meters.values()) > count, 30, lambda: agent.said)
        troubles += "sealing paused" in agent.said
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
        answers=sum(len(meter.served) for meter in meters.values()),
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
    # on a busy machine the first birth may be of a device that was not met yet
    until(lambda: any("table" in pack and pack["table"]["device"]["firmware"] for pack in listener.packs("m1")), 30)
    births = sum("table" in pack for pack in listener.packs("m1"))
    for n in range(rounds):
        missed = agent.said.count("cannot open")
        house.field.do(line.unplug())
        until(lambda missed=missed: agent.said.count("cannot open") > missed, 30, lambda: agent.said)
        shim.set(rng.choice(["write fails", "write full", "sync fails"]))
        meter.firmware("3" if n % 2 == 0 else "2")
        house.field.do(line.plug())
        until(lambda: trouble(agent), 30, lambda: agent.said)
        pause(rng.uniform(0.5, 1.5))
        shim.set("well")
        count = meter.count
        until(lambda count=count: meter.count > count + 2, 30, lambda: agent.said)
    code = bring_home(agent, listener, {"m1": meter})
    report, _ = settled(listener, agent, {"m1": meter}, PERIOD_MS)
    return figures(report, code=code, births=report.streams[f"{SITE}/m1"].births - births, said=agent.said)
