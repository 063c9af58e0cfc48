"""Scenarios: workers, databases, brokers and nodes of a cluster die while a fleet sends; nothing is lost or doubled.

A made-up fleet is balanced after each round. A real agent with ``confirm = "platform"`` is there through all of them
and is balanced at the end.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.verify.signed import payload_hash
from tests.kits.broker import Name, until
from tests.kits.faults.rows import Row, scenario
from tests.kits.house import SECONDLY, SITE, Agent, House, Meter

RATE = 30.0  # packs a second of the made-up fleet
OUTAGE_S = 30.0  # of a shard
LONG = 20  # rounds of a soak


def pause(seconds: float) -> None:
    """The moment of a kill: not a wait for anything."""
    threading.Event().wait(seconds)


@dataclass
class Url:
    """A broker as an agent's configuration sees it."""

    url: str


class Scene:
    """Platform, fleet and agent of one scenario."""

    def __init__(self, house: House, platform: Any, fleet: Any, agent: Agent) -> None:
        self.house, self.platform, self.fleet, self.agent = house, platform, fleet, agent
        self.row: dict[str, int] = {}
        self.balances = 0
        self.broker: Any = None  # where it is a mosquitto

    def balance(self) -> None:
        """After a round: all that was sealed is stored, once, and nothing else."""
        self.fleet.pause()
        until(lambda: not self.fleet.owed, 240, lambda: (self.fleet.owed, "packs owed", self.platform.said()))
        wrong = self.platform.settle(self.fleet.sealed, self.fleet.readings, others=SITE)
        assert not any(wrong.values()), (wrong, self.platform.said())
        for key, name in (("lost", "fleet_lost"), ("twice", "fleet_stored_twice"), ("differ", "fleet_different")):
            self.row[name] = self.row.get(name, 0) + wrong[key]
        assert not self.fleet.wrong, self.fleet.wrong[:3]
        self.balances += 1
        print(f"  balanced for the {self.balances}th time: {len(self.fleet.sealed)} packs", file=sys.stderr, flush=True)
        self.fleet.go_on()

    def grows(self, shard: int | None = None) -> None:
        before = sum(self.platform.stored(shard).values())
        until(lambda: sum(self.platform.stored(shard).values()) > before + 20, 90, self.platform.said)

    def finish(self) -> Row:
        """The agent's books: what it sealed is what is stored, to the byte; its outbox emptied before."""
        agent, platform = self.agent, self.platform
        until(lambda: waiting(agent) <= 4, 400, lambda: (agent.snapshot()["uplinks"], platform.said()))
        agent.stop()
        sealed = hashes(agent)
        while missing := sealed.items() - self._of_agent().items():
            agent.start()
            until(lambda: missing <= self._of_agent().items(), 400, platform.said)
            agent.stop()
            sealed = hashes(agent)
        stored = self._of_agent()
        self.fleet.pause()
        self.balance()
        assert platform.count("SELECT count(*) FROM all_findings") == 0
        return {
            "packs": len(self.fleet.sealed) + len(sealed),
            "readings": self.fleet.readings,
            "agent_sealed": len(sealed),
            "agent_stored": len(stored),
            "agent_different": len(stored.items() ^ sealed.items()),
            **self.row,
        }  # fmt: skip

    def _of_agent(self) -> dict[Name, bytes]:
        from receiver.database import boot_text

        names = self.platform.names()
        return {
            (names[stream], boot_text(boot), seq): digest
            for ((stream, boot, seq), digest) in self.platform.stored()
            if names[stream].startswith(f"{SITE}/")
        }


def waiting(agent: Agent) -> int:
    return int(agent.snapshot()["uplinks"]["platform"]["waiting"])


def hashes(agent: Agent) -> dict[Name, bytes]:
    """The first 16 bytes of the hash of each pack in the agent's store, while it does not run."""
    return {name: payload_hash(body)[:16] for name, body in agent.bodies().items()}


@contextmanager
def scene(
    folder: Path, house: House, source: str, broker: str, ports: list[int], confirm: Any, seed: int,
    rate: float = RATE, shards: int = 1, workers: int = 2,
) -> Iterator[Scene]:  # fmt: skip
    """All of it running, with packs of fleet and agent stored."""
    from receiver.trust import Enrolment
    from tests.kits.made_fleet import LivelyFleet
    from tests.kits.platform import Platform

    platform = Platform(folder / "platform", source, broker, shards, workers)
    try:
        platform.start()
        agent = house.agent(
            Url(f"mqtt://127.0.0.1:{ports[0]}"), {"roof": house.field.tcp(Meter(1), Meter(2))},  # type: ignore[arg-type]
            {"m1": ("roof", 1), "m2": ("roof", 2)}, every=SECONDLY, uplink='confirm = "platform"',
        )  # fmt: skip
        platform.enrol([Enrolment(SITE, [agent.kid])])
        until(lambda: ready(platform), 60, platform.said)
        fleet = LivelyFleet(ports, confirm, rate, seed=seed)
        platform.enrol(fleet.enrolments)
        fleet.start()
        try:
            agent.start()
            made = Scene(house, platform, fleet, agent)
            made.grows()
            yield made
        finally:
            fleet.close()
    except BaseException:
        print(platform.said(), flush=True)
        raise
    finally:
        platform.close()


def ready(platform: Any) -> bool:
    return all("connected" in (platform.folder / f"{name}.log").read_text() for name in platform.workers)


def need(what: Callable[[], object]) -> Any:
    """Skip where an engine is not installed."""
    from drivers.model import GatewayError

    try:
        return what()
    except GatewayError as error:
        pytest.skip(str(error))


def on_mosquitto(
    folder: Path, house: House, rounds: int, seed: int, confirm: str, harm: Callable[[Scene, random.Random], None]
) -> Row:
    from receiver.private_postgres import find_programs

    need(find_programs)
    rng = random.Random(seed)
    broker = house.broker("max_inflight_bytes 0", "persistence false")
    with scene(folder, house, broker.url, broker.url, [broker.port], confirm, seed) as made:
        made.broker = broker
        for _ in range(rounds):
            pause(rng.uniform(0.2, 1.5))
            harm(made, rng)
            made.grows()
            made.balance()
        return made.finish()


@scenario(rounds=1, about_s=15, long=LONG, chunk=LONG, section="platform")
def platform_worker_kills(folder: Path, house: House, rounds: int, seed: int) -> Row:
    """kill -9 of a worker; what counts as delivered is what mosquitto confirmed."""

    def harm(made: Scene, rng: random.Random) -> None:
        name = rng.choice(made.platform.workers)
        made.platform.kill(name)
        pause(rng.uniform(0, 1.5))
        made.platform.start_process(name)

    return on_mosquitto(folder, house, rounds, seed, "broker", harm)


@scenario(rounds=1, about_s=15, long=LONG, chunk=LONG, section="platform")
def platform_database_stops(folder: Path, house: House, rounds: int, seed: int) -> Row:
    """`immediate` stop of the database, as a power cut."""

    def harm(made: Scene, rng: random.Random) -> None:
        made.platform.servers[0].stop("immediate")
        pause(rng.uniform(0, 2))
        made.platform.servers[0].start()

    return on_mosquitto(folder, house, rounds, seed, "broker", harm)


@scenario(rounds=1, about_s=20, long=LONG, chunk=LONG, section="platform")
def platform_broker_kills(folder: Path, house: House, rounds: int, seed: int) -> Row:
    """kill -9 of a mosquitto that keeps nothing on disk; only an ack of the platform counts."""

    def harm(made: Scene, rng: random.Random) -> None:
        made.broker.stop(kill=True)
        pause(rng.uniform(0, 1))
        made.broker.start()

    return on_mosquitto(folder, house, rounds, seed, "platform", harm)


@scenario(rounds=2, about_s=45, long=2 * LONG, chunk=10, section="platform")
def platform_node_kills(folder: Path, house: House, rounds: int, seed: int) -> Row:
    """kill -9 of a node of three, by turns the leader of the queue and a follower; what counts is the PUBACK."""
    from receiver.private_postgres import find_programs
    from receiver.private_rabbitmq import PrivateRabbit

    need(find_programs)
    rng = random.Random(seed)
    rabbit = need(lambda: PrivateRabbit(3))
    house.at_end(rabbit.stop)
    rabbit.start()
    ports = [node.mqtt_port for node in rabbit.nodes]
    with scene(folder, house, rabbit.amqp_url(), rabbit.mqtt_url(), ports, "broker", seed, rate=RATE / 2) as made:
        killed = {"leader_kills": 0, "follower_kills": 0}
        for number in range(rounds):
            leader, online = until(lambda: on_all(rabbit), 90, "the queue is on all nodes")
            of_leader = number % 2 == 0
            node = leader if of_leader else rng.choice([one for one in online if one is not leader])
            killed["leader_kills" if of_leader else "follower_kills"] += 1
            node.kill()
            made.grows()  # two of three are a majority
            node.start()
            node.wait()
            made.balance()
        made.row |= killed
        return made.finish()


def on_all(rabbit: Any) -> Any:
    """The leader and the nodes of the queue, once it is up on all of them."""
    found = rabbit.leader_of("meterhouse")
    if len(found[1]) == len(rabbit.nodes):
        return found
    pause(1.0)
    return None


@scenario(rounds=1, about_s=60, long=LONG, chunk=LONG, section="platform")
def platform_shard_outages(folder: Path, house: House, rounds: int, seed: int) -> Row:
    """One of two databases is away for 30 s, with more packs than a worker's window holds: the other one goes on."""
    from receiver.database import shard_of
    from receiver.private_postgres import find_programs
    from receiver.private_rabbitmq import PrivateRabbit

    need(find_programs)
    rng = random.Random(seed)
    rabbit = need(lambda: PrivateRabbit(1))
    house.at_end(rabbit.stop)
    rabbit.start()
    ports = [node.mqtt_port for node in rabbit.nodes]
    with scene(
        folder, house, rabbit.amqp_url(), rabbit.mqtt_url(), ports, "broker", seed, rate=160, shards=2, workers=1
    ) as made:
        went_on = 0
        for _ in range(rounds):
            gone = rng.randrange(2)
            server, other = made.platform.servers[gone], 1 - gone
            with made.fleet._lock:
                before = set(made.fleet.sealed)
            server.stop("immediate")
            began = time.monotonic()
            pause(OUTAGE_S - 3)
            with made.fleet._lock:
                due = {
                    key: digest for key, digest in made.fleet.sealed.items()
                    if shard_of(made.fleet.gateway_of[key[0]], 2) == other
                }  # fmt: skip
            until(lambda: made.platform.holds(due, other), 60, made.platform.said)  # noqa: B023
            went_on += len(due.keys() - before)
            pause(max(0.0, OUTAGE_S - (time.monotonic() - began)))
            server.start()
            made.grows(gone)
            made.balance()
        made.row["stored_meanwhile"] = went_on
        return made.finish()
