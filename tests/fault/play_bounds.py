"""Scenario: everything fails at once, on a small store, under a flood of requests; what is said to be bounded is."""

from __future__ import annotations

import base64
import json
import random
import threading
import time
from array import array
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from agent.keys import load_key
from agent.pack import BirthTable, Packer
from agent.store import Store
from agent.verify.mqtt import hang_up
from ext.ring import Ring
from tests.fault.play_brokers import broker_at, uplinks
from tests.kits.faults.books import balance, figures
from tests.kits.faults.rows import Row, scenario
from tests.kits.house import SECONDLY, SITE, Agent, House, Listener, Meter, free_port, until

CAP_BYTES = 16 << 20
CLOCK = {"error_ms": 1.2, "kernel_boot": "0b6f3c0e-8a5e-4c1f-9d53-0c2f8f1a7e11", "mono_ms": 1, "synced": True}
BASE = f"meterhouse/v1/{SITE}"


def owe(agent: Agent, destinations: list[str], size_bytes: int, seed: int) -> int:
    """Give the store of an agent that does not run more packs than it may hold, for nobody yet. Returns how many."""
    state = agent.folder / agent.state
    rng, count, stored = random.Random(seed), 0, 0
    stream, start_ms = f"{SITE}/m1", (int(time.time()) - 3600) * 1000
    ring = Ring.create(str(agent.folder / "ring.of-the-test"), 1 << 20, 1, 1, bytes(32))
    packer = Packer(
        stream, "00000000000000aa", None, load_key(state / "signing.key").signer("mh-pack"), start_ms, 1 << 16
    )
    packer.use(BirthTable(stream, {"config": None, "device": None, "points": []}))
    store = Store.open(state / "store.db", CAP_BYTES, destinations=destinations)
    while stored < size_bytes:
        text = base64.b64encode(rng.randbytes(40_000)).decode()  # does not compress below that
        event = {"event": "note", "t": start_ms / 1000 + count, "text": text}
        packs = packer.seal(ring, array("Q"), start_ms + (count + 1) * 1000, CLOCK, [event])
        store.packs.commit(packs)
        if count % 8 == 0:
            store.prune(int(time.time()) * 1000)
        count += len(packs)
        stored += 40_000
    store.close()
    ring.close()
    return count


class Watch:
    """What the agent takes, looked at all the time: bytes of its state directory, resident memory."""

    def __init__(self, agent: Agent) -> None:
        assert agent.process
        self._folder, self._pid = agent.folder / agent.state, agent.process.pid
        self.disk_bytes = self.rss_mb = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def rss(self) -> float:
        lines = Path(f"/proc/{self._pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

    def _run(self) -> None:
        while not self._done.wait(0.05):
            self.disk_bytes = max(self.disk_bytes, sum(f.stat().st_size for f in self._folder.glob("store.db*")))
            self.rss_mb = max(self.rss_mb, self.rss())

    def stop(self) -> None:
        self._done.set()
        self._thread.join()


def flood(port: int, seed: int, count: int) -> int:
    """Everything that could be said on the topics that the agent reads, much of it nonsense. Returns the requests."""
    rng = random.Random(seed)
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.max_queued_messages_set(0)
    client.connect("127.0.0.1", port)
    client.loop_start()
    requests = 0
    for n in range(count):
        kind = rng.randrange(6)
        body: Any = {"id": f"f{n}", "stream": f"{SITE}/m1", "first": 1, "last": rng.choice((2, 3, 2**53))}
        if kind == 0:
            body = rng.randbytes(rng.randrange(200))
        elif kind == 1:
            body = b"[" * 60_000
        elif kind == 2:
            body = {**body, "stream": f"other/{n}/m1"}
        elif kind == 3:
            body = {**body, "first": 5, "last": 4}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        topic = "replay/request"
        if kind == 5:
            ack = {
                "stream": f"{SITE}/m{n % 3}",
                "boot": "00000000000000aa",
                "first": 1,
                "last": n + 1,
                "hash": "A" * 43,
            }
            topic, data = "ack", json.dumps(ack).encode()
        requests += topic != "ack"
        info = client.publish(f"{BASE}/{topic}", data, 1 if n % 50 == 0 else 0)
        if n % 50 == 0:
            info.wait_for_publish(10)  # as fast as the broker takes it
    hang_up(client)
    return requests


STREAMS = ("m1", "m2", "m3", "_gateway")


def complete(listener: Listener, device: str) -> bool:
    """Every sequence number came or is stated as lost. Looks at the bytes: these packs are large."""
    seqs: set[int] = set()
    for message in list(listener.heard):
        if message.road in ("readings", "backfill") and message.topic.split("/")[-2] == device:
            body = message.payload
            seqs.add(int(body[body.rindex(b'"seq":') + 6 :].split(b",", 1)[0]))
            if b'"event":"loss"' in body:
                for event in json.loads(body)["events"]:
                    if event["event"] == "loss":
                        seqs |= set(range(event["first"], event["last"] + 1))
    return bool(seqs) and seqs == set(range(1, max(seqs) + 1))


def stops(listener: Listener) -> int:
    """Orderly ends that have been told."""
    return len({m.payload for m in list(listener.heard) if m.road != "birth" and b'"event":"stop"' in m.payload})


@scenario(rounds=1, about_s=10, long=5, chunk=1)
def everything_fails_at_once(folder: Path, house: House, rounds: int, seed: int) -> Row:
    """A dead broker, a flooded one, devices that are silent or gone, and more owed than the store may hold."""
    good, dead = broker_at(house, "good"), broker_at(house, "dead", start=False)
    meter, silent = Meter(1), Meter(2)
    silent.fault("silence")
    agent = house.agent(
        None,
        {"roof": house.field.tcp(meter), "cellar": house.field.tcp(silent), "gone": f"modbus-tcp://127.0.0.1:{free_port()}"},
        {"m1": ("roof", 1), "m2": ("cellar", 2), "m3": ("gone", 3)},
        every=SECONDLY,
        more='[store]\nmax_size = "16 MiB"\n\n[ring]\nsize = "1 MiB"\n\n'
        + uplinks({"platform": good.url}) + uplinks({"dead": dead.url}),
    )  # fmt: skip
    owed = owe(agent, ["platform", "dead"], 15 << 20, seed)
    listener = house.listen(good)
    agent.start()
    watch = Watch(agent)
    house.at_end(watch.stop)
    until(lambda: listener.packs("m1", "readings"), 30, lambda: agent.said)
    began_mb = watch.rss()
    requests = flood(good.port, seed, 1800 * rounds)
    count = meter.count + 2
    until(lambda: meter.count >= count and complete(listener, "m1"), 60, lambda: agent.said)
    fresh = listener.packs("m1", "readings")
    replies = [m for m in listener.heard if m.topic.endswith("replay/reply")]
    dead_ear = house.listen(dead, connected_s=0)
    dead.start()
    watch.stop()
    code = agent.stop()
    agent.start()
    ears = (listener, dead_ear)  # what is still backlog when the agent ends comes with its next start: there is none
    until(lambda: all(complete(ear, name) for ear in ears for name in STREAMS), 60, lambda: agent.said)
    codes = (code, agent.stop())
    for ear in ears:
        until(lambda ear=ear: stops(ear) == 2 and all(complete(ear, name) for name in STREAMS), 30, lambda: agent.said)
    report = balance(listener.heard, agent.kid, {"m1": meter})
    late = balance(dead_ear.heard, agent.kid, {"m1": meter})
    return figures(
        report, codes=codes, packs_unconfirmed_at_the_start=owed, packs_lost_at_the_dead_broker=late.lost,
        requests=requests, replies=len(replies),
        most_disk_mib=round(watch.disk_bytes / 2**20, 2), most_disk_allowed_mib=CAP_BYTES >> 20,
        most_memory_mb=round(watch.rss_mb, 1), most_memory_growth_mb=round(watch.rss_mb - began_mb, 1),
        live_packs=len(fresh),
        most_log_lines=len((agent.folder / "agent.1.log").read_text().splitlines()),
    )  # fmt: skip
