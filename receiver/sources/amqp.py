"""RabbitMQ 4: a quorum queue that is bound to MQTT topics. Any number of workers share it.

A queue has no retained messages, so keys and status messages arrive in it like packs. A worker stores new keys in the
database, from which the other workers read them. RabbitMQ converts ``/`` in a topic to ``.``, so the names of sites and
gateways must not contain ``.``.

The broker must never drop a message. Three settings ensure this:

- By default, a quorum queue drops a message that was returned twenty times. If workers die often, this affects good
  messages. So our queue moves a message to the queue ``NAME.again`` after three returns. This second queue has no limit
  of returns, and workers read it, too. (The first queue needs a limit. MQTT allows topics of more than 255 bytes, and
  the delivery of such a topic ends the AMQP channel. In ``NAME.again`` the topic is in a header, whose length does no
  harm.)
- By default, a queue with a length limit drops the oldest message. Our queues refuse a new message instead, and the
  gateway keeps it.
- ``NAME.shard2`` holds messages for the second database while that database cannot be reached. So they do not delay
  messages for other databases.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final
from urllib.parse import SplitResult, unquote
from zlib import crc32

import pika
from pika.exceptions import AMQPError

from drivers.backoff import Backoff
from drivers.model import clean_text
from receiver.sources import Message, hosts_of, login_of, tls_error

log = logging.getLogger("meterhouse.platform")
logging.getLogger("pika").setLevel(
    logging.CRITICAL
)  # pika logs a traceback for each lost connection; ``problem`` gives the reason in one line instead
EXCHANGE: Final = "amq.topic"  # the exchange to which RabbitMQ's MQTT plugin publishes
BINDINGS: Final = (
    "meterhouse.v1.*.*.*.readings", "meterhouse.v1.*.*.*.backfill", "meterhouse.v1.*.*.checkpoint.*",
    "meterhouse.v1.*.*.keys", "meterhouse.v1.*.*.status",
)  # fmt: skip
ARGUMENTS: Final = {"x-queue-type": "quorum", "x-delivery-limit": -1, "x-overflow": "reject-publish"}
RETURNS: Final = 3  # after this many returns a message moves to NAME.again
WINDOW: Final = 2000  # number of unacknowledged messages after which the broker sends no more
SIDE_WINDOW: Final = 500  # the same limit for NAME.again, and for the queue of each shard
HEARTBEAT_S: Final = 60  # this is long, because a worker that waits for its database sends no heartbeats
BLOCKED_S: Final = 5.0  # ``set_aside`` waits at most this long while an alarm of the broker blocks it
ASIDE_S: Final = 1.0  # time limit of ``set_aside``, because the other shards wait during its call
_TLS_HINTS: Final = {
    "CERTIFICATE_VERIFY_FAILED": "its certificate does not verify: give the file of its CA with &ca=FILE, and use "
    "the host name in the certificate",
    "WRONG_VERSION_NUMBER": "does not speak TLS: amqps:// needs the broker's TLS port, usually 5671",
}
_FAILURES: Final = (AMQPError, OSError, AssertionError)


class AmqpSource:
    """Messages from RabbitMQ. Implements ``Source`` and ``ShardQueues`` of ``receiver.sources``.

    Args:
        url: ``amqp://user@host:5672[,host:port ...]/vhost?queue=NAME&password_file=FILE``; hosts are tried in turn.
        name: name of the worker. Its hash selects the first host, so that workers are spread over a cluster.

    Raises:
        UsageError: the URL is invalid, or a file that it names cannot be read.
    """

    def __init__(self, url: SplitResult, name: str) -> None:
        login = login_of(url, ["queue"])
        self._queue_name = login.options.get("queue", "meterhouse")
        self._again_name = f"{self._queue_name}.again"
        self._hosts = [
            pika.ConnectionParameters(
                host, port, unquote(url.path[1:]) or "/",
                pika.PlainCredentials(login.user or "guest", login.password or "guest"),
                heartbeat=HEARTBEAT_S, socket_timeout=5, stack_timeout=15, blocked_connection_timeout=BLOCKED_S,
                ssl_options=pika.SSLOptions(_tls(url, login.options), host) if url.scheme == "amqps" else None,
                client_properties={"connection_name": f"meterhouse-platform-{name}"},
            )
            for host, port in hosts_of(url, 5671 if url.scheme == "amqps" else 5672)
        ]  # fmt: skip
        self._next = crc32(name.encode())
        self._queue = deque[Message]()
        self._unsettled: set[int] = set()  # tags of unacknowledged deliveries
        self._connection: Any = None
        self._channel: Any = None
        self._cancelled = False
        self._shards: dict[int, str] = {}  # shard whose queue is read -> tag of its consumer; "" while not connected
        self._shard_names: set[str] = set()  # names of the queues in ``_shards``
        # Publishing uses a separate connection. If the broker is short of memory, it stops reading from connections
        # that publish, but it must still receive our acknowledgements.
        self._aside: Any = None
        self._aside_channel: Any = None
        self._generation = 0
        self._problem = "not connected yet"
        self._retry = Backoff(0.5, 15.0)
        self._retry_at = 0.0

    def take(self, most: int, wait_s: float) -> list[Message]:
        """Return up to ``most`` messages. Waits at most ``wait_s``."""
        until = time.monotonic() + wait_s
        while True:  # the loop runs at least once, so that a call with ``most`` 0 still serves heartbeats
            left_s = max(0.0, min(0.05, until - time.monotonic()))
            if self._connection is None and time.monotonic() >= self._retry_at:
                self._connect()
            if self._connection is None:
                time.sleep(left_s)
            else:
                self._serve(0.0 if len(self._queue) >= most else left_s)
            if len(self._queue) >= most or time.monotonic() >= until:
                break
        return [self._queue.popleft() for _ in range(min(most, len(self._queue)))]

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Acknowledge those messages that arrived over the current connection."""
        tags = {tag for generation, tag in (message.token for message in messages) if generation == self._generation}
        if not tags or self._channel is None:
            return
        newest = max(tags)
        at_once = all(tag in tags or tag > newest for tag in self._unsettled)
        try:
            if at_once:
                self._channel.basic_ack(newest, multiple=True)
            else:
                for tag in sorted(tags):
                    self._channel.basic_ack(tag)
        except _FAILURES as error:
            self._lost(error)
            return
        self._unsettled -= tags

    def problem(self) -> str:
        """Why there is no connection. "" while there is a connection."""
        return self._problem

    def close(self) -> None:
        """Disconnect. The broker returns unacknowledged messages to the queue."""
        for connection in (self._connection, self._aside):
            if connection is not None:
                with suppress(*_FAILURES):
                    connection.close()

    def set_aside(self, shard: int, messages: Sequence[Message]) -> list[Message]:
        """Move messages to the queue of their shard. Takes about a second at most.

        Returns the messages that may be acknowledged, because a majority of the nodes has confirmed them.
        """
        done: list[Message] = []
        until = time.monotonic() + ASIDE_S
        try:
            channel = self._aside_ready()
            name = self._shard_queue(channel, shard)
            for message in messages:
                if message.token[0] != self._generation:
                    # the message is from an earlier connection, so the broker delivers it again anyway
                    done.append(message)
                    continue
                properties = pika.BasicProperties(
                    content_type=message.content_type or None, delivery_mode=2, headers={"topic": message.topic}
                )
                # the call waits for the broker's confirmation
                channel.basic_publish("", name, message.body, properties, mandatory=True)
                done.append(message)
                if time.monotonic() > until:
                    break
        except _FAILURES as error:
            log.warning("queue of database %d: %s", shard + 1, clean_text(_first(error), 200))
            self._leave_aside()
        return done

    def deliver_shard(self, shard: int, wanted: bool) -> None:
        """Start or stop deliveries from the queue of a shard."""
        tag = self._shards.get(shard)
        if not wanted and tag is not None:
            del self._shards[shard]
            if tag and self._channel is not None:
                try:
                    self._channel.basic_cancel(tag)
                except _FAILURES as error:
                    self._lost(error)
        elif wanted and tag is None:
            self._shards[shard] = ""
            if self._channel is not None:
                try:
                    self._consume_shard(self._channel, shard)
                except _FAILURES as error:
                    self._lost(error)

    def _serve(self, wait_s: float) -> None:
        try:
            self._connection.process_data_events(wait_s)
            if self._cancelled:
                raise AMQPError("the broker cancelled the consumer: the queue was deleted, or its nodes are down")
            if self._channel is not None and not self._channel.is_open:
                raise AMQPError("the broker closed the channel, as it does after its consumer_timeout")
        except _FAILURES as error:
            self._lost(error)

    def _connect(self) -> None:
        self._retry_at = time.monotonic() + self._retry.next_s()
        parameters = self._hosts[self._next % len(self._hosts)]
        self._next += 1
        connection = None
        try:
            connection = pika.BlockingConnection(parameters)
            channel = connection.channel()
            channel.basic_qos(prefetch_count=WINDOW)
            channel.queue_declare(self._again_name, durable=True, arguments=ARGUMENTS)
            channel.queue_declare(self._queue_name, durable=True, arguments=ARGUMENTS | {
                "x-delivery-limit": RETURNS, "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": self._again_name, "x-dead-letter-strategy": "at-least-once",
            })  # fmt: skip
            for binding in BINDINGS:
                channel.queue_bind(self._queue_name, EXCHANGE, binding)
            channel.add_on_cancel_callback(self._on_cancel)
            channel.basic_consume(self._queue_name, self._on_message)
            channel.basic_qos(prefetch_count=SIDE_WINDOW)
            channel.basic_consume(self._again_name, self._on_message)
            for shard in self._shards:
                self._consume_shard(channel, shard)
        except _FAILURES as error:
            if connection is not None:
                with suppress(*_FAILURES):
                    connection.close()
            self._lost(error)
            hint = ". Delete that queue, or choose another with ?queue=" if _code(error) == 406 else ""
            self._problem = f"{parameters.host}:{parameters.port}: {self._problem}{hint}"
            return
        self._connection, self._channel, self._problem = connection, channel, ""
        self._retry.reset()

    def _consume_shard(self, channel: Any, shard: int) -> None:
        self._shards[shard] = channel.basic_consume(self._shard_queue(channel, shard), self._on_message)

    def _shard_queue(self, channel: Any, shard: int) -> str:
        name = f"{self._queue_name}.shard{shard + 1}"
        channel.queue_declare(name, durable=True, arguments=ARGUMENTS)
        self._shard_names.add(name)
        return name

    def _aside_ready(self) -> Any:
        if self._aside_channel is None or not self._aside_channel.is_open:
            self._leave_aside()
            self._aside = pika.BlockingConnection(self._hosts[(self._next - 1) % len(self._hosts)])
            self._aside_channel = self._aside.channel()
            self._aside_channel.confirm_delivery()
        return self._aside_channel

    def _leave_aside(self) -> None:
        if self._aside is not None:
            with suppress(*_FAILURES):
                self._aside.close()
        self._aside = self._aside_channel = None

    def _lost(self, error: Exception) -> None:
        if self._connection is not None:
            with suppress(*_FAILURES):
                self._connection.close()
        self._connection = self._channel = None
        self._cancelled = False
        self._shards = dict.fromkeys(self._shards, "")
        self._problem = clean_text(_first(error), 300)
        self._generation += 1
        self._queue.clear()
        self._unsettled.clear()

    def _on_cancel(self, frame: Any) -> None:
        self._cancelled = True

    def _on_message(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        key = method.routing_key
        # if a key is not UTF-8, pika passes it as bytes
        text = key if isinstance(key, str) else key.decode("utf-8", "replace")
        headers = properties.headers or {}
        if text == self._again_name:
            topic = _first_key(headers).replace(".", "/")
        elif text in self._shard_names:
            topic = str(headers.get("topic", ""))
        else:
            topic = text.replace(".", "/")
        self._unsettled.add(method.delivery_tag)
        self._queue.append(Message(topic, body, (self._generation, method.delivery_tag), properties.content_type or ""))


def _first_key(headers: dict[str, Any]) -> str:
    """The original routing key of a message that was moved to ``NAME.again``. "" if its headers do not contain it."""
    try:
        key = headers["x-death"][-1]["routing-keys"][0]
    except (LookupError, TypeError):
        return ""
    return key if isinstance(key, str) else ""


def _tls(url: SplitResult, options: dict[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.get("ca"))
        if "certificate" in options:
            context.load_cert_chain(options["certificate"], options.get("key"))
    except (OSError, ValueError) as error:
        raise tls_error(url, options, error) from None
    return context


def _code(error: Exception) -> int:
    return int(getattr(error, "reply_code", 0))


def _first(error: Exception) -> str:
    """The first line of the broker's error text. If there is none, the first line of the system's error text.

    ``reply_text`` is read first, because the first argument of pika's exceptions is only a code, such as 406.
    """
    text = str(getattr(error, "reply_text", "") or "").strip()
    while not text and isinstance(inner := getattr(error, "exception", next(iter(error.args), None)), Exception):
        error = inner  # pika puts the original exception into another one
    for hint, kind in _TLS_HINTS.items():
        if hint in str(error):
            return kind
    text = text or str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
