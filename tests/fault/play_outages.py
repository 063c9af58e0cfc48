"""Scenarios: brokers that are stopped or killed and come back, with or without their memory."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import threading
import time
from pathlib import Path
from typing import Any

from agent.verify.signed import payload_of
from tests.fault.play_brokers import broker_at, uplinks
from tests.kits.faults.books import balance, came, ended, figures
from tests.kits.faults.rows import Row, scenario
from tests.kits.house import SECONDLY, SITE, Broker, House, Listener, Meter, come_home, until, whole

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
