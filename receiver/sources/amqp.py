"""RabbitMQ: a quorum queue that is bound to the topics of MQTT, shared by any number of workers.

A queue keeps no retained message, so keys and status come through it like packs, and the database hands keys on to the
other workers. RabbitMQ swaps ``/`` and ``.`` between topics and routing keys, so they are swapped back.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final
from urllib.parse import SplitResult

import pika
from pika.exceptions import AMQPError

from drivers.backoff import Backoff
from drivers.model import UsageError
from receiver.sources import Message

log = logging.getLogger("meterhouse.platform")
EXCHANGE: Final = "amq.topic"  # where RabbitMQ's MQTT plugin publishes
BINDINGS: Final = (
    "meterhouse.v1.*.*.*.readings", "meterhouse.v1.*.*.*.backfill", "meterhouse.v1.*.*.checkpoint.*",
    "meterhouse.v1.*.*.keys", "meterhouse.v1.*.*.status",
)  # fmt: skip
WINDOW: Final = 2000
_SWAPPED: Final = str.maketrans("./", "/.")
_FAILURES: Final = (AMQPError, OSError, AssertionError)


class AmqpSource:
    """See ``receiver.sources.Source``.

    Args:
        url: ``amqp://user:password@host:5672[,host:port ...]/vhost?queue=NAME``; hosts are tried in turn.
    """

    def __init__(self, url: str, parts: SplitResult) -> None:
        login, _, hosts = parts.netloc.rpartition("@")
        query = dict(pair.partition("=")[::2] for pair in parts.query.split("&") if pair)
        self._queue_name = query.pop("queue", "meterhouse")
        rest = "&".join(
            f"{name}={value}" for name, value in {"heartbeat": "20", "socket_timeout": "5", **query}.items()
        )
        front = f"{parts.scheme}://{login + '@' if login else ''}"
        try:
            self._hosts = [
                pika.URLParameters(f"{front}{host}{parts.path or '/%2F'}?{rest}") for host in hosts.split(",")
            ]
        except ValueError as error:
            raise UsageError(
                str(error), where="--from", hint="Expected such as amqp://user@host:5672/%2F?queue=name"
            ) from None
        self._queue = deque[Message]()
        self._connection: Any = None
        self._channel: Any = None
        self._generation = self._next = 0
        self._problem = "not connected yet"
        self._retry = Backoff(0.5, 15.0)
        self._retry_at = 0.0

    def take(self, most: int, wait_s: float) -> list[Message]:
        """Up to ``most`` messages."""
        until = time.monotonic() + wait_s
        while len(self._queue) < most:
            left = until - time.monotonic()
            if self._connection is None and time.monotonic() >= self._retry_at:
                self._connect()
            if self._connection is None:
                time.sleep(max(0.0, min(0.05, left)))
            else:
                try:
                    self._connection.process_data_events(max(0.0, min(0.05, left)))
                except _FAILURES as error:
                    self._lost(error)
            if left <= 0:
                break
        return [self._queue.popleft() for _ in range(min(most, len(self._queue)))]

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Acknowledge those of this connection."""
        for message in messages:
            generation, tag = message.token
            if generation != self._generation or self._channel is None:
                continue
            try:
                self._channel.basic_ack(tag)
            except _FAILURES as error:
                self._lost(error)
                return

    def problem(self) -> str:
        """Why nothing arrives."""
        return self._problem

    def close(self) -> None:
        """Leave; what was not acknowledged goes back to the queue."""
        if self._connection is not None:
            with suppress(*_FAILURES):
                self._connection.close()

    def _connect(self) -> None:
        self._retry_at = time.monotonic() + self._retry.next_s()
        parameters = self._hosts[self._next % len(self._hosts)]
        self._next += 1
        try:
            connection = pika.BlockingConnection(parameters)
            channel = connection.channel()
            channel.basic_qos(prefetch_count=WINDOW)
            channel.queue_declare(self._queue_name, durable=True, arguments={"x-queue-type": "quorum"})
            for binding in BINDINGS:
                channel.queue_bind(self._queue_name, EXCHANGE, binding)
            channel.basic_consume(self._queue_name, self._on_message)
        except _FAILURES as error:
            self._lost(error)
            return
        self._connection, self._channel, self._problem = connection, channel, ""
        self._retry.reset()

    def _lost(self, error: Exception) -> None:
        self._connection = self._channel = None
        self._problem = str(error) or type(error).__name__
        self._generation += 1
        self._queue.clear()

    def _on_message(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        topic = method.routing_key.translate(_SWAPPED)
        kind = properties.content_type or ""
        self._queue.append(Message(topic, body, (self._generation, method.delivery_tag), kind))
