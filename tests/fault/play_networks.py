"""Scenarios: what networks do. A namespace with the agent and a broker in it, and the kernel's own faults."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.fault.play_brokers import state, tap_to
from tests.kits.faults.books import balance, came, figures
from tests.kits.faults.rows import Row, scenario
from tests.kits.house import SECONDLY, Broker, House, Meter, come_home, one_meter, until, whole

WHY_NOT = (
    "only root may make a network namespace (run as root)"
    if os.geteuid()
    else ""
    if shutil.which("nft")
    else "nft is not installed (apt: nftables)"
)
# nft rules of the chains in and out, or commands in the namespace; PORT is the broker's
KINDS = {
    "black hole": "add rule inet t in tcp dport PORT drop; add rule inet t in tcp sport PORT drop",
    "one way only": "add rule inet t in tcp sport PORT drop",
    "a third is lost": "add rule inet t in tcp dport PORT numgen random mod 100 < 30 drop;"
    "add rule inet t in tcp sport PORT numgen random mod 100 < 30 drop",
    "refused": "add rule inet t in tcp dport PORT reject with tcp reset",
    "cable out": "link set lo down",
    "modem": "qdisc add dev lo root tbf rate 64kbit burst 4kb latency 400ms",
}


class Island(Broker):
    """mosquitto in a network namespace of its own; subscribers reach it by a socket in the file system."""

    def __init__(self, house: House, name: str) -> None:
        self.name = name
        self.unix = str(house.folder / "broker.sock")
        super().__init__(house.folder, f"listener 0 {self.unix}")
        self.do("ip", "netns", "add", name)
        house.at_end(lambda: self.do("ip", "netns", "del", name))
        self.ip("link", "set", "lo", "up", "mtu", "1500")
        self.nft("add table inet t; add chain inet t in { type filter hook input priority 0; }")
        house.at_end(self.stop)
        self.start()

    @staticmethod
    def do(*words: str) -> None:
        subprocess.run(words, check=True, capture_output=True)

    def ip(self, *words: str) -> None:
        self.do("ip", "-n", self.name, *words)

    def nft(self, text: str) -> None:
        self.do("ip", "netns", "exec", self.name, "nft", text)

    @property
    def inside(self) -> tuple[str, ...]:
        """What stands before a command that shall run in there."""
        return ("ip", "netns", "exec", self.name)

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([*self.inside, "mosquitto", "-c", str(self.conf)], stdout=log, stderr=log)

        def answers() -> bool:
            with socket.socket(socket.AF_UNIX) as probe:
                return probe.connect_ex(self.unix) == 0

        until(answers, what=self._log.read_text)

    def break_it(self, kind: str) -> None:
        if kind == "cable out":
            self.ip(*KINDS[kind].split())
        elif kind == "modem":
            self.do(*self.inside, "tc", *KINDS[kind].split())
        else:
            self.nft(KINDS[kind].replace("PORT", str(self.port)))

    def mend(self, kind: str) -> None:
        if kind == "cable out":
            self.ip("link", "set", "lo", "up")
        elif kind == "modem":
            self.do(*self.inside, "tc", "qdisc", "del", "dev", "lo", "root")
        else:
            self.nft("flush chain inet t in")


@scenario(rounds=6, about_s=20, long=60, chunk=20)
def networks(folder: Path, house: House, rounds: int, seed: int) -> Row:
    """The kernel drops, tears or refuses packets, or lets through a trickle, for seconds up to a minute; then not."""
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    rng = random.Random(seed)
    island = Island(house, f"mh-{os.getpid()}-{seed % 10_000}")
    listener = house.listen(island)
    meter = Meter(1)
    agent = house.agent(
        island, {"cabinet": house.field.serial(folder / "tty", meter)}, {"m1": ("cabinet", 1)},
        every=SECONDLY, before=island.inside,
    )  # fmt: skip
    agent.start()
    until(lambda: len(listener.packs("m1")) >= 2, 30, lambda: agent.said)
    names, back_s = list(KINDS), [0.0]
    for n in range(rounds):
        kind = names[n] if n < len(names) else rng.choice(names)
        island.break_it(kind)
        try:
            threading.Event().wait(rng.uniform(2, 25 if n < len(names) else 60))  # the trouble itself
        finally:
            island.mend(kind)
        mended, count = time.monotonic(), meter.count + 2
        until(lambda count=count: came(listener, count), 60, lambda kind=kind: (kind, agent.said))
        back_s.append(time.monotonic() - mended)
    code = come_home(agent, listener)
    report = balance(listener.heard, agent.kid, {"m1": meter})
    return figures(report, code=code, longest_recovery_s=round(max(back_s), 1),
                   most_log_lines=len(agent.said.splitlines()),
                   connections=sum("connected to" in line for line in agent.said.splitlines()))  # fmt: skip


WIRES = ("swallow", "hold", "tear", "refuse", "thin")


@scenario(rounds=2, about_s=4, long=40, chunk=20)
def bad_wires(folder: Path, house: House, rounds: int, seed: int) -> Row:
    """A proxy that swallows, stalls, tears packets apart, refuses, or lets through a trickle; needs no root."""
    rng = random.Random(seed)
    broker, listener, meter, agent = one_meter(folder, house, every=SECONDLY)
    tap = tap_to(house, broker)
    agent.broker = None
    agent.more = f'[[uplink]]\nname = "platform"\nurl = "{tap.url}"'
    agent.configure()
    agent.start()
    until(lambda: len(listener.packs("m1")) >= 2, 30, lambda: agent.said)
    back_s = 0.0
    for n in range(rounds):
        kind = WIRES[n] if n < len(WIRES) else rng.choice(WIRES)
        if kind == "tear":
            tap.tears = rng.randint(1, 3)
        elif kind == "thin":
            tap.rate = 3_000.0
        else:
            tap.mode = kind
        count = meter.count + (2 if rounds <= 2 else rng.randint(2, 45))
        until(lambda count=count: meter.count >= count, 60, "the trouble itself")
        tap.mode, tap.tears, tap.rate = "pass", 0, 0.0
        mended, count = time.monotonic(), meter.count + 1
        until(lambda count=count: came(listener, count), 60, lambda kind=kind: (kind, agent.said))
        back_s = max(back_s, time.monotonic() - mended)
    code = come_home(agent, listener)
    report = balance(listener.heard, agent.kid, {"m1": meter})
    return figures(report, code=code, longest_recovery_s=round(back_s, 1), connections=len(tap.connects),
                   most_log_lines=len(agent.said.splitlines()))  # fmt: skip


@scenario(rounds=1, about_s=45, long=3)
def thin_link(folder: Path, house: House, rounds: int, seed: int) -> Row:
    """A link that carries little more than what comes fresh, and a backlog before it: all of it gets through."""
    broker, listener, meter, agent = one_meter(folder, house, every=SECONDLY)
    tap = tap_to(house, broker)
    agent.broker = None
    agent.more = f'[[uplink]]\nname = "platform"\nurl = "{tap.url}"'
    agent.configure()
    agent.start()
    until(lambda: len(listener.packs("m1")) >= 2, 30, lambda: agent.said)
    slowest = 0.0
    for _ in range(rounds):
        tap.mode = "refuse"
        count = meter.count + 20
        until(lambda count=count: meter.count >= count, 40, "a backlog")
        tap.rate, tap.mode, connects = 2_500.0, "pass", len(tap.connects)
        began = time.monotonic()
        until(lambda count=count: came(listener, count) and whole(listener, "m1"), 150,
              lambda: (agent.said, state(agent, "platform")))  # fmt: skip
        slowest = max(slowest, time.monotonic() - began)
        connects = len(tap.connects) - connects
        tap.rate = 0.0
    code = come_home(agent, listener)
    report = balance(listener.heard, agent.kid, {"m1": meter})
    return figures(report, code=code, longest_drain_s=round(slowest, 1), connections=connects)
