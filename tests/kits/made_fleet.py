"""A made-up fleet that behaves as agents do: it seals at a steady rate, and keeps each pack until it is confirmed."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Literal

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from agent.verify.jws import unbase64url
from receiver.database import boot_number, stream_id
from receiver.fleet import MadeGateway, make_fleet
from receiver.trust import Enrolment

RESEND_S = 6.0  # if only the platform's ack confirms: pause after the broker's PUBACK before a pack is sent again
Key = tuple[int, int, int]  # identifies a pack as in the tables: stream, boot, seq
Confirm = Literal["broker", "platform"]


class LivelyFleet:
    """Seals and publishes in its own thread until it is closed.

    Args:
        ports: MQTT ports of a broker or of a cluster's nodes, tried in turn.
        confirm: what lets a pack leave the outbox: the broker's PUBACK, or the ack of the platform.
        rate: packs a second of all gateways.
    """

    def __init__(self, ports: Sequence[int], confirm: Confirm, rate: float, gateways: int = 12, seed: int = 1) -> None:
        start_ms = round(time.time() - 8 * 86_400) * 1000
        self.gateways = make_fleet(gateways, 2, start_ms, seed=seed, faults=False)
        self.sealed: dict[Key, bytes] = {}  # the first 16 bytes of each hash
        self.readings = 0
        self.gateway_of = {stream_id(s.name): one.name for one in self.gateways for s in one.streams}
        self._ports, self._confirm, self._pause_s = list(ports), confirm, 1 / rate
        self._outbox: dict[Key, tuple[str, bytes]] = {}
        self._due: dict[Key, float] = {}  # when it is sent again
        self._events: SimpleQueue[tuple[str, Any]] = SimpleQueue()  # because paho holds its own locks in callbacks
        self.wrong: list[Any] = []  # acks that do not fit our packs
        self._flying: dict[int, Key] = {}  # by message id
        self._rng = random.Random(seed)
        self._lock = threading.RLock()
        self._paused, self._end = threading.Event(), threading.Event()
        self._place = self._rng.randrange(len(ports))
        client = self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5, client_id=f"fleet-{seed}"
        )
        client.max_inflight_messages_set(500)
        client.reconnect_delay_set(0.1, 0.5)  # type: ignore[arg-type]
        client.on_connect, client.on_message, client.on_publish = self._connected, self._heard, self._published
        client.on_disconnect = client.on_connect_fail = lambda *_: self._next_port()
        client.connect_async("127.0.0.1", self._ports[self._place])
        self._thread = threading.Thread(target=self._run, name="fleet")

    def start(self) -> None:
        self._client.loop_start()
        self._thread.start()

    @property
    def enrolments(self) -> list[Enrolment]:
        return [Enrolment(one.name, [one.signer.kid]) for one in self.gateways]

    @property
    def owed(self) -> int:
        """The number of packs that are not confirmed yet."""
        return len(self._outbox)

    def pause(self) -> None:
        """Stop sealing, but continue to send packs that are not confirmed."""
        with self._lock:
            self._paused.set()

    def go_on(self) -> None:
        self._paused.clear()

    def close(self) -> None:
        self._end.set()
        self._thread.join(60)
        self._client.on_disconnect = None
        self._client.disconnect()
        self._client.loop_stop()

    def _run(self) -> None:
        looked = sealed = 0.0
        while not self._end.is_set():
            with suppress(Empty):
                what, value = self._events.get(timeout=self._pause_s)
                self._confirmed(*value) if what == "puback" else self._acknowledged(value)
                while True:
                    what, value = self._events.get_nowait()
                    self._confirmed(*value) if what == "puback" else self._acknowledged(value)
            now = time.monotonic()
            with self._lock:
                if not self._paused.is_set() and now - sealed >= self._pause_s:
                    sealed = now
                    self._seal()
            if now - looked > 1:
                looked = now
                for key in [key for key, at in self._due.items() if at <= now]:
                    del self._due[key]
                    self._send(key)

    def _seal(self) -> None:
        gateway = self._rng.choice(self.gateways)
        stream = self._rng.choice(gateway.streams)
        born = stream.birth is not None
        body = stream.pack(seconds=2)
        assert stream.prev is not None
        key = (stream_id(stream.name), boot_number(stream.boot), stream.seq)
        self.sealed[key] = unbase64url(stream.prev, "a hash")[:16]
        self.readings += 20 if born else 0
        self._outbox[key] = (f"meterhouse/v1/{stream.name}/readings", body)
        self._send(key)

    def _send(self, key: Key) -> None:
        topic, body = self._outbox[key]
        self._flying[self._client.publish(topic, body, qos=1).mid] = key

    def _confirmed(self, mid: int, reason: int) -> None:
        key = self._flying.pop(mid, None)
        if key is None or key not in self._outbox:
            return
        if reason != 0:  # no subscriber, or refused: the pack stays in the outbox
            self._due[key] = time.monotonic() + 1
        elif self._confirm == "broker":
            del self._outbox[key]
        else:
            self._due[key] = time.monotonic() + RESEND_S

    def _acknowledged(self, value: dict[str, Any]) -> None:
        for ack in value.get("acks", [value]):
            stream, boot = stream_id(ack["stream"]), boot_number(ack["boot"])
            if self.sealed.get((stream, boot, ack["last"])) != unbase64url(ack["hash"], "a hash")[:16]:
                self.wrong.append(ack)
            for seq in range(ack["first"], ack["last"] + 1):
                self._outbox.pop((stream, boot, seq), None)
                self._due.pop((stream, boot, seq), None)

    def _heard(self, client: Any, userdata: Any, message: Any) -> None:
        self._events.put(("ack", json.loads(message.payload)))

    def _published(self, client: Any, userdata: Any, mid: int, reason: Any, properties: Any) -> None:
        self._events.put(("puback", (mid, reason.value)))

    def _connected(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        client.subscribe("meterhouse/v1/site00/+/ack", 1)  # make_fleet puts twenty gateways in a site
        for one in self.gateways:
            client.publish(f"meterhouse/v1/{one.name}/keys", one.keys(), qos=1, retain=True)
            client.publish(f"meterhouse/v1/{one.name}/status", self._status(one), qos=1, retain=True)

    def _status(self, gateway: MadeGateway) -> bytes:
        accepts = ["acks"] if gateway is not self.gateways[0] else []  # one is of an older version
        return json.dumps({"accepts": accepts, "state": "online", "v": 1, "version": "0"}).encode()

    def _next_port(self) -> None:
        if not self._end.is_set():
            self._place = (self._place + 1) % len(self._ports)
            self._client.connect_async("127.0.0.1", self._ports[self._place])
