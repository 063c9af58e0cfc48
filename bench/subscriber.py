"""A subscriber that records when each message arrives, and verifies all messages in a separate process.

Verifying a message takes longer than receiving it, especially for births. In the same thread, it would delay the
recorded times of arrival. At a start with thousands of devices, the verifier would be measured instead of the agent.
The separate process has a lower priority than all other processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import paho.mqtt.client as mqtt

from agent.verify import Verifier
from agent.verify.mqtt import hang_up
from agent.verify.verifier import Outcome


class Arrival(NamedTuple):
    """A verified message: the time of its arrival (Unix seconds), its number of readings, and the age of its first
    reading at that time.
    """

    at: float
    readings: int
    latency_s: float


@dataclass
class Received:
    """The result: all verified messages, and the numbers that the verifier has counted."""

    arrivals: list[Arrival] = field(default_factory=list)
    # topic (one per device) -> arrival of the device's first readings
    seen: dict[str, float] = field(default_factory=dict)
    gaps: int = 0  # number of due readings that lie in stated gaps
    failed: int = 0

    def readings(self, begin: float, end: float) -> int:
        """The number of readings that arrived in ``[begin, end)``."""
        return sum(one.readings for one in self.arrivals if begin <= one.at < end)


class Subscriber:
    """Receives all messages of a broker. ``trust``: thumbprint of the key; None: the messages are unsigned JSON."""

    def __init__(self, port: int, trust: str | None) -> None:
        self.count = 0  # number of messages received so far; retained messages and births do not count
        ours, theirs = get_context("spawn").Pipe()
        self._pipe = ours
        self._child = get_context("spawn").Process(target=_judge, args=(theirs, trust), daemon=True)
        self._child.start()
        theirs.close()
        ours.recv()  # wait until the child is ready; otherwise its imports would compete with the agent for the CPU
        self._queue: queue.SimpleQueue[tuple[float, str, bytes] | None] = queue.SimpleQueue()
        self._feeder = threading.Thread(target=self._feed, daemon=True)
        self._feeder.start()
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self._client.on_message = self._message
        self._client.on_connect = lambda c, *_: c.subscribe("#", 1)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def _message(self, client: mqtt.Client, user: Any, message: mqtt.MQTTMessage) -> None:
        # ignore a retained birth, because it is a copy of a pack that arrives anyway
        if message.retain or message.topic.endswith("/birth"):
            return
        self.count += 1
        self._queue.put((time.time(), message.topic, message.payload))

    def _feed(self) -> None:
        while (entry := self._queue.get()) is not None:
            self._pipe.send(entry)
        self._pipe.send(None)

    def stop(self) -> None:
        """Stop receiving."""
        hang_up(self._client)

    def finish(self) -> Received:
        """Wait until all received messages are verified. Returns the result. Call ``stop`` first."""
        self._queue.put(None)
        self._feeder.join()
        found: Received = self._pipe.recv()
        self._child.join()
        return found

    def close(self) -> None:
        """Stop at once, without a result."""
        hang_up(self._client)
        if self._child.is_alive():
            self._child.kill()
        self._child.join()


def _judge(pipe: Connection, trust: str | None) -> None:
    """Main function of the child: verify messages until None arrives, then send the result."""
    os.nice(10)
    pipe.send(None)
    verifier, found = Verifier([trust] if trust else []), Received()
    for at, topic, payload in _entries(pipe):
        if trust is None:
            body = json.loads(payload)
            count, stamp = len(body["values"]), body["ts"] / 1000
        elif verifier.feed(payload, topic) is Outcome.VERIFIED:
            records = json.loads(payload).get("e", [])
            count, stamp = len(records), records[0]["bt"] if records else at
        else:
            continue
        if count:
            found.seen.setdefault(topic, at)
        found.arrivals.append(Arrival(at, count, at - stamp))
    report = verifier.report()
    found.gaps, found.failed = report.gaps, report.failed
    pipe.send(found)


def _entries(pipe: Connection) -> Iterator[tuple[float, str, bytes]]:
    with contextlib.suppress(EOFError):
        while (entry := pipe.recv()) is not None:
            yield entry
