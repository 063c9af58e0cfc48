"""Scenario: kill -9, again and again on one database and one runtime directory."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path

from tests.kits.faults.books import figures
from tests.kits.faults.figures import give_roles, published_to, recomputed
from tests.kits.faults.home import bring_home, settled
from tests.kits.faults.rest import AtRest, Survivors
from tests.kits.faults.rows import Row, scenario
from tests.kits.faults.shim import Shim
from tests.kits.faults.tally import Tally, rescale, wait_until_asked
from tests.kits.house import PROGRAM, Agent, House, devices_on, until

PERIOD_MS = 250
WAYS = {
    "at a random moment": 10,
    "while it starts": 4,
    "in the middle of an answer": 4,
    "killed before a sync": 2,
    "killed after a sync": 2,
    "killed in a write": 2,
    "killed before a send": 2,
}
WITH_FIGURES = 20  # rounds: fewer are over before an interval is
VERSION = "import sys, agent; agent.__version__ = sys.argv.pop(1); from agent.cli.main import main; main()"


def pause(seconds: float) -> None:
    """The moment of a kill: not a wait for anything."""
    threading.Event().wait(seconds)


def die(agent: Agent, meter: Tally, shim: Shim, way: str, rng: random.Random) -> None:
    """Start the agent and see it dead."""
    if way.startswith("killed"):
        early = rng.random() < 0.3  # while it recovers what the life before left
        if early:
            shim.set(way, skip=rng.randrange(8), times=1)
        agent.start(serving=False)
        if not early:
            until(lambda: "serving" in agent.said or agent.process.poll() is not None, 30, lambda: agent.said)  # type: ignore[union-attr]
            pause(rng.uniform(0.1, 1.5))
            shim.set(way, skip=rng.randrange(6), times=1)
        assert agent.process
        until(lambda: agent.process.poll() is not None, 30, lambda: (way, shim.hits, agent.said))  # type: ignore[union-attr]
        agent.wait()
    elif way == "while it starts":
        agent.start(serving=False)
        pause(rng.uniform(0.1, 1.2))
        agent.kill()
    else:
        agent.start()
        pause(rng.uniform(0.1, 3.0))
        if way == "in the middle of an answer":
            meter.fault("bytewise=0.004*1")
            wait_until_asked(meter, 2)
            pause(rng.uniform(0, 0.08))
        agent.kill()
    shim.set("well")
    meter.well()
    pause(3 * PERIOD_MS / 1000)  # a start takes less than a tick: so some are missed between two runs


@scenario(rounds=3, about_s=3, long=200, chunk=50, section="processes")
def kills(folder: Path, house: House, rounds: int, seed: int) -> Row:
    """After each death what was served is in the store or in the ring; in the end all of that has come, once."""
    rng = random.Random(seed)
    shim = Shim(folder)
    broker = house.broker()
    listener = house.listen(broker)
    meters = {"m1": Tally(1), "m2": Tally(2)}
    agent = house.agent(
        broker,
        {"roof": house.field.tcp(*meters.values())},
        devices_on("roof", list(meters.values())),
        every=f'{{ fast = "{PERIOD_MS} ms", normal = "1 s", slow = "5 s" }}',
        more='[ring]\nsize = "1 MiB"\n[interval]\nlength = "1 min"',
        env=shim.env,
    )
    give_roles(agent, {"m1": "grid", "m2": "generation.pv"})
    profile = agent.folder / "profiles" / "test" / "tally.toml"
    survivors = Survivors(AtRest(folder / "rest", agent.kid), meters, PERIOD_MS)
    ways: Counter[str] = Counter()
    for n in range(rounds):
        way = rng.choices(list(WAYS), list(WAYS.values()))[0]
        ways[way] += 1
        if n and rng.random() < 0.3:
            rescale(profile, meters.values(), rng.choice([Decimal("0.1"), Decimal("0.01"), Decimal("10")]))
        agent.program = ("-c", VERSION, f"0.{n // 5}") if rng.random() < 0.3 else PROGRAM
        die(agent, rng.choice(list(meters.values())), shim, way, rng)
        assert not [path for path in agent.rings if path.suffix == ".aside"], way
        survivors.check(agent.folder / "state", agent.rings, list(listener.heard), way)
    agent.program = PROGRAM
    if rounds >= WITH_FIGURES:
        agent.start()
        served_until = time.time()
        until(lambda: published_to(listener) > served_until, 200, lambda: agent.said)
    code = bring_home(agent, listener, meters, survivors.held)
    repeated = recomputed(agent, folder / "packs")
    assert not repeated["differ"], repeated["differing"]
    report, books = settled(listener, agent, meters, PERIOD_MS)
    survivors.check_end(books)
    return figures(
        report,
        code=code,
        ways=dict(ways),
        figures_that_agree=repeated["agree"],
        figures_that_differ=repeated["differ"],
        figures_not_repeated=repeated["unknown"],
        answers=sum(len(meter.served) for meter in meters.values()),
        answers_in_the_ring=sum(map(len, survivors.held.values())),
        answers_on_the_wire=sum(map(len, survivors.on_the_wire.values())),
    )
