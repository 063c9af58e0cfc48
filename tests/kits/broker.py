"""The broker's side of a scenario: a real mosquitto, and a subscriber that records everything."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from agent.verify.strict import inflate
from tests.kits.ports import free_port

T = TypeVar("T")
Name = tuple[str, str, int]  # identifies a pack: stream, boot, seq
DEADLINE_S = 60.0  # a healthy program never takes this long


def patience() -> float:
    """The factor by which a wait may be longer than on an idle machine."""
    return min(4.0, max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)))


def until(condition: Callable[[], T], seconds: float = 20.0, what: object = "condition") -> T:
    """Wait until ``condition`` returns a true value, and return that value.

    The wait fails after ``seconds``, but never before ``DEADLINE_S``. ``what``: the text of the failure, or a function
    that returns it.
    """
    began = time.monotonic()
    while not (found := condition()):
        if (waited := time.monotonic() - began) > max(seconds, DEADLINE_S) * patience():
            raise AssertionError(f"not within {waited:.0f} s: {what() if callable(what) else what}")
        threading.Event().wait(0.02)
    return found


class Broker:
    """mosquitto on its own port, which stays the same when it is restarted."""

    unix = ""  # path of a socket that subscribers use instead of the port

    def __init__(self, folder: Path, *lines: str) -> None:
        self.port = free_port()
        self.conf = folder / "mosquitto.conf"
        self._log = folder / "mosquitto.log"
        head = [f"listener {self.port} 127.0.0.1", "max_inflight_messages 0", "max_queued_messages 0"]
        if os.getuid() == 0:
            head.append("user root")  # otherwise it changes to a user who may not read our folder
        anonymous = [] if any(line.startswith("allow_anonymous") for line in lines) else ["allow_anonymous true"]
        self.conf.write_text("\n".join([*head, *anonymous, *lines]) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(["mosquitto", "-c", str(self.conf)], stdout=log, stderr=log)

        def answers() -> bool:
            assert self._process and self._process.poll() is None, self._log.read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        until(answers, what="mosquitto answers")

    def reload(self) -> None:
        """Let it read its access rights again."""
        assert self._process
        self._process.send_signal(signal.SIGHUP)

    def stop(self, kill: bool = False) -> None:
        if self._process:
            (self._process.kill if kill else self._process.terminate)()
            self._process.wait(DEADLINE_S)
            self._process = None


@dataclass(frozen=True, slots=True)
class Heard:
    """One message from the broker."""

    at: float  # monotonic seconds
    topic: str
    payload: bytes
    retained: bool

    @property
    def road(self) -> str:
        return self.topic.rpartition("/")[2]


@lru_cache(16_384)
def parsed(payload: bytes) -> dict[str, Any]:
    """A pack as an object, which must not be changed. It is cached, because waiting tests read all packs repeatedly."""
    found: dict[str, Any] = json.loads(inflate(payload))
    return found


class Listener:
    """A subscriber that records everything and reconnects quickly."""

    def __init__(self, broker: Broker, connected_s: float = 10.0, login: tuple[str, str] | None = None) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

        self.heard: list[Heard] = []
        self.broker = broker
        self.subscriptions = 0
        host, way = (broker.unix, "unix") if broker.unix else ("127.0.0.1", "tcp")
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5, transport=way)  # type: ignore[arg-type]
        self._client.on_connect = lambda client, *_: client.subscribe("meterhouse/#", 1)
        self._client.on_subscribe = self._subscribed
        self._client.on_message = self._came
        if login:
            self._client.username_pw_set(*login)
        self._client.reconnect_delay_set(0.05, 0.1)  # type: ignore[arg-type]
        if connected_s:
            self._client.connect(host, broker.port)
            self._client.loop_start()
            until(lambda: self.subscriptions, connected_s, "subscribed")
        else:
            self._client.connect_async(host, broker.port)
            self._client.loop_start()

    def _subscribed(self, *_: object) -> None:
        self.subscriptions += 1

    def _came(self, _client: object, _userdata: object, message: Any) -> None:
        self.heard.append(Heard(time.monotonic(), message.topic, bytes(message.payload), message.retain))

    def packs(self, device: str = "", *roads: str) -> list[dict[str, Any]]:
        """Packs in the order of arrival, as objects."""
        wanted = roads or ("readings", "backfill")
        return [
            parsed(m.payload)
            for m in list(self.heard)
            if m.road in wanted and (not device or m.topic.split("/")[-2] == device)
        ]

    def names(self) -> set[Name]:
        """The names of all packs that have arrived."""
        return {(pack["stream"], pack["boot"], pack["seq"]) for pack in self.packs()}

    def numbers(self, device: str, point: str = "ac.energy.import") -> list[int]:
        """The values of a point in the order of arrival. The default point has the numbers of a Meter's answers."""
        return [record["v"] for pack in self.packs(device) for record in pack.get("e", ()) if record["n"] == point]

    def events(self, device: str = "") -> list[dict[str, Any]]:
        """Events in the order of sealing. (After an outage, live packs arrive before the backlog.)"""
        packs = sorted(self.packs(device), key=lambda pack: (pack["stream"], pack["seq"]))
        return [event for pack in packs for event in pack.get("events", ())]

    def close(self) -> None:
        from agent.verify.mqtt import hang_up

        hang_up(self._client)


def whole(listener: Listener, device: str) -> bool:
    """Return True if no sequence from 1 to the newest is missing, so that no pack between them waits in an outbox."""
    seqs = {pack["seq"] for pack in listener.packs(device)}
    return bool(seqs) and seqs == set(range(1, max(seqs) + 1))
