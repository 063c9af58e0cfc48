"""Scenario: the agent is killed at the very moment at which a broker reads a pack that nobody has ever acknowledged."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

from agent.store import Store
from tests.kits.fake_broker import SILENT, FakeBroker, Sent
from tests.kits.faults.books import balance, bodies, figures
from tests.kits.faults.rows import Row, scenario
from tests.kits.house import SECONDLY, Agent, Heard, House, Listener, Meter, until, whole


class Executioner:
    """A broker of its own making: kills the agent when so many packs of this start have come, unacknowledged."""

    packs = Listener.packs
    numbers = Listener.numbers
    events = Listener.events

    def __init__(self, house: House) -> None:
        self.heard: list[Heard] = []
        self.left = 1 << 30
        self.agent: Agent | None = None
        self.fake = FakeBroker(answer=self._answer)
        house.at_end(self.fake.close)

    def _answer(self, sent: Sent) -> int | None:
        self.heard.append(Heard(time.monotonic(), sent.topic, sent.payload, sent.retain))
        if sent.topic.endswith(("/readings", "/backfill")):
            self.left -= 1
            if self.left == 0:
                assert self.agent and self.agent.process
                os.kill(self.agent.process.pid, signal.SIGKILL)
            if self.left <= 0:
                return SILENT
        return 0


@scenario(rounds=2, about_s=3, long=60, chunk=20)
def kills_before_the_acknowledgement(folder: Path, house: House, rounds: int, seed: int) -> Row:
    """What a broker has read, acknowledged or not, is in the store as the identical bytes, and stays the only one."""
    rng = random.Random(seed)
    broker = Executioner(house)
    meter = Meter(1)
    agent = house.agent(None, {"roof": house.field.tcp(meter)}, {"m1": ("roof", 1)}, every=SECONDLY,
                        more=f'[[uplink]]\nname = "platform"\nurl = "mqtt://127.0.0.1:{broker.fake.port}"')  # fmt: skip
    broker.agent = agent
    checked = 0
    for _ in range(rounds):
        broker.left = rng.randint(1, 8)
        agent.start(serving=False)
        assert agent.process
        until(lambda: agent.process.poll() is not None, 30, lambda: agent.said)  # type: ignore[union-attr]
        agent.wait()
        store = Store.open(folder / "state" / "store.db", 1 << 30, destinations=["platform"])
        try:
            for pack in bodies(broker.heard):
                page = store.packs.replay(pack["stream"], pack["boot"], pack["seq"], pack["seq"])
                sent = {m.payload for m in broker.heard if m.road in ("readings", "backfill")}
                assert page.items and page.items[0].data in sent, f"{pack['stream']} {pack['seq']} was published only"
                checked += 1
        finally:
            store.close()
    broker.left = 1 << 30
    agent.start()
    count = meter.count + 2
    until(lambda: max(broker.numbers("m1"), default=0) >= count and whole(broker, "m1"), 30, lambda: agent.said)  # type: ignore[arg-type]
    code = agent.stop()
    until(lambda: whole(broker, "m1") and whole(broker, "_gateway"), 30, lambda: agent.said)  # type: ignore[arg-type]
    report = balance(broker.heard, agent.kid, {"m1": meter})
    return figures(report, code=code, packs_looked_up=checked)
