"""Scenarios: brokers that are stopped or killed and come back, with or without their memory."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from agent.verify.signed import payload_of
from tests.fault.play_brokers import broker_at, tap_to, uplinks
from tests.kits.books import counted
from tests.kits.faults.books import balance, came, ended, figures
from tests.kits.faults.rows import Row, scenario
from tests.kits.house import (
    SECONDLY,
    SITE,
    Agent,
    Broker,
    House,
    Listener,
    Meter,
    come_home,
    devices_on,
    until,
    whole,
)

KEPT = ("persistence true", "persistence_file kept.db", "autosave_interval 1")


class Platform(Listener):
    """Acknowledges each pack that it has, as a platform does."""

    def _came(self, client: Any, userdata: object, message: Any) -> None:
        super()._came(client, userdata, message)
        if message.topic.endswith(("/readings", "/backfill")):
            pack = json.loads(message.payload)
            digest = hashlib.sha256(payload_of({k: v for k, v in pack.items() if k != "sig"})).digest()
            ack = {"stream": pack["stream"], "boot": pack["boot"], "first": pack["seq"], "last": pack["seq"],
                   "hash": base64.urlsafe_b64encode(digest).rstrip(b"=").decode()}  # fmt: skip
            client.publish(f"meterhouse/v1/{SITE}/ack", json.dumps(ack), 1)


def away(broker: Broker, kill: bool, seconds: float) -> None:
    """Stopped or killed, and started again after a while."""
    broker.stop(kill=kill)
    threading.Event().wait(seconds)  # the outage itself
    broker.start()


@scenario(rounds=2, about_s=5, long=40, chunk=20)
def broker_outages(folder: Path, house: House, rounds: int, seed: int) -> Row:
    """Two brokers stop and come back at moments of their own; one remembers sessions and retained messages."""
    rng = random.Random(seed)
    brokers = {
        "plain": broker_at(house, "plain"),
        "kept": broker_at(house, "kept", *KEPT, f"persistence_location {folder}/kept/"),
    }
    ears = {name: house.listen(broker) for name, broker in brokers.items()}
    meter = Meter(1)
    agent = house.agent(None, {"roof": house.field.tcp(meter)}, {"m1": ("roof", 1)}, every=SECONDLY,
                        more=uplinks({name: broker.url for name, broker in brokers.items()}))  # fmt: skip
    agent.start()
    for ear in ears.values():
        until(lambda ear=ear: len(ear.packs("m1")) >= 2, 30, lambda: agent.said)
    longest_s = back_s = 0.0
    for n in range(rounds):
        name = ("plain", "kept")[n % 2]
        seconds = rng.uniform(0.5, 1.5) if rounds == 2 else rng.choice((1.0, 5.0, rng.uniform(10, 70)))
        away(brokers[name], False, seconds)
        began, count = time.monotonic(), meter.count + 1
        until(lambda count=count, name=name: came(ears[name], count), 40, lambda: agent.said)
        longest_s, back_s = max(longest_s, seconds), max(back_s, time.monotonic() - began)
    code = come_home(agent, *ears.values())
    report, _ = (balance(ear.heard, agent.kid, {"m1": meter}) for ear in ears.values())
    return figures(report, code=code, longest_outage_s=round(longest_s, 1), longest_recovery_s=round(back_s, 1),
                   most_log_lines=len(agent.said.splitlines()))  # fmt: skip


@scenario(rounds=1, about_s=100, long=20, chunk=10)
def broker_kills(folder: Path, house: House, rounds: int, seed: int) -> Row:
    """kill -9 of the broker, which has no memory: what it had taken is gone, and only the platform's word counts."""
    rng = random.Random(seed)
    broker = broker_at(house, "broker")
    platform = Platform(broker)
    house.at_end(platform.close)
    meter = Meter(1)
    agent = house.agent(None, {"roof": house.field.tcp(meter)}, {"m1": ("roof", 1)}, every=SECONDLY,
                        more=uplinks({"platform": broker.url}, 'confirm = "platform"'))  # fmt: skip
    agent.start()
    until(lambda: len(platform.packs("m1")) >= 2, 30, lambda: agent.said)
    for _ in range(rounds):
        away(broker, True, rng.uniform(0.0, 5.0))
        count = meter.count + 1
        until(lambda count=count: came(platform, count), 40, lambda: agent.said)
        threading.Event().wait(rng.uniform(0.0, 3.0))  # the moment of the next kill
    until(lambda: whole(platform, "m1") and whole(platform, "_gateway"), 200, lambda: agent.said)
    code = agent.stop()
    until(lambda: ended(platform), 30, lambda: agent.said)
    report = balance(platform.heard, agent.kid, {"m1": meter})
    return figures(report, code=code)


def stages(agent: Agent, ear: Listener, meters: Iterable[Meter]) -> dict[str, set[int]]:
    """At which stage each answer of the meters is. The agent was killed."""
    _, owed = agent.sealed()
    heard = ear.names()
    found: dict[str, set[int]] = {"delivered": set(), "in_flight": set(), "in_the_outbox": set()}
    for name, data in agent.bodies().items():
        stage = "delivered" if name not in owed else "in_flight" if name in heard else "in_the_outbox"
        found[stage].update(record["v"] for record in counted(json.loads(data)))
    served = set[int]().union(*(meter.served for meter in meters))
    return found | {"not_sealed": served.difference(*found.values())}


@scenario(rounds=1, about_s=25, long=3, chunk=3)
def runs_that_end_after_a_cut(folder: Path, house: House, rounds: int, seed: int) -> Row:
    """A minute after a cut, kill -9 ends the run while the backlog leaves. Other programs have the processor first."""
    rng = random.Random(seed)
    broker = house.broker()
    ear, tap = house.listen(broker), tap_to(house, broker)
    meters = [Meter(unit) for unit in range(1, 9 if rounds == 1 else 51)]
    agent = house.agent(None, {"roof": house.field.tcp(*meters)}, devices_on("roof", meters), every=SECONDLY,
                        more=uplinks({"platform": tap.url}, f"backfill_rate = {len(meters)}"),
                        before=("nice", "-n", "19"))  # fmt: skip
    agent.start()
    until(lambda: all(ear.packs(f"m{meter.unit}") for meter in meters), 60, lambda: agent.said)
    ends: list[dict[str, set[int]]] = []
    for _ in range(rounds):
        tap.mode = "refuse"
        threading.Event().wait(5 if rounds == 1 else 60)  # the cut itself
        came = len(ear.packs("", "backfill"))
        tap.mode = "pass"
        until(lambda came=came: len(ear.packs("", "backfill")) > came, 60, lambda: agent.said)
        threading.Event().wait(rng.uniform(0, 1))  # the moment at which the run ends
        agent.kill()
        ends.append(stages(agent, ear, meters))
        agent.start()
        until(lambda: agent.snapshot()["uplinks"]["platform"]["connected"], 60, lambda: agent.said)
    code = come_home(agent, ear)
    report = balance(ear.heard, agent.kid, {f"m{meter.unit}": meter for meter in meters})
    home = {number for meter in meters for number in ear.numbers(f"m{meter.unit}")}
    held = {stage: sum(len(end[stage] & home) for end in ends) for stage in ("delivered", "in_flight", "in_the_outbox")}
    return figures(
        report, code=code, answers=sum(len(numbers) for end in ends for numbers in end.values()), **held,
        in_the_ring=sum(len(end["not_sealed"] & home) for end in ends),
        # no reading was made of them, because they came too late; the balance asserts that a gap states each
        in_stated_gaps=sum(len(end["not_sealed"] - home) for end in ends),
        sealed_and_lost=sum(len(end[stage] - home) for end in ends for stage in held),
    )  # fmt: skip
