"""Scenarios: links that die oddly, for up to a minute: the port is open, and no pack gets through."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from agent.verify import Report
from tests.fault.play_networks import WHY_NOT, Island
from tests.kits.fake_broker import HANG_UP, FakeBroker, Sent
from tests.kits.faults.books import balance, figures
from tests.kits.faults.rows import Row, scenario
from tests.kits.house import SECONDLY, Heard, House, Listener, Meter, come_home, until

SOON_S = 10.0  # the first value arrives within this time after the link is whole
LARGE = 2_000  # bytes of a message from which on it is too large for a broker that says nothing about it
WELL_S = 20.0  # how long the link is whole between two deaths


class DyingBroker:
    """A broker of its own making that closes the connection at each message for which ``dies`` is true."""

    packs, names, numbers, events = Listener.packs, Listener.names, Listener.numbers, Listener.events

    def __init__(self, house: House) -> None:
        self.dies: Callable[[Sent], bool] = lambda sent: False
        self.heard: list[Heard] = []  # what it acknowledged
        self.fake = FakeBroker(answer=self._answer)
        house.at_end(self.fake.close)

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.fake.port}"

    def _answer(self, sent: Sent) -> int:
        if self.dies(sent):
            return HANG_UP
        self.heard.append(Heard(time.monotonic(), sent.topic, sent.payload, sent.retain))
        return 0


def arrivals(ear: Any, device: str, least: int = 0) -> list[float]:
    """When packs of a device arrived. ``least``: only those of more than this number of bytes."""
    roads = ("readings", "backfill")
    return [m.at for m in list(ear.heard)
            if m.road in roads and m.topic.split("/")[-2] == device and len(m.payload) > least]  # fmt: skip


def recovery(ear: Any, device: str, whole_s: float, said: Callable[[], object], least: int = 0) -> float:
    """Wait for the first pack of a device that arrives after ``whole_s``. Returns how many seconds it took."""
    return until(lambda: [at for at in arrivals(ear, device, least) if at >= whole_s], 90, said)[0] - whole_s


def recovered(report: Report, took: list[float], **more: object) -> Row:
    """The row of a scenario whose books balance: no reading is lost, and none is in two packs."""
    print(f"{len(took)} trials: first value after {sorted(round(s, 1) for s in took)} s; lost 0, doubled 0", flush=True)
    return figures(report, longest_recovery_s=round(max(took), 1), recoveries_in_time=sum(s <= SOON_S for s in took),
                   recoveries_s=[round(s, 1) for s in took], **more)  # fmt: skip


@scenario(rounds=1, about_s=30, long=20, chunk=5)
def closes_before_it_acknowledges(folder: Path, house: House, rounds: int, seed: int) -> Row:
    """The broker accepts each connection, and closes it at the first message, before it acknowledges any."""
    rng = random.Random(seed)
    broker, meter = DyingBroker(house), Meter(1)
    agent = house.agent(None, {"roof": house.field.tcp(meter)}, {"m1": ("roof", 1)}, every=SECONDLY,
                        more=f'[[uplink]]\nname = "platform"\nurl = "{broker.url}"')  # fmt: skip
    agent.start()
    until(lambda: len(broker.packs("m1")) >= 2, 30, lambda: agent.said)
    took: list[float] = []
    for _ in range(rounds):
        broker.dies = lambda sent: True
        threading.Event().wait(rng.uniform(5, 20) if rounds == 1 else rng.uniform(20, 70))  # the death itself
        whole_s = time.monotonic()
        broker.dies = lambda sent: False
        took.append(recovery(broker, "m1", whole_s, lambda: agent.said))
        threading.Event().wait(rng.uniform(1, WELL_S))  # the moment of the next death
    code = come_home(agent, broker)  # type: ignore[arg-type]
    report = balance(broker.heard, agent.kid, {"m1": meter})
    return recovered(report, took, code=code, most_log_lines=len(agent.said.splitlines()))


@scenario(rounds=1, about_s=70, long=20, chunk=5)
def black_holes(folder: Path, house: House, rounds: int, seed: int) -> Row:
    """The kernel drops all packets of the broker for a minute, without a reset, in the middle of a connection."""
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    rng = random.Random(seed)
    island = Island(house, f"mh-{os.getpid()}-{seed % 10_000}")
    ear, meter = house.listen(island), Meter(1)
    agent = house.agent(
        island, {"cabinet": house.field.serial(folder / "tty", meter)}, {"m1": ("cabinet", 1)},
        every=SECONDLY, before=island.inside,
    )  # fmt: skip
    agent.start()
    until(lambda: len(ear.packs("m1")) >= 2, 30, lambda: agent.said)
    took: list[float] = []
    for _ in range(rounds):
        island.break_it("black hole")
        try:
            threading.Event().wait(rng.uniform(50, 70))  # the death itself
        finally:
            whole_s = time.monotonic()
            island.mend("black hole")
        took.append(recovery(ear, "m1", whole_s, lambda: agent.said))
        threading.Event().wait(rng.uniform(1, WELL_S))  # the moment of the next death
    code = come_home(agent, ear)
    report = balance(ear.heard, agent.kid, {"m1": meter})
    return recovered(report, took, code=code, most_log_lines=len(agent.said.splitlines()))


@scenario(rounds=1, about_s=40, long=20, chunk=5)
def disconnects_at_large_packs(folder: Path, house: House, rounds: int, seed: int) -> Row:
    """The broker closes the connection at each large message and says nothing; one device makes such packs."""
    rng = random.Random(seed)
    broker, small, large = DyingBroker(house), Meter(1), Meter(2)
    agent = house.agent(None, {"roof": house.field.tcp(small), "hall": house.field.tcp(large)}, {"m1": ("roof", 1)},
                        every=SECONDLY, more=f'[[uplink]]\nname = "platform"\nurl = "{broker.url}"\n\n[[device]]\n'
                        'name = "m2"\nline = "hall"\naddress = "2"\nprofile = "test/tally"\n'
                        'every = { fast = "50 ms", normal = "50 ms", slow = "50 ms" }')  # fmt: skip
    agent.start()
    until(lambda: len(broker.packs("m1")) >= 2 and len(broker.packs("m2")) >= 2, 30, lambda: agent.said)
    took: list[float] = []
    longest_gap_s = 0.0
    for _ in range(rounds):
        began_s = time.monotonic()
        broker.dies = lambda sent: len(sent.payload) > LARGE
        threading.Event().wait(15 if rounds == 1 else rng.uniform(30, 70))  # the death itself
        whole_s = time.monotonic()
        broker.dies = lambda sent: False
        took.append(recovery(broker, "m2", whole_s, lambda: agent.said, LARGE))
        pace = [began_s, *(at for at in arrivals(broker, "m1") if began_s < at < whole_s), whole_s]
        longest_gap_s = max(longest_gap_s, *(b - a for a, b in pairwise(pace)))
        threading.Event().wait(rng.uniform(1, WELL_S))  # the moment of the next death
    set_aside = agent.snapshot()["uplinks"]["platform"]["set_aside"]
    code = come_home(agent, broker)  # type: ignore[arg-type]
    report = balance(broker.heard, agent.kid, {"m1": small, "m2": large})
    return recovered(report, took, code=code, longest_gap_of_the_other_stream_s=round(longest_gap_s, 1),
                     connections=len(broker.fake.connects), set_aside=set_aside,
                     most_log_lines=len(agent.said.splitlines()))  # fmt: skip
