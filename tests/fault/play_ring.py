"""Scenario: kill -9 at every step of a change from one ring to a larger one, and of the recovery after it."""

from __future__ import annotations

import random
import signal
from collections import Counter
from pathlib import Path

from tests.fault.play_kill import pause
from tests.kits.faults.books import figures
from tests.kits.faults.home import bring_home, settled
from tests.kits.faults.rest import AtRest, Survivors
from tests.kits.faults.rows import Row, scenario
from tests.kits.faults.tally import Tally
from tests.kits.house import PROGRAM, Agent, House, until

PERIOD_MS = 250
# The agent, killed by itself at the named step: the kill is a real one, and its moment does not depend on the machine.
KILLED = r"""
import os, signal, sys
from agent.service import app, devices, recovery, reload, rings

step = sys.argv.pop(1)

def die(*args, **more):
    os.kill(os.getpid(), signal.SIGKILL)

def at(owner, name, before=False, when=lambda *args: True, calls=1):
    real, left = getattr(owner, name), [calls]
    def hit(*args):
        if when(*args):
            left[0] -= 1
            if left[0] == 0:
                die()
    def plain(*args, **more):
        if before:
            hit(*args)
        result = real(*args, **more)
        if not before:
            hit(*args)
        return result
    async def waited(*args, **more):
        if before:
            hit(*args)
        result = await real(*args, **more)
        if not before:
            hit(*args)
        return result
    setattr(owner, name, waited if real.__code__.co_flags & 0x80 else plain)

second = lambda files, *args: files._count == 2
changing = lambda service, *args: service.rings.changing
ring = lambda path, *args: path.name.startswith("ring.")
if step == "while the file is made":
    rename = os.rename
    os.rename = lambda old, new, **more: die() if str(new).endswith(".2") else rename(old, new, **more)
elif step == "when the file is made":
    at(rings.RingFiles, "create", when=second)
elif step == "before the commit":
    at(reload.Reloader, "_commit", before=True)
elif step == "after the commit":
    at(reload.Reloader, "_commit")
elif step == "when it is in use":
    at(rings.RingFiles, "use", when=lambda files, *args: files.changing)
elif step == "when the first device has moved":
    at(devices, "_move")
elif step == "when the second device has moved":
    at(devices, "_move", calls=2)
elif step == "when all have moved":
    at(reload, "move_to_ring")
elif step == "before the first ring is removed":
    at(rings.RingFiles, "remove_sealed", before=True, when=lambda files, *args: files.changing)
elif step == "when the first ring is removed":
    at(rings, "discard")
elif step == "when its tables are forgotten":
    at(app.Service, "remove_sealed_rings", when=lambda service: service.rings._count == 2)
elif step == "while they are recovered":
    at(recovery, "_recover_rings", before=True)
elif step == "when they are recovered":
    at(recovery, "_recover_rings")
elif step == "when one is removed":
    at(recovery.Path, "unlink", when=ring)
from agent.cli.main import main
main()
"""
STEPS = (
    "while the file is made", "when the file is made", "before the commit", "after the commit", "when it is in use",
    "when the first device has moved", "when the second device has moved", "when all have moved",
    "before the first ring is removed", "when the first ring is removed", "when its tables are forgotten",
)  # fmt: skip
RECOVERIES = ("while they are recovered", "when they are recovered", "when one is removed")
SMALL, LARGE = '[ring]\nsize = "64 KiB"', '[ring]\nsize = "1 MiB"'


def dies(agent: Agent) -> None:
    """Wait until it has killed itself."""
    assert agent.process
    until(lambda: agent.process.poll() is not None, 60, lambda: agent.said)  # type: ignore[union-attr]
    assert agent.wait() == -signal.SIGKILL, agent.said


@scenario(rounds=len(STEPS), about_s=3, long=110, chunk=55, section="processes")
def ring_changes(folder: Path, house: House, rounds: int, seed: int) -> Row:
    """After each death what was served is in the store or in one of the rings; in the end all of it has come, once."""
    rng = random.Random(seed)
    broker = house.broker()
    listener = house.listen(broker)
    meters = {f"m{n}": Tally(n) for n in range(1, 4)}
    agent = house.agent(
        broker,
        {f"l{n}": house.field.tcp(meter) for n, meter in enumerate(meters.values())},
        {name: (f"l{n}", meter.unit) for n, (name, meter) in enumerate(meters.items())},
        every=f'{{ fast = "{PERIOD_MS} ms", normal = "1 s", slow = "5 s" }}',
        more=SMALL,
    )
    survivors = Survivors(AtRest(folder / "rest", agent.kid), meters, PERIOD_MS)
    steps: Counter[str] = Counter()
    two = 0
    for n in range(rounds):
        step = STEPS[n % len(STEPS)]
        steps[step] += 1
        agent.more, agent.program = SMALL, ("-c", KILLED, step)
        agent.configure()
        agent.start()
        counts = {name: meter.count for name, meter in meters.items()}
        until(lambda counts=counts: all(m.count > counts[name] + 3 for name, m in meters.items()), 30,  # type: ignore[misc]
              lambda: agent.said)  # fmt: skip
        pause(rng.uniform(0, 0.5))
        agent.more = LARGE
        agent.configure()
        agent.send(signal.SIGHUP)
        dies(agent)
        rings = [path for path in agent.rings if ".new" not in path.name]
        two += len(rings) == 2
        assert not [path for path in agent.rings if path.suffix == ".aside"], step
        if n % 2:  # and once more, in the middle of the recovery
            again = rng.choice(RECOVERIES)
            steps[again] += 1
            survivors.hold(rings)
            agent.program = ("-c", KILLED, again)
            agent.start(serving=False)
            dies(agent)
            rings = [path for path in agent.rings if ".new" not in path.name]
        survivors.check(agent.folder / "state", rings, list(listener.heard), step)
    agent.program = PROGRAM
    code = bring_home(agent, listener, meters, survivors.held)
    report, books = settled(listener, agent, meters, PERIOD_MS)
    survivors.check_end(books)
    return figures(
        report,
        code=code,
        steps=dict(steps),
        two_rings=two,
        answers=sum(len(meter.served) for meter in meters.values()),
        answers_in_the_ring=sum(map(len, survivors.held.values())),
        answers_on_the_wire=sum(map(len, survivors.on_the_wire.values())),
    )
