"""A real mosquitto, a real store in its own thread, and packs with the right shape."""

from __future__ import annotations

import json
import os
import queue
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from agent.outbox import Ack, OutboxItem
from agent.settings import Secret, UplinkConfig
from agent.store import Store
from agent.uplink import Uplink
from agent.verify.mqtt import hang_up
from agent.verify.strict import inflate
from tests.kits.packs import Maker, Pack

BASE = "meterhouse/v1/park7/gw01"
PATIENCE_S = 45.0  # a healthy program never takes this long


def until(what: Callable[[], object], why: str = "not in time") -> None:
    """Wait for a condition. Fails after a time that is enough even for a slow machine."""
    end = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < end, why
        threading.Event().wait(0.005)


def destination(port: int, host: str = "127.0.0.1", tls: bool = False, **more: Any) -> UplinkConfig:
    """A destination as the configuration would give it."""
    settings = {"name": "platform", "backfill_rate": 1000, **more}
    return UplinkConfig(url=f"mqtt{'s' if tls else ''}://{host}:{port}", host=host, port=port, tls=tls, **settings)


def password(folder: Path, text: str) -> Secret:
    """Write a password to a file. Returns the setting that names the file."""
    path = folder / f"password-{text.strip().replace('/', '-')}"
    path.write_text(text)
    return Secret(file=path)


class Mosquitto:
    """The real broker on ``port``, with ``lines`` added to its configuration."""

    def __init__(self, folder: Path, port: int, *lines: str) -> None:
        self.port, self._folder = port, folder
        self._conf = folder / f"mosquitto-{port}.conf"
        self.configure(*lines)
        self._process: subprocess.Popen[bytes] | None = None

    def configure(self, *lines: str) -> None:
        head = [f"listener {self.port} 127.0.0.1", "max_queued_messages 100000"]
        anonymous = [] if any(line.startswith("allow_anonymous") for line in lines) else ["allow_anonymous true"]
        user = ["user root"] if os.geteuid() == 0 else []  # otherwise it could not read files of the test
        self._conf.write_text("\n".join([*head, *anonymous, *user, *lines]) + "\n")

    def start(self) -> Mosquitto:
        with (self._folder / f"mosquitto-{self.port}.log").open("ab") as log:
            self._process = subprocess.Popen(["mosquitto", "-c", str(self._conf)], stdout=log, stderr=log)

        def answers() -> bool:
            assert self._process and self._process.poll() is None, "mosquitto did not start"
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        until(answers)
        return self

    def stop(self, kill: bool = False) -> None:
        if self._process:
            if kill:
                self._process.kill()
            else:
                self._process.terminate()
            self._process.wait(timeout=PATIENCE_S)
            self._process = None


class Listener:
    """A subscriber that records everything."""

    def __init__(self, port: int, topic: str = f"{BASE}/#", v5: bool = True) -> None:
        self.heard: list[MQTTMessage] = []
        protocol = MQTTProtocolVersion.MQTTv5 if v5 else MQTTProtocolVersion.MQTTv311
        self.client = Client(CallbackAPIVersion.VERSION2, protocol=protocol)
        ready = threading.Event()
        self.client.on_message = lambda client, userdata, message: self.heard.append(message)
        self.client.on_subscribe = lambda *args: ready.set()
        self.client.on_connect = lambda client, *args: client.subscribe(topic, 1)
        self.client.reconnect_delay_set(0.05, 0.2)  # type: ignore[arg-type]
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert ready.wait(PATIENCE_S)

    def packs(self, *kinds: str) -> list[dict[str, Any]]:
        """Bodies on ``readings`` and ``backfill``, or of the given kinds, in the order of arrival."""
        wanted = kinds or ("readings", "backfill")
        return [json.loads(inflate(m.payload)) for m in list(self.heard) if m.topic.rpartition("/")[2] in wanted]

    def seqs(self, stream: str = "inv1", *kinds: str) -> list[int]:
        return [p["seq"] for p in self.packs(*kinds) if p["stream"].endswith("/" + stream)]

    def last(self, topic: str) -> dict[str, Any] | None:
        found = [m for m in list(self.heard) if m.topic == f"{BASE}/{topic}"]
        return json.loads(found[-1].payload) if found else None

    def close(self) -> None:
        hang_up(self.client)


class StoreOutbox:
    """Takes the place of the database thread. It owns the store, and offers packs to uplinks after each commit."""

    def __init__(
        self, path: Path, destinations: Sequence[str], asked: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self._jobs: queue.SimpleQueue[Callable[[Store], Any] | None] = queue.SimpleQueue()
        self._confirmed: dict[str, list[int]] = {}
        self.uplinks: list[Uplink] = []
        self.fetches = 0
        self.told: list[int] = []  # ids of confirmed packs, once for each confirmation
        self._thread = threading.Thread(target=self._run, args=(path, destinations, asked))
        self._thread.start()

    def _run(self, path: Path, destinations: Sequence[str], asked: Mapping[str, Sequence[str]] | None) -> None:
        store = Store.open(path, 64 << 20, destinations=destinations, asked=asked)
        try:
            while (job := self._jobs.get()) is not None:
                job(store)
            store.packs.commit((), self._confirmed)
        finally:
            store.close()

    def call(self, job: Callable[[Store], Any]) -> Any:
        answer: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def run(store: Store) -> None:
            try:
                answer.put(job(store))
            except Exception as error:  # noqa: BLE001 - raised again in the caller
                answer.put(error)

        self._jobs.put(run)
        found = answer.get(timeout=PATIENCE_S)
        if isinstance(found, Exception):
            raise found
        return found

    def commit(self, *packs: Pack, offer: bool = True) -> list[int]:
        def run(store: Store) -> list[int]:
            ids = store.packs.commit(packs, self._confirmed)
            self._confirmed = {}
            if offer:
                items = [OutboxItem(n, p.stream, p.data, p.is_birth, p.to_ms) for n, p in zip(ids, packs, strict=True)]
                for uplink in self.uplinks:
                    uplink.offer(items)
            return ids

        found: list[int] = self.call(run)
        return found

    def pending(self, dest: str = "platform") -> int:
        def run(store: Store) -> int:
            store.packs.commit((), self._confirmed)
            self._confirmed = {}
            return store.usage().pending[dest]

        return int(self.call(run))

    def fetch(
        self, dest: str, after: int, limit: int, max_bytes: int, callback: Callable[[Sequence[OutboxItem]], None]
    ) -> None:
        self.fetches += 1
        self._jobs.put(lambda store: callback(store.packs.pending(dest, after, limit, max_bytes)))

    def births(self, after: str, limit: int, max_bytes: int, callback: Callable[[Sequence[OutboxItem]], None]) -> None:
        self._jobs.put(lambda store: callback(store.packs.births(after, limit, max_bytes)))

    def before_send(self) -> None:
        """Do nothing: this outbox records nothing."""

    def confirm(self, dest: str, ids: Sequence[int]) -> None:
        self.told += ids
        self._jobs.put(lambda store: self._confirmed.setdefault(dest, []).extend(ids))

    def acknowledge(self, dest: str, acks: Sequence[Ack], callback: Callable[[int, str | None], None]) -> None:
        def run(store: Store) -> None:
            each = [store.packs.acknowledged(dest, ack) for ack in acks]
            self._confirmed.setdefault(dest, []).extend(number for ids, _ in each for number in ids)
            wrong = [text for _, text in each if text is not None]
            callback(len(each) - len(wrong), wrong[0] if wrong else None)

        self._jobs.put(run)

    def replay(self, stream: str, boot: str | None, first: int, last: int, limit: int, size: int, back: Any) -> None:
        self._jobs.put(lambda store: back(store.packs.replay(stream, boot, first, last, limit, size)))

    def spend(self, dest: str, day: int, size: int, back: Callable[[int], None]) -> None:
        self._jobs.put(lambda store: back(store.packs.count_replayed(dest, day, size)))

    def close(self) -> None:
        self._jobs.put(None)
        self._thread.join(PATIENCE_S)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def fresh(make: Maker, **more: Any) -> Pack:
    """A pack that was sealed just now."""
    return make(to_ms=now_ms(), **more)


def old(make: Maker, **more: Any) -> Pack:
    """A pack of yesterday."""
    return make(to_ms=now_ms() - 86_400_000 + make.seq * 10_000, **more)
